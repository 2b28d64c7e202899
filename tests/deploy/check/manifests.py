"""What no schema of Kubernetes sees: names that refer to nothing, selectors that select nothing, pods that run as root."""

import copy
import json

from refused import Refused

# The configuration's `shutdown-timeout`, unless changed.
SHUTDOWN_SECONDS = 60
# What is asked at the node port: a node that waits for others has started and is alive, and is not ready.
PROBES = {"startupProbe": "/health/live", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"}
# A busy machine may keep a node from answering for a while.
HUNG_SECONDS = 60


def check(objects):
    """Raises `Refused` at the first thing that does not fit."""
    pods = [(item, item["spec"]["template"]) for item in objects if item["kind"] in ("StatefulSet", "Job")]
    for item, template in pods:
        _pod(item, template["spec"], objects)
    for item in objects:
        where = f"{item['kind']} {item['metadata']['name']}"
        spec = item.get("spec", {})
        if item["kind"] == "StatefulSet":
            _stateful_set(where, item, objects)
        elif item["kind"] == "Service":
            ports = _ports_of(_selected(where, spec["selector"], pods))
            for port in spec["ports"]:
                _known(where, "targetPort", port["targetPort"], ports)
        elif item["kind"] == "PodDisruptionBudget":
            _selected(where, spec["selector"]["matchLabels"], pods)
        elif item["kind"] == "NetworkPolicy":
            ports = _ports_of(_selected(where, spec["podSelector"]["matchLabels"], pods))
            for rule in spec["ingress"]:
                for port in rule.get("ports", []):
                    _known(where, "port", port["port"], ports)
        elif item["kind"] == "Ingress":
            for rule in spec["rules"]:
                for path in rule["http"]["paths"]:
                    backend = path["backend"]["service"]
                    service = _named(where, "Service", backend["name"], objects)
                    _known(where, "port", backend["port"]["name"], {port["name"] for port in service["spec"]["ports"]})
        elif item["kind"] == "ServiceMonitor":
            _service_monitor(where, spec, objects)


def _stateful_set(where, item, objects):
    spec = item["spec"]
    template = spec["template"]
    if not _matches(spec["selector"]["matchLabels"], template["metadata"]["labels"]):
        raise Refused(f"{where}: its selector does not select its own pods")
    headless = _named(where, "Service", spec["serviceName"], objects)["spec"]
    if headless.get("clusterIP") != "None" or not headless.get("publishNotReadyAddresses"):
        raise Refused(f"{where}: {spec['serviceName']} is no headless service that publishes pods that are not ready")
    if spec.get("podManagementPolicy") != "Parallel":
        raise Refused(f"{where}: podManagementPolicy is not Parallel; a majority has to start together")
    pod = template["spec"]
    if pod.get("terminationGracePeriodSeconds", 30) <= SHUTDOWN_SECONDS:
        raise Refused(f"{where}: terminationGracePeriodSeconds cuts the handing over short, which may take 60 s")
    if pod.get("enableServiceLinks", True):
        raise Refused(f"{where}: enableServiceLinks would set variables that begin with ABIDE_")
    node = pod["containers"][0]
    for probe, path in PROBES.items():
        if probe not in node:
            raise Refused(f"{where}: {probe} is missing")
        asked = node[probe]["httpGet"]
        _known(where, probe, asked["port"], _ports_of([template]))
        if (asked["port"], asked["path"]) != ("node", path):
            raise Refused(f"{where}: {probe} asks {asked['path']} at {asked['port']}, not {path} at node")
    hung = node["livenessProbe"].get("periodSeconds", 10) * node["livenessProbe"].get("failureThreshold", 3)
    if hung < HUNG_SECONDS:
        raise Refused(f"{where}: livenessProbe kills a node that does not answer for {hung} s; a busy one may not")
    claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
    data = [mount["name"] for mount in node["volumeMounts"] if mount["mountPath"] == "/abide-data"]
    kept = claims + [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    if not data or data[0] not in kept:
        raise Refused(f"{where}: /abide-data is on no volume that outlives the pod")


def _pod(item, pod, objects):
    where = f"{item['kind']} {item['metadata']['name']}"
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        raise Refused(f"{where}: runAsNonRoot is not set")
    if pod.get("automountServiceAccountToken", True):
        raise Refused(f"{where}: pods get a token that they have no use for")
    for container in pod["containers"] + pod.get("initContainers", []):
        what = f"{where}, container {container['name']}"
        security = container.get("securityContext", {})
        if not security.get("readOnlyRootFilesystem") or security.get("allowPrivilegeEscalation", True):
            raise Refused(f"{what}: readOnlyRootFilesystem and allowPrivilegeEscalation false are wanted")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            raise Refused(f"{what}: there is no limit of memory")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        for mount in container.get("volumeMounts", []):
            _known(what, "volumeMount", mount["name"], volumes)
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            _named(where, "ConfigMap", volume["configMap"]["name"], objects)
    account = pod.get("serviceAccountName", "default")
    if account != "default":
        _named(where, "ServiceAccount", account, objects)


def _service_monitor(where, spec, objects):
    wanted = spec["selector"]["matchLabels"]
    services = [item for item in objects if item["kind"] == "Service" and _matches(wanted, item["metadata"]["labels"])]
    if len(services) != 1:
        raise Refused(f"{where}: selects {len(services)} services; with one, every node is asked once")
    ports = {port["name"] for port in services[0]["spec"]["ports"]}
    for endpoint in spec["endpoints"]:
        _known(where, "endpoint", endpoint["port"], ports)


def _matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def _selected(where, selector, pods):
    found = [template for _, template in pods if _matches(selector, template["metadata"]["labels"])]
    if not found:
        raise Refused(f"{where}: its selector selects no pod")
    return found


def _ports_of(templates):
    containers = [container for template in templates for container in template["spec"]["containers"]]
    return {port["name"] for container in containers for port in container.get("ports", [])}


def _known(where, what, name, names):
    if name not in names:
        raise Refused(f"{where}: {what} {name} does not exist; there are {sorted(names)}")


def _named(where, kind, name, objects):
    for item in objects:
        if item["kind"] == kind and item["metadata"]["name"] == name:
            return item
    raise Refused(f"{where}: there is no {kind} {name}")


def shape(objects):
    """The objects without what the plain manifests and the chart may say differently."""
    shapes = {}
    for item in copy.deepcopy(objects):
        _strip(item)
        name = (item["kind"], item["metadata"]["name"])
        item["metadata"].pop("annotations", None)
        # The chart fills in values where the plain file has comments.
        item.pop("data", None)
        for pod in _pod_specs(item):
            # The image's tag is kustomize's to say; ids of groups are the chart's values.
            for container in pod["containers"]:
                container["image"] = container["image"].partition(":")[0]
                container["env"] = [entry for entry in container.get("env", []) if "ABIDE_" not in entry["name"]
                                    and entry["name"] != "SERVICE_NAME"]
                container.get("args", []).sort()
            for key in ("runAsGroup", "fsGroup", "fsGroupChangePolicy"):
                pod.get("securityContext", {}).pop(key, None)
        if item["kind"] == "Service":
            item["spec"].setdefault("type", "ClusterIP")
        if item["kind"] == "Job":
            # A hook of Helm removes it; without Helm, time does.
            item["spec"].pop("ttlSecondsAfterFinished", None)
        shapes[name] = item
    return shapes


def _pod_specs(item):
    template = item.get("spec", {}).get("template")
    return [template["spec"]] if template else []


def _strip(value):
    if isinstance(value, dict):
        for key in ("labels", "matchLabels", "checksum/config"):
            value.pop(key, None)
        if "app.kubernetes.io/name" in value.get("selector", {}):
            value.pop("selector")
        for inner in list(value.values()):
            _strip(inner)
        if value.get("metadata") and "annotations" in value["metadata"] and "name" not in value["metadata"]:
            value["metadata"].pop("annotations")
    elif isinstance(value, list):
        for inner in value:
            _strip(inner)


def difference(plain, made):
    """What one has and the other has not, in few lines."""
    lines = []
    for name in sorted(plain.keys() | made.keys()):
        if name not in plain or name not in made:
            lines.append(f"{' '.join(name)} is in {'k8s/' if name in plain else 'the chart'} alone")
            continue
        _differ(" ".join(name), plain[name], made[name], lines)
    return "\n".join(lines)


def _differ(where, one, other, lines):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            _differ(f"{where}.{key}", one.get(key), other.get(key), lines)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other)):
            _differ(f"{where}[{index}]", *pair, lines)
    elif one != other:
        lines.append(f"{where}: {json.dumps(one)} in k8s/, {json.dumps(other)} in the chart")
