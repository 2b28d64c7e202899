//! What each command of a handler does when it is committed (service protocol reference, section 5.5).

use std::ops::ControlFlow;

use abide_service_protocol::{
    AttachTarget, Call, Command, Notification, NotificationId, NotificationResult, OneWayCall,
    Outcome, RawEntry, SignalId, SignalResult,
};
use abide_types::{
    HandlerKind, InvocationId, InvocationTarget, ServiceKind, Timestamp, parse_limit_key,
};
use bytes::Bytes;
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::action::Action;
use crate::apply::Transaction;
use crate::convert::{outcome_from_stored, outcome_to_stored};
use crate::keys::{self, TimerKey, TimerKind};
use crate::lifecycle::decode_row;
use crate::proto::{self, Invocation, Promise, Sink, SinkKind, Status, attempt_effect};
use crate::store::StoreError;

/// Calls to plain services stay in their caller's partition for so many commands, which spares the outbox and a
/// commit elsewhere; what one handler calls beyond that is spread over the cluster.
const LOCAL_CALLS_MAX: u32 = 64;

/// An object's own rows: service, as its rows name it, and key.
struct Object {
    service: String,
    key: String,
}

impl Transaction<'_> {
    /// What one attempt did, in order. Loads and saves the invocation once.
    pub(crate) fn attempt_effects(
        &mut self,
        effects: proto::AttemptEffects,
    ) -> Result<(), StoreError> {
        let Some((id, mut invocation)) = self.invoked(&effects.id, effects.incarnation)? else {
            return Ok(());
        };
        self.span = effects.span;
        for effect in effects.effects {
            use attempt_effect::Kind;
            match effect.kind {
                Some(Kind::Pinned(pinned)) => {
                    invocation.pinned.get_or_insert(pinned);
                }
                Some(Kind::Command(entry)) => {
                    self.command_entry(&id, &mut invocation, entry, effect.callee, effect.ack)?;
                }
                Some(Kind::RunProposal(entry)) => {
                    let entry = raw_entry(entry);
                    if let Ok(notification) = Notification::decode(&entry) {
                        self.notify_entry(&id, &mut invocation, entry, notification.id)?;
                    }
                }
                Some(Kind::Suspended(awaiting)) => {
                    if self.wakes(&id, &invocation, awaiting.clone(), None)? {
                        self.start(&id, &mut invocation);
                    } else {
                        self.stop(&id, &mut invocation, Status::Suspended);
                        self.note_suspension(&id, &mut invocation, &awaiting)?;
                        invocation.awaiting = awaiting;
                    }
                    break;
                }
                Some(Kind::End(_)) => {
                    // The invoker lets no End pass without an Output.
                    let outcome = invocation.outcome.take().unwrap_or_else(|| {
                        proto::Outcome::failed(500, "the handler ended without output")
                    });
                    return self.complete(&id, invocation, outcome);
                }
                None => {}
            }
        }
        self.save(&id, &mut invocation);
        Ok(())
    }

    fn command_entry(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        entry: proto::Entry,
        callee: Option<proto::Callee>,
        ack: bool,
    ) -> Result<(), StoreError> {
        let entry = raw_entry(entry);
        let index = self.append(id, invocation, entry.ty, entry.payload.clone());
        let command_index = invocation.command_count;
        invocation.command_count += 1;
        // The invoker has decoded it before it was proposed; what does not decode is stored and does nothing.
        if let Ok(command) = Command::decode(&entry) {
            self.journal_command(id, invocation, index, command, callee)?;
        }
        if ack {
            self.actions.push(Action::CommandAck {
                id: *id,
                command_index,
            });
        }
        Ok(())
    }

    fn journal_command(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        index: u32,
        command: Command,
        callee: Option<proto::Callee>,
    ) -> Result<(), StoreError> {
        match command {
            // Their results are inside, or come as a proposal.
            Command::Input { .. }
            | Command::GetEagerState
            | Command::GetEagerStateKeys
            | Command::Run { .. } => Ok(()),
            Command::Output(outcome) => {
                // The last one wins.
                invocation.outcome = Some(outcome_to_stored(outcome));
                Ok(())
            }
            Command::GetLazyState { key, completion } => {
                let value = match object(invocation) {
                    Some(object) => {
                        self.store
                            .get(&keys::state(&object.service, &object.key, &key))?
                    }
                    None => None,
                };
                self.notify(id, invocation, Notification::state(completion, value))
            }
            Command::GetLazyStateKeys { completion } => {
                let names = self.state_names(invocation)?;
                self.notify(id, invocation, Notification::state_keys(completion, names))
            }
            Command::SetState { key, value } => {
                if let Some(object) = object(invocation) {
                    self.store
                        .put(keys::state(&object.service, &object.key, &key), value);
                }
                Ok(())
            }
            Command::ClearState { key } => {
                if let Some(object) = object(invocation) {
                    self.store
                        .delete(keys::state(&object.service, &object.key, &key));
                }
                Ok(())
            }
            Command::ClearAllState => match object(invocation) {
                Some(object) => self.delete_prefix(&keys::state_of(&object.service, &object.key)),
                None => Ok(()),
            },
            Command::GetPromise { key, completion } => {
                self.get_promise(id, invocation, &key, completion)
            }
            Command::PeekPromise { key, completion } => {
                let promise = self.load_promise(id, invocation, &key)?;
                let outcome = promise.outcome.map(outcome_from_stored);
                self.notify(
                    id,
                    invocation,
                    Notification::promise_peeked(completion, outcome),
                )
            }
            Command::CompletePromise {
                key,
                outcome,
                completion,
            } => self.complete_promise(id, invocation, &key, outcome, completion),
            Command::Sleep {
                wake_up_at,
                completion,
            } => {
                let timer = TimerKey {
                    due: wake_up_at,
                    kind: TimerKind::Sleep,
                    invocation: *id,
                    completion_id: completion,
                };
                self.arm_timer(timer, invocation);
                Ok(())
            }
            Command::Call(call) => match callee {
                Some(callee) => self.call(id, invocation, index, call.into(), callee),
                None => Ok(()),
            },
            Command::OneWayCall(call) => match callee {
                Some(callee) => self.call(id, invocation, index, call.into(), callee),
                None => Ok(()),
            },
            Command::SendSignal {
                target,
                signal,
                result,
            } => {
                self.send_signal(&target, signal.into(), result);
                Ok(())
            }
            Command::AttachInvocation { target, completion } => {
                self.send_attach(id, invocation, &target, completion, SinkKind::Attach);
                Ok(())
            }
            Command::GetInvocationOutput { target, completion } => {
                self.send_attach(id, invocation, &target, completion, SinkKind::Output);
                Ok(())
            }
            Command::CompleteAwakeable {
                id: awakeable,
                outcome,
            } => {
                self.send_signal(
                    &awakeable.invocation,
                    NotificationId::Signal(awakeable.signal),
                    SignalResult::from(outcome),
                );
                Ok(())
            }
        }
    }

    fn state_names(&self, invocation: &Invocation) -> Result<Vec<Bytes>, StoreError> {
        let mut names = Vec::new();
        if let Some(object) = object(invocation) {
            let prefix = keys::state_of(&object.service, &object.key);
            self.store
                .scan(&prefix, &keys::prefix_end(&prefix), &mut |key, _| {
                    names.push(Bytes::copy_from_slice(&key[prefix.len()..]));
                    ControlFlow::Continue(())
                })?;
        }
        Ok(names)
    }

    fn load_promise(
        &self,
        id: &InvocationId,
        invocation: &Invocation,
        name: &str,
    ) -> Result<Promise, StoreError> {
        let Some(object) = object(invocation) else {
            return Ok(Promise::default());
        };
        match self
            .store
            .get(&keys::promise(&object.service, &object.key, name))?
        {
            Some(value) => decode_row("decode promise", id, value),
            None => Ok(Promise::default()),
        }
    }

    fn save_promise(&mut self, invocation: &Invocation, name: &str, promise: &Promise) {
        if let Some(object) = object(invocation) {
            self.store.put(
                keys::promise(&object.service, &object.key, name),
                promise.encode_to_vec().into(),
            );
        }
    }

    fn get_promise(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        name: &str,
        completion: u32,
    ) -> Result<(), StoreError> {
        let mut promise = self.load_promise(id, invocation, name)?;
        if let Some(outcome) = promise.outcome {
            let outcome = outcome_from_stored(outcome);
            return self.notify(id, invocation, Notification::promise(completion, outcome));
        }
        promise
            .waiters
            .push(sink(id, invocation, completion, SinkKind::Promise));
        self.save_promise(invocation, name, &promise);
        Ok(())
    }

    fn complete_promise(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        name: &str,
        outcome: Outcome,
        completion: u32,
    ) -> Result<(), StoreError> {
        let mut promise = self.load_promise(id, invocation, name)?;
        let refused = promise
            .outcome
            .is_some()
            .then(|| abide_service_protocol::Failure::new(409, "promise was already completed"));
        if refused.is_none() {
            let outcome = outcome_to_stored(outcome);
            for waiter in std::mem::take(&mut promise.waiters) {
                self.respond(waiter, Some(outcome.clone()));
            }
            promise.outcome = Some(outcome);
            self.save_promise(invocation, name, &promise);
        }
        self.notify(
            id,
            invocation,
            Notification::promise_completed(completion, refused),
        )
    }

    /// Sends an invocation on its way, and tells the caller its id.
    fn call(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        index: u32,
        request: Request,
        callee: proto::Callee,
    ) -> Result<(), StoreError> {
        let flow = flow(request.scope, request.limit_key);
        let callee_id = callee_id(
            id,
            invocation,
            index,
            &callee,
            flow.as_deref(),
            request.idempotency_key.as_deref(),
        );
        self.notify(
            id,
            invocation,
            Notification::call_invocation_id(request.invocation_id_completion, &callee_id),
        )?;
        let (execute_at, sink, trace) = match request.reply {
            Reply::Under(completion) => {
                let sink = sink(id, invocation, completion, SinkKind::Call);
                (0, Some(sink), self.trace_of_call(invocation))
            }
            Reply::None { at } => (at.0, None, self.trace_of_send(invocation, &callee_id)),
        };
        let invoke = proto::Invoke {
            id: Bytes::copy_from_slice(&callee_id.to_bytes()),
            target: callee.target,
            input: RawEntry::input(request.headers, request.parameter).payload,
            idempotency_key: request.idempotency_key,
            execute_at,
            completion_retention_ms: callee.completion_retention_ms,
            journal_retention_ms: callee.journal_retention_ms,
            sink,
            invoked_by: Bytes::copy_from_slice(&id.to_bytes()),
            invoked_by_target: invocation.target.clone().map(Box::new),
            flow,
            trace,
            ..Default::default()
        };
        self.send(&callee_id, proto::message::Kind::Invoke(invoke));
        Ok(())
    }

    fn send_signal(&mut self, target: &InvocationId, signal: NotificationId, result: SignalResult) {
        use proto::signal::Signal;
        let signal = match signal {
            NotificationId::Signal(index) => Signal::Index(index),
            NotificationId::NamedSignal(name) => Signal::Name(name),
            // A signal is never named by a completion; see `SignalId`.
            NotificationId::Completion(_) => return,
        };
        let outcome = match NotificationResult::from(result) {
            NotificationResult::Value(value) => Some(outcome_to_stored(Outcome::Value(value))),
            NotificationResult::Failure(failure) => {
                Some(outcome_to_stored(Outcome::Failure(failure)))
            }
            _ => None,
        };
        self.send(
            target,
            proto::message::Kind::Signal(proto::Signal {
                id: Bytes::copy_from_slice(&target.to_bytes()),
                signal: Some(signal),
                outcome,
                ..Default::default()
            }),
        );
    }

    fn send_attach(
        &mut self,
        id: &InvocationId,
        invocation: &Invocation,
        target: &AttachTarget,
        completion: u32,
        kind: SinkKind,
    ) {
        let target = attach_target_id(target);
        self.send(
            &target,
            proto::message::Kind::Attach(proto::Attach {
                id: Bytes::copy_from_slice(&target.to_bytes()),
                sink: Some(sink(id, invocation, completion, kind)),
            }),
        );
    }
}

fn raw_entry(entry: proto::Entry) -> RawEntry {
    RawEntry {
        // A type that does not fit decodes as none.
        ty: u16::try_from(entry.ty).unwrap_or(u16::MAX),
        payload: entry.payload,
    }
}

fn object(invocation: &Invocation) -> Option<Object> {
    let target = invocation.target.as_ref()?;
    Some(Object {
        service: keys::service_in(invocation.flow.as_deref(), &target.service).into_owned(),
        key: target.key.clone()?,
    })
}

/// What calls and one-way calls have in common.
struct Request {
    parameter: Bytes,
    headers: Vec<(String, String)>,
    idempotency_key: Option<String>,
    scope: Option<String>,
    limit_key: Option<String>,
    invocation_id_completion: u32,
    reply: Reply,
}

/// Whether anybody waits for the callee.
enum Reply {
    /// The caller, under this completion id.
    Under(u32),
    /// Nobody; it runs from then on.
    None { at: Timestamp },
}

impl From<Call> for Request {
    fn from(call: Call) -> Self {
        Self {
            parameter: call.parameter,
            headers: call.headers,
            idempotency_key: call.idempotency_key,
            scope: call.scope,
            limit_key: call.limit_key,
            invocation_id_completion: call.invocation_id_completion,
            reply: Reply::Under(call.completion),
        }
    }
}

impl From<OneWayCall> for Request {
    fn from(call: OneWayCall) -> Self {
        Self {
            parameter: call.parameter,
            headers: call.headers,
            idempotency_key: call.idempotency_key,
            scope: call.scope,
            limit_key: call.limit_key,
            invocation_id_completion: call.invocation_id_completion,
            reply: Reply::None { at: call.invoke_at },
        }
    }
}

fn sink(id: &InvocationId, invocation: &Invocation, completion_id: u32, kind: SinkKind) -> Sink {
    Sink {
        invocation: Bytes::copy_from_slice(&id.to_bytes()),
        completion_id,
        kind: kind as i32,
        incarnation: invocation.incarnation,
    }
}

/// Where a callee counts. The invoker has checked both.
fn flow(scope: Option<String>, limit_key: Option<String>) -> Option<Box<proto::Flow>> {
    let limit_key = limit_key.as_deref().unwrap_or_default();
    let limit_key = parse_limit_key(limit_key).ok().flatten();
    scope.map(|scope| {
        Box::new(proto::Flow {
            scope,
            limit_key: limit_key.map(str::to_owned),
        })
    })
}

/// The id of a callee: the same on every replica and in every replay.
fn callee_id(
    id: &InvocationId,
    invocation: &Invocation,
    index: u32,
    callee: &proto::Callee,
    flow: Option<&proto::Flow>,
    idempotency_key: Option<&str>,
) -> InvocationId {
    let mut seed = [0; InvocationId::LENGTH + 12];
    seed[..24].copy_from_slice(&id.to_bytes());
    seed[24..32].copy_from_slice(&invocation.incarnation.to_be_bytes());
    seed[32..].copy_from_slice(&index.to_be_bytes());
    let random = xxh3_128(&seed);
    let target =
        InvocationTarget::from(callee.target.as_ref().unwrap_or(&proto::Target::default()));
    let is_plain = target.service_kind == ServiceKind::Service && idempotency_key.is_none();
    if let Some(flow) = flow {
        return target.scoped_id(Some(&flow.scope), idempotency_key, random);
    }
    if is_plain && index < LOCAL_CALLS_MAX {
        return InvocationId::new(id.partition_key(), random.to_be_bytes());
    }
    target.invocation_id(idempotency_key, random)
}

/// The id that the described invocation has, whether it exists or not.
pub fn attach_target_id(target: &AttachTarget) -> InvocationId {
    match target {
        AttachTarget::Invocation(id) => *id,
        AttachTarget::Idempotent {
            service,
            key,
            handler,
            idempotency_key,
            scope,
        } => InvocationTarget {
            service: service.clone(),
            key: key.clone(),
            handler: handler.clone(),
            service_kind: if key.is_some() {
                ServiceKind::VirtualObject
            } else {
                ServiceKind::Service
            },
            handler_kind: HandlerKind::Shared,
        }
        .scoped_id(scope.as_deref(), Some(idempotency_key), 0),
        AttachTarget::Workflow {
            workflow,
            key,
            scope,
        } => InvocationTarget {
            service: workflow.clone(),
            key: Some(key.clone()),
            handler: "run".to_owned(),
            service_kind: ServiceKind::Workflow,
            handler_kind: HandlerKind::Workflow,
        }
        .scoped_id(scope.as_deref(), None, 0),
    }
}

impl From<SignalId> for proto::signal::Signal {
    fn from(signal: SignalId) -> Self {
        match signal {
            SignalId::Index(index) => Self::Index(index),
            SignalId::Name(name) => Self::Name(name),
        }
    }
}
