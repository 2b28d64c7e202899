#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use abide_schema::{Defaults, Discovered, HttpVersion, RegisterOptions, Schema, register};
use abide_service_protocol::manifest;
use abide_types::{DeploymentId, Timestamp};

use super::*;

fn service(service: &Value) -> ServiceRevision {
    let body = json!({
        "protocolMode": "BIDI_STREAM", "minProtocolVersion": 5, "maxProtocolVersion": 7,
        "services": [service],
    });
    let manifest = manifest::read(manifest::Response {
        content_type: Some("application/vnd.restate.endpointmanifest.v4+json"),
        server: None,
        body: body.to_string().as_bytes(),
    });
    let discovered = Discovered {
        uri: "http://x/".to_owned(),
        additional_headers: BTreeMap::new(),
        metadata: BTreeMap::new(),
        http_version: HttpVersion::Http2,
        sdk_version: None,
        manifest: manifest.unwrap(),
    };
    let options = RegisterOptions {
        id: DeploymentId(1),
        at: Timestamp(0),
        force: false,
        breaking: false,
        routing_headers: &[],
    };
    let schema = Schema::new([], Defaults::default());
    let (schema, _) = register(&schema, discovered, &options).unwrap();
    let deployment = schema.deployments().next().unwrap();
    deployment.services.values().next().unwrap().clone()
}

fn operations(document: &Value) -> Vec<String> {
    let paths = document["paths"].as_object().unwrap();
    let lines = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| {
            let parameters = operation["parameters"].as_array().unwrap();
            let parameters: Vec<_> = parameters
                .iter()
                .map(|parameter| {
                    parameter["$ref"]
                        .as_str()
                        .unwrap()
                        .rsplit('/')
                        .next()
                        .unwrap()
                })
                .collect();
            let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
            let name = operation["operationId"].as_str().unwrap();
            format!("{method} {path} {name} {parameters:?} {statuses:?}")
        })
    });
    lines.collect()
}

#[test]
fn a_plain_service_is_described() {
    let service = service(
        &json!({"name": "greeter", "ty": "SERVICE", "documentation": "Greets.",
        "metadata": {"team": "x"},
        "handlers": [
            {"name": "greet", "documentation": "says hi",
                "input": {"required": true, "contentType": "application/json",
                    "jsonSchema": {"type": "object", "$defs": {"Name": {"type": "string"}},
                        "properties": {"name": {"$ref": "#/$defs/Name"}}}},
                "output": {"contentType": "application/json", "jsonSchema": true}},
            {"name": "hidden", "ingressPrivate": true},
        ]}),
    );
    let document = document(&service, Some("http://ingress:8080/"));
    assert_eq!(
        operations(&document),
        [
            r#"post /restate/call/greeter/greet greet ["idempotencyKeyHeader"] ["200", "default"]"#,
            r#"get /restate/invocation/greeter/greet/{idempotencyKey}/attach greetAttach ["idempotencyKeyPath"] ["200", "404", "default"]"#,
            r#"get /restate/invocation/greeter/greet/{idempotencyKey}/output greetOutput ["idempotencyKeyPath"] ["200", "404", "470", "default"]"#,
            r#"post /restate/send/greeter/greet greetSend ["idempotencyKeyHeader", "delay"] ["200", "202", "default"]"#,
        ]
    );
    assert_eq!(
        document["info"],
        json!({"title": "greeter", "version": "1", "description": "Greets.",
            "x-restate-extensions": {"team": "x"}})
    );
    assert_eq!(document["servers"][0]["url"], "http://ingress:8080/");
    let call = &document["paths"]["/restate/call/greeter/greet"]["post"];
    assert_eq!(call["description"], "says hi");
    assert_eq!(
        call["requestBody"],
        json!({"required": true,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/greetRequest"}}}})
    );
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["greetRequest"]["properties"]["name"]["$ref"],
        "#/components/schemas/greetRequest/$defs/Name"
    );
    assert_eq!(schemas["greetResponse"], json!({}));
}

#[test]
fn keyed_services_have_a_key_and_workflows_their_run() {
    let object = service(&json!({"name": "counter", "ty": "VIRTUAL_OBJECT",
        "handlers": [{"name": "add", "ty": "EXCLUSIVE", "input": {}, "output": {}}]}));
    let described = document(&object, None);
    assert_eq!(
        operations(&described),
        [
            r#"post /restate/call/counter/{key}/add add ["key", "idempotencyKeyHeader"] ["200", "default"]"#,
            r#"get /restate/invocation/counter/{key}/add/{idempotencyKey}/attach addAttach ["key", "idempotencyKeyPath"] ["200", "404", "default"]"#,
            r#"get /restate/invocation/counter/{key}/add/{idempotencyKey}/output addOutput ["key", "idempotencyKeyPath"] ["200", "404", "470", "default"]"#,
            r#"post /restate/send/counter/{key}/add addSend ["key", "idempotencyKeyHeader", "delay"] ["200", "202", "default"]"#,
        ]
    );
    let call = &described["paths"]["/restate/call/counter/{key}/add"]["post"];
    assert!(call.get("requestBody").is_none() && described.get("servers").is_none());
    assert_eq!(call["responses"]["200"], json!({"description": "Empty"}));

    let workflow = service(&json!({"name": "wf", "ty": "WORKFLOW",
        "handlers": [{"name": "run", "ty": "WORKFLOW"}, {"name": "see", "ty": "SHARED"}]}));
    assert_eq!(
        operations(&document(&workflow, None)),
        [
            r#"post /restate/call/wf/{key}/run run ["key"] ["200", "default"]"#,
            r#"post /restate/call/wf/{key}/see see ["key"] ["200", "default"]"#,
            r#"post /restate/send/wf/{key}/run runSend ["key", "delay"] ["200", "202", "default"]"#,
            r#"post /restate/send/wf/{key}/see seeSend ["key", "delay"] ["200", "202", "default"]"#,
            r#"get /restate/workflow/wf/{key}/attach runAttach ["key"] ["200", "404", "default"]"#,
            r#"get /restate/workflow/wf/{key}/output runOutput ["key"] ["200", "404", "470", "default"]"#,
        ]
    );
}
