//! The metadata plane, the configuration, and what nodes log.

use serde_json::{Value, json};

use crate::{ONE_AT_A_TIME, ids, looks, refused, text, texts, under_load, until};

#[tokio::test(flavor = "multi_thread")]
async fn documents_votes_filters_and_replication_are_changed_with_care() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let load = under_load(3, "").await;
    let cluster = &load.cluster;

    // Documents.
    let keys = looks(cluster, &["metadata", "get"]).await;
    assert!(
        keys.iter().any(|row| row["key"] == "partition-table"),
        "{keys:?}"
    );
    let get = ["metadata", "get", "cluster", "--linearizable"];
    let document = cluster.operator(&get).await;
    assert_eq!(document[0]["value"]["partitions"], 6);
    let shown = cluster.tool(1, &get).await;
    assert!(
        shown.stdout.contains("\n  \"partitions\": 6,\n"),
        "{shown:?}"
    );
    refused(
        cluster,
        &["metadata", "get", "nothing"],
        1,
        "there is no document 'nothing'",
    )
    .await;
    let put = ["metadata", "put", "-k", "note", "--value"];
    let with =
        |more: &[&'static str]| -> Vec<&'static str> { put.iter().chain(more).copied().collect() };
    refused(cluster, &with(&["{", "--yes"]), 2, "is not JSON").await;
    refused(cluster, &with(&["{\"a\":1}"]), 1, "it was not confirmed").await;
    let dry = cluster.operator(&with(&["{\"a\":1}", "--dry-run"])).await;
    assert_eq!(dry[0]["version"], 0);
    refused(
        cluster,
        &["metadata", "get", "note"],
        1,
        "there is no document",
    )
    .await;
    let written = cluster.operator(&with(&["{\"a\":1}", "--yes"])).await;
    let version = written[0]["version"].as_u64().unwrap();
    assert!(version > 0, "{written:?}");
    refused(
        cluster,
        &with(&["{}", "--version", "0", "--yes"]),
        1,
        "is at version",
    )
    .await;
    let patch = r#"[{"op":"add","path":"/b","value":[2]}]"#;
    let patched = cluster
        .operator(&["metadata", "patch", "-k", "note", "-p", patch, "--yes"])
        .await;
    assert_eq!(patched[0]["value"], json!({ "a": 1, "b": [2] }));
    assert!(
        patched[0]["version"].as_u64().unwrap() > version,
        "{patched:?}"
    );
    let wrong = r#"[{"op":"remove","path":"/z"}]"#;
    refused(
        cluster,
        &["metadata", "patch", "-k", "note", "-p", wrong, "--yes"],
        1,
        "the patch does not fit",
    )
    .await;
    refused(
        cluster,
        &["metadata", "patch", "-k", "note", "-p", "{}", "--yes"],
        2,
        "is not JSON",
    )
    .await;
    refused(
        cluster,
        &["metadata", "patch", "-k", "none", "-p", patch, "--yes"],
        1,
        "there is no document 'none'",
    )
    .await;
    let eight = r#"[{"op":"replace","path":"/partitions","value":8}]"#;
    refused(
        cluster,
        &["metadata", "patch", "-k", "cluster", "-p", eight, "--yes"],
        2,
        "cannot be changed",
    )
    .await;
    let typed = cluster
        .operator_types(
            1,
            &["metadata", "put", "-k", "note", "--value", "3", "--json"],
            "note",
        )
        .await;
    assert!(typed.success, "{typed:?}");
    assert_eq!(typed.json()[0]["value"], 3);

    // Votes.
    let id = ids(cluster).await["node3"].clone();
    let votes = |rows: &[Value]| -> Option<bool> {
        rows.iter().find(|row| row["name"] == "node3")?["votes"].as_bool()
    };
    let servers = looks(cluster, &["metadata-server", "list-servers"]).await;
    assert_eq!((servers.len(), votes(&servers)), (3, Some(true)));
    refused(
        cluster,
        &["metadata-server", "remove-node", "node3"],
        1,
        "it was not confirmed",
    )
    .await;
    cluster
        .operator(&["metadata-server", "remove-node", "node3", "--yes"])
        .await;
    let list = ["metadata-server", "list"];
    until(cluster, &list, "without a vote", |rows| {
        votes(rows) == Some(false)
    })
    .await;
    cluster
        .operator(&["metadata-server", "add-node", &id, "--yes"])
        .await;
    until(cluster, &list, "with a vote", |rows| {
        votes(rows) == Some(true)
    })
    .await;
    refused(
        cluster,
        &["metadata-server", "remove-node", "N9", "--yes"],
        1,
        "there is no node 'N9'",
    )
    .await;
    refused(cluster, &["metadata-server", "add-node"], 2, "NODE").await;

    // What nodes log.
    let shown = looks(cluster, &["log-filter"]).await;
    assert_eq!(shown.len(), 3);
    let configured = shown[0]["filter"].clone();
    let set = cluster
        .operator(&["log-filter", "--node", &id, "set", "info,abide_node=debug"])
        .await;
    assert_eq!(
        (set.len(), &set[0]["filter"]),
        (1, &json!("info,abide_node=debug"))
    );
    let shown = cluster.operator(&["log-filter", "show"]).await;
    let changed = shown.iter().filter(|row| row["filter"] != configured);
    assert_eq!(changed.count(), 1, "{shown:?}");
    let reset = cluster.operator(&["log-filter", "reset"]).await;
    assert!(
        reset.iter().all(|row| row["filter"] == configured),
        "{reset:?}"
    );
    let bad = cluster
        .tool(0, &["log-filter", "set", "abide=loud", "--json"])
        .await;
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(!bad.stdout.contains("\"problem\":null"), "{bad:?}");
    refused(
        cluster,
        &["log-filter", "--node", "N9", "show"],
        1,
        "there is no node N9",
    )
    .await;
    refused(
        cluster,
        &["log-filter", "--node", "x", "show"],
        2,
        "a node is N1",
    )
    .await;

    // How the cluster replicates.
    let config = looks(cluster, &["config", "get"]).await;
    assert_eq!(config[0]["replication"], "2");
    refused(cluster, &["config", "set"], 2, "no change was asked for").await;
    refused(
        cluster,
        &["config", "set", "--replication", "many"],
        2,
        "many",
    )
    .await;
    refused(
        cluster,
        &["config", "set", "--replicas", "18", "--yes"],
        2,
        "at most 17",
    )
    .await;
    refused(
        cluster,
        &[
            "config",
            "set",
            "--replicas",
            "5",
            "--write-quorum",
            "4",
            "--yes",
        ],
        1,
        "3 nodes can hold replicas",
    )
    .await;
    refused(
        cluster,
        &["config", "set", "--replicas", "2"],
        1,
        "it was not confirmed",
    )
    .await;
    let dry = cluster
        .operator(&["config", "set", "--replicas", "2", "--dry-run"])
        .await;
    assert_eq!(dry[0]["unreconciled"].as_array().unwrap().len(), 6);
    let two = ["config", "set", "--replicas", "2", "--write-quorum", "2"];
    let shrunk = cluster.operate_until_done(&two).await;
    assert_eq!(
        (&shrunk[0]["replicas"], &shrunk[0]["unreconciled"]),
        (&json!(2), &json!([]))
    );
    load.wait_for_progress("with two replicas").await;
    // What is frozen stays as it is, however quick the others are.
    let freeze = [
        "partitions",
        "placement",
        "freeze",
        "0",
        "--reason",
        "replication",
    ];
    cluster.operator(&freeze).await;
    let impatient = [
        "config",
        "set",
        "--replication",
        "2",
        "--yes",
        "--timeout",
        "1",
    ];
    let impatient = cluster.tool(0, &impatient).await;
    assert_eq!(impatient.code, Some(1), "{impatient:?}");
    assert!(
        impatient
            .stderr
            .contains("partitions are not as configured"),
        "{impatient:?}"
    );
    let unfreeze = ["partitions", "placement", "unfreeze", "0"];
    cluster.operator(&unfreeze).await;
    let grown = cluster
        .operate_until_done(&["config", "set", "--replication", "2"])
        .await;
    assert_eq!(grown[0]["replicas"], 3);
    let placed = cluster.operator(&["partitions", "placement", "show"]).await;
    assert!(
        placed.iter().all(|row| texts(&row["replicas"]).len() == 3),
        "{placed:?}"
    );

    // The databases.
    let compact = ["storage", "compact", "--database", "log,partitions"];
    let rows = cluster.operator(&compact).await;
    let nodes: Vec<String> = rows.iter().map(|row| text(&row["node"])).collect();
    assert_eq!(nodes, ["N1", "N1", "N2", "N2", "N3", "N3"]);
    for row in &rows {
        assert!(row["problem"].is_null(), "{row}");
        assert!(row["took_ms"].is_u64() && row["bytes"].is_u64(), "{row}");
    }
    refused(
        cluster,
        &["storage", "compact", "--node", "N9"],
        1,
        "there is no node N9",
    )
    .await;
    load.wait_for_progress("after the compactions").await;
    load.finish().await;
}
