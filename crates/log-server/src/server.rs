//! The log server's operations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use abide_log::{
    Answer, AppendOutcome, AppendReply, AppendRequest, FenceReply, FenceRequest, LocalLog,
    ReadOutcome, ReadReply, ReadRequest, Refusal, StorageId, TailReply,
};
use abide_types::{Lsn, NodeId, PartitionId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::journal::JournalSizes;
use crate::metrics::Metrics;
use crate::space::{FreeSpace, SpaceGuard, free_space};
use crate::store::{DiskRead, Opened, Reader, Store, StoreError, StoreSizes};
use crate::view::{LogView, Lookup};
use crate::writer::{Job, PeerReplies, Queue, ReplyTo, Writer, WriterLimits};

/// What a log server may use.
#[derive(Clone)]
pub struct LogServerOptions {
    /// Memory in which records wait to be sorted into files.
    pub memory_bytes: usize,
    /// Recent records kept in memory for followers and replicas that lag.
    pub recent_bytes_max: usize,
    /// The most that one write takes. More shares a sync among more records and holds up the first.
    pub batch_bytes_max: usize,
    /// The most that may wait for the disk; beyond, appends are refused until there is room.
    pub queue_bytes_max: usize,
    /// With less room than this on the disk, appends are refused.
    pub free_bytes_min: u64,
    /// Size of a journal file.
    pub journal_file_bytes: u64,
    /// Called once when a write or sync failed; it ends the process.
    pub fatal: Arc<dyn Fn(&StoreError) + Send + Sync>,
    /// Tells the free bytes of the disk that a directory is on.
    pub free_space: FreeSpace,
}

impl Default for LogServerOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            recent_bytes_max: 32 << 20,
            batch_bytes_max: 8 << 20,
            queue_bytes_max: 256 << 20,
            free_bytes_min: 512 << 20,
            journal_file_bytes: 32 << 20,
            fatal: Arc::new(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "log write failed");
                std::process::abort();
            }),
            free_space: free_space(),
        }
    }
}

/// The state of a log server as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogServerStatus {
    /// Identity of its directory.
    pub storage: StorageId,
    /// Whether appends are refused since the disk is nearly full.
    pub is_full: bool,
    /// Logs of which it has something.
    pub logs: usize,
}

/// Stores segment replicas of all logs. Closed when dropped, after what was accepted is on disk.
pub struct LogServer {
    storage: StorageId,
    views: Views,
    reader: Reader,
    queue: Arc<Queue>,
    full: Arc<AtomicBool>,
    peers: Arc<OnceLock<PeerReplies>>,
    directory: PathBuf,
    free_space: FreeSpace,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The logs by partition.
#[derive(Clone, Default)]
pub(crate) struct Views(Arc<RwLock<BTreeMap<PartitionId, Arc<LogView>>>>);

impl Views {
    fn get(&self, partition: PartitionId) -> Option<Arc<LogView>> {
        self.0.read().get(&partition).cloned()
    }

    pub(crate) fn get_or_create(&self, partition: PartitionId) -> Arc<LogView> {
        if let Some(view) = self.get(partition) {
            return view;
        }
        let mut views = self.0.write();
        let fresh = || Arc::new(LogView::new(abide_log::ReplicaLog::default()));
        views.entry(partition).or_insert_with(fresh).clone()
    }
}

impl LogServer {
    /// Opens the log server of `directory`, which is created if need be.
    pub fn open(directory: &Path, options: LogServerOptions) -> Result<Arc<Self>, StoreError> {
        let metrics = Arc::new(Metrics::new());
        let sizes = StoreSizes {
            journal: JournalSizes {
                first_bytes: options.journal_file_bytes.min(4 << 20),
                file_bytes: options.journal_file_bytes,
            },
            memory_bytes: options.memory_bytes,
        };
        let Opened {
            store,
            reader,
            storage,
            logs,
        } = Store::open(directory, sizes, metrics.clone())?;
        let views = Views::default();
        for (partition, log) in logs {
            views
                .0
                .write()
                .insert(partition, Arc::new(LogView::new(log)));
        }
        let queue = Arc::new(Queue::new(options.queue_bytes_max));
        let full = Arc::new(AtomicBool::new(false));
        let peers = Arc::new(OnceLock::new());
        let directory: PathBuf = directory.to_path_buf();
        let mut writer = Writer {
            queue: queue.clone(),
            store,
            views: views.clone(),
            storage,
            space: SpaceGuard::new(
                directory.clone(),
                options.free_space.clone(),
                options.free_bytes_min,
                full.clone(),
            ),
            limits: WriterLimits {
                batch_bytes_max: options.batch_bytes_max,
                recent_bytes_max: options.recent_bytes_max,
            },
            peers: peers.clone(),
            recent: Default::default(),
            recent_bytes: 0,
            metrics: metrics.clone(),
        };
        let fatal = options.fatal.clone();
        let run = move || {
            if let Err(error) = writer.run() {
                writer.queue.close();
                fatal(&error);
            }
        };
        let thread = std::thread::Builder::new().name("log-writer".to_owned());
        let thread = thread.spawn(run).map_err(StoreError::Threads)?;
        Ok(Arc::new(Self {
            storage,
            views,
            reader,
            queue,
            full,
            peers,
            directory,
            free_space: options.free_space,
            metrics,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Identity of the directory.
    pub fn storage(&self) -> StorageId {
        self.storage
    }

    /// The state as a whole.
    pub fn status(&self) -> LogServerStatus {
        LogServerStatus {
            storage: self.storage,
            is_full: self.full.load(Ordering::Relaxed),
            logs: self.views.0.read().len(),
        }
    }

    /// Bytes that wait for the disk, and the most that may.
    pub fn queue_bytes(&self) -> (usize, usize) {
        self.queue.bytes()
    }

    /// Free bytes of the disk; `None` if the system does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        (self.free_space)(&self.directory).ok()
    }

    /// A number that RocksDB keeps, such as `rocksdb.estimate-live-data-size`; `None` if it knows no such number.
    pub fn property(&self, name: &str) -> Option<u64> {
        self.reader.property(name)
    }

    /// Rewrites the database into as few files as can be. Blocks for as long as that takes, which is about the time of
    /// reading and writing all of it; others use it meanwhile.
    pub fn compact(&self) {
        self.reader.compact();
    }

    /// The logs of which there is something here.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.views.0.read().keys().copied().collect()
    }

    /// An append of another node; the answer leaves by what [`Self::answer_peers`] was given.
    pub(crate) fn append_of(&self, from: NodeId, request: AppendRequest) {
        self.submit(request, ReplyTo::Peer(from));
    }

    /// Sends one answer to another node.
    pub(crate) fn answer(&self, to: NodeId, reply: AppendReply) {
        if let Some(send) = self.peers.get() {
            send(to, &[reply]);
        }
    }

    /// How answers get to other nodes; the first call counts.
    pub(crate) fn answer_peers(&self, send: PeerReplies) {
        if self.peers.set(send).is_err() {
            tracing::warn!("a log server is connected to one fabric only");
        }
    }

    fn submit(&self, request: AppendRequest, reply: ReplyTo) {
        if request.records.is_empty() && !request.probe && self.note_commit(&request) {
            return;
        }
        let (partition, epoch) = (request.partition, request.epoch);
        if let Err((Job::Append(_, reply), overloaded)) =
            self.queue.push(Job::Append(request, reply))
        {
            if !overloaded {
                // The writer is gone and the process about to end: as if the message had been lost.
                return;
            }
            self.metrics.overloaded.increment(1);
            let refused = AppendReply {
                partition,
                epoch,
                storage: self.storage,
                outcome: AppendOutcome::Refused(Refusal::Overloaded),
            };
            match reply {
                ReplyTo::Local(callback) => callback(refused),
                ReplyTo::Peer(node) => self.answer(node, refused),
            }
        }
    }

    /// Takes a notice of the commit without a way over the writer, if it changes nothing on disk.
    fn note_commit(&self, request: &AppendRequest) -> bool {
        let Some(view) = self.views.get(request.partition) else {
            return false;
        };
        let mut state = view.lock();
        if state.replica.trim_point() < request.trimmed {
            return false;
        }
        let noted = state.note_commit(request.epoch, request.base, request.committed);
        view.announce(state);
        noted
    }

    fn outcome(&self, request: &ReadRequest) -> Result<ReadOutcome, (Lsn, Lsn, Lsn)> {
        let Some(view) = self.views.get(request.partition) else {
            return Ok(ReadOutcome::Unknown);
        };
        let lookup = view.lock().lookup(request);
        match lookup {
            Lookup::Answer(outcome) => Ok(outcome),
            Lookup::Disk {
                end,
                tail,
                committed,
            } => Err((end, tail, committed)),
        }
    }

    fn reply(&self, outcome: ReadOutcome) -> ReadReply {
        ReadReply {
            storage: self.storage,
            outcome,
        }
    }
}

impl LocalLog for LogServer {
    fn append(&self, request: AppendRequest, reply: Answer<AppendReply>) {
        self.submit(request, ReplyTo::Local(reply));
    }

    fn fence(&self, request: FenceRequest, reply: Answer<FenceReply>) {
        // When the writer is gone the answer is dropped, and the caller knows.
        let _ = self.queue.push(Job::Fence(request, reply));
    }

    fn read_cached(&self, request: &ReadRequest) -> Option<ReadReply> {
        let outcome = self.outcome(request).ok()?;
        self.metrics.reads_cached.increment(1);
        Some(self.reply(outcome))
    }

    fn read(&self, request: &ReadRequest) -> ReadReply {
        let (end, tail, committed) = match self.outcome(request) {
            Ok(outcome) => {
                self.metrics.reads_cached.increment(1);
                return self.reply(outcome);
            }
            Err(on_disk) => on_disk,
        };
        self.metrics.reads_disk.increment(1);
        let (partition, epoch, from) = (request.partition, request.epoch, request.from);
        let found = self
            .reader
            .read(partition, epoch, from, end, request.bytes_max);
        let outcome = match found {
            DiskRead::Records(records) => ReadOutcome::Records {
                records,
                tail,
                committed,
            },
            // It may have been trimmed since.
            DiskRead::Corrupt(lsn) => match self.outcome(request) {
                Ok(trimmed @ ReadOutcome::Trimmed { .. }) => trimmed,
                Ok(_) | Err(_) => {
                    self.metrics.corrupt.increment(1);
                    ReadOutcome::Corrupt { lsn }
                }
            },
        };
        self.reply(outcome)
    }

    fn trim(&self, partition: PartitionId, trimmed: Lsn, reply: Answer<Lsn>) {
        // When the writer is gone the answer is dropped, and the caller knows.
        let _ = self.queue.push(Job::Trim(partition, trimmed, reply));
    }

    fn tail(&self, partition: PartitionId) -> TailReply {
        let view = self.views.get(partition);
        let state = view.as_ref().map(|view| view.lock());
        TailReply {
            storage: self.storage,
            promised: state
                .as_ref()
                .map_or_else(Default::default, |log| log.replica.promised()),
            trimmed: state
                .as_ref()
                .map_or(Lsn::ZERO, |log| log.replica.trim_point()),
            segments: state.map_or_else(Vec::new, |log| log.segments()),
        }
    }

    fn subscribe(&self, partition: PartitionId) -> watch::Receiver<Lsn> {
        self.views.get_or_create(partition).subscribe()
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.lock().take();
        // The last reference may be dropped by an answer on the writer's own thread.
        let foreign = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = thread.filter(foreign)
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}
