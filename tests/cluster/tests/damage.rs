//! What a disk loses or changes is noticed, said with its name, and had again from the other nodes.
//!
//! There is one partition, so that one leader tells all: the node that was damaged is made to lead, and every counter
//! must be where its clients have brought it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abide_test_cluster::drill::{self, Ledger};
use abide_test_cluster::{Cluster, Options};
use serde_json::Value;

const COUNTERS: usize = 10;
/// The node whose disk is damaged. Of those that are as good, the first is made leader.
const VICTIM: usize = 0;
const WITHIN: Duration = Duration::from_secs(120);

struct World {
    cluster: Cluster,
    counts: [u64; COUNTERS],
}

impl World {
    async fn start() -> World {
        let uri = drill::serve(Ledger::default()).await.unwrap();
        let options = Options {
            config: "default-num-partitions = 1\nworker.storage.flush-interval = \"1s\"".to_owned(),
            ..Options::default()
        };
        let cluster = Cluster::start(3, options).await;
        cluster.register(&uri).await;
        let mut world = World {
            cluster,
            counts: [0; COUNTERS],
        };
        for node in 0..3 {
            world.count(node).await;
        }
        world
    }

    /// Adds to every counter through a node.
    async fn count(&mut self, node: usize) {
        for counter in 0..COUNTERS {
            self.counts[counter] += 1;
            self.add(node, counter, self.counts[counter]).await;
        }
    }

    /// Insists that a counter comes to a number, or came to it before.
    async fn add(&mut self, node: usize, counter: usize, number: u64) {
        let deadline = Instant::now() + WITHIN;
        let key = format!("{counter}-{number}");
        let url = format!("{}/DrillCounter/d{counter}/add", self.cluster.ingress(node));
        loop {
            // The service may not be known there yet, and leaders change.
            let headers = [("idempotency-key", key.as_str())];
            let answer = (self.cluster.api())
                .request(http::Method::POST, &url, &headers, "")
                .await;
            match answer {
                Ok(answer) if answer.status.is_success() => {
                    assert_eq!(answer.json(), Value::from(number));
                    return;
                }
                other => assert!(Instant::now() < deadline, "{url}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks again for what was told before; the rows of all results are read.
    async fn repeat(&mut self, node: usize) {
        let told = self.counts;
        for (counter, count) in told.into_iter().enumerate() {
            for number in 1..=count {
                self.add(node, counter, number).await;
            }
        }
    }

    async fn check(&self, node: usize) {
        for (counter, count) in self.counts.iter().enumerate() {
            let url = format!("{}/DrillCounter/d{counter}/get", self.cluster.ingress(node));
            let answer = self.cluster.api().post_empty(&url).await.expect_success();
            assert_eq!(answer, Value::from(*count), "counter {counter}");
        }
    }

    /// Counts until the log has been trimmed.
    async fn count_until_trimmed(&mut self) {
        let deadline = Instant::now() + WITHIN;
        loop {
            for _ in 0..10 {
                self.count(1).await;
            }
            let logs = self.cluster.operator(&["logs", "describe"]).await;
            if logs
                .iter()
                .all(|log| 1 < log["trimmed"].as_u64().unwrap_or(0))
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the log is not trimmed: {logs:?}"
            );
        }
    }

    async fn chain_version(&self) -> u64 {
        let logs = self.cluster.operator(&["logs", "describe"]).await;
        logs[0]["version"].as_u64().unwrap()
    }

    fn partitions(&self) -> PathBuf {
        self.cluster.data(VICTIM).join("partitions")
    }

    fn said(&self, what: &str) -> usize {
        self.cluster.output(VICTIM).matches(what).count()
    }

    async fn wait_until_said(&mut self, what: &str, times: usize) {
        let deadline = Instant::now() + WITHIN;
        while self.said(what) < times {
            assert!(Instant::now() < deadline, "the victim does not say: {what}");
            if !self.cluster.is_running(VICTIM) {
                // Its database had stopped all writes. Whoever watches over processes starts it again.
                assert!(self.said("the node ends because its storage in") > 0);
                self.cluster.start_node(VICTIM);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills leaders until the victim leads, checks what it tells, and has all nodes up again.
    async fn have_the_victim_lead(&mut self) {
        let deadline = Instant::now() + WITHIN;
        loop {
            let leader = self.cluster.leader_of(0).await.node;
            if leader == VICTIM {
                break;
            }
            assert!(Instant::now() < deadline, "the victim is not made leader");
            self.cluster.kill(leader);
            self.count(VICTIM).await;
            self.check(VICTIM).await;
            let led = self.cluster.leader_of(0).await.node == VICTIM;
            self.cluster.start_node(leader);
            self.cluster.wait_until_node_serves(leader).await;
            if led {
                break;
            }
        }
        self.count(VICTIM).await;
        self.check(VICTIM).await;
    }

    async fn start_the_victim(&mut self) {
        self.cluster.start_node(VICTIM);
        self.cluster.wait_until_node_serves(VICTIM).await;
    }
}

fn files(dir: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| fits(&path.file_name().unwrap().to_string_lossy()))
        .collect()
}

/// Changes some bytes in every block of a file but the last.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    for at in (16..length.saturating_sub(600).max(17)).step_by(4096) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_lost_or_damaged_is_had_again_from_another_replica() {
    let mut world = World::start().await;
    world.count_until_trimmed().await;
    let rebuilt = "partition store rebuilt from another replica";

    world.cluster.terminate(VICTIM).await;
    fs::remove_dir_all(world.partitions()).unwrap();
    world.count(1).await;
    world.start_the_victim().await;
    world.wait_until_said(rebuilt, 1).await;
    world.have_the_victim_lead().await;

    let deadline = Instant::now() + WITHIN;
    while files(&world.partitions(), |name| name.ends_with(".sst")).is_empty() {
        assert!(Instant::now() < deadline, "nothing is flushed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.cluster.terminate(VICTIM).await;
    for table in files(&world.partitions(), |name| name.ends_with(".sst")) {
        flip(&table);
    }
    world.start_the_victim().await;
    world.wait_until_said(rebuilt, 2).await;
    assert!(world.said("the partition store is damaged") > 0);
    world.have_the_victim_lead().await;

    world.cluster.terminate(VICTIM).await;
    for manifest in files(&world.partitions(), |name| name.starts_with("MANIFEST")) {
        let file = File::options().write(true).open(manifest).unwrap();
        file.set_len(10).unwrap();
    }
    world.start_the_victim().await;
    world.wait_until_said(rebuilt, 3).await;
    assert!(world.said("its files are put aside") > 0);
    let aside = files(&world.cluster.data(VICTIM), |name| {
        name.starts_with("partitions.damaged-")
    });
    assert_eq!(aside.len(), 1);
    world.have_the_victim_lead().await;

    // All start at once, and the one with the least is the first choice for a leader.
    for node in 0..3 {
        world.cluster.terminate(node).await;
    }
    fs::remove_dir_all(world.partitions()).unwrap();
    for node in 0..3 {
        world.cluster.start_node(node);
    }
    world.cluster.wait_until_serving().await;
    world.count(1).await;
    world.wait_until_said(rebuilt, 4).await;
    world.have_the_victim_lead().await;
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_finds_damage_hands_over_and_tells_nothing_wrong() {
    let mut world = World::start().await;
    world.count_until_trimmed().await;
    world.cluster.terminate(VICTIM).await;
    let largest = files(&world.partitions(), |name| name.ends_with(".sst"))
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let middle = fs::metadata(&largest).unwrap().len() / 2;
    let file = File::options().write(true).open(&largest).unwrap();
    file.write_all_at(&[0xa5; 64], middle).unwrap();
    world.start_the_victim().await;
    world.have_the_victim_lead().await;
    // Opening and leading read little; this reads all.
    world.repeat(1).await;
    world
        .wait_until_said("partition store rebuilt from another replica", 1)
        .await;
    assert!(world.said("the partition store is damaged") > 0);
    world.cluster.wait_until_node_serves(VICTIM).await;
    world.have_the_victim_lead().await;
    world.repeat(1).await;
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_by_name_and_had_again_when_it_is_moved_away() {
    let mut world = World::start().await;
    for _ in 0..20 {
        world.count(1).await;
    }
    world.cluster.terminate(VICTIM).await;
    let log = world.cluster.data(VICTIM).join("log");
    let journal = files(&log.join("journal"), |name| name.ends_with(".journal"))
        .pop()
        .unwrap();
    let bytes = fs::metadata(&journal).unwrap().len();
    let file = File::options().write(true).open(&journal).unwrap();
    file.set_len(bytes / 2).unwrap();

    world.cluster.start_node(VICTIM);
    let deadline = Instant::now() + WITHIN;
    while world.cluster.is_running(VICTIM) {
        assert!(
            Instant::now() < deadline,
            "the victim runs on a damaged log"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let name = journal.file_name().unwrap().to_string_lossy();
    let said = world.cluster.output(VICTIM);
    // It has ended; the harness is to know.
    world.cluster.kill(VICTIM);
    assert!(said.contains(&format!("{name} is damaged")), "{said}");
    assert!(said.contains("move the log directory away"), "{said}");
    world.count(1).await;

    // An empty replica counts for nothing until the leader has copied the segment to it and said so in the chain.
    let version = world.chain_version().await;
    fs::rename(&log, log.with_extension("damaged")).unwrap();
    world.start_the_victim().await;
    let deadline = Instant::now() + WITHIN;
    while world.chain_version().await <= version {
        assert!(
            Instant::now() < deadline,
            "the empty log server does not become a replica"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.have_the_victim_lead().await;
    world.cluster.assert_healthy();
}
