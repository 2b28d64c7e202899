//! Random programs under crashing attempts, repeated deliveries and every order of partitions.
//!
//! A tiny SDK replays the journal and goes on behind it, as the real ones do. Whatever is interleaved: every
//! invocation ends, every counter holds each addition once, nothing is left over, and a replica that repeats the
//! log has the same rows.

use crate::harness::{World, effect};
use abide_service_protocol::{MessageType, Notification, NotificationId};
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto as state;
use abide_state_machine::{StateMachine, Store as _, read_journal};
use abide_types::InvocationId;
use proptest::prelude::*;
use prost::Message as _;

const PARTITIONS: u16 = 4;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// What one client asks for: `called` is added to and waited for, `sent` is added to without waiting.
#[derive(Debug, Clone)]
pub struct Program {
    called: usize,
    sent: usize,
}

fn row(world: &World, id: &InvocationId) -> Option<state::Invocation> {
    let store = &world.stores[usize::from(world.partition(id).0)];
    let value = store.get(&keys::invocation(id)).unwrap()?;
    Some(state::Invocation::decode(value).unwrap())
}

fn counter(world: &World, key: &str) -> u64 {
    let partition = abide_types::partition_of(abide_types::PartitionKey::of_key(key), PARTITIONS);
    let store = &world.stores[usize::from(partition.0)];
    let value = store.get(&keys::state("Obj", key, b"n")).unwrap();
    value.map_or(0, |value| {
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    })
}

/// Runs one attempt, at most `steps` of it; then it crashes.
fn attempt(
    world: &mut World,
    id: &InvocationId,
    programs: &[(InvocationId, Program)],
    steps: usize,
) {
    let Some(invocation) = row(world, id) else {
        return;
    };
    if invocation.status() != state::Status::Invoked {
        return;
    }
    let store = &world.stores[usize::from(world.partition(id).0)];
    let journal = read_journal(store, id, invocation.journal_length).unwrap();
    let done = journal.iter().filter(|entry| entry.is_command()).count() - 1;
    let has = |wanted: u32| {
        journal
            .iter()
            .filter(|entry| entry.is_notification())
            .any(|entry| {
                Notification::decode(entry).unwrap().id == NotificationId::Completion(wanted)
            })
    };
    let target = invocation.target.unwrap();
    let key = target.key.clone();
    // Each command is a step; what follows the last command has to wait for the call.
    let mut script = match programs.iter().find(|(known, _)| known == id) {
        Some((_, program)) => {
            let mut script = vec![
                effect::call("Obj", Some(KEYS[program.called]), "add", 1),
                effect::send("Obj", Some(KEYS[program.sent]), "add", 0, 3),
            ];
            if has(2) {
                script.extend([effect::output("ok"), effect::end()]);
            } else {
                script.push(effect::suspend(&[2]));
            }
            script
        }
        None => {
            let next = counter(world, key.as_deref().unwrap()) + 1;
            vec![
                effect::set("n", &next.to_string()),
                effect::output("ok"),
                effect::end(),
            ]
        }
    };
    let output = journal
        .iter()
        .any(|entry| entry.ty == MessageType::Output.code());
    let from = if output { script.len() - 1 } else { done };
    let script: Vec<_> = script
        .drain(from.min(script.len() - 1)..)
        .take(steps)
        .collect();
    if !script.is_empty() {
        world.effects(id, script);
    }
}

/// Programs out of pairs of who is called and who is sent to.
pub fn programs(pairs: &[(usize, usize)]) -> Vec<Program> {
    pairs
        .iter()
        .map(|&(called, sent)| Program { called, sent })
        .collect()
}

/// Runs programs and checks what came of them.
pub fn run(programs: Vec<Program>, choices: Vec<u8>) -> World {
    let mut world = World::new(PARTITIONS);
    let mut known = Vec::new();
    let mut expected = [0u64; KEYS.len()];
    for program in programs {
        let id = world.invoke("Svc", None, "go");
        expected[program.called] += 1;
        expected[program.sent] += 1;
        known.push((id, program));
    }
    let mut active: Vec<InvocationId> = Vec::new();
    let mut choices = choices.into_iter().map(usize::from);
    for _ in 0..10_000 {
        active.append(&mut world.started);
        active
            .retain(|id| row(&world, id).is_some_and(|row| row.status() == state::Status::Invoked));
        active.dedup();
        // When the choices have run out, everything goes through.
        let choice = choices.next();
        let delivered = choice.is_none_or(|choice| choice % 2 == 0)
            && world.deliver_one(choice.unwrap_or(0) / 2, 1 + choice.unwrap_or(0) / 64);
        if delivered {
            continue;
        }
        let Some(id) = active
            .get(choice.unwrap_or(0) % active.len().max(1))
            .copied()
        else {
            if choice.is_none() {
                break;
            }
            continue;
        };
        let steps = choice.map_or(10, |choice| choice % 4);
        attempt(&mut world, &id, &known, steps);
    }
    for (id, _) in &known {
        let row = row(&world, id).unwrap();
        assert_eq!(row.status(), state::Status::Completed);
        let store = &world.stores[usize::from(world.partition(id).0)];
        let journal = read_journal(store, id, row.journal_length).unwrap();
        let mut told = std::collections::BTreeSet::new();
        for entry in journal.iter().filter(|entry| entry.is_notification()) {
            let notification = Notification::decode(entry).unwrap().id;
            assert!(
                told.insert(notification.clone()),
                "{notification} was told twice"
            );
        }
    }
    for (key, expected) in KEYS.iter().zip(expected) {
        assert_eq!(counter(&world, key), expected, "counter {key}");
    }
    for table in [
        Table::Invoked,
        Table::Lock,
        Table::Inbox,
        Table::Outbox,
        Table::Timer,
    ] {
        assert_eq!(world.rows(table), 0, "{table:?}");
    }
    let mut replicas = vec![crate::harness::MapStore::default(); usize::from(PARTITIONS)];
    for (partition, lsn, payload) in &world.log {
        let batch = StateMachine::decode(*lsn, payload.clone()).unwrap();
        let replica = &mut replicas[usize::from(partition.0)];
        StateMachine::new(*partition, PARTITIONS)
            .apply(replica, *lsn, batch)
            .unwrap();
    }
    assert!(
        replicas == world.stores,
        "a replica that repeats the log has other rows"
    );
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_addition_counts_once(
        pairs in prop::collection::vec((0..KEYS.len(), 0..KEYS.len()), 1..12),
        choices in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        run(programs(&pairs), choices);
    }
}
