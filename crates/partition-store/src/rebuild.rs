//! Filling a store with the state of another replica.
//!
//! [`PartitionStore::clear`] forgets everything, [`PartitionStore::load`] takes rows straight to RocksDB, and
//! [`PartitionStore::finish_load`] says up to which record they go. Until then no row of the store's own says that
//! anything is applied, and a store that is opened with rows and without that one is emptied: what a crash leaves of
//! a transfer never passes for a state. Files are flushed in the order of the writes, so that the row that says it is
//! complete reaches them last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use abide_state_machine::StoreError;
use abide_types::{Epoch, Lsn};
use rocksdb::{WriteBatch, WriteOptions};

use crate::error::OpenError;
use crate::layout::{APPLIED_KEY, OWN_TABLE, encode_applied};
use crate::overlay::{Overlay, Tables};
use crate::partition::PartitionStore;
use crate::verify::Verifier;

impl PartitionStore {
    /// Forgets every row and that any record was applied. Readers get errors from now on until
    /// [`PartitionStore::finish_load`] or, if the store stays empty, [`PartitionStore::begin_empty`]; views that were
    /// taken before keep what they show.
    ///
    /// # Errors
    /// RocksDB does not drop the family; the store is of no use then.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        // What it wrote, or failed to write, goes as well.
        let _ = self.join_writer(true);
        self.verifier.stop();
        self.verifier = Verifier::new(&self.shared);
        {
            let mut current = self.shared.current.lock();
            current.loading = true;
            current.active = Arc::<Overlay>::default();
            current.frozen = None;
            current.applied = Lsn::ZERO;
            current.spilled = Lsn::ZERO;
            current.history = Epoch(0);
            current.settled = true;
            current.tables = Tables::default();
        }
        self.shared.unflushed_bytes.store(0, Ordering::Relaxed);
        self.durable = Lsn::ZERO;
        self.count_overlay(0);
        if self.shared.family().is_none() {
            return Ok(());
        }
        let dropped = self.shared.stores.db().drop_cf(self.shared.family_name());
        dropped.map_err(|source| self.shared.error("dropping all rows", source))
    }

    /// Takes rows of a state that is being transferred.
    ///
    /// # Errors
    /// RocksDB does not take them.
    ///
    /// # Panics
    /// If the store was not cleared before, or if a key begins with 0: that table is the store's own.
    pub fn load<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (&'r [u8], &'r [u8])>,
    ) -> Result<(), StoreError> {
        let mut tables = {
            let current = self.shared.current.lock();
            assert!(current.loading, "only a store that was cleared is loaded");
            current.tables
        };
        let shared = &self.shared;
        let family = (shared.stores.family(shared.family_name()))
            .map_err(|source| shared.error("making a column family", source))?;
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            let table = Tables::of(key);
            assert!(table != OWN_TABLE, "the table 0 is the store's own");
            tables.insert(table);
            batch.put_cf(&family, key, value);
        }
        (shared.stores.db())
            .write_opt(batch, &without_wal())
            .map_err(|source| shared.error("loading rows", source))?;
        shared.current.lock().tables = tables;
        Ok(())
    }

    /// Says that all rows were loaded, and that they are the state after the record `applied`. It is durable when
    /// [`PartitionStore::durable_applied`] says so.
    ///
    /// # Errors
    /// RocksDB does not take it.
    ///
    /// # Panics
    /// If the store was not cleared before.
    pub fn finish_load(&mut self, applied: Lsn) -> Result<(), StoreError> {
        let shared = &self.shared;
        let family = (shared.stores.family(shared.family_name()))
            .map_err(|source| shared.error("making a column family", source))?;
        let mut batch = WriteBatch::default();
        let history = shared.current.lock().history;
        batch.put_cf(&family, APPLIED_KEY, encode_applied(applied, history));
        (shared.stores.db())
            .write_opt(batch, &without_wal())
            .map_err(|source| shared.error("finishing a load", source))?;
        let mut current = shared.current.lock();
        assert!(current.loading, "only a store that was cleared is loaded");
        current.applied = applied;
        current.spilled = applied;
        current.loading = false;
        drop(current);
        // The next maintenance flushes: a crash before would have all of it transferred again.
        shared
            .unflushed_bytes
            .store(shared.stores.options().flush_after_bytes, Ordering::Relaxed);
        self.next_look = Instant::now();
        self.next_flush = Instant::now();
        Ok(())
    }

    /// Gives the files of all partitions of this node up: the next start begins anew. For damage that a store of its
    /// own does not get away from, such as one that has stopped all writes.
    ///
    /// # Errors
    /// What the system says.
    pub fn condemn_all(&self, reason: &str) -> Result<(), OpenError> {
        self.shared.stores.condemn(reason)
    }

    /// Goes on with a store that was cleared and stays empty: the log is replayed from its beginning.
    ///
    /// # Errors
    /// Rows of a transfer that broke off do not go.
    pub fn begin_empty(&mut self) -> Result<(), StoreError> {
        self.clear()?;
        self.shared.current.lock().loading = false;
        Ok(())
    }
}

fn without_wal() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}
