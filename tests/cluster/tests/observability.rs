//! What three nodes say of themselves: health, status, logs, and every metric that the page, the dashboards and the
//! alert rules speak of.

#![allow(clippy::unwrap_used, reason = "tests")]

mod metrics;

use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Language, Options, Services, ToolOutput};
use http::Method;
use serde_json::{Value, json};

use crate::metrics::{Exposition, Page, expressions};

/// How long the cluster may take to come to what is awaited.
const WITHIN: Duration = Duration::from_secs(60);

/// Asks until the answer is as it should be.
async fn eventually<T, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    is_so: impl Fn(&T) -> bool,
) -> T
where
    T: std::fmt::Debug,
{
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if is_so(&answer) {
            return answer;
        }
        assert!(start.elapsed() < WITHIN, "not {what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn lines(output: &ToolOutput) -> Vec<Value> {
    let lines = output.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn health(cluster: &Cluster, node: usize, path: &str) -> (u16, Value) {
    let url = format!("http://{}/health{path}", cluster.node_address(node));
    let answer = cluster.api().get(&url).await;
    (answer.status.as_u16(), answer.json())
}

async fn exposed(cluster: &Cluster, node: usize) -> Exposition {
    let url = format!("http://{}/metrics", cluster.node_address(node));
    Exposition::parse(&cluster.api().get(&url).await.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_on_the_page_and_every_expression_speaks_of_metrics_that_are() {
    let services = Services::start(Language::Rust).await;
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.register(&services.uri()).await;
    let sql = "select name from sys_service where ty = 'virtual_object'";
    let object = lines(&cluster.tool(0, &["sql", "--json", sql]).await)[0]["name"].clone();
    let object = object.as_str().unwrap();
    for key in 0..30 {
        let target = format!("{object}/k{key}/add");
        // Other nodes hear of the registration a moment later.
        let call = async || cluster.call(key % 3, &target, &json!(1)).await;
        eventually("registered", call, |answer| answer.status.is_success()).await;
    }
    let page = Page::read();
    for node in 0..3 {
        let exposition = exposed(&cluster, node).await;
        let problems = exposition.compare(&page);
        assert!(problems.is_empty(), "node {node}:\n{}", problems.join("\n"));
    }

    let found = expressions();
    assert!(found.len() > 100, "{} expressions", found.len());
    for (place, expression) in &found {
        let problems = metrics::check(expression, &page);
        assert!(
            problems.is_empty(),
            "{place}: {expression}\n{}",
            problems.join("\n")
        );
    }
    cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_wrong_and_the_probes_tell_live_from_ready() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let status = async |cluster: &Cluster| cluster.tool(0, &["status", "--json"]).await;
    let well = eventually("well", || status(&cluster), |output| output.code == Some(0)).await;
    let object = &lines(&well)[0];
    assert_eq!(
        (&object["status"], &object["nodes_alive"]),
        (&json!("well"), &json!(3))
    );
    for node in 0..3 {
        assert_eq!(
            health(&cluster, node, "/live").await,
            (200, json!({ "live": true }))
        );
        assert_eq!(
            health(&cluster, node, "/ready").await,
            (200, json!({ "ready": true }))
        );
        let (code, report) = health(&cluster, node, "").await;
        assert_eq!(
            (code, &report["status"], &report["ready"]),
            (200, &json!("Alive"), &json!(true))
        );
    }
    let page = cluster.tool(1, &["status"]).await;
    assert!(
        page.stdout.starts_with("cluster test is well\n"),
        "{page:?}"
    );

    cluster.kill(2);
    let dead = |output: &ToolOutput| output.code == Some(1) && output.stdout.contains("node-dead");
    let degraded = eventually("degraded", || status(&cluster), dead).await;
    let problems = lines(&degraded)[0]["problems"].clone();
    let problem = problems
        .as_array()
        .unwrap()
        .iter()
        .find(|problem| problem["code"] == "node-dead");
    let message = problem.unwrap()["message"].as_str().unwrap();
    assert!(message.ends_with("(node3) is dead"), "{message}");
    let stats = async |cluster: &Cluster| {
        let url = format!("{}/api/v1/cluster/stats", cluster.admin(0));
        cluster.api().get(&url).await.expect_success()
    };
    let found = eventually(
        "led by the others",
        || stats(&cluster),
        |stats| {
            stats["status"] == "degraded" && stats["partitions_active"] == stats["partitions_total"]
        },
    )
    .await;
    assert_eq!(
        (&found["nodes_total"], &found["nodes_alive"]),
        (&json!(3), &json!(2))
    );
    for member in found["members"].as_array().unwrap() {
        let expected = match member["name"] == "node3" {
            true => "dead",
            false => "alive",
        };
        assert_eq!(member["status"], expected, "{member}");
    }
    assert_eq!(
        found["leader_name"].as_str().map(|name| &name[..4]),
        Some("node")
    );

    // Alone it waits for a majority: that is alive, and not ready.
    cluster.kill(0);
    cluster.kill(1);
    cluster.start_node(1);
    let url = format!("http://{}/health/live", cluster.node_address(1));
    let api = cluster.api().clone();
    let listening = eventually(
        "listening",
        || api.request(Method::GET, &url, &[], ""),
        Result::is_ok,
    )
    .await;
    listening.unwrap().expect_status(200);
    assert_eq!(health(&cluster, 1, "/live").await.0, 200);
    let (code, body) = health(&cluster, 1, "/ready").await;
    assert_eq!((code, &body["ready"]), (503, &json!(false)));
    assert!(
        body["reason"].as_str().unwrap().contains("majority"),
        "{body}"
    );
    let (code, report) = health(&cluster, 1, "").await;
    assert_eq!((code, &report["ready"]), (200, &json!(false)));
    let alone = cluster.tool(1, &["status"]).await;
    assert_eq!(alone.code, Some(1), "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_into_the_cluster_from_any_node() {
    let mut cluster = Cluster::start(
        3,
        Options {
            config: "log-format = \"json\"\nlog-filter = \"warn,abide=info\"".to_owned(),
            ..Options::default()
        },
    )
    .await;
    let sql = "select name, has_worker_role from nodes order by name";
    let table = cluster.tool(1, &["sql", sql]).await;
    assert_eq!(
        (table.code, table.stdout.as_str()),
        (
            Some(0),
            "name   has_worker_role\nnode1  true\nnode2  true\nnode3  true\n"
        ),
    );
    let rows = cluster.tool(2, &["sql", "--json", sql]).await;
    assert_eq!(
        lines(&rows)[1],
        json!({ "name": "node2", "has_worker_role": true })
    );
    let wrong = cluster.tool(0, &["sql", "drop table nodes"]).await;
    assert_eq!(
        (wrong.code, wrong.stdout.as_str()),
        (Some(1), ""),
        "{wrong:?}"
    );
    assert!(wrong.stderr.contains("error:"), "{wrong:?}");

    let top = cluster
        .tool(0, &["top", "--once", "--interval", "200", "--json"])
        .await;
    assert_eq!(lines(&top).len(), 3, "{top:?}");
    for row in lines(&top) {
        assert!(row["invocations_per_second"].is_number(), "{row}");
        assert!(row["resident_bytes"].as_u64().unwrap() > 1 << 20, "{row}");
    }

    let filters = async |cluster: &Cluster, arguments: &[&str]| {
        let arguments = [&["log-filter", "--json"], arguments].concat();
        let output = cluster.tool(0, &arguments).await;
        let filters = lines(&output)
            .into_iter()
            .map(|row| row["filter"].as_str().unwrap().to_owned());
        (output.code, filters.collect::<Vec<_>>())
    };
    let (before, wanted) = ("warn,abide=info", "warn,abide=info,abide_node=debug");
    assert_eq!(
        filters(&cluster, &[]).await,
        (Some(0), vec![before.to_owned(); 3])
    );
    let set = filters(&cluster, &["set", wanted, "--node", "N2"]).await;
    assert_eq!(set, (Some(0), vec![wanted.to_owned()]));
    // In the order of the ids, which is that of joining.
    let all = filters(&cluster, &[]).await.1;
    assert_eq!(all, [before, wanted, before]);
    let refused = cluster
        .tool(0, &["log-filter", "set", "abide=loud", "--node", "2"])
        .await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("is not a filter"), "{refused:?}");
    assert_eq!(
        filters(&cluster, &["reset"]).await,
        (Some(0), vec![before.to_owned(); 3])
    );

    let url = format!("{}/api/v1/log-filter", cluster.admin(2));
    let put = async |filter: &str| {
        let body = json!({ "filter": filter }).to_string();
        let headers = [("content-type", "application/json")];
        cluster
            .api()
            .request(Method::PUT, &url, &headers, body)
            .await
            .unwrap()
    };
    let changed = put("info").await.expect_success();
    assert_eq!(changed, json!({ "filter": "info", "configured": before }));
    put("a=b=c").await.expect_status(400);
    assert_eq!(
        cluster.api().get(&url).await.expect_success()["filter"],
        "info"
    );
    // Every line of the log says whose it is.
    let output = cluster.output(2);
    let mut changes = output
        .lines()
        .filter(|line| line.contains("log filter changed"));
    let change: Value = serde_json::from_str(changes.next_back().unwrap()).unwrap();
    assert_eq!(
        (&change["cluster_name"], &change["node_name"]),
        (&json!("test"), &json!("node3"))
    );
    assert_eq!(
        (&change["now"], &change["level"]),
        (&json!("info"), &json!("INFO"))
    );
    cluster.assert_healthy();
}
