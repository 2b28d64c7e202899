//! What operators and the leader's retry policy do to invocations: cancel, kill, pause, resume, purge.

use std::ops::ControlFlow;

use abide_service_protocol::Notification;
use abide_types::InvocationId;
use bytes::Bytes;

use crate::action::{Action, Operated, Reply};
use crate::apply::Transaction;
use crate::keys;
use crate::lifecycle::expires_at;
use crate::proto::{self, Invocation, Operation, Status};
use crate::store::StoreError;

impl Transaction<'_> {
    pub(crate) fn operate(&mut self, operate: &proto::Operate) -> Result<Reply, StoreError> {
        let Some(id) = InvocationId::from_bytes(&operate.id) else {
            return Ok(Reply::Operated(Operated::NotFound));
        };
        let operated = match operate.operation() {
            Operation::Cancel => self.cancel(&id)?,
            Operation::Kill => self.kill(&id)?,
            Operation::Resume => self.resume(&id)?,
            Operation::Pause => self.pause(&id)?,
            Operation::Purge => self.purge(&id, false)?,
            Operation::PurgeJournal => self.purge(&id, true)?,
        };
        Ok(Reply::Operated(operated))
    }

    /// Tells the handler to stop; one that has not started ends here and now (service protocol reference, 5.11).
    pub(crate) fn cancel(&mut self, id: &InvocationId) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load(id)? else {
            return Ok(Operated::NotFound);
        };
        match invocation.status() {
            Status::Completed => Ok(Operated::AlreadyCompleted),
            Status::Scheduled | Status::Inboxed => {
                self.complete(id, invocation, proto::Outcome::failed(409, "canceled"))?;
                Ok(Operated::Done)
            }
            Status::Invoked | Status::Suspended | Status::Paused => {
                self.notify(id, &mut invocation, Notification::cancel())?;
                self.save(id, &mut invocation);
                Ok(Operated::Appended)
            }
        }
    }

    /// Ends the invocation without asking its handler, and its callees likewise.
    fn kill(&mut self, id: &InvocationId) -> Result<Operated, StoreError> {
        let Some(invocation) = self.load(id)? else {
            return Ok(Operated::NotFound);
        };
        if invocation.status() == Status::Completed {
            return Ok(Operated::AlreadyCompleted);
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

    fn resume(&mut self, id: &InvocationId) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load(id)? else {
            return Ok(Operated::NotFound);
        };
        match invocation.status() {
            Status::Completed => return Ok(Operated::AlreadyCompleted),
            Status::Scheduled | Status::Inboxed => return Ok(Operated::WrongState),
            Status::Invoked => self.actions.push(Action::RetryNow { id: *id }),
            Status::Suspended | Status::Paused => {
                self.start(id, &mut invocation);
                self.save(id, &mut invocation);
            }
        }
        Ok(Operated::Done)
    }

    fn pause(&mut self, id: &InvocationId) -> Result<Operated, StoreError> {
        let Some(mut invocation) = self.load(id)? else {
            return Ok(Operated::NotFound);
        };
        match invocation.status() {
            Status::Completed => Ok(Operated::AlreadyCompleted),
            Status::Scheduled | Status::Inboxed => Ok(Operated::WrongState),
            Status::Paused => Ok(Operated::Done),
            Status::Invoked | Status::Suspended => {
                self.stop(id, &mut invocation, Status::Paused);
                invocation.awaiting = Bytes::new();
                self.save(id, &mut invocation);
                Ok(Operated::Appended)
            }
        }
    }

    /// The leader's verdict that attempts have run out: wait for an operator.
    pub(crate) fn pause_by(&mut self, pause: proto::Pause) -> Result<(), StoreError> {
        if let Some((id, mut invocation)) = self.invoked(&pause.id, pause.incarnation)? {
            self.stop(&id, &mut invocation, Status::Paused);
            invocation.paused_by = pause.failure;
            self.save(&id, &mut invocation);
        }
        Ok(())
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
        let Some(mut invocation) = self.load(id)? else {
            return Ok(Operated::NotFound);
        };
        if invocation.status() != Status::Completed {
            return Ok(Operated::NotCompleted);
        }
        self.delete_journal(id, &mut invocation);
        if journal_only {
            self.save(id, &mut invocation);
            return Ok(Operated::Done);
        }
        self.store.delete(keys::invocation(id));
        self.forget_workflow(&invocation)?;
        Ok(Operated::Done)
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
        self.delete_prefix(&keys::state_of(&target.service, key))?;
        self.delete_prefix(&keys::promises_of(&target.service, key))
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
            let Some(invocation) = self.load(&id)? else {
                continue;
            };
            let due = if expired.journal_only {
                journal_expires_at(&invocation)
            } else {
                expires_at(&invocation)
            };
            if invocation.incarnation == expired.incarnation
                && invocation.status() == Status::Completed
                && due <= self.at
            {
                self.purge(&id, expired.journal_only)?;
            }
        }
        Ok(())
    }
}

/// When the journal of a completed invocation may be forgotten.
pub fn journal_expires_at(invocation: &Invocation) -> abide_types::Timestamp {
    abide_types::Timestamp(
        invocation
            .completed_at
            .saturating_add(invocation.journal_retention_ms),
    )
}
