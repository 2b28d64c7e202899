#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use abide_invoker::{
    DiscoverError, DiscoverRequest, DiscoveredEndpoint, SerdesError, SerdesRequest,
};
use abide_processor::api::{
    InvocationFilter, InvocationInfo, InvocationStatus, Operated, Operation, Outcome, Restarted,
    RouteError, StateChange, Whither,
};
use abide_schema::{Defaults, HttpVersion};
use abide_service_protocol::{Failure, manifest};
use abide_types::{
    HandlerKind, InvocationId, InvocationTarget, PartitionId, PartitionKey, QueueId, ServiceKind,
    Timestamp,
};
use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use expect_test::{Expect, expect};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

mod lifecycle;

use super::*;
use crate::cluster::{Membership, StoreError, Written};

/// A cluster in memory: one endpoint, one stored schema, one answer to every operation.
struct Fake {
    services: Arc<Mutex<Value>>,
    stored: Mutex<(u64, Bytes)>,
    seen: watch::Sender<Arc<Schema>>,
    defaults: Defaults,
    /// What the next writes meet before one succeeds.
    trouble: Arc<Mutex<Vec<Written>>>,
    operated: Arc<Mutex<Operated>>,
    restarted: Arc<Mutex<Restarted>>,
    /// What was asked of invocations and state.
    asked: Arc<Mutex<Vec<String>>>,
    rules: Mutex<(u64, Bytes)>,
    /// Listings wait for a permit.
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Cluster for Fake {
    async fn discover(
        &self,
        request: DiscoverRequest,
    ) -> Result<DiscoveredEndpoint, DiscoverError> {
        if request.uri.contains("unreachable") {
            let reason = "connection refused".to_owned();
            return Err(DiscoverError::Unreachable {
                uri: request.uri,
                reason,
            });
        }
        let body = json!({
            "protocolMode": "BIDI_STREAM", "minProtocolVersion": 5, "maxProtocolVersion": 7,
            "services": *self.services.lock().unwrap(),
        });
        let manifest = manifest::read(manifest::Response {
            content_type: Some("application/vnd.restate.endpointmanifest.v4+json"),
            server: None,
            body: body.to_string().as_bytes(),
        })?;
        Ok(DiscoveredEndpoint {
            manifest,
            sdk_version: Some("restate-sdk-typescript/1.17.2".to_owned()),
            http_version: HttpVersion::Http2,
        })
    }

    async fn serdes(&self, request: SerdesRequest<'_>) -> Result<Bytes, SerdesError> {
        match request.serde {
            "json" => Ok(format!("{:?} {:?}", request.operation, request.body).into()),
            _ => Err(SerdesError::Status {
                status: StatusCode::NOT_FOUND,
                body: "no".to_owned(),
            }),
        }
    }

    async fn read_schema(&self) -> Result<(u64, Bytes), StoreError> {
        Ok(self.stored.lock().unwrap().clone())
    }

    async fn write_schema(&self, version: u64, schema: Vec<u8>) -> Result<Written, StoreError> {
        let trouble = self.trouble.lock().unwrap().pop();
        let mut stored = self.stored.lock().unwrap();
        if trouble == Some(Written::No) || stored.0 != version {
            return Ok(Written::No);
        }
        let parsed = Schema::from_json(&schema, self.defaults.clone()).unwrap();
        self.seen.send_replace(Arc::new(parsed));
        *stored = (version + 1, schema.into());
        Ok(trouble.unwrap_or(Written::Yes))
    }

    async fn read_document(&self, _: &'static str) -> Result<(u64, Bytes), StoreError> {
        Ok(self.rules.lock().unwrap().clone())
    }

    async fn write_document(
        &self,
        _: &'static str,
        version: u64,
        document: Vec<u8>,
    ) -> Result<Written, StoreError> {
        let mut stored = self.rules.lock().unwrap();
        assert_eq!(stored.0, version, "nobody else writes");
        *stored = (version + 1, document.into());
        Ok(Written::Yes)
    }

    async fn pause_queue(&self, _: QueueId, _: bool) -> Result<(), RouteError> {
        Ok(())
    }

    async fn operate(&self, _: InvocationId, _: Operation) -> Result<Operated, RouteError> {
        Ok(*self.operated.lock().unwrap())
    }

    async fn resume(&self, _: InvocationId, whither: Whither) -> Result<Operated, RouteError> {
        self.asked.lock().unwrap().push(format!("{whither:?}"));
        Ok(*self.operated.lock().unwrap())
    }

    async fn restart(
        &self,
        id: InvocationId,
        from: u32,
        whither: Whither,
    ) -> Result<(InvocationId, Restarted), RouteError> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("from {from} {whither:?}"));
        let new = InvocationId::new(id.partition_key(), [9; 16]);
        Ok((new, *self.restarted.lock().unwrap()))
    }

    async fn change_state(&self, change: StateChange) -> Result<(), RouteError> {
        self.asked.lock().unwrap().push(format!("{change:?}"));
        Ok(())
    }

    async fn get(&self, id: InvocationId) -> Result<Option<InvocationInfo>, RouteError> {
        Ok((id == known_id()).then(info))
    }

    async fn list(&self, filter: InvocationFilter) -> Result<Vec<InvocationInfo>, RouteError> {
        let _permit = self.gate.acquire().await.unwrap();
        let wanted = filter.status.is_none_or(|status| status == info().status);
        Ok(if wanted { vec![info()] } else { Vec::new() })
    }

    fn membership(&self) -> Option<Membership> {
        Some(Membership {
            name: "test".to_owned(),
            metadata_servers: vec![1, 2],
        })
    }
}

fn known_id() -> InvocationId {
    InvocationId::new(PartitionKey(1), 2u128.to_be_bytes())
}

fn info() -> InvocationInfo {
    InvocationInfo {
        id: known_id(),
        partition: PartitionId(0),
        target: InvocationTarget {
            service: "counter".to_owned(),
            key: Some("k".to_owned()),
            handler: "add".to_owned(),
            service_kind: ServiceKind::VirtualObject,
            handler_kind: HandlerKind::Exclusive,
        },
        status: InvocationStatus::Completed,
        idempotency_key: None,
        invoked_by: None,
        created_at: Timestamp(0),
        modified_at: Timestamp(1),
        execute_at: None,
        deployment: None,
        journal_length: 3,
        retry_count: 0,
        last_failure: Some((500, "oh".to_owned(), Some("RT0007".to_owned()))),
        outcome: Some(Outcome::Failure(Failure::new(409, "killed"))),
    }
}

/// An API and the strings that move its cluster.
struct Api {
    router: Router,
    schema: watch::Receiver<Arc<Schema>>,
    services: Arc<Mutex<Value>>,
    trouble: Arc<Mutex<Vec<Written>>>,
    operated: Arc<Mutex<Operated>>,
    restarted: Arc<Mutex<Restarted>>,
    asked: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
}

fn api() -> Api {
    with_options(AdminOptions {
        ingress_endpoint: Some("http://ingress:8080/".to_owned()),
        ..AdminOptions::default()
    })
}

fn with_options(options: AdminOptions) -> Api {
    with_all(options, Defaults::default(), None)
}

fn with_defaults(options: AdminOptions, defaults: Defaults) -> Api {
    with_all(options, defaults, None)
}

fn observed(observer: Option<Arc<dyn Observer>>) -> Api {
    with_all(AdminOptions::default(), Defaults::default(), observer)
}

fn with_all(options: AdminOptions, defaults: Defaults, observer: Option<Arc<dyn Observer>>) -> Api {
    let (seen, schema) = watch::channel(Arc::new(Schema::new([], defaults.clone())));
    let services = Arc::new(Mutex::new(json!([
        {"name": "greeter", "ty": "SERVICE", "handlers": [{"name": "greet",
            "input": {"required": false, "contentType": "application/json"}}]},
    ])));
    let trouble = Arc::new(Mutex::new(Vec::new()));
    let operated = Arc::new(Mutex::new(Operated::Done));
    let restarted = Arc::new(Mutex::new(Restarted::Done));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(Semaphore::new(1));
    let fake = Fake {
        services: services.clone(),
        stored: Mutex::default(),
        seen,
        defaults,
        trouble: trouble.clone(),
        operated: operated.clone(),
        restarted: restarted.clone(),
        asked: asked.clone(),
        rules: Mutex::default(),
        gate: gate.clone(),
    };
    let metrics: MetricsText = Arc::new(|| "up 1\n".to_owned());
    let admin = Admin::over(options, Box::new(fake), schema.clone(), metrics);
    let router = match observer {
        Some(observer) => admin.with_observer(observer).router(),
        None => admin.router(),
    };
    Api {
        router,
        schema,
        services,
        trouble,
        operated,
        restarted,
        asked,
        gate,
    }
}

impl Api {
    fn schema(&self) -> Arc<Schema> {
        self.schema.borrow().clone()
    }

    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (u16, String, String) {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let location = parts
            .headers
            .get("location")
            .map(|value| value.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (parts.status.as_u16(), location.unwrap_or_default(), body)
    }

    /// Status and body.
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let json = [("content-type", "application/json")];
        let (headers, body) = match body {
            Value::Null => (&json[..0], String::new()),
            body => (&json[..], body.to_string()),
        };
        let (status, _, body) = self.raw(method, path, headers, body).await;
        (status, body)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, Value::Null).await
    }

    /// Registers and returns the id.
    async fn register(&self, body: Value) -> String {
        let (status, body) = self.ask("POST", "/deployments", body).await;
        assert_eq!(status, 201, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["id"].as_str().unwrap().to_owned()
    }
}

/// Ids and times vary; they are replaced.
fn check((status, body): (u16, String), id: &str, expected: Expect) {
    let mut text = format!("{status} {body}\n").replace(id, "ID");
    if let Some(start) = text.find("\"created_at\":\"2") {
        let start = start + "\"created_at\":\"".len();
        let end = start + text[start..].find('"').unwrap();
        text.replace_range(start..end, "TIME");
    }
    expected.assert_eq(&text);
}

fn check_error((status, body): (u16, String), expected_status: u16, message: &str) {
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} {body}"));
    assert_eq!(
        (status, body["message"].as_str().unwrap()),
        (expected_status, message)
    );
}

#[tokio::test]
async fn an_endpoint_is_registered_and_shown() {
    let api = api();
    let body = json!({"uri": "http://endpoint:9080", "metadata": {"team": "t"}, "additional_headers": {"Authorization": "Bearer x"}});
    let json = [("content-type", "application/json")];
    let (status, location, answer) = api
        .raw("POST", "/deployments", &json, body.to_string())
        .await;
    let id = serde_json::from_str::<Value>(&answer).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(location, format!("deployments/{id}"));
    check(
        (status, answer),
        &id,
        expect![[r#"
        201 {"id":"ID","services":[{"name":"greeter","ty":"Service","handlers":[{"name":"greet","public":true,"input_description":"application/json","output_description":"application/json","retry_policy":{"max_attempts":null}}],"deployment_id":"ID","revision":1,"public":true,"idempotency_retention":"1d","journal_retention":"1d","inactivity_timeout":"1m","abort_timeout":"10m","enable_lazy_state":false,"retry_policy":{"initial_interval":"500ms","exponentiation_factor":2.0,"max_attempts":70,"max_interval":"1m","on_max_attempts":"Pause"}}],"min_protocol_version":5,"max_protocol_version":7,"sdk_version":"restate-sdk-typescript/1.17.2"}
    "#]],
    );
    check(
        api.get("/deployments").await,
        &id,
        expect![[r#"
        200 {"deployments":[{"id":"ID","uri":"http://endpoint:9080/","protocol_type":"BidiStream","http_version":"HTTP/2.0","additional_headers":{"authorization":"Bearer x"},"metadata":{"team":"t"},"created_at":"TIME","min_protocol_version":5,"max_protocol_version":7,"sdk_version":"restate-sdk-typescript/1.17.2","services":[{"name":"greeter","revision":1}]}]}
    "#]],
    );
    for version in ["", "/v2", "/v3", "/v4"] {
        let (status, body) = api.get(&format!("{version}/deployments/{id}")).await;
        assert_eq!(status, 200);
        assert!(
            body.contains("\"input_description\":\"application/json\""),
            "{body}"
        );
    }
}

#[tokio::test]
async fn registering_again_changes_nothing_unless_forced() {
    let api = api();
    let body = json!({"uri": "http://endpoint:9080/"});
    let id = api.register(body.clone()).await;
    let revision = |body: &str| {
        serde_json::from_str::<Value>(body).unwrap()["services"][0]["revision"].clone()
    };
    let (status, answer) = api.ask("POST", "/deployments", body.clone()).await;
    assert_eq!((status, revision(&answer)), (200, json!(1)));
    let force = json!({"uri": "http://endpoint:9080/", "force": true});
    let (status, answer) = api.ask("POST", "/v3/deployments", force).await;
    assert_eq!((status, revision(&answer)), (200, json!(2)));
    assert!(answer.contains(&id));
    // The older semantics.
    let (status, answer) = api.ask("POST", "/v2/deployments", body).await;
    assert_eq!((status, revision(&answer)), (201, json!(3)));
    let no_force = json!({"uri": "http://endpoint:9080/", "force": false});
    let refused = api.ask("POST", "/v2/deployments", no_force).await;
    check_error(
        refused,
        409,
        &format!("Conflict: deployment {id} already exists"),
    );
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let api = api();
    let (status, _) = api
        .ask(
            "POST",
            "/deployments",
            json!({"uri": "http://e/", "dry_run": true}),
        )
        .await;
    assert_eq!(status, 201);
    assert_eq!(
        api.get("/deployments").await,
        (200, r#"{"deployments":[]}"#.to_owned())
    );
}

#[tokio::test]
async fn a_registration_survives_rivals_and_lost_answers() {
    let api = api();
    *api.trouble.lock().unwrap() = vec![Written::Unknown, Written::No];
    api.register(json!({"uri": "http://endpoint:9080/"})).await;
    let (_, body) = api.get("/services/greeter").await;
    assert!(body.contains("\"revision\":1"), "{body}");
    *api.trouble.lock().unwrap() = vec![Written::No; 100];
    let (status, body) = api
        .ask("POST", "/deployments", json!({"uri": "http://other/"}))
        .await;
    assert_eq!(status, 503, "{body}");
}

#[tokio::test]
async fn what_cannot_be_registered_says_why() {
    let api = api();
    let table = [
        (
            json!({"uri": "/relative"}),
            400,
            "The request field 'uri' is invalid. Reason: The provided uri /relative is not absolute, only absolute URIs can be used.",
        ),
        (
            json!({"uri": "ftp://x/"}),
            400,
            "The request field 'uri' is invalid. Reason: the scheme 'ftp' is neither http nor https",
        ),
        (
            json!({"uri": "http://unreachable/"}),
            500,
            "[META0003] [META0003] the endpoint http://unreachable/ cannot be reached: connection refused",
        ),
        (
            json!({"arn": "arn:aws:lambda:1"}),
            400,
            "The request field 'arn' is invalid. Reason: AWS Lambda functions are not supported by this server",
        ),
        (
            json!({"uri": "http://x/", "auth": {"GoogleIdToken": {"audience": "a"}}}),
            400,
            "The request field 'auth' is invalid. Reason: requests with Google ID tokens are not supported by this server",
        ),
    ];
    for (body, status, message) in table {
        check_error(api.ask("POST", "/deployments", body).await, status, message);
    }
    for body in [
        json!({"use_http_11": true}),
        json!({"uri": 1}),
        json!({"uri": "http://a b/"}),
        json!({"uri": "http://x/", "additional_headers": {"a b": ""}}),
        json!({"uri": "http://x/", "additional_headers": {"a": "\n"}}),
        json!({"uri": "http://x/", "auth": {"Password": {}}}),
    ] {
        let (status, text) = api.ask("POST", "/deployments", body).await;
        assert_eq!(status, 422, "{text}");
        let expected = "Failed to deserialize the JSON body into the target type: ";
        assert!(text.starts_with(expected), "{text}");
    }
    let (status, text) = api.ask("POST", "/deployments", Value::Null).await;
    assert_eq!(
        (status, text.as_str()),
        (
            415,
            "Expected request with `Content-Type: application/json`"
        )
    );

    api.register(json!({"uri": "http://x/"})).await;
    *api.services.lock().unwrap() =
        json!([{"name": "greeter", "ty": "VIRTUAL_OBJECT", "handlers": []}]);
    let refused = api
        .ask("POST", "/deployments", json!({"uri": "http://y/"}))
        .await;
    assert!(
        refused.1.contains("\"restate_code\":\"META0006\""),
        "{}",
        refused.1
    );
    check_error(
        refused,
        409,
        "[META0006] detected a new service revision for 'greeter' changing the service type from previous revision. Service type cannot be changed across revisions.",
    );
    *api.services.lock().unwrap() =
        json!([{"name": "restateful", "ty": "SERVICE", "handlers": []}]);
    let (status, body) = api
        .ask("POST", "/deployments", json!({"uri": "http://z/"}))
        .await;
    assert_eq!(status, 400);
    assert!(body.contains("\"restate_code\":\"META0005\""), "{body}");
}

#[tokio::test]
async fn deployments_are_moved_and_deleted() {
    let api = api();
    let id = api.register(json!({"uri": "http://x/"})).await;
    let path = format!("/deployments/{id}");
    let (status, body) = api.ask("PATCH", &path, json!({})).await;
    assert_eq!(status, 200);
    assert!(body.contains("http://x/"));
    let (status, body) = api
        .ask(
            "PATCH",
            &path,
            json!({"uri": "http://y:1/p", "dry_run": true}),
        )
        .await;
    assert_eq!((status, body.contains("http://y:1/p")), (200, true));
    assert!(api.get(&path).await.1.contains("http://x/"));
    let (status, _) = api
        .ask("PUT", &format!("/v2{path}"), json!({"uri": "http://y:1/p"}))
        .await;
    assert_eq!(status, 200);
    assert!(api.get(&path).await.1.contains("http://y:1/p"));
    assert_eq!(api.ask("PUT", &path, json!({})).await.0, 405);

    assert_eq!(
        api.ask("DELETE", &path, Value::Null).await,
        (501, String::new())
    );
    let forced = format!("{path}?force=true");
    *api.trouble.lock().unwrap() = vec![Written::Unknown];
    assert_eq!(
        api.ask("DELETE", &forced, Value::Null).await,
        (202, String::new())
    );
    let gone = api.ask("DELETE", &forced, Value::Null).await;
    check_error(
        gone,
        404,
        &format!("not found in the schema registry: deployment with id '{id}'"),
    );
    check_error(
        api.get(&path).await,
        404,
        &format!("The requested deployment '{id}' does not exist"),
    );
    assert_eq!(api.get("/services").await.1, r#"{"services":[]}"#);
    let (status, text) = api.get("/deployments/rubbish").await;
    assert_eq!(
        (status, text.as_str()),
        (
            400,
            "Invalid URL: Cannot parse `deployment` with value `rubbish`: bad format"
        )
    );
}

#[tokio::test]
async fn services_are_shown_and_changed() {
    let api = api();
    *api.services.lock().unwrap() = json!([{"name": "wf", "ty": "WORKFLOW", "documentation": "d", "handlers": [
        {"name": "run", "ty": "WORKFLOW", "workflowCompletionRetention": 3600000},
        {"name": "see", "ty": "SHARED", "ingressPrivate": true, "inactivityTimeout": 5000, "retryPolicyMaxAttempts": 3},
    ]}]);
    let id = api.register(json!({"uri": "http://x/"})).await;
    check(
        api.get("/services/wf/handlers/see").await,
        &id,
        expect![[r#"
        200 {"name":"see","ty":"Shared","inactivity_timeout":"5s","public":false,"input_description":"*/*","output_description":"application/json","retry_policy":{"max_attempts":3}}
    "#]],
    );
    let changes = json!({"public": false, "idempotency_retention": "PT3H", "journal_retention": "2 days",
        "inactivity_timeout": "2m", "abort_timeout": null, "workflow_completion_retention": "90m"});
    check(
        api.ask("PATCH", "/services/wf", changes).await,
        &id,
        expect![[r#"
        200 {"name":"wf","ty":"Workflow","handlers":[{"name":"run","ty":"Workflow","public":false,"input_description":"*/*","output_description":"application/json","retry_policy":{"max_attempts":null}},{"name":"see","ty":"Shared","inactivity_timeout":"5s","public":false,"input_description":"*/*","output_description":"application/json","retry_policy":{"max_attempts":3}}],"documentation":"d","deployment_id":"ID","revision":1,"public":false,"idempotency_retention":"3h","workflow_completion_retention":"1h 30m","journal_retention":"2d","inactivity_timeout":"2m","abort_timeout":"10m","enable_lazy_state":false,"retry_policy":{"initial_interval":"500ms","exponentiation_factor":2.0,"max_attempts":70,"max_interval":"1m","on_max_attempts":"Pause"}}
    "#]],
    );
    for bad in ["soon", "-5s", "1 month"] {
        let (status, text) = api
            .ask("PATCH", "/services/wf", json!({"abort_timeout": bad}))
            .await;
        assert_eq!(status, 422);
        assert!(text.contains("target type: abort_timeout: "), "{text}");
    }
    check_error(
        api.get("/services/x").await,
        404,
        "The requested service 'x' does not exist",
    );
    check_error(
        api.ask("PATCH", "/services/x", json!({})).await,
        404,
        "The requested service 'x' does not exist",
    );
    check_error(
        api.get("/services/wf/handlers/x").await,
        404,
        "The requested handler 'x' on service 'wf' does not exist",
    );
    assert_eq!(api.get("/services/wf/handlers").await.0, 200);
}

#[tokio::test]
async fn operations_answer_with_the_statuses_of_the_reference() {
    use Operated::{AlreadyCompleted, Appended, Done, NotCompleted, NotFound, WrongState};
    let api = api();
    let table = [
        ("cancel", Done, 200),
        ("cancel", Appended, 202),
        ("cancel", NotFound, 404),
        ("cancel", AlreadyCompleted, 409),
        ("kill", Done, 200),
        ("kill", AlreadyCompleted, 409),
        ("pause", Appended, 202),
        ("pause", Done, 200),
        ("pause", WrongState, 409),
        ("pause", AlreadyCompleted, 409),
        ("resume", Done, 200),
        ("resume", WrongState, 425),
        ("resume", AlreadyCompleted, 409),
        ("purge", Done, 200),
        ("purge", NotCompleted, 409),
        ("purge-journal", Done, 200),
        ("purge-journal", NotCompleted, 409),
    ];
    for (operation, operated, expected) in table {
        *api.operated.lock().unwrap() = operated;
        let path = format!("/invocations/{}/{operation}", known_id());
        let (status, body) = api.ask("PATCH", &path, Value::Null).await;
        assert_eq!(status, expected, "{operation} {operated:?}");
        assert_eq!(body.is_empty(), status < 300, "{body}");
    }
    let (status, _) = api
        .ask(
            "GET",
            &format!("/invocations/{}/kill", known_id()),
            Value::Null,
        )
        .await;
    assert_eq!(status, 405);
    let refused = api
        .ask("PATCH", "/invocations/rubbish/kill", Value::Null)
        .await;
    check_error(
        refused,
        400,
        "The request field 'invocation_id' is invalid. Reason: bad format",
    );
    let resume = format!("/invocations/{}/resume?deployment=rubbish", known_id());
    let refused = api.ask("PATCH", &resume, Value::Null).await;
    check_error(
        refused,
        400,
        "The query parameter 'deployment' is invalid. Reason: bad format",
    );
    for mode in ["", "?mode=Kill", "?mode=purge"] {
        let path = format!("/invocations/{}{mode}", known_id());
        assert_eq!(api.ask("DELETE", &path, Value::Null).await.0, 202);
    }
    let path = format!("/invocations/{}?mode=other", known_id());
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.0, 400);
}

#[tokio::test]
async fn invocations_are_listed_and_shown() {
    let api = api();
    let id = known_id().to_string();
    check(
        api.get(&format!("/invocations/{id}")).await,
        &id,
        expect![[r#"
        200 {"id":"ID","partition":0,"target":"counter/k/add","target_service_name":"counter","target_service_key":"k","target_handler_name":"add","target_service_ty":"virtual_object","status":"completed","invoked_by":"ingress","created_at":"1970-01-01T00:00:00.000000000Z","modified_at":"1970-01-01T00:00:00.001000000Z","journal_size":3,"retry_count":0,"last_failure":"[500] oh","last_failure_error_code":"RT0007","completion_result":"failure","completion_failure":"[409] killed"}
    "#]],
    );
    let (status, body) = api
        .get("/invocations?service=counter&status=completed&limit=5")
        .await;
    assert_eq!((status, body.contains(&id)), (200, true));
    assert_eq!(
        api.get("/invocations?status=paused").await.1,
        r#"{"invocations":[]}"#
    );
    assert_eq!(api.get("/invocations?status=odd").await.0, 400);
    let other = InvocationId::new(PartitionKey(9), [0; 16]);
    let missing = api.get(&format!("/invocations/{other}")).await;
    check_error(
        missing,
        404,
        &format!("The requested invocation '{other}' does not exist"),
    );
}

#[tokio::test]
async fn batches_tell_what_succeeded() {
    let api = api();
    let path = "/internal/invocations_batch_operations/kill";
    let id = known_id().to_string();
    let (status, body) = api.ask("POST", path, json!({"invocation_ids": [id]})).await;
    assert_eq!(
        (status, body),
        (200, format!(r#"{{"succeeded":["{id}"],"failed":[]}}"#))
    );
    *api.operated.lock().unwrap() = Operated::NotFound;
    let (_, body) = api.ask("POST", path, json!({"invocation_ids": [id]})).await;
    assert!(
        body.contains(&format!("Invocation '{id}' not found")),
        "{body}"
    );
    assert_eq!(
        api.ask("POST", path, json!({"invocation_ids": []})).await.0,
        200
    );
    assert_eq!(
        api.ask("POST", path, json!({"invocation_ids": ["rubbish"]}))
            .await
            .0,
        422
    );
    let many = json!({"invocation_ids": vec![id; 1001]});
    check_error(
        api.ask("POST", path, many).await,
        400,
        "Batch size 1001 exceeds maximum allowed size of 1000",
    );
}

#[tokio::test]
async fn the_server_tells_of_itself() {
    let api = api();
    check(
        api.get("/version").await,
        "-",
        expect![[r#"
        200 {"version":"1.7.12","min_admin_api_version":2,"max_admin_api_version":4,"ingress_endpoint":"http://ingress:8080/","features":{"invoker_yield":false,"kafka_scope":false,"preflight_invocation_termination_retention":false,"protocol_v7":true,"scoped_promise_table_migration":false,"scoped_state_table_migration":false,"scoped_virtual_objects":false,"unique_random_seeds":false,"vqueue_obsolete_cleanup":false,"vqueues":false,"vqueues_async_refill":false,"vqueues_migration_skip_completed":false}}
    "#]],
    );
    assert_eq!(api.get("/health").await, (200, String::new()));
    assert_eq!(
        api.get("/cluster-health").await.1,
        r#"{"cluster_name":"test","metadata_cluster_health":{"members":[1,2]}}"#
    );
    assert_eq!(api.get("/metrics").await, (200, "up 1\n".to_owned()));
    let query = api
        .ask("POST", "/v4/query", json!({"query": "select 1"}))
        .await;
    check_error(query, 501, "POST /query is not there yet");
    assert_eq!(api.get("/query").await.0, 405);
    assert_eq!(api.get("/nowhere").await, (404, String::new()));
    assert_eq!(api.get("/v5/version").await.0, 404);
    let (status, text) = api.get("/v1/version").await;
    assert_eq!(
        (status, text.as_str()),
        (
            400,
            "Unsupported Admin API version V1. This server supports versions between V2 and V4."
        )
    );
}

#[tokio::test]
async fn above_the_limit_requests_are_refused() {
    let api = with_options(AdminOptions {
        concurrent_requests_max: NonZeroUsize::new(1),
        ..AdminOptions::default()
    });
    let held = api.gate.acquire().await.unwrap();
    let request = http::Request::get("/invocations")
        .body(Body::empty())
        .unwrap();
    let waiting = tokio::spawn(api.router.clone().oneshot(request));
    while api.get("/health").await.0 == 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.get("/health").await.0, 429);
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert_eq!(api.get("/health").await.0, 200);
}

#[tokio::test]
async fn every_route_is_described_and_every_description_has_a_route() {
    let document = crate::openapi::document();
    let described = document["paths"].as_object().unwrap();
    let paths: BTreeSet<_> = described.keys().map(String::as_str).collect();
    let routes = super::api(ApiVersion::Current).paths;
    assert_eq!(routes.into_iter().collect::<BTreeSet<_>>(), paths);

    let api = api();
    for (path, item) in described {
        let path = path.replace(['{', '}'], "");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let (status, _, body) = api.raw(method, &path, &[], String::new()).await;
            // A method that is not there has no body; where it is there but refused, the body says why.
            let is_there = status != 405 || !body.is_empty();
            let operation = item.get(method.to_lowercase());
            assert_eq!(is_there, operation.is_some(), "{method} {path} {status}");
            if status == 501 {
                continue;
            }
            let responses = &operation.map_or(&Value::Null, |operation| &operation["responses"]);
            assert!(
                operation.is_none() || responses.get(status.to_string()).is_some(),
                "{method} {path} answers {status} {body}"
            );
        }
    }
}

#[tokio::test]
async fn the_api_describes_itself() {
    let api = api();
    for prefix in ["", "/v2", "/v4"] {
        let (status, body) = api.get(&format!("{prefix}/openapi")).await;
        let document: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
        assert_eq!(document["info"]["version"], "1.7.12");
    }
}

#[tokio::test]
async fn browsers_are_told_that_there_is_no_ui() {
    let api = api();
    for path in ["/", "/ui"] {
        let (status, location, _) = api.raw("GET", path, &[], String::new()).await;
        assert_eq!((status, location.as_str()), (308, "/ui/"), "{path}");
    }
    for path in ["/ui/", "/ui/some/page"] {
        let (status, body) = api.get(path).await;
        assert_eq!(status, 501);
        assert!(body.contains("/openapi"), "{body}");
    }
    let without = with_options(AdminOptions {
        web_ui: false,
        ..AdminOptions::default()
    });
    for path in ["/", "/ui", "/ui/"] {
        assert_eq!(without.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_ask() {
    let api = api();
    let request = |accept| {
        let request = http::Request::get("/version").header("accept-encoding", accept);
        api.router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
    };
    for (accept, expected) in [
        ("gzip", Some("gzip")),
        ("gzip, br, zstd", Some("gzip")),
        ("identity", None),
    ] {
        let answer = request(accept).await.unwrap();
        let header = |name| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        assert_eq!(header("content-encoding"), expected, "{accept}");
        assert_eq!(header("vary"), Some("accept-encoding"));
    }
}

#[tokio::test]
async fn only_the_versions_of_the_reference_are_served() {
    let api = api();
    for path in ["/v1", "/v1/version", "/v1/deployments/x"] {
        let (status, body) = api.get(path).await;
        assert_eq!(status, 400);
        assert!(body.contains("between V2 and V4"), "{body}");
    }
    for path in ["/v5/version", "/nope", "/deployments/", "/v2/"] {
        assert_eq!(api.get(path).await, (404, String::new()), "{path}");
    }
}

#[tokio::test]
async fn payloads_are_decoded_by_the_endpoint() {
    let api = api();
    api.register(json!({"uri": "http://x/"})).await;
    let post = async |path: &str| {
        let path = format!("/internal/services/{path}");
        let (status, _, body) = api.raw("POST", &path, &[], "abc".to_owned()).await;
        (status, body)
    };
    let decoded = post("greeter/serdes/decode/json").await;
    assert_eq!(decoded, (200, r#"Decode b"abc""#.to_owned()));
    assert_eq!(post("greeter/serdes/encode/json").await.0, 200);
    assert_eq!(post("greeter/serdes/other/json").await.0, 404);
    check_error(
        post("greeter/serdes/decode/unknown").await,
        500,
        "Internal server error: the endpoint answered with 404 Not Found (its SDK may not decode and encode payloads, or does not know the serializer): no",
    );
    check_error(
        post("nope/serdes/decode/json").await,
        404,
        "The requested service 'nope' does not exist",
    );
}

#[tokio::test]
async fn what_does_not_hold_as_it_was_said_is_noted() {
    let api = api();
    *api.services.lock().unwrap() = json!([{"name": "s", "ty": "SERVICE", "handlers": [
        {"name": "h", "journalRetention": 864_000_000, "idempotencyRetention": 1000}]}]);
    let id = api.register(json!({"uri": "http://x/"})).await;
    let (_, body) = api.get("/services/s").await;
    assert!(!body.contains("\"info\""), "{body}");

    let limited = limited_api();
    *limited.services.lock().unwrap() = api.services.lock().unwrap().clone();
    let id_there = limited.register(json!({"uri": "http://x/"})).await;
    assert_ne!(id, id_there);
    let (_, body) = limited.get("/services/s").await;
    let service: Value = serde_json::from_str(&body).unwrap();
    let clamped = json!([{"code": "RT0022",
        "message": "The configured journal_retention is clamped to the maximum server limit."}]);
    assert_eq!(
        (&service["journal_retention"], &service["info"]),
        (&json!("1h"), &clamped)
    );
    let handler = &service["handlers"][0];
    assert_eq!(
        (&handler["journal_retention"], &handler["info"]),
        (&json!("1h"), &clamped)
    );
}

/// Journals are kept for an hour at most.
fn limited_api() -> Api {
    let defaults = Defaults {
        journal_retention_max: Some(Duration::from_secs(3600)),
        ..Defaults::default()
    };
    with_defaults(AdminOptions::default(), defaults)
}

mod kafka;
mod limits;
mod observe;
