//! Nothing that an SDK endpoint says harms more than its own invocation.
//!
//! `ABIDE_HOSTILE_SCRIPT` names a single script to play; without it all are played.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use abide_test_cluster::scripted::{
    CALL, END, ERROR, Ending, INPUT, OUTPUT, PROPOSE_RUN, SET_STATE, SLEEP, START, SUSPENSION,
    Script, ScriptedEndpoint, frame, frame_of_length, output, put_bytes_field,
};
use abide_test_cluster::{Api, Cluster, Options};
use bytes::{Bytes, BytesMut};
use serde_json::json;

/// A frame type that no version of the protocol has.
const UNKNOWN: u16 = 0x03EE;
const NOTIFICATION_OF_SLEEP: u16 = 0x800C;
const SIGNAL: u16 = 0xFBFF;

fn end() -> Bytes {
    frame(END, &[])
}

/// A payload with one length-delimited field.
fn field(number: u32, content: &[u8]) -> BytesMut {
    let mut payload = BytesMut::new();
    put_bytes_field(&mut payload, number, content);
    payload
}

fn scripts() -> BTreeMap<String, Script> {
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i * 7919 % 251) as u8).collect();
    // A call to a handler that nobody has registered, with its two completion ids.
    let mut call = field(1, b"NoSuchService");
    call.extend_from_slice(&field(2, b"nothing"));
    call.extend_from_slice(&[0x50, 1, 0x58, 2]);
    let state = field(1, b"key");
    let scripts = [
        ("garbage", Script::say([Bytes::from(garbage)])),
        ("nothing", Script::say([])),
        ("hang", Script::say([]).then(Ending::Hang)),
        ("reset", Script::say([output("1")]).then(Ending::Reset)),
        ("end_first", Script::say([end()])),
        ("output_without_end", Script::say([output("1")])),
        (
            "output_without_result",
            Script::say([frame(OUTPUT, &[]), end()]),
        ),
        (
            "output_twice",
            Script::say([output("1"), output("2"), end()]),
        ),
        (
            "undecodable_output",
            Script::say([frame(OUTPUT, &[0xFF; 40]), end()]),
        ),
        (
            "start_from_the_endpoint",
            Script::say([frame(START, &[]), end()]),
        ),
        (
            "input_from_the_endpoint",
            Script::say([frame(INPUT, &[]), output("1"), end()]),
        ),
        (
            "notification_from_the_endpoint",
            Script::say([frame(NOTIFICATION_OF_SLEEP, &[0x08, 1, 0x22, 0]), end()]),
        ),
        (
            "signal_from_the_endpoint",
            Script::say([frame(SIGNAL, &[0x10, 17, 0x22, 0]), end()]),
        ),
        ("unknown_type", Script::say([frame(UNKNOWN, b"?"), end()])),
        ("custom_command", Script::say([frame(0xFC01, b"?"), end()])),
        (
            "run_result_for_nothing",
            Script::say([frame(PROPOSE_RUN, &[0x08, 99, 0x72, 1, b'1'])]).then(Ending::Hang),
        ),
        (
            "suspension_on_nothing",
            Script::say([frame(SUSPENSION, &[])]),
        ),
        (
            "suspension_on_an_unknown_id",
            Script::say([frame(SUSPENSION, &[0x0A, 1, 77])]),
        ),
        (
            "sleep_without_an_id",
            Script::say([frame(SLEEP, &[0x08, 1])]).then(Ending::Hang),
        ),
        (
            "sleep_for_ever",
            Script::say([frame(
                SLEEP,
                &[
                    0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0x58, 1,
                ],
            )])
            .then(Ending::Hang),
        ),
        (
            "same_id_twice",
            Script::say([
                frame(SLEEP, &[0x08, 1, 0x58, 1]),
                frame(SLEEP, &[0x08, 1, 0x58, 1]),
            ])
            .then(Ending::Hang),
        ),
        (
            "call_to_nobody",
            Script::say([frame(CALL, &call)]).then(Ending::Hang),
        ),
        (
            "state_of_a_service",
            Script::say([frame(SET_STATE, &state), output("1"), end()]),
        ),
        (
            "error_of_garbage",
            Script::say([frame(ERROR, &[0x12, 3, 0xFF, 0xFE, 0xFD])]),
        ),
        (
            "oversized",
            Script::say([frame_of_length(OUTPUT, u32::MAX, b"x")]).then(Ending::Hang),
        ),
        (
            "oversized_and_endless",
            Script::say([
                frame_of_length(OUTPUT, u32::MAX, b"x"),
                Bytes::from(vec![0; 65536]),
            ])
            .then(Ending::Endless),
        ),
        (
            "cut_short",
            Script::say([frame_of_length(OUTPUT, 1000, b"x")]),
        ),
        (
            "half_a_header",
            Script::say([Bytes::from_static(&[4, 1, 0])]),
        ),
        (
            "endless_zeros",
            Script::say([Bytes::from(vec![0; 65536])]).then(Ending::Endless),
        ),
        (
            "wrong_content_type",
            Script {
                content_type: Some("text/html".to_owned()),
                ..Script::say([output("1"), end()])
            },
        ),
        (
            "wrong_status",
            Script {
                status: 418,
                ..Script::say([output("1"), end()])
            },
        ),
    ];
    let mut scripts: BTreeMap<String, Script> = scripts
        .into_iter()
        .map(|(name, script)| (name.to_owned(), script))
        .collect();
    // These two end well: what comes after End is not heard.
    scripts.insert("good".to_owned(), Script::say([output("\"good\""), end()]));
    scripts.insert(
        "frames_after_end".to_owned(),
        Script::say([
            output("\"first\""),
            end(),
            output("\"second\""),
            frame(UNKNOWN, b"?"),
            end(),
        ]),
    );
    scripts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_endpoint_harms_only_its_own_invocations() {
    let scripts = scripts();
    let names: Vec<String> = scripts.keys().cloned().collect();
    let endpoint = ScriptedEndpoint::start("Hostile", scripts).await.unwrap();
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.register(&endpoint.uri()).await;
    wait_until_good_answers(&cluster).await;

    for name in names.iter().filter(|name| is_chosen(name)) {
        println!("script: {name}");
        // Several, so that every node is likely to lead one of them.
        let mut invocations = Vec::new();
        for node in 0..3 {
            invocations.push(
                cluster
                    .send(node, &format!("Hostile/{name}"), &json!(null))
                    .await,
            );
        }
        // Long enough for an attempt and its first retry.
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.assert_healthy();
        for node in 0..3 {
            let answer = cluster.call(node, "Hostile/good", &json!(null)).await;
            assert_eq!(answer.expect_success(), json!("good"), "after {name}");
        }
        cluster.assert_healthy();
        for (node, invocation) in invocations.iter().enumerate() {
            stop_and_expect_an_end(&cluster, node, invocation, name).await;
        }
    }
    cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_end_is_not_heard() {
    let endpoint = ScriptedEndpoint::start("Hostile", scripts()).await.unwrap();
    let mut cluster = Cluster::start(1, Options::default()).await;
    cluster.register(&endpoint.uri()).await;
    wait_until_good_answers(&cluster).await;
    let api = Api::new(Duration::from_secs(5));
    for _ in 0..20 {
        let url = format!("{}/Hostile/frames_after_end", cluster.ingress(0));
        let answer = api
            .request(
                http::Method::POST,
                &url,
                &[("content-type", "application/json")],
                "1",
            )
            .await;
        // Refusing the stream for what came after is allowed too: then it is retried and never ends.
        match answer {
            Ok(answer) => assert_eq!(answer.expect_success(), json!("first")),
            Err(error) => assert!(error.is_timeout(), "{error}"),
        }
    }
    cluster.assert_healthy();
}

fn is_chosen(name: &str) -> bool {
    match std::env::var("ABIDE_HOSTILE_SCRIPT") {
        Ok(chosen) => chosen == name,
        Err(_) => !["good", "frames_after_end"].contains(&name),
    }
}

/// An operator gets rid of the invocation, whatever its endpoint does.
async fn stop_and_expect_an_end(cluster: &Cluster, node: usize, invocation: &str, name: &str) {
    let killed = cluster.operate(node, invocation, "kill").await;
    // 409 tells that it has ended by itself.
    assert!(
        killed.status.is_success() || killed.status.as_u16() == 409,
        "{name}: {}",
        killed.text()
    );
    let ended =
        tokio::time::timeout(Duration::from_secs(20), cluster.attach(node, invocation)).await;
    assert!(ended.is_ok(), "{name}: {invocation} does not end");
}

async fn wait_until_good_answers(cluster: &Cluster) {
    for node in 0..cluster.len() {
        for attempt in 0.. {
            let answer = cluster.call(node, "Hostile/good", &json!(null)).await;
            if answer.status.is_success() {
                break;
            }
            assert!(attempt < 200, "node {node}: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
