#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{Defaults, Discovered, HttpVersion, RegisterOptions, register};
use abide_service_protocol::manifest;
use abide_types::DeploymentId;
use expect_test::expect;

fn with_a_service(defaults: Defaults) -> Schema {
    let body = r#"{"protocolMode":"BIDI_STREAM","minProtocolVersion":5,"maxProtocolVersion":7,
        "services":[{"name":"Cart","ty":"VIRTUAL_OBJECT","handlers":[{"name":"add"}]}]}"#;
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
    let empty = Schema::new([], defaults);
    register(&empty, discovered, &options).unwrap().0
}

fn cluster(name: &str, properties: &[(&str, &str)]) -> KafkaCluster {
    KafkaCluster {
        name: name.to_owned(),
        properties: owned(properties),
        created_at: Timestamp(5),
    }
}

fn owned(properties: &[(&str, &str)]) -> KafkaProperties {
    let properties = properties.iter();
    properties
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn subscription(id: u128, cluster: &str, handler: &str) -> Subscription {
    Subscription {
        id: SubscriptionId(id),
        cluster: cluster.to_owned(),
        topic: "orders".to_owned(),
        service: "Cart".to_owned(),
        handler: handler.to_owned(),
        options: owned(&[("auto.offset.reset", "earliest")]),
    }
}

#[test]
fn a_subscription_gets_a_group_and_a_name_and_comes_before_its_cluster() {
    let schema = with_a_service(Defaults::default())
        .add_kafka_cluster(cluster(
            "plain",
            &[
                ("bootstrap.servers", "a:1"),
                ("auto.offset.reset", "latest"),
            ],
        ))
        .unwrap()
        .add_kafka_cluster(cluster(
            "named",
            &[("metadata.broker.list", "b:1"), ("client.id", "shop")],
        ))
        .unwrap()
        .add_subscription(subscription(1, "plain", "add"))
        .unwrap()
        .add_subscription(subscription(2, "named", "add"))
        .unwrap();
    let shown: String = schema
        .subscriptions()
        .map(|known| {
            format!(
                "{} -> {} {:?}\n",
                known.source(),
                known.sink(),
                schema.consumer_properties(known)
            )
        })
        .collect();
    expect![[r#"
        kafka://plain/orders -> service://Cart/add Some({"auto.offset.reset": "earliest", "bootstrap.servers": "a:1", "client.id": "restate", "group.id": "sub_101SZwviYzes2mjOamuMJWw"})
        kafka://named/orders -> service://Cart/add Some({"auto.offset.reset": "earliest", "client.id": "shop", "group.id": "sub_103LZ30BX8sU4IDCkIZztT2", "metadata.broker.list": "b:1"})
    "#]]
    .assert_eq(&shown);
    let json = schema.to_json();
    assert_eq!(
        Schema::from_json(&json, Defaults::default()).unwrap(),
        schema
    );
    assert!(
        String::from_utf8(json)
            .unwrap()
            .starts_with(r#"{"format":2,"#)
    );
}

#[test]
fn clusters_of_the_file_hide_others_and_cannot_be_changed() {
    let brokers = [("bootstrap.servers", "a:1")];
    let defaults = Defaults {
        kafka_clusters: BTreeMap::from([("fixed".to_owned(), cluster("fixed", &brokers))]),
        ..Defaults::default()
    };
    let schema = with_a_service(defaults)
        .add_subscription(subscription(1, "fixed", "add"))
        .unwrap();
    let refused = [
        schema.add_kafka_cluster(cluster("fixed", &brokers)),
        schema.update_kafka_cluster("fixed", owned(&brokers)),
        schema.remove_kafka_cluster("fixed", true),
        schema.add_kafka_cluster(cluster("none", &[("client.id", "x")])),
    ];
    let refused: Vec<_> = refused
        .into_iter()
        .map(|refused| refused.unwrap_err())
        .collect();
    assert_eq!(
        refused,
        [
            KafkaClusterError::Hidden("fixed".to_owned()),
            KafkaClusterError::Configured("fixed".to_owned()),
            KafkaClusterError::Configured("fixed".to_owned()),
            KafkaClusterError::NoBrokers("none".to_owned()),
        ]
    );
    // What another node has in its file is not stored for all.
    let elsewhere = Schema::from_json(&schema.to_json(), Defaults::default()).unwrap();
    assert!(elsewhere.kafka_cluster("fixed").is_none());
    let orphan = elsewhere.subscriptions().next().unwrap();
    assert_eq!(elsewhere.consumer_properties(orphan), None);
}

#[test]
fn a_cluster_in_use_is_removed_by_force_only() {
    let brokers = [("bootstrap.servers", "a:1")];
    let schema = with_a_service(Defaults::default())
        .add_kafka_cluster(cluster("k", &brokers))
        .unwrap()
        .add_subscription(subscription(1, "k", "add"))
        .unwrap();
    assert_eq!(
        schema.remove_kafka_cluster("k", false),
        Err(KafkaClusterError::InUse {
            cluster: "k".to_owned(),
            subscription: SubscriptionId(1),
        })
    );
    let forced = schema.remove_kafka_cluster("k", true).unwrap();
    assert_eq!(forced.subscriptions().count(), 1);
    assert_eq!(forced.kafka_clusters().count(), 0);
    let gone = schema.remove_subscription(SubscriptionId(1)).unwrap();
    assert!(gone.remove_kafka_cluster("k", false).is_ok());
    assert_eq!(
        gone.remove_subscription(SubscriptionId(1)),
        Err(SubscriptionError::NothingToRemove(SubscriptionId(1)))
    );
    let unknown = schema.add_subscription(subscription(2, "k", "nope"));
    assert_eq!(
        unknown,
        Err(SubscriptionError::HandlerNotFound(
            "service://Cart/nope".to_owned()
        ))
    );
}

#[test]
fn what_looks_like_a_secret_is_one() {
    for secret in [
        "sasl.password",
        "PASSWORD",
        "x.secret",
        "sasl.username",
        "ssl.key.pem",
    ] {
        assert!(is_secret_property(secret), "{secret}");
    }
    for plain in [
        "sasl.mechanism",
        "ssl.ca.pem",
        "client.id",
        "ssl.certificate.pem",
    ] {
        assert!(!is_secret_property(plain), "{plain}");
    }
}

#[test]
fn what_this_build_cannot_connect_to_or_would_run_is_refused_when_it_is_registered() {
    let schema = with_a_service(Defaults::default());
    let try_with = |properties: &[(&str, &str)]| {
        let mut all = vec![("bootstrap.servers", "b:9092")];
        all.extend(properties);
        schema.add_kafka_cluster(cluster("c", &all))
    };
    for (properties, says) in [
        (&[("security.protocol", "SASL_SSL")][..], "sasl.mechanism"),
        (
            &[
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanisms", "OAUTHBEARER"),
            ],
            "sasl.mechanisms",
        ),
        (&[("plugin.library.paths", "/tmp/mine.so")], "run a program"),
        (&[("ssl.engine.location", "/tmp/mine.so")], "run a program"),
        (&[("sasl.kerberos.kinit.cmd", "rm")], "run a program"),
    ] {
        match try_with(properties) {
            Err(error @ KafkaClusterError::Unsupported { .. }) => {
                assert!(error.to_string().contains(says), "{error}");
            }
            other => panic!("{properties:?}: {other:?}"),
        }
    }
    for properties in [
        &[][..],
        &[("security.protocol", "plaintext")],
        &[("security.protocol", "SSL")],
        &[
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
        ],
        &[
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "PLAIN"),
        ],
    ] {
        let schema = try_with(properties).unwrap();
        let mut subscription = subscription(1, "c", "add");
        let options = owned(&[("plugin.library.paths", "/tmp/mine.so")]);
        subscription.options.extend(options);
        assert!(matches!(
            schema.add_subscription(subscription),
            Err(SubscriptionError::Unsupported(_))
        ));
    }
}
