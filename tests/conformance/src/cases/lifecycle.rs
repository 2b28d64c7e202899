//! Retries that run out, pausing, resuming, restarting, retention and new versions.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{Case, case};
use crate::endpoint::Variant;
use crate::world::text;
use crate::{Endpoint, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "lifecycle: paused when attempts run out, and resumed",
            pause_and_resume
        ),
        case!("lifecycle: paused by hand, and resumed", paused_by_hand),
        case!("lifecycle: restarted as new", restart),
        case!("lifecycle: restarted as new from the middle", restart_from),
        case!("lifecycle: a journal is kept for those who look", journal),
        case!("lifecycle: purged", purge),
        case!(
            "lifecycle: a journal is purged, its result stays",
            purge_journal
        ),
        case!("versions: new invocations take the new one", upgrade).alone(),
        case!("versions: who began on the old one ends there", in_flight).alone(),
        case!("versions: resumed on the new one", resume_on_new).alone(),
    ]
}

async fn wait_for_status(world: &World, id: &str, status: &str) {
    world
        .eventually(&format!("{id} is {status}"), || async {
            world.status(id).await == status
        })
        .await;
}

async fn mend(world: &World, key: &str) {
    let url = format!("{}/Fragile/{key}/mend", world.ingress());
    world.api().post_empty(&url).await.expect_success();
}

async fn pause_and_resume(world: &World) {
    let key = world.key();
    let id = world
        .send(&format!("Fragile/{key}/echo"), json!("input"))
        .await;
    wait_for_status(world, &id, "paused").await;
    mend(world, &key).await;
    assert_eq!(world.status(&id).await, "paused", "nobody has resumed it");
    world.operate(&id, "resume").await.expect_success();
    assert_eq!(world.result(&id).await.expect_success(), "input");
    wait_for_status(world, &id, "completed").await;
}

async fn paused_by_hand(world: &World) {
    // A handler that runs and retries for ever, until the count is reached.
    let key = world.key();
    let id = world
        .send(&format!("Failures/{key}/failUntil"), json!(1_000_000))
        .await;
    world
        .eventually("it is paused", || async {
            // Between two attempts there is nothing to pause: it is asked again.
            let answer = world.operate(&id, "pause").await;
            assert!(
                matches!(answer.status.as_u16(), 200 | 202 | 409),
                "{}: {}",
                answer.status,
                answer.text()
            );
            world.status(&id).await == "paused"
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.status(&id).await, "paused");
    world.operate(&id, "resume").await.expect_success();
    world
        .eventually("it runs again", || async {
            world.status(&id).await != "paused"
        })
        .await;
    world.operate(&id, "kill").await.expect_success();
    world.result(&id).await.expect_status(409);
}

/// An invocation that failed after its run was kept, and the means to make it succeed.
async fn failed(world: &World) -> (String, String) {
    let (key, idempotency) = (world.key(), world.key());
    let headers = [("idempotency-key", idempotency.as_str())];
    let target = format!("Fragile/{key}/runThenFail");
    let accepted = world.submit(&target, &headers, Some(json!("input"))).await;
    let id = text(&accepted["invocationId"]);
    world.result(&id).await.expect_status(500);
    mend(world, &key).await;
    (key, id)
}

async fn restarted(world: &World, path: &str) -> String {
    let answer = world
        .admin(Method::PATCH, path, None)
        .await
        .expect_success();
    text(&answer["new_invocation_id"])
}

async fn restart(world: &World) {
    let (_, id) = failed(world).await;
    let new = restarted(world, &format!("/invocations/{id}/restart-as-new")).await;
    assert_ne!(id, new);
    assert_eq!(world.result(&new).await.expect_success(), "input from new");
    wait_for_status(world, &id, "completed").await;
    wait_for_status(world, &new, "completed").await;
}

async fn restart_from(world: &World) {
    let (_, id) = failed(world).await;
    let new = restarted(world, &format!("/invocations/{id}/restart-as-new?from=1")).await;
    assert_ne!(id, new);
    assert_eq!(world.result(&new).await.expect_success(), "input from old");
}

async fn journal(world: &World) {
    let id = world.send("Basics/nap", json!(100)).await;
    world.result(&id).await.expect_success();
    let sql = format!("select index, entry_type from sys_journal where id = '{id}' order by index");
    let rows = world.query(&sql).await;
    let types: Vec<_> = rows.iter().map(|row| text(&row["entry_type"])).collect();
    let expected = [
        "Command: Input",
        "Command: Sleep",
        "Notification: Sleep",
        "Command: Output",
    ];
    assert_eq!(types, expected);
    assert_eq!(world.status(&id).await, "completed");
}

async fn purge(world: &World) {
    let idempotency = world.key();
    let headers = [("idempotency-key", idempotency.as_str())];
    let first = world
        .submit("Basics/echo", &headers, Some(json!("one")))
        .await;
    let id = text(&first["invocationId"]);
    world.result(&id).await.expect_success();
    world.operate(&id, "purge").await.expect_success();
    world
        .eventually("it is gone", || async {
            world.status(&id).await.is_empty()
        })
        .await;
    let second = world
        .submit("Basics/echo", &headers, Some(json!("two")))
        .await;
    assert_eq!(second["status"], "Accepted");
    let id = text(&second["invocationId"]);
    assert_eq!(world.result(&id).await.expect_success(), "two");
}

async fn purge_journal(world: &World) {
    let idempotency = world.key();
    let headers = [("idempotency-key", idempotency.as_str())];
    let first = world
        .submit("Basics/echo", &headers, Some(json!("kept")))
        .await;
    let id = text(&first["invocationId"]);
    world.result(&id).await.expect_success();
    world.operate(&id, "purge-journal").await.expect_success();
    let sql = format!("select index from sys_journal where id = '{id}'");
    world
        .eventually("the journal is gone", || async {
            world.query(&sql).await.is_empty()
        })
        .await;
    assert_eq!(world.output(&id).await.expect_success(), "kept");
}

/// Registers the services once more, as version 2; and as version 1 again when the case is over.
async fn with_new_version<F: Future<Output = ()>>(world: &World, case: impl FnOnce(String) -> F) {
    let variant = Variant {
        version: Some("2".to_owned()),
        ..Variant::default()
    };
    let new = Endpoint::start(world.language, variant).await;
    let registered = world.register(&new.uri()).await;
    case(text(&registered["id"])).await;
    let old = world.endpoint.lock().await.uri();
    world.register(&old).await;
    wait_for_version(world, "1").await;
}

async fn wait_for_version(world: &World, version: &str) {
    world
        .eventually("the version is in use", || async {
            let mut all = true;
            for _ in 0..4 * world.setting.nodes() {
                let target = format!("Versioned/{}/version", world.key());
                all &= world.ask(&target).await == version;
            }
            all
        })
        .await;
}

async fn upgrade(world: &World) {
    assert_eq!(
        world
            .ask(&format!("Versioned/{}/version", world.key()))
            .await,
        "1"
    );
    with_new_version(world, |_| wait_for_version(world, "2")).await;
}

async fn in_flight(world: &World) {
    let key = world.key();
    let id = world.send_empty(&format!("Versioned/{key}/spanning")).await;
    world.wait_until_held(&key).await;
    with_new_version(world, |_| async {
        wait_for_version(world, "2").await;
        world
            .call(&format!("Holder/{key}/release"), json!("between"))
            .await
            .expect_success();
        assert_eq!(
            world.result(&id).await.expect_success(),
            json!(["1", "between", "1"])
        );
    })
    .await;
}

async fn resume_on_new(world: &World) {
    let key = world.key();
    let id = world
        .send_empty(&format!("Fragile/{key}/versionOrFail"))
        .await;
    wait_for_status(world, &id, "paused").await;
    with_new_version(world, |deployment| {
        let id = id.clone();
        async move {
            wait_for_version(world, "2").await;
            let path = format!("/invocations/{id}/resume?deployment={deployment}");
            world
                .admin(Method::PATCH, &path, None)
                .await
                .expect_success();
            assert_eq!(world.result(&id).await.expect_success(), "2");
        }
    })
    .await;
}
