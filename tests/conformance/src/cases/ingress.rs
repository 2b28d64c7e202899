//! What clients see: idempotency, attaching, retention.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use super::{Case, case};
use crate::World;
use crate::world::text;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "ingress: a call with an idempotency key happens once",
            call_once
        ),
        case!(
            "ingress: a send with an idempotency key is accepted once",
            send_once
        ),
        case!("ingress: a call joins a send with the same key", call_joins),
        case!("ingress: attach and output by idempotency key", by_key),
        case!("ingress: attach and output by id", by_id),
        case!(
            "ingress: a result is forgotten after its retention",
            retention
        ),
        case!("ingress: unknown services and handlers", unknown),
        case!(
            "ingress: a service becomes private and public again",
            private
        ),
        case!("ingress: the OpenAPI document of a service", openapi),
    ]
}

async fn call_once(world: &World) {
    let (key, idempotency) = (world.key(), world.key());
    let headers = [("idempotency-key", idempotency.as_str())];
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = world
            .call_with(&format!("Counter/{key}/add"), &headers, json!(2))
            .await;
        assert_eq!(answer.expect_success(), json!({"before": 0, "after": 2}));
        ids.push(answer.headers["x-restate-id"].clone());
    }
    assert!(ids.iter().all(|id| id == ids[0]), "{ids:?}");
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(2));
    let other = world.key();
    let headers = [("idempotency-key", other.as_str())];
    let answer = world
        .call_with(&format!("Counter/{key}/add"), &headers, json!(2))
        .await;
    assert_eq!(answer.expect_success(), json!({"before": 2, "after": 4}));
}

async fn send_once(world: &World) {
    let (key, idempotency) = (world.key(), world.key());
    let headers = [("idempotency-key", idempotency.as_str())];
    let target = format!("Counter/{key}/add");
    let first = world.submit(&target, &headers, Some(json!(2))).await;
    assert_eq!(first["status"], "Accepted");
    let second = world.submit(&target, &headers, Some(json!(2))).await;
    assert_eq!(second["status"], "PreviouslyAccepted");
    assert_eq!(first["invocationId"], second["invocationId"]);
    world
        .result(&text(&first["invocationId"]))
        .await
        .expect_success();
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(2));
}

async fn call_joins(world: &World) {
    let idempotency = world.key();
    let headers = [("idempotency-key", idempotency.as_str())];
    let sent = world.submit("Basics/nap", &headers, Some(json!(500))).await;
    let (one, two) = tokio::join!(
        world.call_with("Basics/nap", &headers, json!(500)),
        world.call_with("Basics/nap", &headers, json!(500)),
    );
    for answer in [one, two] {
        assert_eq!(answer.expect_success(), "rested");
        let id = answer.headers["x-restate-id"].to_str().expect("an id");
        assert_eq!(sent["invocationId"], id);
    }
}

async fn by_key(world: &World) {
    let (key, idempotency) = (world.key(), world.key());
    let headers = [("idempotency-key", idempotency.as_str())];
    world
        .submit(&format!("Holder/{key}/waitHeld"), &headers, None)
        .await;
    let path = format!("restate/invocation/Holder/{key}/waitHeld/{idempotency}");
    let (attach, output) = (format!("{path}/attach"), format!("{path}/output"));
    world.get(&output).await.expect_status(470);
    let attached = world.get(&attach);
    let released = async {
        world.wait_until_held(&key).await;
        world.get(&output).await.expect_status(470);
        world
            .call(&format!("Holder/{key}/release"), json!("word"))
            .await
            .expect_success();
    };
    let (answer, ()) = tokio::join!(attached, released);
    assert_eq!(answer.expect_success(), "got word");
    assert_eq!(world.get(&output).await.expect_success(), "got word");
}

async fn by_id(world: &World) {
    let id = world.send("Basics/nap", json!(700)).await;
    world.output(&id).await.expect_status(470);
    let (first, second) = tokio::join!(world.result(&id), world.result(&id));
    assert_eq!(first.expect_success(), "rested");
    assert_eq!(second.expect_success(), "rested");
    assert_eq!(world.output(&id).await.expect_success(), "rested");
    let unknown = format!("{}000", &id[..id.len() - 3]);
    let answer = world.output(&unknown).await;
    assert!(
        answer.status.is_client_error(),
        "{}: {}",
        answer.status,
        answer.text()
    );
}

async fn retention(world: &World) {
    let (name, idempotency) = (world.key(), world.key());
    let headers = [("idempotency-key", idempotency.as_str())];
    let first = world
        .call_with("Short/attempt", &headers, json!(name))
        .await
        .expect_success();
    assert_eq!(first, 1);
    let from = Instant::now();
    let (name, headers) = (&name, &headers);
    world
        .eventually("the result is forgotten", || async {
            let again = world
                .call_with("Short/attempt", headers, json!(name))
                .await
                .expect_success();
            again == 2
        })
        .await;
    assert!(
        from.elapsed() >= Duration::from_millis(1500),
        "forgotten before its time"
    );
}

async fn unknown(world: &World) {
    world
        .call("Nowhere/echo", json!(1))
        .await
        .expect_status(404);
    world
        .call("Basics/nohow", json!(1))
        .await
        .expect_status(404);
}

async fn private(world: &World) {
    let service = "List";
    let change = json!({"public": false});
    let path = format!("/services/{service}");
    world
        .admin(Method::PATCH, &path, Some(&change))
        .await
        .expect_success();
    let target = format!("List/{}/get", world.key());
    world
        .eventually("the service is private", || async {
            // Every node must have heard of it.
            let mut all = true;
            for _ in 0..world.setting.nodes() {
                let url = format!("{}/{target}", world.ingress());
                all &= world.api().post_empty(&url).await.status.as_u16() == 400;
            }
            all
        })
        .await;
    let change = json!({"public": true});
    world
        .admin(Method::PATCH, &path, Some(&change))
        .await
        .expect_success();
    world
        .eventually("the service is public again", || async {
            let mut all = true;
            for _ in 0..world.setting.nodes() {
                let url = format!("{}/{target}", world.ingress());
                all &= world.api().post_empty(&url).await.status.is_success();
            }
            all
        })
        .await;
}

async fn openapi(world: &World) {
    let answer = world
        .admin(Method::GET, "/services/Counter/openapi", None)
        .await;
    let document = answer.expect_success();
    let version = document["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3."), "{version}");
    let paths = document["paths"].as_object().expect("paths");
    assert!(
        paths
            .keys()
            .any(|path| path.contains("/Counter/") && path.contains("add")),
        "{paths:?}"
    );
}
