#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use abide_processor::api::RouteError;
use abide_service_protocol::Failure;
use abide_types::{HandlerKind, InvocationTarget, PartitionId, ServiceKind};
use expect_test::{Expect, expect};
use http_body_util::BodyExt;

use super::*;
use crate::error::Attempted;
use crate::fixture::schema;

const AT: Timestamp = Timestamp(1_795_310_898_979);

fn id() -> InvocationId {
    "inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ".parse().unwrap()
}

fn target(service: &str) -> InvocationTarget {
    InvocationTarget {
        service: service.to_owned(),
        key: None,
        handler: "greet".to_owned(),
        service_kind: ServiceKind::Service,
        handler_kind: HandlerKind::Plain,
    }
}

/// Status, headers and body, as a client sees them.
fn check(answer: Answer, expected: Expect) {
    let (parts, body) = answer.into_parts();
    let mut text = format!("{}\n", parts.status.as_u16());
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let body = futures_executor(body.collect());
    text.push_str(&String::from_utf8_lossy(&body));
    text.push('\n');
    expected.assert_eq(&text);
}

fn futures_executor(
    body: impl Future<Output = Result<http_body_util::Collected<Bytes>, std::convert::Infallible>>,
) -> Bytes {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(body).unwrap().to_bytes()
}

fn ended(outcome: Outcome, expires_at: Option<Timestamp>, service: &str) -> Answer {
    let target = target(service);
    finished(
        &id(),
        Finished {
            outcome,
            expires_at,
            target,
        },
        &schema(),
    )
}

#[test]
fn results_are_sent_as_they_are() {
    check(
        ended(Outcome::Value("\"Hello Bob!\"".into()), None, "greeter"),
        expect![[r#"
            200
            content-type: application/json
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            "Hello Bob!"
        "#]],
    );
    check(
        ended(Outcome::Value(Bytes::new()), Some(AT), "greeter"),
        expect![[r#"
            200
            idempotency-expires: 2026-11-22T01:28:18.979+00:00
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ

        "#]],
    );
    check(
        ended(Outcome::Value("1".into()), None, "removed"),
        expect![[r#"
            200
            content-type: application/json
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            1
        "#]],
    );
}

#[test]
fn failures_of_handlers_carry_their_code_and_metadata() {
    let failure = Failure {
        metadata: vec![("a".to_owned(), "b".to_owned())],
        stacktrace: Some("at f".to_owned()),
        ..Failure::new(409, "no way")
    };
    check(
        ended(Outcome::Failure(failure), None, "greeter"),
        expect![[r#"
            409
            content-type: application/json
            x-restate-error-source: invocation
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            {"code":409,"message":"no way","stacktrace":"at f","metadata":{"a":"b"},"source":"invocation"}
        "#]],
    );
    let status = |code| {
        let answer = ended(Outcome::Failure(Failure::new(code, "")), None, "greeter");
        answer.status().as_u16()
    };
    let seen = [0, 99, 100, 101, 200, 418, 999, 1000, u16::MAX].map(status);
    assert_eq!(seen, [500, 500, 500, 500, 200, 418, 999, 500, 500]);
}

#[test]
fn sends_are_told_what_was_accepted() {
    check(
        accepted(
            &id(),
            Accepted {
                new: true,
                execute_at: None,
            },
            None,
        ),
        expect![[r#"
            202
            content-type: application/json
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            {"invocationId":"inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ","status":"Accepted"}
        "#]],
    );
    check(
        accepted(
            &id(),
            Accepted {
                new: false,
                execute_at: None,
            },
            Some(AT),
        ),
        expect![[r#"
            202
            content-type: application/json
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            {"invocationId":"inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ","status":"PreviouslyAccepted"}
        "#]],
    );
}

#[test]
fn errors_of_the_ingress_say_so() {
    check(
        error(&IngressError::NotReady),
        expect![[r#"
            470
            content-type: application/json
            x-restate-error-source: ingress
            {"code":470,"message":"the invocation exists but has not completed yet","source":"ingress"}
        "#]],
    );
    let cause = RouteError::NoLeader {
        partition: PartitionId(3),
        waited: Duration::from_secs(5),
    };
    check(
        error(&IngressError::Routing {
            attempted: Attempted::Read,
            cause,
        }),
        expect![[r#"
            503
            content-type: application/json
            x-restate-error-source: ingress
            retry-after: 1
            {"code":503,"message":"internal routing error: partition 3 has no leader that answers after 5s. You may safely retry the request.","source":"ingress"}
        "#]],
    );
    check(
        nothing_to_attach_to(&id()),
        expect![[r#"
            404
            content-type: application/json
            x-restate-error-source: invocation
            x-restate-id: inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ
            {"code":404,"message":"not found","source":"invocation"}
        "#]],
    );
}

#[test]
fn the_rest_is_short() {
    check(
        looked_up(&id()),
        expect![[r#"
            200
            content-type: application/json
            {"invocationId":"inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ"}
        "#]],
    );
    check(
        health(&schema()),
        expect![[r#"
            200
            content-type: application/json
            {"services":["counter","greeter","old","priv","wf"]}
        "#]],
    );
    check(
        announced_too_long(),
        expect![[r#"
            413
            content-type: text/plain; charset=utf-8
            length limit exceeded
        "#]],
    );
    check(
        completed(),
        expect![[r#"
            202

        "#]],
    );
}

#[test]
fn times_beyond_the_calendar_do_not_panic() {
    let answer = ended(
        Outcome::Value(Bytes::new()),
        Some(Timestamp(u64::MAX)),
        "greeter",
    );
    assert!(answer.headers().contains_key(EXPIRES));
    accepted(
        &id(),
        Accepted {
            new: true,
            execute_at: Some(Timestamp(u64::MAX)),
        },
        None,
    );
}
