//! What records become, and what is done about those that can become nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use abide_test_kafka::{Broker, Endpoint, PASSWORD, Producer, Record, Seen, USER};
use serde_json::json;
use tokio::sync::Mutex;

const WITHIN: Duration = Duration::from_secs(60);

/// Brokers and clusters take all of a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits until so many were seen; panics when it takes too long or there are more.
async fn wait_for(endpoint: &Endpoint, body: &str, count: usize) -> Vec<Seen> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = endpoint.seen(body);
        assert!(seen.len() <= count, "too many of {body}: {seen:?}");
        if seen.len() == count {
            return seen;
        }
        assert!(Instant::now() < deadline, "{body}: only {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the node has printed `words`, however they are capitalized.
async fn until_printed(cluster: &Cluster, words: &str) {
    let deadline = Instant::now() + WITHIN;
    while !cluster.output(0).to_lowercase().contains(words) {
        let output = cluster.output(0);
        assert!(Instant::now() < deadline, "'{words}' not in:\n{output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn subscribe(cluster: &Cluster, source: &str, sink: &str) -> String {
    let url = format!("{}/subscriptions", cluster.admin(0));
    let body = json!({
        "source": format!("kafka://{source}"),
        "sink": format!("service://{sink}"),
        "options": { "auto.offset.reset": "earliest", "session.timeout.ms": "6000" },
    });
    let answer = cluster.api().post(&url, &body).await.expect_success();
    answer["id"].as_str().unwrap().to_owned()
}

fn record<'a>(topic: &'a str, key: Option<&'a str>, value: &'a str) -> Record<'a> {
    Record {
        topic,
        key: key.map(str::as_bytes),
        value: Some(value.as_bytes()),
        ..Record::default()
    }
}

/// The value of a metric of one partition of a topic.
async fn metric(cluster: &Cluster, name: &str, topic: &str, partition: i32) -> Option<f64> {
    let text = cluster
        .api()
        .get(&format!("{}/metrics", cluster.admin(0)))
        .await
        .text();
    let labels = [
        format!("topic=\"{topic}\""),
        format!("partition=\"{partition}\""),
    ];
    let line = text.lines().find(|line| {
        line.starts_with(name) && labels.iter().all(|label| line.contains(label.as_str()))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_become_invocations_of_every_kind_of_handler() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (one, other, endpoint) = tokio::join!(Broker::start(), Broker::start(), Endpoint::start());
    one.create_topic("orders", 2).await;
    other.create_topic("letters", 1).await;
    let config = Options {
        ingress: format!(
            "kafka-clusters = [{{ name = \"fixed\", brokers = [\"{}\"] }}]",
            other.address()
        ),
        ..Options::default()
    };
    let cluster = Cluster::start(1, config).await;
    cluster.register(&endpoint.uri()).await;
    let clusters = format!("{}/kafka-clusters", cluster.admin(0));
    let properties = json!({ "bootstrap.servers": one.address() });
    let body = json!({ "name": "registered", "properties": properties });
    cluster.api().post(&clusters, &body).await.expect_success();

    let to_plain = subscribe(&cluster, "registered/orders", "Plain/take").await;
    subscribe(&cluster, "registered/orders", "Keyed/take").await;
    subscribe(&cluster, "registered/orders", "Flow/run").await;
    subscribe(&cluster, "fixed/letters", "Plain/take").await;

    let producer = Producer::new(&one.address());
    let (partition, offset) = producer
        .write(Record {
            headers: &[("shade", "blue")],
            ..record("orders", Some("k1"), "first")
        })
        .await;
    // To a service, an object and a workflow.
    let seen = wait_for(&endpoint, "first", 3).await;
    let plain = seen.iter().find(|seen| seen.key.is_none()).unwrap();
    let mut headers = plain.headers.clone();
    let timestamp = headers.remove("kafka.timestamp").unwrap();
    assert!(timestamp.parse::<u64>().unwrap() > 1_700_000_000_000);
    let expected = [
        ("restate.subscription.id", to_plain.clone()),
        ("kafka.topic", "orders".to_owned()),
        ("kafka.partition", partition.to_string()),
        ("kafka.offset", offset.to_string()),
        ("kafka.key", "azE=".to_owned()),
    ];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    assert_eq!(headers, expected);
    let keys: Vec<_> = seen.iter().filter_map(|seen| seen.key.as_deref()).collect();
    assert_eq!(keys, ["k1", "k1"]);

    // A workflow runs once for its key; the object and the service take every record.
    producer.write(record("orders", Some("k1"), "second")).await;
    wait_for(&endpoint, "second", 2).await;
    // Without a key the key is empty.
    producer.write(record("orders", None, "keyless")).await;
    let seen = wait_for(&endpoint, "keyless", 3).await;
    let keys: Vec<_> = seen.iter().filter_map(|seen| seen.key.as_deref()).collect();
    assert_eq!(keys, ["", ""]);
    // The other broker's cluster is in the file.
    let letters = Producer::new(&other.address());
    letters.write(record("letters", None, "dear")).await;
    wait_for(&endpoint, "dear", 1).await;

    // Other properties start the consumers again, and nothing is taken twice.
    let properties = json!({ "bootstrap.servers": one.address(), "fetch.wait.max.ms": "50" });
    let body = json!({ "properties": properties }).to_string();
    let json = [("content-type", "application/json")];
    let patched = cluster
        .api()
        .request(
            "PATCH".parse().unwrap(),
            &format!("{clusters}/registered"),
            &json,
            body,
        )
        .await;
    patched.unwrap().expect_success();
    producer.write(record("orders", Some("k2"), "third")).await;
    wait_for(&endpoint, "third", 3).await;

    // What is not subscribed any more is not taken any more.
    let url = format!("{}/subscriptions/{to_plain}", cluster.admin(0));
    let deleted = cluster
        .api()
        .request("DELETE".parse().unwrap(), &url, &[], "")
        .await;
    assert_eq!(deleted.unwrap().status, 202);
    tokio::time::sleep(Duration::from_millis(300)).await;
    producer.write(record("orders", Some("k3"), "fourth")).await;
    wait_for(&endpoint, "fourth", 2).await;
    for (body, count) in [("first", 3), ("second", 2), ("keyless", 3), ("third", 3)] {
        assert_eq!(endpoint.seen(body).len(), count, "{body}");
    }
    let url = format!("{clusters}/registered?include_subscriptions=true");
    let shown = cluster.api().get(&url).await.expect_success();
    assert_eq!(
        shown["subscriptions"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_tls_and_passwords_is_read_by_who_has_one() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (broker, endpoint) = tokio::join!(Broker::start(), Endpoint::start());
    broker.create_topic("secrets", 1).await;
    let cluster = Cluster::start(1, Options::default()).await;
    cluster.register(&endpoint.uri()).await;
    let clusters = format!("{}/kafka-clusters", cluster.admin(0));
    let properties = |password: &str| {
        json!({
            "bootstrap.servers": broker.secure_address(),
            "security.protocol": "sasl_ssl",
            "ssl.ca.pem": broker.certificate(),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": password,
        })
    };
    let body = json!({ "name": "locked", "properties": properties("a guess") });
    cluster.api().post(&clusters, &body).await.expect_success();
    subscribe(&cluster, "locked/secrets", "Plain/take").await;
    until_printed(&cluster, "authentication").await;

    let producer = Producer::new(&broker.address());
    producer.write(record("secrets", None, "for alice")).await;
    assert!(endpoint.seen("for alice").is_empty());
    let body = json!({ "properties": properties(PASSWORD) }).to_string();
    let json = [("content-type", "application/json")];
    let url = format!("{clusters}/locked");
    let patched = cluster
        .api()
        .request("PATCH".parse().unwrap(), &url, &json, body);
    let shown = patched.await.unwrap().expect_success().to_string();
    assert!(!shown.contains(PASSWORD), "{shown}");
    wait_for(&endpoint, "for alice", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_become_nothing_holds_up_its_partition_and_says_so() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (broker, endpoint) = tokio::join!(Broker::start(), Endpoint::start());
    broker.create_topic("mixed", 2).await;
    let mut cluster = Cluster::start(1, Options::default()).await;
    cluster.register(&endpoint.uri()).await;
    let body = json!({ "name": "k", "properties": { "bootstrap.servers": broker.address() } });
    let url = format!("{}/kafka-clusters", cluster.admin(0));
    cluster.api().post(&url, &body).await.expect_success();
    subscribe(&cluster, "k/mixed", "Keyed/take").await;

    let producer = Producer::new(&broker.address());
    let at = |partition, key, value| Record {
        topic: "mixed",
        partition: Some(partition),
        key: Some(key),
        value: Some(value),
        ..Record::default()
    };
    producer.write(at(0, b"a", b"before")).await;
    wait_for(&endpoint, "before", 1).await;
    let (_, poison) = producer.write(at(0, b"\xff\xfe", b"poison")).await;
    producer.write(at(0, b"a", b"behind")).await;
    producer.write(at(1, b"b", b"beside")).await;
    wait_for(&endpoint, "beside", 1).await;
    let deadline = Instant::now() + WITHIN;
    while metric(&cluster, "abide_kafka_ingress_blocked", "mixed", 0).await != Some(1.0) {
        assert!(Instant::now() < deadline, "nothing tells of the record");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_printed(&cluster, "not utf-8").await;
    assert_eq!(endpoint.seen("behind"), []);

    // An operator deletes it from the topic.
    broker.delete_records("mixed", 0, poison + 1).await;
    wait_for(&endpoint, "behind", 1).await;
    let blocked = metric(&cluster, "abide_kafka_ingress_blocked", "mixed", 0).await;
    assert_eq!(blocked, Some(0.0));
    assert_eq!(endpoint.seen("poison"), []);
    cluster.assert_healthy();
}
