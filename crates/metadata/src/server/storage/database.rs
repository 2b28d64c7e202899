//! The RocksDB under everything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abide_rpc::proto::metadata as pb;
use parking_lot::RwLock;
use prost::Message;
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, Options, WriteBatch};
use tokio::sync::oneshot;

use super::flusher::{Flushed, Flusher};
use super::keys::{FORMAT, Key};
use crate::errors::StartError;

/// A key and a value as they are stored.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);

/// The database of one server, until it is closed.
pub(crate) struct Database {
    directory: PathBuf,
    open: RwLock<Option<Open>>,
}

struct Open {
    db: Arc<DB>,
    flusher: Flusher,
}

impl Database {
    /// Opens the database in `directory`, making it if there is none.
    pub(crate) fn open(directory: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Open {
            directory: directory.to_owned(),
            source,
        };
        let corrupt = |detail: String| StartError::Corrupt {
            directory: directory.to_owned(),
            detail,
        };
        let db = DB::open(&options(), directory).map_err(failed)?;
        match db.get(Key::Format.bytes()).map_err(failed)? {
            Some(format) if format == FORMAT => {}
            Some(format) => {
                return Err(corrupt(format!(
                    "its format is {:?}, this version writes {:?}",
                    String::from_utf8_lossy(&format),
                    String::from_utf8_lossy(FORMAT),
                )));
            }
            None if db.iterator(IteratorMode::Start).next().is_some() => {
                return Err(corrupt("it holds data but not its format".into()));
            }
            None => db.put(Key::Format.bytes(), FORMAT).map_err(failed)?,
        }
        let db = Arc::new(db);
        let flusher = Flusher::start(Arc::clone(&db))
            .map_err(|error| corrupt(format!("the thread that syncs it did not start: {error}")))?;
        Ok(Self {
            directory: directory.to_owned(),
            open: RwLock::new(Some(Open { db, flusher })),
        })
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A number that RocksDB keeps; `None` once it is closed.
    pub(crate) fn property(&self, name: &str) -> Option<u64> {
        self.db().ok()?.property_int_value(name).ok().flatten()
    }

    /// Rewrites all files into as few as can be; does nothing once it is closed.
    pub(crate) fn compact(&self) {
        if let Ok(db) = self.db() {
            let everything = None::<&[u8]>;
            db.compact_range(everything, everything);
        }
    }

    fn db(&self) -> io::Result<Arc<DB>> {
        self.open
            .read()
            .as_ref()
            .map(|open| Arc::clone(&open.db))
            .ok_or_else(closed)
    }

    /// The bytes under a key.
    pub(crate) fn get(&self, key: Key<'_>) -> io::Result<Option<Vec<u8>>> {
        self.db()?.get(key.bytes()).map_err(io::Error::other)
    }

    /// The message under a key.
    pub(crate) fn message<M: Message + Default>(&self, key: Key<'_>) -> io::Result<Option<M>> {
        self.get(key)?
            .map(|bytes| {
                M::decode(bytes.as_slice())
                    .map_err(|error| self.corrupt(format_args!("{key:?} does not decode: {error}")))
            })
            .transpose()
    }

    /// Rows from `from` up to `to`, which is not among them, until the values have `bytes`.
    pub(crate) fn scan(&self, from: &[u8], to: &[u8], bytes: usize) -> io::Result<Vec<Row>> {
        let db = self.db()?;
        let mut rows = Vec::new();
        let mut read = 0;
        for row in db.iterator(IteratorMode::From(from, Direction::Forward)) {
            let row = row.map_err(io::Error::other)?;
            if row.0.as_ref() >= to || read >= bytes {
                break;
            }
            read += row.1.len();
            rows.push(row);
        }
        Ok(rows)
    }

    /// The last row from `from` up to `to`, which is not looked at.
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        let db = self.db()?;
        for row in db.iterator(IteratorMode::From(to, Direction::Reverse)) {
            let row = row.map_err(io::Error::other)?;
            if row.0.as_ref() < from {
                break;
            }
            if row.0.as_ref() < to {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Writes, readable at once and in order; it is on disk once a later [`Self::flush`] says so.
    pub(crate) fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db()?.write(batch).map_err(io::Error::other)
    }

    /// Calls `done` when all that was written before is on disk.
    pub(crate) fn flush(&self, done: Flushed) {
        match self.open.read().as_ref() {
            Some(open) => open.flusher.flush(done),
            None => done(Err(closed())),
        }
    }

    /// Writes and waits for the disk.
    pub(crate) async fn write_durably(&self, batch: WriteBatch) -> io::Result<()> {
        self.write(batch)?;
        let (tell, told) = oneshot::channel();
        self.flush(Box::new(move |result| {
            // Nobody waits any more: the caller was cancelled.
            let _ = tell.send(result);
        }));
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Writes one message and waits for the disk.
    pub(crate) async fn put_durably<M: Message>(
        &self,
        key: Key<'_>,
        message: &M,
    ) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        batch.put(key.bytes(), message.encode_to_vec());
        self.write_durably(batch).await
    }

    /// The identity of this directory, if it has one.
    pub(crate) fn identity(&self) -> io::Result<Option<pb::IdentityRecord>> {
        self.message(Key::Identity)
    }

    /// Closes the database. What is tried later fails.
    pub(crate) fn close(&self) {
        let Some(open) = self.open.write().take() else {
            return;
        };
        open.flusher.stop();
        open.db.cancel_all_background_work(true);
    }

    /// An error about what is stored.
    pub(crate) fn corrupt(&self, what: impl std::fmt::Display) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("metadata store in {}: {what}", self.directory.display()),
        )
    }

    /// The start error that an error of reading the store is.
    pub(crate) fn start_error(&self, error: &io::Error) -> StartError {
        StartError::Corrupt {
            directory: self.directory.clone(),
            detail: error.to_string(),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed() -> io::Error {
    io::Error::other("the metadata store was closed")
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // A record that was torn by a crash can only be the last one: it was never acknowledged. Damage before
    // that is refused rather than cut off, because a vote or an entry that was promised might be lost.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Little data that changes rarely.
    options.set_write_buffer_size(4 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(16 << 20);
    options.set_max_open_files(64);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}
