//! Handlers that call and send to each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Case, case};
use crate::World;
use crate::world::text;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("calls: a service calls a service", call),
        case!("calls: many calls at a time", fan_out),
        case!("calls: a proxied call", relayed),
        case!("calls: a proxied send", relayed_send),
        case!(
            "calls: a send with an idempotency key happens once",
            send_once
        ),
        case!(
            "calls: a call with an idempotency key happens once",
            call_once
        ),
        case!("calls: delayed sends wait side by side", delayed),
        case!(
            "calls: order of calls and sends (send, call, call)",
            order_send_call_call
        ),
        case!(
            "calls: order of calls and sends (call, send, call)",
            order_call_send_call
        ),
        case!(
            "calls: order of calls and sends (send, send, call)",
            order_send_send_call
        ),
        case!("calls: attach to another invocation", attach),
        case!(
            "calls: a private service is called by handlers only",
            private
        ),
    ]
}

async fn call(world: &World) {
    world
        .expect("Basics/callShout", json!("ping"), json!("PING"))
        .await;
}

async fn fan_out(world: &World) {
    world.expect("Basics/fanOut", json!(20), json!(190)).await;
}

async fn relayed(world: &World) {
    let request = json!({"service": "Basics", "handler": "shout", "message": "\"ping\""});
    world.expect("Relay/call", request, json!("\"PING\"")).await;
}

async fn relayed_send(world: &World) {
    let key = world.key();
    let request = json!({"service": "Counter", "key": key, "handler": "add", "message": "1"});
    let id = world.call("Relay/send", request).await.expect_success();
    let result = world.result(&text(&id)).await.expect_success();
    assert_eq!(result, json!({"before": 0, "after": 1}));
}

async fn send_once(world: &World) {
    let (key, idempotency) = (world.key(), world.key());
    let request = json!({
        "service": "Counter", "key": key, "handler": "add", "message": "1", "idempotencyKey": idempotency,
    });
    let first = world
        .call("Relay/send", request.clone())
        .await
        .expect_success();
    let second = world.call("Relay/send", request).await.expect_success();
    assert_eq!(first, second);
    world.result(&text(&first)).await.expect_success();
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(1));
    let path = format!("restate/invocation/Counter/{key}/add/{idempotency}/output");
    let output = world.get(&path).await.expect_success();
    assert_eq!(output, json!({"before": 0, "after": 1}));
}

async fn call_once(world: &World) {
    let (key, idempotency) = (world.key(), world.key());
    let request = json!({
        "service": "Counter", "key": key, "handler": "add", "message": "1", "idempotencyKey": idempotency,
    });
    for _ in 0..3 {
        let answer = world
            .call("Relay/call", request.clone())
            .await
            .expect_success();
        let answer: Value = serde_json::from_str(&text(&answer)).expect("JSON");
        assert_eq!(answer, json!({"before": 0, "after": 1}));
    }
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(1));
    let path = format!("restate/invocation/Counter/{key}/add/{idempotency}/attach");
    let output = world.get(&path).await.expect_success();
    assert_eq!(output, json!({"before": 0, "after": 1}));
}

async fn delayed(world: &World) {
    let key = world.key();
    let delay = Duration::from_millis(3000);
    let from = Instant::now();
    let request = json!({
        "service": "Counter", "key": key, "handler": "add", "message": "1", "delayMs": delay.as_millis(),
    });
    let sends = (0..10).map(|_| world.call("Relay/send", request.clone()));
    for answer in futures::future::join_all(sends).await {
        answer.expect_success();
    }
    let get = format!("Counter/{key}/get");
    world
        .eventually("all ten were added", || async {
            world.ask(&get).await == json!(10)
        })
        .await;
    assert!(from.elapsed() >= delay, "added before their time");
    // One behind the other, they would need ten delays.
    assert!(from.elapsed() < 8 * delay, "they waited for each other");
}

async fn order_send_call_call(world: &World) {
    order(world, [true, false, false]).await;
}

async fn order_call_send_call(world: &World) {
    order(world, [false, true, false]).await;
}

async fn order_send_send_call(world: &World) {
    order(world, [true, true, false]).await;
}

async fn order(world: &World, one_way: [bool; 3]) {
    let key = world.key();
    let requests: Vec<Value> = one_way
        .into_iter()
        .enumerate()
        .map(|(index, one_way)| {
            json!({
                "service": "List", "key": key, "handler": "append",
                "message": format!("\"{index}\""), "oneWay": one_way,
            })
        })
        .collect();
    world
        .call("Relay/many", json!(requests))
        .await
        .expect_success();
    assert_eq!(
        world.ask(&format!("List/{key}/clear")).await,
        json!(["0", "1", "2"])
    );
}

async fn attach(world: &World) {
    let napping = world.send("Basics/nap", json!(500)).await;
    world
        .expect("Basics/attachTo", json!(napping), json!("rested"))
        .await;
    // And once it is over.
    world
        .expect("Basics/attachTo", json!(napping), json!("rested"))
        .await;
}

async fn private(world: &World) {
    let answer = world.call("Hidden/greet", json!("Ada")).await;
    answer.expect_status(400);
    let request = json!({"service": "Hidden", "handler": "greet", "message": "\"Ada\""});
    world
        .expect("Relay/call", request, json!("\"Hello Ada\""))
        .await;
}
