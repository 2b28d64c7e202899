//! A schema for tests: a service, a private one, an object, a workflow and one whose SDK is too old.

use std::collections::BTreeMap;

use abide_schema::{
    Defaults, Deployment, Handler, HttpVersion, InputRules, OutputRule, Overrides, ProtocolType,
    Schema, ServiceRevision,
};
use abide_types::{DeploymentId, HandlerKind, ServiceKind, Timestamp};

fn handler(name: &str, kind: HandlerKind) -> (String, Handler) {
    let content_type = "application/json".parse().ok();
    let handler = Handler {
        name: name.to_owned(),
        kind,
        public: None,
        documentation: None,
        metadata: BTreeMap::new(),
        overrides: Overrides::default(),
        input: InputRules::of_manifest(false, content_type, None),
        output: OutputRule::default(),
    };
    (name.to_owned(), handler)
}

fn service(
    name: &str,
    kind: ServiceKind,
    public: bool,
    handlers: &[(&str, HandlerKind)],
) -> (String, ServiceRevision) {
    let service = ServiceRevision {
        name: name.to_owned(),
        kind,
        revision: 1,
        public,
        documentation: None,
        metadata: BTreeMap::new(),
        overrides: Overrides::default(),
        handlers: handlers
            .iter()
            .map(|(name, kind)| handler(name, *kind))
            .collect(),
    };
    (name.to_owned(), service)
}

fn deployment(
    id: u128,
    max_protocol_version: u32,
    services: impl IntoIterator<Item = (String, ServiceRevision)>,
) -> Deployment {
    Deployment {
        id: DeploymentId(id),
        uri: format!("http://endpoint-{id}/"),
        protocol_type: ProtocolType::BidiStream,
        http_version: HttpVersion::Http2,
        additional_headers: BTreeMap::new(),
        metadata: BTreeMap::new(),
        created_at: Timestamp(0),
        min_protocol_version: 1,
        max_protocol_version,
        sdk_version: None,
        services: services.into_iter().collect(),
    }
}

pub(crate) fn schema() -> Schema {
    use HandlerKind::{Exclusive, Plain, Shared, Workflow};
    let current = [
        service(
            "greeter",
            ServiceKind::Service,
            true,
            &[("greet", Plain), ("send", Plain)],
        ),
        service("priv", ServiceKind::Service, false, &[("hi", Plain)]),
        service(
            "counter",
            ServiceKind::VirtualObject,
            true,
            &[("add", Exclusive), ("get", Shared)],
        ),
        service(
            "wf",
            ServiceKind::Workflow,
            true,
            &[("run", Workflow), ("peek", Shared)],
        ),
    ];
    let old = [service("old", ServiceKind::Service, true, &[("hi", Plain)])];
    Schema::new(
        [deployment(1, 7, current), deployment(2, 4, old)],
        Defaults::default(),
    )
}
