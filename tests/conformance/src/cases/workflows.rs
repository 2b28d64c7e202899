//! Workflows and their promises.

use serde_json::json;

use super::{Case, case};
use crate::{Language, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("workflows: a promise is set and awaited", set_and_await),
        case!("workflows: a promise is rejected", rejected),
        case!(
            "workflows: a promise is peeked at, and completed once",
            peek
        ),
        case!("workflows: a promise set before it is awaited", set_first),
        case!("workflows: many wait for one promise", many_wait),
    ]
}

async fn waiting(world: &World, key: &str) {
    let status = format!("Gate/{key}/status");
    world
        .eventually("the workflow waits", || async {
            world.ask(&status).await == json!("waiting")
        })
        .await;
}

async fn set_and_await(world: &World) {
    let key = world.key();
    let run = format!("Gate/{key}/run");
    let accepted = world.submit(&run, &[], Some(json!("in"))).await;
    assert_eq!(accepted["status"], "Accepted");
    waiting(world, &key).await;
    let output = format!("restate/workflow/Gate/{key}/output");
    world.get(&output).await.expect_status(470);
    world
        .call(&format!("Gate/{key}/open"), json!("go"))
        .await
        .expect_success();
    let attach = format!("restate/workflow/Gate/{key}/attach");
    assert_eq!(world.get(&attach).await.expect_success(), "in go");
    assert_eq!(world.get(&output).await.expect_success(), "in go");
    assert_eq!(world.ask(&format!("Gate/{key}/status")).await, "through");

    let again = world.submit(&run, &[], Some(json!("other"))).await;
    assert_eq!(again["status"], "PreviouslyAccepted");
    assert_eq!(again["invocationId"], accepted["invocationId"]);
    world.call(&run, json!("third")).await.expect_status(409);
    assert_eq!(world.get(&output).await.expect_success(), "in go");
}

async fn rejected(world: &World) {
    let key = world.key();
    let run = world.send(&format!("Gate/{key}/run"), json!("in")).await;
    world
        .call(&format!("Gate/{key}/shut"), json!("no way"))
        .await
        .expect_success();
    let answer = world.result(&run).await;
    answer.expect_status(500);
    assert_eq!(answer.json()["message"], "no way");
}

async fn peek(world: &World) {
    let key = world.key();
    let peek = format!("Gate/{key}/peek");
    let run = world.send(&format!("Gate/{key}/run"), json!("in")).await;
    waiting(world, &key).await;
    assert_eq!(world.ask(&peek).await, "");
    world
        .call(&format!("Gate/{key}/open"), json!("first"))
        .await
        .expect_success();
    assert_eq!(world.ask(&peek).await, "first");
    let second = world
        .call(&format!("Gate/{key}/open"), json!("second"))
        .await;
    // This SDK does not look whether its completion was taken.
    if world.language != Language::Rust {
        assert!(!second.status.is_success(), "completed twice");
    }
    assert_eq!(world.ask(&peek).await, "first");
    assert_eq!(world.result(&run).await.expect_success(), "in first");
}

async fn set_first(world: &World) {
    let key = world.key();
    world
        .call(&format!("Gate/{key}/open"), json!("early"))
        .await
        .expect_success();
    world
        .expect(&format!("Gate/{key}/run"), json!("in"), json!("in early"))
        .await;
}

async fn many_wait(world: &World) {
    let key = world.key();
    let wait = format!("Gate/{key}/wait");
    let mut waiters = Vec::new();
    for _ in 0..5 {
        waiters.push(world.send_empty(&wait).await);
    }
    let run = world.send(&format!("Gate/{key}/run"), json!("in")).await;
    waiting(world, &key).await;
    world
        .call(&format!("Gate/{key}/open"), json!("all"))
        .await
        .expect_success();
    for waiter in waiters {
        assert_eq!(world.result(&waiter).await.expect_success(), "all");
    }
    assert_eq!(world.result(&run).await.expect_success(), "in all");
}
