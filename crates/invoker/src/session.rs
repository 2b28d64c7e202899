//! What the frames of one attempt mean. No I/O: frames in, effects out.

use std::collections::BTreeSet;
use std::sync::Arc;

use abide_schema::Schema;
use abide_service_protocol::{
    AttachTarget, Await, AwaitError, Command, ErrorCode, Failure, Frame, FrameError, MessageClass,
    MessageType, Notification, NotificationId, Outcome, ProtocolVersion, RawEntry, invocation_code,
    proto,
};
use abide_types::{HandlerKind, InvocationTarget, ServiceKind};
use prost::Message;
use tokio::sync::watch;

use crate::api::{Effect, PinnedDeployment, RelatedCommand, ResolvedTarget, Retry, ToAttempt};
use crate::failure::{Details, Trouble};
use crate::outgoing::Outgoing;

/// What an attempt has to know to judge its endpoint's frames.
pub(crate) struct Session {
    version: ProtocolVersion,
    service_kind: ServiceKind,
    handler_kind: HandlerKind,
    schema: watch::Receiver<Arc<Schema>>,
    limits: Limits,
    /// The deployment to pin with the first entry; `None` once that is said.
    unpinned: Option<PinnedDeployment>,
    /// Entries that were replayed; the leader's notifications below it are in them.
    replayed: u32,
    /// Commands so far, the replayed ones included.
    commands: u32,
    has_output: bool,
    /// Runs whose results were proposed on this stream.
    proposed: BTreeSet<u32>,
    /// Those of them that the endpoint wants acked instead of echoed.
    wants_ack: BTreeSet<u32>,
}

/// What of a frame hangs on the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How deep the things that a handler awaits may be nested.
    pub(crate) await_depth_max: usize,
    /// Whether calls may carry scopes and limit keys.
    pub(crate) scopes: bool,
}

/// How an attempt goes on after a frame.
pub(crate) enum Step {
    /// This was done.
    Effect(Effect),
    /// Nothing is to be told.
    Nothing,
}

impl Session {
    pub(crate) fn new(
        target: &InvocationTarget,
        version: ProtocolVersion,
        unpinned: Option<PinnedDeployment>,
        journal: &[RawEntry],
        schema: watch::Receiver<Arc<Schema>>,
        limits: Limits,
    ) -> Self {
        let commands = journal.iter().filter(|entry| entry.is_command()).count();
        let output = MessageType::Output.code();
        Self {
            version,
            service_kind: target.service_kind,
            handler_kind: target.handler_kind,
            schema,
            limits,
            unpinned,
            replayed: u32::try_from(journal.len()).unwrap_or(u32::MAX),
            commands: u32::try_from(commands).unwrap_or(u32::MAX),
            has_output: journal.iter().any(|entry| entry.ty == output),
            proposed: BTreeSet::new(),
            wants_ack: BTreeSet::new(),
        }
    }

    /// Judges a frame and appends what it does to `effects`. An error ends the attempt, as does a terminal effect.
    pub(crate) fn on_frame(
        &mut self,
        frame: Frame,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Trouble> {
        let effect = match MessageType::from_code(frame.ty) {
            Some(MessageType::Suspension) => self.on_suspension(frame)?,
            Some(MessageType::Error) => return Err(self.on_error(frame)),
            Some(MessageType::End) => self.on_end()?,
            Some(MessageType::ProposeRunCompletion) => match self.on_proposal(frame)? {
                Step::Effect(effect) => effect,
                Step::Nothing => return Ok(()),
            },
            Some(MessageType::AwaitingOn) => return self.on_awaiting(frame),
            Some(ty) if ty.class() == MessageClass::Command && ty != MessageType::Input => {
                self.on_command(ty, frame)?
            }
            Some(ty) => return Err(Trouble::protocol(format!("unexpected message {ty}"))),
            None => {
                return Err(Trouble::protocol(format!(
                    "unknown message type {:#06x}",
                    frame.ty
                )));
            }
        };
        if let Effect::Command { .. } | Effect::RunProposal { .. } = effect
            && let Some(pinned) = self.unpinned.take()
        {
            effects.push(Effect::Pinned(pinned));
        }
        effects.push(effect);
        Ok(())
    }

    /// What is sent of a message of the leader.
    pub(crate) fn on_message(&mut self, message: ToAttempt, out: &mut Outgoing) {
        match message {
            ToAttempt::Notification { index, .. } if index < self.replayed => {}
            ToAttempt::Notification { entry, .. } => {
                if let Some(completion_id) = self.ack_of(&entry) {
                    out.put_message(
                        MessageType::ProposeRunCompletionAck,
                        &proto::ProposeRunCompletionAck { completion_id },
                    );
                } else {
                    out.put_entry(entry);
                }
            }
            ToAttempt::CommandAck { command_index } => {
                out.put_message(
                    MessageType::CommandAck,
                    &proto::CommandAck { command_index },
                );
            }
        }
    }

    fn ack_of(&mut self, entry: &RawEntry) -> Option<u32> {
        if entry.ty != MessageType::RunCompletion.code() || self.wants_ack.is_empty() {
            return None;
        }
        match Notification::decode(entry).ok()?.id {
            NotificationId::Completion(id) => self.wants_ack.remove(&id).then_some(id),
            NotificationId::Signal(_) | NotificationId::NamedSignal(_) => None,
        }
    }

    fn on_command(&mut self, ty: MessageType, frame: Frame) -> Result<Effect, Trouble> {
        let entry = RawEntry {
            ty: frame.ty,
            payload: frame.payload,
        };
        let related = |name: String| RelatedCommand {
            index: Some(self.commands),
            name: Some(name).filter(|name| !name.is_empty()),
            ty: Some(ty.code()),
        };
        let callee = Command::decode(&entry)
            .map_err(|error| Trouble::coded(error.code(), error.to_string()))
            .and_then(|command| {
                self.check_permission(ty)?;
                self.callee(&command)
            })
            .map_err(|trouble| trouble.related_to(related(entry.command_name())))?;
        self.commands += 1;
        self.has_output |= ty == MessageType::Output;
        Ok(Effect::Command {
            entry,
            callee,
            ack: frame.requested_ack,
        })
    }

    fn check_permission(&self, ty: MessageType) -> Result<(), Trouble> {
        use MessageType as T;
        let refuse =
            |reason: &str| Err(Trouble::coded(ErrorCode::Rt0017, format!("{ty}: {reason}")));
        match ty {
            T::GetLazyState | T::GetLazyStateKeys | T::GetEagerState | T::GetEagerStateKeys
                if !self.service_kind.is_keyed() =>
            {
                refuse("a plain service has no state")
            }
            T::SetState | T::ClearState | T::ClearAllState if !self.handler_kind.writes_state() => {
                refuse(if self.service_kind.is_keyed() {
                    "a shared handler cannot change state"
                } else {
                    "a plain service has no state"
                })
            }
            T::GetPromise | T::PeekPromise | T::CompletePromise
                if self.service_kind != ServiceKind::Workflow =>
            {
                refuse("only workflows have promises")
            }
            _ => Ok(()),
        }
    }

    fn callee(&self, command: &Command) -> Result<Option<ResolvedTarget>, Trouble> {
        let (service, handler, key, idempotent, scope) = match command {
            Command::Call(call) => (
                &call.service,
                &call.handler,
                &call.key,
                call.idempotency_key.is_some(),
                &call.scope,
            ),
            Command::OneWayCall(call) => (
                &call.service,
                &call.handler,
                &call.key,
                call.idempotency_key.is_some(),
                &call.scope,
            ),
            Command::AttachInvocation { target, .. }
            | Command::GetInvocationOutput { target, .. } => {
                self.check_scope(match target {
                    AttachTarget::Idempotent { scope, .. }
                    | AttachTarget::Workflow { scope, .. } => scope,
                    AttachTarget::Invocation(_) => &None,
                })?;
                return Ok(None);
            }
            _ => return Ok(None),
        };
        self.check_scope(scope)?;
        let schema = self.schema.borrow();
        let resolved = schema
            .resolve(service, handler)
            .map_err(|error| Trouble::coded(ErrorCode::Rt0018, error.to_string()))?;
        if scope.is_some() && resolved.service_kind == ServiceKind::VirtualObject {
            return Err(Trouble::coded(
                ErrorCode::Rt0017,
                format!("{service} is a virtual object, which cannot be called within a scope"),
            ));
        }
        let key = if resolved.service_kind.is_keyed() {
            Some(key.clone())
        } else if key.is_empty() {
            None
        } else {
            return Err(Trouble::coded(
                ErrorCode::Rt0017,
                format!("{service} is a plain service and is called with the key '{key}'"),
            ));
        };
        Ok(Some(ResolvedTarget {
            target: resolved.target(key),
            retention: resolved.retention(idempotent),
        }))
    }

    fn check_scope(&self, scope: &Option<String>) -> Result<(), Trouble> {
        match scope {
            Some(scope) if !self.limits.scopes => Err(Trouble::coded(
                ErrorCode::Rt0024,
                format!("the scope '{scope}' is set, and scopes are not enabled on this server"),
            )),
            _ => Ok(()),
        }
    }

    fn on_proposal(&mut self, frame: Frame) -> Result<Step, Trouble> {
        use proto::propose_run_completion::Result;
        let proposal: proto::ProposeRunCompletion = decode(&frame)?;
        let id = proposal.result_completion_id;
        let outcome = match proposal.result {
            Some(Result::Value(value)) => Outcome::Value(value),
            Some(Result::Failure(failure)) => Outcome::Failure(failure.into()),
            None => {
                return Err(Trouble::protocol(format!(
                    "ProposeRunCompletion for {id} lacks its result"
                )));
            }
        };
        if !self.proposed.insert(id) {
            // The first one stands: its result may have been acted on already.
            return Ok(Step::Nothing);
        }
        if frame.requested_ack && self.version.has_await_trees() {
            self.wants_ack.insert(id);
        }
        let entry = Notification::run(id, outcome).into_entry();
        Ok(Step::Effect(Effect::RunProposal { entry }))
    }

    fn on_suspension(&self, frame: Frame) -> Result<Effect, Trouble> {
        let suspension: proto::Suspension = decode(&frame)?;
        let awaiting = if self.version.has_await_trees() {
            Await::decode_within(suspension.awaiting_on, self.limits.await_depth_max)
        } else {
            let completions = suspension.waiting_completions.into_iter();
            let signals = suspension.waiting_signals.into_iter();
            let named = suspension.waiting_named_signals.into_iter();
            Await::any_of(
                completions
                    .map(NotificationId::Completion)
                    .chain(signals.map(NotificationId::Signal))
                    .chain(named.map(NotificationId::NamedSignal)),
            )
        };
        Ok(Effect::Suspended {
            awaiting: awaiting
                .map_err(|error| await_trouble("Suspension", &error))?
                .into_bytes(),
        })
    }

    /// Only a hint, and not used; a wrong one is an error all the same, so that it is noticed.
    fn on_awaiting(&self, frame: Frame) -> Result<(), Trouble> {
        if !self.version.has_await_trees() {
            return Err(Trouble::protocol(format!(
                "unexpected message AwaitingOn in service protocol {}",
                self.version
            )));
        }
        let awaiting: proto::AwaitingOn = decode(&frame)?;
        Await::decode_within(awaiting.awaiting_on, self.limits.await_depth_max)
            .map_err(|error| await_trouble("AwaitingOn", &error))
            .map(|_| ())
    }

    fn on_end(&self) -> Result<Effect, Trouble> {
        if self.has_output {
            Ok(Effect::End)
        } else {
            Err(Trouble::protocol("End without an Output"))
        }
    }

    fn on_error(&self, frame: Frame) -> Trouble {
        let error: proto::Error = match decode(&frame) {
            Ok(error) => error,
            Err(trouble) => return trouble,
        };
        let behavior = error.behavior();
        let failure = Failure {
            stacktrace: Some(error.stacktrace).filter(|stacktrace| !stacktrace.is_empty()),
            ..Failure::from(proto::Failure {
                code: error.code,
                message: error.message,
                metadata: Vec::new(),
            })
        };
        Trouble::new(Details {
            code: Some(match failure.code {
                invocation_code::JOURNAL_MISMATCH => ErrorCode::Rt0016,
                _ => ErrorCode::Rt0007,
            }),
            failure,
            retry: match (behavior, error.next_retry_delay) {
                (proto::ErrorBehavior::Pause, _) => Retry::Pause,
                (proto::ErrorBehavior::Fail, _) => Retry::Fail,
                (proto::ErrorBehavior::Retry, Some(delay)) => {
                    Retry::After(std::time::Duration::from_millis(delay))
                }
                (proto::ErrorBehavior::Retry, None) => Retry::Policy,
            },
            related: RelatedCommand {
                index: error.related_command_index,
                name: error.related_command_name.filter(|name| !name.is_empty()),
                ty: error
                    .related_command_type
                    .and_then(|ty| u16::try_from(ty).ok()),
            },
            bumps_retry_count: true,
        })
    }
}

/// The failure of an attempt whose stream is not one of frames.
pub(crate) fn frame_trouble(error: &FrameError) -> Trouble {
    match error {
        FrameError::TooLong { .. } => Trouble::coded(ErrorCode::Rt0003, error.to_string()),
        FrameError::Truncated { .. } => Trouble::internal(error.to_string()),
    }
}

fn await_trouble(what: &str, error: &AwaitError) -> Trouble {
    let message = format!("{what}: {error}");
    match error {
        AwaitError::TooDeep(_) => Trouble::coded(ErrorCode::Rt0025, message).pausing(),
        AwaitError::Malformed(_) | AwaitError::TooLong(_) | AwaitError::Empty => {
            Trouble::protocol(message)
        }
    }
}

fn decode<M: Message + Default>(frame: &Frame) -> Result<M, Trouble> {
    let name = MessageType::from_code(frame.ty).map_or("message", MessageType::name);
    abide_service_protocol::decode_control(frame)
        .map_err(|reason| Trouble::protocol(format!("{name} cannot be decoded: {reason}")))
}
