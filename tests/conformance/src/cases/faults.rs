//! Nodes and services that die and come back.

use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use serde_json::{Value, json};

use super::{Case, case};
use crate::endpoint::Variant;
use crate::{Endpoint, Language, Setting, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "faults: a sleep outlives its killed endpoint",
            kill_endpoint
        )
        .alone(),
        case!(
            "faults: a sleep outlives its stopped endpoint",
            stop_endpoint
        )
        .alone(),
        case!("faults: a killed node keeps the state", kill_node).alone(),
        case!("faults: a stopped node keeps the state", stop_node).alone(),
        case!("faults: a sleep outlives a killed node", sleep_through_kill).alone(),
        case!(
            "identity: requests are signed, and unsigned ones refused",
            identity
        )
        .alone()
        .only(signs),
    ]
}

const NAP: Duration = Duration::from_secs(3);

async fn kill_endpoint(world: &World) {
    nap_through(world, async {
        let mut endpoint = world.endpoint.lock().await;
        endpoint.kill();
        endpoint.start_again().await;
    })
    .await;
}

async fn stop_endpoint(world: &World) {
    nap_through(world, async {
        let mut endpoint = world.endpoint.lock().await;
        endpoint.terminate().await;
        endpoint.start_again().await;
    })
    .await;
}

async fn nap_through(world: &World, trouble: impl Future<Output = ()>) {
    let from = Instant::now();
    let id = world.send("Basics/nap", json!(NAP.as_millis())).await;
    tokio::time::sleep(NAP / 4).await;
    trouble.await;
    assert_eq!(world.result(&id).await.expect_success(), "rested");
    assert!(from.elapsed() >= NAP);
}

async fn kill_node(world: &World) {
    state_through(world, false).await;
}

async fn stop_node(world: &World) {
    state_through(world, true).await;
}

async fn restart(world: &World, gently: bool) {
    let mut cluster = world.cluster.lock().await;
    if gently {
        cluster.terminate(0).await;
    } else {
        cluster.kill(0);
    }
    cluster.start_node(0);
    cluster.wait_until_serving().await;
}

async fn state_through(world: &World, gently: bool) {
    let key = world.key();
    let target = format!("Counter/{key}/add");
    world
        .expect(&target, json!(1), json!({"before": 0, "after": 1}))
        .await;
    restart(world, gently).await;
    let idempotency = world.key();
    let added = patiently(world, &target, &idempotency, json!(2)).await;
    assert_eq!(added, json!({"before": 1, "after": 3}));
}

/// Calls until it succeeds; the key makes the repetitions harmless.
async fn patiently(world: &World, target: &str, idempotency: &str, input: Value) -> Value {
    let deadline = Instant::now() + Duration::from_secs(40);
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", idempotency),
    ];
    loop {
        let url = format!("{}/{target}", world.ingress());
        let asked = world
            .api()
            .request(http::Method::POST, &url, &headers, input.to_string());
        let problem = match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(answer)) if answer.status.is_success() => return answer.json(),
            Ok(Ok(answer)) => answer.text(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        assert!(Instant::now() < deadline, "{problem}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn sleep_through_kill(world: &World) {
    let from = Instant::now();
    let idempotency = world.key();
    let headers = [("idempotency-key", idempotency.as_str())];
    world
        .submit("Basics/nap", &headers, Some(json!(NAP.as_millis())))
        .await;
    restart(world, false).await;
    let rested = patiently(world, "Basics/nap", &idempotency, json!(NAP.as_millis())).await;
    assert_eq!(rested, "rested");
    assert!(from.elapsed() >= NAP);
}

fn signs(language: Language, setting: Setting) -> Result<(), &'static str> {
    match (language, setting) {
        (Language::Java, _) => {
            Err("the verifier is a package of its own, which the services do not have")
        }
        (_, Setting::Default) => Ok(()),
        _ => Err("it has a cluster of its own, once for each language"),
    }
}

/// An ed25519 key that is known to everybody, and its public half as endpoints are given it.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n\
    -----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "publickeyv1_FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF";

async fn identity(world: &World) {
    let variant = Variant {
        identity_key: Some(PUBLIC_KEY.to_owned()),
        ..Variant::default()
    };
    let endpoint = Endpoint::start(world.language, variant).await;
    // This world's cluster has no key, so the endpoint does not even tell it what it has.
    let body = json!({ "uri": endpoint.uri(), "dry_run": true });
    let refused = world
        .admin(http::Method::POST, "/deployments", Some(&body))
        .await;
    assert!(!refused.status.is_success(), "{}", refused.text());

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("private.pem");
    std::fs::write(&file, PRIVATE_KEY).expect("write the key");
    let config = format!(
        "worker.invoker.request-identity-private-key-pem-file = \"{}\"\n",
        file.display()
    );
    let cluster = Cluster::start(
        1,
        Options {
            config,
            ..Options::default()
        },
    )
    .await;
    cluster.register(&endpoint.uri()).await;
    let answer = cluster
        .call(0, "Counter/signed/add", &json!(1))
        .await
        .expect_success();
    assert_eq!(answer, json!({"before": 0, "after": 1}));
}
