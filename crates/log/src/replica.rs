//! What a log server must do with one log: the rules, without the disk.
//!
//! The server keeps one [`ReplicaLog`] a log, asks it what to do and makes that durable before anybody hears
//! of it. A write that fails ends the process, so that the state in memory is never ahead of the answers.

use std::collections::BTreeMap;

use abide_types::{Epoch, Lsn};

use crate::message::{AppendOutcome, FenceOutcome, Refusal};

/// A log as one log server has it.
///
/// Invariant: of each segment a contiguous stretch up to its tail is stored, from its base or the trim point
/// on. Segments are kept by epoch and never mixed: one whose takeover was never published is no other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ReplicaLog {
    promised: Epoch,
    trimmed: Lsn,
    segments: BTreeMap<Epoch, StoredSegment>,
}

/// What is stored of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredSegment {
    /// Its first LSN.
    pub base: Lsn,
    /// The next LSN to be stored.
    pub tail: Lsn,
    /// What its leader said is committed. It may be ahead of the local tail.
    pub committed: Lsn,
}

/// What to do with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Answer now; nothing changes.
    Answer(AppendOutcome),
    /// Make it durable, then answer that everything below `tail` is stored.
    Store {
        /// Records in front that are stored (or trimmed) already.
        skip: usize,
        /// The tail afterwards.
        tail: Lsn,
        /// Whether the promise rose to the append's epoch.
        promise: bool,
        /// Whether the segment is new here.
        opens: bool,
    },
}

impl ReplicaLog {
    /// What a disk held. The caller has checked that each segment's `base <= tail`.
    pub fn restored(
        promised: Epoch,
        trimmed: Lsn,
        segments: BTreeMap<Epoch, StoredSegment>,
    ) -> Self {
        Self {
            promised,
            trimmed,
            segments,
        }
    }

    /// The epoch below which nothing is taken.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Everything below was committed and is forgotten.
    pub fn trim_point(&self) -> Lsn {
        self.trimmed
    }

    /// The segments, by epoch.
    pub fn segments(&self) -> &BTreeMap<Epoch, StoredSegment> {
        &self.segments
    }

    /// The tail of a segment. What was trimmed counts as stored: it is committed and nobody needs it.
    pub fn tail(&self, epoch: Epoch) -> Option<Lsn> {
        let segment = self.segments.get(&epoch)?;
        Some(segment.tail.max(self.trimmed))
    }

    /// Everything below is known to be committed in the segment of `epoch`. What another epoch's leader said
    /// does not count: its segment may hold other records at the same positions.
    pub fn committed(&self, epoch: Epoch) -> Lsn {
        let heard = self.segments.get(&epoch).map(|segment| segment.committed);
        heard.unwrap_or(Lsn::ZERO).max(self.trimmed)
    }

    /// Decides on `count` records from `first` on.
    pub fn append(
        &mut self,
        epoch: Epoch,
        base: Lsn,
        first: Lsn,
        count: usize,
        committed: Lsn,
    ) -> Admission {
        if epoch < self.promised {
            return Admission::Answer(AppendOutcome::Fenced {
                promised: self.promised,
            });
        }
        let known = self.segments.get(&epoch).copied();
        if known.is_some_and(|segment| segment.base != base) || base < Lsn::FIRST || first < base {
            return Admission::Answer(AppendOutcome::Refused(Refusal::BaseConflict));
        }
        let opens = known.is_none();
        let mut segment = known.unwrap_or(StoredSegment {
            base,
            tail: base,
            committed: Lsn::ZERO,
        });
        let tail = segment.tail.max(self.trimmed);
        // A probe without records claims the position behind what was sent: it finds losses as well.
        if tail < first {
            return Admission::Answer(AppendOutcome::Gap { tail });
        }
        let end = first.advance(count as u64);
        segment.committed = segment.committed.max(committed);
        segment.tail = tail.max(end);
        self.segments.insert(epoch, segment);
        let promise = self.promised < epoch;
        self.promised = epoch;
        Admission::Store {
            skip: usize::try_from(first.until(tail)).map_or(count, |held| held.min(count)),
            tail: segment.tail,
            promise,
            opens,
        }
    }

    /// Promises a taker that nothing below its epoch is taken any more. The answer may leave only after the
    /// promise is durable.
    pub fn fence(&mut self, epoch: Epoch, segment: Epoch) -> FenceOutcome {
        if epoch < self.promised {
            return FenceOutcome::Refused {
                promised: self.promised,
            };
        }
        self.promised = epoch;
        let newest = self.segments.range(..epoch).next_back();
        FenceOutcome::Promised {
            tail: self.tail(segment),
            committed: self.committed(segment),
            trimmed: self.trimmed,
            newest: newest.map_or(Epoch(0), |(newest, _)| *newest),
        }
    }

    /// Forgets everything below `trimmed`. Returns whether anything changes, and the segments of which
    /// nothing is left and that cannot be written any more; they are forgotten.
    pub fn trim(&mut self, trimmed: Lsn) -> (bool, Vec<Epoch>) {
        if trimmed <= self.trimmed {
            return (false, Vec::new());
        }
        self.trimmed = trimmed;
        let promised = self.promised;
        let dead: Vec<Epoch> = self
            .segments
            .iter()
            .filter(|(epoch, segment)| **epoch < promised && segment.tail <= trimmed)
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in &dead {
            self.segments.remove(epoch);
        }
        (true, dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &mut ReplicaLog, epoch: u64, base: u64, first: u64, count: usize) -> String {
        match log.append(Epoch(epoch), Lsn(base), Lsn(first), count, Lsn(base)) {
            Admission::Answer(outcome) => format!("{outcome:?}"),
            Admission::Store { skip, tail, .. } => format!("skip {skip}, tail {tail}"),
        }
    }

    #[test]
    fn appends_join_what_is_stored() {
        let mut log = ReplicaLog::default();
        assert_eq!(append(&mut log, 1, 1, 1, 2), "skip 0, tail 3");
        assert_eq!(append(&mut log, 1, 1, 2, 3), "skip 1, tail 5");
        assert_eq!(append(&mut log, 1, 1, 1, 2), "skip 2, tail 5");
        assert_eq!(append(&mut log, 1, 1, 6, 1), "Gap { tail: Lsn(5) }");
        assert_eq!(append(&mut log, 1, 1, 9, 0), "Gap { tail: Lsn(5) }");
        assert_eq!(append(&mut log, 1, 1, 5, 0), "skip 0, tail 5");
        assert_eq!(append(&mut log, 1, 2, 5, 1), "Refused(BaseConflict)");
        assert_eq!(append(&mut log, 3, 4, 4, 1), "skip 0, tail 5");
        assert_eq!(
            append(&mut log, 1, 1, 5, 1),
            "Fenced { promised: Epoch(3) }"
        );
        assert_eq!(log.tail(Epoch(1)), Some(Lsn(5)));
    }

    #[test]
    fn a_fence_is_kept_and_tells_the_tail() {
        let mut log = ReplicaLog::default();
        append(&mut log, 1, 1, 1, 4);
        log.append(Epoch(1), Lsn(1), Lsn(5), 0, Lsn(3));
        let promised = |newest| FenceOutcome::Promised {
            tail: Some(Lsn(5)),
            committed: Lsn(3),
            trimmed: Lsn::ZERO,
            newest: Epoch(newest),
        };
        assert_eq!(log.fence(Epoch(4), Epoch(1)), promised(1));
        assert_eq!(log.fence(Epoch(4), Epoch(1)), promised(1), "asked twice");
        let refused = FenceOutcome::Refused { promised: Epoch(4) };
        assert_eq!(log.fence(Epoch(3), Epoch(1)), refused);
        assert_eq!(
            append(&mut log, 1, 1, 5, 1),
            "Fenced { promised: Epoch(4) }"
        );
        assert_eq!(append(&mut log, 4, 3, 3, 2), "skip 0, tail 5");
        assert_eq!(log.fence(Epoch(6), Epoch(1)), promised(4));
    }

    #[test]
    fn what_is_trimmed_counts_as_stored_and_committed() {
        let mut log = ReplicaLog::default();
        append(&mut log, 1, 1, 1, 4);
        assert_eq!(log.trim(Lsn(10)), (true, vec![]));
        assert_eq!(log.trim(Lsn(9)), (false, vec![]));
        assert_eq!(log.tail(Epoch(1)), Some(Lsn(10)));
        assert_eq!(append(&mut log, 1, 1, 8, 4), "skip 2, tail 12");
        log.fence(Epoch(2), Epoch(1));
        assert_eq!(log.trim(Lsn(12)), (true, vec![Epoch(1)]));
        assert_eq!(log.committed(Epoch(1)), Lsn(12));
    }
}
