//! Runs programs on a server and collects what came of them.

use std::time::{Duration, Instant};

use abide_test_cluster::{Answer, Api};
use futures::future::join_all;
use http::Method;
use serde_json::{Map, Value, json};

use crate::interpreter::in_one_spelling;
use crate::ledger::{Ledger, Note};
use crate::model;
use crate::program::{Ending, Finale, How, Input, Operator, Program, Root, Target, key};

/// What came of a program: the answers of its roots, and the state it left.
pub type Outcome = Value;

/// A server, or the nodes of a cluster.
#[derive(Clone)]
pub struct World {
    /// What it is called in reports.
    pub name: String,
    /// The ingress of each node.
    pub ingresses: Vec<String>,
    /// The admin API of each node.
    pub admins: Vec<String>,
    /// Whether requests are repeated under one key until they are answered, at any node.
    pub insists: bool,
    api: Api,
    ledger: Ledger,
}

/// How long a request of one that does not insist may take, and all requests of one that does.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Duration);

impl World {
    /// A server at these addresses, whose handlers share the ledger.
    pub fn new(
        name: &str,
        ingresses: Vec<String>,
        admins: Vec<String>,
        ledger: Ledger,
        request_deadline: Duration,
    ) -> World {
        World {
            name: name.to_owned(),
            ingresses,
            admins,
            insists: false,
            api: Api::new(request_deadline),
            ledger,
        }
    }

    /// The HTTP client with which it is talked to.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What the handlers say beside the engine.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Registers the interpreter.
    pub async fn register(&self, uri: &str) {
        let url = format!("{}/deployments", self.admins[0]);
        for attempt in 0.. {
            let answer = self
                .api
                .post(&url, &json!({ "uri": uri, "force": true }))
                .await;
            if answer.status.is_success() {
                break;
            }
            // A cluster that has just started may not have all its leaders.
            assert!(
                attempt < 60 && answer.status.is_server_error(),
                "{}",
                answer.text()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for node in 0..self.ingresses.len() {
            self.wait_until_known(node).await;
        }
    }

    /// A node hears of services a little after they were registered at another.
    async fn wait_until_known(&self, node: usize) {
        let url = format!("{}/DiffCounter/unused/get", self.ingresses[node]);
        for attempt in 0.. {
            let answer = self.api.post_empty(&url).await;
            if answer.status.is_success() {
                return;
            }
            assert!(attempt < 1200, "node {node}: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a program; `run` is part of all its keys. Nothing when it takes too long.
    pub async fn run(&self, run: &str, program: &Program, patience: Patience) -> Option<Outcome> {
        let mut notes = self.ledger.open(run);
        let client = self.clone();
        let name = run.to_owned();
        let errands = tokio::spawn(async move {
            // Each on its own: one may wait until a node is back.
            while let Some(note) = notes.recv().await {
                let (client, run) = (client.clone(), name.clone());
                tokio::spawn(async move { client.attend(&run, note).await });
            }
        });
        let deadline = Instant::now() + patience.0;
        let roots = program.roots.iter().enumerate().map(|(index, root)| {
            let label = format!("r{index}");
            async move { self.root(run, &label, root, deadline).await }
        });
        let outcome = tokio::time::timeout(patience.0, async {
            let roots = join_all(roots).await;
            self.settled_state(run, program, roots, deadline).await
        });
        let outcome = outcome.await.ok();
        errands.abort();
        outcome
    }

    /// One-way calls go on after the roots have ended: reads until the state is as it should be, or
    /// does not become so for a while.
    async fn settled_state(
        &self,
        run: &str,
        program: &Program,
        roots: Vec<Value>,
        deadline: Instant,
    ) -> Outcome {
        let expected = model::outcome(program).ok();
        let enough =
            deadline.min(Instant::now() + Duration::from_secs(if self.insists { 120 } else { 20 }));
        let mut pause = Duration::from_millis(10);
        loop {
            let mut outcome = self.state(run, program).await;
            outcome["roots"] = Value::Array(roots.clone());
            let settled = expected.as_ref().is_none_or(|expected| {
                ["objects", "workflows", "counters"]
                    .iter()
                    .all(|part| outcome[part] == expected[part])
            });
            if settled || Instant::now() + pause > enough {
                return outcome;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn state(&self, run: &str, program: &Program) -> Value {
        let (objects, workflows, counters) = model::places(program);
        let mut outcome = Map::new();
        for (part, service, handler, numbers) in [
            ("objects", "DiffObject", "dump", objects),
            ("workflows", "DiffWorkflow", "dump", workflows),
            ("counters", "DiffCounter", "get", counters),
        ] {
            let reads = numbers.into_iter().map(|number| {
                let path = format!("{service}/{}/{handler}", key(run, number));
                async move { (number.to_string(), self.read(&path).await) }
            });
            outcome.insert(part.to_owned(), join_all(reads).await.into_iter().collect());
        }
        Value::Object(outcome)
    }

    async fn read(&self, path: &str) -> Value {
        let answer = self.post(path, None, None).await;
        match answer.status.is_success() {
            true => answer.json(),
            false => answered(&answer),
        }
    }

    async fn root(&self, run: &str, label: &str, root: &Root, deadline: Instant) -> Value {
        let finale = match &root.how {
            How::Interrupted { never, .. } => Finale::AnnounceAndWait(*never),
            _ => Finale::Answer,
        };
        let input = Input {
            run: run.to_owned(),
            label: label.to_owned(),
            body: root.body.clone(),
            finale,
        };
        let input = serde_json::to_value(&input).expect("programs are JSON");
        let path = path(run, root.target);
        let is_run = matches!(root.target, Target::Workflow(_));
        let key = format!("{run} {label}");
        match &root.how {
            How::Call if !is_run => {
                let key = self.insists.then_some(&*key);
                answered(&self.post(&path, key, Some(&input)).await)
            }
            How::Repeated(times) if !is_run => {
                let calls = (0..*times).map(|_| self.post(&path, Some(&key), Some(&input)));
                join_all(calls).await.iter().map(answered).collect()
            }
            How::Call | How::Repeated(_) => self.submit(&path, &input, None).await,
            How::Send { delay_ms } => {
                let path = if *delay_ms > 0 {
                    format!("{path}/send?delay={delay_ms}ms")
                } else {
                    format!("{path}/send")
                };
                let key = (self.insists && !is_run).then_some(&*key);
                self.send_and_attach(&path, key, &input).await
            }
            How::Interrupted { .. } => {
                let key = (self.insists && !is_run).then_some(&*key);
                let interruption = self.interrupt_when_it_waits(run, label, root, deadline);
                let path = format!("{path}/send");
                let answer = self.send_and_attach(&path, key, &input);
                tokio::pin!(answer);
                tokio::select! {
                    answer = &mut answer => answer,
                    () = interruption => answer.await,
                }
            }
        }
    }

    async fn submit(&self, path: &str, input: &Value, key: Option<&str>) -> Value {
        self.send_and_attach(&format!("{path}/send"), key, input)
            .await
    }

    async fn send_and_attach(&self, path: &str, key: Option<&str>, input: &Value) -> Value {
        let accepted = self.post(path, key, Some(input)).await;
        let body = accepted.json();
        let Some(id) = body["invocationId"].as_str() else {
            return answered(&accepted);
        };
        let path = format!("restate/invocation/{id}/attach");
        answered(&self.insist(Method::GET, &path, &[], "").await)
    }

    async fn interrupt_when_it_waits(
        &self,
        run: &str,
        label: &str,
        root: &Root,
        deadline: Instant,
    ) {
        let How::Interrupted { by, .. } = &root.how else {
            return;
        };
        let place = format!("{label} waits");
        let id = loop {
            // The errands put it there.
            if let Some(id) = self.ledger.invocations(run).get(&place) {
                break id.clone();
            }
            if Instant::now() > deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let verb = match by {
            Operator::Cancel => "cancel",
            Operator::Kill => "kill",
        };
        for turn in 0.. {
            let url = format!(
                "{}/invocations/{id}/{verb}",
                self.admins[turn % self.admins.len()]
            );
            let answer = self.api.request(Method::PATCH, &url, &[], "").await;
            if answer.is_ok_and(|answer| answer.status.is_success()) || !self.insists {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn attend(&self, run: &str, note: Note) {
        match note {
            Note::Complete(id, ending) => {
                let (verb, header, body) = match &ending {
                    Ending::Value(value) => ("resolve", "application/json", value.to_string()),
                    Ending::Failure(failure) => ("reject", "text/plain", failure.message.clone()),
                };
                let path = format!("restate/awakeables/{id}/{verb}");
                self.insist(Method::POST, &path, &[("content-type", header)], body)
                    .await;
            }
            Note::Waits(label, id) => {
                self.ledger.invoked(run, &format!("{label} waits"), &id);
            }
        }
    }

    async fn post(&self, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let mut headers = Vec::new();
        if let Some(key) = key {
            headers.push(("idempotency-key", key));
        }
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        self.insist(Method::POST, path, &headers, body).await
    }

    /// Asks the nodes in turn, until one gives the invocation's answer.
    async fn insist(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Answer {
        let body = body.into();
        let first = path.len() % self.ingresses.len();
        for turn in first.. {
            let url = format!("{}/{path}", self.ingresses[turn % self.ingresses.len()]);
            let answer = self
                .api
                .request(method.clone(), &url, headers, body.clone())
                .await;
            match answer {
                Ok(answer) if !self.insists || !is_unavailable(&answer) => return answer,
                Err(error) if !self.insists => {
                    return Answer {
                        status: http::StatusCode::GATEWAY_TIMEOUT,
                        headers: http::HeaderMap::new(),
                        body: format!("{error}").into(),
                    };
                }
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        unreachable!("turns do not end")
    }
}

/// Whether the ingress, not the invocation, says that it could not.
fn is_unavailable(answer: &Answer) -> bool {
    let source = answer.headers.get("x-restate-error-source");
    answer.status.is_server_error() && source.is_none_or(|source| source != "invocation")
}

fn path(run: &str, target: Target) -> String {
    match target {
        Target::Service => "DiffService/run".to_owned(),
        Target::Object(number) => format!("DiffObject/{}/run", key(run, number)),
        Target::Shared(number) => format!("DiffObject/{}/look", key(run, number)),
        Target::Workflow(number) => format!("DiffWorkflow/{}/run", key(run, number)),
        Target::WorkflowShared(number) => format!("DiffWorkflow/{}/look", key(run, number)),
    }
}

fn answered(answer: &Answer) -> Value {
    let mut body = answer.json();
    if let Some(message) = body["message"].as_str().map(in_one_spelling) {
        body["message"] = Value::from(message);
    }
    json!({ "status": answer.status.as_u16(), "body": body })
}
