//! What the leader does after a record is applied, and what it makes of what attempts do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_invoker::api::{
    Attempt, AttemptFailure, Effect, Effects, PinnedDeployment, Retry, ToAttempt,
};
use abide_metadata::keys as metadata_keys;
use abide_rpc::Service;
use abide_rpc::proto::partition as wire;
use abide_schema::{OnMaxAttempts, RuleBook};
use abide_service_protocol::{Notification, NotificationId, RawEntry};
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{
    self as state, Status, attempt_effect, command::Kind, journal_event,
};
use abide_state_machine::{Action, OutboxPosition, outcome_from_stored, read_journal};
use abide_types::{InvocationId, InvocationTarget, PartitionId, Timestamp};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::api::Finished;
use crate::attempts::{Phase, stored_failure};
use crate::leader::{Leader, OnApplied};
use crate::outbox::to_wire;
use crate::partition::PartitionError;
use crate::queues::Queue;
use crate::traces;
use crate::wire::{Response, deployment_of};

/// Ends one that waits for its turn in its scope: it would hear of its cancellation when its turn comes only. Whoever
/// cancels a caller waits for the callees, too.
fn cancel_waiting(id: &InvocationId) -> state::Operate {
    state::Operate {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        operation: state::Operation::Cancel as i32,
        waits: true,
        ..Default::default()
    }
}

fn is_cancellation(entry: &RawEntry) -> bool {
    Notification::decode(entry).is_ok_and(|notification| notification.id == NotificationId::CANCEL)
}

/// What is to be told to another partition about its messages.
#[derive(Default)]
pub(crate) struct Acks {
    pub(crate) positions: Vec<OutboxPosition>,
    pub(crate) resend: bool,
}

impl Leader<'_> {
    /// Does what the state machine asks for.
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Start {
                id,
                incarnation,
                queue,
            } => {
                let queue = queue.map(|queue| Arc::new(Queue::new(queue.service, queue.flow)));
                self.attempts.start(id, incarnation, queue, Instant::now());
            }
            Action::PauseQueue { queue, paused } => self.attempts.queues.pause(queue, paused),
            Action::Notify { id, index, entry } => {
                if self.waits(&id) && is_cancellation(&entry) {
                    self.propose(Kind::Operate(cancel_waiting(&id)), OnApplied::Nobody);
                }
                self.tell(&id, ToAttempt::Notification { index, entry });
            }
            Action::CommandAck { id, command_index } => {
                self.tell(&id, ToAttempt::CommandAck { command_index });
            }
            Action::Stop { id } => self.attempts.remove(&id),
            Action::RetryNow { id } => self.attempts.retry_now(&id),
            Action::Created {
                id,
                target,
                at,
                trace,
            } => traces::started(&self.context.options.tracer, &id, &target, at, &trace),
            Action::Completed {
                id,
                target,
                outcome,
                trace,
            } => {
                if let Some(trace) = trace {
                    let tracer = &self.context.options.tracer;
                    traces::ended(tracer, &id, &target, &outcome, &trace);
                }
                self.completed(&id, &target, outcome);
            }
            Action::ArmTimer { key, .. } => self.timers.arm(key),
            Action::DisarmTimer { key, .. } => self.timers.disarm(&key),
            Action::Send {
                to,
                position,
                message,
            } => self.outbox.add(to, position, &message),
            Action::AckDelivery { to, position } => {
                self.acks.entry(to).or_default().positions.push(position);
            }
        }
    }

    fn tell(&mut self, id: &InvocationId, message: ToAttempt) {
        let Some(running) = self.attempts.get(id) else {
            return;
        };
        // Who is not running finds it in the journal. Who cannot keep up starts over with the journal.
        if let Phase::Running { handle, .. } = &running.phase
            && let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) =
                handle.sender.try_send(message)
        {
            self.attempts.restart(id);
        }
    }

    fn completed(&mut self, id: &InvocationId, target: &InvocationTarget, outcome: state::Outcome) {
        self.attempts.remove(id);
        let mut finished = None;
        for waiter in self.waiters.take(id) {
            let finished = finished.get_or_insert_with(|| Finished {
                outcome: outcome_from_stored(outcome.clone()),
                expires_at: None,
                target: target.clone(),
            });
            waiter.answer(Response::Finished(finished.clone()));
        }
    }

    /// Queues every invocation that was running under the leader before.
    pub(crate) fn load_invoked(&mut self) -> Result<(), PartitionError> {
        let mut ids = Vec::new();
        self.store
            .scan(
                &keys::table_start(Table::Invoked),
                &keys::table_end(Table::Invoked),
                &mut |key, _| {
                    ids.extend(keys::parse_invocation(key));
                    ControlFlow::Continue(())
                },
            )
            .map_err(PartitionError::Store)?;
        let now = Instant::now();
        for id in ids {
            if let Some(row) = self.read_invocation(&id)? {
                let queue = queue_of(&row);
                self.attempts.start(id, row.incarnation, queue, now);
            }
        }
        Ok(())
    }

    /// Takes up which queues operators have paused.
    pub(crate) fn load_queues(&mut self) -> Result<(), PartitionError> {
        let queues = &mut self.attempts.queues;
        self.store
            .scan(
                &keys::table_start(Table::Queue),
                &keys::table_end(Table::Queue),
                &mut |key, _| {
                    if let Some(id) = keys::parse_queue(key) {
                        queues.pause(id, true);
                    }
                    ControlFlow::Continue(())
                },
            )
            .map_err(PartitionError::Store)
    }

    /// Takes the rules that the metadata has, if they are others than those in force.
    pub(crate) fn follow_rules(&mut self, view: &abide_metadata::View) {
        let Some(stored) = view.raw(metadata_keys::LIMITS) else {
            return;
        };
        if stored.version == self.rules_version {
            return;
        }
        self.rules_version = stored.version;
        match RuleBook::from_json(&stored.value) {
            Ok(book) => self.attempts.queues.set_book(Arc::new(book)),
            Err(error) => {
                tracing::error!(version = stored.version, %error, "rules that are not understood; those before stay in force");
            }
        }
    }

    /// Starts an attempt of the next invocation that is ready. Returns whether there was one.
    pub(crate) fn begin_next(
        &mut self,
        permit: OwnedSemaphorePermit,
    ) -> Result<bool, PartitionError> {
        let Some(id) = self.attempts.pop_ready() else {
            return Ok(false);
        };
        let Some(row) = self.read_invocation(&id)? else {
            self.attempts.remove(&id);
            return Ok(true);
        };
        if row.status() != Status::Invoked {
            self.attempts.remove(&id);
            return Ok(true);
        }
        let journal =
            read_journal(self.store, &id, row.journal_length).map_err(PartitionError::Store)?;
        let target = InvocationTarget::from(&row.target.clone().unwrap_or_default());
        let (state, partial_state) = self.eager_state(&row, &target)?;
        let pinned = row.pinned.as_ref().and_then(|pinned| {
            Some(PinnedDeployment {
                deployment: deployment_of(pinned)?,
                protocol: u16::try_from(pinned.protocol).ok()?,
            })
        });
        let deployment = match &pinned {
            Some(pinned) => Some(pinned.deployment),
            None => (self.context.schema.borrow())
                .resolve(&target.service, &target.handler)
                .ok()
                .map(|handler| handler.deployment),
        };
        let number = self.attempts.next_attempt();
        let trace = (row.trace.as_deref()).and_then(|trace| traces::of_attempt(&id, trace));
        let Some(running) = self.attempts.get_mut(&id) else {
            return Ok(true);
        };
        running.span = trace.as_ref().map_or(0, |trace| trace.context.span_id);
        let attempt = Attempt {
            invocation: id,
            attempt: number,
            target,
            idempotency_key: row.idempotency_key,
            pinned,
            journal,
            state,
            partial_state,
            retry_count: running.retry_count,
            since_last_entry: running.last_entry.elapsed(),
            random_seed: row.random_seed,
            scope: row.flow.as_ref().map(|flow| flow.scope.clone()),
            limit_key: row.flow.and_then(|flow| flow.limit_key),
            trace,
        };
        self.context.metrics.attempt_started(self.partition);
        let handle = self
            .context
            .invoker
            .start(permit, attempt, self.effects_sender.clone());
        running.phase = Phase::Running {
            attempt: number,
            handle,
        };
        running.started += 1;
        running.last_start_at = Some(Timestamp::from_system(SystemTime::now()));
        running.deployment = deployment;
        Ok(true)
    }

    /// The state that goes with Start: all of the key's if it fits the limit and is not wanted lazily.
    fn eager_state(
        &self,
        row: &state::Invocation,
        target: &InvocationTarget,
    ) -> Result<(Vec<(Bytes, Bytes)>, bool), PartitionError> {
        let Some(key) = &target.key else {
            return Ok((Vec::new(), true));
        };
        let lazy = (self.context.schema.borrow())
            .resolve(&target.service, &target.handler)
            .is_ok_and(|handler| handler.settings.enable_lazy_state);
        if lazy || !self.context.options.eager_state {
            return Ok((Vec::new(), true));
        }
        let service = keys::service_in(row.flow.as_deref(), &target.service);
        let prefix = keys::state_of(&service, key);
        let mut state = Vec::new();
        let mut bytes = 0;
        let mut partial = false;
        self.store
            .scan(&prefix, &keys::prefix_end(&prefix), &mut |key, value| {
                let name = &key[prefix.len()..];
                bytes += name.len() + value.len();
                if bytes > self.context.options.eager_state_bytes_max {
                    partial = true;
                    return ControlFlow::Break(());
                }
                state.push((Bytes::copy_from_slice(name), value.clone()));
                ControlFlow::Continue(())
            })
            .map_err(PartitionError::Store)?;
        Ok((state, partial))
    }

    /// What an attempt did: its journal entries are proposed, its failure is judged.
    pub(crate) fn on_effects(&mut self, effects: Effects) {
        let id = effects.invocation;
        let Some(running) = self.attempts.of_attempt(&id, effects.attempt) else {
            return;
        };
        self.context.metrics.attempt_did(self.partition, &effects);
        let incarnation = running.incarnation;
        let span = running.span;
        let mut proposed = Vec::with_capacity(effects.effects.len());
        let mut stored = false;
        let mut ended = false;
        let mut failure = None;
        for effect in effects.effects {
            ended |= effect.is_terminal();
            stored |= matches!(effect, Effect::Command { .. } | Effect::RunProposal { .. });
            match into_stored(effect) {
                Ok(effect) => proposed.push(effect),
                Err(failed) => failure = Some(failed),
            }
        }
        if stored {
            // In the order of the attempt: a failure behind the entry counts from one.
            running.retry_count = 0;
            running.last_entry = Instant::now();
        }
        if !proposed.is_empty() {
            running.unapplied += 1;
            self.propose(
                Kind::AttemptEffects(state::AttemptEffects {
                    id: Bytes::copy_from_slice(&id.to_bytes()),
                    incarnation,
                    effects: proposed,
                    span,
                }),
                OnApplied::Effects(id),
            );
        }
        if ended {
            self.attempts.ended(&id);
        }
        if let Some(failure) = failure {
            self.on_failure(id, incarnation, *failure);
        }
    }

    fn on_failure(&mut self, id: InvocationId, incarnation: u64, failure: AttemptFailure) {
        let target = self
            .read_invocation(&id)
            .ok()
            .flatten()
            .and_then(|row| row.target);
        let Some(running) = self.attempts.get_mut(&id) else {
            return;
        };
        tracing::debug!(invocation = %id, code = failure.code, error = %failure.failure.message, "attempt failed");
        if failure.bumps_retry_count {
            running.retry_count = running.retry_count.saturating_add(1);
        }
        let retry = failure.retry;
        let stored = state::Failure::from(failure.failure.clone());
        let deployment = failure.deployment;
        running.deployment = deployment.or(running.deployment);
        let event = stored_failure(&failure);
        let is_repeat =
            (running.last_failure.as_ref()).is_some_and(|last| stored_failure(last) == event);
        running.last_failure = Some(failure);
        let bytes = Bytes::copy_from_slice(&id.to_bytes());
        let pause = || {
            Kind::Pause(state::Pause {
                id: bytes.clone(),
                incarnation,
                failure: None,
                last_failure: Some(event.clone()),
            })
        };
        let fail = |failure| {
            Kind::Fail(state::Fail {
                id: bytes.clone(),
                incarnation,
                failure: Some(failure),
            })
        };
        // The last failure is told by the pause, or is the result.
        let record = (!is_repeat).then(|| {
            Kind::RecordEvent(state::RecordEvent {
                id: bytes.clone(),
                incarnation,
                event: Some(state::JournalEvent {
                    kind: Some(journal_event::Kind::TransientError(event.clone())),
                    ..Default::default()
                }),
            })
        });
        let now = Instant::now();
        match retry {
            Retry::After(delay) => {
                self.attempts.back_off(&id, delay, now);
                self.propose_event(record);
            }
            Retry::Pause => self.propose(pause(), OnApplied::Nobody),
            Retry::Fail => self.propose(fail(stored), OnApplied::Nobody),
            Retry::Policy => {
                running.failures = running.failures.saturating_add(1);
                let failures = running.failures;
                let policy = {
                    let schema = self.context.schema.borrow();
                    let target = target.unwrap_or_default();
                    let handler = match deployment {
                        Some(deployment) => {
                            schema.resolve_at(deployment, &target.service, &target.handler)
                        }
                        None => schema.resolve(&target.service, &target.handler),
                    };
                    handler.map_or_else(
                        |_| schema.defaults().retry,
                        |handler| handler.settings.retry,
                    )
                };
                match policy.delay(failures) {
                    Some(delay) => {
                        self.attempts.back_off(&id, with_jitter(delay), now);
                        self.propose_event(record);
                    }
                    None => match policy.on_max_attempts {
                        OnMaxAttempts::Pause => self.propose(pause(), OnApplied::Nobody),
                        OnMaxAttempts::Kill => self.propose(fail(stored), OnApplied::Nobody),
                    },
                }
            }
        }
    }

    fn propose_event(&mut self, record: Option<Kind>) {
        if let Some(record) = record {
            self.propose(record, OnApplied::Nobody);
        }
    }

    /// Sends what waits for other partitions, and acks for theirs.
    pub(crate) fn send_outbox(&mut self) {
        let now = Instant::now();
        for deliveries in self.outbox.poll_send(self.partition, now) {
            let to = PartitionId(u16::try_from(deliveries.to).unwrap_or(u16::MAX));
            let messages = deliveries.messages.len();
            self.context.metrics.outbox_sent(messages);
            self.post(to, wire::post::Kind::Deliveries(deliveries));
        }
        for (from, acks) in std::mem::take(&mut self.acks) {
            let acks = wire::DeliveryAcks {
                from: from.0.into(),
                to: self.partition.0.into(),
                positions: acks.positions.into_iter().map(to_wire).collect(),
                resend: acks.resend,
            };
            self.post(from, wire::post::Kind::DeliveryAcks(acks));
        }
    }

    /// Posts to the leader of a partition. What is lost is sent again after a while.
    fn post(&self, to: PartitionId, kind: wire::post::Kind) {
        let leader = (self
            .context
            .metadata
            .view()
            .partition_table
            .partitions
            .get(&to))
        .and_then(|entry| entry.leader);
        let Some(leader) = leader else { return };
        let post = wire::Post { kind: Some(kind) };
        if leader.node == self.context.node.node {
            self.context.directory.post(leader.node, post);
        } else if let Err(error) =
            self.context
                .fabric
                .send(leader.node, Service::Partition, post.encode_to_vec().into())
        {
            tracing::debug!(partition = %to, node = %leader.node, %error, "post not sent");
        }
    }
}

/// Where an invocation waits for its turn, if it has a scope.
pub(crate) fn queue_of(row: &state::Invocation) -> Option<Arc<Queue>> {
    let flow = row.flow.as_deref()?.clone().into();
    let service = (row.target.as_ref()).map(|target| target.service.clone());
    Some(Arc::new(Queue::new(service.unwrap_or_default(), flow)))
}

/// The stored form of an effect, or the failure that it is.
fn into_stored(effect: Effect) -> Result<state::AttemptEffect, Box<AttemptFailure>> {
    use attempt_effect::Kind;
    let mut stored = state::AttemptEffect::default();
    stored.kind = Some(match effect {
        Effect::Pinned(pinned) => Kind::Pinned(state::Pinned {
            deployment: Bytes::copy_from_slice(&pinned.deployment.0.to_be_bytes()),
            protocol: pinned.protocol.into(),
        }),
        Effect::Command { entry, callee, ack } => {
            stored.ack = ack;
            stored.callee = callee.map(|callee| state::Callee {
                target: Some(state::Target::from(&callee.target)),
                completion_retention_ms: crate::router::millis(callee.retention.completion),
                journal_retention_ms: crate::router::millis(callee.retention.journal),
            });
            Kind::Command(state::Entry {
                ty: entry.ty.into(),
                payload: entry.payload,
            })
        }
        Effect::RunProposal { entry } => Kind::RunProposal(state::Entry {
            ty: entry.ty.into(),
            payload: entry.payload,
        }),
        Effect::Suspended { awaiting } => Kind::Suspended(awaiting),
        Effect::End => Kind::End(state::Empty {}),
        Effect::Failed(failure) => return Err(Box::new(failure)),
    });
    Ok(stored)
}

/// Up to a third more, so that invocations that failed together do not come back together.
fn with_jitter(delay: Duration) -> Duration {
    delay.mul_f64(1.0 + rand::random::<f64>() / 3.0)
}
