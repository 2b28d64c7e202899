//! Input, output, headers, bytes, runs and randomness.

use http::Method;
use serde_json::json;

use super::{Case, case};
use crate::World;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("basics: a handler answers", answers),
        case!("basics: a handler without input and output", nothing),
        case!("basics: headers reach the handler", headers),
        case!("basics: bytes pass through unchanged", bytes),
        case!("basics: a large value passes through", large),
        case!("runs: each step is run once and kept", steps),
        case!("runs: random numbers are the same in every attempt", random),
        case!("runs: a run is waited for until it is stored", flush).only(|_, setting| {
            if setting.always_suspends() {
                Ok(())
            } else {
                Err("only a suspension shows whether the handler waited")
            }
        }),
        case!("runs: the environment is read once", environment),
    ]
}

async fn answers(world: &World) {
    let answer = world.call("Basics/echo", json!("hello")).await;
    assert_eq!(answer.expect_success(), json!("hello"));
    let id = answer.headers["x-restate-id"]
        .to_str()
        .expect("an id")
        .to_owned();
    assert!(id.starts_with("inv_1"), "{id}");
    let odd = json!("äöü \u{1F600} \u{0} \" end");
    world.expect("Basics/echo", odd.clone(), odd).await;
    let own = world
        .api()
        .post_empty(&format!("{}/Basics/ownId", world.ingress()))
        .await;
    assert_eq!(
        own.expect_success(),
        json!(own.headers["x-restate-id"].to_str().expect("an id"))
    );
}

async fn nothing(world: &World) {
    let url = format!("{}/Basics/nothing", world.ingress());
    let answer = world.api().post_empty(&url).await;
    answer.expect_success();
    assert!(
        answer.body.is_empty() || answer.text() == "null",
        "{}",
        answer.text()
    );
    let url = format!("{}/Basics/nothing", world.ingress());
    world.api().get(&url).await.expect_success();
}

async fn headers(world: &World) {
    let url = format!("{}/Basics/headers", world.ingress());
    let sent = [("x-my-own-header", "my own value")];
    let answer = world
        .api()
        .request(Method::POST, &url, &sent, "")
        .await
        .expect("an answer");
    assert_eq!(answer.expect_success()["x-my-own-header"], "my own value");
    world
        .expect(
            "Basics/callWithHeader",
            json!("from a handler"),
            json!("from a handler"),
        )
        .await;
}

async fn bytes(world: &World) {
    let sent: Vec<u8> = (0..200).map(|_| rand::random()).collect();
    let url = format!("{}/Basics/bytes", world.ingress());
    let headers = [("content-type", "application/octet-stream")];
    let answer = world
        .api()
        .request(Method::POST, &url, &headers, sent.clone())
        .await
        .expect("an answer");
    answer.expect_status(200);
    assert_eq!(answer.body, sent);
}

async fn large(world: &World) {
    let large = json!("x".repeat(3 << 20));
    world
        .expect("Basics/echo", large.clone(), large.clone())
        .await;
    let key = world.key();
    let entry = json!({"name": "large", "value": large});
    world
        .call(&format!("Map/{key}/put"), entry)
        .await
        .expect_success();
    world
        .expect(&format!("Map/{key}/read"), json!("large"), large)
        .await;
}

async fn steps(world: &World) {
    let done: Vec<_> = (1..=20).map(|step| format!("done-{step}")).collect();
    world.expect("Basics/steps", json!(20), json!(done)).await;
}

async fn random(world: &World) {
    let first = world.ask("Basics/random").await;
    assert_eq!(first["same"], true, "{first}");
    let second = world.ask("Basics/random").await;
    assert_eq!(second["same"], true, "{second}");
    assert_ne!(
        first["values"], second["values"],
        "two invocations drew the same numbers"
    );
    let values = first["values"].as_array().expect("an array");
    assert_ne!(values[0], values[2]);
    assert_ne!(values[1], values[3]);
}

async fn flush(world: &World) {
    // The last attempt finds all runs in its journal: had it not been suspended at each, it would have
    // executed some itself.
    world.expect("Basics/countRuns", json!(3), json!(0)).await;
}

async fn environment(world: &World) {
    let key = world.key();
    let commands = json!([{"type": "environment", "name": "CONFORMANCE_ENVIRONMENT"}]);
    world
        .expect(
            &format!("Commands/{key}/run"),
            commands,
            json!("from outside"),
        )
        .await;
}
