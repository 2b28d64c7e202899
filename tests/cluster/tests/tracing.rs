//! One connected trace from a client's request to what the handlers call, over several nodes.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests; the SDK's macros")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use axum::routing::post;
use axum::{Json, Router};
use restate_sdk::prelude::*;
use serde_json::Value;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

static FAILED: AtomicBool = AtomicBool::new(false);

struct Callee;

#[service]
impl Callee {
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text)
    }

    #[handler]
    async fn sent(&self, _ctx: Context<'_>) -> HandlerResult<()> {
        Err(TerminalError::new_with_code(409, "nope").into())
    }
}

struct Caller;

#[object]
impl Caller {
    #[handler]
    async fn go(&self, ctx: ObjectContext<'_>) -> HandlerResult<String> {
        let text = ctx
            .run(|| async { Ok("side".to_owned()) })
            .name("effect")
            .await?;
        let answer: String = ctx
            .service_client::<CalleeClient>()
            .echo(text)
            .call()
            .await?;
        ctx.service_client::<CalleeClient>().sent().send();
        if !FAILED.swap(true, Ordering::Relaxed) {
            return Err(std::io::Error::other("the first time").into());
        }
        Ok(answer)
    }
}

type Spans = Arc<Mutex<Vec<Value>>>;

/// Takes spans as JSON over HTTP.
async fn receiver() -> (String, Spans) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spans = Spans::default();
    let kept = spans.clone();
    let take = move |Json(message): Json<Value>| async move {
        for resource in message["resourceSpans"].as_array().unwrap() {
            for scope in resource["scopeSpans"].as_array().unwrap() {
                let spans = scope["spans"].as_array().unwrap();
                kept.lock().unwrap().extend(spans.clone());
            }
        }
        Json(Value::Object(Default::default()))
    };
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(axum::serve(listener, router).into_future());
    (format!("otlp+http+json://{address}/v1/traces"), spans)
}

async fn endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let endpoint = Endpoint::builder().bind(Callee).bind(Caller).build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    uri
}

fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    let attributes = span["attributes"].as_array()?;
    let found = attributes.iter().find(|one| one["key"] == key)?;
    found["value"]["stringValue"].as_str()
}

/// The spans of a name, the earlier first.
fn named(spans: &[Value], name: &str) -> Vec<Value> {
    let mut found: Vec<_> = spans
        .iter()
        .filter(|span| span["name"] == name)
        .cloned()
        .collect();
    found.sort_by_key(|span| span["startTimeUnixNano"].as_str().unwrap().to_owned());
    found
}

fn events(span: &Value) -> Vec<String> {
    let events = span["events"].as_array().cloned().unwrap_or_default();
    let text = |event: &Value| {
        let name = event["name"].as_str().unwrap();
        let ty = attribute(event, "restate.journal.command.type").unwrap_or_default();
        format!("{} {ty}", name.rsplit('.').next().unwrap())
            .trim_end()
            .to_owned()
    };
    events.iter().map(text).collect()
}

#[tokio::test]
async fn one_connected_trace_from_the_client_to_what_is_called() {
    let (receiver, spans) = receiver().await;
    let options = Options {
        config: format!("tracing-endpoint = \"{receiver}\"\n"),
        ..Options::default()
    };
    let cluster = Cluster::start(3, options).await;
    cluster.register(&endpoint().await).await;
    let client = reqwest::Client::new();
    let answer = client
        .post(format!("{}/Caller/k/go", cluster.ingress(1)))
        .header("traceparent", format!("00-{TRACE}-{CLIENT}-01"))
        .header("tracestate", "vendor=1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    // Not sampled: passed on, and nobody sees it.
    let unseen = client
        .post(format!("{}/Callee/echo", cluster.ingress(0)))
        .header("traceparent", format!("00-{TRACE}-{CLIENT}-00"))
        .json("unseen")
        .send()
        .await
        .unwrap();
    assert_eq!(unseen.status(), 200);

    let begun = Instant::now();
    let spans = loop {
        let now = spans.lock().unwrap().clone();
        // ingress; start, two attempts and end of the caller; start, attempt and end of both callees.
        if now.len() >= 11 {
            break now;
        }
        assert!(begun.elapsed() < PATIENCE, "{now:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(spans.len(), 11, "{spans:#?}");
    let ids: BTreeSet<_> = spans.iter().map(|span| span["spanId"].as_str()).collect();
    assert_eq!(ids.len(), 11);

    let ingress = &named(&spans, "ingress Caller/{key}/go")[0];
    assert_eq!(ingress["traceId"], TRACE);
    assert_eq!(ingress["parentSpanId"], CLIENT);
    assert_eq!(ingress["traceState"], "vendor=1");
    assert_eq!(
        attribute(ingress, "client.socket.address"),
        Some("127.0.0.1")
    );

    let start = &named(&spans, "invocation-start Caller/{key}/go")[0];
    assert_eq!(start["parentSpanId"], ingress["spanId"]);
    let attempts = named(&spans, "invocation-attempt Caller/{key}/go");
    let [failed, second] = &attempts[..] else {
        panic!("{attempts:#?}")
    };
    for attempt in [failed, second] {
        assert_eq!(attempt["traceId"], TRACE);
        assert_eq!(attempt["parentSpanId"], start["spanId"]);
        assert!(
            attribute(attempt, "restate.deployment.id")
                .unwrap()
                .starts_with("dp_1")
        );
        assert!(attribute(attempt, "restate.deployment.address").is_some());
    }
    assert_eq!(failed["status"]["message"], "transient failure");
    assert_eq!(second["status"]["code"], 1);
    assert_eq!(
        events(failed),
        [
            "new_command Command/Run",
            "run_ended",
            "new_command Command/Call",
            "new_command Command/OneWayCall"
        ]
    );
    assert_eq!(events(second), ["new_command Command/Output"]);
    let end = &named(&spans, "invocation-end Caller/{key}/go")[0];
    assert_eq!(end["parentSpanId"], start["spanId"]);
    assert_eq!(attribute(end, "restate.invocation.result"), Some("success"));

    let called = &named(&spans, "invocation-start Callee/echo")[0];
    assert_eq!(called["traceId"], TRACE);
    assert_eq!(called["parentSpanId"], failed["spanId"]);

    let sent = &named(&spans, "invocation-start Callee/sent")[0];
    assert_ne!(sent["traceId"], TRACE);
    assert_eq!(sent["links"][0]["traceId"], TRACE);
    assert_eq!(sent["links"][0]["spanId"], failed["spanId"]);
    let end = &named(&spans, "invocation-end Callee/sent")[0];
    assert_eq!(end["traceId"], sent["traceId"]);
    assert_eq!(attribute(end, "restate.invocation.result"), Some("failure"));
    assert_eq!(
        attribute(end, "restate.invocation.error.code"),
        Some("409 Aborted")
    );
}
