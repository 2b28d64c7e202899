//! One language in one setting, and how cases talk to it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::{Answer, Api, Cluster};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::endpoint::Variant;
use crate::{Endpoint, Language, Setting};

/// How long something may take until it holds.
const EVENTUALLY: Duration = Duration::from_secs(30);

/// A cluster with the services of one language.
pub struct World {
    /// The SDK that the services are made with.
    pub language: Language,
    /// What the cluster was started with.
    pub setting: Setting,
    /// The cluster, for cases that break it.
    pub cluster: Mutex<Cluster>,
    /// The services, for cases that break them.
    pub endpoint: Mutex<Endpoint>,
    api: Api,
    ingress: Vec<String>,
    admin: Vec<String>,
    turn: AtomicUsize,
}

/// A handler, `Service/handler` or `Service/key/handler`.
pub type Target = str;

impl World {
    /// Starts both, and registers the services.
    pub async fn start(language: Language, setting: Setting) -> World {
        let endpoint = Endpoint::start(language, Variant::default()).await;
        let cluster = Cluster::start(setting.nodes(), setting.options()).await;
        let nodes = 0..cluster.len();
        let world = World {
            language,
            setting,
            api: cluster.api().clone(),
            ingress: nodes.clone().map(|node| cluster.ingress(node)).collect(),
            admin: nodes.map(|node| cluster.admin(node)).collect(),
            cluster: Mutex::new(cluster),
            turn: AtomicUsize::new(0),
            endpoint: Mutex::new(endpoint),
        };
        let uri = world.endpoint.lock().await.uri();
        world.register(&uri).await;
        world.wait_until_known("Basics").await;
        world
    }

    /// Registers an endpoint; the answer of the admin API.
    pub async fn register(&self, uri: &str) -> Value {
        let body = json!({ "uri": uri, "force": true });
        self.admin(Method::POST, "/deployments", Some(&body))
            .await
            .expect_success()
    }

    /// The admin API answers before the last node's cache has heard of a registration.
    pub async fn wait_until_known(&self, service: &str) {
        for (admin, ingress) in self.admin.iter().zip(&self.ingress) {
            self.eventually("the admin API knows the service", || async {
                let url = format!("{admin}/services/{service}");
                self.api.get(&url).await.status.is_success()
            })
            .await;
            self.eventually("the ingress knows the service", || async {
                let url = format!("{ingress}/restate/health");
                self.api.get(&url).await.text().contains(service)
            })
            .await;
        }
    }

    /// A key that no other case uses.
    pub fn key(&self) -> String {
        format!("{:08x}", rand::random::<u32>())
    }

    /// The client that all requests are sent with.
    pub fn api(&self) -> &Api {
        &self.api
    }

    fn any_node(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.ingress.len()
    }

    /// Base URL of the ingress of the next node in turn: any node serves any request.
    pub fn ingress(&self) -> &str {
        &self.ingress[self.any_node()]
    }

    /// Base URL of an admin API, in turn.
    pub fn admin_url(&self) -> &str {
        &self.admin[self.any_node()]
    }

    /// Calls a handler with JSON.
    pub async fn call(&self, target: &Target, input: Value) -> Answer {
        self.call_with(target, &[], input).await
    }

    /// Calls a handler with JSON and headers.
    pub async fn call_with(
        &self,
        target: &Target,
        headers: &[(&str, &str)],
        input: Value,
    ) -> Answer {
        let url = format!("{}/{target}", self.ingress());
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.api
            .request(Method::POST, &url, &all, input.to_string())
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
    }

    /// Calls a handler without input, and answers with its output.
    pub async fn ask(&self, target: &Target) -> Value {
        let url = format!("{}/{target}", self.ingress());
        self.api.post_empty(&url).await.expect_success()
    }

    /// Calls a handler and compares its output.
    pub async fn expect(&self, target: &Target, input: Value, output: Value) {
        let answer = self.call(target, input).await.expect_success();
        assert_eq!(answer, output, "{target}");
    }

    /// Sends to a handler, and answers with the invocation's id.
    pub async fn send(&self, target: &Target, input: Value) -> String {
        let accepted = self.submit(target, &[], Some(input)).await;
        text(&accepted["invocationId"])
    }

    /// Sends to a handler without input.
    pub async fn send_empty(&self, target: &Target) -> String {
        let accepted = self.submit(target, &[], None).await;
        text(&accepted["invocationId"])
    }

    /// Sends to a handler, and answers as the ingress does.
    pub async fn submit(
        &self,
        target: &Target,
        headers: &[(&str, &str)],
        input: Option<Value>,
    ) -> Value {
        let url = format!("{}/{target}/send", self.ingress());
        let mut all = headers.to_vec();
        if input.is_some() {
            all.push(("content-type", "application/json"));
        }
        let body = input.map_or_else(String::new, |input| input.to_string());
        self.api
            .request(Method::POST, &url, &all, body)
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
            .expect_success()
    }

    /// Waits for an invocation's result.
    pub async fn result(&self, invocation: &str) -> Answer {
        self.get(&format!("restate/invocation/{invocation}/attach"))
            .await
    }

    /// The result of an invocation if there is one.
    pub async fn output(&self, invocation: &str) -> Answer {
        self.get(&format!("restate/invocation/{invocation}/output"))
            .await
    }

    /// Gets from the ingress.
    pub async fn get(&self, path: &str) -> Answer {
        self.api.get(&format!("{}/{path}", self.ingress())).await
    }

    /// Asks the admin API.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("{}{path}", self.admin_url());
        let headers: &[_] = match body {
            Some(_) => &[("content-type", "application/json")],
            None => &[],
        };
        let body = body.map_or_else(String::new, Value::to_string);
        self.api
            .request(method.clone(), &url, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {url}: {error:?}"))
    }

    /// An operation of the admin API on an invocation, such as `cancel`.
    pub async fn operate(&self, invocation: &str, operation: &str) -> Answer {
        self.admin(
            Method::PATCH,
            &format!("/invocations/{invocation}/{operation}"),
            None,
        )
        .await
    }

    /// The rows of a query.
    pub async fn query(&self, sql: &str) -> Vec<Value> {
        let url = format!("{}/query", self.admin_url());
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        let body = json!({ "query": sql }).to_string();
        let answer = self
            .api
            .request(Method::POST, &url, &headers, body)
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error:?}"));
        let rows = answer.expect_success();
        rows["rows"].as_array().cloned().unwrap_or_default()
    }

    /// The status of an invocation as `sys_invocation` has it; empty when it is not there.
    pub async fn status(&self, invocation: &str) -> String {
        let sql = format!("select status from sys_invocation where id = '{invocation}'");
        let rows = self.query(&sql).await;
        rows.first()
            .map_or_else(String::new, |row| text(&row["status"]))
    }

    /// Waits until something holds. Panics when it does not in time.
    pub async fn eventually<F: Future<Output = bool>>(
        &self,
        what: &str,
        mut check: impl FnMut() -> F,
    ) {
        let deadline = Instant::now() + EVENTUALLY;
        while !check().await {
            assert!(Instant::now() < deadline, "not yet: {what}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until the object `Holder/key` holds an awakeable's id.
    pub async fn wait_until_held(&self, key: &str) -> String {
        let target = format!("Holder/{key}/holds");
        let deadline = Instant::now() + EVENTUALLY;
        loop {
            let id = self.ask(&target).await;
            if let Some(id) = id.as_str().filter(|id| !id.is_empty()) {
                return id.to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "no awakeable is held under {key}"
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    pub(crate) async fn assert_healthy(&self) {
        self.cluster.lock().await.assert_healthy();
    }
}

/// The text of a JSON string. Panics on anything else.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
        .to_owned()
}
