//! How a handler, a run or a promise can end.

use bytes::Bytes;

use crate::proto;

/// A terminal failure: passed on unchanged from the handler that raised it to whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// An HTTP status or one of [`crate::invocation_code`].
    pub code: u16,
    /// For people.
    pub message: String,
    /// Ordered pairs, since version 6.
    pub metadata: Vec<(String, String)>,
    /// Where it came about, if it is the last error of an invocation whose attempts were used up. For the clients
    /// that wait for it; endpoints are not told.
    pub stacktrace: Option<String>,
}

impl Failure {
    /// A failure without metadata.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            metadata: Vec::new(),
            stacktrace: None,
        }
    }
}

/// The code of a failure or error on the wire; one that does not fit is 500.
pub(crate) fn code_from_wire(code: u32) -> u16 {
    u16::try_from(code).unwrap_or(crate::invocation_code::INTERNAL)
}

impl From<proto::Failure> for Failure {
    fn from(failure: proto::Failure) -> Self {
        Self {
            code: code_from_wire(failure.code),
            message: failure.message,
            metadata: failure
                .metadata
                .into_iter()
                .map(|pair| (pair.key, pair.value))
                .collect(),
            stacktrace: None,
        }
    }
}

impl From<Failure> for proto::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.into(),
            message: failure.message,
            metadata: failure
                .metadata
                .into_iter()
                .map(|(key, value)| proto::FailureMetadata { key, value })
                .collect(),
        }
    }
}

/// A value or a terminal failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It went well.
    Value(Bytes),
    /// It did not, and will not.
    Failure(Failure),
}

impl Outcome {
    /// Whether it is a failure.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failure(_))
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)
    }
}
