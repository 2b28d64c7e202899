//! What is kept beside a journal: failed attempts, pauses and suspensions, for people who ask what went wrong.

use abide_types::InvocationId;
use bytes::Bytes;
use prost::Message as _;

use crate::apply::Transaction;
use crate::keys;
use crate::lifecycle::decode_row;
use crate::proto::{self, Invocation, JournalEvent, journal_event::Kind};
use crate::store::StoreError;

/// Events that are kept of one invocation; older ones make room. One that fails in a new way every minute would
/// otherwise fill the disk.
pub const EVENTS_MAX: u32 = 256;

/// From here on a suspension says what it waits for as a tree.
const PROTOCOL_WITH_TREES: u32 = 7;

impl Transaction<'_> {
    /// Adds an event. A failure that repeats the one before it is not added again. The caller saves the
    /// invocation.
    pub(crate) fn append_event(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        kind: Kind,
    ) -> Result<(), StoreError> {
        if matches!(kind, Kind::TransientError(_))
            && self.last_event(id, invocation)?.as_ref() == Some(&kind)
        {
            return Ok(());
        }
        let event = JournalEvent {
            at: self.at.0,
            after_index: invocation.journal_length.saturating_sub(1),
            kind: Some(kind),
        };
        let number = invocation.event_count;
        self.store
            .put(keys::event(id, number), event.encode_to_vec().into());
        if let Some(oldest) = number.checked_sub(EVENTS_MAX) {
            self.store.delete(keys::event(id, oldest));
        }
        invocation.event_count += 1;
        Ok(())
    }

    fn last_event(
        &self,
        id: &InvocationId,
        invocation: &Invocation,
    ) -> Result<Option<Kind>, StoreError> {
        let Some(number) = invocation.event_count.checked_sub(1) else {
            return Ok(None);
        };
        let Some(row) = self.store.get(&keys::event(id, number))? else {
            return Ok(None);
        };
        decode_row::<JournalEvent>("decode journal event", id, row).map(|event| event.kind)
    }

    /// A handler waits. Older protocols do not say how what it waits for hangs together, which is what the event is
    /// for.
    pub(crate) fn note_suspension(
        &mut self,
        id: &InvocationId,
        invocation: &mut Invocation,
        awaiting: &Bytes,
    ) -> Result<(), StoreError> {
        let has_trees = (invocation.pinned.as_ref())
            .is_some_and(|pinned| pinned.protocol >= PROTOCOL_WITH_TREES);
        if !has_trees {
            return Ok(());
        }
        self.append_event(id, invocation, Kind::Suspended(awaiting.clone()))
    }

    /// The leader has seen an attempt fail.
    pub(crate) fn record_event(&mut self, record: proto::RecordEvent) -> Result<(), StoreError> {
        let Some(kind) = record.event.and_then(|event| event.kind) else {
            return Ok(());
        };
        if let Some((id, mut invocation)) = self.invoked(&record.id, record.incarnation)? {
            self.append_event(&id, &mut invocation, kind)?;
            // The status has not changed, so `modified_at` stays.
            self.store
                .put(keys::invocation(&id), invocation.encode_to_vec().into());
        }
        Ok(())
    }

    /// Forgets the events; the caller saves the invocation.
    pub(crate) fn delete_events(&mut self, id: &InvocationId, invocation: &mut Invocation) {
        let first = invocation.event_count.saturating_sub(EVENTS_MAX);
        for number in first..invocation.event_count {
            self.store.delete(keys::event(id, number));
        }
        invocation.event_count = 0;
    }
}
