//! What was read of one partition of a topic and is not accepted yet: which messages may be sent, and up to where
//! everything is accepted.
//!
//! Messages go to partitions of the cluster by lanes. A lane has one batch on its way at a time, because the receiver
//! takes a later position for the sign that the earlier ones came before. Pure; the I/O is in [`crate::reader`].

use std::collections::{HashMap, VecDeque};

use abide_types::PartitionId;

/// Messages of one batch, whatever their size: a leader takes a batch as a whole.
const BATCH_MESSAGES_MAX: usize = 512;

/// One partition of a topic.
pub(crate) struct Source<T> {
    /// Offsets that were read, ascending, and whether they are accepted; the first is not.
    open: VecDeque<(i64, bool)>,
    lanes: HashMap<PartitionId, Lane<T>>,
}

struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    on_its_way: bool,
}

struct Waiting<T> {
    offset: i64,
    bytes: usize,
    message: T,
}

/// Messages to be sent together.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch<T> {
    pub(crate) to: PartitionId,
    pub(crate) offsets: Vec<i64>,
    pub(crate) messages: Vec<T>,
    pub(crate) bytes: usize,
}

impl<T> Default for Source<T> {
    fn default() -> Self {
        Self {
            open: VecDeque::new(),
            lanes: HashMap::new(),
        }
    }
}

impl<T> Source<T> {
    /// Takes in the next message that was read. Offsets rise, with gaps.
    pub(crate) fn push(&mut self, offset: i64, to: PartitionId, bytes: usize, message: T) {
        debug_assert!(self.open.back().is_none_or(|(last, _)| *last < offset));
        self.open.push_back((offset, false));
        let lane = self.lanes.entry(to).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            on_its_way: false,
        });
        lane.waiting.push_back(Waiting {
            offset,
            bytes,
            message,
        });
    }

    /// The next batch for `to`, of about `bytes_max`, unless one is on its way or nothing waits.
    pub(crate) fn next_batch(&mut self, to: PartitionId, bytes_max: usize) -> Option<Batch<T>> {
        let lane = self.lanes.get_mut(&to)?;
        if lane.on_its_way || lane.waiting.is_empty() {
            return None;
        }
        lane.on_its_way = true;
        let mut batch = Batch {
            to,
            offsets: Vec::new(),
            messages: Vec::new(),
            bytes: 0,
        };
        while batch.messages.len() < BATCH_MESSAGES_MAX
            && let Some(next) = lane.waiting.pop_front_if(|next| {
                batch.messages.is_empty() || batch.bytes + next.bytes <= bytes_max
            })
        {
            batch.bytes += next.bytes;
            batch.offsets.push(next.offset);
            batch.messages.push(next.message);
        }
        Some(batch)
    }

    /// A batch is accepted. The highest offset up to which everything is, if it moved.
    pub(crate) fn accepted(&mut self, to: PartitionId, offsets: &[i64]) -> Option<i64> {
        if let Some(lane) = self.lanes.get_mut(&to) {
            lane.on_its_way = false;
            if lane.waiting.is_empty() {
                self.lanes.remove(&to);
            }
        }
        for offset in offsets {
            if let Ok(place) = self
                .open
                .binary_search_by_key(offset, |(offset, _)| *offset)
            {
                self.open[place].1 = true;
            }
        }
        let mut settled = None;
        while let Some((offset, _)) = self.open.pop_front_if(|(_, accepted)| *accepted) {
            settled = Some(offset);
        }
        settled
    }

    /// Bytes of what was not sent yet.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let lanes = self.lanes.values();
        lanes
            .flat_map(|lane| &lane.waiting)
            .map(|waiting| waiting.bytes)
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const A: PartitionId = PartitionId(0);
    const B: PartitionId = PartitionId(1);

    fn source(messages: &[(i64, PartitionId)]) -> Source<i64> {
        let mut source = Source::default();
        for (offset, to) in messages {
            source.push(*offset, *to, 10, *offset);
        }
        source
    }

    #[test]
    fn a_lane_sends_the_next_batch_when_the_one_before_is_accepted() {
        let mut source = source(&[(1, A), (2, A), (5, A)]);
        let first = source.next_batch(A, 20).unwrap();
        assert_eq!((&first.messages, first.bytes), (&vec![1, 2], 20));
        assert_eq!(source.next_batch(A, 20), None);
        assert_eq!(source.accepted(A, &first.offsets), Some(2));
        let second = source.next_batch(A, 20).unwrap();
        assert_eq!(second.messages, [5]);
        assert_eq!(source.accepted(A, &second.offsets), Some(5));
        assert_eq!(source.next_batch(A, 20), None);
        assert_eq!(source.waiting_bytes(), 0);
    }

    #[test]
    fn lanes_do_not_wait_for_each_other_but_the_offset_waits_for_all() {
        let mut source = source(&[(1, A), (2, B), (3, A), (4, B)]);
        let a = source.next_batch(A, 100).unwrap();
        let b = source.next_batch(B, 100).unwrap();
        assert_eq!((&a.offsets[..], &b.offsets[..]), (&[1, 3][..], &[2, 4][..]));
        assert_eq!(source.accepted(B, &b.offsets), None);
        assert_eq!(source.accepted(A, &a.offsets), Some(4));
    }

    #[test]
    fn a_message_larger_than_a_batch_has_its_own() {
        let mut source = Source::default();
        source.push(0, A, 5, "small");
        source.push(1, A, 500, "large");
        source.push(2, A, 5, "small");
        for expected in ["small", "large", "small"] {
            let batch = source.next_batch(A, 100).unwrap();
            assert_eq!(batch.messages, [expected]);
            source.accepted(A, &batch.offsets);
        }
    }
}
