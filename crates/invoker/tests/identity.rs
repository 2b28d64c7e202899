//! Signed requests, as the official SDK judges them.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests; the SDK's macros")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use abide_invoker::{DiscoverError, DiscoverRequest, DiscoveredEndpoint, Identity};
use abide_schema::HttpVersion;
use base64::Engine as _;
use expect_test::expect;
use restate_sdk::prelude::*;
use support::Leader;
use tokio::net::TcpListener;

struct Plain;

#[service]
impl Plain {
    #[handler]
    async fn h(&self, _ctx: Context<'_>) -> HandlerResult<String> {
        Ok("trusted".to_owned())
    }
}

/// Writes a key as `openssl genpkey -algorithm ed25519` does.
fn write_key(path: &Path, number: u8) {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    der.extend([number; 32]);
    let body = base64::prelude::BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    std::fs::write(path, pem).unwrap();
}

fn identity(path: &Path) -> Identity {
    Identity::load(path, Duration::from_secs(60)).unwrap()
}

async fn endpoint(public_key: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let endpoint = Endpoint::builder()
        .identity_key(public_key)
        .unwrap()
        .bind(Plain)
        .build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    uri
}

async fn discover(leader: &Leader, uri: &str) -> Result<DiscoveredEndpoint, DiscoverError> {
    leader
        .invoker
        .discover(&DiscoverRequest {
            uri: uri.to_owned(),
            additional_headers: BTreeMap::new(),
            use_http_11: false,
        })
        .await
}

#[tokio::test]
async fn the_official_sdk_takes_what_is_signed_with_the_key_it_knows_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("key.pem"), folder.path().join("other"));
    write_key(&path, 1);
    write_key(&other, 2);
    let trusted = identity(&path);
    let uri = endpoint(&trusted.public_key()).await;

    let mut signing = Leader::with(&uri, "BIDI_STREAM", 7, HttpVersion::Http2, |options| {
        options.identity = Some(trusted);
    });
    assert!(discover(&signing, &uri).await.is_ok());
    expect![[r#"
        pinned v7
        Output(Value(b"\"trusted\""))
        end
    "#]]
    .assert_eq(&signing.run("Plain", "h").await);

    let mut silent = Leader::new(&uri, "BIDI_STREAM", 7);
    assert!(matches!(
        discover(&silent, &uri).await,
        Err(DiscoverError::Status { status, .. }) if status == 401
    ));
    expect![[r#"
        failed RT0012 [500] unexpected http status code: 401 Unauthorized
    "#]]
    .assert_eq(&silent.run("Plain", "h").await);

    let mut stranger = Leader::with(&uri, "BIDI_STREAM", 7, HttpVersion::Http2, |options| {
        options.identity = Some(identity(&other));
    });
    expect![[r#"
        failed RT0012 [500] unexpected http status code: 401 Unauthorized
    "#]]
    .assert_eq(&stranger.run("Plain", "h").await);
    // The key is replaced under a running node.
    write_key(&other, 1);
    let patience = tokio::time::timeout(Duration::from_secs(20), async {
        while stranger.run("Plain", "h").await.starts_with("failed") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    patience.await.expect("the new key is used");
}
