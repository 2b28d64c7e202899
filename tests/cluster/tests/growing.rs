//! Clusters grow and shrink under steady load, and nothing is lost, doubled or refused.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use abide_test_cluster::under_load::{Load, UnderLoad, wait_until_known};
use abide_test_cluster::{Cluster, Options};
use serde_json::Value;
use tokio::sync::Mutex;

/// Drills share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A few are enough to see them move.
const PARTITIONS: &str = "default-num-partitions = 6";

/// Load on the first nodes of a cluster, less than where nodes are broken: what moves takes its share.
async fn drill(nodes: usize, ingresses: usize, options: Options) -> UnderLoad {
    let load = Load {
        ingresses: Some(ingresses),
        clients: 2,
        pause: Duration::from_millis(30),
        progress: 50,
    };
    UnderLoad::with(Cluster::prepare(nodes, options), load).await
}

/// The nodes with a replica of each partition; who stays, while replicas are exchanged for balance.
async fn placement(cluster: &Cluster) -> Vec<BTreeSet<String>> {
    let rows = cluster.operator(&["partitions", "placement", "show"]).await;
    let names = |row: &Value| {
        let next = row["next"].as_array().unwrap();
        let names = match next.is_empty() {
            true => row["replicas"].as_array().unwrap().iter(),
            false => next.iter(),
        };
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    rows.iter().map(names).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_becomes_three_and_replicates_under_load() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = Options {
        config: PARTITIONS.to_owned(),
        replication: "1".to_owned(),
        ..Options::default()
    };
    let mut drill = drill(1, 1, options).await;
    let too_much = drill
        .cluster
        .try_operator(&["config", "set", "--replication", "2", "--yes"])
        .await
        .unwrap_err();
    assert!(too_much.contains("1 nodes can hold replicas"), "{too_much}");
    for _ in 0..2 {
        let node = drill.cluster.add_node();
        drill.cluster.wait_until_node_serves(node).await;
        wait_until_known(&drill.cluster, node).await;
    }
    let config = drill
        .cluster
        .operate_until_done(&["config", "set", "--replication", "2"])
        .await;
    assert_eq!(config[0]["replication"], "2");
    assert_eq!(config[0]["unreconciled"], serde_json::json!([]));
    for replicas in placement(&drill.cluster).await {
        assert_eq!(replicas, set(&["N1", "N2", "N3"]));
    }
    drill.wait_for_progress("with three replicas").await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_become_three_under_load() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = Options {
        config: PARTITIONS.to_owned(),
        replication: "2".to_owned(),
        ..Options::default()
    };
    let mut drill = drill(5, 3, options).await;
    let alive = drill
        .cluster
        .try_operator(&["nodes", "remove", "node5", "--yes"])
        .await
        .unwrap_err();
    assert!(alive.contains("is alive and was not drained"), "{alive}");
    for name in ["node4", "node5"] {
        let drained = drill
            .cluster
            .operate_until_done(&["nodes", "drain", name])
            .await;
        assert_eq!(drained[0]["empty"], true, "{drained:?}");
        drill.wait_for_progress("with a node drained").await;
        let removed = drill
            .cluster
            .operator(&["nodes", "remove", name, "--yes"])
            .await;
        assert_eq!(removed[0]["state"], "removed");
    }
    for node in [3, 4] {
        wait_for_end(&mut drill.cluster, node).await;
        drill.cluster.kill(node);
    }
    let nodes = drill.cluster.operator(&["nodes", "list"]).await;
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    for replicas in placement(&drill.cluster).await {
        assert_eq!(replicas.len(), 3);
    }
    drill.wait_for_progress("with three nodes").await;
    // Two nodes have ended, as they should.
    drill.audit().await;
}

/// A removed node ends by itself.
async fn wait_for_end(cluster: &mut Cluster, node: usize) {
    for attempt in 0.. {
        if !cluster.is_running(node) {
            return;
        }
        assert!(
            attempt < 1200,
            "node {node} goes on although it was removed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_with_an_empty_disk() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = Options {
        config: PARTITIONS.to_owned(),
        replication: "2".to_owned(),
        ..Options::default()
    };
    let mut drill = drill(3, 2, options).await;
    drill.cluster.kill(2);
    drill.cluster.wipe(2);
    drill.wait_for_progress("with a node lost").await;
    let removed = drill
        .cluster
        .operator(&["nodes", "remove", "node3", "--force", "--yes"])
        .await;
    // Which id it has hangs on the order in which the nodes came.
    let removed = removed[0]["node"].as_str().unwrap().to_owned();
    drill.cluster.start_node(2);
    drill.cluster.wait_until_node_serves(2).await;
    let mut everywhere = set(&["N1", "N2", "N3", "N4"]);
    assert!(everywhere.remove(&removed), "{removed} was a member");
    for attempt in 0.. {
        let placed = placement(&drill.cluster).await;
        if placed.iter().all(|replicas| *replicas == everywhere) {
            break;
        }
        assert!(attempt < 600, "{placed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drill.wait_for_progress("with the node back").await;
    drill.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_are_respected_and_pins_are_kept() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let locations = ["eu.a", "eu.a", "eu.a", "eu.b"];
    let options = Options {
        config: PARTITIONS.to_owned(),
        replication: "{ zone = 2, node = 3 }".to_owned(),
        locations: locations.iter().map(|zone| (*zone).to_owned()).collect(),
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await;
    let config = cluster.operator(&["config", "get"]).await;
    assert_eq!(config[0]["replication"], "{zone: 2, node: 3}");
    let problem = config[0]["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("2 zones"), "{problem}");

    let fourth = cluster.add_node();
    cluster.wait_until_node_serves(fourth).await;
    let reconciled = cluster
        .operate_until_done(&["config", "set", "--zones", "2"])
        .await;
    assert_eq!(reconciled[0]["problems"], serde_json::json!([]));
    for replicas in placement(&cluster).await {
        assert!(
            replicas.contains("N4") && replicas.len() == 3,
            "{replicas:?}"
        );
    }

    cluster
        .operator(&[
            "--yes",
            "partitions",
            "leadership",
            "pin",
            "0-5",
            "--node",
            "N4",
        ])
        .await;
    for attempt in 0.. {
        let rows = cluster
            .operator(&["partitions", "leadership", "show"])
            .await;
        if rows
            .iter()
            .all(|row| row["leader"] == "N4" && row["pinned"] == "N4")
        {
            break;
        }
        assert!(attempt < 600, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pinned = cluster
        .try_operator(&["partitions", "move", "0", "--to", "N1"])
        .await
        .unwrap_err();
    assert!(pinned.contains("pinned to N4"), "{pinned}");
    cluster.assert_healthy();
}
