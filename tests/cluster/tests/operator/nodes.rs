//! Nodes that are drained, get work again, and leave.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{ONE_AT_A_TIME, WITHIN, ids, refused, texts, under_load, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_what_it_waits_for_and_ends_when_it_has_waited_enough() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let load = under_load(2, "").await;
    let cluster = &load.cluster;
    refused(
        cluster,
        &["nodes", "drain", "N9", "--yes"],
        1,
        "there is no node 'N9'",
    )
    .await;
    refused(cluster, &["nodes", "drain"], 2, "NODE").await;
    refused(
        cluster,
        &["nodes", "drain", "node3"],
        1,
        "it was not confirmed",
    )
    .await;
    refused(
        cluster,
        &["nodes", "undrain", "nobody"],
        1,
        "there is no node 'nobody'",
    )
    .await;
    refused(
        cluster,
        &[
            "nodes",
            "set-worker-state",
            "--nodes",
            "3",
            "--worker-state",
            "draining",
        ],
        2,
        "one state for all their roles",
    )
    .await;

    let freeze = [
        "partitions",
        "placement",
        "freeze",
        "0",
        "--reason",
        "audit",
    ];
    cluster.operator(&freeze).await;
    let begun = Instant::now();
    let drain = ["nodes", "drain", "node3", "--yes", "--timeout", "2"];
    let waited = cluster.tool(0, &drain).await;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    assert!(begun.elapsed() < WITHIN, "{:?}", begun.elapsed());
    for words in [
        "The placement of partitions 0 is frozen",
        "after 2 s it is still going on",
        "partition 0: its placement is frozen: audit",
    ] {
        assert!(
            waited.stderr.contains(words),
            "'{words}': {}",
            waited.stderr
        );
    }
    // The same for programs, without waiting; the drain goes on meanwhile.
    let frozen_only = |rows: &[Value]| {
        rows[0]["replicas"] == serde_json::json!([0])
            && rows[0]["waits"]
                .as_array()
                .is_some_and(|waits| waits.iter().any(|wait| wait["partition"] == 0))
    };
    let look = ["nodes", "drain", "node3", "--yes"];
    let left = until(
        cluster,
        &look,
        "drained but for what is frozen",
        frozen_only,
    )
    .await;
    assert_eq!(left[0]["state"], "draining");
    // With two nodes for three replicas it is not well, which the exit code says.
    let status = cluster.tool(1, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let problems = status["problems"].as_array().unwrap();
    assert!(
        problems
            .iter()
            .any(|problem| problem["code"] == "node-draining"),
        "{problems:?}"
    );

    // Work again.
    cluster
        .operator(&["partitions", "placement", "unfreeze", "0"])
        .await;
    let active = cluster
        .operator(&["nodes", "undrain", "node3", "--yes"])
        .await;
    assert_eq!(active[0]["state"], "active");
    let again = cluster.tool(0, &["nodes", "undrain", "node3"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("is active already"), "{again:?}");
    until(
        cluster,
        &["partitions", "placement", "show"],
        "on three nodes",
        |rows| rows.iter().all(|row| texts(&row["replicas"]).len() == 3),
    )
    .await;
    load.wait_for_progress("with the node back").await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_drained_and_removed_only_where_nothing_is_lost() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut load = under_load(2, "").await;
    let ids = ids(&load.cluster).await;
    refused(
        &load.cluster,
        &["nodes", "remove", "node3", "--yes"],
        1,
        "is alive and was not drained",
    )
    .await;
    refused(
        &load.cluster,
        &["nodes", "remove", "node3", "--force", "--yes"],
        1,
        "is alive and was not drained",
    )
    .await;
    refused(
        &load.cluster,
        &["nodes", "remove", "N9", "--yes"],
        1,
        "there is no node 'N9'",
    )
    .await;
    load.cluster.kill(2);
    let cluster = &load.cluster;
    until(cluster, &["nodes", "list"], "seen as dead", |rows| {
        rows.iter()
            .any(|row| row["name"] == "node3" && row["liveness"] == "dead")
    })
    .await;
    refused(
        cluster,
        &["nodes", "remove", "node3", "--yes"],
        1,
        "still has",
    )
    .await;
    load.wait_for_progress("with a dead node").await;
    // Without the two that are left nothing could be written.
    refused(
        cluster,
        &["nodes", "drain", "node2", "--yes"],
        1,
        "there are 1 nodes that can hold replicas",
    )
    .await;
    let drained = cluster
        .operate_until_done(&["nodes", "drain", "node3"])
        .await;
    assert_eq!(
        (&drained[0]["empty"], &drained[0]["state"]),
        (&true.into(), &"draining".into())
    );
    let show = cluster.operator(&["partitions", "placement", "show"]).await;
    assert!(
        show.iter()
            .all(|row| !texts(&row["replicas"]).contains(&ids["node3"])),
        "{show:?}"
    );
    let wrong = cluster
        .operator_types(0, &["nodes", "remove", "node3"], "node2")
        .await;
    assert!(
        !wrong.success && wrong.stderr.contains("Type node3"),
        "{wrong:?}"
    );
    let removed = cluster
        .operator_types(0, &["nodes", "remove", "node3", "--json"], "node3")
        .await;
    assert!(removed.success, "{removed:?}");
    assert_eq!(removed.json()[0]["state"], "removed");
    refused(
        cluster,
        &["nodes", "remove", &ids["node3"], "--yes"],
        1,
        "was removed already",
    )
    .await;
    let nodes = cluster.operator(&["nodes", "list"]).await;
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    load.wait_for_progress("without it").await;

    // A machine with the same name and an empty disk is a new node.
    load.cluster.wipe(2);
    load.cluster.start_node(2);
    load.cluster
        .wait_until_node_serves_within(2, Duration::from_secs(120))
        .await;
    until(
        &load.cluster,
        &["partitions", "placement", "show"],
        "on three nodes",
        |rows| rows.iter().all(|row| texts(&row["replicas"]).len() == 3),
    )
    .await;
    load.finish().await;
}
