#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use abide_processor::api::{Accepted, Attached, Finished, NewInvocation, Outcome, RouteError};
use abide_service_protocol::NotificationId;
use abide_types::InvocationId;
use bytes::Bytes;
use expect_test::{Expect, expect};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::*;
use crate::fixture::schema;

/// Longer than any test takes when it works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Partitions that answer with the input, but keep an invocation of the key `wait` until they are told to go on.
#[derive(Clone, Default)]
struct Fake {
    go_on: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    signals: Option<mpsc::UnboundedSender<String>>,
}

struct Waiting<'a>(&'a Fake);

impl<'a> Waiting<'a> {
    fn new(fake: &'a Fake) -> Self {
        fake.waiting.fetch_add(1, Ordering::SeqCst);
        fake.changed.notify_one();
        Self(fake)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

impl Fake {
    async fn until_waiting(&self, count: usize) {
        let waited = async {
            while self.waiting.load(Ordering::SeqCst) != count {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("the count is reached");
    }
}

impl Partitions for Fake {
    async fn call(&self, invocation: NewInvocation) -> Result<Finished, RouteError> {
        if invocation.target.key.as_deref() == Some("wait") {
            let _waiting = Waiting::new(self);
            self.go_on.notified().await;
        }
        Ok(Finished {
            outcome: Outcome::Value(invocation.input),
            expires_at: None,
            target: invocation.target,
        })
    }

    async fn send(&self, _: NewInvocation) -> Result<Accepted, RouteError> {
        Ok(Accepted {
            new: true,
            execute_at: None,
        })
    }

    async fn attach(&self, _: InvocationId) -> Result<Attached, RouteError> {
        Ok(Attached::NotFound)
    }

    async fn output(&self, _: InvocationId) -> Result<Attached, RouteError> {
        Ok(Attached::NotFound)
    }

    async fn signal(
        &self,
        _: InvocationId,
        signal: NotificationId,
        outcome: Outcome,
    ) -> Result<(), RouteError> {
        if let Some(signals) = &self.signals {
            signals.send(format!("{signal} {outcome:?}")).unwrap();
        }
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

async fn start(fake: &Fake, options: IngressOptions) -> Running {
    let (_, schema) = watch::channel(Arc::new(schema()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let door = Arc::new(Door::new(options, fake.clone(), schema));
    let served = tokio::spawn(serve(door, listener, shutdown.clone()));
    Running {
        address,
        shutdown,
        served,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends text on a connection of its own and returns all that comes back.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        let request = request.replace('\n', "\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(stream).await
    }
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
    read.await.expect("the connection is closed").unwrap();
    String::from_utf8(answer).unwrap().replace('\r', "")
}

/// Dates and random ids vary; they are left out.
fn check(answer: &str, expected: Expect) {
    let lines = answer.lines().filter(|line| !line.starts_with("date: "));
    let lines = lines.map(|line| match line.split_once("inv_1") {
        Some((before, _)) if line.starts_with("x-restate-id") => format!("{before}inv_1…\n"),
        _ => format!("{line}\n"),
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[tokio::test]
async fn a_call_over_http_1_is_answered_as_captured() {
    let running = start(&Fake::default(), IngressOptions::default()).await;
    let answer = running
        .exchange("POST /counter/k/add HTTP/1.1\nhost: x\norigin: http://o\ncontent-type: application/json\ncontent-length: 5\nconnection: close\n\n\"Bob\"")
        .await;
    check(
        &answer,
        expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            x-restate-id: inv_1…
            access-control-allow-origin: http://o
            vary: origin, access-control-request-method, access-control-request-headers
            access-control-allow-credentials: true
            connection: close
            content-length: 5

            "Bob"
        "#]],
    );
    let answer = running
        .exchange("POST /nope/hi HTTP/1.1\nhost: x\nconnection: close\n\n")
        .await;
    check(
        &answer,
        expect![[r#"
            HTTP/1.1 404 Not Found
            content-type: application/json
            x-restate-error-source: ingress
            vary: origin, access-control-request-method, access-control-request-headers
            access-control-allow-credentials: true
            connection: close
            content-length: 122

            {"code":404,"message":"service 'nope' not found, make sure to register the service before calling it.","source":"ingress"}
        "#]],
    );
}

#[tokio::test]
async fn a_preflight_allows_what_it_asks_for() {
    let running = start(&Fake::default(), IngressOptions::default()).await;
    let answer = running
        .exchange("OPTIONS /greeter/greet HTTP/1.1\nhost: x\nOrigin: http://x.com\nAccess-Control-Request-Method: POST\nAccess-Control-Request-Headers: idempotency-key,content-type\nconnection: close\n\n")
        .await;
    check(
        &answer,
        expect![[r#"
            HTTP/1.1 200 OK
            access-control-allow-methods: POST
            access-control-allow-headers: idempotency-key,content-type
            access-control-allow-origin: http://x.com
            vary: origin, access-control-request-method, access-control-request-headers
            access-control-allow-credentials: true
            connection: close
            content-length: 0

        "#]],
    );
}

#[tokio::test]
async fn long_bodies_are_refused_whether_announced_or_not() {
    let options = IngressOptions {
        request_bytes_max: 4,
        ..IngressOptions::default()
    };
    let running = start(&Fake::default(), options).await;
    let announced = running
        .exchange(
            "POST /greeter/greet HTTP/1.1\nhost: x\ncontent-length: 5\nconnection: close\n\n12345",
        )
        .await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    assert!(
        announced.ends_with("\n\nlength limit exceeded"),
        "{announced}"
    );
    let head = "POST /greeter/greet HTTP/1.1\nhost: x\ncontent-type: application/json\ntransfer-encoding: chunked\nconnection: close\n\n";
    let found = running
        .exchange(&format!("{head}3\n123\n3\n456\n0\n\n"))
        .await;
    assert!(found.starts_with("HTTP/1.1 413"), "{found}");
    assert!(
        found.contains(r#""message":"cannot read body: LengthLimitError""#),
        "{found}"
    );
    let fits = running
        .exchange(&format!("{head}2\n12\n2\n34\n0\n\n"))
        .await;
    assert!(
        fits.starts_with("HTTP/1.1 200") && fits.ends_with("\n\n1234"),
        "{fits}"
    );
}

#[tokio::test]
async fn awakeables_take_the_body() {
    let (signals, mut signalled) = mpsc::unbounded_channel();
    let fake = Fake {
        signals: Some(signals),
        ..Fake::default()
    };
    let running = start(&fake, IngressOptions::default()).await;
    for verb in ["resolve", "reject"] {
        let answer = running
            .exchange(&format!("POST /restate/a/sign_18AonhJFDSX9Ia-QxwkD4kF47XWiNx3foAAAAEQ/{verb} HTTP/1.1\nhost: x\ncontent-length: 2\nconnection: close\n\nno"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
    assert_eq!(signalled.recv().await.unwrap(), r#"signal 17 Value(b"no")"#);
    assert_eq!(
        signalled.recv().await.unwrap(),
        r#"signal 17 Failure(Failure { code: 500, message: "no", metadata: [], stacktrace: None })"#
    );
}

const WAIT: &str = "GET /counter/wait/get HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const HEALTH: &str = "GET /restate/health HTTP/1.1\nhost: x\nconnection: close\n\n";

#[tokio::test]
async fn above_the_limit_requests_are_refused_until_a_place_is_free() {
    let options = IngressOptions {
        concurrent_requests_max: NonZeroUsize::new(1),
        ..IngressOptions::default()
    };
    let fake = Fake::default();
    let running = start(&fake, options).await;
    let mut first = running.connect().await;
    first.write_all(WAIT.as_bytes()).await.unwrap();
    fake.until_waiting(1).await;
    let refused = running.exchange(HEALTH).await;
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 1"),
        "{refused}"
    );
    fake.go_on.notify_one();
    assert!(read_all(first).await.starts_with("HTTP/1.1 200"));
    assert!(running.exchange(HEALTH).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_request() {
    let fake = Fake::default();
    let running = start(&fake, IngressOptions::default()).await;
    let mut stream = running.connect().await;
    stream.write_all(WAIT.as_bytes()).await.unwrap();
    fake.until_waiting(1).await;
    drop(stream);
    fake.until_waiting(0).await;
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let fake = Fake::default();
    let running = start(&fake, IngressOptions::default()).await;
    let io = TokioIo::new(running.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        Request::get(format!("http://{}{path}", running.address))
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    // A stream that is reset frees its request; the others of the connection go on.
    let waiting = tokio::spawn(sender.send_request(request("/counter/wait/get")));
    fake.until_waiting(1).await;
    waiting.abort();
    fake.until_waiting(0).await;
    let answer = sender
        .send_request(request("/restate/health"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        body,
        r#"{"services":["counter","greeter","old","priv","wf"]}"#
    );
}

#[tokio::test]
async fn at_shutdown_requests_in_progress_end_and_no_more_are_taken() {
    let fake = Fake::default();
    let options = IngressOptions {
        drain: PATIENCE,
        ..IngressOptions::default()
    };
    let running = start(&fake, options).await;
    let idle = running.connect().await;
    let mut stream = running.connect().await;
    stream.write_all(WAIT.as_bytes()).await.unwrap();
    fake.until_waiting(1).await;
    running.shutdown.cancel();
    assert_eq!(read_all(idle).await, "");
    assert!(TcpStream::connect(running.address).await.is_err());
    fake.go_on.notify_one();
    assert!(read_all(stream).await.starts_with("HTTP/1.1 200"));
    running.served.await.unwrap();
}

/// One who is told that nobody listens asks another node. One whose connection breaks does not know what was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listener_that_closes_breaks_no_connection() {
    for _ in 0..3 {
        let running = start(&Fake::default(), IngressOptions::default()).await;
        let address = running.address;
        let client = move || async move {
            let mut answered = 0;
            while let Ok(mut stream) = TcpStream::connect(address).await {
                let request =
                    "GET /restate/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = read_all(stream).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                answered += 1;
            }
            answered
        };
        let clients: Vec<JoinHandle<u32>> = (0..16).map(|_| tokio::spawn(client())).collect();
        running.shutdown.cancel();
        for client in clients {
            assert!(0 < client.await.unwrap());
        }
        running.served.await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_end_in_time_is_dropped() {
    let fake = Fake::default();
    let options = IngressOptions {
        drain: Duration::from_millis(10),
        ..IngressOptions::default()
    };
    let running = start(&fake, options).await;
    let mut stream = running.connect().await;
    stream.write_all(WAIT.as_bytes()).await.unwrap();
    fake.until_waiting(1).await;
    running.shutdown.cancel();
    tokio::time::timeout(PATIENCE, running.served)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fake.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_connection_that_never_says_what_it_speaks_is_closed() {
    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(b"PRI").await.unwrap();
    let mut stream = Patience::new(server, Duration::from_millis(20));
    let mut bytes = [0; 64];
    assert_eq!(stream.read(&mut bytes).await.unwrap(), 3);
    let error = stream.read(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);

    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(&[b'x'; 24]).await.unwrap();
    let mut stream = Patience::new(server, Duration::ZERO);
    stream.read_exact(&mut bytes[..24]).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut bytes)).await;
    assert!(silent.is_err(), "idle connections live on");
}
