//! Why attempts fail, and what follows.

use std::time::Duration;

use abide_service_protocol::{ErrorCode, Failure, invocation_code};

use crate::api::{AttemptFailure, RelatedCommand, Retry};

/// An attempt's failure as it comes about; the deployment is added where it is known. Boxed, since it travels
/// through every result of the way that frames take, and is rare.
#[derive(Debug, Clone)]
pub(crate) struct Trouble(Box<Details>);

/// What is known of a failure.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    pub(crate) code: Option<ErrorCode>,
    pub(crate) failure: Failure,
    pub(crate) related: RelatedCommand,
    pub(crate) retry: Retry,
    pub(crate) bumps_retry_count: bool,
}

impl Trouble {
    pub(crate) fn new(details: Details) -> Self {
        Self(Box::new(details))
    }

    fn of(code: Option<ErrorCode>, message: impl Into<String>) -> Self {
        Self::new(Details {
            code,
            failure: Failure::new(invocation_code::INTERNAL, message),
            related: RelatedCommand::default(),
            retry: Retry::Policy,
            bumps_retry_count: true,
        })
    }

    /// A failure with a documented code that the retry policy deals with.
    pub(crate) fn coded(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::of(Some(code), message)
    }

    /// The endpoint broke the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::coded(ErrorCode::Rt0012, message)
    }

    /// The stream just ended.
    pub(crate) fn cut() -> Self {
        Self::of(
            None,
            "the endpoint closed the stream without an End, Suspension or Error message",
        )
    }

    /// Something here is broken.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::of(None, message)
    }

    pub(crate) fn with_invocation_code(mut self, code: u16) -> Self {
        self.0.failure.code = code;
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.0.retry = Retry::After(delay);
        self
    }

    pub(crate) fn pausing(mut self) -> Self {
        self.0.retry = Retry::Pause;
        self
    }

    pub(crate) fn not_counted(mut self) -> Self {
        self.0.bumps_retry_count = false;
        self
    }

    pub(crate) fn related_to(mut self, related: RelatedCommand) -> Self {
        self.0.related = related;
        self
    }

    pub(crate) fn into_attempt_failure(
        self,
        deployment: Option<abide_types::DeploymentId>,
    ) -> AttemptFailure {
        let details = *self.0;
        AttemptFailure {
            failure: details.failure,
            code: details.code.map(ErrorCode::as_str),
            related: details.related,
            deployment,
            retry: details.retry,
            bumps_retry_count: details.bumps_retry_count,
        }
    }
}

impl std::ops::Deref for Trouble {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}
