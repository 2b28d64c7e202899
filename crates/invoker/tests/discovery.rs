//! Discovery against endpoints that answer well and badly.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abide_invoker::{DiscoverRequest, Invoker, InvokerOptions};
use abide_schema::{HttpVersion, Schema};
use abide_service_protocol::manifest::ProtocolMode;
use bytes::Bytes;
use expect_test::{Expect, expect};
use http::Response;
use support::*;
use tokio::sync::watch;

fn invoker() -> Invoker {
    let (_, schema) = watch::channel(Arc::new(Schema::default()));
    let options = InvokerOptions {
        headers: vec![("x-restate-cluster-name".into(), "c".into())],
        ..InvokerOptions::default()
    };
    Invoker::new(options, schema)
}

fn request(uri: &str, use_http_11: bool) -> DiscoverRequest {
    DiscoverRequest {
        uri: uri.to_owned(),
        additional_headers: BTreeMap::from([("x-mine".into(), "yes".into())]),
        use_http_11,
    }
}

/// What is said of an endpoint that answers like this, and how often it is asked.
async fn check(status: u16, content_type: &'static str, body: &'static str, expected: Expect) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let uri = endpoint(move |mut stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            let head = Response::builder()
                .status(status)
                .header("content-type", content_type)
                .body(())
                .unwrap();
            stream.answer(head, false);
            stream.send(Bytes::from_static(body.as_bytes()));
            stream.end();
        }
    })
    .await;
    let error = invoker().discover(&request(&uri, false)).await.unwrap_err();
    let code = error.code().map_or("-", |code| code.as_str());
    let text = error.to_string().replace(&uri, "URI");
    let asked = asked.load(Ordering::Relaxed);
    expected.assert_eq(&format!("{code} {text}, asked {asked}"));
}

const V4: &str = "application/vnd.restate.endpointmanifest.v4+json";

#[tokio::test]
async fn an_endpoint_is_asked_below_its_path_and_with_all_headers() {
    let uri = endpoint(|mut stream| async move {
        assert_eq!(stream.path, "/base/discover");
        assert_eq!(stream.headers["x-mine"], "yes");
        assert_eq!(stream.headers["x-restate-cluster-name"], "c");
        assert!(stream.headers["accept"].to_str().unwrap().ends_with(V4));
        let head = Response::builder()
            .header("content-type", V4)
            .header("x-restate-server", "sdk/1.2.3")
            .body(())
            .unwrap();
        stream.answer(head, false);
        stream.send(manifest_json("BIDI_STREAM", 7).to_string());
        stream.end();
    })
    .await;
    let found = invoker().discover(&request(&uri, false)).await.unwrap();
    assert_eq!(found.sdk_version.as_deref(), Some("sdk/1.2.3"));
    assert_eq!(found.http_version, HttpVersion::Http2);
    assert_eq!(found.manifest.protocol_mode, ProtocolMode::BidiStream);
    assert_eq!(found.manifest.services.len(), 4);
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_said() {
    check(404, "text/plain", "nothing here", expect!["META0003 the endpoint URI answered the discovery with 404 Not Found (is the path under which the SDK's handler is mounted part of the URI?): nothing here, asked 1"]).await;
    check(503, "text/plain", "soon", expect!["META0003 the endpoint URI answered the discovery with 503 Service Unavailable: soon, asked 5"]).await;
    check(
        200,
        "application/json",
        "{}",
        expect![
            "META0013 bad discovery response: unexpected content-type 'application/json', asked 1"
        ],
    )
    .await;
    check(200, V4, "{}", expect!["- the discovery response cannot be decoded: missing field `minProtocolVersion` at line 1 column 2. Response body: {}, asked 1"]).await;
}

#[tokio::test]
async fn an_endpoint_that_speaks_http_1_only_is_told_from_others() {
    use http_body_util::Full;
    use hyper::service::service_fn;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri(), "/discover");
                let response = Response::builder().header("content-type", V4);
                let body = manifest_json("REQUEST_RESPONSE", 6).to_string();
                Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(body))).unwrap())
            });
            let io = hyper_util::rt::TokioIo::new(socket);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let error = invoker().discover(&request(&uri, false)).await.unwrap_err();
    let text = error.to_string().replace(&uri, "URI");
    expect!["META0003 the endpoint URI cannot be reached: stream closed because of a broken pipe"]
        .assert_eq(&format!("{} {text}", error.code().unwrap()));
    let found = invoker().discover(&request(&uri, true)).await.unwrap();
    assert_eq!(found.http_version, HttpVersion::Http11);
    assert_eq!(found.manifest.protocol_mode, ProtocolMode::RequestResponse);
}
