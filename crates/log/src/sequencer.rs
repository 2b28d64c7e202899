//! The leader's side of a segment: assigns LSNs, streams to the replicas, commits.
//!
//! Pure: the partition's leader owns it, hands it the answers of the log servers and sends what it asks to
//! have sent. One ordered stream a replica; all that is lost on the way is found again by the next gap,
//! reconnection or [`Sequencer::tick`]. Start at [`Sequencer::append`].
//!
//! Nothing is committed before the segment is published: until then the commit stays at the base, whoever
//! holds the suffix, since a taker with a higher epoch may still win.

use std::collections::VecDeque;
use std::sync::Arc;

use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use bytes::Bytes;

use crate::chain::{Member, Segment};
use crate::message::{AppendOutcome, AppendReply, AppendRequest, StorageId};
use crate::quorum::quorum_tail;
use crate::record::Record;

/// What a sequencer may have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequencerLimits {
    /// Bytes sent to one replica that it has not acked.
    pub flight_bytes_max: usize,
    /// Bytes in one append.
    pub append_bytes_max: usize,
    /// Bytes kept in memory for replicas that are connected and slow; beyond, they are fed from a log server.
    pub window_bytes_max: usize,
}

impl Default for SequencerLimits {
    fn default() -> Self {
        Self {
            flight_bytes_max: 8 << 20,
            append_bytes_max: 1 << 20,
            window_bytes_max: 16 << 20,
        }
    }
}

/// A higher epoch was promised somewhere: this leader is deposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("log {partition} was fenced by {promised}")]
pub struct Fenced {
    /// The log.
    pub partition: PartitionId,
    /// The epoch that won.
    pub promised: Epoch,
}

/// Records that a replica lacks and that are no longer in memory; see [`Sequencer::poll_reads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CatchUp {
    /// The replica.
    pub node: NodeId,
    /// The first record that it lacks.
    pub from: Lsn,
    /// Where the memory takes over.
    pub end: Lsn,
}

/// Assigns, streams and commits the records of one segment.
///
/// Invariant: `base <= committed <= next`, and every record in `[committed, next)` is in the window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sequencer {
    partition: PartitionId,
    epoch: Epoch,
    base: Lsn,
    write_quorum: usize,
    published: bool,
    committed: Lsn,
    trimmed: Lsn,
    window: VecDeque<Held>,
    /// LSN of the first record in the window, or the next one to be assigned.
    window_first: Lsn,
    /// Sum of the weights of all records before the window.
    dropped_bytes: u64,
    replicas: Vec<Replica>,
    limits: SequencerLimits,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    record: Record,
    /// Sum of the weights of all records up to and including this one.
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replica {
    node: NodeId,
    /// The storage whose acks count; `None` while it was never met.
    voter: Option<StorageId>,
    /// The storage that answered last.
    met: Option<StorageId>,
    link: Link,
    /// Everything below is on the disk of `met`.
    acked: Lsn,
    /// The next record to be sent.
    sent: Lsn,
    /// The commit that it was told.
    told: Lsn,
    probe: bool,
    /// Tail of the last gap; repetitions caused by the same loss are ignored.
    gap: Option<Lsn>,
    /// What was acked at the last tick, to notice a stream that stands still.
    acked_at_tick: Lsn,
    caught_up: Option<Arc<[Record]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Up,
    /// Not connected: nothing is sent until [`Sequencer::on_connected`].
    Down,
    /// Refused or full: nothing is sent until the next [`Sequencer::tick`].
    Stalled,
    /// Waits for records from a log server.
    Reading,
}

impl Sequencer {
    /// The writer of an unpublished segment that begins with `suffix`, records that the one before it left
    /// uncommitted, already under the segment's epoch.
    ///
    /// # Panics
    /// When the suffix is not dense from the base.
    pub fn new(
        partition: PartitionId,
        segment: &Segment,
        suffix: Vec<Record>,
        limits: SequencerLimits,
    ) -> Self {
        let base = segment.base();
        let replica = |member: &Member| Replica {
            node: member.node,
            voter: member.storage,
            met: None,
            link: Link::Up,
            acked: base,
            sent: base,
            told: Lsn::ZERO,
            // Even without a suffix the replicas have to open the segment and say who they are.
            probe: true,
            gap: None,
            acked_at_tick: base,
            caught_up: None,
        };
        let mut sequencer = Self {
            partition,
            epoch: segment.epoch(),
            base,
            write_quorum: segment.write_quorum(),
            published: false,
            committed: base,
            trimmed: Lsn::ZERO,
            window: VecDeque::with_capacity(suffix.len()),
            window_first: base,
            dropped_bytes: 0,
            replicas: segment.members().iter().map(replica).collect(),
            limits,
        };
        for record in suffix {
            assert_eq!(
                record.epoch(),
                sequencer.epoch,
                "the suffix was handed over"
            );
            assert_eq!(record.lsn(), sequencer.next(), "a suffix is dense");
            sequencer.hold(record);
        }
        sequencer
    }

    /// The log.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The epoch under which it writes.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The first LSN of the segment.
    pub fn base(&self) -> Lsn {
        self.base
    }

    /// The LSN that the next record will have.
    pub fn next(&self) -> Lsn {
        self.window_first.advance(self.window.len() as u64)
    }

    /// The tail of what is committed: every record below it is.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Bytes of records that are not committed; the leader takes no more when they are too many.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.bytes_before(self.next()) - self.bytes_before(self.committed)
    }

    /// Takes a record in and assigns its LSN. It goes out with the next [`Self::poll_send`].
    pub fn append(&mut self, payload: Bytes) -> Lsn {
        assert!(self.published, "records follow the publication");
        let lsn = self.next();
        self.hold(Record::new(self.partition, self.epoch, lsn, payload));
        lsn
    }

    /// A record that is still in memory. Those in `[committed, next)` always are.
    pub fn record(&self, lsn: Lsn) -> Option<&Record> {
        let index = lsn.0.checked_sub(self.window_first.0)?;
        let held = self.window.get(usize::try_from(index).ok()?)?;
        Some(&held.record)
    }

    /// The records in memory, in order; all of `[committed, next)` and perhaps some before.
    pub fn held(&self) -> impl Iterator<Item = &Record> {
        self.window.iter().map(|held| &held.record)
    }

    /// Adds what should be sent now. Every entry must be sent; for one that cannot, call
    /// [`Self::on_disconnected`] (no connection) or [`Self::on_stalled`] (queue full).
    pub fn poll_send(&mut self, out: &mut Vec<(NodeId, AppendRequest)>) {
        let next = self.next();
        // Replicas that are equally far share the records, and the transport shares their encoding.
        let mut shared: Option<(Lsn, Arc<[Record]>)> = None;
        for index in 0..self.replicas.len() {
            loop {
                let replica = &self.replicas[index];
                if replica.link != Link::Up {
                    break;
                }
                // A late gap may have put the stream back behind what was acked since.
                let acked = self.bytes_before(replica.acked);
                let flight = self.bytes_before(replica.sent).saturating_sub(acked);
                let full = self.limits.flight_bytes_max as u64 <= flight;
                // The next [`Self::poll_reads`] asks for what it lacks.
                let below = replica.caught_up.is_none() && replica.sent < self.window_first;
                let idle = replica.caught_up.is_none() && replica.sent == next;
                let bare = full || below || idle;
                if bare && !replica.probe {
                    break;
                }
                let records: Arc<[Record]> = match (&replica.caught_up, &shared) {
                    _ if bare => Arc::from([]),
                    (Some(records), _) => records.clone(),
                    (None, Some((first, records))) if *first == replica.sent => records.clone(),
                    (None, _) => {
                        let records = self.sendable(replica);
                        shared = Some((replica.sent, records.clone()));
                        records
                    }
                };
                let request = self.request(index, records);
                let replica = &mut self.replicas[index];
                replica.probe = false;
                replica.told = self.committed;
                replica.sent = request.first.advance(request.records.len() as u64);
                if !request.records.is_empty() {
                    replica.caught_up = None;
                }
                out.push((replica.node, request));
                if bare {
                    break;
                }
            }
        }
    }

    /// Whether a replica has not heard of the last commit. The leader waits a moment for a record that can
    /// carry it, and then calls [`Self::poll_commit`].
    pub fn owes_commit(&self) -> bool {
        let owed = |replica: &Replica| replica.link == Link::Up && replica.told < self.committed;
        self.published && self.replicas.iter().any(owed)
    }

    /// Adds an append without records for every replica that has not heard of the last commit.
    pub fn poll_commit(&mut self, out: &mut Vec<(NodeId, AppendRequest)>) {
        if !self.published {
            return;
        }
        let none: Arc<[Record]> = Arc::from([]);
        for index in 0..self.replicas.len() {
            let replica = &self.replicas[index];
            if replica.link == Link::Up && replica.told < self.committed {
                out.push((replica.node, self.request(index, none.clone())));
                self.replicas[index].told = self.committed;
            }
        }
    }

    /// Adds what has to be read from a log server for replicas that fell behind the memory. Each is answered
    /// by [`Self::on_read`] or [`Self::on_read_failed`].
    pub fn poll_reads(&mut self, out: &mut Vec<CatchUp>) {
        for replica in &mut self.replicas {
            let behind = replica.caught_up.is_none() && replica.sent < self.window_first;
            // One chunk at a time: the acks of the last one are the pace.
            if replica.link == Link::Up && behind && replica.sent <= replica.acked {
                replica.link = Link::Reading;
                out.push(CatchUp {
                    node: replica.node,
                    from: replica.sent,
                    end: self.window_first,
                });
            }
        }
    }

    /// Records for a replica that fell behind, dense from where [`CatchUp`] said.
    pub fn on_read(&mut self, node: NodeId, records: Vec<Record>) {
        let epoch = self.epoch;
        let Some(replica) = self.replica(node) else {
            return;
        };
        if replica.link != Link::Reading {
            return;
        }
        let fits = |(index, record): (usize, &Record)| {
            record.epoch() == epoch && record.lsn() == replica.sent.advance(index as u64)
        };
        if records.is_empty() || !records.iter().enumerate().all(fits) {
            replica.link = Link::Stalled;
            return;
        }
        replica.link = Link::Up;
        replica.caught_up = Some(records.into());
    }

    /// The records for a replica could not be read now; asked again after the next tick.
    pub fn on_read_failed(&mut self, node: NodeId) {
        if let Some(replica) = self.replica(node)
            && replica.link == Link::Reading
        {
            replica.link = Link::Stalled;
        }
    }

    /// Nobody needs the records below `trimmed` any more; the replicas hear of it with the next append. Also
    /// the answer to a read for a replica that found its records trimmed.
    pub fn on_trimmed(&mut self, trimmed: Lsn) {
        // What is not committed cannot be done with; such a claim is a peer's mistake.
        let trimmed = trimmed.min(self.committed);
        self.trimmed = self.trimmed.max(trimmed);
        for replica in &mut self.replicas {
            if replica.sent < self.trimmed && replica.caught_up.is_none() {
                replica.sent = self.trimmed;
                replica.probe = true;
                if replica.link == Link::Reading {
                    replica.link = Link::Up;
                }
            }
        }
    }

    /// A log server's answer. Returns whether the commit advanced.
    pub fn on_ack(&mut self, from: NodeId, reply: AppendReply) -> Result<bool, Fenced> {
        if reply.partition != self.partition || reply.epoch != self.epoch {
            return Ok(false);
        }
        let (partition, epoch, next, base) = (self.partition, self.epoch, self.next(), self.base);
        let published = self.published;
        let Some(replica) = self.replica(from) else {
            return Ok(false);
        };
        if replica.met != Some(reply.storage) {
            // Another disk than the one that acked before: what that one had is gone.
            if replica.met.is_some() {
                replica.acked = base;
                replica.gap = None;
            }
            replica.met = Some(reply.storage);
            if !published {
                replica.voter = Some(reply.storage);
            }
        }
        match reply.outcome {
            AppendOutcome::Fenced { promised } if epoch < promised => {
                return Err(Fenced {
                    partition,
                    promised,
                });
            }
            // No log server promises less than it refuses.
            AppendOutcome::Fenced { .. } => return Ok(false),
            // More than was ever sent: not an answer to this leader.
            AppendOutcome::Stored { tail } | AppendOutcome::Gap { tail } if next < tail => {
                return Ok(false);
            }
            AppendOutcome::Stored { tail } => {
                if replica.acked < tail {
                    replica.acked = tail;
                    replica.gap = None;
                }
                if replica.sent < tail && replica.caught_up.is_none() {
                    replica.sent = tail;
                }
            }
            AppendOutcome::Gap { tail } => {
                replica.acked = replica.acked.max(tail);
                if replica.gap != Some(tail) {
                    replica.gap = Some(tail);
                    replica.sent = tail;
                    replica.caught_up = None;
                }
            }
            AppendOutcome::Refused(_) => {
                if replica.link == Link::Up {
                    replica.link = Link::Stalled;
                }
            }
        }
        Ok(self.advance())
    }

    /// The connection to a replica is gone.
    pub fn on_disconnected(&mut self, node: NodeId) {
        if let Some(replica) = self.replica(node) {
            replica.link = Link::Down;
            replica.caught_up = None;
        }
        self.shrink();
    }

    /// A replica is connected (again): its stream starts over behind what it acked.
    pub fn on_connected(&mut self, node: NodeId) {
        if let Some(replica) = self.replica(node) {
            replica.link = Link::Up;
            replica.restart();
        }
    }

    /// The queue to a replica is full; tried again at the next tick.
    pub fn on_stalled(&mut self, node: NodeId) {
        if let Some(replica) = self.replica(node)
            && replica.link == Link::Up
        {
            replica.link = Link::Stalled;
        }
    }

    /// Finds what was lost without anybody noticing. To be called a few times a second while
    /// [`Self::is_settled`] says no; the leader then polls again.
    pub fn tick(&mut self) {
        for replica in &mut self.replicas {
            let stuck = replica.acked < replica.sent && replica.acked == replica.acked_at_tick;
            let unmet = replica.met.is_none();
            replica.acked_at_tick = replica.acked;
            match replica.link {
                Link::Stalled => {
                    replica.link = Link::Up;
                    replica.restart();
                }
                Link::Up if stuck || unmet => {
                    // The probe claims the position behind all that was sent: had something been lost, it
                    // is answered by a gap. A disk that is only slow answers later, and nothing is repeated.
                    replica.probe = true;
                    replica.gap = None;
                }
                Link::Up | Link::Down | Link::Reading => {}
            }
        }
    }

    /// Whether every connected replica has everything, so that no tick is needed.
    pub fn is_settled(&self) -> bool {
        let next = self.next();
        let settled = |replica: &Replica| match replica.link {
            Link::Down => true,
            Link::Up => replica.met.is_some() && replica.acked == next && !replica.probe,
            Link::Stalled | Link::Reading => false,
        };
        self.replicas.iter().all(settled)
    }

    /// A replica whose storage is not recorded and that holds everything committed, so that it may become a
    /// voter: see [`crate::enrol`], then [`Self::on_enrolled`].
    pub fn enrollable(&self) -> Option<(NodeId, StorageId)> {
        let ready = |replica: &&Replica| {
            self.published
                && replica.met.is_some()
                && replica.met != replica.voter
                && self.committed <= replica.acked
        };
        let replica = self.replicas.iter().find(ready)?;
        Some((replica.node, replica.met?))
    }

    /// The chain records `storage` for `node` now: its acks count.
    pub fn on_enrolled(&mut self, node: NodeId, storage: StorageId) -> bool {
        if let Some(replica) = self.replica(node) {
            replica.voter = Some(storage);
        }
        self.advance()
    }

    /// Whether a write quorum has the whole suffix and is known by its storage, so that the segment may be
    /// published.
    pub fn is_safe_to_publish(&self) -> bool {
        self.quorum_tail() == Some(self.next())
    }

    /// The replicas as the chain should record them.
    pub fn members(&self) -> Vec<Member> {
        let member = |replica: &Replica| Member {
            node: replica.node,
            storage: replica.voter,
        };
        self.replicas.iter().map(member).collect()
    }

    /// The segment is in the chain: what a write quorum has is committed from here on.
    pub fn on_published(&mut self) {
        assert!(self.is_safe_to_publish(), "publishing follows the quorum");
        self.published = true;
        self.advance();
        assert!(
            self.committed == self.next(),
            "the suffix is committed by publication"
        );
    }

    /// How far each replica is: node, whether it is connected, whether it is a voter, acked tail.
    pub fn replicas(&self) -> impl Iterator<Item = (NodeId, bool, bool, Lsn)> {
        self.replicas.iter().map(|replica| {
            let connected = replica.link != Link::Down;
            (replica.node, connected, replica.votes(), replica.acked)
        })
    }

    fn hold(&mut self, record: Record) {
        let before = self
            .window
            .back()
            .map_or(self.dropped_bytes, |held| held.bytes);
        let bytes = before + record.weight() as u64;
        self.window.push_back(Held { record, bytes });
    }

    fn replica(&mut self, node: NodeId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|found| found.node == node)
    }

    /// Sum of the weights of the records below `lsn`; those before the window count as one.
    fn bytes_before(&self, lsn: Lsn) -> u64 {
        let Some(last) = lsn.0.checked_sub(self.window_first.0 + 1) else {
            return self.dropped_bytes;
        };
        let held = usize::try_from(last)
            .ok()
            .and_then(|last| self.window.get(last));
        held.or(self.window.back())
            .map_or(self.dropped_bytes, |held| held.bytes)
    }

    fn sendable(&self, replica: &Replica) -> Arc<[Record]> {
        let start = usize::try_from(self.window_first.until(replica.sent)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let within = |held: &&Held| {
            let fits = bytes < self.limits.append_bytes_max;
            bytes += held.record.weight();
            fits
        };
        let records = self.window.iter().skip(start).take_while(within);
        records.map(|held| held.record.clone()).collect()
    }

    fn request(&self, index: usize, records: Arc<[Record]>) -> AppendRequest {
        let replica = &self.replicas[index];
        AppendRequest {
            partition: self.partition,
            epoch: self.epoch,
            base: self.base,
            first: records.first().map_or(replica.sent, Record::lsn),
            committed: self.committed,
            trimmed: self.trimmed,
            probe: replica.probe,
            records,
        }
    }

    fn quorum_tail(&self) -> Option<Lsn> {
        let voting = self.replicas.iter().filter(|replica| replica.votes());
        let mut tails: Vec<Lsn> = voting.map(|replica| replica.acked).collect();
        quorum_tail(&mut tails, self.write_quorum)
    }

    fn advance(&mut self) -> bool {
        let before = self.committed;
        if self.published
            && let Some(tail) = self.quorum_tail()
        {
            self.committed = before.max(tail);
        }
        assert!(
            self.committed <= self.next(),
            "only what exists is committed"
        );
        self.shrink();
        before < self.committed
    }

    /// Drops records that are committed and that no connected replica waits for, or that are too many.
    fn shrink(&mut self) {
        let connected = self
            .replicas
            .iter()
            .filter(|replica| replica.link != Link::Down);
        let slowest = connected.map(|replica| replica.acked).min();
        let slowest = slowest.unwrap_or(self.committed).min(self.committed);
        while self.window_first < self.committed {
            let held = self.window.back().map_or(0, |held| held.bytes) - self.dropped_bytes;
            if slowest <= self.window_first && held <= self.limits.window_bytes_max as u64 {
                break;
            }
            let Some(dropped) = self.window.pop_front() else {
                break;
            };
            self.dropped_bytes = dropped.bytes;
            self.window_first = self.window_first.next();
        }
    }
}

impl Replica {
    fn votes(&self) -> bool {
        self.voter.is_some() && self.met == self.voter
    }

    fn restart(&mut self) {
        self.sent = self.acked;
        self.probe = true;
        self.gap = None;
        self.caught_up = None;
    }
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
