//! Bytes that are not what they should be: records, rows, and entries in them.
//!
//! A record's checksum and its proposer keep such bytes out, so what they come to is not promised. But they never
//! panic, take no memory that they do not bring themselves, and what comes of them is the same on every replica.

use abide_state_machine::keys;
use abide_state_machine::{StateMachine, Store as _};
use abide_types::{Lsn, PartitionId};
use bytes::Bytes;
use proptest::prelude::*;

use crate::harness::MapStore;
use crate::random;

const PARTITIONS: u16 = 4;

/// One change: where (as a fraction of the length), what, and how.
type Change = (u16, u8, u8);

fn changed(bytes: &[u8], changes: &[Change]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (place, value, how) in changes {
        if bytes.is_empty() {
            bytes.push(*value);
            continue;
        }
        let at = usize::from(*place) * bytes.len() / (usize::from(u16::MAX) + 1);
        match how % 5 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes.insert(at, *value),
            3 => drop(bytes.remove(at)),
            _ => bytes.truncate(at + 1),
        }
    }
    bytes.into()
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(any::<Change>(), 1..5)
}

/// The log of a run with calls, sends, suspensions, repeated deliveries and state.
fn log() -> &'static [(PartitionId, Lsn, Bytes)] {
    static LOG: std::sync::OnceLock<Vec<(PartitionId, Lsn, Bytes)>> = std::sync::OnceLock::new();
    LOG.get_or_init(|| {
        let choices = (0u8..=255).map(|choice| choice.wrapping_mul(37)).collect();
        random::run(random::programs(&[(0, 1), (1, 2), (2, 0), (1, 1)]), choices).log
    })
}

/// The stores after so many records.
fn stores_after(records: usize) -> Vec<MapStore> {
    let mut stores = vec![MapStore::default(); usize::from(PARTITIONS)];
    for (partition, lsn, payload) in &log()[..records] {
        apply(
            &mut stores[usize::from(partition.0)],
            *partition,
            *lsn,
            payload.clone(),
        );
    }
    stores
}

fn apply(store: &mut MapStore, partition: PartitionId, lsn: Lsn, payload: Bytes) -> String {
    let machine = StateMachine::new(partition, PARTITIONS);
    match StateMachine::decode(lsn, payload).and_then(|batch| machine.apply(store, lsn, batch)) {
        Ok(applied) => format!("{:?}", applied.replies),
        Err(error) => format!("{error:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_record_comes_to_the_same_everywhere(at in any::<prop::sample::Index>(), changes in changes()) {
        let at = at.index(log().len());
        let (partition, lsn, payload) = &log()[at];
        let payload = changed(payload, &changes);
        let mut one = stores_after(at).swap_remove(usize::from(partition.0));
        let mut two = one.clone();
        let told = apply(&mut one, *partition, *lsn, payload.clone());
        prop_assert_eq!(told, apply(&mut two, *partition, *lsn, payload));
        prop_assert_eq!(one, two);
    }

    #[test]
    fn changed_rows_never_panic(
        at in any::<prop::sample::Index>(),
        rows in prop::collection::vec((any::<prop::sample::Index>(), changes()), 1..4),
    ) {
        let at = at.index(log().len());
        let mut stores = stores_after(at);
        for store in &mut stores {
            let keys: Vec<Bytes> = store.0.keys().cloned().collect();
            if keys.is_empty() {
                continue;
            }
            for (row, changes) in &rows {
                let key = &keys[row.index(keys.len())];
                let value = changed(&store.get(key).unwrap().unwrap(), changes);
                store.put(key.clone(), value);
            }
        }
        for (partition, lsn, payload) in &log()[at..] {
            apply(&mut stores[usize::from(partition.0)], *partition, *lsn, payload.clone());
        }
    }

    #[test]
    fn no_bytes_are_taken_for_a_key(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = keys::parse_invocation(&bytes);
        let _ = keys::parse_timer(&bytes);
    }
}
