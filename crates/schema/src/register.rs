//! Every change of what is registered, as a function from one schema to the next (admin reference, sections 5 and 6).

use std::collections::BTreeMap;
use std::time::Duration;

use abide_service_protocol::ErrorCode;
use abide_service_protocol::manifest::{self, HandlerManifest, Manifest, ServiceManifest};
use abide_types::{DeploymentId, HandlerKind, ServiceKind, Timestamp};
use serde_json::Value;

use crate::payload::{ContentTypeRule, ContentTypeRuleError, InputRules, OutputRule};
use crate::schema::{Deployment, Handler, HttpVersion, ProtocolType, Schema, ServiceRevision};
use crate::settings::{OnMaxAttempts, Overrides, RetryOverrides};

/// An endpoint as discovery found it, and what the operator said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovered {
    /// Where it is; with a trailing slash when the path is empty.
    pub uri: String,
    /// Headers that go with discovery and every invocation; names in lower case.
    pub additional_headers: BTreeMap<String, String>,
    /// Free labels.
    pub metadata: BTreeMap<String, String>,
    /// What it spoke.
    pub http_version: HttpVersion,
    /// What it says it is.
    pub sdk_version: Option<String>,
    /// What it offers.
    pub manifest: Manifest,
}

/// How a registration is to be done.
#[derive(Debug, Clone)]
pub struct RegisterOptions<'a> {
    /// The id, should the deployment be new.
    pub id: DeploymentId,
    /// The time of the registration.
    pub at: Timestamp,
    /// Replace what is registered at the same address. Implies `breaking`.
    pub force: bool,
    /// Allow a service to change its kind.
    pub breaking: bool,
    /// Headers whose values tell deployments at one address apart.
    pub routing_headers: &'a [String],
}

/// What a registration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// There is a new deployment.
    Created(DeploymentId),
    /// The address was known and nothing was changed.
    Unchanged(DeploymentId),
    /// The address was known and its deployment was replaced.
    Replaced(DeploymentId),
}

impl Registered {
    /// The deployment at the address.
    pub const fn deployment(self) -> DeploymentId {
        match self {
            Self::Created(id) | Self::Unchanged(id) | Self::Replaced(id) => id,
        }
    }
}

/// Why an endpoint cannot be registered. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A service changed its kind, which would orphan its state.
    #[error(
        "detected a new service revision for '{0}' changing the service type from previous revision. Service type cannot be changed across revisions."
    )]
    KindChanged(String),
    /// A content type cannot be used.
    #[error("{service}/{handler}: {source}")]
    ContentType {
        /// The service.
        service: String,
        /// The handler.
        handler: String,
        /// What is wrong.
        source: ContentTypeRuleError,
    },
    /// A JSON Schema cannot be used.
    #[error("{service}/{handler}: bad JSON schema of the {part}: {reason}")]
    JsonSchema {
        /// The service.
        service: String,
        /// The handler.
        handler: String,
        /// Input or output.
        part: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl RegisterError {
    /// The documented code, where there is one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::KindChanged(_) => Some(ErrorCode::Meta0006),
            Self::ContentType { .. } | Self::JsonSchema { .. } => None,
        }
    }
}

/// Why a deployment cannot be updated in place. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateDeploymentError {
    /// There is none of this id.
    #[error("not found in the schema registry: deployment with id '{0}'")]
    NotFound(DeploymentId),
    /// Invocations in progress may be pinned to a version that the new endpoint does not speak.
    #[error(
        "the new endpoint speaks service protocol versions {found_min} to {found_max}, the deployment was registered with {min} to {max}: they must be the same"
    )]
    ProtocolRange {
        /// Lowest version as registered.
        min: u32,
        /// Highest version as registered.
        max: u32,
        /// Lowest version now.
        found_min: u32,
        /// Highest version now.
        found_max: u32,
    },
    /// What was discovered cannot be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

impl UpdateDeploymentError {
    /// The documented code, where there is one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::NotFound(_) => None,
            Self::ProtocolRange { .. } => Some(ErrorCode::Meta0016),
            Self::Register(error) => error.code(),
        }
    }
}

/// What an operator changes of a service; `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceChanges {
    /// Whether the ingress may call it.
    pub public: Option<bool>,
    /// How long the result of an idempotent call is kept.
    pub idempotency_retention: Option<Duration>,
    /// How long the result of a workflow run is kept.
    pub workflow_completion_retention: Option<Duration>,
    /// How long journals are kept.
    pub journal_retention: Option<Duration>,
    /// Idle time after which the endpoint is asked to suspend.
    pub inactivity_timeout: Option<Duration>,
    /// Time from then on after which an attempt is cut.
    pub abort_timeout: Option<Duration>,
}

/// Why a service cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateServiceError {
    /// There is none of this name.
    #[error("The requested service '{0}' does not exist")]
    NotFound(String),
    /// Only workflows have this retention.
    #[error("modifying retention time for service type {0:?} is unsupported")]
    NotAWorkflow(ServiceKind),
}

impl Schema {
    /// The deployment at an address. Addresses are equal when the values of the routing headers are, too.
    pub fn deployment_at(
        &self,
        uri: &str,
        additional_headers: &BTreeMap<String, String>,
        routing_headers: &[String],
    ) -> Option<&Deployment> {
        // Several may have come to the same address by updates in place; the newest stands for it.
        let newest_first = self.deployments().rev();
        let mut newest_first = newest_first.filter(|deployment| {
            deployment.uri == uri
                && routing_headers.iter().all(|header| {
                    deployment.additional_headers.get(header) == additional_headers.get(header)
                })
        });
        newest_first.next()
    }
}

/// Registers an endpoint: its services become the latest revisions.
pub fn register(
    schema: &Schema,
    discovered: Discovered,
    options: &RegisterOptions<'_>,
) -> Result<(Schema, Registered), RegisterError> {
    let known = schema.deployment_at(
        &discovered.uri,
        &discovered.additional_headers,
        options.routing_headers,
    );
    let registered = match known {
        None => Registered::Created(options.id),
        Some(known) if options.force => Registered::Replaced(known.id),
        Some(known) => return Ok((schema.clone(), Registered::Unchanged(known.id))),
    };
    let breaking = options.breaking || options.force;
    let services = revisions(schema, &discovered.manifest, breaking)?;
    let next = schema.with_deployment(Deployment {
        id: registered.deployment(),
        uri: discovered.uri,
        protocol_type: protocol_type(&discovered.manifest),
        http_version: discovered.http_version,
        additional_headers: discovered.additional_headers,
        metadata: discovered.metadata,
        created_at: options.at,
        min_protocol_version: discovered.manifest.protocol_min,
        max_protocol_version: discovered.manifest.protocol_max,
        sdk_version: discovered.sdk_version,
        services,
    });
    Ok((next, registered))
}

/// Points a deployment to another endpoint, for invocations that are pinned to it. Its services stay as they were
/// recorded unless `overwrite`.
pub fn update_deployment(
    schema: &Schema,
    id: DeploymentId,
    discovered: Discovered,
    overwrite: bool,
) -> Result<Schema, UpdateDeploymentError> {
    let old = schema
        .deployment(id)
        .ok_or(UpdateDeploymentError::NotFound(id))?;
    let manifest = &discovered.manifest;
    if (old.min_protocol_version, old.max_protocol_version)
        != (manifest.protocol_min, manifest.protocol_max)
    {
        return Err(UpdateDeploymentError::ProtocolRange {
            min: old.min_protocol_version,
            max: old.max_protocol_version,
            found_min: manifest.protocol_min,
            found_max: manifest.protocol_max,
        });
    }
    let services = if overwrite {
        let mut services = revisions(schema, manifest, true)?;
        for (name, service) in &mut services {
            // New requests go where they went before: what the deployment did not offer is older than any revision.
            let recorded = old.services.get(name);
            service.revision = recorded.map_or(1, |recorded| recorded.revision);
        }
        services
    } else {
        old.services.clone()
    };
    Ok(schema.with_deployment(Deployment {
        uri: discovered.uri,
        protocol_type: protocol_type(manifest),
        http_version: discovered.http_version,
        additional_headers: discovered.additional_headers,
        sdk_version: discovered.sdk_version,
        services,
        ..old.clone()
    }))
}

/// Changes the latest revision of a service, until it is registered again.
pub fn update_service(
    schema: &Schema,
    name: &str,
    changes: &ServiceChanges,
) -> Result<Schema, UpdateServiceError> {
    let not_found = || UpdateServiceError::NotFound(name.to_owned());
    let mut deployment = schema
        .latest_deployment_of(name)
        .ok_or_else(not_found)?
        .clone();
    let service = deployment.services.get_mut(name).ok_or_else(not_found)?;
    if changes.workflow_completion_retention.is_some() && service.kind != ServiceKind::Workflow {
        return Err(UpdateServiceError::NotAWorkflow(service.kind));
    }
    service.public = changes.public.unwrap_or(service.public);
    let settings = &mut service.overrides;
    settings.idempotency_retention = changes
        .idempotency_retention
        .or(settings.idempotency_retention);
    settings.journal_retention = changes.journal_retention.or(settings.journal_retention);
    settings.inactivity_timeout = changes.inactivity_timeout.or(settings.inactivity_timeout);
    settings.abort_timeout = changes.abort_timeout.or(settings.abort_timeout);
    if let Some(retention) = changes.workflow_completion_retention {
        settings.workflow_completion_retention = Some(retention);
        // The SDK sets it on the run handler, which goes before the service.
        for handler in service.handlers.values_mut() {
            handler.overrides.workflow_completion_retention = None;
        }
    }
    Ok(schema.with_deployment(deployment))
}

fn protocol_type(manifest: &Manifest) -> ProtocolType {
    match manifest.protocol_mode {
        manifest::ProtocolMode::BidiStream => ProtocolType::BidiStream,
        manifest::ProtocolMode::RequestResponse => ProtocolType::RequestResponse,
    }
}

fn revisions(
    schema: &Schema,
    manifest: &Manifest,
    breaking: bool,
) -> Result<BTreeMap<String, ServiceRevision>, RegisterError> {
    let mut services = BTreeMap::new();
    for service in &manifest.services {
        let latest = schema.service(&service.name).ok();
        if latest.is_some_and(|latest| latest.kind != service.kind) && !breaking {
            return Err(RegisterError::KindChanged(service.name.clone()));
        }
        let revision = 1 + latest.map_or(0, |latest| latest.revision);
        services.insert(service.name.clone(), service_revision(service, revision)?);
    }
    Ok(services)
}

fn service_revision(
    service: &ServiceManifest,
    revision: u32,
) -> Result<ServiceRevision, RegisterError> {
    let mut handlers = BTreeMap::new();
    for manifest in &service.handlers {
        handlers.insert(manifest.name.clone(), handler(&service.name, manifest)?);
    }
    Ok(ServiceRevision {
        name: service.name.clone(),
        kind: service.kind,
        revision,
        public: !service.settings.ingress_private.unwrap_or(false),
        documentation: service.documentation.clone(),
        metadata: service.metadata.clone(),
        overrides: overrides(&service.settings),
        handlers,
    })
}

fn handler(service: &str, manifest: &HandlerManifest) -> Result<Handler, RegisterError> {
    let check_schema = |part, schema: &Option<Value>| match schema {
        Some(schema) => check_json_schema(schema).map_err(|reason| RegisterError::JsonSchema {
            service: service.to_owned(),
            handler: manifest.name.clone(),
            part,
            reason,
        }),
        None => Ok(()),
    };
    let rule = |text: &str| {
        text.parse::<ContentTypeRule>()
            .map_err(|source| RegisterError::ContentType {
                service: service.to_owned(),
                handler: manifest.name.clone(),
                source,
            })
    };
    let input = match &manifest.input {
        None => InputRules::default(),
        Some(input) => {
            check_schema("input", &input.json_schema)?;
            InputRules::of_manifest(
                input.required,
                input.content_type.as_deref().map(rule).transpose()?,
                input.json_schema.clone(),
            )
        }
    };
    let output = match &manifest.output {
        None => OutputRule::default(),
        Some(output) => {
            check_schema("output", &output.json_schema)?;
            // It is sent as it is; what it says is the service's business.
            if let Some(content_type) = &output.content_type
                && !content_type
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte))
            {
                return Err(RegisterError::ContentType {
                    service: service.to_owned(),
                    handler: manifest.name.clone(),
                    source: ContentTypeRuleError(content_type.clone()),
                });
            }
            OutputRule {
                content_type: output.content_type.clone(),
                set_if_empty: output.set_content_type_if_empty,
                schema: output.json_schema.clone(),
            }
        }
    };
    let mut overrides = overrides(&manifest.settings);
    if manifest.kind == HandlerKind::Workflow {
        overrides.workflow_completion_retention = manifest.workflow_completion_retention;
    }
    Ok(Handler {
        name: manifest.name.clone(),
        kind: manifest.kind,
        public: manifest.settings.ingress_private.map(|private| !private),
        documentation: manifest.documentation.clone(),
        metadata: manifest.metadata.clone(),
        overrides,
        input,
        output,
    })
}

fn overrides(settings: &manifest::Settings) -> Overrides {
    Overrides {
        inactivity_timeout: settings.inactivity_timeout,
        abort_timeout: settings.abort_timeout,
        idempotency_retention: settings.idempotency_retention,
        workflow_completion_retention: None,
        journal_retention: settings.journal_retention,
        enable_lazy_state: settings.enable_lazy_state,
        retry: RetryOverrides {
            initial: settings.retry_initial_interval,
            factor: settings.retry_exponentiation_factor,
            max_interval: settings.retry_max_interval,
            max_attempts: settings
                .retry_max_attempts
                .map(|attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
            on_max_attempts: settings.retry_on_max_attempts.map(|choice| match choice {
                manifest::OnMaxAttempts::Pause => OnMaxAttempts::Pause,
                manifest::OnMaxAttempts::Kill => OnMaxAttempts::Kill,
            }),
        },
    }
}

/// The server does not evaluate schemas; it hands them on, and so refuses what a reader could not resolve.
/// Checks what would make a document with this schema in it unreadable. The schema is not enforced.
fn check_json_schema(schema: &Value) -> Result<(), &'static str> {
    const TYPES: [&str; 7] = [
        "array", "boolean", "integer", "null", "number", "object", "string",
    ];
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    if !schema.is_object() && !schema.is_boolean() {
        return Err("a schema is an object, true or false");
    }
    // A stack instead of recursion: the depth is the endpoint's choice.
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        let Value::Object(fields) = value else {
            open.extend(value.as_array().into_iter().flatten());
            continue;
        };
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("$ref", Value::String(reference)) if !reference.starts_with('#') => {
                    return Err("a $ref must stay inside the schema");
                }
                ("type", Value::Array(types)) if types.iter().all(is_type) => {}
                ("type", name) if is_type(name) => {}
                ("type", _) => return Err("there is a type that JSON does not have"),
                // Values, not schemas.
                ("const" | "default" | "enum" | "examples", _) => {}
                // Schemas by names that are free.
                (
                    "$defs" | "definitions" | "dependentSchemas" | "patternProperties"
                    | "properties",
                    Value::Object(schemas),
                ) => open.extend(schemas.values()),
                (_, value) => open.push(value),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
