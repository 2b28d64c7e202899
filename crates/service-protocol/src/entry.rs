//! Journal entries and the commands among them.

use abide_types::{AwakeableId, IdError, InvocationId, Timestamp};
use bytes::Bytes;
use prost::Message;

use crate::codes::ErrorCode;
use crate::failure::{Failure, Outcome};
use crate::message_type::{MessageClass, MessageType};
use crate::notification::NotificationResult;
use crate::scope::{self, ScopeError};
use crate::{bounds, proto};

/// A journal entry as it was sent or will be: it is stored, replayed and passed on in this form, so that a
/// replay is the same byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// The type code.
    pub ty: u16,
    /// The message.
    pub payload: Bytes,
}

impl RawEntry {
    /// The type, if it is known.
    pub const fn message_type(&self) -> Option<MessageType> {
        MessageType::from_code(self.ty)
    }

    /// Whether it is a command; else it is a notification.
    pub const fn is_command(&self) -> bool {
        matches!(MessageClass::of(self.ty), MessageClass::Command)
    }

    /// Whether it is a notification.
    pub const fn is_notification(&self) -> bool {
        matches!(MessageClass::of(self.ty), MessageClass::Notification)
    }

    /// The name that the user gave to a command; empty if none, or if it is no command.
    pub fn command_name(&self) -> String {
        if !self.is_command() {
            return String::new();
        }
        proto::AnyCommand::decode(self.payload.clone())
            .map(|command| command.name)
            .unwrap_or_default()
    }

    /// Entry 0 of an invocation.
    pub fn input(headers: Vec<(String, String)>, value: Bytes) -> Self {
        let message = proto::InputCommand {
            headers: headers
                .into_iter()
                .map(|(key, value)| proto::Header { key, value })
                .collect(),
            name: String::new(),
            value: Some(proto::Value { content: value }),
        };
        Self {
            ty: MessageType::Input.code(),
            payload: message.encode_to_vec().into(),
        }
    }
}

/// What a handler did, read from its entry. What holds of it by itself has been checked; what hangs on the
/// handler's kind or on what is registered has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// What the handler is called with.
    Input {
        /// In order, as the caller set them.
        headers: Vec<(String, String)>,
        /// The argument.
        value: Bytes,
    },
    /// The handler's result.
    Output(Outcome),
    /// Asks for a state value.
    GetLazyState {
        /// UTF-8.
        key: Bytes,
        /// Answered under this id.
        completion: u32,
    },
    /// Sets a state value.
    SetState {
        /// UTF-8.
        key: Bytes,
        /// May be empty, which is not absence.
        value: Bytes,
    },
    /// Removes a state value.
    ClearState {
        /// UTF-8.
        key: Bytes,
    },
    /// Removes all state of the key.
    ClearAllState,
    /// Asks for the keys of the state.
    GetLazyStateKeys {
        /// Answered under this id.
        completion: u32,
    },
    /// Records a state value that came with Start; the value is inside the entry.
    GetEagerState,
    /// Records the state keys that came with Start; they are inside the entry.
    GetEagerStateKeys,
    /// Waits for a promise.
    GetPromise {
        /// Its name.
        key: String,
        /// Answered under this id.
        completion: u32,
    },
    /// Asks whether a promise is completed.
    PeekPromise {
        /// Its name.
        key: String,
        /// Answered under this id.
        completion: u32,
    },
    /// Completes a promise.
    CompletePromise {
        /// Its name.
        key: String,
        /// With what.
        outcome: Outcome,
        /// Answered under this id.
        completion: u32,
    },
    /// Waits for a time.
    Sleep {
        /// By the endpoint's clock.
        wake_up_at: Timestamp,
        /// Answered under this id.
        completion: u32,
    },
    /// Calls a handler and waits for its result.
    Call(Call),
    /// Calls a handler without waiting.
    OneWayCall(OneWayCall),
    /// Sends a signal.
    SendSignal {
        /// To whom.
        target: InvocationId,
        /// Which.
        signal: SignalId,
        /// With what.
        result: SignalResult,
    },
    /// Marks where a side effect stands; its result comes as a proposal.
    Run {
        /// The result's id.
        completion: u32,
    },
    /// Waits for the result of another invocation.
    AttachInvocation {
        /// Which.
        target: AttachTarget,
        /// Answered under this id.
        completion: u32,
    },
    /// Asks for the result of another invocation.
    GetInvocationOutput {
        /// Which.
        target: AttachTarget,
        /// Answered under this id.
        completion: u32,
    },
    /// Completes an awakeable.
    CompleteAwakeable {
        /// Which.
        id: AwakeableId,
        /// With what.
        outcome: Outcome,
    },
}

/// A call that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the service.
    pub service: String,
    /// Name of the handler.
    pub handler: String,
    /// Empty for plain services; an object may have an empty key as well.
    pub key: String,
    /// The argument.
    pub parameter: Bytes,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// Not empty if present.
    pub idempotency_key: Option<String>,
    /// What the callee's concurrency is counted within; since version 7.
    pub scope: Option<String>,
    /// What is counted within the scope. Only with a scope.
    pub limit_key: Option<String>,
    /// The callee's id is told under this id, first.
    pub invocation_id_completion: u32,
    /// The result is told under this id.
    pub completion: u32,
}

/// A call that is not waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneWayCall {
    /// Name of the service.
    pub service: String,
    /// Name of the handler.
    pub handler: String,
    /// Empty for plain services; an object may have an empty key as well.
    pub key: String,
    /// The argument.
    pub parameter: Bytes,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// Not empty if present.
    pub idempotency_key: Option<String>,
    /// What the callee's concurrency is counted within; since version 7.
    pub scope: Option<String>,
    /// What is counted within the scope. Only with a scope.
    pub limit_key: Option<String>,
    /// When; zero or past means now.
    pub invoke_at: Timestamp,
    /// The callee's id is told under this id.
    pub invocation_id_completion: u32,
}

/// Which signal of an invocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignalId {
    /// By index; 1 cancels.
    Index(u32),
    /// By name.
    Name(String),
}

impl From<SignalId> for crate::NotificationId {
    fn from(id: SignalId) -> Self {
        match id {
            SignalId::Index(index) => Self::Signal(index),
            SignalId::Name(name) => Self::NamedSignal(name),
        }
    }
}

/// What a signal carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalResult {
    /// Nothing.
    Void,
    /// A value.
    Value(Bytes),
    /// A failure.
    Failure(Failure),
}

impl From<SignalResult> for NotificationResult {
    fn from(result: SignalResult) -> Self {
        match result {
            SignalResult::Void => Self::Void,
            SignalResult::Value(value) => Self::Value(value),
            SignalResult::Failure(failure) => Self::Failure(failure),
        }
    }
}

impl From<Outcome> for SignalResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Value(value) => Self::Value(value),
            Outcome::Failure(failure) => Self::Failure(failure),
        }
    }
}

/// Whose result is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachTarget {
    /// By id.
    Invocation(InvocationId),
    /// By what it was called with.
    Idempotent {
        /// Name of the service.
        service: String,
        /// Its key, for keyed services.
        key: Option<String>,
        /// Name of the handler.
        handler: String,
        /// The idempotency key.
        idempotency_key: String,
        /// The scope that it was called in.
        scope: Option<String>,
    },
    /// The run of a workflow.
    Workflow {
        /// Name of the workflow.
        workflow: String,
        /// Its key.
        key: String,
        /// The scope that it was called in.
        scope: Option<String>,
    },
}

/// Why an entry is not a command that can be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The type code is not that of a command.
    #[error("unexpected message of type {0:#06x}")]
    Type(u16),
    /// The payload cannot be read.
    #[error("{ty} cannot be decoded: {reason}")]
    Malformed {
        /// What it claims to be.
        ty: MessageType,
        /// What the decoder says.
        reason: String,
    },
    /// A member without which it says nothing is absent.
    #[error("{ty} lacks its {member}")]
    Missing {
        /// What it is.
        ty: MessageType,
        /// The member.
        member: &'static str,
    },
    /// A state key is not UTF-8.
    #[error("{0}: the state key is not valid UTF-8")]
    StateKey(MessageType),
    /// The id of an invocation or awakeable is not one.
    #[error("{ty}: '{text}' is no id")]
    Id {
        /// What it is.
        ty: MessageType,
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: IdError,
    },
    /// The idempotency key is there and empty.
    #[error("{0}: the idempotency key must not be empty")]
    EmptyIdempotencyKey(MessageType),
    /// A scope or limit key is not written as one, or a limit key lacks its scope.
    #[error("{ty}: {source}")]
    Scope {
        /// What it is.
        ty: MessageType,
        /// What is wrong with it.
        source: ScopeError,
    },
}

impl CommandError {
    /// The documented code.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Type(_) | Self::Malformed { .. } | Self::Missing { .. } => ErrorCode::Rt0012,
            Self::StateKey(_) | Self::Id { .. } | Self::EmptyIdempotencyKey(_) => ErrorCode::Rt0017,
            Self::Scope { .. } => ErrorCode::Rt0024,
        }
    }
}

impl Command {
    /// Reads an entry.
    pub fn decode(entry: &RawEntry) -> Result<Self, CommandError> {
        let ty = entry
            .message_type()
            .filter(|ty| ty.class() == MessageClass::Command)
            .ok_or(CommandError::Type(entry.ty))?;
        bounds::check(ty, &entry.payload)
            .map_err(|reason| CommandError::Malformed { ty, reason })?;
        Reader {
            ty,
            payload: &entry.payload,
        }
        .command()
    }
}

/// Reads the payload of one command.
struct Reader<'a> {
    ty: MessageType,
    payload: &'a Bytes,
}

impl Reader<'_> {
    fn command(&self) -> Result<Command, CommandError> {
        Ok(match self.ty {
            MessageType::Input => {
                let message: proto::InputCommand = self.message()?;
                Command::Input {
                    headers: headers(message.headers),
                    value: message.value.unwrap_or_default().content,
                }
            }
            MessageType::Output => {
                use proto::output_command::Result;
                let message: proto::OutputCommand = self.message()?;
                Command::Output(match self.present(message.result, "result")? {
                    Result::Value(value) => Outcome::Value(value.content),
                    Result::Failure(failure) => Outcome::Failure(failure.into()),
                })
            }
            MessageType::GetLazyState => {
                let message: proto::GetLazyStateCommand = self.message()?;
                Command::GetLazyState {
                    key: self.state_key(message.key)?,
                    completion: message.result_completion_id,
                }
            }
            MessageType::SetState => {
                let message: proto::SetStateCommand = self.message()?;
                Command::SetState {
                    key: self.state_key(message.key)?,
                    value: self.present(message.value, "value")?.content,
                }
            }
            MessageType::ClearState => {
                let message: proto::ClearStateCommand = self.message()?;
                Command::ClearState {
                    key: self.state_key(message.key)?,
                }
            }
            MessageType::ClearAllState => {
                let _: proto::ClearAllStateCommand = self.message()?;
                Command::ClearAllState
            }
            MessageType::GetLazyStateKeys => {
                let message: proto::GetLazyStateKeysCommand = self.message()?;
                Command::GetLazyStateKeys {
                    completion: message.result_completion_id,
                }
            }
            MessageType::GetEagerState => {
                let message: proto::GetEagerStateCommand = self.message()?;
                self.state_key(message.key)?;
                self.present(message.result, "result")?;
                Command::GetEagerState
            }
            MessageType::GetEagerStateKeys => {
                let message: proto::GetEagerStateKeysCommand = self.message()?;
                self.present(message.value, "value")?;
                Command::GetEagerStateKeys
            }
            MessageType::GetPromise => {
                let message: proto::GetPromiseCommand = self.message()?;
                Command::GetPromise {
                    key: message.key,
                    completion: message.result_completion_id,
                }
            }
            MessageType::PeekPromise => {
                let message: proto::PeekPromiseCommand = self.message()?;
                Command::PeekPromise {
                    key: message.key,
                    completion: message.result_completion_id,
                }
            }
            MessageType::CompletePromise => self.complete_promise()?,
            MessageType::Sleep => {
                let message: proto::SleepCommand = self.message()?;
                Command::Sleep {
                    wake_up_at: Timestamp(message.wake_up_time),
                    completion: message.result_completion_id,
                }
            }
            MessageType::Call => self.call()?,
            MessageType::OneWayCall => self.one_way_call()?,
            MessageType::SendSignal => self.send_signal()?,
            MessageType::Run => {
                let message: proto::RunCommand = self.message()?;
                Command::Run {
                    completion: message.result_completion_id,
                }
            }
            MessageType::AttachInvocation => {
                use proto::attach_invocation_command::Target;
                let message: proto::AttachInvocationCommand = self.message()?;
                let target = match self.present(message.target, "target")? {
                    Target::InvocationId(id) => AttachTarget::Invocation(self.invocation(id)?),
                    Target::IdempotentRequestTarget(target) => self.idempotent(target)?,
                    Target::WorkflowTarget(target) => self.workflow(target)?,
                };
                Command::AttachInvocation {
                    target,
                    completion: message.result_completion_id,
                }
            }
            MessageType::GetInvocationOutput => {
                use proto::get_invocation_output_command::Target;
                let message: proto::GetInvocationOutputCommand = self.message()?;
                let target = match self.present(message.target, "target")? {
                    Target::InvocationId(id) => AttachTarget::Invocation(self.invocation(id)?),
                    Target::IdempotentRequestTarget(target) => self.idempotent(target)?,
                    Target::WorkflowTarget(target) => self.workflow(target)?,
                };
                Command::GetInvocationOutput {
                    target,
                    completion: message.result_completion_id,
                }
            }
            MessageType::CompleteAwakeable => self.complete_awakeable()?,
            other => return Err(CommandError::Type(other.code())),
        })
    }

    fn complete_promise(&self) -> Result<Command, CommandError> {
        use proto::complete_promise_command::Completion;
        let message: proto::CompletePromiseCommand = self.message()?;
        Ok(Command::CompletePromise {
            key: message.key,
            outcome: match self.present(message.completion, "completion")? {
                Completion::CompletionValue(value) => Outcome::Value(value.content),
                Completion::CompletionFailure(failure) => Outcome::Failure(failure.into()),
            },
            completion: message.result_completion_id,
        })
    }

    fn call(&self) -> Result<Command, CommandError> {
        let message: proto::CallCommand = self.message()?;
        self.scope(message.scope.as_deref(), message.limit_key.as_deref())?;
        Ok(Command::Call(Call {
            service: message.service_name,
            handler: message.handler_name,
            key: message.key,
            parameter: message.parameter,
            headers: headers(message.headers),
            idempotency_key: self.idempotency_key(message.idempotency_key)?,
            scope: message.scope,
            limit_key: message.limit_key,
            invocation_id_completion: message.invocation_id_notification_idx,
            completion: message.result_completion_id,
        }))
    }

    fn one_way_call(&self) -> Result<Command, CommandError> {
        let message: proto::OneWayCallCommand = self.message()?;
        self.scope(message.scope.as_deref(), message.limit_key.as_deref())?;
        Ok(Command::OneWayCall(OneWayCall {
            service: message.service_name,
            handler: message.handler_name,
            key: message.key,
            parameter: message.parameter,
            headers: headers(message.headers),
            idempotency_key: self.idempotency_key(message.idempotency_key)?,
            scope: message.scope,
            limit_key: message.limit_key,
            invoke_at: Timestamp(message.invoke_time),
            invocation_id_completion: message.invocation_id_notification_idx,
        }))
    }

    fn send_signal(&self) -> Result<Command, CommandError> {
        use proto::send_signal_command::{Result, SignalId as Id};
        let message: proto::SendSignalCommand = self.message()?;
        Ok(Command::SendSignal {
            target: self.invocation(message.target_invocation_id)?,
            signal: match self.present(message.signal_id, "signal id")? {
                Id::Idx(index) => SignalId::Index(index),
                Id::Name(name) => SignalId::Name(name),
            },
            result: match self.present(message.result, "result")? {
                Result::Void(_) => SignalResult::Void,
                Result::Value(value) => SignalResult::Value(value.content),
                Result::Failure(failure) => SignalResult::Failure(failure.into()),
            },
        })
    }

    fn complete_awakeable(&self) -> Result<Command, CommandError> {
        use proto::complete_awakeable_command::Result;
        let message: proto::CompleteAwakeableCommand = self.message()?;
        Ok(Command::CompleteAwakeable {
            id: self.id(message.awakeable_id)?,
            outcome: match self.present(message.result, "result")? {
                Result::Value(value) => Outcome::Value(value.content),
                Result::Failure(failure) => Outcome::Failure(failure.into()),
            },
        })
    }

    fn idempotent(
        &self,
        target: proto::IdempotentRequestTarget,
    ) -> Result<AttachTarget, CommandError> {
        self.scope(target.scope.as_deref(), None)?;
        if target.idempotency_key.is_empty() {
            return Err(CommandError::EmptyIdempotencyKey(self.ty));
        }
        Ok(AttachTarget::Idempotent {
            service: target.service_name,
            key: target.service_key,
            handler: target.handler_name,
            idempotency_key: target.idempotency_key,
            scope: target.scope,
        })
    }

    fn workflow(&self, target: proto::WorkflowTarget) -> Result<AttachTarget, CommandError> {
        self.scope(target.scope.as_deref(), None)?;
        Ok(AttachTarget::Workflow {
            workflow: target.workflow_name,
            key: target.workflow_key,
            scope: target.scope,
        })
    }

    fn message<M: Message + Default>(&self) -> Result<M, CommandError> {
        M::decode(self.payload.clone()).map_err(|error| CommandError::Malformed {
            ty: self.ty,
            reason: error.to_string(),
        })
    }

    fn present<T>(&self, member: Option<T>, name: &'static str) -> Result<T, CommandError> {
        member.ok_or(CommandError::Missing {
            ty: self.ty,
            member: name,
        })
    }

    fn state_key(&self, key: Bytes) -> Result<Bytes, CommandError> {
        match std::str::from_utf8(&key) {
            Ok(_) => Ok(key),
            Err(_) => Err(CommandError::StateKey(self.ty)),
        }
    }

    fn invocation(&self, text: String) -> Result<InvocationId, CommandError> {
        self.id(text)
    }

    fn id<T: std::str::FromStr<Err = IdError>>(&self, text: String) -> Result<T, CommandError> {
        text.parse().map_err(|source| CommandError::Id {
            ty: self.ty,
            text,
            source,
        })
    }

    fn idempotency_key(&self, key: Option<String>) -> Result<Option<String>, CommandError> {
        if key.as_deref() == Some("") {
            return Err(CommandError::EmptyIdempotencyKey(self.ty));
        }
        Ok(key)
    }

    fn scope(&self, scope: Option<&str>, limit_key: Option<&str>) -> Result<(), CommandError> {
        scope::check(scope, limit_key).map_err(|source| CommandError::Scope {
            ty: self.ty,
            source,
        })
    }
}

fn headers(headers: Vec<proto::Header>) -> Vec<(String, String)> {
    headers
        .into_iter()
        .map(|header| (header.key, header.value))
        .collect()
}
