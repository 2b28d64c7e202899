//! Every error of the API and what a client sees of it (admin reference, sections 3 and 15).

use abide_invoker::DiscoverError;
use abide_processor::api::RouteError;
use abide_schema::{RegisterError, UpdateDeploymentError, UpdateServiceError};
use abide_service_protocol::manifest::ManifestError;
use abide_types::{DeploymentId, IdError, InvocationId};
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
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    UpdateDeployment(#[from] UpdateDeploymentError),
    #[error(transparent)]
    UpdateService(#[from] UpdateServiceError),
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
    #[error("Use PATCH to update a deployment in place")]
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
            | Self::UpdateService(UpdateServiceError::NotAWorkflow(_)) => StatusCode::BAD_REQUEST,
            Self::DeploymentNotFound(_)
            | Self::NoDeploymentToDelete(_)
            | Self::ServiceNotFound(_)
            | Self::HandlerNotFound { .. }
            | Self::InvocationNotFound(_)
            | Self::UpdateDeployment(UpdateDeploymentError::NotFound(_))
            | Self::UpdateService(UpdateServiceError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::PutIsGone => StatusCode::METHOD_NOT_ALLOWED,
            Self::DeploymentExists(_)
            | Self::AlreadyCompleted(_)
            | Self::NotCompleted(_)
            | Self::NotRunning(_)
            | Self::CannotMove(_)
            | Self::CompletedCannotResume(_) => StatusCode::CONFLICT,
            Self::NotStarted(_) => StatusCode::TOO_EARLY,
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
            Self::Discover(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(StoreError::Broken(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(StoreError::Unavailable(_)) | Self::Routing(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotThereYet(_) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The documented code, where there is one.
    fn code(&self) -> Option<&'static str> {
        let code = match self {
            Self::Discover(error) => error.code(),
            Self::Register(error) => error.code(),
            Self::UpdateDeployment(error) => error.code(),
            _ => None,
        };
        code.map(|code| code.as_str())
    }

    /// What a person reads; the code stands in front, twice when an endpoint was asked.
    fn message(&self) -> String {
        match (self, self.code()) {
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
