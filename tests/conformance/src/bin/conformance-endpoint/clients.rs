//! What the official client of Rust does at an ingress: `conformance-endpoint clients URL KEY`.

use std::error::Error;
use std::time::{Duration, Instant};

use abide_test_cluster::Api;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use restate_sdk::ingress::{Client, Output, RequestExecutor, SendStatus};
use restate_sdk::prelude::Json;

use crate::basics::BasicsIngressClient;
use crate::failures::{Failure, FailuresIngressClient};
use crate::objects::{CounterIngressClient, GateIngressClient};

/// Sends what the client made with the tests' own HTTP client.
struct Executor(Api);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unsent(String);

impl RequestExecutor for Executor {
    type Error = Unsent;

    async fn execute(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Unsent> {
        let (parts, body) = request.into_parts();
        let headers: Vec<(&str, &str)> = parts
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
            .collect();
        let method = Method::from_bytes(parts.method.as_str().as_bytes())
            .map_err(|error| Unsent(error.to_string()))?;
        let answer = self
            .0
            .request(method, &parts.uri.to_string(), &headers, body)
            .await
            .map_err(|error| Unsent(error.to_string()))?;
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

pub(crate) async fn run(url: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let key = format!("rust-{key}");
    let client = Client::new(url.parse()?, Executor(Api::default()))?;
    let basics = BasicsIngressClient::from_client(client.clone());

    // Calls, with headers and with idempotency keys.
    let answer = basics.echo("hello".to_owned()).call().await?;
    let id = answer.invocation_handle().invocation_id().to_string();
    assert!(id.starts_with("inv_"), "{id}");
    assert_eq!(answer.into_body()?, "hello");
    let header = (
        HeaderName::from_static("x-mine"),
        HeaderValue::from_static("yes"),
    );
    let Json(seen) = basics
        .headers()
        .header(header.0, header.1)
        .call()
        .await?
        .into_body()?;
    assert_eq!(seen.get("x-mine").map(String::as_str), Some("yes"));
    let counter = CounterIngressClient::from_client(client.clone(), key.clone());
    for _ in 0..2 {
        counter
            .add(2)
            .idempotency_key(format!("once-{key}"))
            .call()
            .await?
            .into_body()?;
    }
    assert_eq!(counter.get().call().await?.into_body()?, 2);

    // Failures.
    let failures = FailuresIngressClient::from_client(client.clone(), key.clone());
    let failure = Json(Failure::new("no way", 409));
    let error = failures
        .fail_terminal(failure)
        .call()
        .await
        .and_then(|answer| answer.into_body());
    assert!(error.is_err(), "no failure");

    // Sends: delayed, attached to, looked at, accepted before.
    let from = Instant::now();
    let delay = Duration::from_millis(500);
    let sent = basics
        .nap(10)
        .idempotency_key(format!("nap-{key}"))
        .send_after(delay)
        .await?;
    assert_eq!(sent.send_status(), SendStatus::Accepted);
    assert!(matches!(
        sent.invocation_handle().output().await?.body(),
        Output::NotReady
    ));
    let again = basics
        .nap(10)
        .idempotency_key(format!("nap-{key}"))
        .send()
        .await?;
    assert_eq!(again.send_status(), SendStatus::PreviouslyAccepted);
    assert_eq!(
        sent.invocation_handle().attach().await?.into_body(),
        "rested"
    );
    assert!(from.elapsed() >= delay);
    assert!(
        matches!(sent.invocation_handle().output().await?.into_body(), Output::Ready(text) if text == "rested")
    );

    // Workflows.
    let gate = GateIngressClient::from_client(client.clone(), key.clone());
    gate.run("in".to_owned()).send().await?;
    let found = client
        .lookup_workflow::<String>("Gate", key.clone(), None)
        .await?;
    gate.open("go".to_owned()).call().await?.into_body()?;
    assert_eq!(found.attach().await?.into_body(), "in go");
    println!("ok");
    Ok(())
}
