//! Snapshots and backups: what is archived, what is late, and what is deleted.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::{ONE_AT_A_TIME, looks, refused, text, under_load, until};

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_do_not_come_are_told_and_backups_go_one_by_one() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let place = TempDir::new().unwrap();
    let snapshots = place.path().join("snapshots");
    let config = format!(
        "worker.snapshots.destination = \"file://{}\"\n\
         worker.snapshots.snapshot-interval = \"2s\"\n\
         worker.trim-check-interval = \"200ms\"",
        snapshots.display()
    );
    let load = under_load(3, &config).await;
    let cluster = &load.cluster;

    // Listings say up to where records are archived.
    let archived = |rows: &[Value]| {
        let mut rows = rows.iter();
        rows.all(|row| {
            row["archived"]
                .as_u64()
                .is_some_and(|lsn| lsn <= row["applied"].as_u64().unwrap())
        })
    };
    until(cluster, &["partitions", "list"], "archived", archived).await;
    looks(cluster, &["partitions", "list", "--replicas"]).await;
    let sql =
        "select partition_id, archived_log_lsn from partition_state where archived_log_lsn > 0";
    until(cluster, &["sql", sql], "archived", |rows| rows.len() == 6).await;
    refused(
        cluster,
        &["snapshots", "restore", "0", "--node", "N1"],
        2,
        "takes the latest one by itself",
    )
    .await;
    refused(
        cluster,
        &["snapshots", "create", "9"],
        1,
        "there is no partition 9",
    )
    .await;

    // The store breaks: a file stands where its folder was.
    let broken = place.path().join("broken");
    fs::rename(&snapshots, &broken).unwrap();
    fs::write(&snapshots, "no folder").unwrap();

    // Backups go elsewhere meanwhile.
    let at = format!("file://{}", place.path().join("backups").display());
    let create = [
        "backup",
        "create",
        "--to",
        &at,
        "--request-timeout",
        "120000",
    ];
    let first = text(&cluster.operator(&create).await[0]["id"]);
    load.wait_for_progress("between two backups").await;
    let second = text(&cluster.operator(&create).await[0]["id"]);
    let listed = looks(cluster, &["backup", "list", "--at", &at]).await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    let delete = ["backup", "delete", &first, "--at", &at];
    refused(cluster, &delete, 1, "it was not confirmed").await;
    refused(
        cluster,
        &["backup", "delete", "nonsense", "--at", &at, "--yes"],
        1,
        "there is no",
    )
    .await;
    refused(
        cluster,
        &["backup", "delete", "../x", "--at", &at, "--yes"],
        1,
        "is not the id of a backup",
    )
    .await;
    refused(cluster, &["backup", "delete", "--at", &at], 2, "BACKUP").await;
    let typed = cluster.operator_types(1, &delete, &first).await;
    assert!(typed.success, "{typed:?}");
    assert!(
        typed.stdout.contains("is deleted") && typed.stderr.contains("objects"),
        "{typed:?}"
    );
    let listed = cluster.operator(&["backup", "list", "--at", &at]).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let verify = [
        "backup",
        "verify",
        &second,
        "--at",
        &at,
        "--request-timeout",
        "120000",
    ];
    assert_eq!(cluster.operator(&verify).await[0]["id"], second.as_str());
    cluster
        .operator(&["backup", "delete", &second, "--at", &at, "--yes"])
        .await;
    let data = place.path().join("backups/backup-data");
    assert_eq!(files(&data), Vec::<String>::new());

    // By now the snapshots are late, and the status says so and why.
    let status = until_not_well(cluster).await;
    assert_eq!(status["status"], "degraded");
    let problem = &status["problems"][0];
    assert_eq!(
        (&problem["code"], &problem["severity"]),
        (&"snapshots-overdue".into(), &"warning".into())
    );
    assert!(
        text(&problem["message"]).contains("has been due for"),
        "{problem}"
    );
    fs::remove_file(&snapshots).unwrap();
    fs::rename(&broken, &snapshots).unwrap();
    cluster
        .operator(&["snapshots", "create", "--request-timeout", "120000"])
        .await;
    until(cluster, &["status"], "well", |rows| {
        rows[0]["status"] == "well"
    })
    .await;
    load.finish().await;
}

/// `status` fails while the cluster is not well, and prints all the same.
async fn until_not_well(cluster: &abide_test_cluster::Cluster) -> Value {
    let deadline = std::time::Instant::now() + crate::WITHIN;
    loop {
        let output = cluster.tool(0, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(output.stdout.trim()).unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        if problems
            .iter()
            .any(|problem| problem["code"] == "snapshots-overdue")
            && problems.len() == 1
        {
            assert_eq!(output.code, Some(1), "{output:?}");
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{output:?}");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}
