//! Nodes are killed, paused and restarted under steady load, and nothing is lost, doubled or refused.
//!
//! `ABIDE_DRILL_ROUNDS` says how many rounds there are (10 when it is not set). Each prints the
//! longest that a client of a surviving node waited.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::time::Duration;

use abide_test_cluster::drill::{self, Clients, Ledger};
use abide_test_cluster::{Cluster, Options};
use tokio::sync::Mutex;

/// Drills share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Longer than silence is taken for death.
const LONGER_THAN_THE_FAILURE_TIMEOUT: Duration = Duration::from_secs(6);

const CLIENTS_PER_INGRESS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

struct Drill {
    cluster: Cluster,
    clients: Clients,
    ledger: Ledger,
    /// An object's partition, whose leader the drill goes for.
    partition: u64,
    /// The longest wait of all rounds.
    longest: Duration,
}

impl Drill {
    async fn start() -> Drill {
        let ledger = Ledger::default();
        let uri = drill::serve(ledger.clone()).await.unwrap();
        let mut cluster = Cluster::start(3, Options::default()).await;
        cluster.register(&uri).await;
        for node in 0..3 {
            wait_until_known(&cluster, node).await;
        }
        let url = format!("{}/DrillCounter/marked/add/send", cluster.ingress(0));
        let accepted = cluster.api().post_empty(&url).await.expect_success();
        let partition = cluster
            .partition_of(accepted["invocationId"].as_str().unwrap())
            .await;
        cluster.wait_until_serving().await;
        let ingresses = (0..3).map(|node| cluster.ingress(node)).collect();
        let clients = Clients::start(ingresses, CLIENTS_PER_INGRESS, PAUSE);
        let drill = Drill {
            cluster,
            clients,
            ledger,
            partition,
            longest: Duration::ZERO,
        };
        drill.wait_for_progress("the load begins").await;
        drill.clients.take_longest_wait();
        drill
    }

    /// Waits until a good number of further operations were acknowledged.
    async fn wait_for_progress(&self, when: &str) {
        let goal = self.clients.acknowledged() + 100;
        let in_time = tokio::time::timeout(Duration::from_secs(60), async {
            while self.clients.acknowledged() < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(in_time.await.is_ok(), "{when}: no progress within a minute");
    }

    async fn kill_and_restart(&mut self, what: &str, victims: &[usize]) {
        for victim in victims {
            self.clients.expect_down(*victim);
        }
        for victim in victims {
            self.cluster.kill(*victim);
        }
        if victims.len() < self.cluster.len() {
            self.wait_for_progress(what).await;
        }
        for victim in victims {
            self.cluster.start_node(*victim);
        }
        for victim in victims {
            self.cluster.wait_until_node_serves(*victim).await;
            self.clients.expect_up(*victim);
        }
        self.wait_for_progress(&format!("{what}, restarted")).await;
        self.print_longest_wait(what);
        self.cluster.assert_healthy();
    }

    fn print_longest_wait(&mut self, what: &str) {
        let (longest, operation) = self.clients.take_longest_wait();
        self.longest = self.longest.max(longest);
        println!("{what}: longest wait at a surviving node {longest:?} ({operation})");
    }

    async fn finish(self) {
        let Drill {
            mut cluster,
            clients,
            ledger,
            longest,
            ..
        } = self;
        println!("longest wait at a surviving node, of all rounds: {longest:?}");
        clients.stop_and_audit(&ledger).await;
        cluster.assert_healthy();
    }
}

async fn wait_until_known(cluster: &Cluster, node: usize) {
    for attempt in 0.. {
        let url = format!("{}/DrillCounter/unused/get", cluster.ingress(node));
        let answer = cluster.api().post_empty(&url).await;
        if answer.status.is_success() {
            return;
        }
        assert!(attempt < 200, "node {node}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_nodes_lose_double_and_refuse_nothing() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let rounds: usize = env::var("ABIDE_DRILL_ROUNDS").map_or(10, |text| text.parse().unwrap());
    let mut drill = Drill::start().await;
    for round in 0..rounds {
        let leader = drill.cluster.leader_of(drill.partition).await.node;
        let (what, victims) = match round % 4 {
            0 => ("a leader", vec![leader]),
            1 => (
                "the metadata leader",
                vec![drill.cluster.metadata_leader().await],
            ),
            2 => ("a follower", vec![(leader + 1) % 3]),
            _ => ("all three", vec![0, 1, 2]),
        };
        let what = format!("round {}, kill -9 of {what}", round + 1);
        drill.kill_and_restart(&what, &victims).await;
    }
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_fenced() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut drill = Drill::start().await;
    let before = drill.cluster.leader_of(drill.partition).await;

    drill.clients.expect_down(before.node);
    drill.cluster.pause(before.node);
    tokio::time::sleep(LONGER_THAN_THE_FAILURE_TIMEOUT).await;
    drill.wait_for_progress("while the leader is paused").await;
    drill.print_longest_wait("kill -STOP of a leader");
    drill.cluster.resume(before.node);
    drill.cluster.wait_until_node_serves(before.node).await;
    drill.clients.expect_up(before.node);
    drill
        .wait_for_progress("after the old leader went on")
        .await;

    let after = drill.cluster.leader_of(drill.partition).await;
    assert!(after.epoch > before.epoch, "{before:?}, then {after:?}");
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_stop_is_not_noticed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut drill = Drill::start().await;
    for node in 0..3 {
        drill.clients.expect_down(node);
        drill.cluster.terminate(node).await;
        drill.wait_for_progress("while a node is away").await;
        drill.cluster.start_node(node);
        drill.cluster.wait_until_node_serves(node).await;
        drill.clients.expect_up(node);
        drill.wait_for_progress("with the node back").await;
        drill.print_longest_wait(&format!("SIGTERM of node {}", node + 1));
    }
    drill.finish().await;
}
