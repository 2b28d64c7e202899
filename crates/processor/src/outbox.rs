//! The leader's side of exactly-once messages between partitions.
//!
//! What waits in the outbox table is sent to the receiving partition's leader in order and kept until it is acked.
//! Each message names the one before it that is not acked yet, so that a receiver never takes a message whose
//! predecessor was lost on the way: its high-water mark would shut that one out for good.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use abide_rpc::proto::partition as wire;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::{OutboxPosition, Store, StoreError, proto as state};
use abide_types::PartitionId;
use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

/// Without an ack for so long, everything that is not acked is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Messages under way to one partition.
const UNDER_WAY_MAX: usize = 4096;
/// Bytes that one post carries, about.
const POST_BYTES_MAX: usize = 1 << 20;

struct Waiting {
    position: OutboxPosition,
    message: Bytes,
}

#[derive(Default)]
struct Destination {
    /// Not acked, in order; the first `sent` of them are under way.
    waiting: VecDeque<Waiting>,
    sent: usize,
    last_progress: Option<Instant>,
}

/// What waits for other partitions.
#[derive(Default)]
pub(crate) struct Outbox {
    destinations: BTreeMap<PartitionId, Destination>,
}

impl Outbox {
    /// Reads what an earlier leader left.
    pub(crate) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut outbox = Self::default();
        store.scan(
            &keys::table_start(Table::Outbox),
            &keys::table_end(Table::Outbox),
            &mut |key, value| {
                if let Some((to, lsn, index)) = keys::parse_outbox(key) {
                    let position = OutboxPosition { lsn: lsn.0, index };
                    outbox.push(to, position, value.clone());
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(outbox)
    }

    pub(crate) fn add(
        &mut self,
        to: PartitionId,
        position: OutboxPosition,
        message: &state::Message,
    ) {
        self.push(to, position, message.encode_to_vec().into());
    }

    fn push(&mut self, to: PartitionId, position: OutboxPosition, message: Bytes) {
        self.destinations
            .entry(to)
            .or_default()
            .waiting
            .push_back(Waiting { position, message });
    }

    /// What may be sent to whom now.
    pub(crate) fn poll_send(&mut self, from: PartitionId, now: Instant) -> Vec<wire::Deliveries> {
        let mut posts = Vec::new();
        for (to, destination) in &mut self.destinations {
            let mut messages = Vec::new();
            let mut bytes = 0;
            while destination.sent < destination.waiting.len().min(UNDER_WAY_MAX)
                && bytes < POST_BYTES_MAX
            {
                let next = &destination.waiting[destination.sent];
                let previous = destination
                    .sent
                    .checked_sub(1)
                    .map(|place| to_wire(destination.waiting[place].position));
                bytes += next.message.len();
                messages.push(wire::Delivered {
                    position: Some(to_wire(next.position)),
                    previous,
                    message: next.message.clone(),
                });
                destination.sent += 1;
            }
            if !messages.is_empty() {
                destination.last_progress.get_or_insert(now);
                posts.push(wire::Deliveries {
                    from: from.0.into(),
                    to: to.0.into(),
                    messages,
                });
            }
        }
        posts
    }

    /// The receiver has taken these, or wants everything from the first that it has not. Returns what can be
    /// forgotten.
    pub(crate) fn on_acks(
        &mut self,
        acks: &wire::DeliveryAcks,
        now: Instant,
    ) -> Vec<OutboxPosition> {
        let Ok(to) = u16::try_from(acks.to) else {
            return Vec::new();
        };
        let Some(destination) = self.destinations.get_mut(&PartitionId(to)) else {
            return Vec::new();
        };
        let mut forgotten = Vec::new();
        for position in acks.positions.iter().map(from_wire) {
            // The receiver takes in order: an ack holds for everything before it.
            while destination.sent > 0
                && let Some(first) = destination.waiting.front()
                && first.position <= position
            {
                forgotten.push(first.position);
                destination.waiting.pop_front();
                destination.sent -= 1;
            }
        }
        destination.last_progress = (destination.sent > 0).then_some(now);
        if acks.resend {
            destination.sent = 0;
        }
        if destination.waiting.is_empty() {
            self.destinations.remove(&PartitionId(to));
        }
        forgotten
    }

    /// Sends everything for `to` again: its leader changed or cannot have heard it.
    pub(crate) fn resend(&mut self, to: PartitionId) {
        if let Some(destination) = self.destinations.get_mut(&to) {
            destination.sent = 0;
            destination.last_progress = None;
        }
    }

    /// How many messages are not acked, and how many of them are under way.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let destinations = self.destinations.values();
        destinations.fold((0, 0), |(waiting, sent), destination| {
            (waiting + destination.waiting.len(), sent + destination.sent)
        })
    }

    /// Whom something waits for.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = PartitionId> {
        self.destinations.keys().copied()
    }

    /// When to look for messages that were lost.
    pub(crate) fn next_resend(&self) -> Option<Instant> {
        self.destinations
            .values()
            .filter_map(|destination| destination.last_progress)
            .min()
            .map(|progress| progress + RESEND_AFTER)
    }

    /// Sends again what has found no answer.
    pub(crate) fn resend_lost(&mut self, now: Instant) {
        for destination in self.destinations.values_mut() {
            if destination
                .last_progress
                .is_some_and(|progress| progress + RESEND_AFTER <= now)
            {
                destination.sent = 0;
                destination.last_progress = None;
            }
        }
    }
}

/// The receiver's side: what has been proposed of each sender's messages.
#[derive(Default)]
pub(crate) struct Inbound {
    proposed: BTreeMap<PartitionId, OutboxPosition>,
}

/// What to do with a message of another partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the next one: propose it.
    Take,
    /// It is on its way or stored already. Storing it acks it.
    Known,
    /// One before it is missing.
    Gap,
}

impl Inbound {
    /// Judges a message against what has been proposed, or `stored` if nothing was in this term.
    pub(crate) fn arrive(
        &mut self,
        from: PartitionId,
        message: &wire::Delivered,
        stored: impl FnOnce() -> Option<OutboxPosition>,
    ) -> Arrival {
        let position = message.position.as_ref().map(from_wire).unwrap_or(ZERO);
        let proposed = *self
            .proposed
            .entry(from)
            .or_insert_with(|| stored().unwrap_or(ZERO));
        if position <= proposed {
            return Arrival::Known;
        }
        match message.previous.as_ref().map(from_wire) {
            Some(previous) if previous > proposed => Arrival::Gap,
            _ => {
                self.proposed.insert(from, position);
                Arrival::Take
            }
        }
    }
}

const ZERO: OutboxPosition = OutboxPosition { lsn: 0, index: 0 };

pub(crate) fn to_wire(position: OutboxPosition) -> wire::Position {
    wire::Position {
        lsn: position.lsn,
        index: position.index,
    }
}

pub(crate) fn from_wire(position: &wire::Position) -> OutboxPosition {
    OutboxPosition {
        lsn: position.lsn,
        index: position.index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: PartitionId = PartitionId(1);
    const TO: PartitionId = PartitionId(2);

    fn position(lsn: u64) -> OutboxPosition {
        OutboxPosition { lsn, index: 0 }
    }

    fn acks(positions: &[u64], resend: bool) -> wire::DeliveryAcks {
        wire::DeliveryAcks {
            from: FROM.0.into(),
            to: TO.0.into(),
            positions: positions
                .iter()
                .map(|lsn| to_wire(position(*lsn)))
                .collect(),
            resend,
        }
    }

    fn outbox(lsns: &[u64]) -> Outbox {
        let mut outbox = Outbox::default();
        for lsn in lsns {
            outbox.push(TO, position(*lsn), Bytes::new());
        }
        outbox
    }

    #[test]
    fn a_receiver_that_missed_one_takes_none_behind_it() {
        let now = Instant::now();
        let mut sender = outbox(&[5, 6]);
        let first = sender.poll_send(FROM, now).remove(0);
        sender.push(TO, position(7), Bytes::new());
        let second = sender.poll_send(FROM, now).remove(0);

        let mut receiver = Inbound::default();
        // `first` is lost.
        assert_eq!(
            receiver.arrive(FROM, &second.messages[0], || None),
            Arrival::Gap
        );
        assert!(sender.on_acks(&acks(&[], true), now).is_empty());
        let again = sender.poll_send(FROM, now).remove(0);
        assert_eq!(again.messages.len(), 3);
        for message in &again.messages {
            assert_eq!(receiver.arrive(FROM, message, || None), Arrival::Take);
        }
        assert_eq!(
            receiver.arrive(FROM, &first.messages[0], || None),
            Arrival::Known
        );
    }

    #[test]
    fn a_new_receiver_knows_what_is_stored_and_takes_what_follows() {
        let now = Instant::now();
        let mut sender = outbox(&[5, 6]);
        let post = sender.poll_send(FROM, now).remove(0);
        let mut receiver = Inbound::default();
        let stored = || Some(position(5));
        assert_eq!(
            receiver.arrive(FROM, &post.messages[0], stored),
            Arrival::Known
        );
        assert_eq!(
            receiver.arrive(FROM, &post.messages[1], stored),
            Arrival::Take
        );
    }

    #[test]
    fn acks_forget_and_silence_sends_again() {
        let now = Instant::now();
        let mut sender = outbox(&[5, 6, 7]);
        assert_eq!(sender.poll_send(FROM, now).len(), 1);
        assert!(sender.poll_send(FROM, now).is_empty());
        assert_eq!(
            sender.on_acks(&acks(&[6], false), now),
            [position(5), position(6)]
        );
        assert!(sender.poll_send(FROM, now).is_empty());
        sender.resend_lost(now + RESEND_AFTER);
        let again = sender.poll_send(FROM, now).remove(0);
        assert_eq!(again.messages.len(), 1);
        assert_eq!(again.messages[0].previous, None);
        assert_eq!(sender.on_acks(&acks(&[7], false), now), [position(7)]);
        assert_eq!(sender.next_resend(), None);
    }
}
