#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use abide_schema::{Defaults, Discovered, HttpVersion, RegisterOptions, register};
use abide_service_protocol::manifest;
use abide_types::{SubscriptionId, Timestamp};
use expect_test::expect;

use super::*;

fn schema() -> Schema {
    let body = r#"{"protocolMode":"BIDI_STREAM","minProtocolVersion":5,"maxProtocolVersion":7,"services":[
        {"name":"Cart","ty":"VIRTUAL_OBJECT","handlers":[{"name":"add"}]},
        {"name":"Mail","ty":"SERVICE","handlers":[{"name":"send"}]}]}"#;
    let manifest = manifest::read(manifest::Response {
        content_type: Some("application/vnd.restate.endpointmanifest.v4+json"),
        server: None,
        body: body.as_bytes(),
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
        at: Timestamp(1),
        force: false,
        breaking: false,
        routing_headers: &[],
    };
    register(&Schema::new([], Defaults::default()), discovered, &options)
        .unwrap()
        .0
}

fn subscription(service: &str, handler: &str) -> Subscription {
    Subscription {
        id: SubscriptionId(7),
        cluster: "k".to_owned(),
        topic: "orders".to_owned(),
        service: service.to_owned(),
        handler: handler.to_owned(),
        options: BTreeMap::new(),
    }
}

fn record(key: Option<&'static [u8]>) -> Record {
    Record {
        partition: 3,
        offset: 41,
        timestamp: Some(1_795_261_127_039),
        key: key.map(Bytes::from_static),
        value: Bytes::from_static(b"one"),
        trace: None,
    }
}

#[test]
fn a_handler_sees_where_its_record_was() {
    let cart = subscription("Cart", "add");
    let produced = record(Some(b"k1"))
        .invocation(&cart, b"p", &schema())
        .unwrap();
    assert_eq!(produced.position, 42);
    assert_eq!(produced.invocation.target.to_string(), "Cart/k1/add");
    assert_eq!(produced.invocation.input, "one");
    let headers: String = (produced.invocation.headers.iter())
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    let headers = headers.replace(&cart.id.to_string(), "SUB");
    expect![[r#"
        restate.subscription.id: SUB
        kafka.topic: orders
        kafka.partition: 3
        kafka.offset: 41
        kafka.timestamp: 1795261127039
        kafka.key: azE=
    "#]]
    .assert_eq(&headers);
}

#[test]
fn a_record_is_the_same_invocation_whoever_reads_it() {
    let schema = schema();
    for subscription in [subscription("Cart", "add"), subscription("Mail", "send")] {
        let id = |record: Record, producer: &[u8]| {
            let produced = record.invocation(&subscription, producer, &schema).unwrap();
            produced.invocation.id
        };
        let first = id(record(Some(b"k")), b"p");
        assert_eq!(first, id(record(Some(b"k")), b"p"));
        assert_ne!(first, id(record(Some(b"k")), b"q"));
        let next = Record {
            offset: 42,
            ..record(Some(b"k"))
        };
        assert_ne!(first, id(next, b"p"));
    }
}

#[test]
fn keys_are_for_keyed_services() {
    let schema = schema();
    let cart = subscription("Cart", "add");
    let target = |subscription: &Subscription, key| {
        let produced = record(key).invocation(subscription, b"p", &schema)?;
        Ok::<_, Refused>(produced.invocation.target.to_string())
    };
    assert_eq!(target(&cart, None).unwrap(), "Cart//add");
    assert!(matches!(
        target(&cart, Some(b"\xff\xfe")),
        Err(Refused::Key(_))
    ));
    let mail = subscription("Mail", "send");
    assert_eq!(target(&mail, Some(b"\xff\xfe")).unwrap(), "Mail/send");
    let gone = subscription("Mail", "gone");
    assert!(matches!(target(&gone, None), Err(Refused::Resolve(_))));
}

#[test]
fn producers_are_told_apart() {
    let cart = subscription("Cart", "add");
    let ids = [
        producer(&cart, "g", 0),
        producer(&cart, "g", 1),
        producer(&cart, "h", 0),
        producer(
            &Subscription {
                id: SubscriptionId(8),
                ..cart.clone()
            },
            "g",
            0,
        ),
        producer(
            &Subscription {
                topic: "others".to_owned(),
                ..cart.clone()
            },
            "g",
            0,
        ),
    ];
    for (index, id) in ids.iter().enumerate() {
        assert!(!ids[..index].contains(id));
    }
    assert_eq!(ids[0], producer(&cart, "g", 0));
}
