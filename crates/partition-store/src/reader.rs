//! Reading a partition from outside its processor, for listings and queries.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abide_state_machine::StoreError;
use abide_types::{Epoch, Lsn};
use bytes::Bytes;
use parking_lot::MutexGuard;
use rocksdb::{BoundColumnFamily, ReadOptions, SnapshotWithThreadMode};

use crate::engine::Db;
use crate::layout::ROWS_START;
use crate::merge;
use crate::overlay::Overlay;
use crate::partition::{Current, Shared, bounds};

/// How long a view waits for the record that is being applied.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads a partition from any thread, also while its processor writes and after it has gone. While one lives,
/// so does the database: it cannot be opened anew.
#[derive(Clone)]
pub struct PartitionReader {
    shared: Arc<Shared>,
}

impl PartitionReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The state after the last applied record, which stays as it is while the view lives.
    ///
    /// Taking one is cheap for the reader. The processor pays: its first write afterwards copies the overlay,
    /// some milliseconds at worst. A view also keeps RocksDB from forgetting what is overwritten, so do not
    /// keep it for long. Blocks while a record is applied, microseconds as a rule: not for an async task.
    ///
    /// # Errors
    /// A record is being applied all the time; it failed half-way, perhaps. Or the partition is being rebuilt.
    pub fn view(&self) -> Result<View<'_>, StoreError> {
        let current = self.settled()?;
        let mut overlays = vec![Arc::clone(&current.active)];
        overlays.extend(current.frozen.as_ref().map(|f| Arc::clone(&f.overlay)));
        Ok(View {
            shared: &self.shared,
            overlays,
            applied: current.applied,
            history: current.history,
            // A family that is made later has nothing that the overlays do not show; one that is dropped later keeps
            // its rows for as long as this lives.
            family: self.shared.family(),
            // Under the lock: nothing is frozen or forgotten between overlays and snapshot.
            snapshot: self.shared.stores.db().snapshot(),
        })
    }

    /// The rows in `[from, to)` after the last applied record, or those of its beginning: up to `changed_max` rows
    /// that RocksDB does not have yet are copied, and behind those the view ends. Other rows cannot be read from it.
    ///
    /// The processor waits while that many rows are copied, and pays nothing afterwards: this is for many short looks.
    /// Blocks like [`PartitionReader::view`].
    ///
    /// # Errors
    /// As [`PartitionReader::view`].
    pub fn stretch(
        &self,
        from: &[u8],
        to: &[u8],
        changed_max: usize,
    ) -> Result<Stretch<'_>, StoreError> {
        let current = self.settled()?;
        let (active, mut end) = current.active.stretch(from, to, changed_max);
        let mut overlays = vec![Arc::new(active)];
        if let Some(frozen) = &current.frozen {
            let to = end.as_deref().unwrap_or(to);
            let (frozen, nearer) = frozen.overlay.stretch(from, to, changed_max);
            overlays.push(Arc::new(frozen));
            end = nearer.or(end);
        }
        let view = View {
            shared: &self.shared,
            overlays,
            applied: current.applied,
            history: current.history,
            family: self.shared.family(),
            // Under the lock, as above.
            snapshot: self.shared.stores.db().snapshot(),
        };
        Ok(Stretch {
            view,
            from: Bytes::copy_from_slice(from),
            to: end.clone().unwrap_or_else(|| Bytes::copy_from_slice(to)),
            end,
        })
    }

    /// The newest state, between two records.
    fn settled(&self) -> Result<MutexGuard<'_, Current>, StoreError> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut current = self.shared.current.lock();
        while !current.settled {
            let waited = self.shared.settled.wait_until(&mut current, deadline);
            if waited.timed_out() && !current.settled {
                return Err(self.shared.bare_error("waiting for a record to be applied"));
            }
        }
        if current.loading {
            return Err(self
                .shared
                .bare_error("viewing a state that is being rebuilt"));
        }
        Ok(current)
    }
}

/// Some rows of a partition as they were after one record.
pub struct Stretch<'a> {
    view: View<'a>,
    from: Bytes,
    to: Bytes,
    end: Option<Bytes>,
}

impl Stretch<'_> {
    /// Where to go on if it does not hold all that was asked for.
    pub fn end(&self) -> Option<&Bytes> {
        self.end.as_ref()
    }

    /// Shows `visit` the rows in order until it breaks off.
    ///
    /// # Errors
    /// RocksDB cannot read them; those before were shown.
    pub fn scan(
        &self,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.view.scan(&self.from, &self.to, visit)
    }
}

/// A partition as it was after one record.
pub struct View<'a> {
    shared: &'a Shared,
    /// Newest first.
    overlays: Vec<Arc<Overlay>>,
    applied: Lsn,
    history: Epoch,
    family: Option<Arc<BoundColumnFamily<'a>>>,
    snapshot: SnapshotWithThreadMode<'a, Db>,
}

impl View<'_> {
    /// The record after which the partition looked like this.
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// The recovery of the log that its records go by; see [`crate::PartitionStore::history`].
    pub fn history(&self) -> Epoch {
        self.history
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// RocksDB cannot read it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(row) = self.overlays.iter().find_map(|overlay| overlay.get(key)) {
            return Ok(row.value.clone());
        }
        let Some(family) = &self.family else {
            return Ok(None);
        };
        let value = self
            .snapshot
            .get_pinned_cf_opt(family, key, ReadOptions::default())
            .map_err(|source| self.shared.error("reading a row", source))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
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
        let base = self.family.as_ref().map(|family| {
            let mut options = bounds(from, to);
            // What a listing reads is not what the processor needs next.
            options.fill_cache(false);
            self.snapshot.raw_iterator_cf_opt(family, options)
        });
        let overlays: Vec<_> = self.overlays.iter().map(|overlay| &**overlay).collect();
        merge::scan(&overlays, base, from, to, visit)
            .map_err(|source| self.shared.error("scanning rows", source))
    }
}
