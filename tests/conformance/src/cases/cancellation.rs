//! Cancelling and killing whatever a handler waits for.

use std::time::Duration;

use serde_json::json;

use super::{Case, case};
use crate::World;
use crate::world::text;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("cancel: a call, through the admin API", call_by_admin),
        case!("cancel: a sleep, through the admin API", sleep_by_admin),
        case!(
            "cancel: an awakeable, through the admin API",
            awakeable_by_admin
        ),
        case!("cancel: a signal, through the admin API", signal_by_admin),
        case!(
            "cancel: several things at once, through the admin API",
            race_by_admin
        ),
        case!(
            "cancel: an attachment, through the admin API",
            attach_by_admin
        ),
        case!("cancel: a call, by a handler", call_by_handler),
        case!("cancel: a sleep, by a handler", sleep_by_handler),
        case!("cancel: an awakeable, by a handler", awakeable_by_handler),
        case!("cancel: a workflow's promise", promise),
        case!("cancel: a call by its own caller", own_call),
        case!("cancel: what waits in the inbox", inboxed),
        case!("cancel: what is scheduled", scheduled),
        case!("cancel: twice, and what is over", twice),
        case!("kill: a tree of calls", kill_tree),
        case!("kill: what waits behind runs on", kill_and_go_on),
    ]
}

async fn by_admin(world: &World, operation: &str) {
    let key = world.key();
    let id = world
        .send(&format!("CancelRunner/{key}/start"), json!(operation))
        .await;
    release(world, &key).await;
    // The cancellation may come before the blocking call is made, and is then swallowed by the first
    // awakeable: so it is repeated until the runner has noticed.
    let (key, id) = (&key, &id);
    world
        .eventually("the runner was cancelled", || async {
            let answer = world.operate(id, "cancel").await;
            let status = answer.status.as_u16();
            assert!(matches!(status, 200 | 202 | 404 | 409), "{}", answer.text());
            was_cancelled(world, key).await
        })
        .await;
    unlocked(world, key).await;
}

async fn by_handler(world: &World, operation: &str) {
    let key = world.key();
    let request = json!({
        "service": "CancelRunner", "key": key, "handler": "start", "message": json!(operation).to_string(),
    });
    let id = text(&world.call("Relay/send", request).await.expect_success());
    release(world, &key).await;
    let (key, id) = (&key, &id);
    world
        .eventually("the runner was cancelled", || async {
            world
                .call("Basics/cancelOther", json!(id))
                .await
                .expect_success();
            was_cancelled(world, key).await
        })
        .await;
    unlocked(world, key).await;
}

async fn release(world: &World, key: &str) {
    world.wait_until_held(key).await;
    world
        .call(&format!("Holder/{key}/release"), json!("go"))
        .await
        .expect_success();
}

/// The runner's key is locked until it has noticed.
async fn was_cancelled(world: &World, key: &str) -> bool {
    let target = format!("CancelRunner/{key}/wasCancelled");
    let asked = tokio::time::timeout(Duration::from_secs(1), world.ask(&target)).await;
    asked.is_ok_and(|answer| answer == json!(true))
}

/// The callee was cancelled too, and its key is free.
async fn unlocked(world: &World, key: &str) {
    let url = format!("{}/CancelBlocker/{key}/unlocked", world.ingress());
    world.api().post_empty(&url).await.expect_success();
}

async fn call_by_admin(world: &World) {
    by_admin(world, "call").await;
}

async fn sleep_by_admin(world: &World) {
    by_admin(world, "sleep").await;
}

async fn awakeable_by_admin(world: &World) {
    by_admin(world, "awakeable").await;
}

async fn signal_by_admin(world: &World) {
    by_admin(world, "signal").await;
}

async fn race_by_admin(world: &World) {
    by_admin(world, "race").await;
}

async fn attach_by_admin(world: &World) {
    by_admin(world, "attach").await;
}

async fn call_by_handler(world: &World) {
    by_handler(world, "call").await;
}

async fn sleep_by_handler(world: &World) {
    by_handler(world, "sleep").await;
}

async fn awakeable_by_handler(world: &World) {
    by_handler(world, "awakeable").await;
}

async fn promise(world: &World) {
    let key = world.key();
    let id = world.send(&format!("Gate/{key}/run"), json!("in")).await;
    let status = format!("Gate/{key}/status");
    world
        .eventually("the workflow waits", || async {
            world.ask(&status).await == json!("waiting")
        })
        .await;
    world.operate(&id, "cancel").await.expect_success();
    world.result(&id).await.expect_status(409);
}

async fn own_call(world: &World) {
    assert_eq!(world.ask("Basics/callAndCancel").await, "409");
}

async fn inboxed(world: &World) {
    let key = world.key();
    let slow = json!({"amount": 1, "ms": 3_600_000});
    let first = world.send(&format!("Counter/{key}/slowAdd"), slow).await;
    let second = world.send(&format!("Counter/{key}/add"), json!(1)).await;
    let third = world.send(&format!("Counter/{key}/add"), json!(1)).await;
    world.operate(&second, "cancel").await.expect_success();
    world.result(&second).await.expect_status(409);
    world.operate(&first, "cancel").await.expect_success();
    world.result(&first).await.expect_status(409);
    assert_eq!(world.result(&third).await.expect_success()["after"], 1);
}

async fn scheduled(world: &World) {
    let key = world.key();
    let url = format!("{}/Counter/{key}/add/send?delay=1h", world.ingress());
    let accepted = world.api().post(&url, &json!(1)).await.expect_success();
    let id = text(&accepted["invocationId"]);
    world.operate(&id, "cancel").await.expect_success();
    world.result(&id).await.expect_status(409);
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(0));
}

async fn twice(world: &World) {
    let id = world.send("Basics/nap", json!(3_600_000)).await;
    world.operate(&id, "cancel").await.expect_success();
    let again = world.operate(&id, "cancel").await;
    assert!(
        matches!(again.status.as_u16(), 200 | 202 | 404 | 409),
        "{}",
        again.text()
    );
    world.result(&id).await.expect_status(409);
    let over = world.operate(&id, "cancel").await;
    assert!(
        matches!(over.status.as_u16(), 404 | 409),
        "{}: {}",
        over.status,
        over.text()
    );
}

async fn kill_tree(world: &World) {
    let key = world.key();
    let id = world.send_empty(&format!("KillRunner/{key}/start")).await;
    release(world, &key).await;
    // The chain then waits for itself: killing its root must free it.
    world.operate(&id, "kill").await.expect_success();
    world.result(&id).await.expect_status(409);
    let target = format!("{}/KillChain/{key}/unlocked", world.ingress());
    let freed =
        tokio::time::timeout(Duration::from_secs(20), world.api().post_empty(&target)).await;
    freed.expect("the chain is free").expect_success();
}

async fn kill_and_go_on(world: &World) {
    let key = world.key();
    let slow = json!({"amount": 1, "ms": 3_600_000});
    let held = world.send(&format!("Counter/{key}/slowAdd"), slow).await;
    let next = world.send(&format!("Counter/{key}/add"), json!(5)).await;
    world.operate(&held, "kill").await.expect_success();
    let answer = world.result(&held).await;
    answer.expect_status(409);
    assert_eq!(answer.json()["message"], "killed");
    assert_eq!(
        world.result(&next).await.expect_success(),
        json!({"before": 0, "after": 5})
    );
}
