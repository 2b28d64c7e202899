//! The endpoint manifest: what an endpoint says of itself at discovery.
//!
//! [`read`] turns the answer to `GET /discover` into a [`Manifest`] in which every rule that needs no knowledge of
//! what is registered already holds. Defaults are not filled in: what the endpoint left open is `None`.

mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use abide_types::{HandlerKind, ServiceKind};

use crate::codes::ErrorCode;
use crate::version::ProtocolVersion;

/// The media types of manifests that are understood, newest last, as sent in `accept`.
pub const ACCEPT: &str = "application/vnd.restate.endpointmanifest.v1+json, \
     application/vnd.restate.endpointmanifest.v2+json, \
     application/vnd.restate.endpointmanifest.v3+json, \
     application/vnd.restate.endpointmanifest.v4+json";

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.restate.endpointmanifest.v1+json",
    "application/vnd.restate.endpointmanifest.v2+json",
    "application/vnd.restate.endpointmanifest.v3+json",
    "application/vnd.restate.endpointmanifest.v4+json",
];

/// How invocation streams run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProtocolMode {
    /// Both directions at the same time.
    BidiStream,
    /// The whole request, then the whole response.
    RequestResponse,
}

/// What an endpoint offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// How its invocation streams run.
    pub protocol_mode: ProtocolMode,
    /// The lowest invocation protocol version that it takes.
    pub protocol_min: u32,
    /// The highest.
    pub protocol_max: u32,
    /// Its services. Names are distinct.
    pub services: Vec<ServiceManifest>,
}

impl Manifest {
    /// The protocol version for new invocations.
    pub fn protocol(&self) -> ProtocolVersion {
        ProtocolVersion::choose(self.protocol_min, self.protocol_max)
            .expect("checked when the manifest was read")
    }
}

/// One service of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceManifest {
    /// Its name.
    pub name: String,
    /// How it treats keys.
    pub kind: ServiceKind,
    /// Its handlers. Names are distinct.
    pub handlers: Vec<HandlerManifest>,
    /// For people.
    pub documentation: Option<String>,
    /// Shown by the admin API.
    pub metadata: BTreeMap<String, String>,
    /// What holds for handlers that say nothing else.
    pub settings: Settings,
}

/// One handler of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct HandlerManifest {
    /// Its name.
    pub name: String,
    /// How it runs beside others of its key.
    pub kind: HandlerKind,
    /// For people.
    pub documentation: Option<String>,
    /// Shown by the admin API.
    pub metadata: BTreeMap<String, String>,
    /// What it takes; `None` is any content type, or nothing.
    pub input: Option<InputManifest>,
    /// What it answers.
    pub output: Option<OutputManifest>,
    /// How long the result of a workflow's run is kept.
    pub workflow_completion_retention: Option<Duration>,
    /// What it sets otherwise than its service.
    pub settings: Settings,
}

/// What a handler takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputManifest {
    /// Whether there has to be a body with a content type; it may have no length.
    pub required: bool,
    /// The content type, maybe with wildcards.
    pub content_type: Option<String>,
    /// A schema of the JSON.
    pub json_schema: Option<serde_json::Value>,
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputManifest {
    /// The response's content type.
    pub content_type: Option<String>,
    /// Whether an empty response has one too.
    pub set_content_type_if_empty: bool,
    /// A schema of the JSON.
    pub json_schema: Option<serde_json::Value>,
}

/// What may be set on a service and on a handler.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// After this long without a frame the request is closed, so that the handler suspends.
    pub inactivity_timeout: Option<Duration>,
    /// After this long without a frame from then on, the attempt is aborted.
    pub abort_timeout: Option<Duration>,
    /// How long the journal is kept.
    pub journal_retention: Option<Duration>,
    /// How long the result of an idempotent call is kept.
    pub idempotency_retention: Option<Duration>,
    /// Whether Start comes without state.
    pub enable_lazy_state: Option<bool>,
    /// Whether clients may not call it.
    pub ingress_private: Option<bool>,
    /// The delay before the first retry.
    pub retry_initial_interval: Option<Duration>,
    /// The longest delay.
    pub retry_max_interval: Option<Duration>,
    /// Attempts including the first; at least 1.
    pub retry_max_attempts: Option<u64>,
    /// By how much a delay is longer than the one before.
    pub retry_exponentiation_factor: Option<f64>,
    /// What then.
    pub retry_on_max_attempts: Option<OnMaxAttempts>,
}

/// What happens when no attempt is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnMaxAttempts {
    /// The invocation waits for an operator.
    Pause,
    /// The invocation ends with the failure.
    Kill,
}

/// Why a discovery response is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The content type is none of those that were offered.
    #[error(
        "bad discovery response: {}",
        content_type.as_ref().map_or_else(
            || "the content-type header is missing".to_owned(),
            |content_type| format!("unexpected content-type '{content_type}'"),
        )
    )]
    ContentType {
        /// What the response says.
        content_type: Option<String>,
    },
    /// The body is no manifest.
    #[error("the discovery response cannot be decoded: {reason}. Response body: {body}")]
    Undecodable {
        /// What is wrong, naming the field.
        reason: String,
        /// The beginning of the body.
        body: String,
    },
    /// The body contradicts itself or leaves out what is needed.
    #[error("bad discovery response: {0}")]
    BadResponse(String),
    /// The endpoint speaks other versions.
    #[error(
        "the endpoint speaks service protocol versions {min} to {max}, this server {} to {}",
        ProtocolVersion::MIN.number(),
        ProtocolVersion::MAX.number()
    )]
    Versions {
        /// Its lowest version.
        min: u32,
        /// Its highest version.
        max: u32,
    },
    /// A service has a name that the engine keeps for itself.
    #[error("service name '{0}' is reserved: names must not start with 'restate' nor be 'openapi'")]
    ReservedName(String),
    /// A setting does not go with the kind of its handler or service.
    #[error("{service}/{handler}: {reason}")]
    Setting {
        /// The service.
        service: String,
        /// The handler.
        handler: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl ManifestError {
    /// The documented code, where there is one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::ContentType { .. } | Self::BadResponse(_) => Some(ErrorCode::Meta0013),
            Self::Versions { .. } => Some(ErrorCode::Meta0012),
            Self::ReservedName(_) => Some(ErrorCode::Meta0005),
            Self::Undecodable { .. } | Self::Setting { .. } => None,
        }
    }
}

/// What a discovery response has besides its status.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// Its `content-type` header.
    pub content_type: Option<&'a str>,
    /// Its `x-restate-server` header.
    pub server: Option<&'a str>,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads the answer to `GET /discover`.
pub fn read(response: Response<'_>) -> Result<Manifest, ManifestError> {
    if !response
        .content_type
        .is_some_and(|content_type| MEDIA_TYPES.contains(&content_type))
    {
        return Err(ManifestError::ContentType {
            content_type: response.content_type.map(Into::into),
        });
    }
    let mut endpoint: wire::Endpoint = serde_json::from_slice(response.body)
        .map_err(|error| undecodable(&error, response.body))?;
    if response.server.is_some_and(advertises_wrongly) {
        endpoint.max_protocol_version = 1;
        endpoint.min_protocol_version = endpoint.min_protocol_version.min(1);
    }
    endpoint.into_manifest(|reason| undecodable(&reason, response.body))
}

/// Early releases of one SDK name versions that they do not speak.
fn advertises_wrongly(server: &str) -> bool {
    ["1.0.", "1.1.", "1.2."].iter().any(|version| {
        server
            .strip_prefix("restate-sdk-typescript/")
            .is_some_and(|release| release.starts_with(version))
    })
}

/// How much of a body is shown.
const BODY_SHOWN_MAX: usize = 4096;

fn undecodable(reason: &dyn std::fmt::Display, body: &[u8]) -> ManifestError {
    let shown = &body[..body.len().min(BODY_SHOWN_MAX)];
    ManifestError::Undecodable {
        reason: reason.to_string(),
        body: String::from_utf8_lossy(shown).into_owned(),
    }
}

/// Whether a text may be the name of a service: `^([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9._-]*$`.
pub fn is_service_name(name: &str) -> bool {
    is_name(name, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
    })
}

/// Whether a text may be the name of a handler: `^([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9_]*$`.
pub fn is_handler_name(name: &str) -> bool {
    is_name(name, |byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_name(name: &str, follows: fn(u8) -> bool) -> bool {
    match name.as_bytes() {
        [b'_', second, rest @ ..] => {
            second.is_ascii_alphanumeric() && rest.iter().all(|byte| follows(*byte))
        }
        [first, rest @ ..] => first.is_ascii_alphabetic() && rest.iter().all(|byte| follows(*byte)),
        [] => false,
    }
}

#[cfg(test)]
mod tests;
