//! State of virtual objects, and who writes it.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::{Case, case};
use crate::World;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("state: a write is seen by the next handler", add),
        case!("state: names, clearing one and clearing all", entries),
        case!("state: an attempt sees its own writes", juggle),
        case!("state: sends through a service add up", sends_add_up),
        case!(
            "state: what was set before a terminal failure stays",
            set_then_fail
        ),
        case!("state: one writer per key", one_writer),
        case!("state: readers do not wait for the writer", readers),
        case!("state: keys may hold any text", odd_keys),
        case!("state: many entries", many_entries),
        case!("state: replaced through the admin API", patched),
    ]
}

async fn add(world: &World) {
    let key = world.key();
    let target = format!("Counter/{key}/add");
    world
        .expect(&target, json!(1), json!({"before": 0, "after": 1}))
        .await;
    world
        .expect(&target, json!(2), json!({"before": 1, "after": 3}))
        .await;
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(3));
    let url = format!("{}/Counter/{key}/reset", world.ingress());
    world.api().post_empty(&url).await.expect_success();
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(0));
}

async fn put(world: &World, key: &str, name: &str, value: &str) {
    let entry = json!({"name": name, "value": value});
    world
        .call(&format!("Map/{key}/put"), entry)
        .await
        .expect_success();
}

async fn entries(world: &World) {
    let (key, other) = (world.key(), world.key());
    put(world, &key, "one", "1").await;
    put(world, &key, "two", "2").await;
    put(world, &key, "three", "3").await;
    put(world, &other, "one", "other").await;
    let names = format!("Map/{key}/names");
    assert_eq!(world.ask(&names).await, json!(["one", "three", "two"]));
    world
        .call(&format!("Map/{key}/forget"), json!("three"))
        .await
        .expect_success();
    assert_eq!(world.ask(&names).await, json!(["one", "two"]));
    let cleared = world.ask(&format!("Map/{key}/clear")).await;
    let expected = json!([{"name": "one", "value": "1"}, {"name": "two", "value": "2"}]);
    assert_eq!(cleared, expected);
    assert_eq!(world.ask(&names).await, json!([]));
    world
        .expect(&format!("Map/{key}/read"), json!("one"), json!(""))
        .await;
    world
        .expect(&format!("Map/{other}/read"), json!("one"), json!("other"))
        .await;
}

async fn juggle(world: &World) {
    let key = world.key();
    let target = format!("Map/{key}/juggle");
    let expected = json!(["1", "none", "none", "", "3"]);
    assert_eq!(world.ask(&target).await, expected);
    // Once more, on the state that the first left.
    assert_eq!(world.ask(&target).await, expected);
    assert_eq!(world.ask(&format!("Map/{key}/names")).await, json!(["c"]));
}

async fn sends_add_up(world: &World) {
    let key = world.key();
    for _ in 0..3 {
        let request = json!({"service": "Counter", "key": key, "handler": "add", "message": "1"});
        world.call("Relay/send", request).await.expect_success();
    }
    let get = format!("Counter/{key}/get");
    world
        .eventually("three were added", || async {
            world.ask(&get).await == json!(3)
        })
        .await;
}

async fn set_then_fail(world: &World) {
    let key = world.key();
    let answer = world
        .call(&format!("Counter/{key}/addThenFail"), json!(1))
        .await;
    answer.expect_status(500);
    assert!(answer.text().contains(&key), "{}", answer.text());
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(1));
}

async fn one_writer(world: &World) {
    let target = format!("Counter/{}/slowAdd", world.key());
    let calls = (0..8).map(|_| world.call(&target, json!({"amount": 1, "ms": 20})));
    let answers = futures::future::join_all(calls).await;
    let mut counts: Vec<i64> = answers
        .iter()
        .map(|answer| answer.expect_success()["after"].as_i64().expect("a number"))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=8).collect::<Vec<_>>());
}

async fn readers(world: &World) {
    let key = world.key();
    let slow = json!({"amount": 1, "ms": 4000});
    let writer = world.send(&format!("Counter/{key}/slowAdd"), slow).await;
    let from = Instant::now();
    assert_eq!(world.ask(&format!("Counter/{key}/get")).await, json!(0));
    assert!(
        from.elapsed() < Duration::from_millis(3900),
        "a reader waited for a writer"
    );
    assert_eq!(world.result(&writer).await.expect_success()["after"], 1);
}

async fn odd_keys(world: &World) {
    for (escaped, key) in [
        ("a%2Fb%20%C3%A4%3F", "a/b ä?"),
        ("%F0%9F%98%80", "\u{1F600}"),
    ] {
        assert_eq!(
            world.ask(&format!("Counter/{escaped}/ownKey")).await,
            json!(key)
        );
    }
}

async fn many_entries(world: &World) {
    let key = world.key();
    let names: Vec<String> = (0..40).map(|name| format!("name-{name:03}")).collect();
    let puts = names.iter().map(|name| put(world, &key, name, name));
    futures::future::join_all(puts).await;
    assert_eq!(world.ask(&format!("Map/{key}/names")).await, json!(names));
    let cleared = world.ask(&format!("Map/{key}/clear")).await;
    assert_eq!(cleared.as_array().map(Vec::len), Some(40));
}

async fn patched(world: &World) {
    let key = world.key();
    put(world, &key, "old", "1").await;
    let value: Vec<Value> = "\"patched\"".bytes().map(Value::from).collect();
    let body = json!({"object_key": key, "new_state": {"name": value}});
    world
        .admin(Method::POST, "/services/Map/state", Some(&body))
        .await
        .expect_success();
    let read = format!("Map/{key}/read");
    world
        .eventually("the state is replaced", || async {
            world.call(&read, json!("name")).await.expect_success() == json!("patched")
        })
        .await;
    assert_eq!(
        world.ask(&format!("Map/{key}/names")).await,
        json!(["name"])
    );
}
