//! Bad input gets an answer that says what is wrong, and never ends a node.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use abide_test_cluster::{Api, Cluster, Language, Options, Services};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest body that the tests' cluster takes.
const BODY_BYTES_MAX: usize = 1 << 20;
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

struct World {
    cluster: Cluster,
    api: Api,
    _services: Services,
}

async fn world() -> World {
    let services = Services::start(Language::Rust).await;
    let options = Options {
        config: "networking.message-size-limit = \"1 MiB\"".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start(1, options).await;
    cluster.register(&services.uri()).await;
    World {
        api: cluster.api().clone(),
        cluster,
        _services: services,
    }
}

impl World {
    async fn ingress(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.cluster.ingress(0));
        self.ask(method, &url, headers, body).await
    }

    async fn admin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.cluster.admin(0));
        self.ask(method, &url, headers, body).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let answer = self
            .api
            .request(method, url, headers, body.to_owned())
            .await
            .unwrap();
        (answer.status.as_u16(), answer.json())
    }
}

#[track_caller]
fn expect(answer: &(u16, Value), status: u16, message: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    let text = answer.1.to_string();
    assert!(text.contains(message), "{message:?} is not in {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingress_says_what_is_wrong() {
    let mut world = world().await;
    let post = Method::POST;

    let answer = world.ingress(post.clone(), "/Nope/hi", JSON, "1").await;
    expect(&answer, 404, "service 'Nope' not found");
    let answer = world
        .ingress(post.clone(), "/RustBasics/nope", JSON, "1")
        .await;
    expect(&answer, 404, "the handler 'nope' was not found");
    let answer = world.ingress(post.clone(), "/", JSON, "1").await;
    expect(&answer, 400, "bad path");
    let answer = world
        .ingress(post.clone(), "/a/b/c/d/e/f/g/h/i/j", JSON, "1")
        .await;
    expect(&answer, 400, "bad path");
    let answer = world
        .ingress(post.clone(), "/RustStore/%ff/count", JSON, "1")
        .await;
    expect(&answer, 400, "cannot decode key");
    let answer = world
        .ingress(Method::PUT, "/RustBasics/echo", JSON, "\"x\"")
        .await;
    expect(&answer, 405, "method not allowed");
    let text = [("content-type", "text/plain")];
    let answer = world
        .ingress(post.clone(), "/RustBasics/echo", &text, "x")
        .await;
    expect(
        &answer,
        400,
        "input validation error: Content-type 'text/plain' does not match",
    );
    let answer = world
        .ingress(
            post.clone(),
            "/RustBasics/echo/send?delay=soon",
            JSON,
            "\"x\"",
        )
        .await;
    expect(&answer, 400, "bad delay query parameter");
    let answer = world
        .ingress(post.clone(), "/RustBasics/echo?delay=1s", JSON, "\"x\"")
        .await;
    expect(
        &answer,
        400,
        "cannot use the delay query parameter with calls",
    );
    let keyed = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let answer = world
        .ingress(post.clone(), "/RustFlow/w/run", &keyed, "\"x\"")
        .await;
    expect(
        &answer,
        400,
        "cannot use the idempotency key with workflow handlers",
    );
    let answer = world.ingress(post, "/restate/nope", JSON, "1").await;
    expect(&answer, 404, "not found");
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ids_are_refused() {
    let mut world = world().await;
    let unknown = "inv_1aVxz5VnrTfW74EXtlccSr4S3ip54ZhTIY";
    for id in [
        "x",
        "inv_",
        "inv_1",
        "inv_2abc",
        "inv_1$$$",
        "dp_15lNk3dHh4I0P0CdYbUf9jr",
        &"inv_1".repeat(500),
    ] {
        let answer = world
            .ingress(Method::GET, &format!("/restate/attach/{id}"), &[], "")
            .await;
        expect(&answer, 400, "bad invocation id");
        let answer = world
            .admin(Method::PATCH, &format!("/invocations/{id}/kill"), &[], "")
            .await;
        expect(&answer, 400, "invocation_id");
    }
    let answer = world
        .ingress(Method::GET, &format!("/restate/output/{unknown}"), &[], "")
        .await;
    expect(&answer, 404, "invocation not found");
    let answer = world
        .ingress(Method::GET, &format!("/restate/attach/{unknown}"), &[], "")
        .await;
    expect(&answer, 404, "not found");
    let answer = world
        .admin(
            Method::PATCH,
            &format!("/invocations/{unknown}/cancel"),
            &[],
            "",
        )
        .await;
    expect(&answer, 404, "does not exist");
    for id in ["x", "sign_1", "sign_1!!!!", "prom_1AAAA"] {
        let answer = world
            .ingress(
                Method::POST,
                &format!("/restate/awakeables/{id}/resolve"),
                JSON,
                "1",
            )
            .await;
        expect(&answer, 400, "bad awakeable id");
    }
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_bodies_are_refused() {
    let mut world = world().await;
    let large = json!("x".repeat(BODY_BYTES_MAX + 10)).to_string();
    let url = format!("{}/RustBasics/echo", world.cluster.ingress(0));
    // A server may close the connection before it has read all, so no answer is an answer too.
    if let Ok(answer) = world.api.request(Method::POST, &url, JSON, large).await {
        assert_eq!(answer.status.as_u16(), 413, "{}", answer.text());
    }
    let fits = json!("x".repeat(BODY_BYTES_MAX / 4));
    let answer = world.cluster.call(0, "RustBasics/echo", &fits).await;
    assert_eq!(answer.expect_success(), fits);
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_says_what_is_wrong() {
    let mut world = world().await;
    let post = Method::POST;
    for body in ["", "{", "[1,", "\"uri\"", "{\"uri\": 5}", "{}", "\u{0}"] {
        let (status, text) = world.admin(post.clone(), "/deployments", JSON, body).await;
        assert!((400..500).contains(&status), "{body:?}: {status} {text}");
    }
    let deep = "[".repeat(100_000);
    let (status, _) = world.admin(post.clone(), "/deployments", JSON, &deep).await;
    assert!((400..500).contains(&status), "{status}");
    let (status, text) = world
        .admin(
            post.clone(),
            "/deployments",
            &[("content-type", "text/plain")],
            "{}",
        )
        .await;
    assert_eq!(status, 415, "{text}");
    let answer = world
        .admin(
            post.clone(),
            "/deployments",
            JSON,
            "{\"uri\": \"not a uri\"}",
        )
        .await;
    assert!((400..500).contains(&answer.0), "{answer:?}");
    // Nobody listens at the discard port.
    let answer = world
        .admin(
            post.clone(),
            "/deployments",
            JSON,
            "{\"uri\": \"http://127.0.0.1:9\"}",
        )
        .await;
    expect(&answer, 500, "META0003");
    let answer = world
        .admin(Method::GET, "/deployments/dp_1nonsense", &[], "")
        .await;
    assert!([400, 404].contains(&answer.0), "{answer:?}");
    let answer = world.admin(Method::GET, "/services/Nope", &[], "").await;
    expect(&answer, 404, "The requested service 'Nope' does not exist");
    let answer = world
        .admin(Method::GET, "/services/RustBasics/handlers/nope", &[], "")
        .await;
    expect(&answer, 404, "The requested handler 'nope'");
    let (status, _) = world.admin(Method::GET, "/no/such/path", &[], "").await;
    assert_eq!(status, 404);
    let (status, _) = world.admin(Method::DELETE, "/version", &[], "").await;
    assert_eq!(status, 405);
    world.cluster.assert_healthy();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_any_port_ends_nothing() {
    let mut world = world().await;
    let noise: Vec<u8> = (0..200_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut preface = b"ABIDEFB1".to_vec();
    preface.extend_from_slice(&noise[..1000]);
    let mut huge = b"ABIDEFB1".to_vec();
    huge.extend_from_slice(&[0xFF; 64]);
    let greetings: Vec<Vec<u8>> = vec![
        Vec::new(),
        noise.clone(),
        vec![0; 100_000],
        preface,
        huge,
        b"ABIDE".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"GET /\xff\xfe HTTP/1.1\r\nhost: \x00\r\n\r\n".to_vec(),
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    let addresses = [
        world.cluster.node_address(0),
        world.cluster.ingress(0).replace("http://", ""),
        world.cluster.admin(0).replace("http://", ""),
    ];
    for address in &addresses {
        for greeting in &greetings {
            say(address, greeting).await;
        }
    }
    let answer = world
        .cluster
        .call(0, "RustBasics/echo", &json!("alive"))
        .await;
    assert_eq!(answer.expect_success(), json!("alive"));
    world.cluster.assert_healthy();
}

/// Says something to a port, and waits a moment for what comes back.
async fn say(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may hang up while it is still being told nonsense.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut answer)).await;
}
