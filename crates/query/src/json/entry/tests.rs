#![allow(clippy::unwrap_used, reason = "tests")]

use abide_schema::Defaults;
use expect_test::{Expect, expect};

use super::*;

fn check(ty: MessageType, message: &impl Message, whole: Expect, lite: Expect) {
    let raw = RawEntry {
        ty: ty.code(),
        payload: message.encode_to_vec().into(),
    };
    let schema = Schema::new([], Defaults::default());
    let callee = Callee {
        invocation_id: Some("inv_1".to_owned()),
    };
    whole.assert_eq(&entry(&raw, &schema, &callee).unwrap());
    lite.assert_eq(&super::lite(&raw, &schema, &callee).unwrap());
}

fn value(text: &'static str) -> sdk::Value {
    sdk::Value {
        content: Bytes::from_static(text.as_bytes()),
    }
}

#[test]
fn commands_have_the_shape_of_the_reference() {
    check(
        MessageType::Output,
        &sdk::OutputCommand {
            name: String::new(),
            result: Some(sdk::output_command::Result::Failure(sdk::Failure {
                code: 422,
                message: "no \"way\"".to_owned(),
                metadata: vec![],
            })),
        },
        expect![[
            r#"{"Command":{"Output":{"result":{"Failure":{"code":422,"message":"no \"way\""}},"name":""}}}"#
        ]],
        expect![[r#"{"Command":{"Output":{"result":"Failure"}}}"#]],
    );
    check(
        MessageType::SetState,
        &sdk::SetStateCommand {
            key: Bytes::from_static(b"a"),
            value: Some(value("1")),
            name: String::new(),
        },
        expect![[r#"{"Command":{"SetState":{"key":"a","value":[49],"name":""}}}"#]],
        expect![[r#"{"Command":{"SetState":{"key":"a"}}}"#]],
    );
    check(
        MessageType::Sleep,
        &sdk::SleepCommand {
            wake_up_time: 5,
            result_completion_id: 4,
            name: "nap".to_owned(),
        },
        expect![[r#"{"Command":{"Sleep":{"wake_up_time":5,"completion_id":4,"name":"nap"}}}"#]],
        expect![[r#"{"Command":{"Sleep":{"wake_up_time":5,"completion_id":4,"name":"nap"}}}"#]],
    );
    check(
        MessageType::SendSignal,
        &sdk::SendSignalCommand {
            target_invocation_id: "inv_2".to_owned(),
            signal_id: Some(sdk::send_signal_command::SignalId::Idx(1)),
            result: Some(sdk::send_signal_command::Result::Void(sdk::Void {})),
            entry_name: String::new(),
        },
        expect![[
            r#"{"Command":{"SendSignal":{"target_invocation_id":"inv_2","signal_id":{"Index":1},"result":"Void","name":""}}}"#
        ]],
        expect![[
            r#"{"Command":{"SendSignal":{"target_invocation_id":"inv_2","signal_id":{"Index":1},"result":"Void"}}}"#
        ]],
    );
}

#[test]
fn calls_say_whom_they_call() {
    check(
        MessageType::OneWayCall,
        &sdk::OneWayCallCommand {
            service_name: "Svc".to_owned(),
            handler_name: "hello".to_owned(),
            parameter: Bytes::from_static(b"1"),
            invoke_time: 9,
            invocation_id_notification_idx: 7,
            ..Default::default()
        },
        expect![[
            r#"{"Command":{"OneWayCall":{"request":{"invocation_id":"inv_1","invocation_target":{"Service":{"name":"Svc","handler":"hello","scope":null}},"span_context":{"span_context":{"trace_id":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"span_id":[0,0,0,0,0,0,0,0],"trace_flags":0,"is_remote":false,"trace_state":""},"cause":null},"parameter":[49],"headers":[],"idempotency_key":null},"invoke_time":9,"invocation_id_completion_id":7,"name":""}}}"#
        ]],
        expect![[
            r#"{"Command":{"OneWayCall":{"invocation_id":"inv_1","invocation_target":{"Service":{"name":"Svc","handler":"hello","scope":null}},"invoke_time":9,"invocation_id_completion_id":7}}}"#
        ]],
    );
}

#[test]
fn notifications_have_the_shape_of_the_reference() {
    use abide_service_protocol::{Notification, NotificationId, NotificationResult, Outcome};
    let schema = Schema::new([], Defaults::default());
    let show = |notification: Notification| {
        let raw = notification.into_entry();
        let callee = Callee::default();
        let whole = entry(&raw, &schema, &callee).unwrap();
        format!(
            "{whole}\n{}\n",
            super::lite(&raw, &schema, &callee).unwrap()
        )
    };
    let text = [
        show(Notification::slept(4)),
        show(Notification::call(
            6,
            Outcome::Value(Bytes::from_static(b"1")),
        )),
        show(Notification::state_keys(2, vec![Bytes::from_static(b"a")])),
        show(Notification::signal(
            NotificationId::Signal(17),
            NotificationResult::Void,
        )),
    ];
    expect![[r#"
        {"Notification":{"Completion":{"Sleep":{"completion_id":4}}}}
        {"Notification":{"ty":{"Completion":"Sleep"},"id":{"CompletionId":4},"result":"Void"}}
        {"Notification":{"Completion":{"Call":{"completion_id":6,"result":{"Success":[49]}}}}}
        {"Notification":{"ty":{"Completion":"Call"},"id":{"CompletionId":6},"result":"Success"}}
        {"Notification":{"Completion":{"GetLazyStateKeys":{"completion_id":2,"state_keys":["a"]}}}}
        {"Notification":{"ty":{"Completion":"GetLazyStateKeys"},"id":{"CompletionId":2},"result":"StateKeys"}}
        {"Notification":{"Signal":{"id":{"Index":17},"result":"Void"}}}
        {"Notification":{"ty":"Signal","id":{"SignalIndex":17},"result":"Void"}}
    "#]]
    .assert_eq(&text.concat());
}
