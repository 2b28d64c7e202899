//! Where a node's snapshots go and come from.
//!
//! A leader exports its store and has the files stored beside its loop ([`crate::leader_archive`] says when); a replica
//! whose store is of no use starts from the latest snapshot, or, in a cluster that was made from a backup, from its
//! part of that. Why the leader takes them and not a follower with less to do: what it trims hangs on the snapshot, and
//! its epoch orders those of successive leaders. What it costs the leader is the hand-over of what changed since the
//! last spill; reading, hashing and sending files happens on other threads, for few partitions at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_log::ChainStore as _;
use abide_metadata::{View, keys};
use abide_partition_store::{Export, ExportError, Exported, PartitionStore};
use abide_snapshots::{
    Backups, ClusterId, Destination, KnownFiles, LocalFile, NewSnapshot, Pointer, RepositoryError,
    Retained, Saved, Shelf, StoreSettings,
};
use abide_types::{Epoch, Lsn, PartitionId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::partition::{Partition, PartitionError, PartitionRole, chain_of, superseded};
use crate::rebuild::Cause;
use crate::trimming::DurabilityMode;

/// Bytes of rows that a restore takes into the store at a time.
const ROWS_BYTES: usize = 1 << 20;
/// A snapshot that takes longer is given up; the next one sends what is missing.
const STORED_WITHIN: Duration = Duration::from_secs(60 * 60);
/// The same for looking where the latest one is.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(60);

/// When snapshots are taken, where they go and how many are kept.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Where snapshots go. `None`: none are taken, except by backups.
    pub destination: Option<String>,
    /// How stores are reached.
    pub store: StoreSettings,
    /// By time.
    pub interval: Option<Duration>,
    /// By records. With both, both must be met; with neither, snapshots are taken on request only.
    pub records: Option<u64>,
    /// Snapshots of a partition that are kept.
    pub num_retained: usize,
    /// Whether older ones are deleted.
    pub cleanup: bool,
    /// Partitions whose files are sent at a time.
    pub concurrent_max: usize,
    /// Where files are put together: on the disk of the stores, so that links will do.
    pub staging: PathBuf,
    /// What must stand in for records before they are forgotten.
    pub durability: DurabilityMode,
    /// How long records are kept that a replica which is away may want.
    pub trim_delay: Duration,
    /// How often trimming and snapshots are considered.
    pub check_interval: Duration,
    /// Trimming fewer records is not worth its writes.
    pub trim_records_min: u64,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            destination: None,
            store: StoreSettings::default(),
            interval: None,
            records: None,
            num_retained: 1,
            cleanup: true,
            concurrent_max: 2,
            staging: std::env::temp_dir().join("abide-exports"),
            durability: DurabilityMode::ReplicaSetOnly,
            trim_delay: Duration::ZERO,
            check_interval: Duration::from_secs(5),
            trim_records_min: 1000,
        }
    }
}

/// What the partition of a cluster that was made from a backup begins with; the document `origin/<partition>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the backup is.
    pub url: String,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// How many partitions that had, and this one has.
    pub partitions: u16,
    /// The state; the log begins behind it.
    pub snapshot: Retained,
}

/// Where a node's snapshots go and come from.
pub struct Archive {
    pub(crate) options: ArchiveOptions,
    destination: Option<Destination>,
    known: Arc<KnownFiles>,
    room: Arc<Semaphore>,
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the state was not exported")]
    Export(#[from] ExportError),
    #[error("the state was not exported: the partition's task ended")]
    Gone,
    #[error("the snapshot was not stored")]
    Repository(#[from] RepositoryError),
    #[error("the snapshot was not stored within {0:?}")]
    TimedOut(Duration),
    #[error("this node's store failed")]
    Store(#[source] abide_state_machine::StoreError),
}

/// A folder that goes when it is of no more use.
pub(crate) struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(directory = %dir.display(), %error, "files of a snapshot were not removed");
        }
        _ => {}
    }
}

impl Archive {
    /// Checks the destination and empties the folder in which files are put together.
    ///
    /// # Errors
    /// The destination is none.
    pub fn open(options: ArchiveOptions) -> Result<Arc<Self>, RepositoryError> {
        let open = |url: &String| Destination::open(url, &options.store);
        let destination = options.destination.as_ref().map(open).transpose()?;
        remove(&options.staging);
        Ok(Arc::new(Self {
            destination,
            known: Arc::default(),
            room: Arc::new(Semaphore::new(options.concurrent_max.max(1))),
            options,
        }))
    }

    /// Where snapshots go, if they do.
    pub fn url(&self) -> Option<&str> {
        self.destination.as_ref().map(Destination::url)
    }

    /// Another place that is reached the same way.
    ///
    /// # Errors
    /// It is none.
    pub fn destination(&self, url: &str) -> Result<Destination, RepositoryError> {
        Destination::open(url, &self.options.store)
    }

    pub(crate) fn shelf(&self, view: &View, partition: PartitionId) -> Option<Shelf> {
        let cluster = cluster_id(view)?;
        let destination = self.destination.as_ref()?;
        Some(Shelf::new(destination, cluster, partition))
    }

    /// A number that no other has, on whichever node: a ticket must not mean something else to the next leader. Later
    /// ones are higher.
    pub(crate) fn ticket(&self) -> u64 {
        let millis = Timestamp::from_system(SystemTime::now()).0;
        millis << 20 | u64::from(rand::random::<u32>() >> 12)
    }

    /// A place among those whose files are sent, if there is one now.
    pub(crate) fn try_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// The same, however long it takes.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    fn folder(&self, partition: PartitionId, ticket: u64) -> PathBuf {
        self.options.staging.join(format!("{partition}-{ticket}"))
    }

    /// Fixes the state of a store and returns what waits for its files.
    pub(crate) fn begin_export(
        &self,
        store: &mut PartitionStore,
        ticket: u64,
    ) -> Result<(Lsn, Exporting), abide_state_machine::StoreError> {
        let dir = self.folder(store.partition(), ticket);
        let (sender, receiver) = oneshot::channel();
        let staged = Staged(dir.clone());
        let lsn = store.begin_export(dir.clone(), move |export| {
            if sender.send(export).is_err() {
                // Who waited has gone, and has removed what was there then.
                remove(&dir);
            }
        })?;
        Ok((lsn, Exporting { receiver, staged }))
    }

    /// Stores an export as the newest snapshot.
    pub(crate) async fn publish(
        &self,
        shelf: Shelf,
        export: &Export,
        about: About,
    ) -> Result<Saved, ArchiveError> {
        let (retained, cleanup) = (self.options.num_retained, self.options.cleanup);
        let stored = shelf.publish(new_snapshot(export, about), &self.known, retained, cleanup);
        let stored = tokio::time::timeout(STORED_WITHIN, stored).await;
        Ok(stored.map_err(|_| ArchiveError::TimedOut(STORED_WITHIN))??)
    }

    /// Stores an export as one partition of a backup.
    pub(crate) async fn back_up(
        &self,
        url: &str,
        cluster: &ClusterId,
        partition: PartitionId,
        export: &Export,
        about: About,
    ) -> Result<(Retained, u64), ArchiveError> {
        let backups = Backups::at(self.destination(url)?);
        let stored = backups.store(cluster, partition, new_snapshot(export, about), &self.known);
        let stored = tokio::time::timeout(STORED_WITHIN, stored).await;
        Ok(stored.map_err(|_| ArchiveError::TimedOut(STORED_WITHIN))??)
    }
}

/// An export that is under way.
pub(crate) struct Exporting {
    receiver: oneshot::Receiver<Result<Export, ExportError>>,
    staged: Staged,
}

impl Exporting {
    /// The files, which go with the second value.
    pub(crate) async fn done(self) -> Result<(Export, Staged), ArchiveError> {
        let export = self.receiver.await.map_err(|_| ArchiveError::Gone)??;
        Ok((export, self.staged))
    }
}

/// Who takes a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    pub epoch: Epoch,
    pub node: u32,
    pub partitions: u16,
}

fn new_snapshot(export: &Export, about: About) -> NewSnapshot {
    let file = |name: &String| LocalFile {
        name: name.clone(),
        path: export.dir.join(name),
    };
    NewSnapshot {
        lsn: export.applied,
        epoch: about.epoch,
        node: about.node,
        partitions: about.partitions,
        created_at: Timestamp::from_system(SystemTime::now()).0,
        files: export.files.iter().map(file).collect(),
    }
}

/// How repositories name this cluster.
pub(crate) fn cluster_id(view: &View) -> Option<ClusterId> {
    let cluster = view.cluster.as_ref()?;
    Some(ClusterId::new(&cluster.name, cluster.fingerprint))
}

/// What is kept of a partition; `None` before the first snapshot.
pub(crate) async fn pointer(shelf: &Shelf) -> Result<Option<Pointer>, ArchiveError> {
    let read = tokio::time::timeout(LOOKED_UP_WITHIN, shelf.pointer()).await;
    Ok(read.map_err(|_| ArchiveError::TimedOut(LOOKED_UP_WITHIN))??)
}

/// Whose records a snapshot shows.
#[derive(Debug, Clone, Copy)]
enum Log {
    /// Those of the partition's own log.
    This,
    /// Those of the log of the cluster that was backed up; this one's begins behind them.
    Another,
}

impl Partition {
    /// What this partition began with, if the cluster was made from a backup.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let view = self.context.metadata.view();
        let stored = view.raw(&keys::origin(self.partition))?;
        let origin = serde_json::from_slice(&stored.value);
        origin
            .inspect_err(|error| {
                tracing::error!(partition = %self.partition, %error, "the origin is not understood");
            })
            .ok()
    }

    /// An empty store of a cluster that was made from a backup is filled before it follows or leads.
    pub(crate) async fn begin_from_origin(&mut self) -> Result<(), PartitionError> {
        let Some(origin) = self.origin() else {
            return Ok(());
        };
        if self.store.applied() >= Lsn(origin.snapshot.lsn) {
            return Ok(());
        }
        let cause = Cause::Trimmed {
            first: Lsn(origin.snapshot.lsn).next(),
        };
        self.context.report(self.partition, |status| {
            status.role = PartitionRole::Rebuilding;
            status.stopped = Some(format!("begins with the backup in {}", origin.url));
        });
        self.rebuild(&cause).await?;
        let applied = self.store.applied();
        self.context.report(self.partition, |status| {
            status.role = PartitionRole::Follower;
            status.applied = applied;
            status.stopped = None;
        });
        Ok(())
    }

    /// Fills the store, which is empty, from the latest snapshot or else from the backup that the cluster began with,
    /// if that shows the record before `first`. Adds to `failures` why it did not.
    pub(crate) async fn restore_latest(
        &mut self,
        first: Lsn,
        failures: &mut Vec<String>,
    ) -> Result<bool, PartitionError> {
        let partition = self.partition;
        let context = self.context.clone();
        let mut sources = Vec::new();
        if let Some(shelf) = context.archive.shelf(&context.metadata.view(), partition) {
            match pointer(&shelf).await {
                Ok(Some(pointer)) => sources.extend(
                    pointer
                        .latest()
                        .map(|latest| (shelf.clone(), latest.clone(), Log::This)),
                ),
                Ok(None) => {}
                Err(error) => failures.push(format!("the latest snapshot: {}", chain_of(&error))),
            }
        }
        if let Some(origin) = self.origin() {
            match context.archive.destination(&origin.url) {
                Ok(destination) => {
                    let shelf = Backups::at(destination).shelf(&origin.cluster, partition);
                    sources.push((shelf, origin.snapshot, Log::Another));
                }
                Err(error) => failures.push(format!("the backup: {}", chain_of(&error))),
            }
        }
        for (shelf, snapshot, log) in sources {
            if Lsn(snapshot.lsn).next() < first {
                failures.push(format!(
                    "the snapshot {} ends before {first}",
                    snapshot.folder
                ));
                continue;
            }
            match self.restore(&shelf, &snapshot, log).await {
                Ok(rows) => {
                    metrics::counter!("abide_partition_restores_total").increment(1);
                    let applied = Lsn(snapshot.lsn);
                    tracing::info!(%partition, %applied, rows, snapshot = snapshot.folder, "partition store restored from a snapshot");
                    return Ok(true);
                }
                Err(ArchiveError::Store(error)) => return Err(PartitionError::Store(error)),
                Err(error) => {
                    tracing::warn!(%partition, snapshot = snapshot.folder, error = %chain_of(&error), "no state from this snapshot");
                    failures.push(format!("{}: {}", snapshot.folder, chain_of(&error)));
                    self.store.clear().map_err(PartitionError::Store)?;
                }
            }
        }
        Ok(false)
    }

    async fn restore(
        &mut self,
        shelf: &Shelf,
        snapshot: &Retained,
        log: Log,
    ) -> Result<usize, ArchiveError> {
        let archive = self.context.archive.clone();
        let _room = archive.room().await;
        let dir = archive.folder(self.partition, archive.ticket());
        std::fs::create_dir_all(&dir).map_err(|source| RepositoryError::Io {
            doing: "make the directory",
            path: dir.clone(),
            source,
        })?;
        let staged = Staged(dir);
        let fetched = tokio::time::timeout(STORED_WITHIN, shelf.fetch(snapshot, &staged.0)).await;
        let metadata = fetched.map_err(|_| ArchiveError::TimedOut(STORED_WITHIN))??;
        let unexpected = |found: String| ExportError::Unexpected {
            dir: staged.0.clone(),
            partition: self.partition,
            expected: Lsn(snapshot.lsn),
            found,
        };
        if metadata.partitions != self.context.partitions {
            let count = metadata.partitions;
            return Err(
                unexpected(format!("they are of a cluster with {count} partitions")).into(),
            );
        }
        let mut exported = Exported::open(&staged.0, self.partition)?;
        let applied = exported.applied();
        if applied != Lsn(snapshot.lsn) {
            return Err(unexpected(format!("they are after record {applied}")).into());
        }
        let history = match log {
            Log::This => exported.history(),
            Log::Another => Epoch::default(),
        };
        let chain = (self.context.chains.subscribe(self.partition).borrow()).clone();
        if let Some(mark) = superseded(&chain, history, applied) {
            let at = mark.at;
            let found = format!("the log was recovered without record {at} that they show");
            return Err(unexpected(found).into());
        }
        self.store.set_history(history);
        let mut count = 0;
        loop {
            let rows = exported.next_rows(ROWS_BYTES)?;
            if rows.is_empty() {
                break;
            }
            count += rows.len();
            let slices = rows.iter().map(|(key, value)| (&key[..], &value[..]));
            self.store.load(slices).map_err(ArchiveError::Store)?;
            // Other partitions of the node share this thread.
            tokio::task::yield_now().await;
        }
        self.store
            .finish_load(applied)
            .map_err(ArchiveError::Store)?;
        Ok(count)
    }
}
