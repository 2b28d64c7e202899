//! The journal of an invocation: what is appended, who hears of it, and when a suspended handler wakes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use abide_service_protocol::awaiting::IsFailure;
use abide_service_protocol::{
    Await, MessageClass, MessageType, Notification, NotificationId, RawEntry,
};
use abide_types::InvocationId;
use bytes::Bytes;
use prost::Message as _;

use crate::action::Action;
use crate::apply::Transaction;
use crate::keys;
use crate::lifecycle::decode_row;
use crate::proto::{self, Invocation, JournalEntry, Status};
use crate::store::{Store, StoreError};

/// Whether an entry is a notification rather than a command.
pub fn is_notification(ty: u16) -> bool {
    MessageClass::of(ty) == MessageClass::Notification
}

/// The whole journal of an invocation, in order.
pub fn read_journal(
    store: &dyn Store,
    id: &InvocationId,
    length: u32,
) -> Result<Vec<RawEntry>, StoreError> {
    let mut entries = Vec::with_capacity(length as usize);
    visit_journal(store, id, length, &mut |entry| entries.push(entry))?;
    Ok(entries)
}

fn visit_journal(
    store: &dyn Store,
    id: &InvocationId,
    length: u32,
    visit: &mut dyn FnMut(RawEntry),
) -> Result<(), StoreError> {
    let mut failure = None;
    store.scan(
        &keys::journal(id, 0),
        &keys::journal(id, length),
        &mut |_, value| match decode_row::<JournalEntry>("decode journal entry", id, value.clone())
        {
            Ok(entry) => {
                visit(RawEntry {
                    ty: entry.ty as u16,
                    payload: entry.payload,
                });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failure.map_or(Ok(()), Err)
}

impl Transaction<'_> {
    /// Appends an entry and returns its index.
    pub(crate) fn append(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        ty: u16,
        payload: Bytes,
    ) -> u32 {
        let index = invocation.journal_length;
        let row = JournalEntry {
            ty: ty.into(),
            payload,
            at: self.at.0,
        };
        self.store
            .put(keys::journal(id, index), row.encode_to_vec().into());
        invocation.journal_length += 1;
        index
    }

    /// Appends a notification and tells or wakes the handler. The caller saves the invocation.
    pub(crate) fn notify(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        notification: Notification,
    ) -> Result<(), StoreError> {
        let notification_id = notification.id.clone();
        self.notify_entry(id, invocation, notification.into_entry(), notification_id)
    }

    /// As [`Self::notify`], with the entry as it is to be stored.
    pub(crate) fn notify_entry(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        entry: RawEntry,
        notification_id: NotificationId,
    ) -> Result<(), StoreError> {
        let index = self.append(id, invocation, entry.ty, entry.payload.clone());
        match invocation.status() {
            Status::Invoked => self.actions.push(Action::Notify {
                id: *id,
                index,
                entry,
            }),
            Status::Suspended => {
                let awaiting = invocation.awaiting.clone();
                if self.wakes(id, invocation, awaiting, Some(&notification_id))? {
                    self.start(id, invocation);
                }
            }
            Status::Paused if notification_id == NotificationId::CANCEL => {
                self.start(id, invocation)
            }
            Status::Paused | Status::Scheduled | Status::Inboxed | Status::Completed => {}
        }
        Ok(())
    }

    /// Whether a handler that waits for `awaiting` has to run again. `newest` is the notification that came just
    /// now, if the wait was looked at before it.
    pub(crate) fn wakes(
        &self,
        id: &InvocationId,
        invocation: &Invocation,
        awaiting: Bytes,
        newest: Option<&NotificationId>,
    ) -> Result<bool, StoreError> {
        // The invoker has decoded it before it was proposed. Should it not decode here, a wake-up too many is
        // safe and one too few hangs.
        let Ok(awaiting) = Await::decode(awaiting) else {
            return Ok(true);
        };
        if newest.is_some_and(|newest| !awaiting.leaves().any(|leaf| leaf == newest)) {
            return Ok(false);
        }
        let mut known = BTreeMap::new();
        visit_journal(self.store, id, invocation.journal_length, &mut |entry| {
            if is_notification(entry.ty)
                && let Ok(notification) = Notification::decode(&entry)
            {
                let failed = notification.is_failure();
                known.entry(notification.id).or_insert(IsFailure(failed));
            }
        })?;
        Ok(awaiting.is_satisfied(|leaf| known.get(leaf).copied()))
    }

    pub(crate) fn complete_sleep(
        &mut self,
        id: &InvocationId,
        mut invocation: Invocation,
        completion_id: u32,
    ) -> Result<(), StoreError> {
        if invocation.status() != Status::Completed {
            self.notify(id, &mut invocation, Notification::slept(completion_id))?;
            self.save(id, &mut invocation);
        }
        Ok(())
    }

    /// A signal for an invocation; one that is unknown or has ended takes no notice. One request makes one entry,
    /// even if its answer was lost with a leader and it came again.
    pub(crate) fn signal(&mut self, signal: proto::Signal) -> Result<(), StoreError> {
        use proto::signal::Signal;
        let Some(id) = InvocationId::from_bytes(&signal.id) else {
            return Ok(());
        };
        let name = match signal.signal {
            Some(Signal::Index(index)) => NotificationId::Signal(index),
            Some(Signal::Name(name)) => NotificationId::NamedSignal(name),
            None => return Ok(()),
        };
        if name == NotificationId::CANCEL {
            return self.cancel(&id, false).map(drop);
        }
        let Some(mut invocation) = self.load(&id)? else {
            return Ok(());
        };
        if invocation.status() == Status::Completed
            || !is_new_request(&mut invocation, signal.request_id)
        {
            return Ok(());
        }
        let notification =
            Notification::signal(name, crate::convert::signal_result(signal.outcome));
        self.notify(&id, &mut invocation, notification)?;
        self.save(&id, &mut invocation);
        Ok(())
    }

    /// The completion of a wait on something outside the invocation.
    pub(crate) fn response(&mut self, response: proto::Response) -> Result<(), StoreError> {
        let Some(sink) = response.sink else {
            return Ok(());
        };
        let Some(id) = InvocationId::from_bytes(&sink.invocation) else {
            return Ok(());
        };
        let Some(mut invocation) = self.load(&id)? else {
            return Ok(());
        };
        if invocation.incarnation != sink.incarnation || invocation.status() == Status::Completed {
            return Ok(());
        }
        let outcome = response.outcome.map(crate::convert::outcome_from_stored);
        let completion_id = sink.completion_id;
        let notification = match (sink.kind(), outcome) {
            (proto::SinkKind::Output, outcome) => {
                Notification::invocation_output(completion_id, outcome)
            }
            (proto::SinkKind::Call, Some(outcome)) => Notification::call(completion_id, outcome),
            (proto::SinkKind::Attach, Some(outcome)) => {
                Notification::attached(completion_id, outcome)
            }
            (proto::SinkKind::Promise, Some(outcome)) => {
                Notification::promise(completion_id, outcome)
            }
            (_, None) => return Ok(()),
        };
        self.notify(&id, &mut invocation, notification)?;
        self.save(&id, &mut invocation);
        Ok(())
    }

    /// Forgets the journal's rows and the events beside it; the caller saves the invocation.
    pub(crate) fn delete_journal(&mut self, id: &InvocationId, invocation: &mut Invocation) {
        for index in 0..invocation.journal_length {
            self.store.delete(keys::journal(id, index));
        }
        invocation.journal_length = 0;
        self.delete_events(id, invocation);
    }

    /// Ids of all callees in the journal, in order.
    pub(crate) fn callees(
        &self,
        id: &InvocationId,
        invocation: &Invocation,
    ) -> Result<Vec<InvocationId>, StoreError> {
        let mut callees = Vec::new();
        visit_journal(self.store, id, invocation.journal_length, &mut |entry| {
            if entry.ty == MessageType::CallInvocationIdCompletion.code()
                && let Ok(notification) = Notification::decode(&entry)
                && let abide_service_protocol::NotificationResult::InvocationId(text) =
                    notification.result
                && let Ok(callee) = text.parse()
            {
                callees.push(callee);
            }
        })?;
        Ok(callees)
    }
}

/// Requests of signals from outside that an invocation remembers. A front door repeats a request until it is
/// answered, so what has to be recognised came moments ago.
const RECENT_REQUESTS_MAX: usize = 8;

/// Whether the request is not one of the last; remembers it. Signals of other invocations have no request: they
/// come once.
fn is_new_request(invocation: &mut Invocation, request: Bytes) -> bool {
    if request.is_empty() {
        return true;
    }
    if invocation.recent_requests.contains(&request) {
        return false;
    }
    if invocation.recent_requests.len() >= RECENT_REQUESTS_MAX {
        invocation.recent_requests.remove(0);
    }
    invocation.recent_requests.push(request);
    true
}
