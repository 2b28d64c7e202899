//! More is lost than replication covers, and an operator has the cluster go on with what is left.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::{Duration, Instant};

use abide_test_cluster::drill::{self, Ledger};
use abide_test_cluster::{Cluster, Options};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(120);
/// The node whose disk survives.
const SURVIVOR: usize = 2;

async fn start() -> Cluster {
    let uri = drill::serve(Ledger::default()).await.unwrap();
    let options = Options {
        config: "default-num-partitions = 2".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start(3, options).await;
    cluster.register(&uri).await;
    cluster
}

/// Adds to a counter and insists on an answer.
async fn add(cluster: &Cluster, node: usize, counter: &str, number: u64) -> u64 {
    let url = format!("{}/DrillCounter/{counter}/add", cluster.ingress(node));
    let key = format!("{counter}-{number}");
    let deadline = Instant::now() + WITHIN;
    loop {
        let headers = [("idempotency-key", key.as_str())];
        let answer = (cluster.api())
            .request(http::Method::POST, &url, &headers, "")
            .await;
        match answer {
            Ok(answer) if answer.status.is_success() => return answer.json().as_u64().unwrap(),
            other => assert!(Instant::now() < deadline, "{url}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn count(
    cluster: &Cluster,
    node: usize,
    counters: u64,
    numbers: std::ops::RangeInclusive<u64>,
) {
    for counter in 0..counters {
        for number in numbers.clone() {
            assert_eq!(
                add(cluster, node, &format!("r{counter}"), number).await,
                number
            );
        }
    }
}

/// Waits until a node can be asked, though it has not joined.
async fn wait_until_it_listens(cluster: &Cluster, node: usize) {
    let deadline = Instant::now() + WITHIN;
    while tokio::net::TcpStream::connect(cluster.node_address(node))
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "node {node} does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for_voters(cluster: &Cluster, count: usize) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let rows = cluster
            .try_operator(&["nodes", "list"])
            .await
            .unwrap_or_default();
        let voting = rows
            .iter()
            .filter(|row| matches!(row["metadata_server"].as_str(), Some("leader" | "follower")));
        if voting.count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "not {count} voters: {rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The metadata directories of two nodes are gone, their logs are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_of_metadata_servers_is_replaced_from_the_survivor() {
    let mut cluster = start().await;
    count(&cluster, 0, 5, 1..=5).await;
    let before = cluster.operator(&["nodes", "list"]).await;

    let refused = cluster
        .operator_types(SURVIVOR, &["recover", "metadata"], "node3")
        .await;
    assert!(!refused.success);
    assert!(
        refused
            .stderr
            .contains("a majority of the metadata servers answers"),
        "{refused:?}"
    );

    for node in [0, 1] {
        cluster.kill(node);
        fs::remove_dir_all(cluster.data(node).join("metadata")).unwrap();
        cluster.start_node(node);
    }
    // What runs without a vote keeps running, and cannot mend itself.
    let shown = cluster
        .operator_types(SURVIVOR, &["recover", "metadata", "--json"], "yes")
        .await;
    assert!(!shown.success);
    assert!(shown.stderr.contains("nothing was changed"), "{shown:?}");
    let survivor = shown
        .json()
        .into_iter()
        .find(|server| server["name"] == "node3")
        .unwrap();
    assert!(survivor["last"].as_u64().unwrap() >= survivor["committed"].as_u64().unwrap());
    assert!(survivor["documents"]["partition-table"].as_u64().unwrap() > 0);

    // Asked of a node that lost all: it finds the survivor by the configured addresses.
    wait_until_it_listens(&cluster, 0).await;
    let recovered = cluster
        .operator_types_under_supervision(0, &["recover", "metadata"], "node3")
        .await;
    assert!(recovered.success, "{recovered:?}");
    assert!(
        recovered.stdout.contains("node3 is the only voter"),
        "{recovered:?}"
    );
    let deadline = Instant::now() + WITHIN;
    loop {
        cluster.restart_the_ended();
        let rows = cluster
            .try_operator(&["nodes", "list"])
            .await
            .unwrap_or_default();
        let alive = rows.iter().filter(|row| row["liveness"] == "alive").count();
        if alive == 3 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the nodes do not come back: {rows:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.wait_until_serving().await;
    wait_for_voters(&cluster, 3).await;
    // The same nodes under the same ids, and nothing of what they do was lost.
    let after = cluster.operator(&["nodes", "list"]).await;
    let ids = |rows: &[Value]| -> Vec<(Value, Value)> {
        let mut ids: Vec<_> = rows
            .iter()
            .map(|row| (row["name"].clone(), row["node"].clone()))
            .collect();
        ids.sort_by_key(|(name, _)| name.to_string());
        ids
    };
    assert_eq!(ids(&before), ids(&after));
    for node in 0..3 {
        count(&cluster, node, 5, 1..=5).await;
    }
    count(&cluster, 0, 5, 6..=7).await;
    cluster.assert_healthy();
}

/// Two nodes lose all that they have: metadata and logs.
#[tokio::test(flavor = "multi_thread")]
async fn two_lost_disks_of_three_leave_what_the_third_holds() {
    let mut cluster = start().await;
    count(&cluster, 0, 5, 1..=5).await;
    for node in [0, 1] {
        cluster.kill(node);
        fs::remove_dir_all(cluster.data(node)).unwrap();
    }
    let recovered = cluster
        .operator_types_under_supervision(SURVIVOR, &["recover", "metadata"], "node3")
        .await;
    assert!(recovered.success, "{recovered:?}");
    cluster.start_node(0);
    cluster.start_node(1);
    wait_for_voters(&cluster, 3).await;

    // Nobody can lead: of no log do enough replicas answer.
    let deadline = Instant::now() + WITHIN;
    let ran = loop {
        let ran = cluster
            .operator_types(SURVIVOR, &["recover", "logs"], "lose 0 1")
            .await;
        if ran.success {
            break ran;
        }
        assert!(Instant::now() < deadline, "{ran:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(
        ran.stderr
            .contains("1 of 3 replicas answer, and it takes 2"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("other-disk"), "{ran:?}");
    cluster.wait_until_serving().await;
    // The survivor was among those that had acknowledged, or was not behind for long: a counter may have lost its
    // last additions, and none in between.
    for counter in 0..5 {
        let name = format!("r{counter}");
        let url = format!("{}/DrillCounter/{name}/get", cluster.ingress(0));
        let deadline = Instant::now() + WITHIN;
        let kept = loop {
            let answer = cluster.api().post_empty(&url).await;
            if answer.status.is_success() {
                break answer.json().as_u64().unwrap();
            }
            assert!(Instant::now() < deadline, "{}", answer.text());
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(kept <= 5, "{name} is at {kept}");
        assert_eq!(add(&cluster, 0, &name, 100).await, kept + 1);
        for node in 0..3 {
            assert_eq!(add(&cluster, node, &name, 100).await, kept + 1);
        }
    }
    let refused = cluster
        .operator_types(SURVIVOR, &["recover", "logs"], "lose 0 1")
        .await;
    assert!(
        refused
            .stderr
            .contains("of every log enough replicas answer"),
        "{refused:?}"
    );
    cluster.assert_healthy();
}
