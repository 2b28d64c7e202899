//! Anything at any port, and any text for SQL: a node refuses it and goes on, in bounded memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use abide_test_cluster::{Cluster, Options};
use http::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections to each port.
const CONNECTIONS: usize = 200;
const STATEMENTS: usize = 300;
/// How much more memory a node may hold afterwards, in bytes.
const GROWTH_MAX: u64 = 256 << 20;
const SEED: u64 = 20;

/// The first bytes that tell protocols apart on a port.
const OPENINGS: [&[u8]; 9] = [
    b"",
    b"ABIDEFB1",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"POST /Greeter/greet HTTP/1.1\r\nhost: a\r\ncontent-length: ",
    b"POST /Greeter/greet HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffff",
    b"POST /restate/awakeables/sign_1AAAA/resolve HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /deployments HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{\"uri\":",
    b"GET /restate/invocation/inv_1",
];

fn garbage(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = OPENINGS.choose(random).unwrap().to_vec();
    match random.random_range(0..3) {
        0 => {}
        // What announces the most that a length field can.
        1 => bytes.extend([0xff; 9]),
        _ => {
            let length = random.random_range(0..2000);
            bytes.extend((0..length).map(|_| random.random::<u8>()));
        }
    }
    bytes
}

async fn say(address: &str, bytes: &[u8]) {
    let conversation = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut answer = [0; 1024];
        while stream.read(&mut answer).await? > 0 {}
        std::io::Result::Ok(())
    };
    // A node may let a silent peer wait; what it may not do is end.
    let _ = tokio::time::timeout(Duration::from_millis(300), conversation).await;
}

fn resident_bytes(cluster: &Cluster) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.id(0).unwrap())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    kilobytes << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_at_any_port_is_refused() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let before = resident_bytes(&cluster);
    let mut random = StdRng::seed_from_u64(SEED);
    let without_scheme = |url: String| url.replace("http://", "");
    for address in [
        cluster.node_address(0),
        without_scheme(cluster.ingress(0)),
        without_scheme(cluster.admin(0)),
    ] {
        for _ in 0..CONNECTIONS / 20 {
            let said = (0..20).map(|_| garbage(&mut random)).collect::<Vec<_>>();
            futures::future::join_all(said.iter().map(|bytes| say(&address, bytes))).await;
        }
    }
    cluster.wait_until_node_serves(0).await;
    cluster.assert_healthy();
    let after = resident_bytes(&cluster);
    assert!(
        after < before + GROWTH_MAX,
        "from {before} to {after} bytes"
    );
}

const WORDS: [&str; 60] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "AS",
    "WITH",
    "RECURSIVE",
    "UNION ALL",
    "VALUES",
    "(",
    ")",
    ",",
    "*",
    "=",
    "<>",
    "<",
    "LIKE",
    "IN",
    "BETWEEN",
    "AND",
    "OR",
    "NOT",
    "NULL",
    "IS",
    "CASE WHEN",
    "THEN",
    "END",
    "count",
    "max",
    "sum",
    "cast",
    "1",
    "0",
    "-9223372036854775808",
    "1e308",
    "'x'",
    "'inv_1'",
    "\"",
    "'",
    "--",
    ";",
    "sys_invocation",
    "sys_journal",
    "state",
    "sys_inbox",
    "sys_service",
    "id",
    "index",
    "partition_key",
    "status",
    "target",
    "created_at",
    "INSERT INTO",
    "DROP TABLE",
    "EXPLAIN",
];

const STATEMENTS_THAT_MEAN_SOMETHING: [&str; 10] = [
    "SELECT * FROM sys_invocation WHERE id = 'inv_1'",
    "SELECT * FROM sys_invocation WHERE id IN ('', 'inv_1', 'x')",
    "SELECT * FROM sys_journal WHERE id = '' AND index < -1",
    "SELECT count(*) FROM sys_invocation a, sys_invocation b, sys_journal c",
    "SELECT * FROM state WHERE partition_key = 18446744073709551615",
    "SELECT partition_key / 0 FROM sys_invocation",
    "SELECT repeat('x', 1000000000)",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT count(*) FROM n",
    "CREATE TABLE t AS SELECT 1",
    "SET datafusion.execution.batch_size = 0",
];

fn statement(random: &mut StdRng, number: usize) -> String {
    if let Some(statement) = STATEMENTS_THAT_MEAN_SOMETHING.get(number) {
        return (*statement).to_owned();
    }
    let words = random.random_range(1..15);
    let mut statement = String::new();
    if random.random_bool(0.7) {
        statement.push_str("SELECT * FROM sys_invocation ");
    }
    for _ in 0..words {
        statement.push_str(WORDS.choose(random).unwrap());
        statement.push(' ');
    }
    if random.random_bool(0.1) {
        statement.extend(std::iter::repeat_n('(', 3000));
    }
    statement
}

#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_answered_as_sql() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let before = resident_bytes(&cluster);
    let mut random = StdRng::seed_from_u64(SEED);
    let url = format!("{}/query", cluster.admin(0));
    for number in 0..STATEMENTS {
        let statement = statement(&mut random, number);
        let body = json!({ "query": statement }).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        let answer = cluster
            .api()
            .request(Method::POST, &url, &headers, body)
            .await;
        let answer = answer.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        assert!(
            answer.status.is_success() || answer.json()["message"].is_string(),
            "{statement}: {} {}",
            answer.status,
            answer.text()
        );
    }
    cluster.assert_healthy();
    let after = resident_bytes(&cluster);
    assert!(
        after < before + GROWTH_MAX,
        "from {before} to {after} bytes"
    );
}
