//! Attempts against endpoints that break the protocol. Whatever they send, only their own attempt fails.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_schema::HttpVersion;
use abide_service_protocol::{MessageType, proto};
use bytes::{Bytes, BytesMut};
use expect_test::{Expect, expect};
use http::Response;
use prost::Message;
use support::*;

/// What comes of an endpoint that sends these bytes and then ends its response.
async fn check(service: &str, handler: &str, version: u32, bytes: Bytes, expected: Expect) {
    let uri = endpoint(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.replay().await;
            stream.accept();
            stream.send_slowly(bytes).await;
            stream.end();
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", version);
    expected.assert_eq(&leader.run(service, handler).await);
}

fn raw(ty: u16, length: u32, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.extend_from_slice(&ty.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    out.freeze()
}

#[tokio::test]
async fn a_stream_that_just_ends_is_cut() {
    check(
        "Plain",
        "h",
        6,
        Bytes::new(),
        expect![[r#"
        failed - [500] the endpoint closed the stream without an End, Suspension or Error message
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        join([run(1), output("1")]),
        expect![[r#"
        pinned v6
        Run { completion: 1 }
        Output(Value(b"1"))
        failed - [500] the endpoint closed the stream without an End, Suspension or Error message
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        raw(0x0401, 10, b"short"),
        expect![[r#"
        failed - [500] stream ended inside a frame, after 13 bytes of it
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_end_without_a_result_is_refused() {
    check(
        "Plain",
        "h",
        6,
        end(),
        expect![[r#"
        failed RT0012 [500] End without an Output
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        join([run(1), end()]),
        expect![[r#"
        pinned v6
        Run { completion: 1 }
        failed RT0012 [500] End without an Output
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        join([raw(0x0401, 0, b""), end()]),
        expect![[r#"
            failed RT0012 [500] Output lacks its result RelatedCommand { index: Some(1), name: None, ty: Some(1025) }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn frames_that_an_endpoint_may_not_send_are_refused() {
    for (ty, expected) in [
        (
            0x0000,
            expect![[r#"
            failed RT0012 [500] unexpected message Start
        "#]],
        ),
        (
            0x0004,
            expect![[r#"
            failed RT0012 [500] unexpected message CommandAck
        "#]],
        ),
        (
            0x0007,
            expect![[r#"
            failed RT0012 [500] unexpected message ProposeRunCompletionAck
        "#]],
        ),
        (
            0x800D,
            expect![[r#"
            failed RT0012 [500] unexpected message CallCompletion
        "#]],
        ),
        (
            0x0400,
            expect![[r#"
            failed RT0012 [500] unexpected message Input
        "#]],
        ),
        (
            0x0200,
            expect![[r#"
            failed RT0012 [500] unknown message type 0x0200
        "#]],
        ),
        (
            0x040F,
            expect![[r#"
            failed RT0012 [500] unknown message type 0x040f
        "#]],
        ),
        (
            0xFC00,
            expect![[r#"
            failed RT0012 [500] unknown message type 0xfc00
        "#]],
        ),
    ] {
        check("Plain", "h", 7, raw(ty, 0, b""), expected).await;
    }
}

#[tokio::test]
async fn garbage_is_refused() {
    check(
        "Plain",
        "h",
        6,
        raw(0x0411, 3, &[0xFF, 0xFF, 0xFF]),
        expect![[r#"
            failed RT0012 [500] Run cannot be decoded: failed to decode Protobuf message: invalid varint RelatedCommand { index: Some(1), name: None, ty: Some(1041) }
        "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\n"),
        expect![[r#"
            failed RT0003 [500] message of type 0x4854 has 791752241 bytes, the limit is 33816575
        "#]],
    )
    .await;
    let headers = [0x22, 0x00].repeat(100_000);
    check(
        "Plain",
        "h",
        6,
        raw(0x040D, 200_000, &headers),
        expect![[r#"
            failed RT0012 [500] Call cannot be decoded: more than 50000 fields RelatedCommand { index: Some(1), name: None, ty: Some(1037) }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_at_its_header() {
    check(
        "Plain",
        "h",
        6,
        raw(0x0401, 33_816_576, b""),
        expect![[r#"
        failed RT0003 [500] message of type 0x0401 has 33816576 bytes, the limit is 33816575
    "#]],
    )
    .await;
}

#[tokio::test]
async fn incomplete_messages_are_refused() {
    check(
        "Plain",
        "h",
        6,
        raw(0x0005, 2, &[8, 1]),
        expect![[r#"
        failed RT0012 [500] ProposeRunCompletion for 1 lacks its result
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        6,
        raw(0x0001, 0, b""),
        expect![[r#"
        failed RT0012 [500] Suspension: waits for nothing
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        7,
        raw(0x0001, 0, b""),
        expect![[r#"
        failed RT0012 [500] Suspension: waits for nothing
    "#]],
    )
    .await;
    check(
        "Plain",
        "h",
        7,
        raw(0x0006, 0, b""),
        expect![[r#"
        failed RT0012 [500] AwaitingOn: waits for nothing
    "#]],
    )
    .await;
    let signal = proto::SendSignalCommand {
        target_invocation_id: "inv_1xyz".into(),
        ..Default::default()
    };
    check(
        "Plain",
        "h",
        7,
        message(MessageType::SendSignal, &signal),
        expect![[r#"
            failed RT0017 [500] SendSignal: 'inv_1xyz' is no id RelatedCommand { index: Some(1), name: None, ty: Some(1040) }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_tree_that_is_too_deep_pauses() {
    let mut future = proto::Future {
        waiting_completions: vec![1],
        ..Default::default()
    };
    for _ in 0..1000 {
        future = proto::Future {
            nested_futures: vec![future.encode_to_vec().into()],
            ..Default::default()
        };
    }
    let suspension = proto::Suspension {
        awaiting_on: future.encode_to_vec().into(),
        ..Default::default()
    };
    check(
        "Plain",
        "h",
        7,
        message(MessageType::Suspension, &suspension),
        expect![[r#"
            failed RT0025 [500] Suspension: await tree is nested deeper than 1000 Pause
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_a_handler_may_not_do_is_refused() {
    let set = || {
        message(
            MessageType::SetState,
            &proto::SetStateCommand {
                key: "a".into(),
                value: Some(proto::Value::default()),
                name: "mine".into(),
            },
        )
    };
    let get = || {
        message(
            MessageType::GetLazyState,
            &proto::GetLazyStateCommand {
                key: "a".into(),
                result_completion_id: 1,
                ..Default::default()
            },
        )
    };
    let promise = || {
        message(
            MessageType::PeekPromise,
            &proto::PeekPromiseCommand {
                key: "a".into(),
                result_completion_id: 1,
                ..Default::default()
            },
        )
    };
    let all = || join([get(), promise(), set()]);
    check("Plain", "h", 6, get(), expect![[r#"
        failed RT0017 [500] GetLazyState: a plain service has no state RelatedCommand { index: Some(1), name: None, ty: Some(1026) }
    "#]]).await;
    check("Plain", "h", 6, set(), expect![[r#"
        failed RT0017 [500] SetState: a plain service has no state RelatedCommand { index: Some(1), name: Some("mine"), ty: Some(1027) }
    "#]]).await;
    check("Object", "shared", 6, join([get(), set()]), expect![[r#"
        pinned v6
        GetLazyState { key: b"a", completion: 1 }
        failed RT0017 [500] SetState: a shared handler cannot change state RelatedCommand { index: Some(2), name: Some("mine"), ty: Some(1027) }
    "#]]).await;
    check(
        "Object",
        "h",
        6,
        join([set(), get(), promise()]),
        expect![[r#"
            pinned v6
            SetState { key: b"a", value: b"" }
            GetLazyState { key: b"a", completion: 1 }
            failed RT0017 [500] PeekPromise: only workflows have promises RelatedCommand { index: Some(3), name: None, ty: Some(1034) }
        "#]],
    )
    .await;
    check("Flow", "shared", 6, all(), expect![[r#"
        pinned v6
        GetLazyState { key: b"a", completion: 1 }
        PeekPromise { key: "a", completion: 1 }
        failed RT0017 [500] SetState: a shared handler cannot change state RelatedCommand { index: Some(3), name: Some("mine"), ty: Some(1027) }
    "#]]).await;
    check(
        "Flow",
        "run",
        6,
        join([all(), output("1"), end()]),
        expect![[r#"
            pinned v6
            GetLazyState { key: b"a", completion: 1 }
            PeekPromise { key: "a", completion: 1 }
            SetState { key: b"a", value: b"" }
            Output(Value(b"1"))
            end
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_keyed_call_to_a_plain_service_is_refused() {
    let call = proto::CallCommand {
        service_name: "Plain".into(),
        handler_name: "h".into(),
        key: "k".into(),
        ..Default::default()
    };
    check(
        "Plain",
        "h",
        6,
        message(MessageType::Call, &call),
        expect![[r#"
            failed RT0017 [500] Plain is a plain service and is called with the key 'k' RelatedCommand { index: Some(1), name: None, ty: Some(1037) }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn of_two_proposals_for_one_run_the_first_stands() {
    let frames = join([
        run(1),
        proposal(1, "a"),
        proposal(1, "b"),
        output("1"),
        end(),
    ]);
    check(
        "Plain",
        "h",
        6,
        frames,
        expect![[r#"
        pinned v6
        Run { completion: 1 }
        proposal completion 1 Value(b"a")
        Output(Value(b"1"))
        end
    "#]],
    )
    .await;
}

#[tokio::test]
async fn what_follows_the_end_is_not_heard() {
    let frames = join([
        output("1"),
        end(),
        run(1),
        end(),
        raw(0x7777, 1_000_000, b"x"),
    ]);
    check(
        "Plain",
        "h",
        6,
        frames,
        expect![[r#"
        pinned v6
        Output(Value(b"1"))
        end
    "#]],
    )
    .await;
}

#[tokio::test]
async fn bad_heads_fail_the_attempt() {
    let uri = endpoint(|mut stream| async move {
        let (start, _) = stream.replay().await;
        let head = Response::builder();
        let head = match start.random_seed {
            0 => head.header("content-type", "text/html"),
            1 => head.status(404),
            2 => head.status(415),
            3 => head.status(503).header("retry-after", "7"),
            _ => head.status(204),
        };
        stream.answer(head.body(()).unwrap(), false);
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let mut transcript = String::new();
    for seed in 0..5 {
        let mut attempt = leader.attempt("Plain", "h");
        attempt.random_seed = seed;
        let handle = leader.start(attempt).await;
        transcript += &leader.transcript().await;
        drop(handle);
    }
    expect![[r#"
        failed RT0012 [500] unexpected content type 'text/html', expected 'application/vnd.restate.invocation.v6'
        failed RT0012 [500] unexpected http status code: 404 Not Found
        failed RT0015 [415] the endpoint does not take service protocol v6: it answered 415 Unsupported Media Type not counted
        failed RT0023 [500] the endpoint limits the rate: it answered 503 Service Unavailable After(7s)
        failed RT0012 [500] unexpected content type 'none', expected 'application/vnd.restate.invocation.v6'
    "#]].assert_eq(&transcript);
}

#[tokio::test]
async fn a_status_that_comes_before_the_journal_is_read_ends_the_attempt() {
    let uri = endpoint(|mut stream| async move {
        // Nothing is read: the journal is larger than all windows.
        let head = Response::builder().status(413).body(()).unwrap();
        stream.answer(head, true);
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let mut attempt = leader.attempt("Plain", "h");
    for _ in 0..20 {
        attempt.journal.push(abide_service_protocol::RawEntry {
            ty: MessageType::Run.code(),
            payload: vec![0; 1_000_000].into(),
        });
    }
    let _handle = leader.start(attempt).await;
    expect![[r#"
        failed RT0019 [500] the journal is too large for the endpoint: it answered 413 Payload Too Large
    "#]].assert_eq(&leader.transcript().await);
}

#[tokio::test]
async fn an_endpoint_that_reads_nothing_is_cut() {
    let uri = endpoint(|mut stream| async move {
        stream.accept();
        stream.reset().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let mut attempt = leader.attempt("Quick", "h");
    attempt.journal.push(abide_service_protocol::RawEntry {
        ty: MessageType::Run.code(),
        payload: vec![0; 20_000_000].into(),
    });
    let _handle = leader.start(attempt).await;
    expect![[r#"
        failed RT0001 [500] nothing was heard of the endpoint for 100ms
    "#]]
    .assert_eq(&leader.transcript().await);
}

#[tokio::test]
async fn half_received_messages_stay_within_the_budget() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        stream.accept();
        stream.send(raw(0x0401, 30_000_000, b""));
        while stream.send_slowly(vec![0; 100_000].into()).await {}
    })
    .await;
    let mut leader = Leader::with(&uri, "BIDI_STREAM", 6, HttpVersion::Http2, |options| {
        options.memory_bytes_max = 1_000_000;
    });
    expect![[r#"
        failed RT0001 [500] the memory budget for messages of deployments is used up not counted
    "#]]
    .assert_eq(&leader.run("Plain", "h").await);
    // What it held is free again.
    expect![[r#"
        failed RT0001 [500] the memory budget for messages of deployments is used up not counted
    "#]]
    .assert_eq(&leader.run("Plain", "h").await);
}

#[tokio::test]
async fn an_endless_stream_waits_for_the_leader() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        stream.accept();
        while stream.send_slowly(vec![0; 60_000].into()).await {}
    })
    .await;
    // Zeros are Start messages without content: refused at the first.
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    expect![[r#"
        failed RT0012 [500] unexpected message Start
    "#]]
    .assert_eq(&leader.run("Plain", "h").await);

    const COMMANDS: usize = 1000;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let uri = endpoint(move |mut stream| {
        let counter = counter.clone();
        async move {
            stream.replay().await;
            stream.accept();
            let command = message(
                MessageType::Run,
                &proto::RunCommand {
                    result_completion_id: 1,
                    name: "n".repeat(50_000),
                },
            );
            for _ in 0..COMMANDS {
                assert!(stream.send_slowly(command.clone()).await);
                counter.fetch_add(1, Ordering::Relaxed);
            }
            stream.send_slowly(join([output("1"), end()])).await;
            stream.finish().await;
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let (sender, effects) = tokio::sync::mpsc::channel(1);
    leader.sender = sender;
    leader.effects = effects;
    let attempt = leader.attempt("Plain", "h");
    let _handle = leader.start(attempt).await;
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!((1..COMMANDS / 2).contains(&before), "{before}");
    assert!(leader.transcript().await.ends_with("end\n"));
    assert_eq!(sent.load(Ordering::Relaxed), COMMANDS);
}

#[tokio::test]
async fn one_attempt_gets_no_more_memory_than_its_own() {
    // Announces two megabytes, sends one.
    let bytes = join([
        raw(MessageType::Output.code(), 2 << 20, &[]),
        Bytes::from(vec![0; 1 << 20]),
    ]);
    let uri = answering(bytes).await;
    let mut leader = Leader::with(&uri, "BIDI_STREAM", 6, HttpVersion::Http2, |options| {
        options.attempt_memory_bytes_max = 100_000;
    });
    expect![[r#"
        failed RT0001 [500] more than 100000 bytes of messages are half received not counted
    "#]]
    .assert_eq(&leader.run("Plain", "h").await);
}

#[tokio::test]
async fn how_deep_awaits_may_be_nested_is_configured() {
    let mut future = proto::Future {
        waiting_completions: vec![1],
        ..Default::default()
    };
    for _ in 0..3 {
        future = proto::Future {
            nested_futures: vec![future.encode_to_vec().into()],
            ..Default::default()
        };
    }
    let awaiting_on: Bytes = future.encode_to_vec().into();
    let hint = proto::AwaitingOn {
        awaiting_on: awaiting_on.clone(),
        executing_side_effects: false,
    };
    let suspension = proto::Suspension {
        awaiting_on,
        ..Default::default()
    };
    let uri = answering(join([
        message(MessageType::AwaitingOn, &hint),
        message(MessageType::Suspension, &suspension),
    ]))
    .await;
    for (depth, expected) in [
        (4, "suspended on completion 1\n"),
        (
            3,
            "failed RT0025 [500] AwaitingOn: await tree is nested deeper than 3 Pause\n",
        ),
    ] {
        let mut leader = Leader::with(&uri, "BIDI_STREAM", 7, HttpVersion::Http2, |options| {
            options.await_depth_max = depth;
        });
        assert_eq!(leader.run("Plain", "h").await, expected);
    }
}

#[tokio::test]
async fn scopes_are_refused_where_they_are_not_enabled() {
    let call = message(
        MessageType::Call,
        &proto::CallCommand {
            service_name: "Plain".into(),
            handler_name: "h".into(),
            scope: Some("tenant".into()),
            limit_key: Some("user/7".into()),
            invocation_id_notification_idx: 1,
            result_completion_id: 2,
            ..Default::default()
        },
    );
    let uri = answering(join([call, output("x"), end()])).await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let refused = leader.run("Plain", "h").await;
    assert!(
        refused.starts_with(
            "failed RT0024 [500] the scope 'tenant' is set, and scopes are not enabled"
        ),
        "{refused}"
    );
    let mut leader = Leader::with(&uri, "BIDI_STREAM", 7, HttpVersion::Http2, |options| {
        options.scopes = true;
    });
    let taken = leader.run("Plain", "h").await;
    assert!(taken.starts_with("pinned v7\nCall("), "{taken}");
}

/// An endpoint that answers every request with these bytes.
async fn answering(bytes: Bytes) -> String {
    endpoint(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.replay().await;
            stream.accept();
            stream.send(bytes);
            stream.finish().await;
        }
    })
    .await
}
