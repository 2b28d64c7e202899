//! What operators and the leader's retry policy do to invocations: cancel, kill, pause, resume, purge.

use std::ops::ControlFlow;

use abide_service_protocol::Notification;
use abide_types::{InvocationId, QueueId};
use bytes::Bytes;

use crate::action::{Action, Operated, Reply};
use crate::apply::Transaction;
use crate::keys;
use crate::lifecycle::expires_at;
use crate::proto::{self, Invocation, Operation, Status};
use crate::store::StoreError;

impl Transaction<'_> {
    pub(crate) fn operate(&mut self, operate: proto::Operate) -> Result<Reply, StoreError> {
        let Some(id) = InvocationId::from_bytes(&operate.id) else {
            return Ok(Reply::Operated(Operated::NotFound));
        };
        let operated = match operate.operation() {
            Operation::Cancel => self.cancel(&id, operate.waits)?,
            Operation::Kill => self.kill(&id, operate.waits)?,
            Operation::Resume => self.resume(&id, operate.deployment, operate.waits)?,
            Operation::Pause => self.pause(&id, operate.last_failure, operate.waits)?,
            Operation::Purge => self.purge(&id, false)?,
            Operation::PurgeJournal => self.purge(&id, true)?,
        };
        Ok(Reply::Operated(operated))
    }

    /// Tells the handler to stop; one that has not started ends here and now (service protocol reference, 5.11).
    pub(crate) fn cancel(
        &mut self,
        id: &InvocationId,
        waits: bool,
    ) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load_remembered(id)? else {
            return Ok(Operated::NotFound);
        };
        if is_yet_to_begin(&invocation, waits) {
            leave_no_trace(&mut invocation);
            self.complete(id, invocation, proto::Outcome::failed(409, "canceled"))?;
            return Ok(Operated::Done);
        }
        if invocation.status() == Status::Completed {
            return Ok(Operated::AlreadyCompleted);
        }
        self.notify(id, &mut invocation, Notification::cancel())?;
        self.save(id, &mut invocation);
        Ok(Operated::Appended)
    }

    /// Ends the invocation without asking its handler, and its callees likewise.
    fn kill(&mut self, id: &InvocationId, waits: bool) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load_remembered(id)? else {
            return Ok(Operated::NotFound);
        };
        if invocation.status() == Status::Completed {
            return Ok(Operated::AlreadyCompleted);
        }
        if is_yet_to_begin(&invocation, waits) {
            leave_no_trace(&mut invocation);
        }
        for callee in self.callees(id, &invocation)? {
            self.send(
                &callee,
                proto::message::Kind::Operate(proto::Operate {
                    id: Bytes::copy_from_slice(&callee.to_bytes()),
                    operation: Operation::Kill as i32,
                    ..Default::default()
                }),
            );
        }
        self.complete(id, invocation, proto::Outcome::failed(409, "killed"))?;
        Ok(Operated::Done)
    }

    /// Lets the invocation run again; `elsewhere` binds it to another deployment, or to none yet if it is not
    /// bound.
    fn resume(
        &mut self,
        id: &InvocationId,
        elsewhere: Option<Box<proto::Pinned>>,
        waits: bool,
    ) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load_remembered(id)? else {
            return Ok(Operated::NotFound);
        };
        if is_yet_to_begin(&invocation, waits) {
            return Ok(Operated::WrongState);
        }
        match invocation.status() {
            Status::Completed => return Ok(Operated::AlreadyCompleted),
            Status::Scheduled | Status::Inboxed => return Ok(Operated::WrongState),
            Status::Invoked if elsewhere.is_some() => return Ok(Operated::CannotMove),
            Status::Invoked => self.actions.push(Action::RetryNow { id: *id }),
            Status::Suspended | Status::Paused => {
                if let Some(elsewhere) = elsewhere.filter(|pinned| !pinned.deployment.is_empty()) {
                    invocation.pinned = Some(*elsewhere);
                }
                self.start(id, &mut invocation);
                self.save(id, &mut invocation);
            }
        }
        Ok(Operated::Done)
    }

    fn pause(
        &mut self,
        id: &InvocationId,
        last_failure: Option<Box<proto::AttemptFailure>>,
        waits: bool,
    ) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load_remembered(id)? else {
            return Ok(Operated::NotFound);
        };
        if is_yet_to_begin(&invocation, waits) {
            return Ok(Operated::WrongState);
        }
        match invocation.status() {
            Status::Completed => Ok(Operated::AlreadyCompleted),
            Status::Scheduled | Status::Inboxed => Ok(Operated::WrongState),
            Status::Paused => Ok(Operated::Done),
            Status::Invoked | Status::Suspended => {
                self.stop(id, &mut invocation, Status::Paused);
                invocation.awaiting = Bytes::new();
                self.note_pause(id, &mut invocation, last_failure.map(|failure| *failure))?;
                self.save(id, &mut invocation);
                Ok(Operated::Appended)
            }
        }
    }

    /// The leader's verdict that attempts have run out: wait for an operator.
    pub(crate) fn pause_by(&mut self, pause: proto::Pause) -> Result<(), StoreError> {
        if let Some((id, mut invocation)) = self.invoked(&pause.id, pause.incarnation)? {
            self.stop(&id, &mut invocation, Status::Paused);
            let failure = pause.last_failure.unwrap_or(proto::AttemptFailure {
                failure: pause.failure,
                ..Default::default()
            });
            self.note_pause(&id, &mut invocation, Some(failure))?;
            self.save(&id, &mut invocation);
        }
        Ok(())
    }

    /// Keeps why the invocation is paused, for as long as it is and among its events.
    fn note_pause(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        failure: Option<proto::AttemptFailure>,
    ) -> Result<(), StoreError> {
        invocation.last_failure = failure.clone().map(Box::new);
        let event = proto::journal_event::Kind::Paused(failure.unwrap_or_default());
        self.append_event(id, invocation, event)
    }

    /// The leader's verdict that the failure is final.
    pub(crate) fn fail_by(&mut self, fail: proto::Fail) -> Result<(), StoreError> {
        if let Some((id, invocation)) = self.invoked(&fail.id, fail.incarnation)? {
            let failure = fail.failure.unwrap_or_default();
            let outcome = proto::Outcome {
                outcome: Some(proto::outcome::Outcome::Failure(failure)),
            };
            self.complete(&id, invocation, outcome)?;
        }
        Ok(())
    }

    /// The invocation of `id`, if it is invoked and still the one that is meant.
    pub(crate) fn invoked(
        &self,
        id: &[u8],
        incarnation: u64,
    ) -> Result<Option<(InvocationId, Invocation)>, StoreError> {
        let Some(id) = InvocationId::from_bytes(id) else {
            return Ok(None);
        };
        Ok(self
            .load(&id)?
            .filter(|invocation| {
                invocation.incarnation == incarnation && invocation.status() == Status::Invoked
            })
            .map(|invocation| (id, invocation)))
    }

    fn purge(&mut self, id: &InvocationId, journal_only: bool) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load_remembered(id)? else {
            return Ok(Operated::NotFound);
        };
        if invocation.status() != Status::Completed {
            return Ok(Operated::NotCompleted);
        }
        if journal_only {
            self.delete_journal(id, &mut invocation);
            self.save(id, &mut invocation);
        } else {
            self.forget(id, invocation)?;
        }
        Ok(Operated::Done)
    }

    /// Leaves nothing of a completed invocation.
    pub(crate) fn forget(
        &mut self,
        id: &InvocationId,
        mut invocation: Invocation,
    ) -> Result<(), StoreError> {
        self.delete_journal(id, &mut invocation);
        self.store.delete(keys::invocation(id));
        self.forget_workflow(&invocation)
    }

    /// Lets a queue start nothing, or go on.
    pub(crate) fn pause_queue(&mut self, pause: &proto::PauseQueue) {
        let Some(queue) = QueueId::from_bytes(&pause.id) else {
            return;
        };
        if pause.paused {
            self.store.put(keys::queue(&queue), Bytes::new());
        } else {
            self.store.delete(keys::queue(&queue));
        }
        self.actions.push(Action::PauseQueue {
            queue,
            paused: pause.paused,
        });
    }

    /// State and promises of a workflow live as long as its run is remembered.
    fn forget_workflow(&mut self, invocation: &Invocation) -> Result<(), StoreError> {
        let Some(target) = &invocation.target else {
            return Ok(());
        };
        if target.handler_kind() != proto::HandlerKind::Run {
            return Ok(());
        }
        let key = target.key.as_deref().unwrap_or_default();
        let service = keys::service_in(invocation.flow.as_deref(), &target.service);
        self.delete_prefix(&keys::state_of(&service, key))?;
        self.delete_prefix(&keys::promises_of(&service, key))
    }

    pub(crate) fn delete_prefix(&mut self, prefix: &Bytes) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        self.store
            .scan(prefix, &keys::prefix_end(prefix), &mut |key, _| {
                rows.push(Bytes::copy_from_slice(key));
                ControlFlow::Continue(())
            })?;
        for row in rows {
            self.store.delete(row);
        }
        Ok(())
    }

    /// The cleaner found these expired. It looked at an earlier state, so each is checked again.
    pub(crate) fn purge_expired(&mut self, purge: &proto::Purge) -> Result<(), StoreError> {
        for expired in &purge.expired {
            let Some(id) = InvocationId::from_bytes(&expired.id) else {
                continue;
            };
            let Some(mut invocation) = self.load(&id)? else {
                continue;
            };
            let due = if expired.journal_only {
                journal_expires_at(&invocation)
            } else {
                expires_at(&invocation)
            };
            if invocation.incarnation != expired.incarnation
                || invocation.status() != Status::Completed
                || self.at < due
            {
                continue;
            }
            if expired.journal_only {
                self.delete_journal(&id, &mut invocation);
                self.save(&id, &mut invocation);
            } else {
                self.forget(&id, invocation)?;
            }
        }
        Ok(())
    }
}

/// Whether no attempt was made yet. Of one with a scope only its leader can say so: it is invoked from the beginning,
/// and `waits` for its turn there. What its journal says of an attempt outweighs that.
pub(crate) fn is_yet_to_begin(invocation: &Invocation, waits: bool) -> bool {
    match invocation.status() {
        Status::Scheduled | Status::Inboxed => true,
        Status::Invoked => waits && invocation.flow.is_some() && invocation.pinned.is_none(),
        Status::Suspended | Status::Paused | Status::Completed => false,
    }
}

/// One that ends before it began leaves nothing behind for anybody to see.
fn leave_no_trace(invocation: &mut Invocation) {
    invocation.completion_retention_ms = 0;
    invocation.journal_retention_ms = 0;
}

/// When the journal of a completed invocation may be forgotten.
pub fn journal_expires_at(invocation: &Invocation) -> abide_types::Timestamp {
    abide_types::Timestamp(
        invocation
            .completed_at
            .saturating_add(invocation.journal_retention_ms),
    )
}
