//! The files of one partition, as they are after one record, for use elsewhere.
//!
//! RocksDB's checkpoint links all files of the database into a folder; those of other partitions are taken out again.
//! What stays is a small database with this one column family, made of the very files that the store has: a snapshot
//! that follows shares those that did not change meanwhile. While it is made, nothing else goes into RocksDB, so that
//! it shows exactly the record at which it was begun. Start at [`PartitionStore::begin_export`] and [`Exported::open`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use abide_state_machine::StoreError;
use abide_types::{Epoch, Lsn, PartitionId};
use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DEFAULT_COLUMN_FAMILY_NAME, Options};

use crate::layout::{APPLIED_KEY, FORMAT, ROWS_START, decode_applied};
use crate::partition::{PartitionStore, Shared};
use crate::stores::family_name;

/// What was exported: delete the folder when it is of no more use.
#[derive(Debug, Clone)]
pub struct Export {
    /// Where the files are.
    pub dir: PathBuf,
    /// The last record that they show.
    pub applied: Lsn,
    /// Their names.
    pub files: Vec<String>,
}

/// Why there is no export, or why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// RocksDB or the disk does not do it.
    #[error("{doing} {}", dir.display())]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Where.
        dir: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// The disk does not do it.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store failed before.
    #[error("the store")]
    Store(#[source] StoreError),
    /// The files are not the state after the record that they should be.
    #[error("the files in {} are of partition {partition} after record {expected}: {found}", dir.display())]
    Unexpected {
        /// Where.
        dir: PathBuf,
        /// The partition.
        partition: PartitionId,
        /// The record.
        expected: Lsn,
        /// What they are instead.
        found: String,
    },
}

impl PartitionStore {
    /// Fixes the state after the last record that was applied, which is returned, and has its files put into `dir` on
    /// a thread of their own; `done` is called there. Waits for a spill that is under way, no longer: what is applied
    /// from now on is not part of the export. It stays in memory until the export is done, which takes a flush; when
    /// twice the bytes of a spill have gathered, the next [`PartitionStore::maintain`] waits for it.
    ///
    /// # Errors
    /// The store failed before; `done` is not called.
    pub fn begin_export(
        &mut self,
        dir: PathBuf,
        done: impl FnOnce(Result<Export, ExportError>) + Send + 'static,
    ) -> Result<Lsn, StoreError> {
        self.join_writer(true)?;
        self.shared
            .write_frozen()
            .map_err(|source| self.shared.error("writing rows", source))?;
        self.freeze()?;
        let applied = {
            let current = self.shared.current.lock();
            if current.loading {
                drop(current);
                return Err(self
                    .shared
                    .bare_error("exporting a store that is being filled"));
            }
            current.applied
        };
        let shared = Arc::clone(&self.shared);
        let partition = self.partition();
        let export = move || {
            let written = shared
                .write_frozen()
                .and_then(|()| shared.begin_flush(true));
            let exported = match &written {
                Ok(()) => export(&shared, partition, &dir, applied),
                Err(source) => Err(ExportError::Store(
                    shared.error("writing rows", source.clone()),
                )),
            };
            // Free for the next spill before anybody hears of it.
            drop(shared);
            done(exported);
            written
        };
        let thread = thread::Builder::new()
            .name("export".to_owned())
            .spawn(export);
        match thread {
            Ok(writer) => self.writer = Some(writer),
            Err(_) => return Err(self.shared.bare_error("starting a thread for an export")),
        }
        Ok(applied)
    }
}

fn export(
    shared: &Shared,
    partition: PartitionId,
    dir: &Path,
    applied: Lsn,
) -> Result<Export, ExportError> {
    let io = |doing, source| ExportError::Io {
        doing,
        path: dir.to_owned(),
        source,
    };
    let database = |doing, source| ExportError::Database {
        doing,
        dir: dir.to_owned(),
        source,
    };
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("emptying", error));
        }
        _ => {}
    }
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(|error| io("making", error))?;
    }
    let checkpoint =
        Checkpoint::new(shared.stores.db()).map_err(|error| database("exporting to", error))?;
    // Never flushes: this partition was flushed just now, and the others need not be.
    checkpoint
        .create_checkpoint_with_log_size(dir, u64::MAX)
        .map_err(|error| database("exporting to", error))?;
    let (exported, tables) = {
        let opened = Exported::open(dir, partition)?;
        let live = opened
            .db
            .live_files()
            .map_err(|error| database("listing the files in", error))?;
        let name = family_name(partition);
        let own = live
            .into_iter()
            .filter(|file| file.column_family_name == name);
        let tables: BTreeSet<String> = own
            .map(|file| file.name.trim_start_matches('/').to_owned())
            .collect();
        (opened.applied, tables)
    };
    if exported != applied {
        return Err(ExportError::Unexpected {
            dir: dir.to_owned(),
            partition,
            expected: applied,
            found: format!("they are after record {exported}"),
        });
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| io("listing", error))? {
        let name = entry.map_err(|error| io("listing", error))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if tables.contains(&name) || name == "CURRENT" || name.starts_with("MANIFEST-") {
            files.push(name);
        } else {
            std::fs::remove_file(dir.join(&name)).map_err(|error| io("tidying", error))?;
        }
    }
    files.sort();
    Ok(Export {
        dir: dir.to_owned(),
        applied,
        files,
    })
}

/// An export that is being read.
pub struct Exported {
    db: DB,
    family: String,
    dir: PathBuf,
    applied: Lsn,
    history: Epoch,
    after: Option<Bytes>,
}

impl Exported {
    /// Opens the files of a partition in `dir`.
    ///
    /// # Errors
    /// They are not such files, or damaged.
    pub fn open(dir: &Path, partition: PartitionId) -> Result<Self, ExportError> {
        let family = family_name(partition);
        let mut options = Options::default();
        options.set_max_open_files(64);
        options.set_skip_stats_update_on_db_open(true);
        options.set_keep_log_file_num(1);
        let failed = |source| ExportError::Database {
            doing: "opening",
            dir: dir.to_owned(),
            source,
        };
        let families = [DEFAULT_COLUMN_FAMILY_NAME, &family];
        let db = DB::open_cf_for_read_only(&options, dir, families, false).map_err(failed)?;
        let (applied, history) = {
            let handle = db.cf_handle(&family);
            let row = match handle {
                Some(handle) => db.get_cf(handle, APPLIED_KEY).map_err(failed)?,
                None => None,
            };
            let unexpected = |found: String| ExportError::Unexpected {
                dir: dir.to_owned(),
                partition,
                expected: Lsn::ZERO,
                found,
            };
            let row = row.ok_or_else(|| unexpected("nothing says which".to_owned()))?;
            decode_applied(&row).map_err(|format| {
                unexpected(format!(
                    "they have format {format}; this version knows {FORMAT}"
                ))
            })?
        };
        Ok(Self {
            db,
            family,
            dir: dir.to_owned(),
            applied,
            history,
            after: None,
        })
    }

    /// The last record that the files show.
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// The recovery of the log that its records go by; see [`crate::PartitionStore::history`].
    pub fn history(&self) -> Epoch {
        self.history
    }

    /// The next rows, about `bytes_max` of them; empty when there are no more. Blocks.
    ///
    /// # Errors
    /// The files are damaged.
    pub fn next_rows(&mut self, bytes_max: usize) -> Result<Vec<(Bytes, Bytes)>, ExportError> {
        let failed = |source| ExportError::Database {
            doing: "reading",
            dir: self.dir.clone(),
            source,
        };
        let Some(family) = self.db.cf_handle(&self.family) else {
            return Ok(Vec::new());
        };
        let mut rows = self.db.raw_iterator_cf(family);
        match &self.after {
            None => rows.seek(ROWS_START),
            Some(after) => {
                rows.seek(after);
                if rows.key().is_some_and(|key| key == &after[..]) {
                    rows.next();
                }
            }
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = rows.item() {
            bytes += key.len() + value.len();
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if bytes_max <= bytes {
                break;
            }
            rows.next();
        }
        rows.status().map_err(failed)?;
        if let Some((key, _)) = found.last() {
            self.after = Some(key.clone());
        }
        Ok(found)
    }
}
