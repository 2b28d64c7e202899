//! The schema as one JSON document of the metadata plane. Nothing else knows its field names.

use std::collections::BTreeMap;
use std::time::Duration;

use abide_types::{DeploymentId, HandlerKind, ServiceKind, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kafka::{KafkaCluster, Subscription};
use crate::payload::{ContentTypeRule, InputRule, InputRules, OutputRule};
use crate::schema::{Deployment, Handler, HttpVersion, ProtocolType, Schema, ServiceRevision};
use crate::settings::{Defaults, OnMaxAttempts, Overrides, RetryOverrides};

/// The form that this version writes; it refuses what a later version wrote, lest it lose parts of it.
const FORMAT: u32 = 2;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A newer version of the engine wrote it.
    #[error("the schema has format {found}, this version reads up to {FORMAT}: upgrade this node")]
    Newer {
        /// The format it says it has.
        found: u32,
    },
    /// It is not what any version writes.
    #[error("the schema document is malformed")]
    Malformed(#[from] serde_json::Error),
    /// A value does not mean anything.
    #[error("the schema document has the {field} '{value}'")]
    BadValue {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: String,
    },
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    deployments: Vec<DeploymentDoc>,
    /// Since format 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kafka_clusters: Vec<KafkaClusterDoc>,
    /// Since format 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<SubscriptionDoc>,
}

#[derive(Serialize, Deserialize)]
struct KafkaClusterDoc {
    name: String,
    properties: BTreeMap<String, String>,
    created_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionDoc {
    id: String,
    cluster: String,
    topic: String,
    service: String,
    handler: String,
    options: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct DeploymentDoc {
    id: String,
    uri: String,
    protocol_type: ProtocolTypeDoc,
    http_version: HttpVersionDoc,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    additional_headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    created_at_ms: u64,
    min_protocol_version: u32,
    max_protocol_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sdk_version: Option<String>,
    services: Vec<ServiceDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProtocolTypeDoc {
    BidiStream,
    RequestResponse,
}

#[derive(Serialize, Deserialize)]
enum HttpVersionDoc {
    #[serde(rename = "1.1")]
    Http11,
    #[serde(rename = "2")]
    Http2,
}

#[derive(Serialize, Deserialize)]
struct ServiceDoc {
    name: String,
    kind: ServiceKindDoc,
    revision: u32,
    public: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    documentation: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    overrides: OverridesDoc,
    handlers: Vec<HandlerDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ServiceKindDoc {
    Service,
    VirtualObject,
    Workflow,
}

#[derive(Serialize, Deserialize)]
struct HandlerDoc {
    name: String,
    kind: HandlerKindDoc,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    documentation: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    overrides: OverridesDoc,
    input: Vec<InputRuleDoc>,
    output: OutputDoc,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HandlerKindDoc {
    Plain,
    Exclusive,
    Shared,
    Workflow,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum InputRuleDoc {
    Empty,
    ContentType(String),
    Json { content_type: String, schema: Value },
}

#[derive(Serialize, Deserialize)]
struct OutputDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default)]
    set_if_empty: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnMaxAttemptsDoc {
    Pause,
    Kill,
}

#[derive(Serialize, Deserialize)]
struct OverridesDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inactivity_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abort_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_retention_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workflow_completion_retention_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    journal_retention_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enable_lazy_state: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_initial_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_max_interval_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_on_max_attempts: Option<OnMaxAttemptsDoc>,
}

impl Schema {
    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        let kafka = self.kafka();
        // A node of the version before can go on for as long as there is nothing that it would lose.
        let is_new = !kafka.clusters.is_empty() || !kafka.subscriptions.is_empty();
        let document = Document {
            format: if is_new { FORMAT } else { 1 },
            deployments: self.deployments().map(DeploymentDoc::from).collect(),
            // Not those of the configuration file.
            kafka_clusters: kafka.clusters.values().map(Into::into).collect(),
            subscriptions: self.subscriptions().map(Into::into).collect(),
        };
        serde_json::to_vec(&document).expect("strings, numbers and maps with string keys")
    }

    /// Reads a document. An empty one is an empty schema, as before the first registration.
    pub fn from_json(json: &[u8], defaults: Defaults) -> Result<Self, DocumentError> {
        if json.is_empty() {
            return Ok(Self::new([], defaults));
        }
        let FormatOnly { format } = serde_json::from_slice(json)?;
        if format > FORMAT {
            return Err(DocumentError::Newer { found: format });
        }
        let document: Document = serde_json::from_slice(json)?;
        let deployments: Vec<_> = document
            .deployments
            .into_iter()
            .map(Deployment::try_from)
            .collect::<Result<_, _>>()?;
        let clusters = document.kafka_clusters.into_iter().map(KafkaCluster::from);
        let clusters = clusters.map(|cluster| (cluster.name.clone(), cluster));
        let subscriptions = document.subscriptions.into_iter();
        let subscriptions = subscriptions.map(|doc| {
            let subscription = Subscription::try_from(doc)?;
            Ok((subscription.id, subscription))
        });
        let subscriptions = subscriptions.collect::<Result<_, DocumentError>>()?;
        Ok(Self::new(deployments, defaults).change_kafka(|kafka| {
            kafka.clusters = clusters.collect();
            kafka.subscriptions = subscriptions;
        }))
    }
}

impl From<&KafkaCluster> for KafkaClusterDoc {
    fn from(cluster: &KafkaCluster) -> Self {
        Self {
            name: cluster.name.clone(),
            properties: cluster.properties.clone(),
            created_at_ms: cluster.created_at.0,
        }
    }
}

impl From<KafkaClusterDoc> for KafkaCluster {
    fn from(doc: KafkaClusterDoc) -> Self {
        Self {
            name: doc.name,
            properties: doc.properties,
            created_at: Timestamp(doc.created_at_ms),
        }
    }
}

impl From<&Subscription> for SubscriptionDoc {
    fn from(subscription: &Subscription) -> Self {
        Self {
            id: subscription.id.to_string(),
            cluster: subscription.cluster.clone(),
            topic: subscription.topic.clone(),
            service: subscription.service.clone(),
            handler: subscription.handler.clone(),
            options: subscription.options.clone(),
        }
    }
}

impl TryFrom<SubscriptionDoc> for Subscription {
    type Error = DocumentError;

    fn try_from(doc: SubscriptionDoc) -> Result<Self, DocumentError> {
        Ok(Self {
            id: doc
                .id
                .parse::<SubscriptionId>()
                .map_err(|_| DocumentError::BadValue {
                    field: "subscription id",
                    value: doc.id,
                })?,
            cluster: doc.cluster,
            topic: doc.topic,
            service: doc.service,
            handler: doc.handler,
            options: doc.options,
        })
    }
}

impl From<&Deployment> for DeploymentDoc {
    fn from(deployment: &Deployment) -> Self {
        Self {
            id: deployment.id.to_string(),
            uri: deployment.uri.clone(),
            protocol_type: match deployment.protocol_type {
                ProtocolType::BidiStream => ProtocolTypeDoc::BidiStream,
                ProtocolType::RequestResponse => ProtocolTypeDoc::RequestResponse,
            },
            http_version: match deployment.http_version {
                HttpVersion::Http11 => HttpVersionDoc::Http11,
                HttpVersion::Http2 => HttpVersionDoc::Http2,
            },
            additional_headers: deployment.additional_headers.clone(),
            metadata: deployment.metadata.clone(),
            created_at_ms: deployment.created_at.0,
            min_protocol_version: deployment.min_protocol_version,
            max_protocol_version: deployment.max_protocol_version,
            sdk_version: deployment.sdk_version.clone(),
            services: deployment.services.values().map(ServiceDoc::from).collect(),
        }
    }
}

impl TryFrom<DeploymentDoc> for Deployment {
    type Error = DocumentError;

    fn try_from(doc: DeploymentDoc) -> Result<Self, DocumentError> {
        let services = doc.services.into_iter().map(ServiceRevision::try_from);
        Ok(Self {
            id: doc
                .id
                .parse::<DeploymentId>()
                .map_err(|_| DocumentError::BadValue {
                    field: "deployment id",
                    value: doc.id,
                })?,
            uri: doc.uri,
            protocol_type: match doc.protocol_type {
                ProtocolTypeDoc::BidiStream => ProtocolType::BidiStream,
                ProtocolTypeDoc::RequestResponse => ProtocolType::RequestResponse,
            },
            http_version: match doc.http_version {
                HttpVersionDoc::Http11 => HttpVersion::Http11,
                HttpVersionDoc::Http2 => HttpVersion::Http2,
            },
            additional_headers: doc.additional_headers,
            metadata: doc.metadata,
            created_at: Timestamp(doc.created_at_ms),
            min_protocol_version: doc.min_protocol_version,
            max_protocol_version: doc.max_protocol_version,
            sdk_version: doc.sdk_version,
            services: services
                .map(|service| service.map(|service| (service.name.clone(), service)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ServiceRevision> for ServiceDoc {
    fn from(service: &ServiceRevision) -> Self {
        Self {
            name: service.name.clone(),
            kind: match service.kind {
                ServiceKind::Service => ServiceKindDoc::Service,
                ServiceKind::VirtualObject => ServiceKindDoc::VirtualObject,
                ServiceKind::Workflow => ServiceKindDoc::Workflow,
            },
            revision: service.revision,
            public: service.public,
            documentation: service.documentation.clone(),
            metadata: service.metadata.clone(),
            overrides: (&service.overrides).into(),
            handlers: service.handlers.values().map(HandlerDoc::from).collect(),
        }
    }
}

impl TryFrom<ServiceDoc> for ServiceRevision {
    type Error = DocumentError;

    fn try_from(doc: ServiceDoc) -> Result<Self, DocumentError> {
        let handlers = doc.handlers.into_iter().map(Handler::try_from);
        Ok(Self {
            name: doc.name,
            kind: match doc.kind {
                ServiceKindDoc::Service => ServiceKind::Service,
                ServiceKindDoc::VirtualObject => ServiceKind::VirtualObject,
                ServiceKindDoc::Workflow => ServiceKind::Workflow,
            },
            revision: doc.revision,
            public: doc.public,
            documentation: doc.documentation,
            metadata: doc.metadata,
            overrides: doc.overrides.into(),
            handlers: handlers
                .map(|handler| handler.map(|handler| (handler.name.clone(), handler)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Handler> for HandlerDoc {
    fn from(handler: &Handler) -> Self {
        Self {
            name: handler.name.clone(),
            kind: match handler.kind {
                HandlerKind::Plain => HandlerKindDoc::Plain,
                HandlerKind::Exclusive => HandlerKindDoc::Exclusive,
                HandlerKind::Shared => HandlerKindDoc::Shared,
                HandlerKind::Workflow => HandlerKindDoc::Workflow,
            },
            public: handler.public,
            documentation: handler.documentation.clone(),
            metadata: handler.metadata.clone(),
            overrides: (&handler.overrides).into(),
            input: handler
                .input
                .rules()
                .iter()
                .map(InputRuleDoc::from)
                .collect(),
            output: OutputDoc {
                content_type: handler.output.content_type.clone(),
                set_if_empty: handler.output.set_if_empty,
                schema: handler.output.schema.clone(),
            },
        }
    }
}

impl TryFrom<HandlerDoc> for Handler {
    type Error = DocumentError;

    fn try_from(doc: HandlerDoc) -> Result<Self, DocumentError> {
        let rules = doc
            .input
            .into_iter()
            .map(InputRule::try_from)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: doc.name,
            kind: match doc.kind {
                HandlerKindDoc::Plain => HandlerKind::Plain,
                HandlerKindDoc::Exclusive => HandlerKind::Exclusive,
                HandlerKindDoc::Shared => HandlerKind::Shared,
                HandlerKindDoc::Workflow => HandlerKind::Workflow,
            },
            public: doc.public,
            documentation: doc.documentation,
            metadata: doc.metadata,
            overrides: doc.overrides.into(),
            input: InputRules::from_rules(rules),
            output: OutputRule {
                content_type: doc.output.content_type,
                set_if_empty: doc.output.set_if_empty,
                schema: doc.output.schema,
            },
        })
    }
}

impl From<&InputRule> for InputRuleDoc {
    fn from(rule: &InputRule) -> Self {
        match rule {
            InputRule::Empty => Self::Empty,
            InputRule::ContentType(rule) => Self::ContentType(rule.to_string()),
            InputRule::Json {
                content_type,
                schema,
            } => Self::Json {
                content_type: content_type.to_string(),
                schema: schema.clone(),
            },
        }
    }
}

impl TryFrom<InputRuleDoc> for InputRule {
    type Error = DocumentError;

    fn try_from(doc: InputRuleDoc) -> Result<Self, DocumentError> {
        let rule = |text: String| {
            text.parse::<ContentTypeRule>()
                .map_err(|_| DocumentError::BadValue {
                    field: "content type",
                    value: text,
                })
        };
        Ok(match doc {
            InputRuleDoc::Empty => Self::Empty,
            InputRuleDoc::ContentType(text) => Self::ContentType(rule(text)?),
            InputRuleDoc::Json {
                content_type,
                schema,
            } => Self::Json {
                content_type: rule(content_type)?,
                schema,
            },
        })
    }
}

fn millis(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl From<&Overrides> for OverridesDoc {
    fn from(overrides: &Overrides) -> Self {
        let retry = &overrides.retry;
        Self {
            inactivity_timeout_ms: millis(overrides.inactivity_timeout),
            abort_timeout_ms: millis(overrides.abort_timeout),
            idempotency_retention_ms: millis(overrides.idempotency_retention),
            workflow_completion_retention_ms: millis(overrides.workflow_completion_retention),
            journal_retention_ms: millis(overrides.journal_retention),
            enable_lazy_state: overrides.enable_lazy_state,
            retry_initial_ms: millis(retry.initial),
            retry_factor: retry.factor,
            retry_max_interval_ms: millis(retry.max_interval),
            retry_max_attempts: retry.max_attempts,
            retry_on_max_attempts: retry.on_max_attempts.map(|choice| match choice {
                OnMaxAttempts::Pause => OnMaxAttemptsDoc::Pause,
                OnMaxAttempts::Kill => OnMaxAttemptsDoc::Kill,
            }),
        }
    }
}

impl From<OverridesDoc> for Overrides {
    fn from(doc: OverridesDoc) -> Self {
        let duration = |millis: Option<u64>| millis.map(Duration::from_millis);
        Self {
            inactivity_timeout: duration(doc.inactivity_timeout_ms),
            abort_timeout: duration(doc.abort_timeout_ms),
            idempotency_retention: duration(doc.idempotency_retention_ms),
            workflow_completion_retention: duration(doc.workflow_completion_retention_ms),
            journal_retention: duration(doc.journal_retention_ms),
            enable_lazy_state: doc.enable_lazy_state,
            retry: RetryOverrides {
                initial: duration(doc.retry_initial_ms),
                factor: doc.retry_factor,
                max_interval: duration(doc.retry_max_interval_ms),
                max_attempts: doc.retry_max_attempts,
                on_max_attempts: doc.retry_on_max_attempts.map(|choice| match choice {
                    OnMaxAttemptsDoc::Pause => OnMaxAttempts::Pause,
                    OnMaxAttemptsDoc::Kill => OnMaxAttempts::Kill,
                }),
            },
        }
    }
}
