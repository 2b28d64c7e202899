//! The one thread that writes: takes everything that waits, from all logs, into one batch.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use abide_log::{
    Admission, Answer, AppendOutcome, AppendReply, AppendRequest, FenceReply, FenceRequest, Record,
    Refusal, StorageId,
};
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use parking_lot::{Condvar, Mutex};

use crate::metrics::Metrics;
use crate::server::Views;
use crate::space::SpaceGuard;
use crate::store::{Store, StoreError};
use crate::view::LogView;

/// What the writer is asked to do.
pub(crate) enum Job {
    Append(AppendRequest, ReplyTo),
    Fence(FenceRequest, Answer<FenceReply>),
    Trim(PartitionId, Lsn, Answer<Lsn>),
}

/// Where the answer to an append goes.
pub(crate) enum ReplyTo {
    Local(Answer<AppendReply>),
    Peer(NodeId),
}

/// Sends answers to a peer.
pub(crate) type PeerReplies = Arc<dyn Fn(NodeId, &[AppendReply]) + Send + Sync>;

/// What waits for the writer. Bounded by bytes: beyond, appends are refused.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            bytes_max,
        }
    }

    /// Hands a job back when there is too much already (appends only) or the writer is gone.
    pub(crate) fn push(&self, job: Job) -> Result<(), (Job, bool)> {
        let weight = job.weight();
        let mut state = self.state.lock();
        if state.closed {
            return Err((job, false));
        }
        if self.bytes_max < state.bytes + weight && matches!(job, Job::Append(..)) {
            return Err((job, true));
        }
        state.bytes += weight;
        state.jobs.push_back(job);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Bytes that wait, and the most that may.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.state.lock().bytes, self.bytes_max)
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }

    /// Moves what waits to `jobs`; waits for the first. False when there will be none.
    fn take(&self, jobs: &mut VecDeque<Job>) -> bool {
        let mut state = self.state.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return false;
            }
            self.filled.wait(&mut state);
        }
        state.bytes = 0;
        mem::swap(&mut state.jobs, jobs);
        true
    }
}

impl Job {
    fn weight(&self) -> usize {
        match self {
            Self::Append(request, _) => request.weight(),
            Self::Fence(..) | Self::Trim(..) => 128,
        }
    }
}

/// Limits of the writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterLimits {
    /// Bytes of one batch.
    pub batch_bytes_max: usize,
    /// Bytes of records that stay in memory.
    pub recent_bytes_max: usize,
}

/// Owns the store.
pub(crate) struct Writer {
    pub queue: Arc<Queue>,
    pub store: Store,
    pub views: Views,
    pub storage: StorageId,
    pub space: SpaceGuard,
    pub limits: WriterLimits,
    pub peers: Arc<std::sync::OnceLock<PeerReplies>>,
    /// What is in memory of the logs, oldest first.
    pub recent: VecDeque<(Arc<LogView>, Epoch, Lsn, usize)>,
    pub recent_bytes: usize,
    pub metrics: Arc<Metrics>,
}

/// What has to happen once the batch is on disk.
#[derive(Default)]
struct After {
    stored: Vec<Stored>,
    trims: Vec<(Arc<LogView>, Lsn, Vec<Epoch>)>,
    appends: Vec<(ReplyTo, AppendReply)>,
    fences: Vec<(Answer<FenceReply>, FenceReply)>,
    trimmed: Vec<(Answer<Lsn>, Lsn)>,
}

struct Stored {
    view: Arc<LogView>,
    epoch: Epoch,
    tail: Lsn,
    records: Arc<[Record]>,
    skip: usize,
}

impl Writer {
    /// Works until the queue is closed. An error is the end of the node.
    pub(crate) fn run(&mut self) -> Result<(), StoreError> {
        let mut jobs = VecDeque::new();
        let mut after = After::default();
        while self.queue.take(&mut jobs) {
            while let Some(job) = jobs.pop_front() {
                self.admit(job, &mut after);
                if self.limits.batch_bytes_max <= self.store.pending_bytes() {
                    self.commit(&mut after)?;
                }
            }
            self.commit(&mut after)?;
        }
        Ok(())
    }

    fn admit(&mut self, job: Job, after: &mut After) {
        match job {
            Job::Append(request, reply) => self.append(request, reply, after),
            Job::Fence(request, reply) => {
                self.metrics.fences.increment(1);
                let view = self.views.get_or_create(request.partition);
                let mut state = view.lock();
                let before = state.replica.promised();
                let outcome = state.replica.fence(request.epoch, request.segment);
                let promised = state.replica.promised();
                drop(state);
                if before < promised {
                    self.store.put_promise(request.partition, promised);
                }
                let storage = self.storage;
                after.fences.push((reply, FenceReply { storage, outcome }));
            }
            Job::Trim(partition, trimmed, reply) => {
                let view = self.views.get_or_create(partition);
                let point = self.trim(partition, &view, trimmed, after);
                after.trimmed.push((reply, point));
            }
        }
    }

    fn append(&mut self, request: AppendRequest, reply: ReplyTo, after: &mut After) {
        let (partition, epoch) = (request.partition, request.epoch);
        let view = self.views.get_or_create(partition);
        let count = request.records.len();
        let storage = self.storage;
        let answer = |outcome| AppendReply {
            partition,
            epoch,
            storage,
            outcome,
        };
        if 0 < count && self.space.is_full() {
            self.metrics.disk_full.increment(1);
            let refused = AppendOutcome::Refused(Refusal::DiskFull);
            after.appends.push((reply, answer(refused)));
            return;
        }
        let promised = view.lock().replica.promised();
        if promised <= epoch && Lsn::ZERO < request.trimmed {
            self.trim(partition, &view, request.trimmed, after);
        }
        let mut state = view.lock();
        let (base, first) = (request.base, request.first);
        let admission = state
            .replica
            .append(epoch, base, first, count, request.committed);
        drop(state);
        let (skip, tail) = match admission {
            Admission::Answer(outcome) => {
                after.appends.push((reply, answer(outcome)));
                return;
            }
            Admission::Store {
                skip,
                tail,
                promise,
                opens,
            } => {
                if promise {
                    self.store.put_promise(partition, epoch);
                }
                if opens {
                    self.store.put_segment(partition, epoch, base);
                }
                (skip, tail)
            }
        };
        for record in &request.records[skip..] {
            self.store
                .put_record(partition, record, request.committed.min(tail));
        }
        after
            .appends
            .push((reply, answer(AppendOutcome::Stored { tail })));
        after.stored.push(Stored {
            view,
            epoch,
            tail,
            records: request.records,
            skip,
        });
    }

    fn trim(
        &mut self,
        partition: PartitionId,
        view: &Arc<LogView>,
        trimmed: Lsn,
        after: &mut After,
    ) -> Lsn {
        let mut state = view.lock();
        let (changed, dead) = state.replica.trim(trimmed);
        let point = state.replica.trim_point();
        if changed {
            self.metrics.trims.increment(1);
            let epochs = state.replica.segments().keys().copied();
            self.store.trim(partition, trimmed, epochs, &dead);
            after.trims.push((view.clone(), trimmed, dead));
        }
        point
    }

    /// Syncs, shows the new state, and only then answers.
    fn commit(&mut self, after: &mut After) -> Result<(), StoreError> {
        if self.store.is_dirty() {
            let bytes = self.store.pending_bytes();
            let started = Instant::now();
            self.store.commit()?;
            let records = |stored: &Stored| stored.records.len() - stored.skip;
            let records = after.stored.iter().map(records).sum();
            self.metrics.committed(started.elapsed(), bytes, records);
            self.space.wrote(bytes);
        }
        for stored in after.stored.drain(..) {
            let records = &stored.records[stored.skip..];
            let mut state = stored.view.lock();
            state.stored(stored.epoch, stored.tail, records);
            stored.view.announce(state);
            let weight = records.iter().map(Record::weight).sum();
            if let Some(last) = records.last() {
                let end = last.lsn().next();
                self.recent_bytes += weight;
                self.recent
                    .push_back((stored.view, stored.epoch, end, weight));
            }
        }
        for (view, trimmed, dead) in after.trims.drain(..) {
            let mut state = view.lock();
            state.trimmed(trimmed, &dead);
            view.announce(state);
        }
        while self.limits.recent_bytes_max < self.recent_bytes {
            let Some((view, epoch, end, weight)) = self.recent.pop_front() else {
                break;
            };
            view.lock().forget_recent(epoch, end);
            self.recent_bytes -= weight;
        }
        self.answer(after);
        Ok(())
    }

    fn answer(&self, after: &mut After) {
        // One message a peer carries what all logs have for it.
        let mut peers: BTreeMap<NodeId, Vec<AppendReply>> = BTreeMap::new();
        for (to, reply) in after.appends.drain(..) {
            match to {
                ReplyTo::Local(callback) => callback(reply),
                ReplyTo::Peer(node) => peers.entry(node).or_default().push(reply),
            }
        }
        if let Some(send) = self.peers.get() {
            for (node, replies) in &peers {
                send(*node, replies);
            }
        }
        for (callback, reply) in after.fences.drain(..) {
            callback(reply);
        }
        for (callback, point) in after.trimmed.drain(..) {
            callback(point);
        }
    }
}
