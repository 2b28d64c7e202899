#![allow(clippy::unwrap_used, reason = "tests")]

use std::num::NonZeroU32;

use abide_schema::{Precondition, RuleChange};
use abide_types::{PartitionKey, Timestamp};
use proptest::prelude::*;

use super::*;

fn book(rules: &[(&str, u32)]) -> Arc<RuleBook> {
    let changes: Vec<_> = rules
        .iter()
        .map(|(pattern, limit)| RuleChange {
            pattern: pattern.parse().unwrap(),
            concurrency: NonZeroU32::new(*limit),
            description: None,
            disabled: false,
            precondition: Precondition::None,
        })
        .collect();
    Arc::new(RuleBook::default().with(&changes, Timestamp(0)).unwrap())
}

fn queue(service: &str, reference: &str) -> Arc<Queue> {
    let (scope, key) = match reference.split_once('/') {
        Some((scope, key)) => (scope, Some(key.to_owned())),
        None => (reference, None),
    };
    let flow = Flow {
        scope: scope.to_owned(),
        limit_key: key,
    };
    Arc::new(Queue::new(service.to_owned(), flow))
}

fn id(number: u64) -> InvocationId {
    InvocationId::new(PartitionKey(0), u128::from(number).to_be_bytes())
}

fn number(id: InvocationId) -> u64 {
    u128::from_be_bytes(id.uuid()) as u64
}

/// What may start now, in order.
fn start(queues: &mut Queues) -> Vec<u64> {
    std::iter::from_fn(|| queues.pop(|_| true).map(number)).collect()
}

#[test]
fn no_more_run_than_the_deepest_and_the_widest_level_allow() {
    let mut queues = Queues::default();
    queues.set_book(book(&[("s", 3), ("s/*", 2), ("s/a", 1), ("s/*/*", 1)]));
    let references = ["s/a", "s/a", "s/b", "s/b/x", "s/b/x", "s/b", "s/c", "s"];
    for (number, reference) in references.into_iter().enumerate() {
        queues.push(&queue("svc", reference), 1, id(number as u64));
    }
    assert_eq!(start(&mut queues), [0, 2, 3]);
    let blocked: std::collections::BTreeMap<_, _> = queues
        .level_states()
        .map(|level| (level.name, level.blocked))
        .collect();
    assert_eq!(
        blocked.into_iter().collect::<Vec<_>>(),
        [
            ("s".to_owned(), 2),
            ("s/a".to_owned(), 1),
            ("s/b".to_owned(), 1),
            ("s/b/x".to_owned(), 1)
        ]
    );

    queues.release(&queue("svc", "s/a"));
    assert_eq!(start(&mut queues), [6], "c waited for the scope longest");
    queues.release(&queue("svc", "s/c"));
    assert_eq!(start(&mut queues), [7], "then who has no limit key");
    queues.release(&queue("svc", "s"));
    assert_eq!(start(&mut queues), [1]);
    queues.release(&queue("svc", "s/b"));
    queues.release(&queue("svc", "s/b/x"));
    assert_eq!(start(&mut queues).len(), 2);
}

#[test]
fn the_oldest_of_a_queue_goes_first_and_queues_take_turns() {
    let mut queues = Queues::default();
    queues.set_book(book(&[("s", 1)]));
    let (one, two) = (queue("one", "s"), queue("two", "s"));
    for number in [5, 3, 4] {
        queues.push(&one, number, id(number));
    }
    queues.push(&two, 9, id(9));
    let mut order = Vec::new();
    while let Some(next) = queues.pop(|_| true) {
        assert!(queues.pop(|_| true).is_none(), "one at a time");
        order.push(number(next));
        queues.release(if number(next) == 9 { &two } else { &one });
    }
    assert_eq!(order, [3, 9, 4, 5]);
    assert_eq!(queues.level_states().count(), 0);
    assert_eq!(queues.queue_states().count(), 0);
}

#[test]
fn new_rules_count_at_once() {
    let mut queues = Queues::default();
    let queue = queue("svc", "s");
    queues.set_book(book(&[("*", 1)]));
    for number in 0..6 {
        queues.push(&queue, number, id(number));
    }
    assert_eq!(start(&mut queues), [0]);
    queues.set_book(book(&[("*", 1), ("s", 3)]));
    assert_eq!(start(&mut queues), [1, 2]);
    queues.set_book(book(&[("s", 2)]));
    queues.release(&queue);
    assert_eq!(start(&mut queues), [0; 0], "still as many as allowed");
    queues.set_book(book(&[]));
    assert_eq!(start(&mut queues), [3, 4, 5]);
}

#[test]
fn a_paused_queue_starts_nothing() {
    let mut queues = Queues::default();
    let (one, two) = (queue("one", "s"), queue("two", "s"));
    queues.pause(one.id, true);
    queues.push(&one, 0, id(0));
    queues.push(&two, 1, id(1));
    assert_eq!(start(&mut queues), [1]);
    assert_eq!(queues.paused().collect::<Vec<_>>(), [&one.id]);
    queues.pause(one.id, false);
    assert_eq!(start(&mut queues), [0]);
}

proptest! {
    /// Whatever comes and goes: no level is above its limit, and nothing waits that could start.
    #[test]
    fn limits_hold_and_nobody_is_forgotten(steps in prop::collection::vec((0..4u8, 0..6usize, 0..4usize), 1..200)) {
        const REFERENCES: [&str; 6] = ["s", "s/a", "s/a/x", "s/b", "t/a", "t"];
        let books = [
            book(&[("s", 2), ("*/a", 1)]),
            book(&[("*", 1), ("s", 3), ("s/*", 2), ("s/a/*", 1)]),
            book(&[]),
            book(&[("*/*", 1)]),
        ];
        let mut queues = Queues::default();
        let mut rules = books[2].clone();
        let mut waiting: Vec<(Arc<Queue>, u64)> = Vec::new();
        let mut running: Vec<Arc<Queue>> = Vec::new();
        for (number, (step, which, other)) in steps.into_iter().enumerate() {
            let number = number as u64;
            match step {
                0 => {
                    let queue = queue("svc", REFERENCES[which]);
                    queues.push(&queue, number, id(number));
                    waiting.push((queue, number));
                }
                1 if !running.is_empty() => {
                    let queue = running.swap_remove(which % running.len());
                    queues.release(&queue);
                }
                2 => {
                    rules = books[other].clone();
                    queues.set_book(rules.clone());
                }
                3 if !waiting.is_empty() => {
                    let (queue, number) = waiting.swap_remove(which % waiting.len());
                    queues.remove(&queue, number, id(number));
                }
                _ => {}
            }
            let before = count(&running);
            for started in start(&mut queues) {
                let place = waiting.iter().position(|(_, waits)| *waits == started).unwrap();
                running.push(waiting.swap_remove(place).0);
            }
            let after = count(&running);
            for (level, running) in &after {
                // A limit that came down may be exceeded by what ran before.
                let limit = rules.limit(level).map_or(u32::MAX, |(limit, _)| limit.get());
                prop_assert!(*running <= limit || before.get(level) == Some(running), "{level}");
            }
            for (queue, _) in &waiting {
                let has_room = |level: &String| {
                    let limit = rules.limit(level).map_or(u32::MAX, |(limit, _)| limit.get());
                    after.get(level).copied().unwrap_or(0) < limit
                };
                prop_assert!(!queue.levels.iter().all(has_room), "{:?} waits for nothing", queue.flow);
            }
        }
    }
}

fn count(running: &[Arc<Queue>]) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for level in running.iter().flat_map(|queue| &queue.levels) {
        *counts.entry(level.clone()).or_default() += 1;
    }
    counts
}
