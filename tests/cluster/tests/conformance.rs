//! Services made with the official SDKs run on a cluster of three nodes, one suite for all languages.
//!
//! The suite talks to all nodes in turn: any node serves any request.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::{Answer, Cluster, Language, Options, Services};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Clusters share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn rust_services_conform() {
    run_suite(Language::Rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_services_conform() {
    run_suite(Language::TypeScript).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_services_conform() {
    run_suite(Language::Python).await;
}

async fn run_suite(language: Language) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let services = Services::start(language).await;
    let cluster = Cluster::start(3, Options::default()).await;
    let registered = cluster.register(&services.uri()).await;
    assert_eq!(
        registered["services"].as_array().unwrap().len(),
        3,
        "{registered}"
    );

    let mut suite = Suite {
        cluster,
        prefix: language.prefix(),
        turn: AtomicUsize::new(0),
    };
    suite.wait_until_known_everywhere().await;
    suite.run_all().await;
    suite.cluster.assert_healthy();
}

struct Suite {
    cluster: Cluster,
    prefix: &'static str,
    turn: AtomicUsize,
}

impl Suite {
    async fn run_all(&self) {
        named("a service answers", self.a_service_answers()).await;
        named(
            "headers reach the handler",
            self.headers_reach_the_handler(),
        )
        .await;
        named("three steps", self.three_steps()).await;
        named("sleep", self.sleep()).await;
        named("calls", self.calls()).await;
        named("calls to keys", self.calls_to_keys()).await;
        named("one-way calls", self.one_way_calls()).await;
        named("delayed one-way calls", self.delayed_one_way_calls()).await;
        named("delayed sends", self.delayed_sends()).await;
        named("terminal failures", self.terminal_failures()).await;
        named("retried failures", self.retried_failures()).await;
        named("retried runs", self.retried_runs()).await;
        named("exhausted runs", self.exhausted_runs()).await;
        named("state", self.state()).await;
        named("one writer per key", self.one_writer_per_key()).await;
        named(
            "shared handlers do not wait",
            self.shared_handlers_do_not_wait(),
        )
        .await;
        named("odd keys", self.odd_keys()).await;
        named("idempotency keys", self.idempotency_keys()).await;
        named("attach", self.attach()).await;
        named("awakeables", self.awakeables()).await;
        named("workflow", self.workflow()).await;
        named("failed promise", self.failed_promise()).await;
        named("cancel", self.cancel()).await;
        named("cancel from a handler", self.cancel_from_a_handler()).await;
        named("kill", self.kill()).await;
        named("large values", self.large_values()).await;
    }

    /// The admin API answers before the last node's cache has heard of the registration.
    async fn wait_until_known_everywhere(&self) {
        for node in 0..self.cluster.len() {
            let url = format!(
                "{}/services/{}Basics",
                self.cluster.admin(node),
                self.prefix
            );
            eventually("the service is known", || async {
                self.cluster.api().get(&url).await.status.is_success()
            })
            .await;
            let url = format!("{}/restate/health", self.cluster.ingress(node));
            let name = format!("{}Basics", self.prefix);
            eventually("the ingress knows the service", || async {
                self.cluster.api().get(&url).await.text().contains(&name)
            })
            .await;
        }
    }

    fn any_node(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.cluster.len()
    }

    async fn call(&self, target: &str, input: Value) -> Answer {
        let target = format!("{}{target}", self.prefix);
        self.cluster.call(self.any_node(), &target, &input).await
    }

    /// Calls a handler without input.
    async fn ask(&self, target: &str) -> Value {
        let url = format!(
            "{}/{}{target}",
            self.cluster.ingress(self.any_node()),
            self.prefix
        );
        self.cluster.api().post_empty(&url).await.expect_success()
    }

    async fn send(&self, target: &str, input: Value) -> String {
        let target = format!("{}{target}", self.prefix);
        self.cluster.send(self.any_node(), &target, &input).await
    }

    async fn result(&self, invocation: &str) -> Answer {
        self.cluster.attach(self.any_node(), invocation).await
    }

    async fn expect(&self, target: &str, input: Value, output: Value) {
        let answer = self.call(target, input).await.expect_success();
        assert_eq!(answer, output, "{target}");
    }

    async fn a_service_answers(&self) {
        let answer = self.call("Basics/echo", json!("hello")).await;
        assert_eq!(answer.expect_success(), json!("hello"));
        assert!(
            answer.headers["x-restate-id"]
                .to_str()
                .unwrap()
                .starts_with("inv_1")
        );
        assert_eq!(answer.headers["content-type"], "application/json");
        self.expect(
            "Basics/echo",
            json!("äöü \u{1F600} \u{0} end"),
            json!("äöü \u{1F600} \u{0} end"),
        )
        .await;
    }

    async fn headers_reach_the_handler(&self) {
        let url = format!("{}/{}Basics/header", self.cluster.ingress(0), self.prefix);
        let headers = [("content-type", "application/json"), ("x-mine", "yes")];
        let answer = self
            .cluster
            .api()
            .request(http::Method::POST, &url, &headers, "\"x-mine\"")
            .await
            .unwrap();
        assert_eq!(answer.expect_success(), json!("yes"));
    }

    async fn three_steps(&self) {
        self.expect("Basics/steps", json!("a"), json!(["a-1", "a-2", "a-3"]))
            .await;
    }

    async fn sleep(&self) {
        let from = Instant::now();
        self.expect("Basics/nap", json!(300), json!("rested")).await;
        assert!(from.elapsed() >= Duration::from_millis(300));
    }

    async fn calls(&self) {
        self.expect("Basics/callEcho", json!("you"), json!("called you"))
            .await;
        self.expect("Basics/fanOut", json!(10), json!(45)).await;
        let failing = json!({"code": 418, "message": "teapot"});
        self.expect("Basics/callFailing", failing, json!("caught 418: teapot"))
            .await;
    }

    async fn calls_to_keys(&self) {
        let addition = json!({"key": "called", "amount": 5});
        self.expect("Basics/callStore", addition.clone(), json!(5))
            .await;
        self.expect("Basics/callStore", addition, json!(10)).await;
    }

    async fn one_way_calls(&self) {
        let addition = json!({"key": "sent", "amount": 7, "delayMs": 0});
        let invocation = self.call("Basics/sendAdd", addition).await.expect_success();
        let answer = self.result(invocation.as_str().unwrap()).await;
        assert_eq!(answer.expect_success(), json!(7));
    }

    async fn delayed_one_way_calls(&self) {
        let addition = json!({"key": "later", "amount": 7, "delayMs": 1000});
        let from = Instant::now();
        let invocation = self.call("Basics/sendAdd", addition).await.expect_success();
        assert_eq!(self.ask("Store/later/count").await, json!(0));
        let answer = self.result(invocation.as_str().unwrap()).await;
        assert_eq!(answer.expect_success(), json!(7));
        assert!(from.elapsed() >= Duration::from_millis(1000));
    }

    async fn delayed_sends(&self) {
        let url = format!(
            "{}/{}Store/delayed/add/send?delay=500ms",
            self.cluster.ingress(self.any_node()),
            self.prefix
        );
        let from = Instant::now();
        let accepted = self.cluster.api().post(&url, &json!(3)).await;
        accepted.expect_status(202);
        let accepted = accepted.json();
        assert_eq!(accepted["status"], "Accepted");
        assert!(accepted["executionTime"].is_string(), "{accepted}");
        let answer = self
            .result(accepted["invocationId"].as_str().unwrap())
            .await;
        assert_eq!(answer.expect_success(), json!(3));
        assert!(from.elapsed() >= Duration::from_millis(500));
    }

    async fn terminal_failures(&self) {
        let failing = json!({"code": 409, "message": "no way"});
        let answer = self.call("Basics/failTerminal", failing).await;
        answer.expect_status(409);
        let error = answer.json();
        assert_eq!(error["message"], "no way");
        assert_eq!(error["code"], 409);
        assert_eq!(error["source"], "invocation");
        assert_eq!(answer.headers["x-restate-error-source"], "invocation");
    }

    async fn retried_failures(&self) {
        let retried = json!({"name": "handler", "times": 2});
        self.expect("Basics/failThenSucceed", retried, json!(3))
            .await;
    }

    async fn retried_runs(&self) {
        let retried = json!({"name": "run", "times": 3});
        self.expect("Basics/runRetried", retried, json!(4)).await;
    }

    async fn exhausted_runs(&self) {
        self.expect(
            "Basics/runExhausted",
            json!("given up"),
            json!("gave up after 3"),
        )
        .await;
    }

    async fn state(&self) {
        self.expect("Store/state/add", json!(2), json!(2)).await;
        self.call("Store/state/put", json!("text"))
            .await
            .expect_success();
        assert_eq!(self.ask("Store/state/keys").await, json!(["count", "text"]));
        assert_eq!(self.ask("Store/state/text").await, json!("text"));
        self.call("Store/state/forget", json!("count"))
            .await
            .expect_success();
        assert_eq!(self.ask("Store/state/count").await, json!(0));
        assert_eq!(self.ask("Store/state/keys").await, json!(["text"]));
        self.ask("Store/state/forgetAll").await;
        assert_eq!(self.ask("Store/state/keys").await, json!([]));
        assert_eq!(self.ask("Store/another/keys").await, json!([]));
    }

    async fn one_writer_per_key(&self) {
        let calls = (0..8).map(|_| self.call("Store/busy/slowAdd", json!({"amount": 1, "ms": 20})));
        let mut counts: Vec<i64> = futures::future::join_all(calls)
            .await
            .iter()
            .map(|answer| answer.expect_success().as_i64().unwrap())
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, (1..=8).collect::<Vec<_>>());
    }

    async fn shared_handlers_do_not_wait(&self) {
        let slow = self
            .send("Store/held/slowAdd", json!({"amount": 1, "ms": 1500}))
            .await;
        let from = Instant::now();
        assert_eq!(self.ask("Store/held/count").await, json!(0));
        assert!(
            from.elapsed() < Duration::from_millis(1400),
            "a reader waited for a writer"
        );
        assert_eq!(self.result(&slow).await.expect_success(), json!(1));
    }

    async fn odd_keys(&self) {
        assert_eq!(
            self.ask("Store/a%2Fb%20%C3%A4/ownKey").await,
            json!("a/b ä")
        );
    }

    async fn idempotency_keys(&self) {
        let target = format!("{}Store/once/add", self.prefix);
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", "the-one"),
        ];
        for node in 0..3 {
            let url = format!("{}/{target}", self.cluster.ingress(node));
            let answer = self
                .cluster
                .api()
                .request(http::Method::POST, &url, &headers, "1")
                .await
                .unwrap();
            assert_eq!(answer.expect_success(), json!(1));
        }
        assert_eq!(self.ask("Store/once/count").await, json!(1));
    }

    async fn attach(&self) {
        let napping = self.send("Basics/nap", json!(700)).await;
        let output = format!(
            "{}/restate/invocation/{napping}/output",
            self.cluster.ingress(1)
        );
        self.cluster.api().get(&output).await.expect_status(470);
        let (first, second) = tokio::join!(self.result(&napping), self.result(&napping));
        assert_eq!(first.expect_success(), json!("rested"));
        assert_eq!(second.expect_success(), json!("rested"));
        let by_handler = self.call("Basics/attachTo", json!(napping)).await;
        assert_eq!(by_handler.expect_success(), json!("attached rested"));
    }

    async fn awakeables(&self) {
        let (waiting, id) = self.start_waiting("awaited").await;
        let url = format!(
            "{}/restate/awakeables/{id}/resolve",
            self.cluster.ingress(self.any_node())
        );
        self.cluster
            .api()
            .post(&url, &json!("news"))
            .await
            .expect_status(202);
        assert_eq!(
            self.result(&waiting).await.expect_success(),
            json!("got news")
        );

        let (waiting, id) = self.start_waiting("by handler").await;
        let by = json!({"id": id, "value": "word"});
        self.call("Basics/resolveAwakeable", by)
            .await
            .expect_success();
        assert_eq!(
            self.result(&waiting).await.expect_success(),
            json!("got word")
        );

        let (waiting, id) = self.start_waiting("rejected").await;
        let by = json!({"id": id, "value": "not today"});
        self.call("Basics/rejectAwakeable", by)
            .await
            .expect_success();
        let answer = self.result(&waiting).await;
        answer.expect_status(500);
        assert_eq!(answer.json()["message"], "not today");
    }

    /// Starts a handler that waits for an awakeable, and finds out the awakeable's id.
    async fn start_waiting(&self, key: &str) -> (String, String) {
        let waiting = self.send("Basics/awaitAwakeable", json!(key)).await;
        let target = format!("Store/{}/text", key.replace(' ', "%20"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let id = self.ask(&target).await;
            let id = id.as_str().unwrap();
            if !id.is_empty() {
                return (waiting, id.to_owned());
            }
            assert!(Instant::now() < deadline, "no awakeable");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn workflow(&self) {
        let run = self.send("Flow/w1/run", json!("in")).await;
        eventually("the workflow waits", || async {
            self.ask("Flow/w1/status").await == json!("waiting")
        })
        .await;
        assert_eq!(self.ask("Flow/w1/peek").await, json!(""));
        let again = format!(
            "{}/{}Flow/w1/run/send",
            self.cluster.ingress(self.any_node()),
            self.prefix
        );
        let again = self
            .cluster
            .api()
            .post(&again, &json!("other"))
            .await
            .expect_success();
        assert_eq!(again["status"], "PreviouslyAccepted");
        assert_eq!(again["invocationId"], json!(run));
        self.call("Flow/w1/resolve", json!("go"))
            .await
            .expect_success();
        let attach = format!(
            "{}/restate/workflow/{}Flow/w1/attach",
            self.cluster.ingress(self.any_node()),
            self.prefix
        );
        assert_eq!(
            self.cluster.api().get(&attach).await.expect_success(),
            json!("in go")
        );
        assert_eq!(self.ask("Flow/w1/status").await, json!("done"));
        assert_eq!(self.ask("Flow/w1/peek").await, json!("go"));
        let refused = self.call("Flow/w1/run", json!("third")).await;
        refused.expect_status(409);
    }

    async fn failed_promise(&self) {
        let run = self.send("Flow/w2/run", json!("in")).await;
        self.call("Flow/w2/reject", json!("no"))
            .await
            .expect_success();
        let answer = self.result(&run).await;
        answer.expect_status(500);
        assert_eq!(answer.json()["message"], "no");
    }

    async fn cancel(&self) {
        let napping = self.send("Basics/nap", json!(3_600_000)).await;
        self.operate(&napping, "cancel").await;
        self.result(&napping).await.expect_status(409);

        let url = format!(
            "{}/{}Basics/catchCancel/send",
            self.cluster.ingress(0),
            self.prefix
        );
        let accepted = self.cluster.api().post_empty(&url).await.expect_success();
        let catching = accepted["invocationId"].as_str().unwrap();
        // Give the handler the time to begin: cancelled before that, it would never run.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.operate(catching, "cancel").await;
        let answer = self.result(catching).await;
        assert_eq!(answer.expect_success(), json!("cancelled and cleaned"));
    }

    async fn cancel_from_a_handler(&self) {
        let napping = self.send("Basics/nap", json!(3_600_000)).await;
        self.call("Basics/cancelOther", json!(napping))
            .await
            .expect_success();
        self.result(&napping).await.expect_status(409);
    }

    async fn kill(&self) {
        let held = self
            .send(
                "Store/killed/slowAdd",
                json!({"amount": 1, "ms": 3_600_000}),
            )
            .await;
        let next = self.send("Store/killed/add", json!(5)).await;
        self.operate(&held, "kill").await;
        let answer = self.result(&held).await;
        answer.expect_status(409);
        assert_eq!(answer.json()["message"], "killed");
        // The key is free again, and the killed writer has written nothing.
        assert_eq!(self.result(&next).await.expect_success(), json!(5));
    }

    async fn operate(&self, invocation: &str, operation: &str) {
        let answer = self
            .cluster
            .operate(self.any_node(), invocation, operation)
            .await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    async fn large_values(&self) {
        let large = "x".repeat(3 << 20);
        self.call("Store/large/put", json!(large))
            .await
            .expect_success();
        assert_eq!(self.ask("Store/large/text").await, json!(large));
    }
}

async fn named(name: &str, scenario: impl Future<Output = ()>) {
    println!("scenario: {name}");
    let in_time = tokio::time::timeout(Duration::from_secs(60), scenario).await;
    assert!(in_time.is_ok(), "{name}: not done within a minute");
}

/// Waits until something holds. Panics when it does not within twenty seconds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
