//! Attempts against endpoints that behave.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_invoker::api::ToAttempt;
use abide_service_protocol::{
    Failure, MessageType, Notification, NotificationId, NotificationResult, Outcome, RawEntry,
    proto,
};
use bytes::Bytes;
use expect_test::expect;
use h2::{Reason, server};
use prost::Message;
use support::*;
use tokio::sync::{Barrier, mpsc};

#[tokio::test]
async fn a_run_is_proposed_and_echoed_once_it_is_stored() {
    let (seen, mut saw) = mpsc::channel(8);
    let uri = endpoint(move |mut stream| {
        let seen = seen.clone();
        async move {
            assert_eq!(stream.path, "/base/invoke/Object/h");
            assert_eq!(stream.headers["x-restate-service-key"], "k%2F1");
            assert_eq!(stream.headers["x-mine"], "yes");
            assert_eq!(
                stream.headers["accept"],
                "application/vnd.restate.invocation.v6"
            );
            assert!(!stream.headers.contains_key("user-agent"));
            let (start, entries) = stream.replay().await;
            assert_eq!(stream.headers["x-restate-invocation-id"], start.debug_id);
            assert_eq!((start.known_entries, entries.len()), (1, 1));
            assert_eq!(start.key, "k/1");
            assert_eq!(start.retry_count_since_last_stored_entry, 2);
            assert_eq!(start.duration_since_last_stored_entry, 3);
            assert_eq!(start.random_seed, 42);
            assert_eq!(start.idempotency_key, None);
            assert_eq!(start.state_map[0].value, "5");
            assert!(!start.partial_state);
            assert_eq!(start.id.len(), 24);
            stream.accept();
            stream.send(join([run(1), proposal(1, "7")]));
            seen.send(stream.frame().await.unwrap()).await.unwrap();
            stream.send(join([output("8"), end()]));
            stream.finish().await;
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let attempt = leader.attempt("Object", "h");
    let handle = leader.start(attempt).await;
    let effects = leader.next().await.effects;
    let texts: Vec<_> = effects.iter().map(describe).collect();
    expect![[r#"
        [
            "pinned v6",
            "Run { completion: 1 }",
            "proposal completion 1 Value(b\"7\")",
        ]
    "#]]
    .assert_debug_eq(&texts);
    // Below the journal that was replayed: not sent again.
    handle
        .sender
        .send(notification(0, Notification::slept(9)))
        .await
        .unwrap();
    let stored = Notification::run(1, Outcome::Value(Bytes::from_static(b"7")));
    handle.sender.send(notification(2, stored)).await.unwrap();
    let echoed = saw.recv().await.unwrap();
    assert_eq!(echoed.ty, MessageType::RunCompletion.code());
    expect![[r#"
        Output(Value(b"8"))
        end
    "#]]
    .assert_eq(&leader.transcript().await);
}

#[tokio::test]
async fn version_7_gets_an_ack_where_it_asked_for_one_and_the_idempotency_key() {
    let uri = endpoint(|mut stream| async move {
        let (start, _) = stream.replay().await;
        assert_eq!(start.idempotency_key.as_deref(), Some("ik"));
        stream.accept();
        let awaiting = proto::AwaitingOn {
            awaiting_on: proto::Future {
                waiting_completions: vec![1],
                ..Default::default()
            }
            .encode_to_vec()
            .into(),
            ..Default::default()
        };
        let awaiting = message(MessageType::AwaitingOn, &awaiting);
        stream.send(join([
            run(1),
            flagged(proposal(1, "7")),
            awaiting,
            run(2),
            proposal(2, "8"),
        ]));
        let first = stream.frame().await.unwrap();
        assert_eq!(first.ty, MessageType::ProposeRunCompletionAck.code());
        assert_eq!(first.payload, [8, 1].as_slice());
        let second = stream.frame().await.unwrap();
        assert_eq!(second.ty, MessageType::RunCompletion.code());
        let third = stream.frame().await.unwrap();
        assert_eq!(third.ty, MessageType::CommandAck.code());
        let fourth = stream.frame().await.unwrap();
        assert_eq!(fourth.ty, MessageType::Signal.code());
        stream.send(join([output(""), end()]));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let attempt = leader.attempt("Plain", "h");
    let handle = leader.start(attempt).await;
    leader.next().await;
    let value = || Outcome::Value(Bytes::from_static(b"7"));
    for message in [
        notification(2, Notification::run(1, value())),
        notification(4, Notification::run(2, value())),
        ToAttempt::CommandAck { command_index: 1 },
        notification(5, Notification::cancel()),
    ] {
        handle.sender.send(message).await.unwrap();
    }
    expect![[r#"
        Output(Value(b""))
        end
    "#]]
    .assert_eq(&leader.transcript().await);
}

#[tokio::test]
async fn request_response_ends_the_request_behind_the_journal() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        assert!(stream.frame().await.is_none());
        stream.accept();
        let suspension = proto::Suspension {
            waiting_completions: vec![1],
            waiting_signals: vec![1],
            waiting_named_signals: vec!["go".into()],
            ..Default::default()
        };
        let suspension = message(MessageType::Suspension, &suspension);
        stream.send(join([run(1), proposal(1, "7"), suspension]));
        stream.end();
    })
    .await;
    let mut leader = Leader::new(&uri, "REQUEST_RESPONSE", 6);
    expect![[r#"
        pinned v6
        Run { completion: 1 }
        proposal completion 1 Value(b"7")
        suspended on completion 1, signal 1, signal 'go'
    "#]]
    .assert_eq(&leader.run("Plain", "h").await);
}

#[tokio::test]
async fn a_quiet_stream_is_half_closed_and_may_still_say_much() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        stream.accept();
        // The inactivity timeout of this service is short.
        assert!(stream.frame().await.is_none());
        stream.send(run(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.send(join([proposal(1, "1"), output("2"), end()]));
        stream.end();
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    expect![[r#"
        pinned v6
        Run { completion: 1 }
        proposal completion 1 Value(b"1")
        Output(Value(b"2"))
        end
    "#]]
    .assert_eq(&leader.run("Quick", "h").await);
}

#[tokio::test]
async fn an_endpoint_that_stays_quiet_is_cut() {
    let (reset, mut was_reset) = mpsc::channel(1);
    let uri = endpoint(move |mut stream| {
        let reset = reset.clone();
        async move {
            stream.replay().await;
            stream.accept();
            reset.send(stream.reset().await).await.unwrap();
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    expect![[r#"
        failed RT0001 [500] nothing was heard of the endpoint for 100ms
    "#]]
    .assert_eq(&leader.run("Quick", "h").await);
    assert_eq!(was_reset.recv().await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn an_aborted_attempt_resets_its_stream_and_says_nothing() {
    let (reset, mut was_reset) = mpsc::channel(1);
    let uri = endpoint(move |mut stream| {
        let reset = reset.clone();
        async move {
            stream.replay().await;
            stream.accept();
            stream.send(run(1));
            reset.send(stream.reset().await).await.unwrap();
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let attempt = leader.attempt("Plain", "h");
    let handle = leader.start(attempt).await;
    leader.next().await;
    drop(handle);
    assert_eq!(was_reset.recv().await, Some(Reason::CANCEL));
    assert!(leader.effects.try_recv().is_err());
    let all = leader.invoker.options().concurrency_max;
    while leader.invoker.slots().available_permits() < all {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_never_ends_its_response_is_reset_after_a_while() {
    let (reset, mut was_reset) = mpsc::channel(1);
    let uri = endpoint(move |mut stream| {
        let reset = reset.clone();
        async move {
            stream.replay().await;
            stream.accept();
            stream.send(join([output("1"), end()]));
            // The request's end comes at once all the same.
            assert!(stream.frame().await.is_none());
            reset.send(stream.reset().await).await.unwrap();
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let transcript = leader.run("Plain", "h").await;
    assert!(transcript.ends_with("end\n"), "{transcript}");
    assert_eq!(was_reset.recv().await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn calls_are_resolved_as_registered_now() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        stream.accept();
        let call = |service: &str, handler: &str, key: &str| {
            message(
                MessageType::Call,
                &proto::CallCommand {
                    service_name: service.into(),
                    handler_name: handler.into(),
                    key: key.into(),
                    invocation_id_notification_idx: 1,
                    result_completion_id: 2,
                    ..Default::default()
                },
            )
        };
        let send = proto::OneWayCallCommand {
            service_name: "Flow".into(),
            handler_name: "run".into(),
            key: "w".into(),
            ..Default::default()
        };
        stream.send(join([
            call("Object", "shared", ""),
            flagged(message(MessageType::OneWayCall, &send)),
            call("Plain", "h", ""),
            call("Plain", "nothing", ""),
        ]));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let transcript = leader.run("Plain", "h").await;
    let short: String = transcript
        .lines()
        .map(|line| {
            line.split(" { ").next().unwrap().to_owned()
                + line.split('…').nth(1).unwrap_or("")
                + "\n"
        })
        .collect();
    expect![[r#"
        pinned v6
        Call(Call -> Object//shared Shared
        OneWayCall(OneWayCall -> Flow/w/run Workflow ack
        Call(Call -> Plain/h Plain
        failed RT0018 [500] the service 'Plain' exists, but the handler 'nothing' was not found, check that the handler exists in the latest registered service version. RelatedCommand
    "#]].assert_eq(&short);
}

#[tokio::test]
async fn errors_say_what_follows() {
    let uri = endpoint(|mut stream| async move {
        let (start, _) = stream.replay().await;
        stream.accept();
        let mut error = proto::Error {
            code: 500,
            message: "boom".into(),
            ..Default::default()
        };
        match start.random_seed {
            0 => {
                error.related_command_index = Some(1);
                error.related_command_name = Some("rnd".into());
                error.related_command_type = Some(1041);
                error.stacktrace = "at".into();
                error.next_retry_delay = Some(1500);
            }
            1 => error.behavior = 1,
            2 => error.behavior = 2,
            3 => error.code = 570,
            _ => error.code = 70_000,
        }
        stream.send(message(MessageType::Error, &error));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let mut transcript = String::new();
    for seed in 0..5 {
        let mut attempt = leader.attempt("Plain", "h");
        attempt.random_seed = seed;
        let handle = leader.start(attempt).await;
        transcript += &leader.transcript().await;
        drop(handle);
    }
    expect![[r#"
        failed RT0007 [500] boom After(1.5s) RelatedCommand { index: Some(1), name: Some("rnd"), ty: Some(1041) }
        failed RT0007 [500] boom Pause
        failed RT0007 [500] boom Fail
        failed RT0016 [570] boom
        failed RT0007 [500] boom
    "#]]
    .assert_eq(&transcript);
}

#[tokio::test]
async fn large_journals_and_notifications_pass_whole() {
    let uri = endpoint(|mut stream| async move {
        let (start, entries) = stream.replay().await;
        assert_eq!(start.known_entries, 41);
        for (index, frame) in entries.iter().enumerate().skip(1) {
            assert_eq!(frame.payload.len(), 5000 * index, "{index}");
        }
        stream.accept();
        stream.send(run(1));
        for index in 0..200_u32 {
            let frame = stream.frame().await.unwrap();
            let signal = proto::Notification::decode(frame.payload).unwrap();
            assert_eq!(signal.id, Some(proto::notification::Id::SignalId(index)));
        }
        stream.send(join([output("1"), end()]));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let mut attempt = leader.attempt("Plain", "h");
    attempt.pinned = pinned(6);
    attempt.journal.extend((1..=40).map(|index| RawEntry {
        ty: MessageType::Run.code(),
        payload: vec![0; 5000 * index].into(),
    }));
    let handle = leader.start(attempt).await;
    leader.next().await;
    for index in 0..200 {
        let value = NotificationResult::Value(vec![0; 10_000].into());
        let signal = Notification::signal(NotificationId::Signal(index), value);
        handle
            .sender
            .send(notification(42 + index, signal))
            .await
            .unwrap();
    }
    assert!(leader.transcript().await.ends_with("end\n"));
}

#[tokio::test]
async fn streams_share_connections_up_to_what_the_endpoint_allows() {
    let barrier = Arc::new(Barrier::new(10));
    let connections = Arc::new(AtomicUsize::new(0));
    let (at_once, most) = (barrier.clone(), connections.clone());
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(4);
    let uri = endpoint_with(builder, move |mut stream| {
        let (barrier, connections) = (at_once.clone(), most.clone());
        async move {
            stream.replay().await;
            connections.fetch_max(stream.connection + 1, Ordering::Relaxed);
            stream.accept();
            barrier.wait().await;
            stream.send(join([output("1"), end()]));
            stream.finish().await;
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    // The first one makes sure that the endpoint's settings are known.
    let mut handles = Vec::new();
    for _ in 0..10 {
        let attempt = leader.attempt("Plain", "h");
        handles.push(leader.start(attempt).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..10 {
        leader.transcript().await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        if stream.connection == 0 {
            stream.accept();
            stream.send(run(1));
            return;
        }
        stream.accept();
        stream.send(join([output("1"), end()]));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let transcript = leader.run("Plain", "h").await;
    assert!(transcript.contains("failed"), "{transcript}");
}

#[tokio::test]
async fn nothing_is_invoked_where_nothing_is() {
    let mut leader = Leader::new("http://127.0.0.1:1/", "BIDI_STREAM", 6);
    let mut transcript = leader.run("Plain", "h").await;
    let gone = leader
        .schema
        .borrow()
        .without_deployment(DEPLOYMENT)
        .unwrap();
    let mut attempt = leader.attempt("Plain", "h");
    let second = leader.attempt("Plain", "h");
    leader.schema.send_replace(Arc::new(gone));
    attempt.pinned = pinned(6);
    for attempt in [attempt, second] {
        let _handle = leader.start(attempt).await;
        transcript += &leader.transcript().await;
    }
    expect![[r#"
        failed RT0010 [500] cannot connect to 127.0.0.1:1: Connection refused (os error 111)
        failed RT0011 [500] deployment dp_10dcWFx8PYDagweFaxtvbBC is not registered any more, and the invocation is bound to it not counted
        failed RT0011 [500] no deployment offers the service Plain not counted
    "#]]
    .assert_eq(&transcript);
}

#[tokio::test]
async fn a_leader_that_is_behind_loses_nothing() {
    let uri = endpoint(|mut stream| async move {
        stream.replay().await;
        stream.accept();
        for id in 1..=5000 {
            if !stream.send_slowly(run(id)).await {
                return;
            }
        }
        stream.send(join([output("1"), end()]));
        stream.finish().await;
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let (sender, effects) = mpsc::channel(1);
    leader.sender = sender;
    leader.effects = effects;
    let attempt = leader.attempt("Plain", "h");
    let handle = leader.start(attempt).await;
    for index in 0..100 {
        let failure = Failure::new(500, "x");
        let late = Notification::call(index, failure.into());
        handle
            .sender
            .send(notification(1 + index, late))
            .await
            .unwrap();
    }
    let mut runs = 0;
    let mut ended = false;
    while !ended {
        for effect in leader.next().await.effects {
            runs += usize::from(describe(&effect).starts_with("Run"));
            ended |= effect.is_terminal();
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    assert_eq!(runs, 5000);
}
