//! Random programs whose effect on counters is known beforehand.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{Case, case};
use crate::World;

/// Objects of a layer. Programs call objects of the next layer only, so that nobody waits for himself.
const KEYS: u32 = 3;
const LAYERS: u32 = 3;
const PROGRAMS: usize = 24;

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        "programs: random ones count as they should",
        programs
    )]
}

async fn programs(world: &World) {
    let seed = rand::random();
    println!("the programs are those of seed {seed}");
    let mut generator = Generator {
        random: StdRng::seed_from_u64(seed),
        prefix: world.key(),
        expected: BTreeMap::new(),
    };
    let programs: Vec<(String, Value)> = (0..PROGRAMS)
        .map(|_| {
            let key = generator.key(0);
            let program = generator.program(&key, 0);
            (key, program)
        })
        .collect();
    let runs = programs.iter().map(|(key, program)| async move {
        let target = format!("Fuzz/{key}/interpret");
        let answer = world.call(&target, program.clone()).await.expect_success();
        assert_eq!(answer, "done");
    });
    futures::future::join_all(runs).await;
    for (key, expected) in &generator.expected {
        let target = format!("Fuzz/{key}/counter");
        world
            .eventually(&format!("seed {seed}: {key} counts {expected}"), || async {
                world.ask(&target).await == json!(expected)
            })
            .await;
    }
}

struct Generator {
    random: StdRng,
    prefix: String,
    /// How often each object is incremented in the end.
    expected: BTreeMap<String, u64>,
}

impl Generator {
    fn key(&mut self, layer: u32) -> String {
        format!(
            "{}-{layer}-{}",
            self.prefix,
            self.random.random_range(0..KEYS)
        )
    }

    fn program(&mut self, key: &str, layer: u32) -> Value {
        let mut program: Vec<Value> = Vec::new();
        let mut begun: Vec<usize> = Vec::new();
        let length = self.random.random_range(3..=10);
        for _ in 0..length {
            let index = program.len();
            let small = self.random.random_range(0..20);
            let command = match self.random.random_range(0..20) {
                0 => json!({"op": "set", "key": small % 4}),
                1 => json!({"op": "get", "key": small % 4}),
                2 => json!({"op": "clear", "key": small % 4}),
                3 => json!({"op": "sleep", "ms": small}),
                4 => json!({"op": "run"}),
                5 => json!({"op": "slowRun"}),
                6 => json!({"op": "flakyRun"}),
                7 => json!({"op": "caughtCall"}),
                8 | 9 => {
                    self.count(key);
                    json!({"op": "increment"})
                }
                10 => {
                    self.count(key);
                    json!({"op": "incrementLater", "ms": small})
                }
                11 => {
                    self.count(key);
                    json!({"op": "dance"})
                }
                12 if !begun.is_empty() => await_one(&mut begun, &mut self.random),
                other => {
                    begun.push(index);
                    match other {
                        13 => json!({"op": "slowCall", "ms": small}),
                        14 => json!({"op": "failingCall"}),
                        15 => json!({"op": "awakeable"}),
                        16 => json!({"op": "rejectedAwakeable"}),
                        17 | 18 if layer + 1 < LAYERS => {
                            let next = self.key(layer + 1);
                            let program = self.program(&next, layer + 1);
                            json!({"op": "nested", "key": next, "program": program})
                        }
                        _ => json!({"op": "call"}),
                    }
                }
            };
            program.push(command);
        }
        // What is not awaited may be left alone, but not what calls: its effects are counted.
        while !begun.is_empty() {
            program.push(await_one(&mut begun, &mut self.random));
        }
        Value::Array(program)
    }

    fn count(&mut self, key: &str) {
        *self.expected.entry(key.to_owned()).or_default() += 1;
    }
}

fn await_one(begun: &mut Vec<usize>, random: &mut StdRng) -> Value {
    let chosen = random.random_range(0..begun.len());
    json!({"op": "await", "index": begun.swap_remove(chosen)})
}
