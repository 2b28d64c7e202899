//! Concurrency limits of scopes, as the handlers that run under them see it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_test_cluster::{Api, Cluster, Options};
use futures::future::join_all;
use http::Method;
use restate_sdk::prelude::*;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const INVOCATIONS: usize = 50;
const LIMIT: usize = 3;
/// Longer than a leader's handlers go on unnoticed when its connections break; shorter than a change of leader.
const HOLD: Duration = Duration::from_millis(60);

/// How many handlers run, and the most that ever did.
#[derive(Clone, Default)]
struct Meter {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// One running handler, until its future ends or is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Meter {
    fn enter(&self) -> Running {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        Running(self.running.clone())
    }

    fn take_most(&self) -> usize {
        self.most.swap(0, Ordering::SeqCst)
    }
}

struct Metered {
    meter: Meter,
}

#[allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]
mod services {
    use super::*;

    #[service]
    impl Metered {
        #[handler]
        async fn hold(&self, _ctx: Context<'_>, number: u64) -> HandlerResult<u64> {
            let _running = self.meter.enter();
            sleep(HOLD).await;
            Ok(number)
        }
    }
}

struct World {
    cluster: Cluster,
    meter: Meter,
}

async fn world(nodes: usize) -> World {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let meter = Meter::default();
    let service = Metered {
        meter: meter.clone(),
    };
    let endpoint = Endpoint::builder().bind(service).build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    let cluster = Cluster::start(nodes, Options::default()).await;
    cluster.register(&uri).await;
    let world = World { cluster, meter };
    for node in 0..nodes {
        world.wait_until_known(node).await;
    }
    world
}

impl World {
    async fn wait_until_known(&self, node: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let url = format!("{}/Metered/hold", self.cluster.ingress(node));
        while !self.api().post(&url, &json!(0)).await.status.is_success() {
            assert!(Instant::now() < deadline, "node {node} knows the service");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn api(&self) -> &Api {
        self.cluster.api()
    }

    async fn limit(&self, pattern: &str, limit: Option<usize>) {
        let url = format!("{}/limits/rules", self.cluster.admin(0));
        let body = json!([{"pattern": pattern, "limits": {"concurrency": limit}}]);
        let headers = [("content-type", "application/json")];
        let put = self
            .api()
            .request(Method::PUT, &url, &headers, body.to_string());
        put.await.unwrap().expect_success();
    }

    async fn send(&self, node: usize, scope: &str, limit_key: &str, number: usize) -> String {
        let url = format!(
            "{}/restate/scope/{scope}/send/Metered/hold?limit-key={limit_key}",
            self.cluster.ingress(node)
        );
        let sent = self.api().post(&url, &json!(number)).await.expect_success();
        sent["invocationId"].as_str().unwrap().to_owned()
    }

    async fn send_all(&self, node: usize, scope: &str) -> Vec<String> {
        join_all((0..INVOCATIONS).map(|number| self.send(node, scope, "", number))).await
    }

    async fn wait_for_all(&self, node: usize, ids: &[String]) {
        let answers = join_all(ids.iter().map(|id| self.cluster.attach(node, id))).await;
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.expect_success(), json!(number));
        }
    }

    /// Rules reach the leaders by the watch of the metadata, shortly after the answer to who wrote them.
    async fn wait_until_limited(&self, scope: &str, most: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.meter.take_most();
            let ids = self.send_all(0, scope).await;
            self.wait_for_all(0, &ids).await;
            if self.meter.take_most() == most {
                return;
            }
            assert!(Instant::now() < deadline, "the limit holds");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_limit_run_at_once_across_the_death_of_the_leader() {
    let mut world = world(3).await;
    world.limit("tenant", Some(LIMIT)).await;
    world.wait_until_limited("tenant", LIMIT).await;

    let ids = world.send_all(1, "tenant").await;
    world.wait_for_all(2, &ids).await;
    assert_eq!(world.meter.take_most(), LIMIT, "with all nodes up");

    let partition = world.cluster.partition_of(&ids[0]).await;
    let leader = world.cluster.leader_of(partition).await.node;
    let survivor = (leader + 1) % 3;
    let ids = world.send_all(survivor, "tenant").await;
    world.cluster.kill(leader);
    world.wait_for_all(survivor, &ids).await;
    assert_eq!(world.meter.take_most(), LIMIT, "across the leader's death");

    world.cluster.start_node(leader);
    world.cluster.wait_until_serving().await;
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_of_a_scope_and_its_keys_and_change_while_things_run() {
    let mut world = world(1).await;
    world.limit("*", Some(4)).await;
    world.limit("*/*", Some(2)).await;
    world.wait_until_limited("a", 4).await;

    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(world.send(0, "b", "key", number).await);
    }
    world.wait_for_all(0, &ids).await;
    assert_eq!(world.meter.take_most(), 2, "of one limit key");

    // Without a scope there is no limit.
    let cluster = &world.cluster;
    let unscoped = (0..20).map(async |number| {
        let answer = cluster.call(0, "Metered/hold", &json!(number)).await;
        answer.expect_success()
    });
    join_all(unscoped).await;
    assert!(world.meter.take_most() > 4);

    let ids = world.send_all(0, "c").await;
    world.limit("c", Some(8)).await;
    world.wait_for_all(0, &ids).await;
    assert_eq!(world.meter.take_most(), 8, "a wider limit counts at once");
    world.cluster.assert_healthy();
}
