//! Failures, their way to the caller, and retries.

use serde_json::{Value, json};

use super::{Case, case};
use crate::{Language, Setting, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("failures: a terminal failure reaches the client", terminal),
        case!("failures: an endpoint survives many", repeated),
        case!("failures: propagated through a call", propagated),
        case!("failures: caught in the caller", caught),
        case!("failures: of a run", of_a_run),
        case!("failures: metadata reaches the client", metadata).only(has_metadata),
        case!("failures: metadata through a call", metadata_propagated).only(has_metadata),
        case!("failures: metadata of a run", metadata_of_a_run).only(has_metadata),
        case!(
            "failures: an attempt is repeated until it succeeds",
            retried
        ),
        case!("runs: repeated until it succeeds", run_retried),
        case!("runs: one attempt is one attempt", run_once),
        case!("runs: given up after the last attempt", run_exhausted),
        case!(
            "journal: another command than before (sleep, then call)",
            drift_sleep
        )
        .only(on_replay),
        case!("journal: another callee than before", drift_call).only(on_replay),
        case!("journal: another recipient than before", drift_send).only(on_replay),
        case!("journal: another state entry than before", drift_set).only(on_replay),
    ]
}

fn has_metadata(language: Language, _: Setting) -> Result<(), &'static str> {
    match language {
        Language::Rust | Language::Java => Err("the SDK's failures carry no metadata"),
        _ => Ok(()),
    }
}

fn on_replay(_: Language, setting: Setting) -> Result<(), &'static str> {
    if setting.always_suspends() {
        Ok(())
    } else {
        Err("only a replay shows that the handler took another way")
    }
}

async fn terminal(world: &World) {
    let failure = json!({"message": "no way", "code": 409});
    let answer = world
        .call(&format!("Failures/{}/failTerminal", world.key()), failure)
        .await;
    answer.expect_status(409);
    let error = answer.json();
    assert_eq!(error["message"], "no way");
    assert_eq!(error["code"], 409);
    let failure = json!({"message": "my error"});
    let answer = world
        .call(&format!("Failures/{}/failTerminal", world.key()), failure)
        .await;
    answer.expect_status(500);
    assert_eq!(answer.json()["message"], "my error");
}

async fn repeated(world: &World) {
    for _ in 0..5 {
        terminal(world).await;
    }
}

async fn expect_failure(world: &World, handler: &str, failure: Value) -> Value {
    let answer = world
        .call(
            &format!("Failures/{}/{handler}", world.key()),
            failure.clone(),
        )
        .await;
    let code = failure["code"].as_u64().unwrap_or(500);
    assert_eq!(u64::from(answer.status.as_u16()), code, "{}", answer.text());
    let error = answer.json();
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.contains(failure["message"].as_str().expect("a message")),
        "{error}"
    );
    error
}

async fn propagated(world: &World) {
    expect_failure(world, "callFailing", json!({"message": "propagated"})).await;
    expect_failure(
        world,
        "callFailing",
        json!({"message": "with its code", "code": 418}),
    )
    .await;
}

async fn caught(world: &World) {
    let failure = json!({"message": "teapot", "code": 418});
    let target = format!("Failures/{}/catchFailing", world.key());
    world
        .expect(&target, failure, json!("caught 418: teapot"))
        .await;
}

async fn of_a_run(world: &World) {
    expect_failure(
        world,
        "failInRun",
        json!({"message": "failed side effect", "code": 451}),
    )
    .await;
}

async fn expect_metadata(world: &World, handler: &str) {
    let metadata = json!({"key1": "value1", "key2": "value2"});
    for _ in 0..3 {
        let failure = json!({"message": "with metadata", "metadata": metadata});
        let error = expect_failure(world, handler, failure).await;
        assert_eq!(error["metadata"], metadata, "{error}");
    }
}

async fn metadata(world: &World) {
    expect_metadata(world, "failTerminal").await;
}

async fn metadata_propagated(world: &World) {
    expect_metadata(world, "callFailing").await;
}

async fn metadata_of_a_run(world: &World) {
    expect_metadata(world, "failInRun").await;
}

async fn retried(world: &World) {
    let target = format!("Failures/{}/failUntil", world.key());
    world.expect(&target, json!(4), json!(4)).await;
}

async fn run_retried(world: &World) {
    let target = format!("Failures/{}/runUntil", world.key());
    let attempts = world.call(&target, json!(3)).await.expect_success();
    assert!(attempts.as_u64() >= Some(3), "{attempts}");
}

async fn run_once(world: &World) {
    let target = format!("Failures/{}/runExhausted", world.key());
    let attempts = world.call(&target, json!(1)).await.expect_success();
    assert!(attempts.as_u64() >= Some(1), "{attempts}");
}

async fn run_exhausted(world: &World) {
    let target = format!("Failures/{}/runExhausted", world.key());
    let attempts = world.call(&target, json!(3)).await.expect_success();
    assert!(attempts.as_u64() >= Some(3), "{attempts}");
}

async fn drift_sleep(world: &World) {
    drift(world, "sleepOrCall").await;
}

async fn drift_call(world: &World) {
    drift(world, "callDifferent").await;
}

async fn drift_send(world: &World) {
    drift(world, "sendDifferent").await;
}

async fn drift_set(world: &World) {
    drift(world, "setDifferent").await;
}

/// A handler that takes another way when it is replayed fails, and gets no further.
async fn drift(world: &World, handler: &str) {
    let key = world.key();
    let url = format!("{}/Drifting/{key}/{handler}", world.ingress());
    let answer = world.api().post_empty(&url).await;
    assert!(
        answer.status.is_server_error(),
        "{}: {}",
        answer.status,
        answer.text()
    );
    let message = answer.json()["message"].to_string();
    assert!(
        answer.json()["code"] == 570 || message.to_lowercase().contains("journal"),
        "{}",
        answer.text()
    );
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(0));
}
