//! Nodes are killed, paused and restarted under steady load, and nothing is lost, doubled or refused.
//!
//! `ABIDE_DRILL_ROUNDS` says how many rounds there are (10 when it is not set). Each prints the
//! longest that a client of a surviving node waited.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;

use abide_test_cluster::Options;
use abide_test_cluster::under_load::{LONGER_THAN_THE_FAILURE_TIMEOUT, UnderLoad};
use tokio::sync::Mutex;

/// Drills share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn killed_nodes_lose_double_and_refuse_nothing() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let rounds: usize = env::var("ABIDE_DRILL_ROUNDS").map_or(10, |text| text.parse().unwrap());
    let mut drill = UnderLoad::start(Options::default()).await;
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
    let mut drill = UnderLoad::start(Options::default()).await;
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
async fn a_paused_leader_of_the_metadata_plane_is_replaced() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut drill = UnderLoad::start(Options::default()).await;
    let paused = drill.cluster.metadata_leader().await;
    let led = drill.cluster.leader_of(drill.partition).await;

    drill.clients.expect_down(paused);
    drill.cluster.pause(paused);
    tokio::time::sleep(LONGER_THAN_THE_FAILURE_TIMEOUT).await;
    drill.wait_for_progress("while it is paused").await;
    drill.print_longest_wait("kill -STOP of the metadata leader");
    drill.cluster.resume(paused);
    drill.cluster.wait_until_node_serves(paused).await;
    drill.wait_until_converged().await;
    drill.clients.expect_up(paused);
    drill.wait_for_progress("after it went on").await;

    let now = drill.cluster.leader_of(drill.partition).await;
    assert!(led.epoch <= now.epoch, "{led:?}, then {now:?}");
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_stop_is_not_noticed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut drill = UnderLoad::start(Options::default()).await;
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
