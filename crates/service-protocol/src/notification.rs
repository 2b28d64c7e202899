//! Notifications: what a handler is told.

use bytes::Bytes;
use prost::Message;

use crate::entry::RawEntry;
use crate::failure::{Failure, Outcome};
use crate::message_type::{MessageClass, MessageType};
use crate::proto;

/// What a handler can wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotificationId {
    /// The answer to a command.
    Completion(u32),
    /// A signal by its index: 1 cancels, awakeables count from 17.
    Signal(u32),
    /// A signal by its name.
    NamedSignal(String),
}

impl NotificationId {
    /// The signal that cancels an invocation.
    pub const CANCEL: Self = Self::Signal(1);
}

impl std::fmt::Display for NotificationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Completion(id) => write!(f, "completion {id}"),
            Self::Signal(index) => write!(f, "signal {index}"),
            Self::NamedSignal(name) => write!(f, "signal '{name}'"),
        }
    }
}

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotificationResult {
    /// Done, absent or not completed, as the type has it.
    Void,
    /// A value.
    Value(Bytes),
    /// A terminal failure.
    Failure(Failure),
    /// The text of an invocation's id.
    InvocationId(String),
    /// Keys of the state.
    StateKeys(Vec<Bytes>),
}

impl From<Outcome> for NotificationResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Value(value) => Self::Value(value),
            Outcome::Failure(failure) => Self::Failure(failure),
        }
    }
}

/// Why an entry is not a notification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotificationError {
    /// The type code is not that of a notification.
    #[error("type {0:#06x} is not a notification")]
    Type(u16),
    /// The payload cannot be read.
    #[error("notification of type {ty:#06x} cannot be decoded: {reason}")]
    Malformed {
        /// Its type code.
        ty: u16,
        /// What the decoder says.
        reason: String,
    },
    /// It does not say what it answers, or nothing of the result.
    #[error("notification of type {0:#06x} lacks its id or its result")]
    Incomplete(u16),
}

/// A notification, read from its entry or about to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its type.
    pub ty: MessageType,
    /// What it answers.
    pub id: NotificationId,
    /// The answer.
    pub result: NotificationResult,
}

impl Notification {
    fn completion(ty: MessageType, id: u32, result: NotificationResult) -> Self {
        Self {
            ty,
            id: NotificationId::Completion(id),
            result,
        }
    }

    /// Answers a lazy read of a state value; `None` if there is none.
    pub fn state(id: u32, value: Option<Bytes>) -> Self {
        let result = value.map_or(NotificationResult::Void, NotificationResult::Value);
        Self::completion(MessageType::GetLazyStateCompletion, id, result)
    }

    /// Answers a lazy read of the state's keys.
    pub fn state_keys(id: u32, keys: Vec<Bytes>) -> Self {
        let result = NotificationResult::StateKeys(keys);
        Self::completion(MessageType::GetLazyStateKeysCompletion, id, result)
    }

    /// A promise that was waited for is completed.
    pub fn promise(id: u32, outcome: Outcome) -> Self {
        Self::completion(MessageType::GetPromiseCompletion, id, outcome.into())
    }

    /// What a promise holds now; `None` if it is not completed.
    pub fn promise_peeked(id: u32, outcome: Option<Outcome>) -> Self {
        let result = outcome.map_or(NotificationResult::Void, Into::into);
        Self::completion(MessageType::PeekPromiseCompletion, id, result)
    }

    /// Whether a promise was completed by this, or why not.
    pub fn promise_completed(id: u32, refused: Option<Failure>) -> Self {
        let result = refused.map_or(NotificationResult::Void, NotificationResult::Failure);
        Self::completion(MessageType::CompletePromiseCompletion, id, result)
    }

    /// The time of a sleep has come.
    pub fn slept(id: u32) -> Self {
        Self::completion(MessageType::SleepCompletion, id, NotificationResult::Void)
    }

    /// A callee has ended.
    pub fn call(id: u32, outcome: Outcome) -> Self {
        Self::completion(MessageType::CallCompletion, id, outcome.into())
    }

    /// The id of a callee.
    pub fn call_invocation_id(id: u32, invocation: &abide_types::InvocationId) -> Self {
        Self::completion(
            MessageType::CallInvocationIdCompletion,
            id,
            NotificationResult::InvocationId(invocation.to_string()),
        )
    }

    /// The stored result of a run.
    pub fn run(id: u32, outcome: Outcome) -> Self {
        Self::completion(MessageType::RunCompletion, id, outcome.into())
    }

    /// Another invocation's result.
    pub fn attached(id: u32, outcome: Outcome) -> Self {
        Self::completion(MessageType::AttachInvocationCompletion, id, outcome.into())
    }

    /// Another invocation's result if there is one; `None` while it is in progress.
    pub fn invocation_output(id: u32, outcome: Option<Outcome>) -> Self {
        let result = outcome.map_or(NotificationResult::Void, Into::into);
        Self::completion(MessageType::GetInvocationOutputCompletion, id, result)
    }

    /// A signal. `result` is void, a value or a failure; `id` is not a completion.
    pub fn signal(id: NotificationId, result: NotificationResult) -> Self {
        debug_assert!(!matches!(id, NotificationId::Completion(_)), "a signal");
        Self {
            ty: MessageType::Signal,
            id,
            result,
        }
    }

    /// The signal that cancels.
    pub fn cancel() -> Self {
        Self::signal(NotificationId::CANCEL, NotificationResult::Void)
    }

    /// Its form on the wire and in the journal: one id and one result, both present even when empty.
    pub fn into_entry(self) -> RawEntry {
        use proto::notification::{Id, Result};
        let message = proto::Notification {
            id: Some(match self.id {
                NotificationId::Completion(id) => Id::CompletionId(id),
                NotificationId::Signal(index) => Id::SignalId(index),
                NotificationId::NamedSignal(name) => Id::SignalName(name),
            }),
            result: Some(match self.result {
                NotificationResult::Void => Result::Void(proto::Void {}),
                NotificationResult::Value(content) => Result::Value(proto::Value { content }),
                NotificationResult::Failure(failure) => Result::Failure(failure.into()),
                NotificationResult::InvocationId(id) => Result::InvocationId(id),
                NotificationResult::StateKeys(keys) => Result::StateKeys(proto::StateKeys { keys }),
            }),
        };
        RawEntry {
            ty: self.ty.code(),
            payload: message.encode_to_vec().into(),
        }
    }

    /// Reads an entry.
    pub fn decode(entry: &RawEntry) -> Result<Self, NotificationError> {
        use proto::notification::{Id, Result};
        let ty = MessageType::from_code(entry.ty)
            .filter(|ty| ty.class() == MessageClass::Notification)
            .ok_or(NotificationError::Type(entry.ty))?;
        let message = proto::Notification::decode(entry.payload.clone()).map_err(|error| {
            NotificationError::Malformed {
                ty: entry.ty,
                reason: error.to_string(),
            }
        })?;
        let (Some(id), Some(result)) = (message.id, message.result) else {
            return Err(NotificationError::Incomplete(entry.ty));
        };
        Ok(Self {
            ty,
            id: match id {
                Id::CompletionId(id) => NotificationId::Completion(id),
                Id::SignalId(index) => NotificationId::Signal(index),
                Id::SignalName(name) => NotificationId::NamedSignal(name),
            },
            result: match result {
                Result::Void(_) => NotificationResult::Void,
                Result::Value(value) => NotificationResult::Value(value.content),
                Result::Failure(failure) => NotificationResult::Failure(failure.into()),
                Result::InvocationId(id) => NotificationResult::InvocationId(id),
                Result::StateKeys(keys) => NotificationResult::StateKeys(keys.keys),
            },
        })
    }

    /// Whether the result is a failure.
    pub const fn is_failure(&self) -> bool {
        matches!(self.result, NotificationResult::Failure(_))
    }
}
