//! Every record is taken once, whatever is killed while it is on its way.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use abide_test_kafka::{Broker, Endpoint, Producer, Record};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const RECORDS: u64 = 2000;
const KEYS: u64 = 20;
const WITHIN: Duration = Duration::from_secs(120);
/// Records are written at this pace, so that all kills come while some are on their way.
const PAUSE: Duration = Duration::from_millis(4);

/// Writes all records, each key the same number of times, and counts those that are written.
fn write_all(address: &str, written: Arc<AtomicU64>) -> JoinHandle<()> {
    let producer = Producer::new(address);
    tokio::spawn(async move {
        let mut under_way = tokio::task::JoinSet::new();
        for number in 0..RECORDS {
            let (producer, written) = (producer.clone(), Arc::clone(&written));
            under_way.spawn(async move {
                let key = format!("key-{}", number % KEYS);
                let record = Record {
                    topic: "counted",
                    key: Some(key.as_bytes()),
                    value: Some(b"1"),
                    ..Record::default()
                };
                producer.write(record).await;
                written.fetch_add(1, Ordering::Relaxed);
            });
            tokio::time::sleep(PAUSE).await;
        }
        under_way.join_all().await;
    })
}

async fn wait_until_written(written: &AtomicU64, count: u64) {
    let deadline = Instant::now() + WITHIN;
    while written.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < deadline, "records are not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many records each key's object has counted, and how many of them out of order.
async fn counted(cluster: &Cluster) -> (Vec<u64>, u64) {
    let (mut counts, mut disorder) = (Vec::new(), 0);
    for key in 0..KEYS {
        let url = format!("{}/Counter/key-{key}/counted", cluster.ingress(0));
        let answer = cluster.api().post_empty(&url).await.expect_success();
        counts.push(answer[0].as_u64().unwrap());
        disorder += answer[1].as_u64().unwrap();
    }
    (counts, disorder)
}

/// The sum of a counter over all nodes.
async fn sum(cluster: &Cluster, name: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..cluster.len() {
        let url = format!("{}/metrics", cluster.admin(node));
        let text = cluster.api().get(&url).await.text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        sum += values.sum::<f64>();
    }
    sum
}

async fn restart(cluster: &mut Cluster, nodes: &[usize]) {
    for node in nodes {
        cluster.start_node(*node);
    }
    for node in nodes {
        cluster.wait_until_node_serves(*node).await;
    }
}

async fn create(cluster: &Cluster, path: &str, body: Value) {
    let url = format!("{}/{path}", cluster.admin(0));
    cluster.api().post(&url, &body).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_nodes_and_brokers_neither_lose_nor_double_a_record() {
    let options = Options::default();
    let (mut broker, endpoint, mut cluster) = tokio::join!(
        Broker::start(),
        Endpoint::start(),
        Cluster::start(3, options)
    );
    broker.create_topic("counted", 6).await;
    cluster.register(&endpoint.uri()).await;
    let properties = json!({ "bootstrap.servers": broker.address() });
    let body = json!({ "name": "k", "properties": properties });
    create(&cluster, "kafka-clusters", body).await;
    // Offsets are committed so rarely that whoever reads on after a kill reads much again.
    let body = json!({
        "source": "kafka://k/counted",
        "sink": "service://Counter/add",
        "options": {
            "auto.offset.reset": "earliest",
            "session.timeout.ms": "6000",
            "auto.commit.interval.ms": "60000",
        },
    });
    create(&cluster, "subscriptions", body).await;

    let start = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let writing = write_all(&broker.address(), Arc::clone(&written));
    wait_until_written(&written, RECORDS / 4).await;
    println!("{:?}: kill -9 of a node", start.elapsed());
    cluster.kill(1);
    wait_until_written(&written, RECORDS / 2).await;
    println!("{:?}: kill -9 of the broker", start.elapsed());
    broker.kill();
    restart(&mut cluster, &[1]).await;
    broker.start_again();
    wait_until_written(&written, RECORDS * 3 / 4).await;
    println!("{:?}: kill -9 of all nodes", start.elapsed());
    for node in 0..3 {
        cluster.kill(node);
    }
    restart(&mut cluster, &[0, 1, 2]).await;
    println!("{:?}: all nodes serve again", start.elapsed());
    writing.await.unwrap();

    let expected = vec![RECORDS / KEYS; KEYS as usize];
    let deadline = Instant::now() + WITHIN;
    loop {
        let (counts, disorder) = counted(&cluster).await;
        assert_eq!(disorder, 0, "records of a key changed places");
        if counts == expected {
            break;
        }
        let doubled = counts
            .iter()
            .zip(&expected)
            .any(|(count, right)| count > right);
        assert!(!doubled, "records were taken twice: {counts:?}");
        assert!(Instant::now() < deadline, "records are missing: {counts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{:?}: all records are counted", start.elapsed());

    // What was read again is known to have been, and nothing more comes of it.
    let repetitions = sum(&cluster, "abide_kafka_ingress_repetitions_total").await;
    println!("{repetitions} records were read again and refused");
    assert!(repetitions > 0.0);
    cluster.kill(2);
    restart(&mut cluster, &[2]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(counted(&cluster).await, (expected, 0));
    cluster.assert_healthy();
}
