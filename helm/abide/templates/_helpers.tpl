{{- define "abide.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "abide.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "abide.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "abide.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "abide.headless" -}}
{{- include "abide.fullname" . }}-cluster
{{- end }}

{{- define "abide.selector" -}}
app.kubernetes.io/name: {{ include "abide.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end }}

{{- define "abide.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "abide.labels" -}}
{{ include "abide.selector" . }}
{{ include "abide.commonLabels" . }}
{{- end }}

{{- define "abide.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "abide.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "abide.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* Disks that hold a write before it counts. */}}
{{- define "abide.replication" -}}
{{- if .Values.cluster.replication -}}
{{ .Values.cluster.replication }}
{{- else -}}
{{ ternary 2 1 (ge (int .Values.replicaCount) 3) }}
{{- end }}
{{- end }}

{{/* Node ports of all nodes, through the headless service. */}}
{{- define "abide.addresses" -}}
{{- $addresses := list }}
{{- range $i := until (int .Values.replicaCount) }}
{{- $addresses = append $addresses (printf "%s-%d.%s:5122" (include "abide.fullname" $) $i (include "abide.headless" $)) }}
{{- end }}
{{- $addresses | toJson }}
{{- end }}
