//! How an invocation comes to be, waits for its key or its time, starts and ends.

use abide_service_protocol::MessageType;
use abide_types::{HandlerKind, InvocationId, InvocationTarget, Timestamp};
use bytes::Bytes;
use prost::Message as _;

use crate::action::{Action, Finished, Invoked, Queue, Reply};
use crate::apply::Transaction;
use crate::keys::{self, TimerKey, TimerKind};
use crate::proto::{self, Invocation, Status};
use crate::store::StoreError;

/// What the caller of a workflow that was started before is told (service protocol reference, section 5.5).
const WORKFLOW_TWICE: (u32, &str) = (409, "the workflow method was already invoked");

/// Result and dedup record are kept at least this long, so that a front door whose leader died finds out what
/// became of its request.
const COMPLETION_RETENTION_MIN_MS: u64 = 60_000;

impl Transaction<'_> {
    pub(crate) fn load(&self, id: &InvocationId) -> Result<Option<Invocation>, StoreError> {
        let Some(value) = self.store.get(&keys::invocation(id))? else {
            return Ok(None);
        };
        decode_row("decode invocation", id, value).map(Some)
    }

    /// As [`Self::load`], without those that are only kept to recognise repetitions.
    pub(crate) fn load_remembered(
        &self,
        id: &InvocationId,
    ) -> Result<Option<Invocation>, StoreError> {
        let row = self.load(id)?;
        Ok(row.filter(|invocation| !is_forgotten(invocation, self.at)))
    }

    pub(crate) fn save(&mut self, id: &InvocationId, invocation: &mut Invocation) {
        invocation.modified_at = self.at.0;
        self.store
            .put(keys::invocation(id), invocation.encode_to_vec().into());
    }

    /// Creates an invocation, or joins the one that has its id.
    pub(crate) fn invoke(&mut self, invoke: proto::Invoke) -> Result<Reply, StoreError> {
        let (Some(id), Some(target)) = (InvocationId::from_bytes(&invoke.id), &invoke.target)
        else {
            return Ok(Reply::None);
        };
        if let Some(producer) = &invoke.producer
            && !self.take_position(producer)?
        {
            return Ok(Reply::Invoked(Invoked {
                new: false,
                execute_at: None,
                finished: None,
            }));
        }
        if let Some(existing) = self.load(&id)? {
            if !is_forgotten(&existing, self.at) || is_same_request(&existing, &invoke) {
                return self.join(&id, existing, invoke);
            }
            self.forget(&id, existing)?;
        }
        let (incarnation, _) = self.unique();
        let mut invocation = Invocation {
            target: Some(target.clone()),
            incarnation: incarnation.0,
            created_at: self.at.0,
            execute_at: invoke.execute_at,
            idempotency_key: invoke.idempotency_key,
            invoked_by: invoke.invoked_by,
            sinks: invoke.sink.into_iter().collect(),
            completion_retention_ms: invoke.completion_retention_ms,
            journal_retention_ms: invoke.journal_retention_ms,
            random_seed: random_seed(&id),
            request_id: invoke.request_id,
            invoked_by_target: invoke.invoked_by_target,
            subscription: invoke.producer.map(|producer| producer.subscription),
            flow: invoke.flow,
            trace: invoke.trace,
            ..Default::default()
        };
        self.append(
            &id,
            &mut invocation,
            MessageType::Input.code(),
            invoke.input,
        );
        invocation.command_count = 1;
        self.trace_start(&id, &invocation);
        let mut execute_at = None;
        if invoke.execute_at > self.at.0 {
            execute_at = Some(Timestamp(invoke.execute_at));
            invocation.set_status(Status::Scheduled);
            invocation.scheduled_at = self.at.0;
            self.arm_timer(
                TimerKey {
                    due: Timestamp(invoke.execute_at),
                    kind: TimerKind::Start,
                    invocation: id,
                    completion_id: 0,
                },
                &invocation,
            );
        } else {
            self.start_or_queue(&id, &mut invocation)?;
        }
        self.save(&id, &mut invocation);
        Ok(Reply::Invoked(Invoked {
            new: true,
            execute_at,
            finished: None,
        }))
    }

    /// Notes a producer's position; `false` if it, or a later one, was taken before. A producer sends in order, so
    /// that what is not above the mark is a repetition.
    fn take_position(&mut self, producer: &proto::Producer) -> Result<bool, StoreError> {
        let key = keys::producer(&producer.id);
        let last = match self.store.get(&key)? {
            Some(value) => Some(read_mark(&producer.id, &value)?),
            None => None,
        };
        if last.is_some_and(|last| producer.position <= last) {
            return Ok(false);
        }
        let mark = producer.position.to_be_bytes();
        self.store.put(key, Bytes::copy_from_slice(&mark));
        Ok(true)
    }

    fn join(
        &mut self,
        id: &InvocationId,
        mut existing: Invocation,
        invoke: proto::Invoke,
    ) -> Result<Reply, StoreError> {
        let same_request = is_same_request(&existing, &invoke);
        let completed = existing.status() == Status::Completed;
        if let Some(sink) = invoke.sink {
            let is_run = invoke
                .target
                .as_ref()
                .is_some_and(|target| target.handler_kind() == proto::HandlerKind::Run);
            if is_run {
                let (code, message) = WORKFLOW_TWICE;
                self.respond(sink, Some(proto::Outcome::failed(code, message)));
            } else if completed {
                self.respond(sink, existing.outcome.clone());
            } else {
                existing.sinks.push(sink);
                self.save(id, &mut existing);
            }
        }
        let finished = completed.then(|| Finished {
            expires_at: expires_at(&existing),
            outcome: existing.outcome.clone().unwrap_or_default(),
        });
        let scheduled = existing.status() == Status::Scheduled;
        Ok(Reply::Invoked(Invoked {
            new: same_request,
            execute_at: scheduled.then_some(Timestamp(existing.execute_at)),
            finished,
        }))
    }

    /// Starts the invocation, or queues it behind the one that holds its key.
    pub(crate) fn start_or_queue(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
    ) -> Result<(), StoreError> {
        let Some((service, key)) = exclusive_object(invocation) else {
            self.start(id, invocation);
            return Ok(());
        };
        let lock = keys::lock(&service, &key);
        if self.store.get(&lock)?.is_none() {
            self.store.put(lock, Bytes::copy_from_slice(&id.to_bytes()));
            self.start(id, invocation);
            return Ok(());
        }
        let (lsn, index) = self.unique();
        self.store.put(
            keys::inbox(&service, &key, lsn, index),
            Bytes::copy_from_slice(&id.to_bytes()),
        );
        invocation.inbox = Some(proto::OutboxPosition { lsn: lsn.0, index });
        invocation.set_status(Status::Inboxed);
        if invocation.inboxed_at == 0 {
            invocation.inboxed_at = self.at.0;
        }
        Ok(())
    }

    /// Lets the invocation run.
    pub(crate) fn start(&mut self, id: &InvocationId, invocation: &mut Invocation) {
        invocation.set_status(Status::Invoked);
        invocation.awaiting = Bytes::new();
        invocation.paused_by = None;
        invocation.last_failure = None;
        if invocation.running_at == 0 {
            invocation.running_at = self.at.0;
        }
        self.store.put(keys::invoked(id), Bytes::new());
        self.actions.push(Action::Start {
            id: *id,
            incarnation: invocation.incarnation,
            queue: invocation.flow.as_deref().map(|flow| {
                let service = (invocation.target.as_ref()).map(|target| target.service.clone());
                Box::new(Queue {
                    service: service.unwrap_or_default(),
                    flow: flow.clone().into(),
                })
            }),
        });
    }

    /// Takes the invocation off the running ones, into `status`.
    pub(crate) fn stop(&mut self, id: &InvocationId, invocation: &mut Invocation, status: Status) {
        if invocation.status() == Status::Invoked {
            self.store.delete(keys::invoked(id));
            self.actions.push(Action::Stop { id: *id });
        }
        invocation.set_status(status);
    }

    /// Ends the invocation: answers who waits, lets the next one to its key, keeps what is to be kept. Saves it.
    pub(crate) fn complete(
        &mut self,
        id: &InvocationId,
        mut invocation: Invocation,
        outcome: proto::Outcome,
    ) -> Result<(), StoreError> {
        for sink in std::mem::take(&mut invocation.sinks) {
            self.respond(sink, Some(outcome.clone()));
        }
        match invocation.status() {
            Status::Invoked => self.store.delete(keys::invoked(id)),
            Status::Scheduled => self.disarm_start(id, &invocation),
            Status::Inboxed => self.leave_inbox(&mut invocation),
            Status::Suspended | Status::Paused | Status::Completed => {}
        }
        self.release_key(id, &mut invocation)?;
        self.actions.push(Action::Completed {
            id: *id,
            target: InvocationTarget::from(
                invocation
                    .target
                    .as_ref()
                    .unwrap_or(&proto::Target::default()),
            ),
            outcome: outcome.clone(),
            trace: invocation.trace.clone(),
        });
        if invocation.journal_retention_ms == 0 {
            self.delete_journal(id, &mut invocation);
        }
        invocation.set_status(Status::Completed);
        invocation.awaiting = Bytes::new();
        invocation.last_failure = None;
        invocation.paused_by = None;
        invocation.completed_at = self.at.0;
        invocation.outcome = Some(outcome);
        self.save(id, &mut invocation);
        Ok(())
    }

    fn disarm_start(&mut self, id: &InvocationId, invocation: &Invocation) {
        let due = Timestamp(invocation.execute_at);
        let key = keys::timer(&TimerKey {
            due,
            kind: TimerKind::Start,
            invocation: *id,
            completion_id: 0,
        });
        self.store.delete(key.clone());
        self.actions.push(Action::DisarmTimer { key, due });
    }

    fn leave_inbox(&mut self, invocation: &mut Invocation) {
        if let (Some((service, key)), Some(place)) =
            (exclusive_object(invocation), invocation.inbox.take())
        {
            self.store.delete(keys::inbox(
                &service,
                &key,
                abide_types::Lsn(place.lsn),
                place.index,
            ));
        }
    }

    /// If the invocation holds its key, hands the key to the first in the inbox.
    fn release_key(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
    ) -> Result<(), StoreError> {
        if std::mem::take(&mut invocation.mutations_wait)
            && let Some(target) = &invocation.target
        {
            let key = target.key.as_deref().unwrap_or_default();
            let service = keys::service_in(invocation.flow.as_deref(), &target.service);
            return self.next_in_inbox(&service, key).map(drop);
        }
        let Some((service, key)) = exclusive_object(invocation) else {
            return Ok(());
        };
        let lock = keys::lock(&service, &key);
        let holder = self.store.get(&lock)?;
        if holder.as_deref() != Some(&id.to_bytes()[..]) {
            return Ok(());
        }
        let Some(next_id) = self.next_in_inbox(&service, &key)? else {
            self.store.delete(lock);
            return Ok(());
        };
        self.store
            .put(lock, Bytes::copy_from_slice(&next_id.to_bytes()));
        if let Some(mut next) = self.load(&next_id)? {
            next.inbox = None;
            self.start(&next_id, &mut next);
            self.save(&next_id, &mut next);
        }
        Ok(())
    }

    /// Answers a sink: the completion goes to the partition of the invocation that waits.
    pub(crate) fn respond(&mut self, sink: proto::Sink, outcome: Option<proto::Outcome>) {
        if let Some(waiting) = InvocationId::from_bytes(&sink.invocation) {
            self.send(
                &waiting,
                proto::message::Kind::Response(proto::Response {
                    sink: Some(sink),
                    outcome,
                }),
            );
        }
    }

    /// Another invocation wants this one's result, now or when it is there.
    pub(crate) fn attach(&mut self, attach: proto::Attach) -> Result<(), StoreError> {
        let (Some(id), Some(sink)) = (InvocationId::from_bytes(&attach.id), attach.sink) else {
            return Ok(());
        };
        match self.load_remembered(&id)? {
            None => self.respond(sink, Some(proto::Outcome::failed(404, "not found"))),
            Some(invocation) if invocation.status() == Status::Completed => {
                self.respond(sink, invocation.outcome);
            }
            Some(_) if sink.kind() == proto::SinkKind::Output => self.respond(sink, None),
            Some(mut invocation) => {
                invocation.sinks.push(sink);
                self.save(&id, &mut invocation);
            }
        }
        Ok(())
    }

    pub(crate) fn arm_timer(&mut self, timer: TimerKey, invocation: &Invocation) {
        let key = keys::timer(&timer);
        let row = proto::Timer {
            incarnation: invocation.incarnation,
        };
        self.store.put(key.clone(), row.encode_to_vec().into());
        self.actions.push(Action::ArmTimer {
            key,
            due: timer.due,
        });
    }

    pub(crate) fn fire_timer(&mut self, key: &Bytes) -> Result<(), StoreError> {
        let (Some(timer), Some(row)) = (keys::parse_timer(key), self.store.get(key)?) else {
            return Ok(());
        };
        self.store.delete(key.clone());
        let row: proto::Timer = decode_row("decode timer", &timer.invocation, row)?;
        let Some(mut invocation) = self.load(&timer.invocation)? else {
            return Ok(());
        };
        if invocation.incarnation != row.incarnation {
            return Ok(());
        }
        match timer.kind {
            TimerKind::Sleep => {
                self.complete_sleep(&timer.invocation, invocation, timer.completion_id)
            }
            TimerKind::Start if invocation.status() == Status::Scheduled => {
                self.start_or_queue(&timer.invocation, &mut invocation)?;
                self.save(&timer.invocation, &mut invocation);
                Ok(())
            }
            TimerKind::Start => Ok(()),
        }
    }
}

/// When a completed invocation may be forgotten.
pub fn expires_at(invocation: &Invocation) -> Timestamp {
    Timestamp(
        invocation.completed_at.saturating_add(
            invocation
                .completion_retention_ms
                .max(COMPLETION_RETENTION_MIN_MS),
        ),
    )
}

/// Whether a completed invocation's retention has passed. Its row stays for a while, but only for repetitions of
/// the request that made it: to everybody else it is gone.
pub fn is_forgotten(invocation: &Invocation, at: Timestamp) -> bool {
    invocation.status() == Status::Completed
        && invocation
            .completed_at
            .saturating_add(invocation.completion_retention_ms)
            <= at.0
}

fn is_same_request(existing: &Invocation, invoke: &proto::Invoke) -> bool {
    !invoke.request_id.is_empty() && invoke.request_id == existing.request_id
}

/// Service and key that the invocation has for itself while it runs.
fn exclusive_object(invocation: &Invocation) -> Option<(String, String)> {
    let target = invocation.target.as_ref()?;
    if HandlerKind::Exclusive != InvocationTarget::from(target).handler_kind {
        return None;
    }
    Some((
        keys::service_in(invocation.flow.as_deref(), &target.service).into_owned(),
        target.key.clone().unwrap_or_default(),
    ))
}

/// The same in every attempt and on every replica, different between invocations. Never 0, which older SDKs read as
/// absent.
pub(crate) fn random_seed(id: &InvocationId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.uuid();
    let seed = u64::from_be_bytes([h, g, f, e, d, c, b, a]) ^ id.partition_key().0.rotate_left(17);
    seed.max(1)
}

/// Reads a mark. One that cannot be read stops the partition: to take it for none would take records twice.
fn read_mark(producer: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let mark = value.try_into().map(u64::from_be_bytes);
    mark.map_err(|error: std::array::TryFromSliceError| StoreError {
        what: "read the mark of a producer",
        place: format!("{producer:x?}"),
        source: Some(Box::new(error)),
    })
}

/// Reads a stored row; one that does not decode is damage that an operator has to see.
pub(crate) fn decode_row<M: prost::Message + Default>(
    what: &'static str,
    id: &InvocationId,
    value: Bytes,
) -> Result<M, StoreError> {
    M::decode(value).map_err(|source| StoreError {
        what,
        place: id.to_string(),
        source: Some(Box::new(source)),
    })
}
