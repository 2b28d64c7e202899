//! Endpoints that speak HTTP/1.1.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abide_schema::HttpVersion;
use abide_service_protocol::{MessageType, RawEntry};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const DONE: &str = "pinned v6\nOutput(Value(b\"h1\"))\nend\n";

/// An endpoint that answers when it has the whole request, and the number of connections to it.
async fn endpoint(close: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let service = service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(request.uri(), "/invoke/Plain/h");
                assert!(request.headers().contains_key("host"));
                let content_type = request.headers()["content-type"].clone();
                let body = request.into_body().collect().await?.to_bytes();
                assert!(body.len() > 100_000);
                let response = Response::builder()
                    .header("content-type", content_type)
                    .header("connection", if close { "close" } else { "keep-alive" })
                    .body(Full::new(join([output("h1"), end()])));
                Ok::<_, hyper::Error>(response.unwrap())
            });
            let io = hyper_util::rt::TokioIo::new(socket);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (uri, connections)
}

fn leader(uri: &str) -> Leader {
    Leader::with(uri, "BIDI_STREAM", 6, HttpVersion::Http11, |_| {})
}

async fn run(leader: &mut Leader) -> String {
    let mut attempt = leader.attempt("Plain", "h");
    attempt.journal.push(RawEntry {
        ty: MessageType::Run.code(),
        payload: vec![0; 100_000].into(),
    });
    let handle = leader.start(attempt).await;
    // As a leader does when the attempt has said its last.
    handle.guard.disarm();
    leader.transcript().await
}

#[tokio::test]
async fn attempts_one_after_the_other_share_a_connection() {
    let (uri, connections) = endpoint(false).await;
    let mut leader = leader(&uri);
    for _ in 0..20 {
        assert_eq!(run(&mut leader).await, DONE);
        // The response's end comes a moment behind its last frame.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections < 4, "{connections} connections for 20 attempts");
}

#[tokio::test]
async fn an_endpoint_that_closes_its_connections_gets_new_ones() {
    let (uri, connections) = endpoint(true).await;
    let mut leader = leader(&uri);
    for _ in 0..5 {
        assert_eq!(run(&mut leader).await, DONE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_connection_that_is_closed_as_it_is_used_again_costs_no_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n0\r\n\r\n") {
                assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
            }
            let body = join([output("h1"), end()]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.restate.invocation.v6\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let answer: Bytes = join([Bytes::from(head), body]);
            socket.write_all(&answer).await.unwrap();
            // The next request is taken and not answered.
            let _ = socket.read(&mut [0; 10]).await;
        }
    });
    let mut leader = leader(&uri);
    assert_eq!(run(&mut leader).await, DONE);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let failed = run(&mut leader).await;
    assert!(
        failed.starts_with("failed RT0010") && failed.ends_with("After(0ns) not counted\n"),
        "{failed}"
    );
    assert_eq!(run(&mut leader).await, DONE);
}
