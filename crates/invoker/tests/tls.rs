//! Endpoints behind TLS, with a certificate that only `SSL_CERT_FILE` makes trusted.
//!
//! What a process trusts is read once, from its environment: the tests of what is trusted run in a process of their own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use abide_invoker::{DiscoverError, DiscoverRequest};
use abide_schema::HttpVersion;
use expect_test::expect;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use support::*;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Says that this process trusts the certificates in `SSL_CERT_FILE`, and where they and the server's are.
const FOLDER: &str = "ABIDE_TLS_TEST";

#[test]
fn an_endpoint_whose_certificate_is_trusted_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    std::fs::write(path("certificate.der"), certificate.der()).unwrap();
    std::fs::write(path("key.der"), key.serialize_der()).unwrap();
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads", "1"])
        .env("SSL_CERT_FILE", path("ca.pem"))
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("3 passed"), "{said}");
}

/// In a process that the test above has started.
fn server_config(protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let folder = std::env::var_os(FOLDER).expect("the test that makes the certificates runs this");
    let folder = std::path::PathBuf::from(folder);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let certificate = CertificateDer::from(read("certificate.der"));
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(read("key.der")));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers discoveries, and invocations when it has all of their request.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    if request.uri().path() == "/discover" {
        let manifest = manifest_json("REQUEST_RESPONSE", 7).to_string();
        return Ok(Response::builder()
            .header(
                "content-type",
                "application/vnd.restate.endpointmanifest.v4+json",
            )
            .body(Full::new(manifest.into()))
            .unwrap());
    }
    let content_type = request.headers()["content-type"].clone();
    request.into_body().collect().await?;
    Ok(Response::builder()
        .header("content-type", content_type)
        .body(Full::new(join([output("over TLS"), end()])))
        .unwrap())
}

async fn request_response(config: Arc<ServerConfig>) -> String {
    let (listener, address) = listener().await;
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(socket) = acceptor.accept(socket).await else {
                    return;
                };
                let executor = hyper_util::rt::TokioExecutor::new();
                let _ = hyper_util::server::conn::auto::Builder::new(executor)
                    .serve_connection(TokioIo::new(socket), service_fn(answer))
                    .await;
            });
        }
    });
    format!("https://127.0.0.1:{}/", address.port())
}

async fn discovered_version(uri: &str, use_http_11: bool) -> Result<HttpVersion, DiscoverError> {
    let nobody = Leader::new(uri, "REQUEST_RESPONSE", 7);
    nobody
        .invoker
        .discover(&DiscoverRequest {
            uri: uri.to_owned(),
            additional_headers: BTreeMap::new(),
            use_http_11,
        })
        .await
        .map(|endpoint| endpoint.http_version)
}

#[tokio::test]
#[ignore = "run by the test that makes the certificates"]
async fn alpn_decides_the_http_version() {
    for (protocols, use_http_11, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], false, HttpVersion::Http2),
        (&[b"h2", b"http/1.1"], true, HttpVersion::Http11),
        (&[b"http/1.1"], false, HttpVersion::Http11),
        (&[], false, HttpVersion::Http11),
    ] {
        let config = server_config(protocols);
        let uri = request_response(config).await;
        let found = discovered_version(&uri, use_http_11).await.unwrap();
        assert_eq!(found, expected, "{protocols:?} {use_http_11}");
        let mut leader = Leader::with(&uri, "REQUEST_RESPONSE", 7, found, |_| {});
        for _ in 0..3 {
            expect![[r#"
                pinned v7
                Output(Value(b"over TLS"))
                end
            "#]]
            .assert_eq(&leader.run("Plain", "h").await);
        }
    }
}

#[tokio::test]
#[ignore = "run by the test that makes the certificates"]
async fn streams_run_both_ways_at_once_over_tls() {
    let config = server_config(&[b"h2"]);
    let (listener, address) = listener().await;
    let acceptor = TlsAcceptor::from(config);
    let script = Arc::new(|mut stream: Stream| async move {
        stream.replay().await;
        stream.accept();
        stream.send(join([run(1), proposal(1, "7")]));
        // The request is open: what is stored comes on it.
        stream.frame().await.unwrap();
        stream.send(join([output("8"), end()]));
        stream.finish().await;
    });
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let socket = acceptor.accept(socket).await.unwrap();
            tokio::spawn(serve(h2::server::Builder::new(), socket, 0, script.clone()));
        }
    });
    // By its name, for a change.
    let uri = format!("https://localhost:{}/", address.port());
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 6);
    let attempt = leader.attempt("Plain", "h");
    let handle = leader.start(attempt).await;
    leader.next().await;
    let stored = abide_service_protocol::Notification::run(
        1,
        abide_service_protocol::Outcome::Value("7".into()),
    );
    handle.sender.send(notification(2, stored)).await.unwrap();
    expect![[r#"
        Output(Value(b"8"))
        end
    "#]]
    .assert_eq(&leader.transcript().await);
}

#[tokio::test]
#[ignore = "run by the test that makes the certificates"]
async fn a_certificate_for_another_name_is_refused() {
    let config = server_config(&[b"h2"]);
    let uri = request_response(config)
        .await
        .replace("127.0.0.1", "127.0.0.2");
    // 127.0.0.2 is this machine as well, where the listener is bound to all of them.
    let error = discovered_version(&uri, false).await.unwrap_err();
    assert!(
        matches!(error, DiscoverError::Unreachable { .. }),
        "{error}"
    );
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let transcript = leader.run("Plain", "h").await;
    assert!(transcript.starts_with("failed RT0010"), "{transcript}");
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_refused() {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pkcs8 = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], pkcs8.into())
        .unwrap();
    let uri = request_response(Arc::new(config)).await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let transcript = leader.run("Plain", "h").await;
    assert!(
        transcript.starts_with("failed RT0010 [500] TLS with 127.0.0.1"),
        "{transcript}"
    );
}
