//! Programs on which this engine once differed from its peer, or that stand for a kind: each comes to
//! what is kept with it. Nodes are not killed here; see `drill.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use abide_test_cluster::{Cluster, Options};
use abide_test_differential::ledger::Ledger;
use abide_test_differential::program::Program;
use abide_test_differential::world::{Patience, World};
use abide_test_differential::{generate, interpreter, model};
use futures::{StreamExt, stream};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Random programs beside the kept ones; always the same.
const SEEDS: std::ops::Range<u64> = 1..21;

fn kept() -> Vec<(String, Program, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let mut kept: Value =
                serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            let program = serde_json::from_value(kept["program"].take()).unwrap();
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            (name, program, kept["outcome"].take())
        })
        .collect()
}

async fn world(nodes: usize, config: &str) -> (Cluster, World) {
    let ledger = Ledger::default();
    let uri = interpreter::serve(ledger.clone()).await.unwrap();
    let options = Options {
        config: config.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start(nodes, options).await;
    let world = World::new(
        "abide",
        (0..nodes).map(|node| cluster.ingress(node)).collect(),
        (0..nodes).map(|node| cluster.admin(node)).collect(),
        ledger,
        PATIENCE,
    );
    world.register(&uri).await;
    (cluster, world)
}

/// Runs programs a few at a time, and panics on the first that comes to anything else.
async fn check(world: &World, programs: Vec<(String, Program, Value)>) {
    let mut outcomes = stream::iter(programs)
        .map(|(name, program, expected)| async move {
            let outcome = world.run(&name, &program, Patience(PATIENCE)).await;
            (name, expected, outcome)
        })
        .buffer_unordered(4);
    while let Some((name, expected, outcome)) = outcomes.next().await {
        let outcome = outcome.unwrap_or_else(|| panic!("{name} did not end"));
        assert_eq!(outcome, expected, "{name}");
    }
}

fn random() -> Vec<(String, Program, Value)> {
    SEEDS
        .map(|seed| {
            let program = generate::program(seed);
            let expected = model::outcome(&program).unwrap();
            (format!("random-{seed}"), program, expected)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_come_to_what_they_should() {
    let (mut cluster, world) = world(1, "").await;
    check(&world, kept()).await;
    check(&world, random()).await;
    cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_always_suspend_come_to_the_same() {
    let (mut cluster, world) = world(1, "worker.invoker.inactivity-timeout = \"0s\"").await;
    check(&world, random()).await;
    cluster.assert_healthy();
}

#[test]
fn the_model_agrees_with_what_is_kept() {
    for (name, program, expected) in kept() {
        assert_eq!(model::outcome(&program), Ok(expected), "{name}");
    }
}
