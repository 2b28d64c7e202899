//! What the ingress itself refuses or cannot do (ingress reference, section 7.2): one table of texts and statuses.

use std::str::Utf8Error;

use abide_processor::api::RouteError;
use abide_schema::duration::DurationError;
use abide_schema::{InputError, ResolveError};
use abide_types::{DeploymentId, IdError, LimitKeyError, NameError};
use http::StatusCode;
use http::header::ToStrError;

/// What a request wanted from its partition; decides on what a client is told about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempted {
    Invoke,
    Read,
    Awakeable,
}

impl Attempted {
    const fn advice(self) -> &'static str {
        match self {
            Self::Invoke => {
                "If the request has an 'idempotency-key', it can be safely retried, otherwise submitting it again may result in executing the invocation twice."
            }
            Self::Read => "You may safely retry the request.",
            Self::Awakeable => {
                "Submitting the request again may result in executing the operation twice."
            }
        }
    }
}

/// Why the ingress answers with an error of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngressError {
    #[error("bad path: {0}")]
    BadPath(String),
    #[error(
        "bad path, expected either /:service-name/:handler or /:object-name/:object-key/:handler"
    )]
    ExpectedOldPath,
    #[error(
        "bad path, expected /restate/call/:service/:handler, /restate/send/:service/:handler, /restate/scope/:scope/call/:service/:handler, /restate/attach/:invocation_id, /restate/output/:invocation_id, or /restate/lookup"
    )]
    ExpectedNewPath,
    #[error(
        "bad path, expected either /restate/invocation/:invocation_id/output or /restate/invocation/:invocation_id/attach or /restate/invocation/:invocation_target/:idempotency_key/output or /restate/invocation/:invocation_target/:idempotency_key/attach"
    )]
    ExpectedInvocationPath,
    #[error(
        "bad path, expected either /restate/workflow/:workflow_name/:workflow_key/output or /restate/workflow/:workflow_name/:workflow_key/attach"
    )]
    ExpectedWorkflowPath,
    #[error(
        "bad path, expected either /restate/awakeables/:id/resolve or /restate/awakeables/:id/reject"
    )]
    ExpectedAwakeablePath,
    #[error("bad path, cannot decode key: {0}")]
    BadKey(Utf8Error),
    #[error("not found")]
    NotFound,
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("the invoked service is not public")]
    NotPublic,
    #[error(
        "the service {service} is exposed by the deprecated deployment {deployment}. Upgrade the SDK used by {service}."
    )]
    Deprecated {
        service: String,
        deployment: DeploymentId,
    },
    #[error(
        "cannot use the idempotency key with workflow handlers. The handler invocation will already be idempotent by the workflow key itself."
    )]
    IdempotencyKeyOnWorkflow,
    #[error("scope is not supported for Virtual Object targets")]
    ScopedObject,
    #[error("bad scope value: {0}")]
    BadScope(NameError),
    #[error("invalid limit-key: {0}")]
    BadLimitKey(LimitKeyError),
    #[error("limit-key requires a scope to be set")]
    LimitKeyWithoutScope,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("bad header {name}: {source}")]
    BadHeader { name: String, source: ToStrError },
    #[error("input validation error: {0}")]
    Input(#[from] InputError),
    #[error("bad delay query parameter, must be a ISO8601 duration: {0}")]
    BadDelay(DurationError),
    #[error(
        "cannot use the delay query parameter with calls. The delay is supported only with sends"
    )]
    DelayOnCall,
    #[error("bad invocation id '{id}': {source}")]
    BadInvocationId { id: String, source: IdError },
    #[error("bad awakeable id '{id}': {source}")]
    BadAwakeableId { id: String, source: IdError },
    #[error("cannot read body: LengthLimitError")]
    BodyTooLong,
    #[error("cannot read body: nothing more of it came in time")]
    BodyStalled,
    #[error("cannot read body: {0}")]
    BodyBroken(hyper::Error),
    #[error("cannot read body: invalid {what} body: {source}")]
    BadJson {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("too many requests, the ingress is overloaded. Retry later.")]
    TooManyRequests,
    #[error("the invocation exists but has not completed yet")]
    NotReady,
    #[error("invocation not found")]
    InvocationNotFound,
    #[error("internal routing error: {cause}. {}", .attempted.advice())]
    Routing {
        attempted: Attempted,
        cause: RouteError,
    },
}

/// The status of an invocation that has not ended. No registered name.
const NOT_READY: u16 = 470;

impl IngressError {
    /// The HTTP status; the `code` of the body is the same.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadPath(_)
            | Self::ExpectedOldPath
            | Self::ExpectedNewPath
            | Self::ExpectedInvocationPath
            | Self::ExpectedWorkflowPath
            | Self::ExpectedAwakeablePath
            | Self::BadKey(_)
            | Self::NotPublic
            | Self::Deprecated { .. }
            | Self::IdempotencyKeyOnWorkflow
            | Self::ScopedObject
            | Self::BadScope(_)
            | Self::BadLimitKey(_)
            | Self::LimitKeyWithoutScope
            | Self::BadHeader { .. }
            | Self::Input(_)
            | Self::BadDelay(_)
            | Self::DelayOnCall
            | Self::BadInvocationId { .. }
            | Self::BadAwakeableId { .. }
            // The peer answers 500 here; a client that retries server errors would send it again for nothing.
            | Self::BadJson { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::Resolve(_) | Self::InvocationNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady => StatusCode::from_u16(NOT_READY).expect("470 is in range"),
            Self::BodyBroken(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Routing { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which trying again makes sense, if it does.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        match self {
            Self::TooManyRequests => Some(1),
            Self::Routing { cause, .. } => match cause {
                RouteError::NoLeader { .. }
                | RouteError::Overloaded { .. }
                | RouteError::ShuttingDown => Some(1),
                // An operator has to look first.
                RouteError::Stopped { .. } => Some(30),
            },
            _ => None,
        }
    }
}
