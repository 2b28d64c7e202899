#![allow(clippy::unwrap_used, reason = "tests")]

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::fixture::schema;

const ARRIVAL: Arrival = Arrival {
    at: Timestamp(1_000),
    unique: 7,
};

/// The key that an invocation with this arrival gets by itself.
const AUTOMATIC: &str = "00000000000000000000000007";

fn parts(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// What would be done, in one line; or status and message of the refusal.
fn plan(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let parts = parts(method, path, headers);
    let schema = schema();
    let planned = step(&parts, &schema).and_then(|step| {
        Ok(match step {
            Step::Invoke(callee) => {
                let mode = callee.mode;
                let body = Bytes::copy_from_slice(body.as_bytes());
                let new = new_invocation(callee, &parts, body, ARRIVAL)?;
                let at = new
                    .execute_at
                    .map(|at| format!(" at {}", at.0))
                    .unwrap_or_default();
                let key = new
                    .idempotency_key
                    .filter(|key| *key != AUTOMATIC)
                    .map(|key| format!(" key {key:?}"))
                    .unwrap_or_default();
                let flow = new
                    .flow
                    .map(|flow| match flow.limit_key {
                        Some(key) => format!(" in {} as {key}", flow.scope),
                        None => format!(" in {}", flow.scope),
                    })
                    .unwrap_or_default();
                format!("{mode:?} {:?}{key}{flow}{at}", new.target.to_string())
            }
            Step::Get { want, id } => format!("{want:?} {id}"),
            Step::GetByBody(want) => {
                format!("{want:?} {}", named_by_body("request", body.as_bytes())?)
            }
            Step::LookUp => format!("LookUp {}", named_by_body("request", body.as_bytes())?),
            Step::Awakeable { id: None, .. } => "nothing".to_owned(),
            Step::Awakeable {
                id: Some(id),
                resolve: true,
            } => format!("resolve {id}"),
            Step::Awakeable {
                id: Some(id),
                resolve: false,
            } => format!("reject {id}"),
            Step::Health => "health".to_owned(),
        })
    });
    planned.unwrap_or_else(|error| format!("{} {error}", error.status().as_u16()))
}

fn check(table: &[(&str, &str, &str)]) {
    for (method, path, expected) in table {
        assert_eq!(plan(method, path, &[], ""), *expected, "{method} {path}");
    }
}

const OLD: &str =
    "400 bad path, expected either /:service-name/:handler or /:object-name/:object-key/:handler";
const NEW: &str = "400 bad path, expected /restate/call/:service/:handler, /restate/send/:service/:handler, /restate/scope/:scope/call/:service/:handler, /restate/attach/:invocation_id, /restate/output/:invocation_id, or /restate/lookup";
const INVOCATION: &str = "400 bad path, expected either /restate/invocation/:invocation_id/output or /restate/invocation/:invocation_id/attach or /restate/invocation/:invocation_target/:idempotency_key/output or /restate/invocation/:invocation_target/:idempotency_key/attach";
const WORKFLOW: &str = "400 bad path, expected either /restate/workflow/:workflow_name/:workflow_key/output or /restate/workflow/:workflow_name/:workflow_key/attach";
const AWAKEABLE: &str = "400 bad path, expected either /restate/awakeables/:id/resolve or /restate/awakeables/:id/reject";
const NO_SERVICE: &str =
    "404 service 'nope' not found, make sure to register the service before calling it.";
const NO_HANDLER: &str = "404 the service 'greeter' exists, but the handler 'nope' was not found, check that the handler exists in the latest registered service version.";
const NOT_FOUND: &str = "404 not found";
const NOT_ALLOWED: &str = "405 method not allowed";

#[test]
fn the_older_form_calls_and_sends() {
    check(&[
        ("POST", "/greeter/greet", r#"Call "greeter/greet""#),
        ("GET", "/greeter/greet", r#"Call "greeter/greet""#),
        ("POST", "/greeter/greet/", r#"Call "greeter/greet""#),
        ("POST", "//greeter/greet", r#"Call "greeter/greet""#),
        ("POST", "/greeter/greet/send", r#"Send "greeter/greet""#),
        ("POST", "/greeter/send", r#"Call "greeter/send""#),
        ("POST", "/greeter/send/send", r#"Send "greeter/send""#),
        ("POST", "/counter/k1/add", r#"Call "counter/k1/add""#),
        ("POST", "/counter/k1/add/send", r#"Send "counter/k1/add""#),
        ("POST", "/counter//get", r#"Call "counter//get""#),
        (
            "POST",
            "/counter/a%2Fb%20c+d/get",
            r#"Call "counter/a/b c+d/get""#,
        ),
        ("POST", "/wf/w1/run", r#"Call "wf/w1/run""#),
        ("POST", "/greeter/greet/other", OLD),
        ("POST", "/greeter/greet/send/more", OLD),
        ("POST", "/counter/k1", OLD),
        ("POST", "/counter/k1/get/x", OLD),
        ("POST", "/nope/hi", NO_SERVICE),
        ("POST", "/nope/hi/a/b/c", NO_SERVICE),
        ("POST", "/greeter/nope", NO_HANDLER),
        (
            "POST",
            "/Greeter/greet",
            "404 service 'Greeter' not found, make sure to register the service before calling it.",
        ),
        ("POST", "/priv/hi", "400 the invoked service is not public"),
        ("PUT", "/greeter/greet", NOT_ALLOWED),
        ("HEAD", "/greeter/greet", NOT_ALLOWED),
        ("DELETE", "/nope/hi", NO_SERVICE),
    ]);
    assert!(
        plan("POST", "/old/hi", &[], "")
            .starts_with("400 the service old is exposed by the deprecated deployment dp_1")
    );
    assert!(
        plan("POST", "/counter/%ff/get", &[], "").starts_with("400 bad path, cannot decode key: ")
    );
}

#[test]
fn a_path_has_two_to_seven_slashes() {
    check(&[
        ("POST", "/", "400 bad path: /"),
        ("POST", "/greeter", "400 bad path: /greeter"),
        ("POST", "/restate", "400 bad path: /restate"),
        ("GET", "/openapi", "400 bad path: /openapi"),
        ("GET", "/openapi/x", NOT_FOUND),
        ("POST", "/a/b/c/d/e/f/g/h", "400 bad path: /a/b/c/d/e/f/g/h"),
        ("POST", "/nope/b/c/d/e/f/g", NO_SERVICE),
    ]);
}

#[test]
fn the_newer_form_calls_and_sends() {
    check(&[
        (
            "POST",
            "/restate/call/greeter/greet",
            r#"Call "greeter/greet""#,
        ),
        (
            "GET",
            "/restate/call/counter/k1/add",
            r#"Call "counter/k1/add""#,
        ),
        (
            "POST",
            "/restate/send/counter/k%201/add/",
            r#"Send "counter/k 1/add""#,
        ),
        ("POST", "/restate/call/nope/hi", NO_SERVICE),
        ("POST", "/restate/call/greeter", NEW),
        ("POST", "/restate/call/greeter/greet/send", NEW),
        ("POST", "/restate/send/counter/k1", NEW),
        ("POST", "/restate/call", NEW),
        ("POST", "/restate/signal/x/y", NOT_FOUND),
        (
            "POST",
            "/restate/scope/s1/call/greeter/greet",
            r#"Call "greeter/greet" in s1"#,
        ),
        (
            "POST",
            "/restate/scope/s%31/send/wf/k/run?limit-key=a/b/",
            r#"Send "wf/k/run" in s1 as a/b"#,
        ),
        (
            "POST",
            "/restate/scope/s1/call/counter/k/add",
            "400 scope is not supported for Virtual Object targets",
        ),
        ("PUT", "/restate/scope/s1/call/greeter/greet", NOT_ALLOWED),
        (
            "POST",
            "/restate/scope/s%201/call/greeter/greet",
            "400 bad scope value: value contains characters outside the allowed set [a-zA-Z0-9_.-]",
        ),
        ("POST", "/restate/scope/s1/other/greeter/greet", NEW),
    ]);
}

#[test]
fn results_are_asked_for_by_id_key_or_workflow() {
    let id = "inv_12kpUQONmeFb3IK6RCJLdYH3vHXJkyyray";
    let attach = format!("Attach {id}");
    let output = format!("Output {id}");
    check(&[
        ("GET", &format!("/restate/attach/{id}"), &attach),
        ("GET", &format!("/restate/output/{id}"), &output),
        ("GET", &format!("/restate/invocation/{id}/attach"), &attach),
        (
            "GET",
            &format!("/restate/invocation/{id}/output/more"),
            &format!(
                "404 service '{id}' not found, make sure to register the service before calling it."
            ),
        ),
        ("GET", &format!("/restate/invocation/{id}"), INVOCATION),
        ("GET", "/restate/invocation/greeter/greet/k10", INVOCATION),
        (
            "POST",
            &format!("/restate/invocation/{id}/attach"),
            NOT_ALLOWED,
        ),
        ("GET", "/restate/workflow/wf/w1/attach", &attach),
        ("GET", "/restate/workflow/wf/w%31/output", &output),
        ("GET", "/restate/workflow/wf/w1/wait", NOT_FOUND),
        ("GET", "/restate/workflow/wf/w1", WORKFLOW),
        (
            "GET",
            "/restate/invocation/greeter/greet/k10/attach",
            "Attach inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ",
        ),
        (
            "GET",
            "/restate/invocation/counter/k1/add/k10/output",
            "Output inv_1foAirY4KKzi2z575de9oJaWADn6BWZ4Kk",
        ),
        (
            "GET",
            "/restate/invocation/nope/greet/k10/attach",
            NO_SERVICE,
        ),
        (
            "GET",
            "/restate/invocation/rubbish/attach",
            "400 bad invocation id 'rubbish': bad format",
        ),
        (
            "GET",
            "/restate/attach/inv_2x",
            "400 bad invocation id 'inv_2x': unrecognized codec version",
        ),
        ("POST", &format!("/restate/attach/{id}"), NOT_ALLOWED),
        ("GET", "/restate/attach", NOT_ALLOWED),
        ("GET", "/restate/health", "health"),
        ("POST", "/restate/health", NOT_ALLOWED),
    ]);
}

#[test]
fn a_body_names_an_invocation() {
    let json = |body: &str| plan("POST", "/restate/lookup", &[], body);
    assert_eq!(
        json(r#"{"target":"workflow","workflowName":"wf","workflowKey":"w1"}"#),
        "LookUp inv_12kpUQONmeFb3IK6RCJLdYH3vHXJkyyray"
    );
    assert_eq!(
        json(
            r#"{"target":"idempotentInvocation","service":"counter","key":"k1","handler":"add","idempotencyKey":"k10"}"#
        ),
        "LookUp inv_1foAirY4KKzi2z575de9oJaWADn6BWZ4Kk"
    );
    assert_eq!(
        json(
            r#"{"target":"idempotentInvocation","service":"greeter","handler":"greet","idempotencyKey":"k10","scope":null}"#
        ),
        "LookUp inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ"
    );
    assert_eq!(
        json(r#"{"target":"workflow","workflowName":"Wf","workflowKey":"wk","scope":"tenA"}"#),
        "LookUp inv_148CuKhhIMaj0S2V0zH4gCUtpBWNlh9TLG"
    );
    assert_eq!(
        json(r#"{"target":"workflow","workflowName":"wf","workflowKey":"w1","scope":""}"#),
        "400 bad scope value: value cannot be empty"
    );
    assert_eq!(
        plan(
            "POST",
            "/restate/output",
            &[],
            r#"{"target":"invocation","invocationId":"x"}"#
        ),
        "400 bad invocation id 'x': bad format"
    );
    assert!(json("{").starts_with("400 cannot read body: invalid request body: "));
    assert!(json(r#"{"target":"else"}"#).contains("unknown variant `else`"));
    assert_eq!(plan("GET", "/restate/lookup", &[], ""), NOT_ALLOWED);
}

#[test]
fn awakeables_are_resolved_and_rejected() {
    let id = "sign_18AonhJFDSX9Ia-QxwkD4kF47XWiNx3foAAAAEQ";
    let resolve = format!("resolve {id}");
    let reject = format!("reject {id}");
    check(&[
        (
            "POST",
            &format!("/restate/awakeables/{id}/resolve"),
            &resolve,
        ),
        ("POST", &format!("/restate/a/{id}/reject"), &reject),
        ("GET", &format!("/restate/a/{id}/reject"), NOT_ALLOWED),
        ("POST", &format!("/restate/a/{id}/forget"), NOT_FOUND),
        ("POST", &format!("/restate/a/{id}"), AWAKEABLE),
        ("GET", "/restate/a/rubbish/resolve", NOT_ALLOWED),
        (
            "POST",
            "/restate/a/prom_18AonhJFDSX9Ia-QxwkD4kF47XWiNx3foAAAAEQ/resolve",
            "nothing",
        ),
        (
            "POST",
            "/restate/a/prom_1abc/resolve",
            "400 bad awakeable id 'prom_1abc': bad length",
        ),
        (
            "POST",
            "/restate/a/rubbish/resolve",
            "400 bad awakeable id 'rubbish': bad format",
        ),
    ]);
}

#[test]
fn sends_can_wait() {
    check(&[
        (
            "POST",
            "/greeter/greet/send?delay=300ms",
            r#"Send "greeter/greet" at 1300"#,
        ),
        (
            "POST",
            "/greeter/greet/send?x=1&DELAY=1h+2m",
            r#"Send "greeter/greet" at 3721000"#,
        ),
        (
            "POST",
            "/restate/send/wf/w1/run?delay=PT10S",
            r#"Send "wf/w1/run" at 11000"#,
        ),
        (
            "POST",
            "/greeter/greet/send?delay=0s",
            r#"Send "greeter/greet" at 1000"#,
        ),
        (
            "POST",
            "/greeter/greet/send?delayMs=5",
            r#"Send "greeter/greet""#,
        ),
        (
            "POST",
            "/greeter/greet?delay=1s",
            "400 cannot use the delay query parameter with calls. The delay is supported only with sends",
        ),
    ]);
    for bad in ["", "10", "-1s", "rubbish", "%ff"] {
        let refused = plan("POST", &format!("/greeter/greet/send?delay={bad}"), &[], "");
        let prefix = "400 bad delay query parameter, must be a ISO8601 duration: ";
        assert!(refused.starts_with(prefix), "{bad}: {refused}");
    }
}

#[test]
fn idempotency_keys_name_invocations_but_not_workflow_runs() {
    let key = [("idempotency-key", "k10")];
    assert_eq!(
        plan("POST", "/greeter/greet", &key, ""),
        r#"Call "greeter/greet" key "k10""#
    );
    assert_eq!(
        plan("POST", "/wf/w1/peek", &key, ""),
        r#"Call "wf/w1/peek" key "k10""#
    );
    assert_eq!(
        plan("POST", "/wf/w1/run", &key, ""),
        "400 cannot use the idempotency key with workflow handlers. The handler invocation will already be idempotent by the workflow key itself."
    );
    let empty = [("idempotency-key", "")];
    assert_eq!(
        plan("POST", "/greeter/greet", &empty, ""),
        r#"Call "greeter/greet" key """#
    );
    let odd = [("idempotency-key", "k\u{e4}")];
    assert!(
        plan("POST", "/greeter/greet", &odd, "").starts_with("400 bad header idempotency-key: ")
    );
}

#[test]
fn the_id_is_that_of_the_key_or_random() {
    let schema = schema();
    let id = |headers: &[(&str, &str)]| {
        let parts = parts("POST", "/greeter/greet", headers);
        let Step::Invoke(callee) = step(&parts, &schema).unwrap() else {
            panic!("a call")
        };
        new_invocation(callee, &parts, Bytes::new(), ARRIVAL)
            .unwrap()
            .id
    };
    let named = id(&[("idempotency-key", "k10")]);
    assert_eq!(named.to_string(), "inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ");
    assert_eq!(
        id(&[]),
        id(&[("idempotency-key", AUTOMATIC)]),
        "a key of its own"
    );
}

#[test]
fn input_rules_come_before_the_delay_and_headers_after_it() {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(
        plan("POST", "/greeter/greet/send?delay=x", &form, "x"),
        "400 input validation error: Content-type 'application/x-www-form-urlencoded' does not match 'application/json'"
    );
    let odd = [("x-odd", "\u{e4}")];
    assert!(plan("POST", "/greeter/greet/send?delay=x", &odd, "").starts_with("400 bad delay"));
    assert!(
        plan("POST", "/greeter/greet?delay=1s", &odd, "").starts_with("400 bad header x-odd: ")
    );
}

#[test]
fn limit_keys_need_scopes() {
    let with = |key: &str| {
        plan(
            "POST",
            "/greeter/greet",
            &[("x-restate-limit-key", key)],
            "",
        )
    };
    assert_eq!(with("a/b"), "400 limit-key requires a scope to be set");
    assert!(with("a/b/c").starts_with("400 invalid limit-key: "));
    assert!(with("a//").starts_with("400 invalid limit-key: "));
    assert_eq!(with(""), r#"Call "greeter/greet""#);
    check(&[(
        "POST",
        "/greeter/greet?limit-key=a",
        "400 limit-key requires a scope to be set",
    )]);
}

#[test]
fn the_handler_sees_where_it_was_called_and_the_first_of_each_header() {
    let parts = parts(
        "POST",
        "//greeter/greet/?x=1",
        &[
            ("Host", "h"),
            ("connection", "close"),
            ("idempotency-key", "k"),
            ("idempotency-expires", "never"),
            ("X-Foo", "bar"),
            ("x-foo", "second"),
            ("traceparent", "00-1-2-01"),
        ],
    );
    let headers = handler_headers(&parts).unwrap();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("x-restate-ingress-path", "/greeter/greet?x=1"),
        ("x-foo", "bar"),
        ("traceparent", "00-1-2-01"),
    ];
    assert_eq!(headers, expected);
}

proptest! {
    #[test]
    fn no_path_panics(
        method in "(GET|POST|PUT)",
        path in "(/(restate|call|send|attach|invocation|workflow|a|counter|greeter|wf|%[0-9a-f]{0,3}|inv_1.{0,4}|[a-z%+.]{0,5})){0,9}(\\?(delay|limit-key)=[a-z0-9%+]{0,6})?",
    ) {
        if path.parse::<http::Uri>().is_ok() && !path.is_empty() {
            let _ = plan(&method, &path, &[], "{}");
        }
    }

    #[test]
    fn every_key_reaches_its_object(key in "\\PC{0,40}") {
        let encoded: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let planned = plan("POST", &format!("/counter/{encoded}/add"), &[], "");
        prop_assert_eq!(planned, format!("Call {:?}", format!("counter/{key}/add")));
    }

}
