//! Timers that are near: the first rows of the timer table, in memory.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use abide_state_machine::keys::{self, Table};
use abide_state_machine::{Store, StoreError};
use abide_types::Timestamp;
use bytes::Bytes;

/// Timers that are kept in memory; those behind them stay in the store until their turn is near.
const IN_MEMORY_MAX: usize = 10_000;

/// The near timers of a partition. Keys sort by due time.
#[derive(Default)]
pub(crate) struct Timers {
    near: BTreeSet<Bytes>,
    /// Rows at or behind this key are in the store only.
    horizon: Option<Bytes>,
}

impl Timers {
    /// Reads the first timers from the store.
    pub(crate) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut timers = Self::default();
        timers.refill(store)?;
        Ok(timers)
    }

    fn refill(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let from = keys::table_start(Table::Timer);
        self.near.clear();
        self.horizon = None;
        store.scan(&from, &keys::table_end(Table::Timer), &mut |key, _| {
            let key = Bytes::copy_from_slice(key);
            if self.near.len() >= IN_MEMORY_MAX {
                self.horizon = Some(key);
                return ControlFlow::Break(());
            }
            self.near.insert(key);
            ControlFlow::Continue(())
        })
    }

    pub(crate) fn arm(&mut self, key: Bytes) {
        if self.horizon.as_ref().is_some_and(|horizon| key >= *horizon) {
            return;
        }
        self.near.insert(key);
        if self.near.len() > 2 * IN_MEMORY_MAX {
            self.horizon = self.near.pop_last();
        }
    }

    pub(crate) fn disarm(&mut self, key: &Bytes) {
        self.near.remove(key);
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        keys::parse_timer(self.near.first()?).map(|timer| timer.due)
    }

    /// Takes a timer that is due at `now`. Its row stays until its firing is applied.
    pub(crate) fn pop_due(
        &mut self,
        now: Timestamp,
        store: &dyn Store,
    ) -> Result<Option<Bytes>, StoreError> {
        if self.near.is_empty() && self.horizon.is_some() {
            self.refill(store)?;
        }
        if self.next_due().is_some_and(|due| due <= now) {
            return Ok(self.near.pop_first());
        }
        Ok(None)
    }
}
