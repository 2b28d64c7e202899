//! A store that is filled with another replica's state has all of it or nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;

use std::ops::ControlFlow;
use std::sync::Arc;

use abide_partition_store::{OpenError, PartitionStore, PartitionStores, StoreOptions};
use abide_types::{Lsn, PartitionId};

const P1: PartitionId = PartitionId(1);
const P2: PartitionId = PartitionId(2);

fn open(dir: &std::path::Path) -> Arc<PartitionStores> {
    PartitionStores::open(dir, StoreOptions::default()).unwrap()
}

fn put(store: &mut PartitionStore, lsn: u64, key: &'static str, value: &'static str) {
    store.put(key.as_bytes(), value.as_bytes());
    store.set_applied(Lsn(lsn));
}

fn load(store: &mut PartitionStore, rows: &[(&str, &str)]) {
    let rows = rows
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    store.load(rows).unwrap();
}

fn all(store: &PartitionStore) -> String {
    let mut rows = Vec::new();
    let mut note = |key: &[u8], value: &bytes::Bytes| {
        rows.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
        ControlFlow::Continue(())
    };
    store.scan(b"", b"~", &mut note).unwrap();
    rows.join(" ")
}

#[test]
fn what_was_loaded_replaces_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    put(&mut store, 1, "a", "old");
    store.flush().unwrap();
    put(&mut store, 2, "b", "old");
    store.clear().unwrap();
    assert_eq!(
        (store.applied(), store.durable_applied()),
        (Lsn::ZERO, Lsn::ZERO)
    );
    load(&mut store, &[("a", "new")]);
    load(&mut store, &[("c", "new")]);
    store.finish_load(Lsn(40)).unwrap();
    assert_eq!(all(&store), "a=new c=new");
    put(&mut store, 41, "c", "newer");
    store.flush().unwrap();
    let crashed = crash::copy(stores.dir());
    let again = open(crashed.path()).partition(P1).unwrap();
    assert_eq!(
        (again.applied(), all(&again)),
        (Lsn(41), "a=new c=newer".to_owned())
    );
}

#[test]
fn a_load_that_breaks_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(dir.path());
    let mut other = stores.partition(P2).unwrap();
    put(&mut other, 7, "other", "1");
    other.flush().unwrap();
    let mut store = stores.partition(P1).unwrap();
    put(&mut store, 5, "a", "old");
    store.flush().unwrap();
    store.clear().unwrap();
    load(&mut store, &[("a", "new"), ("b", "new")]);
    // Rows of a load that did not end come into files when RocksDB likes; dropping the stores does it too.
    drop((store, other, stores));
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    assert_eq!((store.applied(), all(&store)), (Lsn::ZERO, String::new()));
    put(&mut store, 1, "a", "replayed");
    store.flush().unwrap();
    assert_eq!(all(&store), "a=replayed");
    let other = stores.partition(P2).unwrap();
    assert_eq!(
        (other.applied(), all(&other)),
        (Lsn(7), "other=1".to_owned())
    );
}

#[test]
fn readers_see_the_old_state_or_none_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 1, "a", "old");
    store.flush().unwrap();
    let reader = store.reader();
    let before = reader.view().unwrap();
    store.clear().unwrap();
    assert!(reader.view().is_err());
    load(&mut store, &[("b", "new")]);
    assert!(reader.view().is_err());
    store.finish_load(Lsn(9)).unwrap();
    assert_eq!(before.applied(), Lsn(1));
    assert_eq!(before.get(b"a").unwrap().unwrap(), "old");
    assert_eq!(before.get(b"b").unwrap(), None);
    let after = reader.view().unwrap();
    assert_eq!(after.applied(), Lsn(9));
    assert_eq!(after.get(b"a").unwrap(), None);
    assert_eq!(after.get(b"b").unwrap().unwrap(), "new");
}

#[test]
fn a_store_that_was_cleared_can_go_on_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 1, "a", "old");
    store.spill().unwrap();
    store.clear().unwrap();
    load(&mut store, &[("b", "half")]);
    store.begin_empty().unwrap();
    put(&mut store, 1, "a", "replayed");
    assert_eq!(all(&store), "a=replayed");
    assert_eq!(store.reader().view().unwrap().applied(), Lsn(1));
}

#[test]
fn condemned_stores_do_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(dir.path());
    stores.condemn("a compaction found nonsense").unwrap();
    drop(stores);
    let error = PartitionStores::open(dir.path(), StoreOptions::default())
        .err()
        .unwrap();
    assert!(
        matches!(error, OpenError::Condemned { .. }) && error.is_damage(),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("a compaction found nonsense"),
        "{error}"
    );
}
