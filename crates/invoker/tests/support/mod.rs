//! An endpoint that does what a test says, and what a leader would know of an attempt against it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part; tests"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_invoker::api::{
    Attempt, AttemptHandle, AttemptId, Effect, Effects, PinnedDeployment, Retry, ToAttempt,
};
use abide_invoker::{Invoker, InvokerOptions};
use abide_schema::{Defaults, Discovered, HttpVersion, RegisterOptions, ResolvedHandler, Schema};
use abide_service_protocol::manifest;
use abide_service_protocol::{
    Command, Frame, FrameDecoder, MessageType, Notification, RawEntry, frame, proto,
};
use abide_types::{DeploymentId, Timestamp};
use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, Response};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Nothing here takes longer unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const DEPLOYMENT: DeploymentId = DeploymentId(7);

/// One request as the endpoint sees it.
pub struct Stream {
    pub path: String,
    pub headers: HeaderMap,
    pub connection: usize,
    body: RecvStream,
    decoder: FrameDecoder,
    respond: Option<server::SendResponse<Bytes>>,
    sender: Option<SendStream<Bytes>>,
}

impl Stream {
    /// The next frame; `None` at the end of the request.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let data = timeout(PATIENCE, self.body.data()).await.unwrap()?.ok()?;
            self.body
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            self.decoder.push(data);
        }
    }

    /// Reads Start and the journal.
    pub async fn replay(&mut self) -> (proto::Start, Vec<Frame>) {
        let frame = self.frame().await.unwrap();
        assert_eq!(frame.ty, MessageType::Start.code());
        let start = proto::Start::decode(frame.payload).unwrap();
        let mut entries = Vec::new();
        for _ in 0..start.known_entries {
            entries.push(self.frame().await.unwrap());
        }
        (start, entries)
    }

    /// Answers with a head; the content type is the request's.
    pub fn accept(&mut self) {
        let content_type = self.headers["content-type"].clone();
        let head = Response::builder()
            .header("content-type", content_type)
            .body(())
            .unwrap();
        self.answer(head, false);
    }

    pub fn answer(&mut self, head: Response<()>, end: bool) {
        let mut respond = self.respond.take().unwrap();
        self.sender = Some(respond.send_response(head, end).unwrap());
    }

    /// Sends bytes in one piece.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        let _ = self.sender.as_mut().unwrap().send_data(bytes.into(), false);
    }

    /// Sends bytes as the peer takes them; `false` when it takes no more.
    pub async fn send_slowly(&mut self, mut bytes: Bytes) -> bool {
        let sender = self.sender.as_mut().unwrap();
        while !bytes.is_empty() {
            sender.reserve_capacity(bytes.len());
            let capacity = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
            let Some(Ok(capacity)) = capacity else {
                return false;
            };
            let piece = bytes.split_to(capacity.min(bytes.len()));
            if sender.send_data(piece, false).is_err() {
                return false;
            }
        }
        true
    }

    pub fn end(&mut self) {
        let _ = self.sender.as_mut().unwrap().send_data(Bytes::new(), true);
    }

    /// Waits for the end of the request, then ends the response as SDKs do.
    pub async fn finish(&mut self) {
        while self.frame().await.is_some() {}
        self.end();
    }

    /// Waits until the peer resets the stream.
    pub async fn reset(&mut self) -> Reason {
        let sender = self.sender.as_mut().unwrap();
        timeout(PATIENCE, std::future::poll_fn(|cx| sender.poll_reset(cx)))
            .await
            .expect("the stream is reset")
            .unwrap()
    }
}

/// Frames that an endpoint sends.
pub fn message(ty: MessageType, message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    frame::put_message(ty, message, &mut out);
    out.freeze()
}

pub fn flagged(bytes: Bytes) -> Bytes {
    let mut bytes = BytesMut::from(bytes);
    bytes[2] |= 0x80;
    bytes.freeze()
}

pub fn join(parts: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut out = BytesMut::new();
    for part in parts {
        out.extend_from_slice(&part);
    }
    out.freeze()
}

pub fn output(value: &'static str) -> Bytes {
    use proto::output_command::Result;
    message(
        MessageType::Output,
        &proto::OutputCommand {
            result: Some(Result::Value(proto::Value {
                content: value.into(),
            })),
            ..Default::default()
        },
    )
}

pub fn end() -> Bytes {
    message(MessageType::End, &proto::End {})
}

pub fn run(id: u32) -> Bytes {
    message(
        MessageType::Run,
        &proto::RunCommand {
            result_completion_id: id,
            name: "r".into(),
        },
    )
}

pub fn proposal(id: u32, value: &'static str) -> Bytes {
    use proto::propose_run_completion::Result;
    message(
        MessageType::ProposeRunCompletion,
        &proto::ProposeRunCompletion {
            result_completion_id: id,
            result: Some(Result::Value(value.into())),
        },
    )
}

/// Listens and handles every request with `script`.
pub async fn endpoint<F>(script: impl Fn(Stream) -> F + Send + Sync + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    endpoint_with(server::Builder::new(), script).await
}

pub async fn endpoint_with<F>(
    builder: server::Builder,
    script: impl Fn(Stream) -> F + Send + Sync + 'static,
) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    let connections = AtomicUsize::new(0);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = connections.fetch_add(1, Ordering::Relaxed);
            let script = script.clone();
            let builder = builder.clone();
            tokio::spawn(serve(builder, socket, connection, script));
        }
    });
    format!("http://{address}/base/")
}

/// Handles every request of one connection with `script`.
pub async fn serve<T, S, F>(builder: server::Builder, socket: T, connection: usize, script: Arc<S>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    S: Fn(Stream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut h2) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = h2.accept().await {
        let (head, body) = request.into_parts();
        tokio::spawn(script(Stream {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            connection,
            body,
            decoder: FrameDecoder::new(1 << 30),
            respond: Some(respond),
            sender: None,
        }));
    }
}

/// The services that every scripted endpoint is registered with.
pub fn manifest_json(mode: &str, version: u32) -> serde_json::Value {
    json!({
        "protocolMode": mode,
        "minProtocolVersion": 5,
        "maxProtocolVersion": version,
        "services": [
            { "name": "Plain", "ty": "SERVICE", "handlers": [{ "name": "h" }] },
            { "name": "Quick", "ty": "SERVICE", "inactivityTimeout": 50, "abortTimeout": 100, "handlers": [{ "name": "h" }] },
            { "name": "Object", "ty": "VIRTUAL_OBJECT", "handlers": [
                { "name": "h", "ty": "EXCLUSIVE" }, { "name": "shared", "ty": "SHARED" }
            ] },
            { "name": "Flow", "ty": "WORKFLOW", "handlers": [
                { "name": "run", "ty": "WORKFLOW" }, { "name": "shared", "ty": "SHARED" }
            ] }
        ]
    })
}

/// What the leader of a partition would hold.
pub struct Leader {
    pub invoker: Invoker,
    pub schema: watch::Sender<Arc<Schema>>,
    pub sender: mpsc::Sender<Effects>,
    pub effects: mpsc::Receiver<Effects>,
    attempts: u64,
}

impl Leader {
    pub fn new(uri: &str, mode: &str, version: u32) -> Self {
        Self::with(uri, mode, version, HttpVersion::Http2, |_| {})
    }

    pub fn with(
        uri: &str,
        mode: &str,
        version: u32,
        http_version: HttpVersion,
        change: impl FnOnce(&mut InvokerOptions),
    ) -> Self {
        let body = manifest_json(mode, version).to_string();
        let manifest = manifest::read(manifest::Response {
            content_type: Some("application/vnd.restate.endpointmanifest.v4+json"),
            server: None,
            body: body.as_bytes(),
        })
        .unwrap();
        Self::of_manifest(uri, manifest, http_version, change)
    }

    pub fn of_manifest(
        uri: &str,
        manifest: manifest::Manifest,
        http_version: HttpVersion,
        change: impl FnOnce(&mut InvokerOptions),
    ) -> Self {
        let discovered = Discovered {
            uri: uri.to_owned(),
            additional_headers: BTreeMap::from([("x-mine".to_owned(), "yes".to_owned())]),
            metadata: BTreeMap::new(),
            http_version,
            sdk_version: None,
            manifest,
        };
        let (schema, _) = abide_schema::register(
            &Schema::new([], Defaults::default()),
            discovered,
            &RegisterOptions {
                id: DEPLOYMENT,
                at: Timestamp(0),
                force: false,
                breaking: false,
                routing_headers: &[],
            },
        )
        .unwrap();
        let mut options = InvokerOptions {
            drain_timeout: Duration::from_millis(200),
            ..InvokerOptions::default()
        };
        change(&mut options);
        let (schema, receiver) = watch::channel(Arc::new(schema));
        let (sender, effects) = mpsc::channel(64);
        Self {
            invoker: Invoker::new(options, receiver),
            schema,
            sender,
            effects,
            attempts: 0,
        }
    }

    fn handler(&self, service: &str, handler: &str) -> ResolvedHandler {
        let schema = self.schema.borrow();
        schema.resolve(service, handler).unwrap().clone()
    }

    /// The first attempt of a new invocation.
    pub fn attempt(&mut self, service: &str, handler: &str) -> Attempt {
        let handler = self.handler(service, handler);
        let key = handler.service_kind.is_keyed().then(|| "k/1".to_owned());
        let target = handler.target(key);
        self.attempts += 1;
        Attempt {
            invocation: target.invocation_id(None, u128::from(self.attempts)),
            attempt: AttemptId(self.attempts),
            target,
            idempotency_key: Some("ik".into()),
            pinned: None,
            journal: vec![RawEntry::input(Vec::new(), Bytes::from_static(b"in"))],
            state: vec![(Bytes::from_static(b"count"), Bytes::from_static(b"5"))],
            partial_state: false,
            retry_count: 2,
            since_last_entry: Duration::from_millis(3),
            random_seed: 42,
            scope: None,
            limit_key: None,
            trace: None,
        }
    }

    pub async fn start(&self, attempt: Attempt) -> AttemptHandle {
        let slot = self.invoker.slots().clone().acquire_owned().await.unwrap();
        self.invoker.start(slot, attempt, self.sender.clone())
    }

    pub async fn next(&mut self) -> Effects {
        timeout(PATIENCE, self.effects.recv())
            .await
            .expect("effects come")
            .unwrap()
    }

    /// All effects up to the terminal one, as text.
    pub async fn transcript(&mut self) -> String {
        let mut text = String::new();
        loop {
            for effect in self.next().await.effects {
                text += &describe(&effect);
                text.push('\n');
                if effect.is_terminal() {
                    return text;
                }
            }
        }
    }

    /// Runs an attempt of a new invocation and says what it did.
    pub async fn run(&mut self, service: &str, handler: &str) -> String {
        let attempt = self.attempt(service, handler);
        let handle = self.start(attempt).await;
        let transcript = self.transcript().await;
        drop(handle);
        transcript
    }
}

pub fn pinned(protocol: u16) -> Option<PinnedDeployment> {
    Some(PinnedDeployment {
        deployment: DEPLOYMENT,
        protocol,
    })
}

pub fn notification(index: u32, notification: Notification) -> ToAttempt {
    ToAttempt::Notification {
        index,
        entry: notification.into_entry(),
    }
}

pub fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Pinned(pinned) => format!("pinned v{}", pinned.protocol),
        Effect::Command { entry, callee, ack } => {
            let command = Command::decode(entry).unwrap();
            let mut text = format!("{command:?}");
            if text.len() > 100 {
                text.truncate(100);
                text += "…";
            }
            if let Some(callee) = callee {
                text += &format!(" -> {} {:?}", callee.target, callee.target.handler_kind);
            }
            if *ack {
                text += " ack";
            }
            text
        }
        Effect::RunProposal { entry } => {
            let notification = Notification::decode(entry).unwrap();
            format!("proposal {} {:?}", notification.id, notification.result)
        }
        Effect::Suspended { awaiting } => {
            let awaiting = abide_service_protocol::Await::decode(awaiting.clone()).unwrap();
            let leaves: Vec<_> = awaiting.leaves().map(ToString::to_string).collect();
            format!("suspended on {}", leaves.join(", "))
        }
        Effect::End => "end".into(),
        Effect::Failed(failure) => {
            let mut text = format!("failed {} {}", failure.code.unwrap_or("-"), failure.failure);
            if failure.retry != Retry::Policy {
                text += &format!(" {:?}", failure.retry);
            }
            if failure.related != Default::default() {
                text += &format!(" {:?}", failure.related);
            }
            if !failure.bumps_retry_count {
                text += " not counted";
            }
            text
        }
    }
}
