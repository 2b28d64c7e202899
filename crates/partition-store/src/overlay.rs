//! What has changed since the last spill.

use std::collections::BTreeMap;
use std::collections::btree_map::{self, Entry};
use std::ops::Bound;

use bytes::Bytes;

/// Memory that a row takes besides its key and value, about: two handles, their buffers' heads, a tree slot.
const ROW_OVERHEAD_BYTES: usize = 160;

/// Changed rows in the order of their keys.
///
/// Values are kept as they come, often slices of a record: what stays here keeps that record in memory, which
/// is bounded by the records of one spill.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    rows: BTreeMap<Bytes, Row>,
    bytes: usize,
    tables: Tables,
}

/// Tables, told apart by the first byte of their keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tables([u64; 4]);

impl Tables {
    /// The table of a key; the key of no byte shares one with those that begin with 0.
    pub fn of(key: &[u8]) -> u8 {
        key.first().copied().unwrap_or_default()
    }

    pub fn insert(&mut self, table: u8) {
        self.0[usize::from(table / 64)] |= 1 << (table % 64);
    }

    pub fn contains(&self, table: u8) -> bool {
        self.0[usize::from(table / 64)] & 1 << (table % 64) != 0
    }

    pub fn extend(&mut self, other: &Self) {
        for (bits, more) in self.0.iter_mut().zip(other.0) {
            *bits |= more;
        }
    }
}

/// The newest version of a row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// `None` is deleted.
    pub value: Option<Bytes>,
    /// The first change here was a put, so that the row may be new: if it is deleted in the end, there may be
    /// nothing below to delete.
    pub maybe_new: bool,
}

impl Overlay {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tables of which any row was put here.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn get(&self, key: &[u8]) -> Option<&Row> {
        self.rows.get(key)
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        let added = value.len();
        self.tables.insert(Tables::of(&key));
        match self.rows.entry(key) {
            Entry::Occupied(mut row) => {
                let before = row.get_mut().value.replace(value);
                self.bytes -= before.map_or(0, |value| value.len());
                self.bytes += added;
            }
            Entry::Vacant(place) => {
                self.bytes += place.key().len() + added + ROW_OVERHEAD_BYTES;
                place.insert(Row {
                    value: Some(value),
                    maybe_new: true,
                });
            }
        }
    }

    /// Deletes a row. With `below` false there is certainly none to hide, and nothing is remembered.
    pub fn delete(&mut self, key: Bytes, below: bool) {
        match self.rows.entry(key) {
            Entry::Occupied(row) if !below => {
                let (key, row) = row.remove_entry();
                self.bytes -= ROW_OVERHEAD_BYTES + key.len();
                self.bytes -= row.value.map_or(0, |value| value.len());
            }
            Entry::Occupied(mut row) => {
                let before = row.get_mut().value.take();
                self.bytes -= before.map_or(0, |value| value.len());
            }
            Entry::Vacant(_) if !below => {}
            Entry::Vacant(place) => {
                self.bytes += place.key().len() + ROW_OVERHEAD_BYTES;
                place.insert(Row {
                    value: None,
                    maybe_new: false,
                });
            }
        }
    }

    /// Rows with keys in `[from, to)`; none if that is empty.
    pub fn range(&self, from: &[u8], to: &[u8]) -> btree_map::Range<'_, Bytes, Row> {
        let to = to.max(from);
        self.rows
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }

    /// A copy of the first `rows_max` rows in `[from, to)`, and the first key that is not in it, if there is one.
    pub fn stretch(&self, from: &[u8], to: &[u8], rows_max: usize) -> (Self, Option<Bytes>) {
        let mut copy = Self::default();
        for (key, row) in self.range(from, to) {
            if copy.rows.len() >= rows_max {
                return (copy, Some(key.clone()));
            }
            copy.rows.insert(key.clone(), row.clone());
        }
        (copy, None)
    }

    pub fn iter(&self) -> btree_map::Iter<'_, Bytes, Row> {
        self.rows.iter()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn bytes_follow_what_is_held() {
        let mut overlay = Overlay::default();
        overlay.put(key("one"), key("first"));
        assert_eq!(overlay.bytes(), 8 + ROW_OVERHEAD_BYTES);
        overlay.put(key("one"), key("2"));
        assert_eq!(overlay.bytes(), 4 + ROW_OVERHEAD_BYTES);
        overlay.delete(key("one"), true);
        assert_eq!(overlay.bytes(), 3 + ROW_OVERHEAD_BYTES);
        overlay.delete(key("one"), true);
        overlay.delete(key("one"), false);
        assert_eq!(overlay.bytes(), 0);
        assert_eq!(overlay.iter().count(), 0);
    }

    #[test]
    fn a_deletion_hides_only_what_may_be_below() {
        let mut overlay = Overlay::default();
        overlay.delete(key("never was"), false);
        assert_eq!(overlay.iter().count(), 0);
        overlay.put(key("new"), key("value"));
        overlay.delete(key("new"), true);
        assert!(overlay.get(b"new").unwrap().maybe_new);
        overlay.delete(key("old"), true);
        assert!(!overlay.get(b"old").unwrap().maybe_new);
    }

    #[test]
    fn a_range_that_is_empty_or_inside_out_has_no_rows() {
        let mut overlay = Overlay::default();
        overlay.put(key("b"), key(""));
        assert_eq!(overlay.range(b"a", b"c").count(), 1);
        assert_eq!(overlay.range(b"b", b"b").count(), 0);
        assert_eq!(overlay.range(b"c", b"a").count(), 0);
    }
}
