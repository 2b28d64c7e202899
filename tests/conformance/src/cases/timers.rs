//! Sleeps.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Case, case};
use crate::World;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("sleeps: not shorter than asked for", sleep),
        case!("sleeps: many in many invocations", many),
        case!("sleeps: later ones do not hold up earlier ones", disorder),
        case!("sleeps: a delayed call of the ingress", delayed_send),
    ]
}

async fn sleep(world: &World) {
    let from = Instant::now();
    world
        .expect("Basics/nap", json!(300), json!("rested"))
        .await;
    assert!(from.elapsed() >= Duration::from_millis(300));
}

async fn many(world: &World) {
    let programs = (0..40).map(|_| {
        let sleeps: Vec<Value> = (0..20)
            .map(|_| json!({"type": "sleep", "ms": rand::random_range(10..=50)}))
            .collect();
        let target = format!("Commands/{}/run", world.key());
        async move {
            let answer = world
                .call(&target, json!([{"type": "settled", "of": sleeps}]))
                .await
                .expect_success();
            assert_eq!(answer, json!(["ok:slept"; 20].join("|")));
        }
    });
    futures::future::join_all(programs).await;
}

async fn disorder(world: &World) {
    let long = world.send("Basics/nap", json!(3_600_000)).await;
    let later = world.send("Basics/nap", json!(2_000)).await;
    let from = Instant::now();
    let short = (0..10).map(|index| world.call("Basics/nap", json!(500 - index * 20)));
    for answer in futures::future::join_all(short).await {
        answer.expect_success();
    }
    assert!(
        from.elapsed() < Duration::from_secs(8),
        "short sleeps waited for a long one"
    );
    world.result(&later).await.expect_success();
    world.operate(&long, "kill").await.expect_success();
}

async fn delayed_send(world: &World) {
    let key = world.key();
    let from = Instant::now();
    let url = format!("{}/Counter/{key}/add/send?delay=700ms", world.ingress());
    let accepted = world.api().post(&url, &json!(3)).await;
    accepted.expect_status(202);
    let accepted = accepted.json();
    assert_eq!(accepted["status"], "Accepted");
    assert!(accepted["executionTime"].is_string(), "{accepted}");
    let id = crate::world::text(&accepted["invocationId"]);
    assert_eq!(world.result(&id).await.expect_success()["after"], 3);
    assert!(from.elapsed() >= Duration::from_millis(700));
}
