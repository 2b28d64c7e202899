//! Replicas start from snapshots where the log was trimmed, and a backup under load makes a new cluster in which
//! everything fits together.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::drill::{self, Ledger};
use abide_test_cluster::{Api, Cluster, Options};
use restate_sdk::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(180);
/// Of those that are as good, the first is made leader; this one is not.
const VICTIM: usize = 2;

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// Adds to a counter through a node until it has come to a number.
async fn add(cluster: &Cluster, node: usize, counter: &str, number: u64) {
    let deadline = Instant::now() + WITHIN;
    let key = format!("{counter}-{number}");
    let target = format!("{}/DrillCounter/{counter}/add", cluster.ingress(node));
    loop {
        let headers = [("idempotency-key", key.as_str())];
        let answer = cluster
            .api()
            .request(http::Method::POST, &target, &headers, "")
            .await;
        match answer {
            Ok(answer) if answer.status.is_success() => {
                assert_eq!(answer.json(), Value::from(number));
                return;
            }
            other => assert!(Instant::now() < deadline, "{target}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn log(cluster: &Cluster, field: &str) -> u64 {
    let logs = cluster.operator(&["logs", "describe"]).await;
    let values = logs.iter().filter_map(|log| log[field].as_u64());
    values.max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_store_starts_from_the_snapshot_below_which_the_log_was_trimmed() {
    let place = TempDir::new().unwrap();
    let uri = drill::serve(Ledger::default()).await.unwrap();
    let options = Options {
        config: format!(
            "default-num-partitions = 1\n\
             worker.snapshots.destination = \"{}\"\n\
             worker.snapshots.num-retained = 2\n\
             worker.storage.flush-interval = \"1s\"\n\
             worker.trim-check-interval = \"200ms\"",
            url(place.path())
        ),
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await;
    cluster.register(&uri).await;
    // Away, and without its store when it comes back: it holds nothing up. Its own log server was not there either, and
    // has none of the records that are about to come; from those it could make its store again.
    cluster.kill(VICTIM);
    fs::remove_dir_all(cluster.data(VICTIM).join("partitions")).unwrap();
    for number in 1..=50 {
        add(&cluster, 0, "before", number).await;
    }
    let taken = cluster.operator(&["snapshots", "create"]).await;
    assert_eq!(taken.len(), 1);
    let first = taken[0]["lsn"].as_u64().unwrap();
    assert!(first > 50, "{taken:?}");

    for number in 1..=50 {
        add(&cluster, 0, "meanwhile", number).await;
    }
    let deadline = Instant::now() + WITHIN;
    loop {
        // The other follower has to have flushed what is trimmed.
        let taken = cluster
            .try_operator(&["snapshots", "create", "--trim-log"])
            .await;
        let trimmed = log(&cluster, "trimmed").await;
        if first < trimmed {
            break;
        }
        assert!(Instant::now() < deadline, "not trimmed: {taken:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = cluster.operator(&["snapshots", "list"]).await;
    let kept = listed[0]["snapshots"].as_array().unwrap();
    assert_eq!(kept.len(), 2, "{listed:?}");

    cluster.start_node(VICTIM);
    cluster.wait_until_node_serves(VICTIM).await;
    let deadline = Instant::now() + WITHIN;
    let restored = "partition store restored from a snapshot";
    while !cluster.output(VICTIM).contains(restored) {
        assert!(
            Instant::now() < deadline,
            "the victim does not say: {restored}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It leads when the others are gone one after the other, and knows everything.
    loop {
        let leader = cluster.leader_of(0).await.node;
        if leader == VICTIM {
            break;
        }
        assert!(Instant::now() < deadline, "the victim does not lead");
        cluster.kill(leader);
        add(&cluster, VICTIM, "before", 51).await;
        let led = cluster.leader_of(0).await.node == VICTIM;
        cluster.start_node(leader);
        cluster.wait_until_node_serves(leader).await;
        if led {
            break;
        }
    }
    for counter in ["before", "meanwhile"] {
        let get = format!("{}/DrillCounter/{counter}/get", cluster.ingress(VICTIM));
        let count = cluster.api().post_empty(&get).await.expect_success();
        assert!(count.as_u64().unwrap() >= 50, "{counter}: {count}");
    }
    cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_by_records_and_old_ones_go() {
    let place = TempDir::new().unwrap();
    let uri = drill::serve(Ledger::default()).await.unwrap();
    let options = Options {
        config: format!(
            "default-num-partitions = 1\n\
             worker.snapshots.destination = \"{}\"\n\
             worker.snapshots.snapshot-interval-num-records = 40\n\
             worker.storage.flush-interval = \"1s\"\n\
             worker.trim-delay-interval = \"0s\"\n\
             worker.trim-num-records-min = 10\n\
             worker.trim-check-interval = \"100ms\"",
            url(place.path())
        ),
        ..Options::default()
    };
    let mut cluster = Cluster::start(1, options).await;
    cluster.register(&uri).await;
    let deadline = Instant::now() + WITHIN;
    let mut number = 0;
    let mut seen = Vec::new();
    // Each is followed by a later one, of which alone the log keeps less than it had.
    while seen.len() < 4 {
        number += 1;
        add(&cluster, 0, "c", number).await;
        let listed = cluster.operator(&["snapshots", "list"]).await;
        let kept = listed[0]["snapshots"].as_array().unwrap();
        assert!(kept.len() <= 1, "{listed:?}");
        if let Some(lsn) = kept.last().and_then(|kept| kept["lsn"].as_u64())
            && seen.last() < Some(&lsn)
        {
            seen.push(lsn);
        }
        assert!(Instant::now() < deadline, "snapshots of {seen:?} only");
    }
    while log(&cluster, "trimmed").await < seen[1] {
        assert!(Instant::now() < deadline, "the log is not trimmed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let folders = fs::read_dir(place.path().join("0")).unwrap();
    let snapshots = folders
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("metadata.json").exists());
    assert!(snapshots.count() <= 2, "old snapshots stay");
    cluster.assert_healthy();
}

/// Accounts that send each other money: what one gives away is on its way until the other has it.
struct Account;

#[allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]
mod accounts {
    use super::*;

    #[object]
    impl Account {
        #[handler]
        async fn give(&self, ctx: ObjectContext<'_>, to: String) -> HandlerResult<i64> {
            let given = ctx.get::<i64>("given").await?.unwrap_or(0) + 1;
            ctx.set("given", given);
            ctx.object_client::<AccountClient>(to).take().send();
            Ok(given)
        }

        #[handler]
        async fn take(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
            let taken = ctx.get::<i64>("taken").await?.unwrap_or(0) + 1;
            ctx.set("taken", taken);
            Ok(())
        }

        #[handler]
        async fn given(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
            Ok(ctx.get::<i64>("given").await?.unwrap_or(0))
        }

        #[handler]
        async fn taken(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
            Ok(ctx.get::<i64>("taken").await?.unwrap_or(0))
        }
    }
}

const ACCOUNTS: u64 = 32;
/// Counters that one client adds to in turn, one after the other.
const IN_TURN: u64 = 16;

struct Load {
    stop: Arc<AtomicBool>,
    given: Arc<AtomicU64>,
    in_turn: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(ingresses: &[String]) -> Load {
        let load = Load {
            stop: Arc::default(),
            given: Arc::default(),
            in_turn: Arc::default(),
            tasks: Vec::new(),
        };
        let mut tasks = Vec::new();
        for client in 0..8_u64 {
            let ingress = ingresses[client as usize % ingresses.len()].clone();
            let (stop, given) = (load.stop.clone(), load.given.clone());
            tasks.push(tokio::spawn(async move {
                let api = Api::default();
                let mut round = client;
                while !stop.load(Ordering::Relaxed) {
                    round = round
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let (from, to) = ((round >> 33) % ACCOUNTS, (round >> 45) % ACCOUNTS);
                    let target = format!("{ingress}/Account/a{from}/give");
                    api.post(&target, &json!(format!("a{to}")))
                        .await
                        .expect_success();
                    given.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        let (stop, in_turn, ingress) = (
            load.stop.clone(),
            load.in_turn.clone(),
            ingresses[0].clone(),
        );
        tasks.push(tokio::spawn(async move {
            let api = Api::default();
            while !stop.load(Ordering::Relaxed) {
                let turn = in_turn.load(Ordering::SeqCst) % IN_TURN;
                let target = format!("{ingress}/DrillCounter/t{turn}/add");
                api.post_empty(&target).await.expect_success();
                in_turn.fetch_add(1, Ordering::SeqCst);
            }
        }));
        Load { tasks, ..load }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn number(cluster: &Cluster, target: &str) -> i64 {
    let answer = cluster
        .api()
        .post_empty(&format!("{}/{target}", cluster.ingress(0)))
        .await;
    answer.expect_success().as_i64().unwrap()
}

async fn sum(cluster: &Cluster, handler: &str) -> i64 {
    let mut sum = 0;
    for account in 0..ACCOUNTS {
        sum += number(cluster, &format!("Account/a{account}/{handler}")).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_makes_a_new_cluster_in_which_everything_fits_together() {
    let place = TempDir::new().unwrap();
    let drill = drill::serve(Ledger::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let accounts = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(HttpServer::new(Endpoint::builder().bind(Account).build()).serve(listener));

    let config = "default-num-partitions = 6\nworker.trim-check-interval = \"200ms\"".to_owned();
    let mut old = Cluster::start(
        3,
        Options {
            config: config.clone(),
            ..Options::default()
        },
    )
    .await;
    old.register(&drill).await;
    old.register(&accounts).await;
    let ingresses: Vec<String> = (0..3).map(|node| old.ingress(node)).collect();
    for ingress in &ingresses {
        // Every node has to know the services before clients insist.
        let deadline = Instant::now() + WITHIN;
        let known = format!("{ingress}/Account/a0/given");
        while !old.api().post_empty(&known).await.status.is_success() {
            assert!(Instant::now() < deadline, "{known}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let load = Load::start(&ingresses);
    let deadline = Instant::now() + WITHIN;
    while load.given.load(Ordering::SeqCst) < 300 || load.in_turn.load(Ordering::SeqCst) < 60 {
        assert!(Instant::now() < deadline, "no load");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let to = url(place.path());
    let (given_before, turn_before) = (
        load.given.load(Ordering::SeqCst),
        load.in_turn.load(Ordering::SeqCst),
    );
    let created = old
        .operator(&[
            "backup",
            "create",
            "--to",
            &to,
            "--request-timeout",
            "120000",
        ])
        .await;
    let (given_after, turn_after) = (
        load.given.load(Ordering::SeqCst),
        load.in_turn.load(Ordering::SeqCst),
    );
    println!(
        "held for {} microseconds; {created:?}",
        created[0]["held_micros"]
    );
    assert_eq!(created[0]["partitions"], 6);
    let listed = old.operator(&["backup", "list", "--at", &to]).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["id"], created[0]["id"]);
    old.operator(&["backup", "verify", "--at", &to]).await;
    load.stop().await;
    old.assert_healthy();
    for node in 0..3 {
        old.kill(node);
    }

    let options = Options {
        config,
        unprovisioned: true,
        ..Options::default()
    };
    let mut new = Cluster::start(3, options).await;
    let deadline = Instant::now() + WITHIN;
    let formed = loop {
        match new
            .try_operator(&["--yes", "backup", "restore", "--from", &to])
            .await
        {
            Ok(formed) => break formed,
            // Its port may not be open yet.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_ne!(formed[0]["fingerprint"], created[0]["fingerprint"]);
    new.wait_until_serving().await;
    let deadline = Instant::now() + WITHIN;
    while !new
        .api()
        .post_empty(&format!("{}/Account/a0/given", new.ingress(0)))
        .await
        .status
        .is_success()
    {
        assert!(
            Instant::now() < deadline,
            "the restored services are not served"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // What was told before the backup began is in, and what came after it ended is not; nothing was lost on its way.
    let given = sum(&new, "given").await;
    assert!(
        i64::try_from(given_before).unwrap() <= given
            && given <= i64::try_from(given_after).unwrap() + 8,
        "{given_before} <= {given} <= {given_after}"
    );
    while sum(&new, "taken").await != given {
        let taken = sum(&new, "taken").await;
        assert!(
            Instant::now() < deadline,
            "{given} were given and {taken} taken"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One client added in turn: whatever is in has everything before it.
    let mut turns = Vec::new();
    for turn in 0..IN_TURN {
        turns.push(
            number(&new, &format!("DrillCounter/t{turn}/get"))
                .await
                .cast_unsigned(),
        );
    }
    let all: u64 = turns.iter().sum();
    assert!(
        turn_before <= all && all <= turn_after + 1,
        "{turn_before} <= {all} <= {turn_after}"
    );
    let expected: Vec<u64> = (0..IN_TURN)
        .map(|turn| (all + IN_TURN - 1 - turn) / IN_TURN)
        .collect();
    assert_eq!(turns, expected);

    // It is a cluster like any other: it goes on, and survives a restart of a node.
    let key = "Account/a1/give";
    new.api()
        .post(&format!("{}/{key}", new.ingress(1)), &json!("a2"))
        .await
        .expect_success();
    new.terminate(1).await;
    new.start_node(1);
    new.wait_until_node_serves(1).await;
    while sum(&new, "taken").await != given + 1 {
        assert!(
            Instant::now() < deadline,
            "what was given last is not taken"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    new.assert_healthy();
}
