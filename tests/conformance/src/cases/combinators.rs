//! Waiting for several things at once.

use serde_json::{Value, json};

use super::{Case, case, has_signals};
use crate::{Language, Setting, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "combinators: the first of an awakeable and a sleep",
            awakeable_or_sleep
        ),
        case!("combinators: an awakeable times out", awakeable_times_out),
        case!("combinators: an awakeable comes in time", awakeable_in_time),
        case!(
            "combinators: the first success among awakeables and failing runs",
            first_success
        )
        .only(mixes_runs),
        case!(
            "combinators: signals, the first success",
            signals_first_success
        )
        .only(has_signals),
        case!(
            "combinators: signals, all or the first failure",
            signals_all
        )
        .only(has_signals),
        case!(
            "combinators: signals, the first failure ends all",
            signals_first_failure
        )
        .only(has_signals),
        case!("combinators: signals, all settled", signals_settled).only(has_signals),
        case!("combinators: signals, the first of any kind", signals_first).only(has_signals),
        case!("combinators: a run overtakes a signal", run_overtakes).only(mixes_runs_and_signals),
        case!(
            "combinators: a signal after a failed run",
            signal_after_failed_run
        )
        .only(mixes_runs_and_signals),
        case!("combinators: a run and a signal, both", run_and_signal).only(mixes_runs_and_signals),
        case!(
            "combinators: a run, a signal and a failed run, settled",
            all_kinds
        )
        .only(mixes_runs_and_signals),
        case!("combinators: results are kept in order", results),
    ]
}

fn mixes_runs(language: Language, _: Setting) -> Result<(), &'static str> {
    match language {
        Language::Rust => Err("the SDK cannot wait for a run together with something else"),
        _ => Ok(()),
    }
}

fn mixes_runs_and_signals(language: Language, setting: Setting) -> Result<(), &'static str> {
    mixes_runs(language, setting)?;
    has_signals(language, setting)
}

async fn run(world: &World, commands: Value) -> Value {
    let target = format!("Commands/{}/run", world.key());
    world.call(&target, commands).await.expect_success()
}

/// Starts a program, then completes signals of it; `err:` rejects. The result.
async fn with_signals(
    world: &World,
    command: Value,
    signals: &[(&str, &str)],
) -> abide_test_cluster::Answer {
    let target = format!("Commands/{}/run", world.key());
    let id = world.send(&target, json!([command])).await;
    for (name, value) in signals {
        signal(world, &id, name, value).await;
    }
    world.result(&id).await
}

pub(super) async fn signal(world: &World, id: &str, name: &str, value: &str) {
    match value.strip_prefix("err:") {
        Some(reason) => {
            let request = json!({"id": id, "name": name, "reason": reason});
            world
                .call("Basics/rejectSignal", request)
                .await
                .expect_success();
        }
        None => {
            let request = json!({"id": id, "name": name, "value": value});
            world
                .call("Basics/resolveSignal", request)
                .await
                .expect_success();
        }
    }
}

fn three_signals(kind: &str) -> Value {
    let of: Vec<Value> = ["sig0", "sig1", "sig2"]
        .map(|name| json!({"type": "signal", "name": name}))
        .into();
    json!({"type": kind, "of": of})
}

async fn awakeable_or_sleep(world: &World) {
    let of = json!([{"type": "awakeable", "name": "a"}, {"type": "sleep", "ms": 100}]);
    assert_eq!(
        run(world, json!([{"type": "first", "of": of}])).await,
        "slept"
    );
}

async fn awakeable_times_out(world: &World) {
    let target = format!("Commands/{}/run", world.key());
    let commands = json!([{"type": "timeout", "name": "never", "ms": 100}]);
    let answer = world.call(&target, commands).await;
    answer.expect_status(500);
    assert_eq!(answer.json()["message"], "timed out");
}

async fn has(world: &World, key: &str, name: &str) {
    let target = format!("Commands/{key}/has");
    world
        .eventually("the awakeable is there", || async {
            world.call(&target, json!(name)).await.expect_success() == json!(true)
        })
        .await;
}

async fn awakeable_in_time(world: &World) {
    let key = world.key();
    let commands = json!([{"type": "timeout", "name": "soon", "ms": 60_000}]);
    let id = world.send(&format!("Commands/{key}/run"), commands).await;
    has(world, &key, "soon").await;
    let by = json!({"name": "soon", "value": "in time"});
    world
        .call(&format!("Commands/{key}/resolve"), by)
        .await
        .expect_success();
    assert_eq!(world.result(&id).await.expect_success(), "in time");
}

async fn first_success(world: &World) {
    let key = world.key();
    let of: Vec<Value> = (0..3)
        .flat_map(|index| {
            [
                json!({"type": "awakeable", "name": format!("a{index}")}),
                json!({"type": "failingRun", "reason": format!("run{index}")}),
            ]
        })
        .collect();
    let commands = json!([{"type": "firstSuccess", "of": of}]);
    let id = world.send(&format!("Commands/{key}/run"), commands).await;
    for name in ["a2", "a0", "a1"] {
        has(world, &key, name).await;
    }
    let reject = json!({"name": "a2", "reason": "not me"});
    world
        .call(&format!("Commands/{key}/reject"), reject)
        .await
        .expect_success();
    let resolve = json!({"name": "a1", "value": "me"});
    world
        .call(&format!("Commands/{key}/resolve"), resolve)
        .await
        .expect_success();
    assert_eq!(world.result(&id).await.expect_success(), "me");
}

async fn signals_first_success(world: &World) {
    let signals = [("sig0", "err:no"), ("sig2", "err:no"), ("sig1", "yes")];
    let result = with_signals(world, three_signals("firstSuccess"), &signals).await;
    assert_eq!(result.expect_success(), "yes");
}

async fn signals_all(world: &World) {
    let signals = [("sig0", "a"), ("sig1", "b"), ("sig2", "c")];
    let result = with_signals(world, three_signals("all"), &signals).await;
    assert_eq!(result.expect_success(), "a|b|c");
}

async fn signals_first_failure(world: &World) {
    let result = with_signals(world, three_signals("all"), &[("sig1", "err:too bad")]).await;
    result.expect_status(500);
    assert_eq!(result.json()["message"], "too bad");
}

async fn signals_settled(world: &World) {
    let signals = [("sig2", "c"), ("sig1", "err:b"), ("sig0", "a")];
    let result = with_signals(world, three_signals("settled"), &signals).await;
    assert_eq!(result.expect_success(), "ok:a|err:b|ok:c");
}

async fn signals_first(world: &World) {
    let result = with_signals(world, three_signals("first"), &[("sig1", "b")]).await;
    assert_eq!(result.expect_success(), "b");
}

async fn run_overtakes(world: &World) {
    let of = json!([{"type": "signal", "name": "s"}, {"type": "run", "value": "run"}]);
    assert_eq!(
        run(world, json!([{"type": "first", "of": of}])).await,
        "run"
    );
}

async fn signal_after_failed_run(world: &World) {
    let of = json!([{"type": "failingRun", "reason": "no"}, {"type": "signal", "name": "s"}]);
    let command = json!({"type": "firstSuccess", "of": of});
    let result = with_signals(world, command, &[("s", "signal")]).await;
    assert_eq!(result.expect_success(), "signal");
}

async fn run_and_signal(world: &World) {
    let of = json!([{"type": "run", "value": "run"}, {"type": "signal", "name": "s"}]);
    let command = json!({"type": "all", "of": of});
    let result = with_signals(world, command, &[("s", "signal")]).await;
    assert_eq!(result.expect_success(), "run|signal");
}

async fn all_kinds(world: &World) {
    let of = json!([
        {"type": "run", "value": "run"},
        {"type": "signal", "name": "s"},
        {"type": "failingRun", "reason": "no"},
    ]);
    let command = json!({"type": "settled", "of": of});
    let result = with_signals(world, command, &[("s", "signal")]).await;
    assert_eq!(result.expect_success(), "ok:run|ok:signal|err:no");
}

async fn results(world: &World) {
    let key = world.key();
    let commands = json!([
        {"type": "one", "of": [{"type": "run", "value": "1"}]},
        {"type": "one", "of": [{"type": "sleep", "ms": 1}]},
        {"type": "one", "of": [{"type": "run", "value": "2"}]},
    ]);
    world
        .expect(&format!("Commands/{key}/run"), commands, json!("2"))
        .await;
    assert_eq!(
        world.ask(&format!("Commands/{key}/results")).await,
        json!(["1", "slept", "2"])
    );
}
