#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{Defaults, ResolveError};
use expect_test::{Expect, expect};
use serde_json::json;

fn manifest(services: Value) -> Manifest {
    let body = json!({
        "protocolMode": "BIDI_STREAM",
        "minProtocolVersion": 5,
        "maxProtocolVersion": 7,
        "services": services,
    });
    manifest::read(manifest::Response {
        content_type: Some("application/vnd.restate.endpointmanifest.v4+json"),
        server: None,
        body: body.to_string().as_bytes(),
    })
    .unwrap()
}

fn endpoint(uri: &str, services: Value) -> Discovered {
    Discovered {
        uri: uri.to_owned(),
        additional_headers: BTreeMap::new(),
        metadata: BTreeMap::new(),
        http_version: HttpVersion::Http2,
        sdk_version: Some("sdk/1".to_owned()),
        manifest: manifest(services),
    }
}

fn object(name: &str, ty: &str) -> Value {
    json!({"name": name, "ty": ty, "handlers": [{"name": "go"}]})
}

fn options(id: u128) -> RegisterOptions<'static> {
    RegisterOptions {
        id: DeploymentId(id),
        at: Timestamp(id as u64),
        force: false,
        breaking: false,
        routing_headers: &[],
    }
}

/// Service, revision and deployment of everything that is latest.
fn latest(schema: &Schema) -> String {
    schema
        .services()
        .map(|view| {
            format!(
                "{} r{} at {}\n",
                view.name, view.revision, view.deployment.0
            )
        })
        .collect()
}

fn check(schema: &Schema, expected: Expect) {
    expected.assert_eq(&latest(schema));
}

#[test]
fn a_new_address_gets_the_next_revisions_and_a_service_left_out_stays() {
    let schema = Schema::default();
    let both = json!([object("a", "SERVICE"), object("b", "SERVICE")]);
    let (schema, done) = register(&schema, endpoint("http://x/", both), &options(1)).unwrap();
    assert_eq!(done, Registered::Created(DeploymentId(1)));
    let one = json!([object("a", "SERVICE")]);
    let (schema, _) = register(&schema, endpoint("http://y/", one), &options(2)).unwrap();
    check(
        &schema,
        expect![[r#"
        a r2 at 2
        b r1 at 1
    "#]],
    );
    let schema = schema.without_deployment(DeploymentId(2)).unwrap();
    check(
        &schema,
        expect![[r#"
        a r1 at 1
        b r1 at 1
    "#]],
    );
    let schema = schema.without_deployment(DeploymentId(1)).unwrap();
    check(&schema, expect![[""]]);
    assert_eq!(schema.without_deployment(DeploymentId(1)), None);
}

#[test]
fn a_known_address_changes_nothing_unless_forced() {
    let one = || endpoint("http://x/", json!([object("a", "SERVICE")]));
    let (first, _) = register(&Schema::default(), one(), &options(1)).unwrap();
    let (same, done) = register(&first, one(), &options(2)).unwrap();
    assert_eq!(done, Registered::Unchanged(DeploymentId(1)));
    assert_eq!(same, first);
    let force = RegisterOptions {
        force: true,
        ..options(2)
    };
    let (next, done) = register(&first, one(), &force).unwrap();
    assert_eq!(done, Registered::Replaced(DeploymentId(1)));
    assert_eq!(
        next.deployment(DeploymentId(1)).unwrap().created_at,
        Timestamp(2)
    );
    check(
        &next,
        expect![[r#"
        a r2 at 1
    "#]],
    );
}

#[test]
fn routing_headers_tell_deployments_at_one_address_apart() {
    let with = |tenant: &str| Discovered {
        additional_headers: BTreeMap::from([("x-tenant".to_owned(), tenant.to_owned())]),
        ..endpoint("http://x/", json!([object("a", "SERVICE")]))
    };
    let routing_headers = ["x-tenant".to_owned()];
    let by_header = |id| RegisterOptions {
        routing_headers: &routing_headers,
        ..options(id)
    };
    let (schema, _) = register(&Schema::default(), with("1"), &by_header(1)).unwrap();
    let (_, done) = register(&schema, with("2"), &by_header(2)).unwrap();
    assert_eq!(done, Registered::Created(DeploymentId(2)));
    let (_, done) = register(&schema, with("2"), &options(2)).unwrap();
    assert_eq!(done, Registered::Unchanged(DeploymentId(1)));
}

#[test]
fn a_service_keeps_its_kind_unless_a_break_is_allowed() {
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", json!([object("a", "VIRTUAL_OBJECT")])),
        &options(1),
    )
    .unwrap();
    let changed = || endpoint("http://y/", json!([object("a", "SERVICE")]));
    let error = register(&schema, changed(), &options(2)).unwrap_err();
    assert_eq!(error, RegisterError::KindChanged("a".to_owned()));
    assert_eq!(error.code().map(ErrorCode::as_str), Some("META0006"));
    let breaking = RegisterOptions {
        breaking: true,
        ..options(2)
    };
    let (schema, _) = register(&schema, changed(), &breaking).unwrap();
    assert_eq!(schema.service("a").unwrap().kind, ServiceKind::Service);
}

#[test]
fn bad_content_types_and_schemas_are_refused() {
    let with = |handler: Value| {
        let service = json!([{"name": "a", "ty": "SERVICE", "handlers": [handler]}]);
        register(
            &Schema::default(),
            endpoint("http://x/", service),
            &options(1),
        )
        .map(|_| ())
        .map_err(|error| error.to_string())
    };
    let refused = with(json!({"name": "h", "input": {"contentType": "*/json"}}));
    assert!(
        refused
            .unwrap_err()
            .starts_with("a/h: '*/json' is not a content type")
    );
    let external = json!({"properties": {"x": {"$ref": "http://elsewhere/y"}}});
    let refused = with(json!({"name": "h", "output": {"jsonSchema": external}}));
    assert_eq!(
        refused.unwrap_err(),
        "a/h: bad JSON schema of the output: a $ref must stay inside the schema"
    );
    assert!(with(json!({"name": "h", "input": {"jsonSchema": {"$ref": "#/x"}}})).is_ok());
    assert!(with(json!({"name": "h", "input": {"jsonSchema": 7}})).is_err());
    for (schema, good) in [
        (json!({"type": "strange"}), false),
        (json!({"type": ["string", "null"]}), true),
        (json!({"type": ["string", 1]}), false),
        (json!({"items": {"type": "strange"}}), false),
        (json!({"anyOf": [{"type": "strange"}]}), false),
        (
            json!({"properties": {"type": {"type": "string"}, "enum": {"type": "strange"}}}),
            false,
        ),
        (
            json!({"properties": {"type": {"type": "string"}}, "$defs": {"$ref": {}}}),
            true,
        ),
        (
            json!({"const": {"type": "strange"}, "examples": [{"$ref": "http://x/"}]}),
            true,
        ),
    ] {
        let text = schema.to_string();
        let handler = json!({"name": "h", "input": {"jsonSchema": schema}});
        assert_eq!(with(handler).is_ok(), good, "{text}");
    }
    // What it says goes out as it is.
    assert!(with(json!({"name": "h", "output": {"contentType": "jason"}})).is_ok());
    assert!(with(json!({"name": "h", "output": {"contentType": "a/b\n"}})).is_err());
}

#[test]
fn handlers_are_resolved_at_the_latest_and_at_a_pinned_deployment() {
    let with = |millis: u64| {
        json!([{"name": "a", "ty": "WORKFLOW", "ingressPrivate": false, "journalRetention": 5000,
        "handlers": [
            {"name": "run", "ty": "WORKFLOW", "workflowCompletionRetention": millis},
            {"name": "peek", "ty": "SHARED", "ingressPrivate": true, "retryPolicyMaxAttempts": 3},
        ]}])
    };
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", with(1000)),
        &options(1),
    )
    .unwrap();
    let (schema, _) = register(&schema, endpoint("http://y/", with(9000)), &options(2)).unwrap();
    let run = schema.resolve("a", "run").unwrap();
    assert_eq!(
        (run.deployment, run.revision, run.public),
        (DeploymentId(2), 2, true)
    );
    assert_eq!(run.retention(false).completion, Duration::from_secs(9));
    assert_eq!(run.retention(false).journal, Duration::from_secs(5));
    let old = schema.resolve_at(DeploymentId(1), "a", "run").unwrap();
    assert_eq!(old.retention(false).completion, Duration::from_secs(1));
    let peek = schema.resolve("a", "peek").unwrap();
    assert!(!peek.public);
    assert_eq!(peek.settings.retry.max_attempts, Some(3));
    assert!(matches!(
        schema.resolve("b", "run"),
        Err(ResolveError::ServiceNotFound(_))
    ));
    assert!(matches!(
        schema.resolve("a", "no"),
        Err(ResolveError::HandlerNotFound { .. })
    ));
}

#[test]
fn operators_change_services_until_they_are_registered_again() {
    let services = || {
        json!([object("a", "VIRTUAL_OBJECT"), {"name": "w", "ty": "WORKFLOW", "handlers": [
            {"name": "run", "ty": "WORKFLOW", "workflowCompletionRetention": 1000}]}])
    };
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", services()),
        &options(1),
    )
    .unwrap();
    let changes = ServiceChanges {
        public: Some(false),
        abort_timeout: Some(Duration::from_secs(7)),
        ..ServiceChanges::default()
    };
    let changed = update_service(&schema, "a", &changes).unwrap();
    let handler = changed.resolve("a", "go").unwrap();
    assert!(!handler.public);
    assert_eq!(handler.settings.abort_timeout, Duration::from_secs(7));
    assert_eq!(handler.revision, 1);
    let force = RegisterOptions {
        force: true,
        ..options(2)
    };
    let (again, _) = register(&changed, endpoint("http://x/", services()), &force).unwrap();
    assert!(again.resolve("a", "go").unwrap().public);

    let longer = ServiceChanges {
        workflow_completion_retention: Some(Duration::from_secs(60)),
        ..ServiceChanges::default()
    };
    let error = update_service(&schema, "a", &longer).unwrap_err();
    let text = "modifying retention time for service type VirtualObject is unsupported";
    assert_eq!(error.to_string(), text);
    let changed = update_service(&schema, "w", &longer).unwrap();
    let run = changed.resolve("w", "run").unwrap();
    assert_eq!(run.retention(false).completion, Duration::from_secs(60));
    assert!(update_service(&schema, "none", &longer).is_err());
}

#[test]
fn a_deployment_moves_with_its_services_as_they_were_recorded() {
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", json!([object("a", "SERVICE")])),
        &options(1),
    )
    .unwrap();
    let moved = || {
        endpoint(
            "http://y/",
            json!([object("a", "SERVICE"), object("b", "SERVICE")]),
        )
    };
    let id = DeploymentId(1);
    let kept = update_deployment(&schema, id, moved(), false).unwrap();
    assert_eq!(kept.deployment(id).unwrap().uri, "http://y/");
    check(
        &kept,
        expect![[r#"
        a r1 at 1
    "#]],
    );
    let replaced = update_deployment(&schema, id, moved(), true).unwrap();
    check(
        &replaced,
        expect![[r#"
        a r1 at 1
        b r1 at 1
    "#]],
    );
    // New requests go on where they went, though a service comes back and another changes its kind.
    let (newer, _) = register(
        &replaced,
        endpoint("http://z/", json!([object("c", "SERVICE")])),
        &options(2),
    )
    .unwrap();
    let back = endpoint(
        "http://z/",
        json!([object("a", "VIRTUAL_OBJECT"), object("c", "SERVICE")]),
    );
    let back = update_deployment(&newer, id, back, true).unwrap();
    check(
        &back,
        expect![[r#"
        a r1 at 1
        c r1 at 2
    "#]],
    );
    // Of two at one address, the newer stands for it.
    let at_z = back.deployment_at("http://z/", &BTreeMap::new(), &[]);
    assert_eq!(at_z.unwrap().id, DeploymentId(2));
    let mut other = moved();
    other.manifest.protocol_min = 6;
    let error = update_deployment(&schema, id, other, false).unwrap_err();
    assert_eq!(error.code().map(ErrorCode::as_str), Some("META0016"));
    let missing = update_deployment(&schema, DeploymentId(9), moved(), false);
    assert!(matches!(missing, Err(UpdateDeploymentError::NotFound(_))));
}

#[test]
fn the_document_reads_back_and_refuses_what_it_does_not_know() {
    let services = json!([{
        "name": "a", "ty": "VIRTUAL_OBJECT", "documentation": "doc", "metadata": {"k": "v"},
        "inactivityTimeout": 1, "retryPolicyExponentiationFactor": 1.5, "retryPolicyOnMaxAttempts": "KILL",
        "handlers": [
            {"name": "go", "input": {"required": true, "contentType": "application/json", "jsonSchema": {"type": "object"}}},
            {"name": "see", "ty": "SHARED", "ingressPrivate": true, "enableLazyState": true, "output": {}},
        ],
    }]);
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", services),
        &options(1),
    )
    .unwrap();
    let json = schema.to_json();
    let read = Schema::from_json(&json, Defaults::default()).unwrap();
    assert_eq!(read, schema);
    assert_eq!(read.to_json(), json);
    assert_eq!(
        Schema::from_json(b"", Defaults::default()).unwrap(),
        Schema::default()
    );
    let newer = Schema::from_json(br#"{"format":3,"else":1}"#, Defaults::default());
    assert!(newer.unwrap_err().to_string().contains("format 3"));
    for bad in [
        "{",
        "{}",
        r#"{"format":1}"#,
        r#"{"format":1,"deployments":[{}]}"#,
    ] {
        assert!(
            Schema::from_json(bad.as_bytes(), Defaults::default()).is_err(),
            "{bad}"
        );
    }
}

/// Nodes of other versions read what is stored: a change of these bytes is a change of the format.
#[test]
fn the_document_has_the_form_that_is_stored() {
    let services = json!([{"name": "a", "ty": "WORKFLOW", "retryPolicyMaxAttempts": 3, "handlers": [
        {"name": "run", "ty": "WORKFLOW", "workflowCompletionRetention": 1000, "output": {}}]}]);
    let (schema, _) = register(
        &Schema::default(),
        endpoint("http://x/", services),
        &options(1),
    )
    .unwrap();
    let json = String::from_utf8(schema.to_json()).unwrap();
    expect![[r#"{"format":1,"deployments":[{"id":"dp_101SZwviYzes2mjOamuMJWw","uri":"http://x/","protocol_type":"bidi-stream","http_version":"2","created_at_ms":1,"min_protocol_version":5,"max_protocol_version":7,"sdk_version":"sdk/1","services":[{"name":"a","kind":"workflow","revision":1,"public":true,"retry_max_attempts":3,"handlers":[{"name":"run","kind":"workflow","workflow_completion_retention_ms":1000,"input":["empty",{"content-type":"*/*"}],"output":{"set_if_empty":false}}]}]}]}"#]].assert_eq(&json);
}

#[test]
fn an_inactivity_timeout_that_cannot_hold_is_noted() {
    let service = json!([{"name": "a", "ty": "SERVICE", "inactivityTimeout": 5000, "handlers": [
        {"name": "h", "inactivityTimeout": 1000}, {"name": "i"}]}]);
    let mut discovered = endpoint("http://x/", service);
    discovered.manifest.protocol_mode = manifest::ProtocolMode::RequestResponse;
    let (schema, _) = register(&Schema::default(), discovered, &options(1)).unwrap();
    let deployment = schema.deployments().next().unwrap();
    let service = &deployment.services["a"];
    let text = |notes: Vec<crate::Note>| {
        let notes = notes
            .iter()
            .map(|note| format!("{} {note}", note.code().as_str()));
        notes.collect::<Vec<_>>()
    };
    let defaults = schema.defaults();
    assert_eq!(
        text(service.notes(deployment, defaults)),
        [
            "RT0021 The configured inactivity_timeout 5s will not be applied because the service is exposed in Request/Response mode."
        ]
    );
    assert_eq!(
        text(service.handlers["h"].notes(deployment, defaults)),
        [
            "RT0021 The configured inactivity_timeout 1s will not be applied because the handler is exposed in Request/Response mode."
        ]
    );
    assert!(service.handlers["i"].notes(deployment, defaults).is_empty());

    let mut old = deployment.clone();
    (old.min_protocol_version, old.max_protocol_version) = (1, 4);
    assert_eq!(old.notes()[0].code(), ErrorCode::Rt0020);
}
