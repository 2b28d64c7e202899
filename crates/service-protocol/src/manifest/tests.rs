#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

const V4: &str = "application/vnd.restate.endpointmanifest.v4+json";

fn read_json(body: &Value) -> Result<Manifest, ManifestError> {
    read(Response {
        content_type: Some(V4),
        server: None,
        body: body.to_string().as_bytes(),
    })
}

fn endpoint(services: Value) -> Value {
    json!({ "protocolMode": "BIDI_STREAM", "minProtocolVersion": 5, "maxProtocolVersion": 7, "services": services })
}

fn service(ty: &str, service: Value, handler: Value) -> Value {
    let mut handler_object = json!({ "name": "h" });
    handler_object
        .as_object_mut()
        .unwrap()
        .extend(handler.as_object().unwrap().clone());
    let mut object = json!({ "name": "S", "ty": ty, "handlers": [handler_object] });
    object
        .as_object_mut()
        .unwrap()
        .extend(service.as_object().unwrap().clone());
    endpoint(json!([object]))
}

fn check(body: &Value, expected: Expect) {
    let text = match read_json(body) {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let code = error.code().map_or("-", ErrorCode::as_str);
            let text = error.to_string();
            let text = text.split(". Response body").next().unwrap();
            format!("{code} {text}")
        }
    };
    expected.assert_eq(&text);
}

#[test]
fn what_endpoints_send_is_read() {
    let manifest = read_json(&service(
        "VIRTUAL_OBJECT",
        json!({ "documentation": "doc", "metadata": {"a": "b"}, "retryPolicyMaxAttempts": 0, "retryPolicyOnMaxAttempts": "KILL" }),
        json!({
            "ty": "SHARED", "inactivityTimeout": 0, "enableLazyState": true,
            "input": { "required": true, "contentType": "application/json", "jsonSchema": {"type": "integer"} },
            "output": { "contentType": "application/json", "setContentTypeIfEmpty": false }
        }),
    ))
    .unwrap();
    assert_eq!(manifest.protocol(), ProtocolVersion::V7);
    let service = &manifest.services[0];
    assert_eq!(service.settings.retry_max_attempts, Some(1));
    assert_eq!(
        service.settings.retry_on_max_attempts,
        Some(OnMaxAttempts::Kill)
    );
    let handler = &service.handlers[0];
    assert_eq!(handler.kind, HandlerKind::Shared);
    assert_eq!(handler.settings.inactivity_timeout, Some(Duration::ZERO));
    assert!(handler.input.as_ref().unwrap().required);
}

#[test]
fn kinds_combine_as_the_peer_has_it() {
    let mut table = String::new();
    for service_type in ["SERVICE", "VIRTUAL_OBJECT", "WORKFLOW"] {
        for handler_type in [None, Some("EXCLUSIVE"), Some("SHARED"), Some("WORKFLOW")] {
            let handler = handler_type.map_or(json!({}), |ty| json!({ "ty": ty }));
            let kind = match read_json(&service(service_type, json!({}), handler)) {
                Ok(manifest) => format!("{:?}", manifest.services[0].handlers[0].kind),
                Err(ManifestError::Setting { .. }) => "refused".to_owned(),
                Err(error) => panic!("{error}"),
            };
            table += &format!("{service_type} {} {kind}\n", handler_type.unwrap_or("-"));
        }
    }
    expect![[r#"
        SERVICE - Plain
        SERVICE EXCLUSIVE refused
        SERVICE SHARED Plain
        SERVICE WORKFLOW refused
        VIRTUAL_OBJECT - Exclusive
        VIRTUAL_OBJECT EXCLUSIVE Exclusive
        VIRTUAL_OBJECT SHARED Shared
        VIRTUAL_OBJECT WORKFLOW refused
        WORKFLOW - Shared
        WORKFLOW EXCLUSIVE refused
        WORKFLOW SHARED Shared
        WORKFLOW WORKFLOW Workflow
    "#]]
    .assert_eq(&table);
}

#[test]
fn what_is_wrong_is_named() {
    let range = |min: i64, max: i64| {
        let mut body = endpoint(json!([]));
        body["minProtocolVersion"] = json!(min);
        body["maxProtocolVersion"] = json!(max);
        body
    };
    check(&range(5, 99), expect!["ok"]);
    check(&range(1, 5), expect!["ok"]);
    check(
        &range(0, 5),
        expect![
            "- the discovery response cannot be decoded: minProtocolVersion and maxProtocolVersion must be at least 1"
        ],
    );
    check(
        &range(6, 5),
        expect![
            "META0013 bad discovery response: minProtocolVersion 6 is above maxProtocolVersion 5"
        ],
    );
    check(
        &range(5, 1 << 31),
        expect![
            "META0013 bad discovery response: maxProtocolVersion 2147483648 is above 2147483647"
        ],
    );
    check(
        &range(8, 9),
        expect![
            "META0012 the endpoint speaks service protocol versions 8 to 9, this server 5 to 7"
        ],
    );
    check(
        &range(1, 4),
        expect![
            "META0012 the endpoint speaks service protocol versions 1 to 4, this server 5 to 7"
        ],
    );
    let mut no_mode = endpoint(json!([]));
    no_mode.as_object_mut().unwrap().remove("protocolMode");
    check(
        &no_mode,
        expect!["META0013 bad discovery response: protocolMode is missing"],
    );
    let mut unknown = endpoint(json!([]));
    unknown["surprise"] = json!(1);
    check(
        &unknown,
        expect![
            "- the discovery response cannot be decoded: unknown field `surprise`, expected one of `protocolMode`, `minProtocolVersion`, `maxProtocolVersion`, `lambdaCompression`, `services` at line 1 column 100"
        ],
    );
    for (body, expected) in [
        (
            service("SERVICE", json!({"name": "restateFoo"}), json!({})),
            expect![
                "META0005 service name 'restateFoo' is reserved: names must not start with 'restate' nor be 'openapi'"
            ],
        ),
        (
            service("SERVICE", json!({"name": "OpenAPI"}), json!({})),
            expect![
                "META0005 service name 'OpenAPI' is reserved: names must not start with 'restate' nor be 'openapi'"
            ],
        ),
        (
            service("SERVICE", json!({"name": "a/b"}), json!({})),
            expect![
                "- the discovery response cannot be decoded: 'a/b' is no service name: letters, digits, '.', '_' and '-', beginning with a letter"
            ],
        ),
        (
            service("SERVICE", json!({}), json!({"name": "a-b"})),
            expect![
                "- the discovery response cannot be decoded: 'a-b' is no handler name: letters, digits and '_', beginning with a letter"
            ],
        ),
        (
            service(
                "WORKFLOW",
                json!({}),
                json!({"ty": "WORKFLOW", "idempotencyRetention": 1}),
            ),
            expect!["- S/h: idempotencyRetention cannot be set on a workflow handler"],
        ),
        (
            service(
                "WORKFLOW",
                json!({}),
                json!({"ty": "SHARED", "workflowCompletionRetention": 1}),
            ),
            expect!["- S/h: workflowCompletionRetention can only be set on a workflow handler"],
        ),
        (
            service(
                "SERVICE",
                json!({"ingressPrivate": true}),
                json!({"ingressPrivate": false}),
            ),
            expect!["- S/h: ingressPrivate cannot be false while the service is private"],
        ),
        (
            service(
                "WORKFLOW",
                json!({"idempotencyRetention": 1}),
                json!({"ty": "WORKFLOW"}),
            ),
            expect!["ok"],
        ),
    ] {
        check(&body, expected);
    }
}

#[test]
fn the_content_type_must_be_one_that_was_offered() {
    let body = endpoint(json!([])).to_string();
    let read = |content_type| {
        read(Response {
            content_type,
            server: None,
            body: body.as_bytes(),
        })
    };
    for media_type in MEDIA_TYPES {
        assert!(ACCEPT.contains(media_type));
        assert!(read(Some(media_type)).is_ok());
    }
    for content_type in [
        None,
        Some("application/json"),
        Some("application/vnd.restate.endpointmanifest.v4+json; charset=utf-8"),
    ] {
        let error = read(content_type).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Meta0013), "{error}");
    }
}

#[test]
fn early_typescript_sdks_are_not_believed() {
    let body = endpoint(json!([])).to_string();
    let read = |server| {
        read(Response {
            content_type: Some(V4),
            server: Some(server),
            body: body.as_bytes(),
        })
    };
    assert!(read("restate-sdk-typescript/1.17.2").is_ok());
    assert!(read("restate-sdk-typescript/1.10.0").is_ok());
    let error = read("restate-sdk-typescript/1.2.1").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Meta0012));
}

#[test]
fn handlers_with_one_name_collapse() {
    let body = endpoint(json!([{
        "name": "S", "ty": "SERVICE",
        "handlers": [{"name": "a"}, {"name": "b"}, {"name": "a", "documentation": "last"}]
    }]));
    let handlers = &read_json(&body).unwrap().services[0].handlers;
    assert_eq!(handlers.len(), 2);
    assert_eq!(handlers[0].documentation.as_deref(), Some("last"));
}

proptest! {
    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = read(Response { content_type: Some(V4), server: None, body: &body });
    }

    #[test]
    fn names_follow_their_patterns(name in "[a-zA-Z_.0-9-]{0,4}") {
        let mut chars = name.chars();
        let head = match chars.next() {
            Some('_') => chars.next().is_some_and(|second| second.is_ascii_alphanumeric()),
            Some(first) => first.is_ascii_alphabetic(),
            None => false,
        };
        prop_assert_eq!(is_service_name(&name), head);
        prop_assert_eq!(is_handler_name(&name), head && !name.contains(['.', '-']));
    }
}
