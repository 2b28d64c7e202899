//! Logs: their chains, their records, and what is forgotten of them.

use serde_json::Value;

use crate::{ONE_AT_A_TIME, looks, refused, text, texts, under_load, until};

fn lsns(rows: &[Value]) -> Vec<u64> {
    rows.iter()
        .map(|row| row["lsn"].as_u64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_shown_read_closed_and_trimmed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    // Nothing is trimmed but by hand.
    let mut load = under_load(3, "worker.durability-mode = \"none\"").await;
    let cluster = &load.cluster;

    let listed = looks(cluster, &["logs", "list"]).await;
    assert_eq!(listed.len(), 6);
    assert!(
        listed.iter().all(|log| log["tail"].as_u64() > Some(1)),
        "{listed:?}"
    );
    let described = looks(cluster, &["logs", "describe", "0"]).await;
    assert_eq!(described.len(), 1);
    assert_eq!(described[0]["replicas"].as_array().unwrap().len(), 3);
    let tail = looks(cluster, &["logs", "find-tail", "0,2"]).await;
    assert_eq!(tail.len(), 2);
    refused(
        cluster,
        &["logs", "describe", "6"],
        1,
        "partition 6 does not exist",
    )
    .await;
    refused(
        cluster,
        &["logs", "find-tail", "6"],
        1,
        "partition 6 does not exist",
    )
    .await;
    refused(cluster, &["logs", "find-tail", "-"], 2, "is no partition").await;

    // New segments, with load.
    let epoch = |rows: &[Value]| rows[0]["segment"].as_u64().unwrap();
    let before = epoch(&cluster.operator(&["logs", "find-tail", "1"]).await);
    refused(cluster, &["logs", "seal", "1"], 1, "it was not confirmed").await;
    refused(
        cluster,
        &["logs", "seal", "99", "--yes"],
        1,
        "partition 99 does not exist",
    )
    .await;
    let sealed = cluster.operator(&["logs", "seal", "1", "--yes"]).await;
    assert!(sealed[0]["epoch"].as_u64().unwrap() > before, "{sealed:?}");
    until(
        cluster,
        &["logs", "find-tail", "1"],
        "in a new segment",
        |rows| !rows[0]["segment"].is_null() && epoch(rows) > before,
    )
    .await;
    let led = text(&cluster.operator(&["partitions", "list"]).await[2]["leader"]);
    let replicas = texts(&cluster.operator(&["partitions", "list"]).await[2]["replicas"]);
    let other = replicas.iter().find(|id| **id != led).unwrap();
    // Else balance may move it back before anybody looks.
    let freeze = [
        "partitions",
        "leadership",
        "freeze",
        "2",
        "--reason",
        "a look at it",
    ];
    cluster.operator(&freeze).await;
    until(
        cluster,
        &["logs", "reconfigure", "2", "--leader", other, "--yes"],
        "taken over",
        |rows| rows[0]["leader"] == other.as_str(),
    )
    .await;
    until(cluster, &["partitions", "list"], "led by another", |rows| {
        rows[2]["leader"] == other.as_str() && rows[2]["state"] == "active"
    })
    .await;
    refused(
        cluster,
        &["logs", "reconfigure", "2", "--replicas", "N9", "--yes"],
        1,
        "there is no node 'N9'",
    )
    .await;
    load.wait_for_progress("in new segments").await;

    // The records.
    let records = looks(cluster, &["logs", "dump", "0", "--limit", "20"]).await;
    let first = lsns(&records)[0];
    let in_order: Vec<u64> = (first..first + 20).collect();
    assert_eq!(lsns(&records), in_order);
    assert!(
        records.iter().all(|record| record["problem"].is_null()),
        "{records:?}"
    );
    assert_eq!(records[0]["commands"][0]["kind"], "announce-leader");
    let (from, to) = ((first + 3).to_string(), (first + 5).to_string());
    let some = cluster
        .operator(&["logs", "dump", "0", "--from", &from, "--to", &to])
        .await;
    assert_eq!(lsns(&some), [first + 3, first + 4, first + 5]);
    assert_eq!(some, records[3..6]);
    // More than one page, read through a node that does not lead.
    let many = cluster
        .operator(&["logs", "dump", "0", "--limit", "100000"])
        .await;
    assert!(many.len() >= 20, "{}", many.len());
    let expected: Vec<u64> = (first..).take(many.len()).collect();
    assert_eq!(lsns(&many), expected);
    let beyond = cluster
        .tool(
            0,
            &[
                "logs",
                "dump",
                "0",
                "--from",
                "18446744073709551615",
                "--json",
            ],
        )
        .await;
    assert_eq!(
        (beyond.code, beyond.stdout.as_str()),
        (Some(0), ""),
        "{beyond:?}"
    );
    refused_without_header(
        cluster,
        &["logs", "dump", "6"],
        1,
        "partition 6 does not exist",
    )
    .await;
    refused(cluster, &["logs", "dump", "0", "--from", "0"], 2, "--from").await;
    refused(cluster, &["logs", "dump"], 2, "PARTITION").await;

    // What every replica has on disk may go; what only logs have goes by force, and never what is not applied.
    refused(
        cluster,
        &["logs", "trim", "0", "--to", "1000000000", "--yes"],
        1,
        "are not committed and applied",
    )
    .await;
    refused(
        cluster,
        &[
            "logs",
            "trim",
            "0",
            "--to",
            "1000000000",
            "--force",
            "--yes",
        ],
        1,
        "are not committed and applied",
    )
    .await;
    refused(
        cluster,
        &["logs", "trim", "9", "--yes"],
        1,
        "partition 9 does not exist",
    )
    .await;
    refused(cluster, &["logs", "trim", "0", "--force"], 2, "--to").await;
    let applied = cluster.operator(&["partitions", "list"]).await[0]["applied"]
        .as_u64()
        .unwrap();
    let last = applied.to_string();
    refused(
        cluster,
        &["logs", "trim", "0", "--to", &last, "--yes"],
        1,
        "there is no snapshot",
    )
    .await;
    let typed = cluster
        .operator_types(0, &["logs", "trim", "0", "--to", &last, "--force"], "yes")
        .await;
    assert!(
        !typed.success && typed.stderr.contains("alone"),
        "{typed:?}"
    );
    let typed = cluster
        .operator_types(
            0,
            &["logs", "trim", "0", "--to", &last, "--force", "--json"],
            &last,
        )
        .await;
    assert!(typed.success, "{typed:?}");
    let begins = typed.json()[0]["first"].as_u64().unwrap();
    assert_eq!(begins, applied + 1, "{typed:?}");
    until(cluster, &["logs", "describe", "0"], "trimmed", |rows| {
        rows[0]["trimmed"].as_u64() >= Some(begins)
    })
    .await;
    refused_without_header(
        cluster,
        &["logs", "dump", "0", "--from", "1"],
        1,
        "log 0 begins at",
    )
    .await;
    load.wait_for_progress("with a trimmed log").await;
    let left = looks(cluster, &["logs", "dump", "0", "--limit", "1"]).await;
    assert!(lsns(&left)[0] >= begins, "{left:?}");
    // As far as nobody can miss it: that may be nothing.
    let safe = cluster.operator(&["logs", "trim", "0-5", "--yes"]).await;
    assert_eq!(safe.len(), 6);

    // A follower whose state was in memory only is filled from the leader, and leads as well as any.
    load.kill_and_restart("a follower without the log", &[2])
        .await;
    load.wait_until_converged().await;
    load.finish().await;
}

/// A dump shows its header before it knows that there are no records.
async fn refused_without_header(
    cluster: &abide_test_cluster::Cluster,
    arguments: &[&str],
    code: i32,
    words: &str,
) {
    let output = cluster.tool(0, arguments).await;
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(output.stderr.contains(words), "{output:?}");
}
