//! The store of one partition, as its processor uses it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abide_state_machine::{Store, StoreError};
use abide_types::{Epoch, Lsn, PartitionId};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rocksdb::{BoundColumnFamily, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

use crate::error::{OpenError, is_no_space};
use crate::layout::{APPLIED_KEY, FORMAT, OWN_TABLE, ROWS_START, decode_applied, encode_applied};
use crate::merge;
use crate::overlay::{Overlay, Tables};
use crate::reader::PartitionReader;
use crate::stores::{PartitionStores, Place, family_name, open_error};
use crate::verify::Verifier;

/// How often [`PartitionStore::maintain`] looks at clocks and files.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// When overlays take more than their share, those below this size are left alone: spilling them would free
/// little.
const SPILL_BYTES_MIN: usize = 256 << 10;

/// The rows of one partition. Its processor owns it and is the only writer.
///
/// Reads see every write before them. A write is durable once the LSN of its record is at or below
/// [`PartitionStore::durable_applied`].
pub struct PartitionStore {
    pub(crate) shared: Arc<Shared>,
    /// Writes what was frozen; joined before anything else is frozen, and before the place is given up.
    pub(crate) writer: Option<JoinHandle<Result<(), rocksdb::Error>>>,
    /// What this partition has in the sum over all overlays.
    counted_bytes: usize,
    pub(crate) durable: Lsn,
    pub(crate) next_look: Instant,
    pub(crate) next_flush: Instant,
    pub(crate) verifier: Verifier,
    place: Place,
}

/// What the owner, its writer thread and its readers have in common.
pub(crate) struct Shared {
    pub stores: Arc<PartitionStores>,
    family: String,
    pub current: Mutex<Current>,
    /// Notified when `current` becomes settled.
    pub settled: Condvar,
    /// Bytes handed to RocksDB since the last flush began.
    pub unflushed_bytes: AtomicUsize,
}

/// The newest state: `active` over `frozen` over RocksDB.
pub(crate) struct Current {
    pub active: Arc<Overlay>,
    /// On its way into RocksDB. It shadows what it writes until all of it is there.
    pub frozen: Option<Frozen>,
    pub applied: Lsn,
    /// Up to where RocksDB has it.
    pub spilled: Lsn,
    /// See [`PartitionStore::history`].
    pub history: Epoch,
    /// False while a record is being applied.
    pub settled: bool,
    /// The state of another replica is on its way in: what is here is none.
    pub loading: bool,
    /// Tables that may have rows in `frozen` or RocksDB. Scans of the others need not ask: most queues and
    /// timers live and die in the overlay.
    pub tables: Tables,
}

#[derive(Clone)]
pub(crate) struct Frozen {
    pub overlay: Arc<Overlay>,
    applied: Lsn,
    history: Epoch,
}

impl PartitionStore {
    pub(crate) fn open(place: Place) -> Result<Self, OpenError> {
        let stores = Arc::clone(&place.stores);
        let partition = place.partition;
        let failed = |source| open_error(stores.dir(), source);
        let family = family_name(partition);
        // A new partition gets its family with the first spill, beside the start of the node: making one
        // syncs several files.
        let ((applied, history), tables) = match read_applied(&stores, &family).map_err(failed)? {
            None => ((Lsn::ZERO, Epoch(0)), Tables::default()),
            Some(value) => {
                let applied = decode_applied(&value).map_err(|format| OpenError::Format {
                    dir: stores.dir().to_owned(),
                    partition,
                    format,
                    known: FORMAT,
                })?;
                (applied, tables_of(&stores, &family).map_err(failed)?)
            }
        };
        let interval = stores.options().flush_interval;
        // Spread over the interval, or all partitions of a node would flush in the same moment.
        let phase = f64::from(partition.0 % 64) / 64.0;
        let now = Instant::now();
        let shared = Arc::new(Shared {
            stores,
            family,
            current: Mutex::new(Current {
                active: Arc::default(),
                frozen: None,
                applied,
                spilled: applied,
                history,
                settled: true,
                loading: false,
                tables,
            }),
            settled: Condvar::new(),
            unflushed_bytes: AtomicUsize::new(0),
        });
        let mut store = Self {
            verifier: Verifier::new(&shared),
            shared,
            writer: None,
            counted_bytes: 0,
            durable: Lsn::ZERO,
            next_look: now,
            next_flush: now + interval.mul_f64(0.5 + phase / 2.0),
            place,
        };
        // A store that was dropped and opened within one process may have rows that no file has yet.
        store.durable = store
            .shared
            .read_durable()
            .map_err(|source| open_error(store.shared.stores.dir(), source))?;
        Ok(store)
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.place.partition
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// RocksDB cannot read it; see [`crate::is_corruption`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        {
            let current = self.shared.current.lock();
            if let Some(row) = current.active.get(key) {
                return Ok(row.value.clone());
            }
            let frozen = current.frozen.as_ref();
            if let Some(row) = frozen.and_then(|frozen| frozen.overlay.get(key)) {
                return Ok(row.value.clone());
            }
            if !current.tables.contains(Tables::of(key)) {
                return Ok(None);
            }
        }
        let Some(family) = self.shared.family() else {
            return Ok(None);
        };
        let value = self.shared.stores.db().get_pinned_cf(&family, key);
        let value = value.map_err(|source| self.shared.error("reading a row", source))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Sets `key` to `value`. Both may be slices of larger buffers, which then live until the next spill.
    ///
    /// # Panics
    /// If the key begins with 0 or is empty: that table is the store's own.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let key = key.into();
        assert!(
            Tables::of(&key) != OWN_TABLE,
            "the table 0 is the store's own"
        );
        let mut current = self.shared.current.lock();
        current.settled = false;
        Arc::make_mut(&mut current.active).put(key, value.into());
    }

    /// Removes `key`; nothing happens if it is absent.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        let mut current = self.shared.current.lock();
        current.settled = false;
        let below = current.tables.contains(Tables::of(&key));
        Arc::make_mut(&mut current.active).delete(key, below);
    }

    /// Shows `visit` the rows in `[from, to)` in order until it breaks off.
    ///
    /// # Errors
    /// RocksDB cannot read them; those before were shown.
    pub fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let from = from.max(ROWS_START);
        if to <= from {
            return Ok(());
        }
        // Not under the lock: `visit` may read.
        let (active, frozen, tables) = {
            let current = self.shared.current.lock();
            let frozen = current.frozen.clone();
            (Arc::clone(&current.active), frozen, current.tables)
        };
        let mut overlays = vec![&*active];
        overlays.extend(frozen.as_ref().map(|frozen| &*frozen.overlay));
        let (first, last) = (Tables::of(from), Tables::of(to));
        let family = if (first..=last).any(|table| tables.contains(table)) {
            self.shared.family()
        } else {
            None
        };
        let db = self.shared.stores.db();
        let base = family.map(|family| db.raw_iterator_cf_opt(&family, bounds(from, to)));
        merge::scan(&overlays, base, from, to, visit)
            .map_err(|source| self.shared.error("scanning rows", source))
    }

    /// Says that all changes of the records up to `lsn` are made. Readers see nothing in between.
    ///
    /// # Panics
    /// If that was said of a later one already: records are applied in order.
    pub fn set_applied(&mut self, lsn: Lsn) {
        let mut current = self.shared.current.lock();
        assert!(current.applied <= lsn, "records are applied in order");
        current.applied = lsn;
        current.settled = true;
        drop(current);
        self.shared.settled.notify_all();
    }

    /// The last record that is applied; [`Lsn::ZERO`] before the first.
    pub fn applied(&self) -> Lsn {
        self.shared.current.lock().applied
    }

    /// The last record whose effects survive a crash, as of the last [`PartitionStore::maintain`] or
    /// [`PartitionStore::flush`].
    pub fn durable_applied(&self) -> Lsn {
        self.durable
    }

    /// The epoch of the last recovery of the log that what is applied here goes by: records that it gave up are not
    /// among them. Epoch 0 for none.
    pub fn history(&self) -> Epoch {
        self.shared.current.lock().history
    }

    /// Says which recovery of the log the records go by that are applied from now on. It becomes durable with them.
    pub fn set_history(&mut self, history: Epoch) {
        self.shared.current.lock().history = history;
    }

    /// Memory of what RocksDB does not have yet.
    pub fn overlay_bytes(&self) -> usize {
        let current = self.shared.current.lock();
        let frozen = current.frozen.as_ref();
        current.active.bytes() + frozen.map_or(0, |frozen| frozen.overlay.bytes())
    }

    /// A handle for reading from elsewhere.
    pub fn reader(&self) -> PartitionReader {
        PartitionReader::new(Arc::clone(&self.shared))
    }

    /// Keeps overlay, memtables and files within their limits. Call it between records, as often as you like:
    /// mostly it compares two numbers. Spills run on a thread of their own, and this waits for one only if
    /// the next is overdue; flushes run in RocksDB's.
    ///
    /// # Errors
    /// A write to RocksDB failed, here or since the last call; the partition cannot go on.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        let options = self.shared.stores.options().clone();
        let active_bytes = self.shared.current.lock().active.bytes();
        let all_bytes = self.count_overlay(active_bytes);
        let pressed = all_bytes > self.shared.stores.overlays_bytes_max();
        if options.spill_after_bytes <= active_bytes || pressed && SPILL_BYTES_MIN <= active_bytes {
            let overdue = options.spill_after_bytes.saturating_mul(2) <= active_bytes || pressed;
            if self.join_writer(overdue)? {
                self.freeze()?;
                self.start_writer();
            }
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_INTERVAL;
        self.look_for_damage(now)?;
        self.look(now, options.flush_after_bytes, options.flush_interval)
    }

    /// Writes all changes and the applied LSN into RocksDB in one batch, and waits for it. A crash falls back
    /// to the last flush all the same.
    ///
    /// # Errors
    /// The write failed; the changes are still in memory.
    pub fn spill(&mut self) -> Result<(), StoreError> {
        self.join_writer(true)?;
        loop {
            // One that failed before is tried again first: its changes come first.
            self.shared
                .write_frozen()
                .map_err(|source| self.shared.error("writing rows", source))?;
            if !self.freeze()? {
                break;
            }
        }
        self.count_overlay(0);
        Ok(())
    }

    /// Spills, and waits until all of it is in files: from then on it survives a crash.
    ///
    /// # Errors
    /// The write failed; a crash falls back to [`PartitionStore::durable_applied`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.spill()?;
        let applied = self.applied();
        if self.durable < applied {
            self.shared.flush(true)?;
            self.durable = applied;
        }
        self.next_flush = Instant::now() + self.shared.stores.options().flush_interval;
        Ok(())
    }

    /// The part of maintenance that clocks and files decide.
    fn look(
        &mut self,
        now: Instant,
        bytes_max: usize,
        interval: Duration,
    ) -> Result<(), StoreError> {
        let written = self.join_writer(false)?;
        let (applied, spilled) = {
            let current = self.shared.current.lock();
            (current.applied, current.spilled)
        };
        if self.durable < spilled {
            // Also after a flush that RocksDB began by itself.
            let durable = self.shared.read_durable();
            let durable = durable.map_err(|source| self.shared.error("reading a row", source))?;
            self.durable = self.durable.max(durable);
        }
        let due = self.next_flush <= now && self.durable < applied;
        if due && written {
            self.freeze()?;
            self.shared
                .unflushed_bytes
                .store(bytes_max, Ordering::Relaxed);
            self.start_writer();
        }
        if self.next_flush <= now && (written || applied <= self.durable) {
            self.next_flush = now + interval;
        }
        Ok(())
    }

    /// Updates the sum over all partitions; tells it.
    pub(crate) fn count_overlay(&mut self, bytes: usize) -> usize {
        let sum = self.shared.stores.overlays_bytes();
        let before = if self.counted_bytes <= bytes {
            let more = bytes - self.counted_bytes;
            sum.fetch_add(more, Ordering::Relaxed) + more
        } else {
            let less = self.counted_bytes - bytes;
            sum.fetch_sub(less, Ordering::Relaxed) - less
        };
        self.counted_bytes = bytes;
        before
    }

    /// Ends the writer thread if it is done, or waits for it. True if none runs any more.
    pub(crate) fn join_writer(&mut self, wait: bool) -> Result<bool, StoreError> {
        let Some(writer) = self.writer.take() else {
            return Ok(true);
        };
        if !wait && !writer.is_finished() {
            self.writer = Some(writer);
            return Ok(false);
        }
        match writer.join() {
            // What was frozen stays, readable, and is tried again; RocksDB gets over it by itself.
            Ok(Err(source)) if is_no_space(&source) => {
                tracing::error!(partition = %self.partition(), error = %source,
                    "the disk is full: changes stay in memory until there is room");
            }
            Ok(written) => written.map_err(|source| self.shared.error("writing rows", source))?,
            Err(_) => return Err(self.shared.bare_error("writing rows: the thread panicked")),
        }
        Ok(true)
    }

    /// Sets aside what has changed, to be written. False if nothing has, or if something is set aside still.
    ///
    /// # Errors
    /// Applying a record failed half-way: what it did must not be kept, and is lost with the overlay.
    pub(crate) fn freeze(&mut self) -> Result<bool, StoreError> {
        let mut current = self.shared.current.lock();
        if current.frozen.is_some() || current.spilled == current.applied {
            return Ok(false);
        }
        if !current.settled {
            drop(current);
            return Err(self.shared.bare_error("spilling in the middle of a record"));
        }
        let overlay = std::mem::take(&mut current.active);
        current.tables.extend(overlay.tables());
        current.frozen = Some(Frozen {
            overlay,
            applied: current.applied,
            history: current.history,
        });
        Ok(true)
    }

    fn start_writer(&mut self) {
        let shared = Arc::clone(&self.shared);
        let flush_after = shared.stores.options().flush_after_bytes;
        let write = move || {
            shared.write_frozen()?;
            if flush_after <= shared.unflushed_bytes.load(Ordering::Relaxed) {
                shared.begin_flush(false)?;
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("spill".to_owned());
        match thread.spawn(write) {
            Ok(writer) => self.writer = Some(writer),
            // Frozen rows stay readable; the next spill takes them along.
            Err(error) => tracing::warn!(%error, "no thread to spill on"),
        }
    }
}

impl Drop for PartitionStore {
    fn drop(&mut self) {
        self.verifier.stop();
        // The place is free only when nothing is written there any more.
        if let Err(error) = self.join_writer(true) {
            tracing::error!(partition = %self.partition(), %error, "changes were not spilled");
        }
        self.count_overlay(0);
    }
}

impl Store for PartitionStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Self::get(self, key)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        Self::put(self, key, value);
    }

    fn delete(&mut self, key: Bytes) {
        Self::delete(self, key);
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Self::scan(self, from, to, visit)
    }
}

impl Shared {
    /// The column family's name.
    pub fn family_name(&self) -> &str {
        &self.family
    }

    /// Where the rows are in RocksDB; `None` before the first spill, and after the partition was dropped.
    pub fn family(&self) -> Option<Arc<BoundColumnFamily<'_>>> {
        self.stores.db().cf_handle(&self.family)
    }

    pub fn error(&self, what: &'static str, source: rocksdb::Error) -> StoreError {
        StoreError {
            source: Some(Box::new(source)),
            ..self.bare_error(what)
        }
    }

    pub fn bare_error(&self, what: &'static str) -> StoreError {
        StoreError {
            what,
            place: format!("{} of {}", self.family, self.stores.dir().display()),
            source: None,
        }
    }

    /// Writes what is frozen, with its LSN, in one batch; then it is no longer needed in memory.
    pub fn write_frozen(&self) -> Result<(), rocksdb::Error> {
        let Some(frozen) = self.current.lock().frozen.clone() else {
            return Ok(());
        };
        let db = self.stores.db();
        let family = self.stores.family(&self.family)?;
        let mut batch = WriteBatch::with_capacity_bytes(frozen.overlay.bytes());
        let applied = encode_applied(frozen.applied, frozen.history);
        batch.put_cf(&family, APPLIED_KEY, applied);
        for (key, row) in frozen.overlay.iter() {
            match &row.value {
                Some(value) => batch.put_cf(&family, key, value),
                // Came and went since the last spill: with nothing below, there is nothing to hide, and no
                // scan will ever walk over it. Filters answer this, not the disk.
                None if row.maybe_new && !db.key_may_exist_cf(&family, key) => {}
                None => batch.delete_cf(&family, key),
            }
        }
        self.unflushed_bytes
            .fetch_add(batch.size_in_bytes(), Ordering::Relaxed);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        // The rows are sorted: each finds its place in the memtable next to the one before.
        options.set_memtable_insert_hint_per_batch(true);
        db.write_opt(batch, &options)?;
        let mut current = self.current.lock();
        current.frozen = None;
        current.spilled = frozen.applied;
        Ok(())
    }

    fn flush(&self, wait: bool) -> Result<(), StoreError> {
        self.begin_flush(wait)
            .map_err(|source| self.error("flushing rows", source))
    }

    pub fn begin_flush(&self, wait: bool) -> Result<(), rocksdb::Error> {
        let Some(family) = self.family() else {
            return Ok(());
        };
        self.unflushed_bytes.store(0, Ordering::Relaxed);
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.stores.db().flush_cf_opt(&family, &options)
    }

    /// The applied LSN that files hold. Memtables are flushed in order and whole, so that everything up to it
    /// is in files too.
    fn read_durable(&self) -> Result<Lsn, rocksdb::Error> {
        let Some(family) = self.family() else {
            return Ok(Lsn::ZERO);
        };
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self
            .stores
            .db()
            .get_cf_opt(&family, APPLIED_KEY, &options)?;
        // Its format was checked when the store was opened.
        let durable = value.and_then(|value| decode_applied(&value).ok());
        Ok(durable.map(|(applied, _)| applied).unwrap_or_default())
    }
}

/// Read options for `[from, to)`.
pub(crate) fn bounds(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

/// What stands beside the rows, if there are any. Rows without it are no state, since every write but those of a load
/// comes with it: a load broke off, and what it left is dropped.
fn read_applied(stores: &PartitionStores, family: &str) -> Result<Option<Vec<u8>>, rocksdb::Error> {
    let Some(handle) = stores.db().cf_handle(family) else {
        return Ok(None);
    };
    let value = stores.db().get_cf(&handle, APPLIED_KEY)?;
    if value.is_none() {
        drop(handle);
        tracing::warn!(
            family,
            "nothing says up to where these rows go; they are dropped"
        );
        stores.db().drop_cf(family)?;
    }
    Ok(value)
}

/// The tables that have rows: one seek each.
fn tables_of(stores: &PartitionStores, family: &str) -> Result<Tables, rocksdb::Error> {
    let mut tables = Tables::default();
    let Some(family) = stores.db().cf_handle(family) else {
        return Ok(tables);
    };
    let mut rows = stores.db().raw_iterator_cf(&family);
    rows.seek_to_first();
    while let Some(key) = rows.key() {
        let table = Tables::of(key);
        tables.insert(table);
        let Some(next) = table.checked_add(1) else {
            break;
        };
        rows.seek([next]);
    }
    rows.status()?;
    Ok(tables)
}
