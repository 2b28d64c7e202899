//! The manifest's JSON and what is checked of it.

use std::collections::BTreeMap;
use std::time::Duration;

use abide_types::{HandlerKind, ServiceKind};
use serde::Deserialize;

use super::{
    HandlerManifest, InputManifest, Manifest, ManifestError, OnMaxAttempts, OutputManifest,
    ProtocolMode, ServiceManifest, Settings, is_handler_name, is_service_name,
};
use crate::version::ProtocolVersion;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Endpoint {
    protocol_mode: Option<Mode>,
    pub(super) min_protocol_version: u64,
    pub(super) max_protocol_version: u64,
    #[serde(rename = "lambdaCompression")]
    _lambda_compression: Option<LambdaCompression>,
    services: Vec<Service>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    BidiStream,
    RequestResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LambdaCompression {
    Zstd,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Service {
    name: String,
    ty: ServiceType,
    handlers: Vec<Handler>,
    documentation: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    inactivity_timeout: Option<u64>,
    abort_timeout: Option<u64>,
    journal_retention: Option<u64>,
    idempotency_retention: Option<u64>,
    enable_lazy_state: Option<bool>,
    ingress_private: Option<bool>,
    retry_policy_initial_interval: Option<u64>,
    retry_policy_max_interval: Option<u64>,
    retry_policy_max_attempts: Option<u64>,
    retry_policy_exponentiation_factor: Option<f64>,
    retry_policy_on_max_attempts: Option<OnMaxAttemptsText>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ServiceType {
    Service,
    VirtualObject,
    Workflow,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Handler {
    name: String,
    ty: Option<HandlerType>,
    documentation: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    input: Option<Input>,
    output: Option<Output>,
    workflow_completion_retention: Option<u64>,
    inactivity_timeout: Option<u64>,
    abort_timeout: Option<u64>,
    journal_retention: Option<u64>,
    idempotency_retention: Option<u64>,
    enable_lazy_state: Option<bool>,
    ingress_private: Option<bool>,
    retry_policy_initial_interval: Option<u64>,
    retry_policy_max_interval: Option<u64>,
    retry_policy_max_attempts: Option<u64>,
    retry_policy_exponentiation_factor: Option<f64>,
    retry_policy_on_max_attempts: Option<OnMaxAttemptsText>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum HandlerType {
    Exclusive,
    Shared,
    Workflow,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Input {
    #[serde(default)]
    required: Option<bool>,
    content_type: Option<String>,
    json_schema: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Output {
    content_type: Option<String>,
    set_content_type_if_empty: Option<bool>,
    json_schema: Option<serde_json::Value>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OnMaxAttemptsText {
    Pause,
    Kill,
}

/// Both objects hold the same settings; `flatten` would cost the refusal of unknown fields.
macro_rules! settings {
    ($from:expr) => {
        Settings {
            inactivity_timeout: $from.inactivity_timeout.map(Duration::from_millis),
            abort_timeout: $from.abort_timeout.map(Duration::from_millis),
            journal_retention: $from.journal_retention.map(Duration::from_millis),
            idempotency_retention: $from.idempotency_retention.map(Duration::from_millis),
            enable_lazy_state: $from.enable_lazy_state,
            ingress_private: $from.ingress_private,
            retry_initial_interval: $from
                .retry_policy_initial_interval
                .map(Duration::from_millis),
            retry_max_interval: $from.retry_policy_max_interval.map(Duration::from_millis),
            retry_max_attempts: $from
                .retry_policy_max_attempts
                .map(|attempts| attempts.max(1)),
            retry_exponentiation_factor: $from.retry_policy_exponentiation_factor,
            retry_on_max_attempts: $from.retry_policy_on_max_attempts.map(|then| match then {
                OnMaxAttemptsText::Pause => OnMaxAttempts::Pause,
                OnMaxAttemptsText::Kill => OnMaxAttempts::Kill,
            }),
        }
    };
}

impl Endpoint {
    /// `undecodable` makes the error of what the JSON's schema forbids.
    pub(super) fn into_manifest(
        self,
        undecodable: impl Fn(String) -> ManifestError,
    ) -> Result<Manifest, ManifestError> {
        let (min, max) = self.protocol_range(&undecodable)?;
        let protocol_mode = match self.protocol_mode {
            Some(Mode::BidiStream) => ProtocolMode::BidiStream,
            Some(Mode::RequestResponse) => ProtocolMode::RequestResponse,
            None => return Err(ManifestError::BadResponse("protocolMode is missing".into())),
        };
        // Of services with one name the last stands.
        let mut services: Vec<ServiceManifest> = Vec::with_capacity(self.services.len());
        let mut places = BTreeMap::new();
        for service in self.services {
            let service = service.into_manifest(&undecodable)?;
            match places.get(&service.name) {
                Some(place) => services[*place] = service,
                None => {
                    places.insert(service.name.clone(), services.len());
                    services.push(service);
                }
            }
        }
        Ok(Manifest {
            protocol_mode,
            protocol_min: min,
            protocol_max: max,
            services,
        })
    }

    fn protocol_range(
        &self,
        undecodable: &impl Fn(String) -> ManifestError,
    ) -> Result<(u32, u32), ManifestError> {
        let (min, max) = (self.min_protocol_version, self.max_protocol_version);
        if min == 0 || max == 0 {
            return Err(undecodable(
                "minProtocolVersion and maxProtocolVersion must be at least 1".into(),
            ));
        }
        let number = |name, value: u64| {
            i32::try_from(value).map(i32::cast_unsigned).map_err(|_| {
                ManifestError::BadResponse(format!("{name} {value} is above {}", i32::MAX))
            })
        };
        let min = number("minProtocolVersion", min)?;
        let max = number("maxProtocolVersion", max)?;
        if min > max {
            return Err(ManifestError::BadResponse(format!(
                "minProtocolVersion {min} is above maxProtocolVersion {max}"
            )));
        }
        match ProtocolVersion::choose(min, max) {
            Some(_) => Ok((min, max)),
            None => Err(ManifestError::Versions { min, max }),
        }
    }
}

impl Service {
    fn into_manifest(
        self,
        undecodable: &impl Fn(String) -> ManifestError,
    ) -> Result<ServiceManifest, ManifestError> {
        if !is_service_name(&self.name) {
            return Err(undecodable(format!(
                "'{}' is no service name: letters, digits, '.', '_' and '-', beginning with a letter",
                self.name
            )));
        }
        let lower = self.name.to_ascii_lowercase();
        if lower.starts_with("restate") || lower == "openapi" {
            return Err(ManifestError::ReservedName(self.name));
        }
        let settings = settings!(self);
        check_factor(&settings).map_err(undecodable)?;
        let kind = match self.ty {
            ServiceType::Service => ServiceKind::Service,
            ServiceType::VirtualObject => ServiceKind::VirtualObject,
            ServiceType::Workflow => ServiceKind::Workflow,
        };
        // Of handlers with one name the last stands.
        let mut handlers: Vec<HandlerManifest> = Vec::with_capacity(self.handlers.len());
        let mut places = BTreeMap::new();
        for handler in self.handlers {
            let handler = handler.into_manifest(&self.name, kind, &settings, undecodable)?;
            match places.get(&handler.name) {
                Some(place) => handlers[*place] = handler,
                None => {
                    places.insert(handler.name.clone(), handlers.len());
                    handlers.push(handler);
                }
            }
        }
        Ok(ServiceManifest {
            name: self.name,
            kind,
            handlers,
            documentation: self.documentation,
            metadata: self.metadata.unwrap_or_default(),
            settings,
        })
    }
}

impl Handler {
    fn into_manifest(
        self,
        service: &str,
        service_kind: ServiceKind,
        service_settings: &Settings,
        undecodable: &impl Fn(String) -> ManifestError,
    ) -> Result<HandlerManifest, ManifestError> {
        if !is_handler_name(&self.name) {
            return Err(undecodable(format!(
                "'{}' is no handler name: letters, digits and '_', beginning with a letter",
                self.name
            )));
        }
        let settings = settings!(self);
        check_factor(&settings).map_err(undecodable)?;
        let refuse = |reason| ManifestError::Setting {
            service: service.to_owned(),
            handler: self.name.clone(),
            reason,
        };
        let kind = handler_kind(service_kind, self.ty).map_err(refuse)?;
        if kind == HandlerKind::Workflow && settings.idempotency_retention.is_some() {
            return Err(refuse(
                "idempotencyRetention cannot be set on a workflow handler",
            ));
        }
        if kind != HandlerKind::Workflow && self.workflow_completion_retention.is_some() {
            return Err(refuse(
                "workflowCompletionRetention can only be set on a workflow handler",
            ));
        }
        if service_settings.ingress_private == Some(true) && settings.ingress_private == Some(false)
        {
            return Err(refuse(
                "ingressPrivate cannot be false while the service is private",
            ));
        }
        Ok(HandlerManifest {
            kind,
            documentation: self.documentation,
            metadata: self.metadata.unwrap_or_default(),
            input: self.input.map(|input| InputManifest {
                required: input.required.unwrap_or_default(),
                content_type: input.content_type,
                json_schema: input.json_schema,
            }),
            output: self.output.map(|output| OutputManifest {
                content_type: output.content_type,
                set_content_type_if_empty: output.set_content_type_if_empty.unwrap_or_default(),
                json_schema: output.json_schema,
            }),
            workflow_completion_retention: self
                .workflow_completion_retention
                .map(Duration::from_millis),
            settings,
            name: self.name,
        })
    }
}

fn handler_kind(
    service: ServiceKind,
    handler: Option<HandlerType>,
) -> Result<HandlerKind, &'static str> {
    match (service, handler) {
        (ServiceKind::Service, None | Some(HandlerType::Shared)) => Ok(HandlerKind::Plain),
        (ServiceKind::Service, Some(HandlerType::Exclusive)) => {
            Err("a plain service cannot have an EXCLUSIVE handler")
        }
        (ServiceKind::Service, Some(HandlerType::Workflow)) => {
            Err("a plain service cannot have a WORKFLOW handler")
        }
        (ServiceKind::VirtualObject, None | Some(HandlerType::Exclusive)) => {
            Ok(HandlerKind::Exclusive)
        }
        (ServiceKind::VirtualObject, Some(HandlerType::Shared)) => Ok(HandlerKind::Shared),
        (ServiceKind::VirtualObject, Some(HandlerType::Workflow)) => {
            Err("a virtual object cannot have a WORKFLOW handler")
        }
        // The schema's text says workflow; the endpoints that leave it out mean shared.
        (ServiceKind::Workflow, None | Some(HandlerType::Shared)) => Ok(HandlerKind::Shared),
        (ServiceKind::Workflow, Some(HandlerType::Workflow)) => Ok(HandlerKind::Workflow),
        (ServiceKind::Workflow, Some(HandlerType::Exclusive)) => {
            Err("a workflow cannot have an EXCLUSIVE handler")
        }
    }
}

/// A delay must be a number that does not shrink to nothing.
fn check_factor(settings: &Settings) -> Result<(), String> {
    match settings.retry_exponentiation_factor {
        Some(factor) if !factor.is_finite() || factor < 0.0 => Err(format!(
            "retryPolicyExponentiationFactor {factor} must be a positive number"
        )),
        _ => Ok(()),
    }
}
