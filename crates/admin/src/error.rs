//! Every error of the API and what a client sees of it (admin reference, sections 3 and 15).

use abide_invoker::{DiscoverError, SerdesError};
use abide_processor::api::RouteError;
use abide_schema::{
    KafkaClusterError, PreconditionFailed, RegisterError, SubscriptionError, UpdateDeploymentError,
    UpdateServiceError,
};
use abide_service_protocol::ErrorCode;
use abide_service_protocol::manifest::ManifestError;
use abide_types::{DeploymentId, IdError, InvocationId, SubscriptionId};
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

use crate::cluster::StoreError;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("The request field '{field}' is invalid. Reason: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("The query parameter '{parameter}' is invalid. Reason: {reason}")]
    Parameter {
        parameter: &'static str,
        reason: String,
    },
    /// The path itself cannot be read; told in plain text, as malformed JSON is.
    #[error("Invalid URL: Cannot parse `{name}` with value `{value}`: {source}")]
    Path {
        name: &'static str,
        value: String,
        source: IdError,
    },
    #[error("Conflict: deployment {0} already exists")]
    DeploymentExists(DeploymentId),
    #[error("The requested deployment '{0}' does not exist")]
    DeploymentNotFound(DeploymentId),
    #[error("not found in the schema registry: deployment with id '{0}'")]
    NoDeploymentToDelete(DeploymentId),
    #[error("The requested service '{0}' does not exist")]
    ServiceNotFound(String),
    #[error("The requested handler '{handler}' on service '{service}' does not exist")]
    HandlerNotFound { service: String, handler: String },
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error("Internal server error: {0}")]
    Serdes(#[from] SerdesError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    UpdateDeployment(#[from] UpdateDeploymentError),
    #[error(transparent)]
    UpdateService(#[from] UpdateServiceError),
    #[error("The requested Kafka cluster '{0}' does not exist")]
    KafkaClusterNotFound(String),
    #[error("The requested subscription '{0}' does not exist")]
    SubscriptionNotFound(SubscriptionId),
    #[error(transparent)]
    KafkaCluster(#[from] KafkaClusterError),
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    #[error(
        "invalid {end} URI '{uri}': must have a scheme segment, with supported schemes: [{scheme}]."
    )]
    SubscriptionScheme {
        end: &'static str,
        uri: http::Uri,
        scheme: &'static str,
    },
    #[error("The requested invocation '{0}' does not exist")]
    InvocationNotFound(InvocationId),
    #[error("The invocation '{0}' was already completed.")]
    AlreadyCompleted(InvocationId),
    #[error("The invocation '{0}' is not yet completed.")]
    NotCompleted(InvocationId),
    #[error("The invocation '{0}' is not running, cannot be paused.")]
    NotRunning(InvocationId),
    #[error("The invocation '{0}' is completed, cannot be resumed.")]
    CompletedCannotResume(InvocationId),
    #[error("The invocation '{0}' is either inboxed or scheduled, cannot be resumed.")]
    NotStarted(InvocationId),
    #[error(
        "The invocation '{0}' is still running or the deployment id is not pinned yet, deployment id cannot be changed."
    )]
    CannotMove(InvocationId),
    #[error("The given deployment was not found when trying to resume the invocation '{0}'.")]
    NoDeploymentToResume(InvocationId),
    #[error(
        "The given deployment was not found when trying to restart as new the invocation '{0}'."
    )]
    NoDeploymentToRestart(InvocationId),
    #[error(
        "The invocation '{id}' is running on protocol version '{bound}', while the chosen deployment '{deployment}' supports the range {min}..={max}."
    )]
    ProtocolOutside {
        id: InvocationId,
        bound: u32,
        deployment: DeploymentId,
        min: u32,
        max: u32,
    },
    #[error("The invocation '{0}' is still running.")]
    StillRunning(InvocationId),
    #[error("The invocation '{0}' cannot be restarted because it's not running yet.")]
    RestartTooEarly(InvocationId),
    #[error(
        "The invocation '{0}' cannot be restarted because the input is not available. This indicates that the journal was already purged, or not retained at all."
    )]
    NoInput(InvocationId),
    #[error(
        "Restarting the invocation '{0}' is not supported. Restarting workflows is not supported, and restarting invocations created using the old service protocol."
    )]
    CannotRestart(InvocationId),
    #[error(
        "The prefix of the journal '{0}' up to 'from' (included) contains some Commands without respective Completions."
    )]
    IncompletePrefix(InvocationId),
    #[error("Cannot modify state for service type {0}")]
    NoState(&'static str),
    #[error(transparent)]
    Rules(#[from] PreconditionFailed),
    #[error("Batch size {0} exceeds maximum allowed size of {BATCH_MAX}")]
    BatchTooLarge(usize),
    #[error("Error when routing the request internally. Reason: {0}")]
    Routing(#[from] RouteError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} is not supported yet")]
    NotSupported(&'static str),
    #[error("{0} is not there yet")]
    NotThereYet(String),
    #[error("The cluster's status is not known: {0}")]
    NoStatus(String),
    #[error("Not a log filter: {0}")]
    LogFilter(String),
    #[error("PUT deployment is deprecated, use PATCH instead")]
    PutIsGone,
    #[error("too many requests, the admin API is overloaded. Retry later.")]
    TooManyRequests,
}

/// Invocations that one batch may name.
pub(crate) const BATCH_MAX: usize = 1000;

#[derive(Serialize)]
struct Body {
    message: String,
    restate_code: Option<&'static str>,
}

impl AdminError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Field { .. }
            | Self::Parameter { .. }
            | Self::Path { .. }
            | Self::BatchTooLarge(_)
            | Self::NotSupported(_)
            | Self::NoDeploymentToResume(_)
            | Self::NoDeploymentToRestart(_)
            | Self::ProtocolOutside { .. }
            | Self::IncompletePrefix(_)
            | Self::NoState(_)
            | Self::SubscriptionScheme { .. }
            | Self::KafkaCluster(
                KafkaClusterError::NoBrokers(_) | KafkaClusterError::Unsupported { .. },
            )
            | Self::Subscription(
                SubscriptionError::ClusterNotFound { .. }
                | SubscriptionError::HandlerNotFound(_)
                | SubscriptionError::Unsupported(_),
            )
            | Self::UpdateService(UpdateServiceError::NotAWorkflow(_)) => StatusCode::BAD_REQUEST,
            Self::DeploymentNotFound(_)
            | Self::NoDeploymentToDelete(_)
            | Self::ServiceNotFound(_)
            | Self::HandlerNotFound { .. }
            | Self::InvocationNotFound(_)
            | Self::KafkaClusterNotFound(_)
            | Self::SubscriptionNotFound(_)
            | Self::KafkaCluster(
                KafkaClusterError::NotFound(_) | KafkaClusterError::NothingToRemove(_),
            )
            | Self::Subscription(SubscriptionError::NothingToRemove(_))
            | Self::UpdateDeployment(UpdateDeploymentError::NotFound(_))
            | Self::UpdateService(UpdateServiceError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::PutIsGone => StatusCode::METHOD_NOT_ALLOWED,
            Self::DeploymentExists(_)
            | Self::KafkaCluster(
                KafkaClusterError::Exists(_)
                | KafkaClusterError::Hidden(_)
                | KafkaClusterError::Configured(_)
                | KafkaClusterError::InUse { .. },
            )
            | Self::AlreadyCompleted(_)
            | Self::NotCompleted(_)
            | Self::NotRunning(_)
            | Self::CannotMove(_)
            | Self::StillRunning(_)
            | Self::Rules(_)
            | Self::CompletedCannotResume(_) => StatusCode::CONFLICT,
            Self::NotStarted(_) | Self::RestartTooEarly(_) => StatusCode::TOO_EARLY,
            Self::NoInput(_) => StatusCode::GONE,
            Self::CannotRestart(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Register(error)
            | Self::UpdateDeployment(UpdateDeploymentError::Register(error)) => match error {
                RegisterError::KindChanged(_) => StatusCode::CONFLICT,
                RegisterError::ContentType { .. } | RegisterError::JsonSchema { .. } => {
                    StatusCode::BAD_REQUEST
                }
            },
            Self::UpdateDeployment(UpdateDeploymentError::ProtocolRange { .. }) => {
                StatusCode::BAD_REQUEST
            }
            // The endpoint was asked and answered, but with something that must not be registered.
            Self::Discover(
                DiscoverError::Address(_)
                | DiscoverError::Manifest(
                    ManifestError::ReservedName(_) | ManifestError::Setting { .. },
                ),
            ) => StatusCode::BAD_REQUEST,
            Self::Discover(_) | Self::Serdes(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(StoreError::Broken(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(StoreError::Unavailable(_)) | Self::Routing(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotThereYet(_) => StatusCode::NOT_IMPLEMENTED,
            Self::NoStatus(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::LogFilter(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// The documented code, where there is one.
    fn code(&self) -> Option<&'static str> {
        let code = match self {
            Self::Discover(error) => error.code(),
            Self::Register(error) => error.code(),
            Self::UpdateDeployment(error) => error.code(),
            Self::Subscription(error) => error.code(),
            Self::SubscriptionScheme { .. } => Some(ErrorCode::Meta0009),
            _ => None,
        };
        code.map(|code| code.as_str())
    }

    /// What is said of one invocation of a batch: shorter than the same on its own.
    pub(crate) fn in_batch(&self) -> String {
        match self {
            Self::InvocationNotFound(id) => format!("Invocation '{id}' not found"),
            Self::CannotMove(id) => format!("Cannot change deployment ID for invocation '{id}'"),
            Self::NoDeploymentToResume(id) => {
                format!("Deployment not found when resuming invocation '{id}'")
            }
            Self::NoDeploymentToRestart(id) => {
                format!("Deployment not found when restarting invocation '{id}'")
            }
            Self::NoInput(id) => {
                format!("Invocation '{id}' cannot be restarted because the input is not available")
            }
            Self::CannotRestart(id) => format!("Restarting invocation '{id}' is not supported"),
            error => {
                let text = error.to_string();
                let text = text.strip_suffix('.').unwrap_or(&text);
                match text.strip_prefix("The invocation ") {
                    Some(rest) => format!("Invocation {rest}"),
                    None => text.to_owned(),
                }
            }
        }
    }

    /// What a person reads; the code stands in front, twice when what an endpoint answered is no offer.
    fn message(&self) -> String {
        match (self, self.code()) {
            (
                Self::Discover(DiscoverError::Manifest(ManifestError::ReservedName(_))),
                Some(code),
            ) => {
                format!("[{code}] {self}")
            }
            (Self::Discover(_), Some(code)) => format!("[{code}] [{code}] {self}"),
            (_, Some(code)) => format!("[{code}] {self}"),
            (_, None) => self.to_string(),
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(error = %self, "admin request failed");
        }
        if let Self::Path { .. } = self {
            return (status, self.to_string()).into_response();
        }
        let body = Json(Body {
            message: self.message(),
            restate_code: self.code(),
        });
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                (status, [(header::RETRY_AFTER, "1")], body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}
