//! Awakeables and signals.

use http::Method;
use serde_json::json;

use super::combinators::signal;
use super::{Case, case, has_signals};
use crate::World;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("awakeables: resolved by a handler", by_handler),
        case!("awakeables: rejected by a handler", rejected_by_handler),
        case!("awakeables: resolved through the ingress", by_ingress),
        case!(
            "awakeables: rejected through the ingress",
            rejected_by_ingress
        ),
        case!("signals: resolved", resolved).only(has_signals),
        case!("signals: rejected", rejected).only(has_signals),
        case!("signals: sent before they are awaited", early).only(has_signals),
        case!("signals: a stream under one name keeps its order", stream).only(has_signals),
    ]
}

async fn start_waiting(world: &World) -> (String, String, String) {
    let key = world.key();
    let id = world.send_empty(&format!("Holder/{key}/waitHeld")).await;
    let awakeable = world.wait_until_held(&key).await;
    (key, id, awakeable)
}

async fn by_handler(world: &World) {
    let (key, id, _) = start_waiting(world).await;
    world
        .call(&format!("Holder/{key}/release"), json!("word"))
        .await
        .expect_success();
    assert_eq!(world.result(&id).await.expect_success(), "got word");
}

async fn rejected_by_handler(world: &World) {
    let (key, id, _) = start_waiting(world).await;
    world
        .call(&format!("Holder/{key}/refuse"), json!("no word"))
        .await
        .expect_success();
    let answer = world.result(&id).await;
    answer.expect_status(500);
    assert_eq!(answer.json()["message"], "no word");
}

async fn by_ingress(world: &World) {
    let (_, id, awakeable) = start_waiting(world).await;
    assert!(
        awakeable.starts_with("sign_1") || awakeable.starts_with("prom_1"),
        "{awakeable}"
    );
    let url = format!("{}/restate/awakeables/{awakeable}/resolve", world.ingress());
    world
        .api()
        .post(&url, &json!("news"))
        .await
        .expect_status(202);
    assert_eq!(world.result(&id).await.expect_success(), "got news");
    // Too late, and of no effect.
    world.api().post(&url, &json!("again")).await;
    assert_eq!(world.result(&id).await.expect_success(), "got news");
}

async fn rejected_by_ingress(world: &World) {
    let (_, id, awakeable) = start_waiting(world).await;
    let url = format!("{}/restate/awakeables/{awakeable}/reject", world.ingress());
    let headers = [("content-type", "text/plain")];
    world
        .api()
        .request(Method::POST, &url, &headers, "my bad")
        .await
        .expect("an answer")
        .expect_status(202);
    let answer = world.result(&id).await;
    answer.expect_status(500);
    assert!(answer.text().contains("my bad"), "{}", answer.text());
}

async fn resolved(world: &World) {
    let id = world.send("Basics/waitSignal", json!("mine")).await;
    signal(world, &id, "mine", "hello").await;
    assert_eq!(world.result(&id).await.expect_success(), "hello");
}

async fn rejected(world: &World) {
    let id = world.send("Basics/waitSignal", json!("mine")).await;
    signal(world, &id, "mine", "err:boom").await;
    let answer = world.result(&id).await;
    answer.expect_status(500);
    assert_eq!(answer.json()["message"], "boom");
}

async fn early(world: &World) {
    let key = world.key();
    let commands = json!([
        {"type": "one", "of": [{"type": "sleep", "ms": 700}]},
        {"type": "one", "of": [{"type": "signal", "name": "early"}]},
    ]);
    let id = world.send(&format!("Commands/{key}/run"), commands).await;
    signal(world, &id, "early", "bird").await;
    assert_eq!(world.result(&id).await.expect_success(), "bird");
}

async fn stream(world: &World) {
    let url = format!("{}/Basics/collectSignals/send", world.ingress());
    let accepted = world.api().post_empty(&url).await.expect_success();
    let id = crate::world::text(&accepted["invocationId"]);
    for value in ["a", "b", "c", "d", "end"] {
        signal(world, &id, "next", value).await;
    }
    assert_eq!(
        world.result(&id).await.expect_success(),
        json!(["a", "b", "c", "d"])
    );
}
