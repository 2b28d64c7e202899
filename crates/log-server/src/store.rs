//! What is on disk: the journal in front, the database behind it.
//!
//! A batch is durable once the journal has it; the database sorts it in memory and writes it to its own files
//! when a journal file is full. Start at [`Store::open`].

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use abide_log::{Record, ReplicaLog, StorageId, StoredSegment};
use abide_types::{Epoch, Lsn, PartitionId};
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions,
    UniversalCompactOptions, WriteBatch, WriteOptions,
};

use crate::journal::{Journal, JournalError, JournalFile, JournalSizes};
use crate::keys::{
    FORMAT, Key, kind, put_record, read_number, read_record, read_storage, storage_value,
};
use crate::metrics::Metrics;

/// Why a log server's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not open, read or write.
    #[error(
        "the log database in {} cannot be used; if the disk is sound, move the directory away and start \
         again: the node comes back as an empty replica and its segments are copied from the others",
        directory.display()
    )]
    Database {
        /// Its directory.
        directory: PathBuf,
        /// What it said; names the file.
        source: rocksdb::Error,
    },
    /// The journal does not open, read or write.
    #[error(
        "the log journal cannot be used; if the disk is sound, move the log directory away and start again: \
         the node comes back as an empty replica and its segments are copied from the others"
    )]
    Journal(#[from] JournalError),
    /// What is stored makes no sense.
    #[error(
        "the log database in {} is damaged at {at}; move the directory away and start again: the node comes \
         back as an empty replica and its segments are copied from the others",
        directory.display()
    )]
    Damaged {
        /// Its directory.
        directory: PathBuf,
        /// Where.
        at: String,
    },
    /// It was written by another version.
    #[error("the log database in {} has format {found}, this version reads {FORMAT}", directory.display())]
    Format {
        /// Its directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A thread does not start.
    #[error("the log server's threads do not start")]
    Threads(#[source] std::io::Error),
}

/// What a store may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreSizes {
    pub journal: JournalSizes,
    pub memory_bytes: usize,
}

/// What was found at the start.
pub(crate) struct Opened {
    pub store: Store,
    pub reader: Reader,
    pub storage: StorageId,
    pub logs: BTreeMap<PartitionId, ReplicaLog>,
}

/// The writing side; owned by the writer thread.
pub(crate) struct Store {
    directory: PathBuf,
    journal: Journal,
    db: Arc<DB>,
    batch: WriteBatch,
    value: Vec<u8>,
    options: WriteOptions,
    free: Arc<Mutex<Vec<JournalFile>>>,
    keeper: Option<Sender<Keeping>>,
    keeper_thread: Option<JoinHandle<()>>,
    asked_for_file: bool,
    metrics: Arc<Metrics>,
}

/// The reading side; shared.
#[derive(Clone)]
pub(crate) struct Reader {
    db: Arc<DB>,
}

/// Work for the thread that keeps the journal's files.
enum Keeping {
    /// Put everything into the database's files; then this file is free.
    Flush(JournalFile),
    /// Have another file ready.
    Make(Box<dyn FnOnce() -> Result<JournalFile, JournalError> + Send>),
}

/// What a read from the disk found.
pub(crate) enum DiskRead {
    Records(Vec<Record>),
    Corrupt(Lsn),
}

/// Free journal files that are kept; more are deleted.
const FREE_FILES_MAX: usize = 2;

impl Store {
    pub(crate) fn open(
        directory: &Path,
        sizes: StoreSizes,
        metrics: Arc<Metrics>,
    ) -> Result<Opened, StoreError> {
        let path = directory.join("db");
        let database = |source| StoreError::Database {
            directory: path.clone(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(|source| JournalError::Io {
            doing: "create",
            file: directory.to_path_buf(),
            source,
        })?;
        let db = Arc::new(DB::open(&options(sizes), &path).map_err(database)?);
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        let stored = db.get(Key::Applied.encode()).map_err(database)?;
        let applied = stored.as_deref().and_then(read_number).unwrap_or(0);
        let (journal, free) = Journal::open(
            &directory.join("journal"),
            sizes.journal,
            applied,
            |frame| -> Result<(), StoreError> {
                let mut batch = WriteBatch::from_data(frame.payload);
                batch.put(Key::Applied.encode(), frame.number.to_le_bytes());
                db.write_opt(batch, &write).map_err(database)
            },
        )?;
        let free = Arc::new(Mutex::new(free));
        let (keeper, work) = channel();
        let keeper_thread = spawn_keeper(db.clone(), free.clone(), work, metrics.clone())?;
        let mut store = Self {
            directory: directory.to_path_buf(),
            journal,
            db: db.clone(),
            batch: WriteBatch::default(),
            value: Vec::new(),
            options: write,
            free,
            keeper: Some(keeper),
            keeper_thread: Some(keeper_thread),
            asked_for_file: false,
            metrics,
        };
        let storage = store.storage()?;
        let reader = Reader { db };
        let logs = reader.logs().map_err(|problem| match problem {
            Problem::Database(source) => StoreError::Database {
                directory: path.clone(),
                source,
            },
            Problem::Damaged(at) => StoreError::Damaged {
                directory: path.clone(),
                at,
            },
        })?;
        Ok(Opened {
            store,
            reader,
            storage,
            logs,
        })
    }

    fn storage(&mut self) -> Result<StorageId, StoreError> {
        let directory = self.directory.clone();
        let stored = self
            .db
            .get(Key::Storage.encode())
            .map_err(|source| StoreError::Database {
                directory: directory.clone(),
                source,
            })?;
        let Some(stored) = stored else {
            let storage = mint_storage();
            self.batch
                .put(Key::Storage.encode(), storage_value(storage));
            self.commit()?;
            return Ok(storage);
        };
        match read_storage(&stored) {
            Some((storage, FORMAT)) => Ok(storage),
            Some((_, found)) => Err(StoreError::Format { directory, found }),
            None => Err(StoreError::Damaged {
                directory,
                at: "its storage id".to_owned(),
            }),
        }
    }

    pub(crate) fn put_promise(&mut self, partition: PartitionId, epoch: Epoch) {
        self.batch
            .put(Key::Promised(partition).encode(), epoch.0.to_le_bytes());
    }

    pub(crate) fn put_segment(&mut self, partition: PartitionId, epoch: Epoch, base: Lsn) {
        self.batch.put(
            Key::Segment(partition, epoch).encode(),
            base.0.to_le_bytes(),
        );
    }

    pub(crate) fn put_record(&mut self, partition: PartitionId, record: &Record, committed: Lsn) {
        self.value.clear();
        put_record(&mut self.value, record, committed);
        let key = Key::Record(partition, record.epoch(), record.lsn());
        self.batch.put(key.encode(), &self.value);
    }

    pub(crate) fn trim(
        &mut self,
        partition: PartitionId,
        trimmed: Lsn,
        epochs: impl Iterator<Item = Epoch>,
        dead: &[Epoch],
    ) {
        self.batch
            .put(Key::Trimmed(partition).encode(), trimmed.0.to_le_bytes());
        for epoch in epochs.chain(dead.iter().copied()) {
            let from = Key::Record(partition, epoch, Lsn::ZERO).encode();
            self.batch
                .delete_range(from, Key::Record(partition, epoch, trimmed).encode());
        }
        for epoch in dead {
            self.batch.delete(Key::Segment(partition, *epoch).encode());
        }
    }

    /// Whether there is anything to commit.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Bytes of what waits to be committed.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    /// Makes everything since the last commit durable. After an error nothing can be said about what is on
    /// disk: the process has to end.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        let payload = self.batch.data();
        if self.journal.is_full(payload.len()) {
            let ready = self.free.lock().pop();
            let full = self.journal.rotate(ready, payload.len())?;
            self.metrics.rotations.increment(1);
            self.asked_for_file = false;
            self.keep(Keeping::Flush(full));
        } else if !self.asked_for_file && self.journal.is_half_full() {
            self.asked_for_file = true;
            if self.free.lock().is_empty() {
                let make = Box::new(self.journal.maker());
                self.keep(Keeping::Make(make));
            }
        }
        let number = self.journal.next();
        self.journal.append(self.batch.data())?;
        self.batch.put(Key::Applied.encode(), number.to_le_bytes());
        let batch = mem::take(&mut self.batch);
        let written = self.db.write_opt(batch, &self.options);
        written.map_err(|source| StoreError::Database {
            directory: self.directory.join("db"),
            source,
        })
    }

    fn keep(&self, work: Keeping) {
        if let Some(keeper) = &self.keeper {
            // The keeper ends only after this sender; without it files are made by the writer itself.
            let _ = keeper.send(work);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Ends the keeper, so that the database closes with the last reader.
        self.keeper = None;
        if let Some(thread) = self.keeper_thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the keeper of the log journal panicked");
        }
    }
}

fn spawn_keeper(
    db: Arc<DB>,
    free: Arc<Mutex<Vec<JournalFile>>>,
    work: Receiver<Keeping>,
    metrics: Arc<Metrics>,
) -> Result<JoinHandle<()>, StoreError> {
    let keep = move || {
        for work in work {
            let kept = match work {
                Keeping::Flush(file) => match db.flush() {
                    Ok(()) => {
                        metrics.flushes.increment(1);
                        Some(file)
                    }
                    Err(error) => {
                        metrics.flush_failures.increment(1);
                        // The file keeps what the database could not write, and its next start replays it.
                        tracing::error!(%error, "log database not flushed");
                        None
                    }
                },
                Keeping::Make(make) => match make() {
                    Ok(file) => Some(file),
                    Err(error) => {
                        tracing::warn!(%error, "log journal file not made ahead");
                        None
                    }
                },
            };
            let Some(file) = kept else {
                continue;
            };
            let mut free = free.lock();
            if free.len() < FREE_FILES_MAX {
                free.push(file);
                continue;
            }
            drop(free);
            if let Err(error) = file.remove() {
                tracing::warn!(%error, "spare log journal file not removed");
            }
        }
    };
    let thread = std::thread::Builder::new().name("log-keeper".to_owned());
    thread.spawn(keep).map_err(StoreError::Threads)
}

/// 64 random bits; the standard library seeds its hashers from the operating system.
fn mint_storage() -> StorageId {
    use std::hash::BuildHasher as _;
    let now = std::time::SystemTime::now();
    StorageId(
        std::hash::RandomState::new()
            .hash_one((now, std::process::id()))
            .max(1),
    )
}

fn options(sizes: StoreSizes) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // Two journal files fit into one memtable: flushes happen when a journal file is full, and what was
    // trimmed until then is never written.
    options.set_write_buffer_size(sizes.memory_bytes.max(4 << 20) / 2);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::Lz4);
    // Few rewrites: records are read seldom and die by trimming.
    options.set_compaction_style(rocksdb::DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_size_ratio(20);
    universal.set_min_merge_width(4);
    universal.set_max_size_amplification_percent(300);
    options.set_universal_compaction_options(&universal);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_max_background_jobs(2);
    options.set_allow_concurrent_memtable_write(false);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_paranoid_checks(true);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(4 << 20));
    table.set_block_size(16 << 10);
    table.set_format_version(5);
    options.set_block_based_table_factory(&table);
    options
}

enum Problem {
    Database(rocksdb::Error),
    Damaged(String),
}

impl From<rocksdb::Error> for Problem {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database(error)
    }
}

impl Reader {
    /// A number that RocksDB keeps.
    pub(crate) fn property(&self, name: &str) -> Option<u64> {
        self.db.property_int_value(name).ok().flatten()
    }

    /// Rewrites all files into as few as can be.
    pub(crate) fn compact(&self) {
        let everything = None::<&[u8]>;
        self.db.compact_range(everything, everything);
    }

    /// The state of every log.
    fn logs(&self) -> Result<BTreeMap<PartitionId, ReplicaLog>, Problem> {
        type Parts = (Epoch, Lsn, BTreeMap<Epoch, StoredSegment>);
        let mut logs: BTreeMap<PartitionId, Parts> = BTreeMap::new();
        let start = [kind::PROMISED];
        for entry in self
            .db
            .iterator(IteratorMode::From(&start, Direction::Forward))
        {
            let (key, value) = entry?;
            if kind::TRIMMED < key[0] {
                break;
            }
            let damaged = || Problem::Damaged(format!("key {key:02x?}"));
            let number = read_number(&value).ok_or_else(damaged)?;
            match Key::decode(&key).ok_or_else(damaged)? {
                Key::Promised(partition) => logs.entry(partition).or_default().0 = Epoch(number),
                Key::Trimmed(partition) => logs.entry(partition).or_default().1 = Lsn(number),
                Key::Segment(partition, epoch) => {
                    let segment = self.segment(partition, epoch, Lsn(number))?;
                    logs.entry(partition).or_default().2.insert(epoch, segment);
                }
                Key::Storage | Key::Applied | Key::Record(..) => return Err(damaged()),
            }
        }
        let restored = |(partition, (promised, trimmed, segments))| {
            (partition, ReplicaLog::restored(promised, trimmed, segments))
        };
        Ok(logs.into_iter().map(restored).collect())
    }

    /// Finds the tail of a segment and the last commit that was heard with a record.
    fn segment(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        base: Lsn,
    ) -> Result<StoredSegment, Problem> {
        let mut segment = StoredSegment {
            base,
            tail: base,
            committed: Lsn::ZERO,
        };
        let end = Key::Record(partition, epoch, Lsn(u64::MAX)).encode();
        let mut backwards = self
            .db
            .iterator(IteratorMode::From(end.as_ref(), Direction::Reverse));
        let Some(entry) = backwards.next() else {
            return Ok(segment);
        };
        let (key, value) = entry?;
        let Some(Key::Record(of, under, lsn)) = Key::decode(&key) else {
            return Ok(segment);
        };
        if (of, under) != (partition, epoch) {
            return Ok(segment);
        }
        let damaged = || Problem::Damaged(format!("record {lsn} of log {partition} under {epoch}"));
        let (_, committed) = read_record(partition, epoch, lsn, &value).ok_or_else(damaged)?;
        if lsn < base || lsn == Lsn(u64::MAX) {
            return Err(damaged());
        }
        segment.tail = lsn.next();
        segment.committed = committed;
        Ok(segment)
    }

    /// Reads records `[from, end)` of a segment until `bytes_max` are exceeded.
    pub(crate) fn read(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        from: Lsn,
        end: Lsn,
        bytes_max: usize,
    ) -> DiskRead {
        let first = Key::Record(partition, epoch, from).encode();
        let last = Key::Record(partition, epoch, end).encode();
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(last.as_ref());
        let start = IteratorMode::From(first.as_ref(), Direction::Forward);
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        for entry in self.db.iterator_opt(start, options) {
            let record = match entry {
                Ok((key, value)) => match Key::decode(&key) {
                    Some(Key::Record(_, _, lsn)) if lsn == next => {
                        read_record(partition, epoch, lsn, &value)
                    }
                    // A record is missing in between.
                    _ => None,
                },
                Err(error) => {
                    tracing::error!(%partition, lsn = %next, %error, "log database not read");
                    None
                }
            };
            match record {
                Some((record, _)) => {
                    bytes += record.weight();
                    next = next.next();
                    records.push(record);
                }
                None if records.is_empty() => return DiskRead::Corrupt(next),
                // What is intact comes first; the next read begins at the corrupt one.
                None => break,
            }
            if bytes_max <= bytes {
                break;
            }
        }
        if records.is_empty() && from < end {
            return DiskRead::Corrupt(from);
        }
        DiskRead::Records(records)
    }
}
