//! Random histories against a plain map.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use abide_partition_store::{PartitionReader, PartitionStore, PartitionStores, StoreOptions};
use abide_types::{Lsn, PartitionId};
use bytes::Bytes;
use proptest::prelude::*;

const PARTITION: PartitionId = PartitionId(3);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Scan(Vec<u8>, Vec<u8>, usize),
    Spill,
    Flush,
    Maintain,
    Reopen,
    View,
    Crash,
}

/// Few and similar keys, so that histories meet.
fn key() -> impl Strategy<Value = Vec<u8>> {
    (1..4_u8, proptest::collection::vec(0..3_u8, 0..3)).prop_map(|(table, rest)| {
        let mut key = vec![table];
        key.extend(rest);
        key
    })
}

/// Bounds need not be keys.
fn bound() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![key(), proptest::collection::vec(any::<u8>(), 0..3)]
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        12 => (key(), value).prop_map(|(key, value)| Step::Put(key, value)),
        6 => key().prop_map(Step::Delete),
        6 => (bound(), bound(), 0..6_usize).prop_map(|(from, to, most)| Step::Scan(from, to, most)),
        2 => Just(Step::Spill),
        1 => Just(Step::Flush),
        2 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
        2 => Just(Step::View),
        1 => Just(Step::Crash),
    ]
}

fn rows(model: &Model, from: &[u8], to: &[u8], most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    model
        .iter()
        .filter(|(key, _)| from <= &key[..] && &key[..] < to)
        .take(most)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Takes `most` rows from whatever scans.
fn collect(
    most: usize,
    scan: impl FnOnce(&mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>),
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    if most > 0 {
        scan(&mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() == most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
    }
    rows
}

fn check_all(store: &PartitionStore, model: &Model) {
    let all = collect(usize::MAX, |visit| store.scan(&[], &[9], visit).unwrap());
    assert_eq!(all, rows(model, &[], &[9], usize::MAX));
    for (key, value) in model {
        assert_eq!(store.get(key).unwrap().unwrap(), value);
    }
}

fn run(steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        memory_bytes: 64 << 20,
        spill_after_bytes: 600,
        flush_after_bytes: 2_000,
        flush_interval: Duration::from_secs(3600),
    };
    let mut stores = PartitionStores::open(dir.path(), options.clone()).unwrap();
    let mut store = stores.partition(PARTITION).unwrap();
    let mut model = Model::new();
    // By applied LSN.
    let mut history = vec![model.clone()];
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Put(key, value) => {
                store.put(key.clone(), value.clone());
                model.insert(key.clone(), value.clone());
            }
            Step::Delete(key) => {
                store.delete(key.clone());
                model.remove(key);
            }
            Step::Scan(from, to, most) => {
                let seen = collect(*most, |visit| store.scan(from, to, visit).unwrap());
                assert_eq!(seen, rows(&model, from, to, *most));
            }
            Step::Spill => store.spill().unwrap(),
            Step::Flush => {
                store.flush().unwrap();
                assert_eq!(store.durable_applied(), store.applied());
            }
            Step::Maintain => store.maintain().unwrap(),
            Step::Reopen => {
                store.flush().unwrap();
                let applied = store.applied();
                drop((store, stores));
                stores = PartitionStores::open(dir.path(), options.clone()).unwrap();
                store = stores.partition(PARTITION).unwrap();
                assert_eq!(store.applied(), applied);
                check_all(&store, &model);
            }
            Step::Crash => {
                let copy = crash::copy(dir.path());
                let stores = PartitionStores::open(copy.path(), options.clone()).unwrap();
                let crashed = stores.partition(PARTITION).unwrap();
                assert!(store.durable_applied() <= crashed.applied());
                let applied = usize::try_from(crashed.applied().0).unwrap();
                check_all(&crashed, &history[applied]);
            }
            Step::View => {
                let reader = store.reader();
                let view = reader.view().unwrap();
                let seen = collect(usize::MAX, |visit| view.scan(&[], &[9], visit).unwrap());
                assert_eq!(seen, rows(&model, &[], &[9], usize::MAX));
                for (key, value) in &model {
                    assert_eq!(view.get(key).unwrap().unwrap(), value);
                }
                assert_eq!(stretches(&reader), seen);
            }
        }
        store.set_applied(Lsn(number as u64 + 1));
        history.push(model.clone());
    }
    check_all(&store, &model);
}

/// All rows, read in short stretches.
fn stretches(reader: &PartitionReader) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut from = Bytes::new();
    loop {
        let stretch = reader.stretch(&from, &[9], 2).unwrap();
        seen.extend(collect(usize::MAX, |visit| stretch.scan(visit).unwrap()));
        match stretch.end() {
            Some(end) => from = end.clone(),
            None => return seen,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_an_ordered_map(steps in proptest::collection::vec(step(), 1..150)) {
        run(&steps);
    }
}
