//! Timers that are near: the first rows of the timer table, in memory.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use abide_state_machine::keys::{self, Table};
use abide_state_machine::{Store, StoreError};
use abide_types::Timestamp;
use bytes::Bytes;

/// The near timers of a partition. Keys sort by due time.
#[derive(Default)]
pub(crate) struct Timers {
    near: BTreeSet<Bytes>,
    /// Rows at or behind this key are in the store only. Those before it are near, or were taken and are about to
    /// be fired.
    horizon: Option<Bytes>,
    /// How many are kept near.
    in_memory_max: usize,
}

impl Timers {
    /// Reads the first timers from the store.
    pub(crate) fn load(store: &dyn Store, in_memory_max: usize) -> Result<Self, StoreError> {
        let mut timers = Self {
            in_memory_max,
            ..Self::default()
        };
        timers.read_from(keys::table_start(Table::Timer), store)?;
        Ok(timers)
    }

    fn read_from(&mut self, from: Bytes, store: &dyn Store) -> Result<(), StoreError> {
        self.horizon = None;
        store.scan(&from, &keys::table_end(Table::Timer), &mut |key, _| {
            let key = Bytes::copy_from_slice(key);
            if self.near.len() >= self.in_memory_max {
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
        if self.near.len() > 2 * self.in_memory_max {
            self.horizon = self.near.pop_last();
        }
    }

    /// How many are in memory.
    pub(crate) fn len(&self) -> usize {
        self.near.len()
    }

    pub(crate) fn disarm(&mut self, key: &Bytes) {
        self.near.remove(key);
    }

    /// When the next one is due. With none near, when to look for what lies behind the horizon.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        due(self.near.first().or(self.horizon.as_ref())?)
    }

    /// Takes a timer that is due at `now`. Its row stays until its firing is applied.
    pub(crate) fn pop_due(
        &mut self,
        now: Timestamp,
        store: &dyn Store,
    ) -> Result<Option<Bytes>, StoreError> {
        // From the horizon on, not from the start: rows of timers that were taken stay until their firing is
        // applied, and would be taken again.
        if self.near.is_empty()
            && let Some(horizon) = self.horizon.take()
        {
            self.read_from(horizon, store)?;
        }
        if self
            .near
            .first()
            .and_then(due)
            .is_some_and(|due| due <= now)
        {
            return Ok(self.near.pop_first());
        }
        Ok(None)
    }
}

fn due(key: &Bytes) -> Option<Timestamp> {
    keys::parse_timer(key).map(|timer| timer.due)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use abide_state_machine::keys::{TimerKey, TimerKind};
    use abide_types::InvocationId;

    use super::*;

    #[derive(Default)]
    struct Rows(BTreeMap<Bytes, Bytes>);

    impl Store for Rows {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn put(&mut self, key: Bytes, value: Bytes) {
            self.0.insert(key, value);
        }

        fn delete(&mut self, key: Bytes) {
            self.0.remove(&key);
        }

        fn scan(
            &self,
            from: &[u8],
            to: &[u8],
            visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            for (key, value) in &self.0 {
                if key.as_ref() >= from && key.as_ref() < to && visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    fn key(due: u64) -> Bytes {
        keys::timer(&TimerKey {
            due: Timestamp(due),
            kind: TimerKind::Sleep,
            invocation: InvocationId::from_bytes(&[7; InvocationId::LENGTH]).expect("an id"),
            completion_id: 1,
        })
    }

    /// A fired timer's row stays until its record is applied. Meanwhile the timers behind it come.
    #[test]
    fn a_timer_that_was_taken_is_not_taken_again() {
        let mut rows = Rows::default();
        for due in 1..=5 {
            rows.put(key(due), Bytes::new());
        }
        let mut timers = Timers::load(&rows, 1).unwrap();
        for due in 1..=5 {
            assert_eq!(timers.pop_due(Timestamp(9), &rows).unwrap(), Some(key(due)));
        }
        assert_eq!(timers.pop_due(Timestamp(9), &rows).unwrap(), None);
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn what_waits_in_the_store_is_looked_for_when_the_near_ones_are_gone() {
        let mut rows = Rows::default();
        let mut timers = Timers::load(&rows, 1).unwrap();
        for due in [5, 3, 4, 2] {
            rows.put(key(due), Bytes::new());
            timers.arm(key(due));
        }
        assert_eq!(timers.next_due(), Some(Timestamp(2)));
        rows.delete(key(2));
        timers.disarm(&key(2));
        rows.delete(key(3));
        timers.disarm(&key(3));
        let wake = timers.next_due().expect("more wait in the store");
        assert!(wake <= Timestamp(4));
        assert_eq!(timers.pop_due(Timestamp(9), &rows).unwrap(), Some(key(4)));
        assert_eq!(timers.pop_due(Timestamp(9), &rows).unwrap(), Some(key(5)));
    }
}
