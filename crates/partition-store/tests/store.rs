//! What a store holds after writes, spills, flushes, crashes and damage.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abide_partition_store::{
    OpenError, PartitionStore, PartitionStores, StoreOptions, is_corruption,
};
use abide_types::{Lsn, PartitionId};
use bytes::Bytes;
use tempfile::TempDir;

const P1: PartitionId = PartitionId(1);
const P2: PartitionId = PartitionId(2);

fn open(dir: &Path) -> Arc<PartitionStores> {
    let options = StoreOptions {
        memory_bytes: 64 << 20,
        ..StoreOptions::default()
    };
    PartitionStores::open(dir, options).unwrap()
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(store: &mut PartitionStore, lsn: u64, key: &str, value: &str) {
    store.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    store.set_applied(Lsn(lsn));
}

fn delete(store: &mut PartitionStore, lsn: u64, key: &str) {
    store.delete(key.as_bytes().to_vec());
    store.set_applied(Lsn(lsn));
}

fn get(store: &PartitionStore, key: &str) -> Option<String> {
    let value = store.get(key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// `key=value` of all rows between two keys, for reading.
fn rows(store: &PartitionStore, from: &str, to: &str) -> String {
    let mut text = Vec::new();
    store
        .scan(from.as_bytes(), to.as_bytes(), &mut |key, value| {
            text.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
            ControlFlow::Continue(())
        })
        .unwrap();
    text.join(" ")
}

fn all(store: &PartitionStore) -> String {
    rows(store, "", "~")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn the_overlay_covers_what_was_spilled() {
    let dir = dir();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 1, "a", "1");
    put(&mut store, 2, "b", "2");
    put(&mut store, 3, "c", "3");
    store.spill().unwrap();
    assert_eq!(store.overlay_bytes(), 0);
    put(&mut store, 4, "b", "two");
    delete(&mut store, 5, "c");
    put(&mut store, 6, "aa", "new");
    assert_eq!(all(&store), "a=1 aa=new b=two");
    assert_eq!(rows(&store, "aa", "b"), "aa=new");
    assert_eq!(rows(&store, "b", "a"), "");
    assert_eq!(get(&store, "c"), None);
    store.spill().unwrap();
    assert_eq!(all(&store), "a=1 aa=new b=two");
    assert_eq!(get(&store, "b").unwrap(), "two");
    assert_eq!(store.applied(), Lsn(6));
}

#[test]
fn a_scan_ends_where_the_visitor_says() {
    let dir = dir();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 1, "a", "");
    put(&mut store, 2, "c", "");
    store.spill().unwrap();
    put(&mut store, 3, "b", "");
    put(&mut store, 4, "d", "");
    let mut seen = Vec::new();
    store
        .scan(b"a", b"z", &mut |key, _| {
            seen.push(key.to_vec());
            // A visitor may read.
            assert!(store.get(key).unwrap().is_some());
            if key == b"c" {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert_eq!(seen, [b"a", b"b", b"c"]);
}

#[test]
fn a_crash_falls_back_to_the_last_flush_and_its_lsn() {
    let dir = dir();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    assert_eq!((store.applied(), store.durable_applied()), (Lsn(0), Lsn(0)));
    put(&mut store, 1, "a", "flushed");
    put(&mut store, 2, "b", "flushed");
    store.flush().unwrap();
    assert_eq!(store.durable_applied(), Lsn(2));
    put(&mut store, 3, "a", "spilled");
    delete(&mut store, 4, "b");
    store.spill().unwrap();
    put(&mut store, 5, "c", "in the overlay");
    store.maintain().unwrap();
    assert_eq!(store.durable_applied(), Lsn(2), "spilled is not flushed");

    let crashed = crash::copy(stores.dir());
    let after = open(crashed.path()).partition(P1).unwrap();
    assert_eq!(all(&after), "a=flushed b=flushed");
    assert_eq!((after.applied(), after.durable_applied()), (Lsn(2), Lsn(2)));
    assert_eq!(all(&store), "a=spilled c=in the overlay");
}

#[test]
fn a_store_that_was_closed_in_order_has_all_that_was_flushed() {
    let dir = dir();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 7, "a", "1");
    store.flush().unwrap();
    put(&mut store, 8, "b", "lost");
    drop(store);
    let store = open(dir.path()).partition(P1).unwrap();
    assert_eq!((all(&store).as_str(), store.applied()), ("a=1", Lsn(7)));
    assert_eq!(store.durable_applied(), Lsn(7));
}

#[test]
fn a_record_that_was_applied_half_is_never_spilled() {
    let dir = dir();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    put(&mut store, 1, "a", "1");
    store.flush().unwrap();
    put(&mut store, 2, "b", "2");
    store.put("half", "");
    let error = store.flush().unwrap_err().to_string();
    assert!(
        error.starts_with("spilling in the middle of a record in partition-1 of /"),
        "{error}"
    );
    drop(store);
    let store = stores.partition(P1).unwrap();
    assert_eq!((all(&store).as_str(), store.applied()), ("a=1", Lsn(1)));
}

#[test]
fn rows_that_come_and_go_never_reach_the_database() {
    let dir = dir();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    let entries = || {
        stores
            .property("rocksdb.num-entries-active-mem-table")
            .unwrap()
    };
    put(&mut store, 1, "q/0", "stays");
    store.spill().unwrap();
    let before = entries();
    for number in 1..1_000 {
        put(
            &mut store,
            number * 2,
            &format!("q/{number}"),
            "in the queue",
        );
        delete(&mut store, number * 2 + 1, &format!("q/{number}"));
    }
    store.spill().unwrap();
    assert_eq!(entries() - before, 1, "the applied LSN alone");
    delete(&mut store, 3_000, "q/0");
    store.spill().unwrap();
    assert_eq!(
        entries() - before,
        3,
        "a row that is there has to be deleted"
    );
    assert_eq!(all(&store), "");
}

#[test]
fn partitions_do_not_mix_and_go_alone() {
    let dir = dir();
    let stores = open(dir.path());
    let mut one = stores.partition(P1).unwrap();
    let mut two = stores.partition(P2).unwrap();
    put(&mut one, 1, "a", "of one");
    put(&mut two, 9, "a", "of two");
    one.flush().unwrap();
    two.flush().unwrap();
    assert!(matches!(
        stores.partition(P1),
        Err(OpenError::InUse { partition: P1 })
    ));
    assert!(matches!(
        stores.drop_partition(P1),
        Err(OpenError::InUse { .. })
    ));
    drop(one);
    stores.drop_partition(P1).unwrap();
    stores.drop_partition(P1).unwrap();
    assert_eq!(stores.partitions().unwrap(), [P2]);
    assert_eq!(all(&two), "a=of two");
    let one = stores.partition(P1).unwrap();
    assert_eq!((all(&one).as_str(), one.applied()), ("", Lsn(0)));
}

#[test]
fn the_cache_does_not_fill_up_with_blocks_of_files_that_are_gone() {
    const ROUNDS: u64 = 20;
    const KEYS: u64 = 100;
    let dir = dir();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    let used = || {
        stores
            .database_property("rocksdb.block-cache-usage")
            .unwrap()
    };
    // Nothing that compresses.
    let value = |round: u64, key: u64| -> String {
        let mut state = (round * KEYS + key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let letters = (0..5000).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + (state % 64) as u8)
        });
        letters.collect()
    };
    let (mut lsn, mut first) = (0, 0);
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            lsn += 1;
            put(&mut store, lsn, &format!("key {key}"), &value(round, key));
        }
        store.flush().unwrap();
        stores.compact();
        for key in 0..KEYS {
            assert_eq!(get(&store, &format!("key {key}")), Some(value(round, key)));
        }
        if round == 0 {
            first = used();
        }
    }
    assert!(
        400_000 < first,
        "the rows were read through the cache: {first}"
    );
    assert!(used() < first * 3, "{first} has become {}", used());
}

#[test]
fn maintenance_spills_and_flushes_by_itself() {
    let dir = dir();
    let options = StoreOptions {
        memory_bytes: 64 << 20,
        spill_after_bytes: 64 << 10,
        flush_after_bytes: 256 << 10,
        flush_interval: Duration::from_secs(3600),
    };
    let stores = PartitionStores::open(dir.path(), options).unwrap();
    let mut store = stores.partition(P1).unwrap();
    let mut lsn = 0;
    until("a flush by size", || {
        lsn += 1;
        put(
            &mut store,
            lsn,
            &format!("key {lsn}"),
            "some value or other",
        );
        store.maintain().unwrap();
        // Twice the limit on its way out, as much again behind it, and a row that goes beyond each.
        assert!(store.overlay_bytes() < 257 << 10);
        store.durable_applied() > Lsn(0)
    });
    let crashed = crash::copy(stores.dir());
    let after = open(crashed.path()).partition(P1).unwrap();
    assert!(store.durable_applied() <= after.applied());
    assert_eq!(
        get(&after, &format!("key {}", after.applied())).unwrap(),
        "some value or other"
    );
    assert_eq!(
        get(&after, &format!("key {}", after.applied().next())),
        None
    );
}

#[test]
fn a_quiet_partition_is_flushed_by_time() {
    let dir = dir();
    let options = StoreOptions {
        memory_bytes: 64 << 20,
        flush_interval: Duration::from_millis(100),
        ..StoreOptions::default()
    };
    let stores = PartitionStores::open(dir.path(), options).unwrap();
    let mut store = stores.partition(P1).unwrap();
    put(&mut store, 1, "a", "1");
    until("a flush by time", || {
        store.maintain().unwrap();
        store.durable_applied() == Lsn(1)
    });
    assert_eq!(store.overlay_bytes(), 0);
}

#[test]
fn a_view_stays_as_it_was() {
    let dir = dir();
    let mut store = open(dir.path()).partition(P1).unwrap();
    put(&mut store, 1, "a", "1");
    store.spill().unwrap();
    put(&mut store, 2, "b", "2");
    let reader = store.reader();
    let view = reader.view().unwrap();
    put(&mut store, 3, "a", "changed");
    delete(&mut store, 4, "b");
    store.flush().unwrap();
    let mut seen = Vec::new();
    view.scan(b"", b"~", &mut |key, value| {
        seen.push((key.to_vec(), value.clone()));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            (b"a".to_vec(), Bytes::from_static(b"1")),
            (b"b".to_vec(), Bytes::from_static(b"2"))
        ]
    );
    assert_eq!(view.get(b"b").unwrap().unwrap(), "2");
    assert_eq!(view.applied(), Lsn(2));
    assert_eq!(
        reader.view().unwrap().get(b"a").unwrap().unwrap(),
        "changed"
    );
}

#[test]
fn views_see_whole_records_while_the_owner_writes_and_spills() {
    let dir = dir();
    let options = StoreOptions {
        memory_bytes: 64 << 20,
        spill_after_bytes: 8 << 10,
        flush_after_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    let stores = PartitionStores::open(dir.path(), options).unwrap();
    let mut store = stores.partition(P1).unwrap();
    let reader = store.reader();
    let (done, stop) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut views = 0;
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let view = reader.view().unwrap();
                let mut values = Vec::new();
                view.scan(b"k", b"l", &mut |_, value| {
                    values.push(value.clone());
                    ControlFlow::Continue(())
                })
                .unwrap();
                let expected = view.applied().to_string();
                let count = if view.applied() == Lsn(0) { 0 } else { 50 };
                assert_eq!(values.len(), count);
                assert!(values.iter().all(|value| *value == expected));
                views += 1;
            }
            views
        });
        for lsn in 1..2_000_u64 {
            for row in 0..50_u8 {
                store.put(vec![b'k', row], lsn.to_string());
            }
            store.set_applied(Lsn(lsn));
            store.maintain().unwrap();
        }
        drop(done);
        assert!(reading.join().unwrap() > 0);
    });
}

#[test]
fn damage_is_told_and_can_be_cleared_away() {
    let dir = dir();
    let stores = open(dir.path());
    let mut store = stores.partition(P1).unwrap();
    for number in 0..5_000 {
        put(
            &mut store,
            number + 1,
            &format!("key {number:05}"),
            &"value ".repeat(20),
        );
    }
    store.flush().unwrap();
    let crashed = crash::copy(stores.dir());

    // A table with a flipped block: found when it is read.
    let table = find(crashed.path(), |name| name.ends_with(".sst"));
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 64] {
        *byte ^= 0xff;
    }
    fs::write(&table, &bytes).unwrap();
    let damaged = open(crashed.path());
    let store = damaged.partition(P1).unwrap();
    let error = store
        .scan(b"a", b"z", &mut |_, _| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(is_corruption(&error), "{error:?}");
    assert!(error.place.contains(&*crashed.path().to_string_lossy()));
    drop(store);
    damaged.drop_partition(P1).unwrap();
    assert_eq!(all(&damaged.partition(P1).unwrap()), "");
    drop(damaged);

    // A table that is cut short, one that is gone, and a manifest that says nothing.
    for (pattern, length) in [("sst", Some(100)), ("sst", None), ("MANIFEST", Some(10))] {
        let crashed = crash::copy(stores.dir());
        let file = find(crashed.path(), |name| name.contains(pattern));
        match length {
            Some(length) => fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(length)
                .unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let opened = PartitionStores::open(crashed.path(), StoreOptions::default())
            .and_then(|stores| stores.partition(P1).map(drop));
        let error = opened.unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{pattern} {length:?}: {error:?}"
        );
        assert!(
            error
                .to_string()
                .contains(&*crashed.path().to_string_lossy())
        );
        PartitionStores::destroy(crashed.path()).unwrap();
        assert_eq!(all(&open(crashed.path()).partition(P1).unwrap()), "");
    }
}

fn find(dir: &Path, matches: impl Fn(&str) -> bool) -> std::path::PathBuf {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| matches(&path.file_name().unwrap().to_string_lossy()))
        .unwrap()
}

#[test]
fn two_processes_cannot_have_one_directory() {
    let dir = dir();
    let _stores = open(dir.path());
    let again = PartitionStores::open(dir.path(), StoreOptions::default());
    assert!(matches!(again, Err(OpenError::Failed { .. })));
}
