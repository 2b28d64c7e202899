//! What the leader does with requests, and whom it answers when a command is applied.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use abide_rpc::proto::partition as wire;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{self as state, Status, command::Kind};
use abide_state_machine::{OutboxPosition, Reply, StoreError, outcome_from_stored};
use abide_types::{InvocationId, InvocationTarget, PartitionId, Timestamp};
use bytes::{Buf, Bytes};
use prost::Message as _;

use crate::api::{
    Accepted, Finished, Ingested, InvocationFilter, InvocationInfo, InvocationStatus, Outcome,
};
use crate::attempts::{Phase, stored_failure};
use crate::directory::Event;
use crate::leader::{Leader, OnApplied};
use crate::outbox::{Arrival, from_wire};
use crate::partition::PartitionError;
use crate::waiters::Responder;
use crate::wire::{Request, Response, describe};

/// Rows that one listing looks at, at most: it holds up everything else of the partition.
const LIST_ROWS_MAX: usize = 100_000;

impl Leader<'_> {
    pub(crate) fn on_event(&mut self, event: Event) -> Result<(), PartitionError> {
        match event {
            Event::Ask(request, responder) => self.on_request(request, responder, true),
            Event::Deliveries(deliveries) => self.on_deliveries(deliveries),
            Event::DeliveryAcks(acks) => {
                self.on_delivery_acks(&acks);
                Ok(())
            }
            Event::Progress(node, progress) => {
                self.on_progress(node, &progress);
                Ok(())
            }
            Event::Attempts(question) => {
                let known = question.ids.iter().map(|id| self.attempts.describe(id));
                let known = known.collect();
                // A scan that has been given up needs no answer.
                let _ = question.answer.send(Ok(known));
                Ok(())
            }
        }
    }

    /// Answers or proposes. A reader is told "no" only behind a record of this leader that was committed after it
    /// asked (`barrier`): a deposed leader may not know what its successor has accepted.
    fn on_request(
        &mut self,
        request: Request,
        responder: Responder,
        barrier: bool,
    ) -> Result<(), PartitionError> {
        match request {
            Request::Invoke { invoke, wait } => {
                let (Some(id), Some(target)) =
                    (InvocationId::from_bytes(&invoke.id), invoke.target.as_ref())
                else {
                    responder.answer(Response::Stopped("malformed invocation".to_owned()));
                    return Ok(());
                };
                let hears = OnApplied::Invoke {
                    id,
                    target: Box::new(InvocationTarget::from(target)),
                    wait,
                    responder,
                };
                self.propose(Kind::Invoke(invoke), hears);
            }
            Request::Ingest(invokes) => self.ingest(invokes, responder),
            Request::Signal(signal) => {
                self.propose(Kind::Signal(signal), OnApplied::Done(responder))
            }
            Request::Operate(mut operate) => {
                if operate.operation() == state::Operation::Pause {
                    operate.last_failure = self.why_backing_off(&operate.id).map(Box::new);
                }
                operate.waits =
                    InvocationId::from_bytes(&operate.id).is_some_and(|id| self.waits(&id));
                self.propose(Kind::Operate(operate), OnApplied::Operate(responder));
            }
            Request::Resume(id, whither) => self.on_resume(id, whither, responder)?,
            Request::Restart(restart) => self.on_restart(&restart, responder)?,
            Request::MutateState(change) => {
                self.propose(Kind::MutateState(change), OnApplied::Done(responder));
            }
            Request::PauseQueue(pause) => {
                self.propose(Kind::PauseQueue(pause), OnApplied::Done(responder));
            }
            Request::Flow => {
                let flow = crate::flow::to_wire(&self.attempts.queues);
                responder.answer(Response::Flow(flow));
            }
            Request::Attach(id) | Request::Output(id) => {
                let wait = matches!(request, Request::Attach(_));
                match self.read_invocation(&id)? {
                    // Whoever waits may have asked before it was forgotten; the others are told that it is gone.
                    Some(row)
                        if row.status() == Status::Completed
                            && !wait
                            && self.is_forgotten(&row) =>
                    {
                        responder.answer(Response::NotFound);
                    }
                    Some(row) if row.status() == Status::Completed => {
                        responder.answer(Response::Finished(retained(&row)));
                    }
                    Some(_) if wait => self.waiters.wait(id, responder),
                    _ if barrier => self.look_again(request, responder),
                    Some(_) => responder.answer(Response::NotReady),
                    None => responder.answer(Response::NotFound),
                }
            }
            Request::Get(id) => match self.read_invocation(&id)? {
                Some(row) if !self.is_forgotten(&row) => {
                    let info = self.describe(id, &row);
                    responder.answer(Response::Infos(vec![info]));
                }
                _ if barrier => self.look_again(request, responder),
                _ => responder.answer(Response::NotFound),
            },
            Request::List(filter) => {
                let infos = self.list(&filter)?;
                responder.answer(Response::Infos(infos));
            }
            // The directory keeps the first and sends the second another way.
            Request::Scan(_) | Request::Archive(_) => responder.answer(Response::NotLeader),
        }
        Ok(())
    }

    fn why_backing_off(&self, id: &Bytes) -> Option<state::AttemptFailure> {
        let running = self.attempts.get(&InvocationId::from_bytes(id)?)?;
        match running.phase {
            Phase::BackingOff(_) => running.last_failure.as_ref().map(stored_failure),
            Phase::Ready | Phase::Running { .. } | Phase::Ending => None,
        }
    }

    /// All of them go into the log in their order, so that the last one's place answers for all.
    fn ingest(&mut self, invokes: Vec<state::Invoke>, responder: Responder) {
        let known = Arc::new(AtomicU32::new(0));
        let last = invokes.len().saturating_sub(1);
        let mut responder = Some(responder);
        for (index, invoke) in invokes.into_iter().enumerate() {
            let hears = OnApplied::Ingest {
                known: Arc::clone(&known),
                responder: responder.take_if(|_| index == last),
            };
            self.propose(Kind::Invoke(invoke), hears);
        }
        if let Some(nothing_to_do) = responder {
            nothing_to_do.answer(Response::Ingested(Ingested::default()));
        }
    }

    fn look_again(&mut self, request: Request, responder: Responder) {
        // An empty purge changes nothing: it only has to be committed.
        self.propose(
            Kind::Purge(state::Purge::default()),
            OnApplied::Read(Box::new(request), responder),
        );
    }

    /// A command is applied: tells who proposed it.
    pub(crate) fn answer(&mut self, reply: Reply, hears: OnApplied) -> Result<(), PartitionError> {
        match (hears, reply) {
            (
                OnApplied::Invoke {
                    id,
                    target,
                    wait,
                    responder,
                },
                Reply::Invoked(invoked),
            ) => {
                let is_run = target.handler_kind == abide_types::HandlerKind::Workflow;
                if !wait {
                    responder.answer(Response::Accepted(Accepted {
                        new: invoked.new,
                        execute_at: invoked.execute_at,
                    }));
                } else if is_run && !invoked.new {
                    let failure = abide_service_protocol::Failure::new(
                        409,
                        "the workflow method was already invoked",
                    );
                    responder.answer(Response::Finished(Finished {
                        outcome: Outcome::Failure(failure),
                        expires_at: None,
                        target: *target,
                    }));
                } else if let Some(finished) = invoked.finished {
                    responder.answer(Response::Finished(Finished {
                        outcome: outcome_from_stored(finished.outcome),
                        // A repetition of the same request after a change of leader is its first answer.
                        expires_at: (!invoked.new).then_some(finished.expires_at),
                        target: *target,
                    }));
                } else {
                    self.waiters.wait(id, responder);
                }
            }
            (OnApplied::Ingest { known, responder }, reply) => {
                if !matches!(reply, Reply::Invoked(invoked) if invoked.new) {
                    known.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(responder) = responder {
                    responder.answer(Response::Ingested(Ingested {
                        known: known.load(Ordering::Relaxed),
                    }));
                }
            }
            (OnApplied::Operate(responder), Reply::Operated(operated)) => {
                responder.answer(Response::Operated(operated.into()));
            }
            (OnApplied::Operate(responder), Reply::Restarted(restarted)) => {
                responder.answer(Response::Restarted(restarted.into()));
            }
            (OnApplied::Done(responder), _) => responder.answer(Response::Done),
            (OnApplied::Read(request, responder), _) => {
                self.on_request(*request, responder, false)?
            }
            (OnApplied::Effects(id), _) => {
                if let Some(running) = self.attempts.get_mut(&id) {
                    running.unapplied = running.unapplied.saturating_sub(1);
                }
            }
            // The command made no sense: its proposer checked it, so this is a peer of another build.
            (OnApplied::Invoke { responder, .. } | OnApplied::Operate(responder), _) => {
                responder.answer(Response::Stopped(
                    "the command was not understood".to_owned(),
                ));
            }
            (OnApplied::Nobody, _) => {}
        }
        Ok(())
    }

    fn on_deliveries(&mut self, deliveries: wire::Deliveries) -> Result<(), PartitionError> {
        let Ok(from) = u16::try_from(deliveries.from) else {
            return Ok(());
        };
        let from = PartitionId(from);
        for delivered in deliveries.messages {
            let stored = read_inbound(self.store, from).map_err(PartitionError::Store)?;
            match self.inbound.arrive(from, &delivered, || stored) {
                Arrival::Take => {
                    let Ok(message) = state::Message::decode(delivered.message) else {
                        tracing::error!(%from, "message of another partition not understood");
                        continue;
                    };
                    let position = delivered.position.as_ref().map(from_wire);
                    self.propose(
                        Kind::Delivery(state::Delivery {
                            from_partition: from.0.into(),
                            position: position.map(Into::into),
                            message: Some(message),
                        }),
                        OnApplied::Nobody,
                    );
                }
                Arrival::Known => {
                    let position = delivered.position.as_ref().map(from_wire);
                    if let Some(position) = position
                        && stored.is_some_and(|stored| position <= stored)
                    {
                        self.acks.entry(from).or_default().positions.push(position);
                    }
                }
                Arrival::Gap => {
                    self.acks.entry(from).or_default().resend = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn on_delivery_acks(&mut self, acks: &wire::DeliveryAcks) {
        let forgotten = self.outbox.on_acks(acks, tokio::time::Instant::now());
        if !forgotten.is_empty() {
            self.propose(
                Kind::OutboxAcked(state::OutboxAcked {
                    to_partition: acks.to,
                    positions: forgotten.into_iter().map(Into::into).collect(),
                }),
                OnApplied::Nobody,
            );
        }
    }

    pub(crate) fn read_invocation(
        &self,
        id: &InvocationId,
    ) -> Result<Option<state::Invocation>, PartitionError> {
        let value = self
            .store
            .get(&keys::invocation(id))
            .map_err(PartitionError::Store)?;
        value.map(|value| decode(id, value)).transpose()
    }

    /// Whether the row is only kept for repetitions of its request.
    pub(crate) fn is_forgotten(&self, row: &state::Invocation) -> bool {
        abide_state_machine::is_forgotten(row, Timestamp::from_system(SystemTime::now()))
    }

    fn status(&self, id: &InvocationId, row: &state::Invocation) -> InvocationStatus {
        match row.status() {
            Status::Scheduled => InvocationStatus::Scheduled,
            Status::Inboxed => InvocationStatus::Pending,
            Status::Suspended => InvocationStatus::Suspended,
            Status::Paused => InvocationStatus::Paused,
            Status::Completed => InvocationStatus::Completed,
            Status::Invoked => match self.attempts.get(id).map(|running| &running.phase) {
                Some(Phase::Ready) if self.attempts.waits(id) && row.pinned.is_none() => {
                    InvocationStatus::Pending
                }
                Some(Phase::Ready) | None => InvocationStatus::Ready,
                Some(Phase::BackingOff(_)) => InvocationStatus::BackingOff,
                Some(Phase::Running { .. } | Phase::Ending) => InvocationStatus::Running,
            },
        }
    }

    fn describe(&self, id: InvocationId, row: &state::Invocation) -> InvocationInfo {
        let status = self.status(&id, row);
        let running = self.attempts.get(&id);
        let paused_by = row.last_failure.as_ref().and_then(|last| {
            let failure = last.failure.as_ref()?;
            let code = u16::try_from(failure.code).unwrap_or(500);
            let documented = Some(last.documented_code.clone()).filter(|code| !code.is_empty());
            Some((code, failure.message.clone(), documented))
        });
        let last_failure = running
            .and_then(|running| running.last_failure.as_ref())
            .map(|failure| {
                (
                    failure.failure.code,
                    failure.failure.message.clone(),
                    failure.code.map(str::to_owned),
                )
            });
        InvocationInfo {
            retry_count: running.map_or(0, |running| running.failures),
            last_failure: last_failure.or(paused_by),
            ..describe(id, self.partition, status, row)
        }
    }

    fn list(&self, filter: &InvocationFilter) -> Result<Vec<InvocationInfo>, PartitionError> {
        let mut infos = Vec::new();
        let mut rows = 0;
        let mut failure = None;
        self.store
            .scan(
                &keys::table_start(Table::Invocation),
                &keys::table_end(Table::Invocation),
                &mut |key, value| {
                    rows += 1;
                    if rows > LIST_ROWS_MAX || infos.len() >= filter.limit {
                        return ControlFlow::Break(());
                    }
                    let Some(id) = keys::parse_invocation(key) else {
                        return ControlFlow::Continue(());
                    };
                    match decode(&id, value.clone()) {
                        Ok(row) if self.is_forgotten(&row) => ControlFlow::Continue(()),
                        Ok(row) => {
                            let info = self.describe(id, &row);
                            if matches(filter, &info) {
                                infos.push(info);
                            }
                            ControlFlow::Continue(())
                        }
                        Err(error) => {
                            failure = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                },
            )
            .map_err(PartitionError::Store)?;
        failure.map_or(Ok(infos), Err)
    }
}

fn matches(filter: &InvocationFilter, info: &InvocationInfo) -> bool {
    (filter.service.as_ref()).is_none_or(|service| *service == info.target.service)
        && (filter.key.as_ref()).is_none_or(|key| Some(key) == info.target.key.as_ref())
        && filter.status.is_none_or(|status| status == info.status)
}

fn decode(id: &InvocationId, value: Bytes) -> Result<state::Invocation, PartitionError> {
    state::Invocation::decode(value).map_err(|source| {
        PartitionError::Store(StoreError {
            what: "decode invocation",
            place: id.to_string(),
            source: Some(Box::new(source)),
        })
    })
}

fn retained(row: &state::Invocation) -> Finished {
    Finished {
        outcome: outcome_from_stored(row.outcome.clone().unwrap_or_default()),
        expires_at: Some(abide_state_machine::expires_at(row)),
        target: InvocationTarget::from(&row.target.clone().unwrap_or_default()),
    }
}

fn read_inbound(
    store: &dyn abide_state_machine::Store,
    from: PartitionId,
) -> Result<Option<OutboxPosition>, StoreError> {
    let value = store.get(&keys::inbound(from))?;
    Ok(value.and_then(|value| {
        let mut value = &value[..];
        Some(OutboxPosition {
            lsn: value.try_get_u64().ok()?,
            index: value.try_get_u32().ok()?,
        })
    }))
}

impl From<abide_state_machine::Operated> for crate::api::Operated {
    fn from(operated: abide_state_machine::Operated) -> Self {
        use abide_state_machine::Operated;
        match operated {
            Operated::Done => Self::Done,
            Operated::Appended => Self::Appended,
            Operated::NotFound => Self::NotFound,
            Operated::AlreadyCompleted => Self::AlreadyCompleted,
            Operated::NotCompleted => Self::NotCompleted,
            Operated::WrongState => Self::WrongState,
            Operated::CannotMove => Self::CannotMove,
        }
    }
}
