//! The JSON that clients get. Field names and order are the interface (admin reference, sections 5, 6 and 8).

use std::collections::BTreeMap;
use std::time::Duration;

use abide_processor::api::{InvocationInfo, Outcome};
use abide_schema::{
    Defaults, Deployment, Handler, HttpVersion, Note, OnMaxAttempts, ProtocolType, RetryOverrides,
    RetryPolicy, Schema, ServiceRevision, ServiceView, duration,
};
use abide_types::{HandlerKind, ServiceKind, Timestamp};
use serde::Serialize;
use serde_json::Value;

/// A list under its name, as every listing is.
pub(crate) fn listing<T: Serialize>(name: &'static str, items: Vec<T>) -> impl Serialize {
    BTreeMap::from([(name, items)])
}

/// UTC with nine fractional digits.
pub(crate) fn time(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.9}")
}

fn is_empty(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

/// Something to know about what is shown.
#[derive(Serialize)]
struct NoteBody {
    code: &'static str,
    message: String,
}

fn notes(notes: Vec<Note>) -> Vec<NoteBody> {
    let notes = notes.into_iter();
    notes
        .map(|note| NoteBody {
            code: note.code().as_str(),
            message: note.to_string(),
        })
        .collect()
}

/// A deployment; `S` is a service in full or in short.
#[derive(Serialize)]
pub(crate) struct DeploymentBody<'a, S> {
    id: String,
    uri: &'a str,
    protocol_type: &'static str,
    http_version: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    additional_headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_empty")]
    metadata: &'a BTreeMap<String, String>,
    created_at: String,
    min_protocol_version: u32,
    max_protocol_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sdk_version: Option<&'a str>,
    services: Vec<S>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    info: Vec<NoteBody>,
}

impl<'a, S> DeploymentBody<'a, S> {
    fn new(deployment: &'a Deployment, services: Vec<S>) -> Self {
        Self {
            id: deployment.id.to_string(),
            uri: &deployment.uri,
            protocol_type: match deployment.protocol_type {
                ProtocolType::BidiStream => "BidiStream",
                ProtocolType::RequestResponse => "RequestResponse",
            },
            http_version: match deployment.http_version {
                HttpVersion::Http11 => "HTTP/1.1",
                HttpVersion::Http2 => "HTTP/2.0",
            },
            additional_headers: &deployment.additional_headers,
            metadata: &deployment.metadata,
            created_at: time(deployment.created_at),
            min_protocol_version: deployment.min_protocol_version,
            max_protocol_version: deployment.max_protocol_version,
            sdk_version: deployment.sdk_version.as_deref(),
            services,
            info: notes(deployment.notes()),
        }
    }
}

/// A service in short.
#[derive(Serialize)]
pub(crate) struct ServiceName<'a> {
    name: &'a str,
    revision: u32,
}

/// A deployment in a listing.
pub(crate) fn deployment_in_short(deployment: &Deployment) -> DeploymentBody<'_, ServiceName<'_>> {
    let services = deployment.services.values();
    let services = services.map(|service| ServiceName {
        name: &service.name,
        revision: service.revision,
    });
    DeploymentBody::new(deployment, services.collect())
}

/// A deployment with its services in full.
pub(crate) fn deployment<'a>(
    schema: &'a Schema,
    deployment: &'a Deployment,
) -> DeploymentBody<'a, ServiceBody<'a>> {
    DeploymentBody::new(deployment, services_of(schema, deployment))
}

fn services_of<'a>(schema: &'a Schema, deployment: &'a Deployment) -> Vec<ServiceBody<'a>> {
    schema
        .services_of(deployment.id)
        .filter_map(|view| Some(ServiceBody::new(view, Offer::of(schema, deployment, view)?)))
        .collect()
}

/// The answer to a registration.
#[derive(Serialize)]
pub(crate) struct RegisteredBody<'a> {
    id: String,
    services: Vec<ServiceBody<'a>>,
    min_protocol_version: u32,
    max_protocol_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sdk_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    info: Vec<NoteBody>,
}

impl<'a> RegisteredBody<'a> {
    pub(crate) fn new(schema: &'a Schema, deployment: &'a Deployment) -> Self {
        Self {
            id: deployment.id.to_string(),
            services: services_of(schema, deployment),
            min_protocol_version: deployment.min_protocol_version,
            max_protocol_version: deployment.max_protocol_version,
            sdk_version: deployment.sdk_version.as_deref(),
            info: notes(deployment.notes()),
        }
    }
}

/// A service, who offers it, and what holds where it says nothing.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) service: &'a ServiceRevision,
    deployment: &'a Deployment,
    defaults: &'a Defaults,
}

impl<'a> Offer<'a> {
    /// The latest revision of a service.
    pub(crate) fn latest(schema: &'a Schema, name: &str) -> Option<Self> {
        let view = schema.service(name).ok()?;
        Self::of(schema, schema.deployment(view.deployment)?, view)
    }

    fn of(schema: &'a Schema, deployment: &'a Deployment, view: &ServiceView) -> Option<Self> {
        Some(Self {
            service: deployment.services.get(&view.name)?,
            deployment,
            defaults: schema.defaults(),
        })
    }

    /// Requests that are answered as a whole are never idle.
    fn is_never_idle(&self) -> bool {
        self.deployment.protocol_type == ProtocolType::RequestResponse
    }
}

/// A service in full.
#[derive(Serialize)]
pub(crate) struct ServiceBody<'a> {
    name: &'a str,
    ty: &'static str,
    handlers: Vec<HandlerBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    documentation: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    metadata: &'a BTreeMap<String, String>,
    deployment_id: String,
    revision: u32,
    public: bool,
    idempotency_retention: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_completion_retention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal_retention: Option<String>,
    inactivity_timeout: String,
    abort_timeout: String,
    enable_lazy_state: bool,
    retry_policy: RetryPolicyBody,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    info: Vec<NoteBody>,
}

impl<'a> ServiceBody<'a> {
    pub(crate) fn new(view: &'a ServiceView, offer: Offer<'a>) -> Self {
        let settings = &view.settings;
        let service = offer.service;
        // The SDK says it on the run handler, an operator on the service.
        let run = view
            .handlers()
            .find(|handler| handler.handler_kind == HandlerKind::Workflow)
            .map_or(settings, |handler| &handler.settings);
        Self {
            name: &view.name,
            ty: match view.kind {
                ServiceKind::Service => "Service",
                ServiceKind::VirtualObject => "VirtualObject",
                ServiceKind::Workflow => "Workflow",
            },
            handlers: service
                .handlers
                .values()
                .map(|handler| HandlerBody::new(offer, handler))
                .collect(),
            documentation: service.documentation.as_deref(),
            metadata: &service.metadata,
            deployment_id: view.deployment.to_string(),
            revision: view.revision,
            public: view.public,
            idempotency_retention: duration::format(settings.idempotency_retention),
            workflow_completion_retention: (view.kind == ServiceKind::Workflow)
                .then(|| duration::format(run.workflow_completion_retention)),
            // Off, unless the service itself says so.
            journal_retention: (!settings.journal_retention.is_zero()
                || service.overrides.journal_retention.is_some())
            .then(|| duration::format(settings.journal_retention)),
            inactivity_timeout: duration::format(match offer.is_never_idle() {
                true => Duration::ZERO,
                false => settings.inactivity_timeout,
            }),
            abort_timeout: duration::format(settings.abort_timeout),
            enable_lazy_state: settings.enable_lazy_state,
            retry_policy: RetryPolicyBody::from(&settings.retry),
            info: notes(service.notes(offer.deployment, offer.defaults)),
        }
    }
}

/// The latest revision of a service.
pub(crate) fn service<'a>(schema: &'a Schema, view: &'a ServiceView) -> Option<ServiceBody<'a>> {
    let deployment = schema.deployment(view.deployment)?;
    Some(ServiceBody::new(view, Offer::of(schema, deployment, view)?))
}

#[derive(Serialize)]
struct RetryPolicyBody {
    initial_interval: String,
    exponentiation_factor: f64,
    max_attempts: Option<u32>,
    max_interval: String,
    on_max_attempts: &'static str,
}

impl From<&RetryPolicy> for RetryPolicyBody {
    fn from(policy: &RetryPolicy) -> Self {
        Self {
            initial_interval: duration::format(policy.initial),
            exponentiation_factor: policy.factor,
            max_attempts: policy.max_attempts,
            max_interval: duration::format(policy.max_interval),
            on_max_attempts: on_max_attempts(policy.on_max_attempts),
        }
    }
}

fn on_max_attempts(choice: OnMaxAttempts) -> &'static str {
    match choice {
        OnMaxAttempts::Pause => "Pause",
        OnMaxAttempts::Kill => "Kill",
    }
}

/// A handler: of the settings, only those that it has of its own.
#[derive(Serialize)]
pub(crate) struct HandlerBody<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ty: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    documentation: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_retention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal_retention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inactivity_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enable_lazy_state: Option<bool>,
    public: bool,
    input_description: String,
    output_description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_json_schema: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_json_schema: Option<&'a Value>,
    retry_policy: RetryOverridesBody,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    info: Vec<NoteBody>,
}

impl<'a> HandlerBody<'a> {
    pub(crate) fn new(offer: Offer<'_>, handler: &'a Handler) -> Self {
        let overrides = handler.overrides.clamped(offer.defaults);
        let text = |value: Option<Duration>| value.map(duration::format);
        Self {
            name: &handler.name,
            ty: match handler.kind {
                HandlerKind::Plain => None,
                HandlerKind::Exclusive => Some("Exclusive"),
                HandlerKind::Shared => Some("Shared"),
                HandlerKind::Workflow => Some("Workflow"),
            },
            documentation: handler.documentation.as_deref(),
            metadata: &handler.metadata,
            idempotency_retention: text(overrides.idempotency_retention),
            journal_retention: text(overrides.journal_retention),
            inactivity_timeout: text(overrides.inactivity_timeout)
                .filter(|_| !offer.is_never_idle()),
            abort_timeout: text(overrides.abort_timeout),
            enable_lazy_state: overrides.enable_lazy_state,
            public: offer.service.public && handler.public.unwrap_or(true),
            input_description: handler.input.description(),
            output_description: handler.output.description(),
            input_json_schema: handler.input.json_schema(),
            output_json_schema: handler.output.schema.as_ref(),
            retry_policy: RetryOverridesBody::from(&overrides.retry),
            info: notes(handler.notes(offer.deployment, offer.defaults)),
        }
    }
}

#[derive(Serialize)]
struct RetryOverridesBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exponentiation_factor: Option<f64>,
    // Always there, for clients that take it to be.
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_max_attempts: Option<&'static str>,
}

impl From<&RetryOverrides> for RetryOverridesBody {
    fn from(retry: &RetryOverrides) -> Self {
        Self {
            initial_interval: retry.initial.map(duration::format),
            exponentiation_factor: retry.factor,
            max_attempts: retry.max_attempts,
            max_interval: retry.max_interval.map(duration::format),
            on_max_attempts: retry.on_max_attempts.map(on_max_attempts),
        }
    }
}

/// An invocation; fields are named as the columns of the SQL table.
#[derive(Serialize)]
pub(crate) struct InvocationBody {
    id: String,
    partition: u16,
    target: String,
    target_service_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_service_key: Option<String>,
    target_handler_name: String,
    target_service_ty: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    invoked_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    invoked_by_id: Option<String>,
    created_at: String,
    modified_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_start_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_deployment_id: Option<String>,
    journal_size: u32,
    retry_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure_error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_failure: Option<String>,
}

impl From<InvocationInfo> for InvocationBody {
    fn from(info: InvocationInfo) -> Self {
        let (last_failure, last_failure_error_code) = match info.last_failure {
            Some((code, message, documented)) => (Some(format!("[{code}] {message}")), documented),
            None => (None, None),
        };
        Self {
            id: info.id.to_string(),
            partition: info.partition.0,
            target: info.target.to_string(),
            target_service_ty: match info.target.service_kind {
                ServiceKind::Service => "service",
                ServiceKind::VirtualObject => "virtual_object",
                ServiceKind::Workflow => "workflow",
            },
            target_service_name: info.target.service,
            target_service_key: info.target.key,
            target_handler_name: info.target.handler,
            status: info.status.name(),
            idempotency_key: info.idempotency_key,
            invoked_by: if info.invoked_by.is_some() {
                "service"
            } else {
                "ingress"
            },
            invoked_by_id: info.invoked_by.map(|id| id.to_string()),
            created_at: time(info.created_at),
            modified_at: time(info.modified_at),
            scheduled_start_at: info.execute_at.map(time),
            pinned_deployment_id: info.deployment.map(|id| id.to_string()),
            journal_size: info.journal_length,
            retry_count: info.retry_count,
            last_failure,
            last_failure_error_code,
            completion_result: info.outcome.as_ref().map(|outcome| match outcome {
                Outcome::Value(_) => "success",
                Outcome::Failure(_) => "failure",
            }),
            completion_failure: match info.outcome {
                Some(Outcome::Failure(failure)) => Some(failure.to_string()),
                _ => None,
            },
        }
    }
}
