//! The one database of a node, and who has which partition of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_types::PartitionId;
use parking_lot::Mutex;
use rocksdb::{BoundColumnFamily, ColumnFamilyDescriptor, DEFAULT_COLUMN_FAMILY_NAME, Options};

use crate::engine::{Budget, Db, Settings};
use crate::error::{OpenError, is_damage};
use crate::partition::PartitionStore;

/// Beside the database's files when they are not to be opened again; says why.
const CONDEMNED_FILE: &str = "CONDEMNED";

/// Memory and rhythm of the stores of one node.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Memory of all partitions together: overlays, memtables, cached blocks, filters.
    pub memory_bytes: usize,
    /// An overlay of this size is spilled. More spares RocksDB rows that do not live long.
    pub spill_after_bytes: usize,
    /// A partition that has spilled this much since its last flush is flushed. Less keeps the replay after a
    /// crash short and writes more, smaller files.
    pub flush_after_bytes: usize,
    /// The same by time, so that the log of a quiet partition can be trimmed.
    pub flush_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            spill_after_bytes: 4 << 20,
            flush_after_bytes: 16 << 20,
            flush_interval: Duration::from_secs(60),
        }
    }
}

/// The stores of all partitions of a node: one RocksDB, a column family each.
pub struct PartitionStores {
    db: Db,
    dir: PathBuf,
    options: StoreOptions,
    family_options: Options,
    budget: Budget,
    open: Mutex<BTreeSet<PartitionId>>,
    /// Memory of all overlays, as of each partition's last maintenance.
    overlays_bytes: AtomicUsize,
}

impl PartitionStores {
    /// Opens the stores in `dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`OpenError::is_damage`] says that [`PartitionStores::destroy`] and opening anew would help.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Arc<Self>, OpenError> {
        let dir = dir.as_ref().to_owned();
        std::fs::create_dir_all(&dir).map_err(|source| OpenError::Directory {
            dir: dir.clone(),
            source,
        })?;
        if let Ok(reason) = std::fs::read_to_string(dir.join(CONDEMNED_FILE)) {
            return Err(OpenError::Condemned { dir, reason });
        }
        let budget = Budget::of(options.memory_bytes);
        let settings = Settings::new(budget, options.flush_after_bytes);
        let families = if dir.join("CURRENT").exists() {
            Db::list_cf(&settings.database, &dir).map_err(|source| open_error(&dir, source))?
        } else {
            vec![DEFAULT_COLUMN_FAMILY_NAME.to_owned()]
        };
        let families = families
            .into_iter()
            .map(|name| ColumnFamilyDescriptor::new(name, settings.family.clone()));
        let db = Db::open_cf_descriptors(&settings.database, &dir, families)
            .map_err(|source| open_error(&dir, source))?;
        Ok(Arc::new(Self {
            db,
            dir,
            options,
            family_options: settings.family,
            budget,
            open: Mutex::default(),
            overlays_bytes: AtomicUsize::new(0),
        }))
    }

    /// Opens a partition, empty if it is new here. There is one at a time.
    ///
    /// # Errors
    /// It is open already, or its files are damaged.
    pub fn partition(
        self: &Arc<Self>,
        partition: PartitionId,
    ) -> Result<PartitionStore, OpenError> {
        PartitionStore::open(Place::take(self, partition)?)
    }

    /// Deletes all rows of a partition that is not open, for good: it has moved away, or it is damaged and
    /// will be rebuilt.
    ///
    /// # Errors
    /// It is open, or the files do not go.
    pub fn drop_partition(self: &Arc<Self>, partition: PartitionId) -> Result<(), OpenError> {
        let _place = Place::take(self, partition)?;
        let name = family_name(partition);
        if self.db.cf_handle(&name).is_none() {
            return Ok(());
        }
        let dropped = self.db.drop_cf(&name);
        dropped.map_err(|source| open_error(&self.dir, source))
    }

    /// The partitions that have rows in RocksDB.
    ///
    /// # Errors
    /// RocksDB cannot tell.
    pub fn partitions(&self) -> Result<Vec<PartitionId>, OpenError> {
        let names = Db::list_cf(&Options::default(), &self.dir)
            .map_err(|source| open_error(&self.dir, source))?;
        let mut partitions: Vec<_> = names.iter().filter_map(|name| parse_family(name)).collect();
        partitions.sort();
        Ok(partitions)
    }

    /// Deletes the stores in `dir`, damaged ones as well. Nobody may have them open.
    ///
    /// # Errors
    /// What the system says.
    pub fn destroy(dir: impl AsRef<Path>) -> Result<(), OpenError> {
        let dir = dir.as_ref();
        match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(OpenError::Directory {
                    dir: dir.to_owned(),
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    /// Has the next [`PartitionStores::open`] fail with [`OpenError::Condemned`]: the files are damaged in a way that
    /// only starting anew mends, and opening them would not notice.
    ///
    /// # Errors
    /// What the system says.
    pub fn condemn(&self, reason: &str) -> Result<(), OpenError> {
        let file = self.dir.join(CONDEMNED_FILE);
        std::fs::write(file, reason).map_err(|source| OpenError::Directory {
            dir: self.dir.clone(),
            source,
        })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A number that RocksDB keeps of each partition, such as `rocksdb.estimate-num-keys`, summed up over those
    /// that are open. `None` if it knows no such number.
    pub fn property(&self, name: &str) -> Option<u64> {
        let mut sum = None;
        for &partition in &*self.open.lock() {
            if let Some(family) = self.db.cf_handle(&family_name(partition))
                && let Ok(Some(value)) = self.db.property_int_value_cf(&family, name)
            {
                sum = Some(sum.unwrap_or(0) + value);
            }
        }
        sum
    }

    /// Rewrites the database of each partition that is open into as few files as can be. Blocks for as long as that
    /// takes, which is about the time of reading and writing all of it; others use it meanwhile.
    pub fn compact(&self) {
        let open = self.open.lock().clone();
        for partition in open {
            let everything = None::<&[u8]>;
            // One that has gone meanwhile needs nothing.
            if let Some(family) = self.db.cf_handle(&family_name(partition)) {
                (self.db).compact_range_cf(&family, everything, everything);
            }
        }
    }

    /// A number that RocksDB keeps of the database as a whole, such as `rocksdb.block-cache-usage`.
    pub fn database_property(&self, name: &str) -> Option<u64> {
        self.db.property_int_value(name).ok().flatten()
    }

    /// Memory of the rows that RocksDB has not been given, of all partitions.
    pub fn overlay_bytes(&self) -> usize {
        self.overlays_bytes.load(Ordering::Relaxed)
    }

    /// The column family of that name, made if it does not exist.
    pub(crate) fn family(&self, name: &str) -> Result<Arc<BoundColumnFamily<'_>>, rocksdb::Error> {
        loop {
            if let Some(family) = self.db.cf_handle(name) {
                return Ok(family);
            }
            self.db.create_cf(name, &self.family_options)?;
        }
    }

    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(crate) fn overlays_bytes_max(&self) -> usize {
        self.budget.overlay_bytes
    }

    pub(crate) fn overlays_bytes(&self) -> &AtomicUsize {
        &self.overlays_bytes
    }
}

/// The right to be a partition's only user; given back when dropped.
pub(crate) struct Place {
    pub stores: Arc<PartitionStores>,
    pub partition: PartitionId,
}

impl Place {
    fn take(stores: &Arc<PartitionStores>, partition: PartitionId) -> Result<Self, OpenError> {
        if !stores.open.lock().insert(partition) {
            return Err(OpenError::InUse { partition });
        }
        Ok(Self {
            stores: Arc::clone(stores),
            partition,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stores.open.lock().remove(&self.partition);
    }
}

/// The column family's name; durable.
pub(crate) fn family_name(partition: PartitionId) -> String {
    format!("partition-{}", partition.0)
}

fn parse_family(name: &str) -> Option<PartitionId> {
    name.strip_prefix("partition-")?
        .parse()
        .ok()
        .map(PartitionId)
}

pub(crate) fn open_error(dir: &Path, source: rocksdb::Error) -> OpenError {
    let dir = dir.to_owned();
    match is_damage(&source) {
        true => OpenError::Corrupt { dir, source },
        false => OpenError::Failed { dir, source },
    }
}
