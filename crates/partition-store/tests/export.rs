//! An export shows one record, whatever is written meanwhile, and shares files with the store.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc;

use abide_partition_store::{
    Export, ExportError, Exported, PartitionStore, PartitionStores, StoreOptions,
};
use abide_types::{Lsn, PartitionId};
use tempfile::TempDir;

const PARTITION: PartitionId = PartitionId(3);

fn options() -> StoreOptions {
    StoreOptions {
        memory_bytes: 64 << 20,
        ..StoreOptions::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    [&[7], &number.to_be_bytes()[..]].concat()
}

fn write(store: &mut PartitionStore, lsn: u64, rows: std::ops::Range<u64>) {
    for row in rows {
        store.put(key(row), lsn.to_be_bytes().to_vec());
    }
    store.set_applied(Lsn(lsn));
}

fn export(store: &mut PartitionStore, dir: &Path) -> mpsc::Receiver<Result<Export, ExportError>> {
    let (sender, receiver) = mpsc::channel();
    let at = store.applied();
    let lsn = store.begin_export(dir.to_owned(), move |export| sender.send(export).unwrap());
    assert_eq!(lsn.unwrap(), at);
    receiver
}

fn rows(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut exported = Exported::open(dir, PARTITION).unwrap();
    let mut all = BTreeMap::new();
    loop {
        let rows = exported.next_rows(1000).unwrap();
        if rows.is_empty() {
            return all;
        }
        for (key, value) in rows {
            assert_eq!(
                all.insert(key.to_vec(), value.to_vec()),
                None,
                "a row came twice"
            );
        }
    }
}

fn inodes(export: &Export) -> Vec<u64> {
    let tables = export.files.iter().filter(|name| name.ends_with(".sst"));
    tables
        .map(|name| fs::metadata(export.dir.join(name)).unwrap().ino())
        .collect()
}

#[test]
fn an_export_shows_the_record_at_which_it_was_begun_and_shares_its_files() {
    let dir = TempDir::new().unwrap();
    let stores = PartitionStores::open(dir.path().join("stores"), options()).unwrap();
    let mut store = stores.partition(PARTITION).unwrap();
    let mut other = stores.partition(PartitionId(4)).unwrap();
    write(&mut other, 9, 0..1000);
    other.flush().unwrap();

    write(&mut store, 1, 0..1000);
    let receiver = export(&mut store, &dir.path().join("exports/a"));
    // The next records come while it is made.
    write(&mut store, 2, 500..1500);
    store.delete(key(0));
    store.set_applied(Lsn(3));
    store.maintain().unwrap();
    let first = receiver.recv().unwrap().unwrap();
    assert_eq!(first.applied, Lsn(1));
    let found = rows(&first.dir);
    assert_eq!(found.len(), 1000);
    assert!(found.values().all(|value| value == &1_u64.to_be_bytes()));
    assert_eq!(
        first
            .files
            .iter()
            .filter(|name| name.ends_with(".sst"))
            .count(),
        1,
        "{first:?}"
    );

    let second = export(&mut store, &dir.path().join("exports/b"))
        .recv()
        .unwrap()
        .unwrap();
    assert_eq!(second.applied, Lsn(3));
    let found = rows(&second.dir);
    assert_eq!(found.len(), 1499);
    assert_eq!(found.get(&key(0)), None);
    assert_eq!(found[&key(600)], 2_u64.to_be_bytes());
    assert!(
        inodes(&second).contains(&inodes(&first)[0]),
        "the first file is written anew"
    );

    // Nothing has changed: there is nothing to write, and the same files again.
    let third = export(&mut store, &dir.path().join("exports/c"))
        .recv()
        .unwrap()
        .unwrap();
    assert_eq!(inodes(&third), inodes(&second));
    drop((store, other));
}

#[test]
fn what_was_exported_fills_another_store() {
    let dir = TempDir::new().unwrap();
    let stores = PartitionStores::open(dir.path().join("stores"), options()).unwrap();
    let mut store = stores.partition(PARTITION).unwrap();
    write(&mut store, 5, 0..5000);
    let export = export(&mut store, &dir.path().join("export"))
        .recv()
        .unwrap()
        .unwrap();
    drop((store, stores));

    let stores = PartitionStores::open(dir.path().join("others"), options()).unwrap();
    let mut fresh = stores.partition(PARTITION).unwrap();
    write(&mut fresh, 1, 8000..8010);
    fresh.clear().unwrap();
    let mut exported = Exported::open(&export.dir, PARTITION).unwrap();
    loop {
        let rows = exported.next_rows(10_000).unwrap();
        if rows.is_empty() {
            break;
        }
        fresh
            .load(rows.iter().map(|(key, value)| (&key[..], &value[..])))
            .unwrap();
    }
    fresh.finish_load(exported.applied()).unwrap();
    assert_eq!(fresh.applied(), Lsn(5));
    assert_eq!(
        fresh.get(&key(4999)).unwrap().as_deref(),
        Some(&5_u64.to_be_bytes()[..])
    );
    assert_eq!(fresh.get(&key(8001)).unwrap(), None);
    drop(fresh);
}

#[test]
fn files_of_another_partition_or_of_none_are_refused() {
    let dir = TempDir::new().unwrap();
    let stores = PartitionStores::open(dir.path().join("stores"), options()).unwrap();
    let mut store = stores.partition(PARTITION).unwrap();
    write(&mut store, 5, 0..10);
    let export = export(&mut store, &dir.path().join("export"))
        .recv()
        .unwrap()
        .unwrap();
    assert!(Exported::open(&export.dir, PartitionId(4)).is_err());
    assert!(Exported::open(&dir.path().join("nothing"), PARTITION).is_err());
    let manifest = export
        .files
        .iter()
        .find(|name| name.starts_with("MANIFEST"))
        .unwrap();
    fs::write(export.dir.join(manifest), "nonsense").unwrap();
    assert!(Exported::open(&export.dir, PARTITION).is_err());
    drop(store);
}
