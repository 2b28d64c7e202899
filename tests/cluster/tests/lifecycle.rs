//! What operators do to invocations and state, seen by clients of a service made with an official SDK.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Language, Options, Services};
use serde_json::{Value, json};

/// Two attempts, then `then`.
async fn start(then: &str) -> (Cluster, Services) {
    let services = Services::start(Language::Lifecycle).await;
    let policy = format!(
        "default-retry-policy = {{ initial-interval = \"20ms\", max-attempts = 2, on-max-attempts = \"{then}\" }}"
    );
    let cluster = Cluster::start(
        1,
        Options {
            config: policy,
            ..Options::default()
        },
    )
    .await;
    cluster.register(&services.uri()).await;
    (cluster, services)
}

async fn invocation(cluster: &Cluster, id: &str) -> Value {
    let url = format!("{}/invocations/{id}", cluster.admin(0));
    cluster.api().get(&url).await.json()
}

async fn wait_for(cluster: &Cluster, id: &str, status: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = invocation(cluster, id).await;
        if seen["status"] == status {
            return;
        }
        assert!(Instant::now() < deadline, "{id} is not {status}: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_invocation_goes_on_elsewhere_and_starts_over_where_asked() {
    let (mut cluster, _first) = start("pause").await;
    let input = json!({"name": "moved", "times": 2});
    let id = cluster.send(0, "TsBasics/stepThenFail", &input).await;
    wait_for(&cluster, &id, "paused").await;
    let seen = invocation(&cluster, &id).await;
    assert_eq!(seen["last_failure_error_code"], "RT0007", "{seen}");

    // The second endpoint counts its own attempts: both of its budget fail, and the third gets through.
    let second = Services::start(Language::Lifecycle).await;
    cluster.register(&second.uri()).await;
    let resume = cluster.operate(0, &id, "resume?deployment=latest").await;
    resume.expect_status(200);
    wait_for(&cluster, &id, "paused").await;
    let again = cluster.operate(0, &id, "restart-as-new").await;
    again.expect_status(409);
    cluster.operate(0, &id, "resume").await.expect_status(200);
    let moved = cluster.attach(0, &id).await.expect_success();
    assert_eq!(moved["attempt"], 3, "{moved}");

    let restart = |query: &'static str| {
        let (cluster, id) = (&cluster, &id);
        async move {
            let route = format!("restart-as-new{query}");
            let new = cluster.operate(0, id, &route).await.expect_success();
            let new = new["new_invocation_id"].as_str().unwrap().to_owned();
            cluster.attach(0, &new).await.expect_success()
        }
    };
    let copied = restart("?from=2").await;
    assert_eq!(
        copied["process_id"], moved["process_id"],
        "the step is copied"
    );
    assert_eq!(copied["attempt"], 4, "{copied}");
    let anew = restart("").await;
    assert_ne!(
        anew["process_id"], moved["process_id"],
        "the step is taken again"
    );
    let far = cluster.operate(0, &id, "restart-as-new?from=100").await;
    far.expect_status(400);
    cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_used_the_attempts_up_comes_with_its_stack_trace() {
    let (cluster, _services) = start("kill").await;
    let input = json!({"name": "hopeless", "times": 1000});
    let answer = cluster.call(0, "TsBasics/failThenSucceed", &input).await;
    let body = answer.expect_status(500).json();
    assert_eq!(body["message"], "attempt 2 fails on purpose", "{body}");
    let stacktrace = body["stacktrace"].as_str().unwrap_or_default();
    assert!(stacktrace.contains("lifecycle.js"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_an_operator_changes_waits_for_who_holds_the_key() {
    let (cluster, _services) = start("pause").await;
    let slow = json!({"amount": 1, "ms": 700});
    let holder = cluster.send(0, "TsStore/k/slowAdd", &slow).await;
    wait_for(&cluster, &holder, "running").await;
    let url = format!("{}/services/TsStore/state", cluster.admin(0));
    let change = json!({"object_key": "k", "new_state": {"count": "100".as_bytes()}});
    cluster.api().post(&url, &change).await.expect_status(202);
    let stale = json!({"object_key": "k", "new_state": {}, "version": "stale"});
    cluster.api().post(&url, &stale).await.expect_status(202);
    let behind = cluster.call(0, "TsStore/k/add", &json!(1)).await;
    assert_eq!(behind.expect_success(), json!(101));
    assert_eq!(cluster.attach(0, &holder).await.expect_success(), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_before_it_began_is_gone() {
    let (cluster, _services) = start("pause").await;
    let url = format!("{}/TsBasics/echo/send?delay=60s", cluster.ingress(0));
    let sent = cluster.api().post(&url, &json!("x")).await.expect_success();
    let id = sent["invocationId"].as_str().unwrap();
    cluster.operate(0, id, "cancel").await.expect_status(200);
    cluster.operate(0, id, "cancel").await.expect_status(404);
    let output = format!("{}/restate/invocation/{id}/output", cluster.ingress(0));
    cluster.api().get(&output).await.expect_status(404);
}
