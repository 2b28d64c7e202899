//! SQL on a cluster of three nodes: every node shows the rows of all partitions, whoever leads them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Language, Options, Services};
use http::Method;
use serde_json::{Value, json};

const HEADERS: &[(&str, &str)] = &[
    ("content-type", "application/json"),
    ("accept", "application/json"),
];
/// How long another node may need to hear of what is registered.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

async fn rows(cluster: &Cluster, node: usize, path: &str, text: &str) -> Vec<Value> {
    let url = format!("{}{path}/query", cluster.admin(node));
    let body = json!({ "query": text }).to_string();
    let answer = cluster
        .api()
        .request(Method::POST, &url, HEADERS, body)
        .await;
    let answer = answer.unwrap();
    answer.expect_status(200);
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.json()["rows"].as_array().unwrap().clone()
}

/// Asks until the answer has so many rows.
async fn rows_in_time(cluster: &Cluster, node: usize, text: &str, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let rows = rows(cluster, node, "", text).await;
        if rows.len() == count || start.elapsed() > KNOWN_WITHIN {
            assert_eq!(rows.len(), count, "{text}: {rows:?}");
            return rows;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_the_rows_of_all_partitions() {
    let services = Services::start(Language::Rust).await;
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.register(&services.uri()).await;
    let registered = rows(&cluster, 0, "", "select name, ty from sys_service").await;
    let named = |ty: &str| {
        let service = registered.iter().find(|row| row["ty"] == ty);
        service.unwrap()["name"].as_str().unwrap().to_owned()
    };
    let (service, object) = (named("service"), named("virtual_object"));
    for node in 0..3 {
        rows_in_time(
            &cluster,
            node,
            "select * from sys_service",
            registered.len(),
        )
        .await;
    }
    for key in 0..20 {
        let call = cluster
            .call(key % 3, &format!("{object}/k{key}/add"), &json!(key))
            .await;
        call.expect_success();
    }
    let waiting = cluster
        .send(0, &format!("{service}/nap"), &json!(3_600_000))
        .await;
    for node in 0..3 {
        let state = rows(
            &cluster,
            node,
            "/v4",
            "select service_key, key, value_utf8 from state",
        )
        .await;
        assert_eq!(state.len(), 20, "{state:?}");
        let text = format!(
            "select count(1) as n from sys_invocation_status where target_service_name = '{object}'"
        );
        let counted = rows(&cluster, node, "/v2", &text).await;
        assert!(counted[0]["n"].as_u64().is_some());
        let text = format!("select id, status, target from sys_invocation where id = '{waiting}'");
        let found = rows_in_time(&cluster, node, &text, 1).await;
        assert_eq!(found[0]["target"], format!("{service}/nap"));
        let text = format!(
            "select entry_type, entry_lite_json from sys_journal where id = '{waiting}' and index = 0"
        );
        let journal = rows_in_time(&cluster, node, &text, 1).await;
        assert_eq!(journal[0]["entry_type"], "Command: Input");
        let nodes = rows(
            &cluster,
            node,
            "",
            "select plain_node_id from nodes where state = 'alive'",
        )
        .await;
        assert_eq!(nodes.len(), 3);
        let leaders = "select partition_id from partition_state where effective_mode = 'leader'";
        let partitions = rows(&cluster, node, "", "select * from partitions").await;
        rows_in_time(&cluster, node, leaders, partitions.len()).await;
    }
    // Their leaders are elsewhere now, and their rows where they were.
    cluster.kill(2);
    rows_in_time(&cluster, 0, "select service_key from state", 20).await;
    let operated = cluster.operate(0, &waiting, "kill").await;
    operated.expect_success();
    cluster.start_node(2);
    cluster.wait_until_node_serves(2).await;
    cluster.assert_healthy();
}
