//! One log as everybody on this node sees it: its state, what is on disk of it, and its recent records.

use std::collections::{BTreeMap, VecDeque};

use abide_log::{ReadOutcome, ReadRequest, Record, ReplicaLog, SegmentStatus};
use abide_types::{Epoch, Lsn};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// A log. The writer thread changes it; connection tasks and readers look at it and note commits.
pub(crate) struct LogView {
    state: Mutex<ViewState>,
    readable: watch::Sender<Lsn>,
}

/// Invariant: `durable` is never ahead of the disk, while `replica` is what will be when the batch that the
/// writer is at is on disk.
#[derive(Default)]
pub(crate) struct ViewState {
    pub replica: ReplicaLog,
    durable: BTreeMap<Epoch, Lsn>,
    trimmed: Lsn,
    recent: BTreeMap<Epoch, VecDeque<Record>>,
}

/// Where a read can be answered from.
pub(crate) enum Lookup {
    Answer(ReadOutcome),
    /// The disk has `[from, end)`.
    Disk {
        end: Lsn,
        tail: Lsn,
        committed: Lsn,
    },
}

impl LogView {
    pub(crate) fn new(replica: ReplicaLog) -> Self {
        let tails = replica.segments().iter();
        let durable = tails
            .map(|(epoch, segment)| (*epoch, segment.tail))
            .collect();
        let trimmed = replica.trim_point();
        let state = ViewState {
            replica,
            durable,
            trimmed,
            recent: BTreeMap::new(),
        };
        let readable = watch::Sender::new(state.readable());
        Self {
            state: Mutex::new(state),
            readable,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock()
    }

    /// The tail of what is both on disk here and known to be committed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.readable.subscribe()
    }

    /// Wakes those who wait for committed records, if there are new ones.
    pub(crate) fn announce(&self, state: MutexGuard<'_, ViewState>) {
        let readable = state.readable();
        drop(state);
        self.readable.send_if_modified(|last| {
            let newer = *last < readable;
            *last = readable.max(*last);
            newer
        });
    }
}

impl ViewState {
    fn readable(&self) -> Lsn {
        let segments = self.durable.iter();
        let readable = segments.map(|(epoch, tail)| self.replica.committed(*epoch).min(*tail));
        readable.max().unwrap_or(Lsn::ZERO).max(self.trimmed)
    }

    /// A batch with the records is on disk; they are kept in memory.
    pub(crate) fn stored(&mut self, epoch: Epoch, tail: Lsn, records: &[Record]) {
        let durable = self.durable.entry(epoch).or_insert(tail);
        *durable = tail.max(*durable);
        let recent = self.recent.entry(epoch).or_default();
        for record in records {
            match recent.back() {
                Some(last) if last.lsn().next() != record.lsn() => {
                    // What was trimmed in between was skipped.
                    recent.clear();
                    recent.push_back(record.clone());
                }
                _ => recent.push_back(record.clone()),
            }
        }
    }

    /// Drops the records below `end` from memory.
    pub(crate) fn forget_recent(&mut self, epoch: Epoch, end: Lsn) {
        if let Some(recent) = self.recent.get_mut(&epoch) {
            while recent.front().is_some_and(|record| record.lsn() < end) {
                recent.pop_front();
            }
            if recent.is_empty() {
                self.recent.remove(&epoch);
            }
        }
    }

    /// A trim is on disk.
    pub(crate) fn trimmed(&mut self, trimmed: Lsn, dead: &[Epoch]) {
        self.trimmed = self.trimmed.max(trimmed);
        for epoch in dead {
            self.durable.remove(epoch);
        }
        let epochs: Vec<Epoch> = self.recent.keys().copied().collect();
        for epoch in epochs {
            self.forget_recent(epoch, trimmed);
        }
    }

    /// Notes what the leader of `epoch` said is committed, if its segment is on disk here and no higher epoch
    /// was promised. Whether it could.
    pub(crate) fn note_commit(&mut self, epoch: Epoch, base: Lsn, committed: Lsn) -> bool {
        if !self.durable.contains_key(&epoch) || epoch < self.replica.promised() {
            return false;
        }
        let tail = self.replica.tail(epoch).unwrap_or(base);
        // Neither stores nor promises anything, since the segment is open here under that epoch.
        self.replica.append(epoch, base, tail, 0, committed);
        true
    }

    /// The tail on disk.
    pub(crate) fn durable_tail(&self, epoch: Epoch) -> Option<Lsn> {
        self.durable.get(&epoch).map(|tail| self.trimmed.max(*tail))
    }

    pub(crate) fn lookup(&self, request: &ReadRequest) -> Lookup {
        let epoch = request.epoch;
        let (from, trimmed) = (request.from, self.trimmed);
        if from < trimmed {
            return Lookup::Answer(ReadOutcome::Trimmed { trimmed });
        }
        let Some(tail) = self.durable_tail(epoch) else {
            return Lookup::Answer(ReadOutcome::Unknown);
        };
        let base = self
            .replica
            .segments()
            .get(&epoch)
            .map_or(from, |segment| segment.base);
        let committed = self.replica.committed(epoch);
        let end = request.end.unwrap_or(committed).min(tail);
        let mut found = Vec::new();
        if from < end && base <= from {
            let recent = self
                .recent
                .get(&epoch)
                .filter(|recent| recent.front().is_some_and(|first| first.lsn() <= from));
            let Some(recent) = recent else {
                return Lookup::Disk {
                    end,
                    tail,
                    committed,
                };
            };
            let skip = recent.front().map_or(0, |first| first.lsn().until(from));
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let mut bytes = 0;
            for record in recent.iter().skip(skip) {
                if end <= record.lsn() || request.bytes_max <= bytes {
                    break;
                }
                bytes += record.weight();
                found.push(record.clone());
            }
        }
        Lookup::Answer(ReadOutcome::Records {
            records: found,
            tail,
            committed,
        })
    }

    pub(crate) fn segments(&self) -> Vec<SegmentStatus> {
        let status = |(epoch, tail): (&Epoch, &Lsn)| {
            let segment = self.replica.segments().get(epoch)?;
            Some(SegmentStatus {
                epoch: *epoch,
                base: segment.base,
                tail: self.trimmed.max(*tail),
                committed: self.replica.committed(*epoch),
            })
        };
        self.durable.iter().filter_map(status).collect()
    }
}
