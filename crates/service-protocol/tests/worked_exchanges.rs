//! Frames that were captured between an official SDK and the server it was made for, byte for byte.

#![allow(clippy::unwrap_used, reason = "tests")]

use abide_service_protocol::awaiting::IsFailure;
use abide_service_protocol::{
    Await, Command, Failure, Frame, FrameDecoder, MessageType, Notification, NotificationId,
    NotificationResult, Outcome, RawEntry, SignalId, SignalResult, frame, proto,
};
use abide_types::{InvocationId, PartitionKey};
use bytes::{Bytes, BytesMut};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use prost::Message;

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect::<Vec<u8>>()
        .into()
}

fn decode(hex: &str) -> Frame {
    let mut decoder = FrameDecoder::new(frame::DEFAULT_PAYLOAD_LENGTH_MAX);
    decoder.push(bytes(hex));
    let frame = decoder.next_frame().unwrap().unwrap();
    decoder.finish().unwrap();
    frame
}

fn entry(hex: &str) -> RawEntry {
    let frame = decode(hex);
    RawEntry {
        ty: frame.ty,
        payload: frame.payload,
    }
}

fn check_command(hex: &str, expected: Expect) {
    expected.assert_eq(&format!("{:?}", Command::decode(&entry(hex)).unwrap()));
}

fn check_notification(notification: Notification, hex: &str) {
    assert_eq!(Notification::decode(&entry(hex)).unwrap(), notification);
    let mut out = BytesMut::new();
    frame::put_entry(&notification.into_entry(), &mut out);
    assert_eq!(out.freeze(), bytes(hex));
}

#[test]
fn a_start_is_written_as_captured() {
    let start = proto::Start {
        id: bytes("548ae3cba54055b3382b503781e31ba0e27e3e0b9d8c9e96"),
        debug_id: "inv_1foAirY4KKzi4AdiZi7sBPr9xJlHfu7v72".into(),
        known_entries: 1,
        key: "k1".into(),
        duration_since_last_stored_entry: 3,
        random_seed: 5_664_489_258_892_092_208,
        ..Default::default()
    };
    let mut out = BytesMut::new();
    frame::put_message(MessageType::Start, &start, &mut out);
    let captured = bytes(
        "0000 0000 00000054  0a18 548ae3cba54055b3382b503781e31ba0e27e3e0b9d8c9e96
         1226 696e765f31666f41697259344b4b7a69344164695a69377342507239784a6c48667537763732
         1801  3202 6b31  4003  48 b0c69df281df93ce4e",
    );
    assert_eq!(out.freeze(), captured);
}

#[test]
fn commands_are_read_as_captured() {
    check_command(
        "0407 0000 00000009 0a05 636f756e74 6a00",
        expect!["GetEagerState"],
    );
    check_command(
        "0411 0000 00000007 5802 6203 726e64",
        expect!["Run { completion: 2 }"],
    );
    assert_eq!(
        entry("0411 0000 00000007 5802 6203 726e64").command_name(),
        "rnd"
    );
    check_command(
        "0403 0000 0000000c 0a05 636f756e74 1a03 0a01 35",
        expect![[r#"SetState { key: b"count", value: b"5" }"#]],
    );
    check_command(
        "0401 0000 00000005 7203 0a01 35",
        expect![[r#"Output(Value(b"5"))"#]],
    );
    check_command(
        "0401 0000 00000002 7200",
        expect![[r#"Output(Value(b""))"#]],
    );
    check_command(
        "0400 0000 00000002 7200",
        expect![[r#"Input { headers: [], value: b"" }"#]],
    );
    check_command(
        "040d 0000 00000018 0a06 43616c6c6565 1204 736c6f77 1a04 31323030 5001 5802",
        expect![[
            r#"Call(Call { service: "Callee", handler: "slow", key: "", parameter: b"1200", headers: [], idempotency_key: None, scope: None, limit_key: None, invocation_id_completion: 1, completion: 2 })"#
        ]],
    );
}

#[test]
fn proposals_are_read_as_captured() {
    let frame = decode("0005 8000 00000005 0802 7201 37");
    assert!(frame.requested_ack);
    let proposal = proto::ProposeRunCompletion::decode(frame.payload).unwrap();
    assert_eq!(proposal.result_completion_id, 2);
    assert_eq!(
        proposal.result,
        Some(proto::propose_run_completion::Result::Value(
            Bytes::from_static(b"7")
        ))
    );
    assert!(!decode("0005 0000 00000005 0802 7201 37").requested_ack);
    let mut out = BytesMut::new();
    let ack = proto::ProposeRunCompletionAck { completion_id: 2 };
    frame::put_message(MessageType::ProposeRunCompletionAck, &ack, &mut out);
    assert_eq!(out.freeze(), bytes("0007 0000 00000002 0802"));
}

#[test]
fn notifications_are_written_as_captured() {
    check_notification(
        Notification::run(2, Outcome::Value(Bytes::from_static(b"7"))),
        "8011 0000 00000007 0802 2a03 0a01 37",
    );
    check_notification(Notification::slept(1), "800c 0000 00000004 0801 2200");
    check_notification(
        Notification::call(2, Outcome::Value(Bytes::from_static(b"\"slept 1200\""))),
        "800d 0000 00000012 0802 2a0e 0a0c 22736c657074203132303022",
    );
    let callee = InvocationId::new(
        PartitionKey(0x83e2_e3b7_36ca_2af8),
        0x01a1_fbd9_7775_f5eb_f648_090f_6cbe_2681_u128.to_be_bytes(),
    );
    check_notification(
        Notification::call_invocation_id(1, &callee),
        "800e 0000 0000002b 0801 820126
         696e765f316c695a667642 6f6671355a33564849 6f5656 79544c544b78707554 6239347955 70",
    );
    check_notification(Notification::cancel(), "fbff 0000 00000004 1001 2200");
    check_notification(
        Notification::state_keys(3, Vec::new()),
        "8006 0000 00000005 0803 8a0100",
    );
    check_notification(
        Notification::state(3, Some(Bytes::new())),
        "8002 0000 00000004 0803 2a00",
    );
}

#[test]
fn signals_are_read_as_captured() {
    let target = "inv_1liZfvBofq5Z3VHIoVVyTLTKxpuTb94yUp";
    let message = proto::SendSignalCommand {
        target_invocation_id: target.into(),
        signal_id: Some(proto::send_signal_command::SignalId::Idx(1)),
        result: Some(proto::send_signal_command::Result::Void(proto::Void {})),
        entry_name: String::new(),
    };
    let entry = RawEntry {
        ty: MessageType::SendSignal.code(),
        payload: message.encode_to_vec().into(),
    };
    assert_eq!(
        Command::decode(&entry),
        Ok(Command::SendSignal {
            target: target.parse().unwrap(),
            signal: SignalId::Index(1),
            result: SignalResult::Void,
        })
    );
}

#[test]
fn failures_pass_with_code_message_and_metadata() {
    let failure = Failure {
        code: 409,
        message: "Cancelled".into(),
        metadata: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
        stacktrace: None,
    };
    let entry = Notification::call(2, failure.clone().into()).into_entry();
    let read = Notification::decode(&entry).unwrap();
    assert_eq!(read.id, NotificationId::Completion(2));
    assert_eq!(read.result, NotificationResult::Failure(failure));
    let wide = proto::Failure {
        code: 70_000,
        ..Default::default()
    };
    assert_eq!(Failure::from(wide).code, 500);
}

#[test]
fn incomplete_commands_are_refused_with_a_code() {
    for (hex, expected) in [
        ("0401 0000 00000000", "RT0012 Output lacks its result"),
        (
            "0403 0000 00000003 0a01 61",
            "RT0012 SetState lacks its value",
        ),
        (
            "0403 0000 00000005 0a01 ff 1a00",
            "RT0017 SetState: the state key is not valid UTF-8",
        ),
        (
            "0414 0000 00000005 0a01 78 1200",
            "RT0017 CompleteAwakeable: 'x' is no id",
        ),
        (
            "040d 0000 00000002 3200",
            "RT0017 Call: the idempotency key must not be empty",
        ),
        (
            "040d 0000 00000005 3a03 612062",
            "RT0024 Call: 'a b' is no scope: 1 to 36 of a-z, A-Z, 0-9, '_', '.', '-'",
        ),
        (
            "040e 0000 00000003 4a01 73",
            "RT0024 OneWayCall: the limit key 's' lacks a scope",
        ),
        (
            "0412 0000 00000000",
            "RT0012 AttachInvocation lacks its target",
        ),
        (
            "8011 0000 00000000",
            "RT0012 unexpected message of type 0x8011",
        ),
    ] {
        let error = Command::decode(&entry(hex)).unwrap_err();
        assert_eq!(format!("{} {error}", error.code()), expected);
    }
}

proptest! {
    #[test]
    fn no_entry_panics(
        ty in prop::sample::select(MessageType::ALL),
        payload in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let entry = RawEntry { ty: ty.code(), payload: payload.into() };
        let _ = Command::decode(&entry);
        let _ = Notification::decode(&entry);
        let _ = entry.command_name();
    }
}

#[test]
fn suspensions_are_read_as_captured() {
    let flat = decode("0001 0000 00000006 0a01 02 1201 01");
    let suspension = proto::Suspension::decode(flat.payload).unwrap();
    assert_eq!(suspension.waiting_completions, [2]);
    assert_eq!(suspension.waiting_signals, [1]);
    let tree = decode("0001 0000 0000000a 2208 0a0102 120101 2801");
    let suspension = proto::Suspension::decode(tree.payload).unwrap();
    let awaiting = Await::decode(suspension.awaiting_on).unwrap();
    let leaves: Vec<_> = awaiting.leaves().map(ToString::to_string).collect();
    assert_eq!(leaves, ["completion 2", "signal 1"]);
    let hint = decode("0006 0000 0000000a 0a08 0a0102 120101 2801");
    let hint = proto::AwaitingOn::decode(hint.payload).unwrap();
    assert_eq!(hint.awaiting_on, *awaiting.bytes());
    assert!(!hint.executing_side_effects);
}

#[test]
fn the_nested_suspension_wakes_as_captured_but_not_before() {
    let frame = decode("0001 0000 00000016 2214 120101 220d 0a0101 2206 0a020203 2801 2804 2801");
    let suspension = proto::Suspension::decode(frame.payload).unwrap();
    let awaiting = Await::decode(suspension.awaiting_on).unwrap();
    let wakes = |done: &[u32]| {
        awaiting.is_satisfied(|id| match id {
            NotificationId::Completion(id) => done.contains(id).then_some(IsFailure(false)),
            _ => None,
        })
    };
    assert!(!wakes(&[2]));
    assert!(wakes(&[1, 2]));
}

#[test]
fn a_start_of_a_later_attempt_is_written_as_captured() {
    let start = proto::Start {
        id: bytes("599399e46d84458942c9c728f232ca465c27f1f68d930375"),
        debug_id: "inv_1bMGYQT1SQgF3yNJFL4teFkfuI9ATc40sW".into(),
        known_entries: 1,
        partial_state: true,
        random_seed: 4_564_790_151_565_253_478,
        ..Default::default()
    };
    let mut out = BytesMut::new();
    frame::put_message(MessageType::Start, &start, &mut out);
    let captured = [
        bytes("0000 0000 00000050 0a18 599399e46d84458942c9c728f232ca465c27f1f68d930375 1226"),
        Bytes::from_static(b"inv_1bMGYQT1SQgF3yNJFL4teFkfuI9ATc40sW"),
        bytes("1801 2801 48 e6b6fe91d28ed9ac3f"),
    ];
    assert_eq!(out.freeze(), captured.concat());
}

#[test]
fn an_input_keeps_its_headers_in_order() {
    let headers = vec![
        (
            "x-restate-ingress-path".to_owned(),
            "/Counter/k1/add".to_owned(),
        ),
        ("user-agent".to_owned(), "curl/7.88.1".to_owned()),
        ("accept".to_owned(), "*/*".to_owned()),
        ("content-type".to_owned(), "application/json".to_owned()),
        ("content-length".to_owned(), "1".to_owned()),
    ];
    let mut out = BytesMut::new();
    frame::put_entry(
        &RawEntry::input(headers, Bytes::from_static(b"5")),
        &mut out,
    );
    let mut captured = BytesMut::from(&bytes("0400 0000 00000091 0a29 0a16")[..]);
    captured.extend_from_slice(b"x-restate-ingress-path");
    captured.extend_from_slice(&bytes("120f"));
    captured.extend_from_slice(b"/Counter/k1/add");
    assert_eq!(out[..captured.len()], captured);
    assert!(out.ends_with(&bytes("7203 0a01 35")));
    assert_eq!(out.len(), 8 + 0x91);
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, no more kept than came, and the same frames as in one piece.
    #[test]
    fn no_stream_of_bytes_harms_the_decoder(
        stream in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..200),
        cuts in prop::collection::vec(1_usize..20, 0..40),
    ) {
        let limit = 64;
        let drain = |decoder: &mut FrameDecoder, frames: &mut Vec<Frame>| loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let mut whole = FrameDecoder::new(limit);
        let mut expected = Vec::new();
        whole.push(stream.clone().into());
        drain(&mut whole, &mut expected);

        let mut pieces = FrameDecoder::new(limit);
        let mut frames = Vec::new();
        let mut rest = &stream[..];
        let mut cuts = cuts.into_iter();
        while !rest.is_empty() {
            let length = cuts.next().unwrap_or(rest.len()).min(rest.len());
            let (piece, after) = rest.split_at(length);
            rest = after;
            pieces.push(Bytes::copy_from_slice(piece));
            if !drain(&mut pieces, &mut frames) {
                break;
            }
            prop_assert!(pieces.buffered() < limit + frame::HEADER_LENGTH);
        }
        prop_assert_eq!(&frames, &expected);
        for frame in frames {
            let _ = abide_service_protocol::decode_control::<proto::Suspension>(&frame);
            let _ = abide_service_protocol::decode_control::<proto::Error>(&frame);
            let _ = Await::decode_within(frame.payload, 10);
        }
    }
}
