//! Spans on their way to receivers.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use abide_telemetry::{Exporting, Span, Stage, Subject, TelemetryOptions, Tracer, Value, start};
use abide_types::{HandlerKind, InvocationTarget, ServiceKind, TraceContext};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span as Received;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(10);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Receiver {
    messages: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    refusals: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let left = |left: usize| left.checked_sub(1);
        let refused = self
            .refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        if refused.is_ok() {
            return Err(Status::unavailable("not now"));
        }
        assert_eq!(request.metadata().get("authorization").unwrap(), "secret");
        self.messages.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A receiver that refuses the first messages.
async fn receiver(
    refusals: usize,
) -> (
    SocketAddr,
    mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (messages, received) = mpsc::unbounded_channel();
    let receiver = Receiver {
        messages,
        refusals: Arc::new(AtomicUsize::new(refusals)),
    };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (address, received)
}

fn tracer(endpoint: &str) -> (Tracer, Exporting) {
    start(TelemetryOptions {
        endpoint: endpoint.parse().unwrap(),
        headers: vec![("authorization".to_owned(), "secret".to_owned())],
        instance: "cluster/node".to_owned(),
        version: "1.2.3".to_owned(),
    })
    .unwrap()
}

fn span() -> Span {
    let target = InvocationTarget {
        service: "Counter".to_owned(),
        key: Some("k1".to_owned()),
        handler: "add".to_owned(),
        service_kind: ServiceKind::VirtualObject,
        handler_kind: HandlerKind::Exclusive,
    };
    let context = TraceContext::from_headers(PARENT, "a=b").unwrap();
    let subject = Subject {
        id: &target.invocation_id(None, 1),
        target: &target,
    };
    Span::new(
        Stage::Attempt,
        subject,
        &context.with_span(7),
        context.span_id,
        SystemTime::now(),
    )
}

async fn next(received: &mut mpsc::UnboundedReceiver<ExportTraceServiceRequest>) -> Vec<Received> {
    let message = tokio::time::timeout(PATIENCE, received.recv()).await;
    let message = message.expect("spans come").unwrap();
    let mut spans = Vec::new();
    for resource in message.resource_spans {
        for scope in resource.scope_spans {
            spans.extend(scope.spans);
        }
    }
    spans
}

fn attribute(span: &Received, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key == key)?;
    match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[tokio::test]
async fn a_receiver_over_grpc_gets_whole_spans() {
    let (address, mut received) = receiver(0).await;
    let (tracer, _exporting) = tracer(&format!("http://{address}"));
    assert!(tracer.is_on() && !Tracer::off().is_on());
    let mut failed = span();
    failed.add_event(
        SystemTime::now(),
        "restate.invocation.lifecycle.new_command",
        [("restate.journal.command.type", Value::from("Command/Run"))],
    );
    tracer.record(failed.failed("transient failure"));
    let spans = next(&mut received).await;
    let [span] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(span.name, "invocation-attempt Counter/{key}/add");
    assert_eq!(
        span.trace_id,
        0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()
    );
    assert_eq!(span.span_id, 7_u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(span.trace_state, "a=b");
    let text = |key| attribute(span, key).unwrap();
    assert_eq!(text("rpc.system"), "restate");
    assert_eq!(text("rpc.service"), "Counter");
    assert_eq!(text("rpc.method"), "add");
    assert_eq!(text("restate.invocation.target"), "Counter/k1/add");
    assert!(text("restate.invocation.id").starts_with("inv_1"));
    assert_eq!(span.events.len(), 1);
    let status = span.status.clone().unwrap();
    assert_eq!((status.code, &*status.message), (2, "transient failure"));
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
}

#[tokio::test]
async fn a_receiver_that_is_away_for_a_while_loses_nothing() {
    let (address, mut received) = receiver(2).await;
    let (tracer, _exporting) = tracer(&format!("grpc://{address}"));
    tracer.record(span());
    assert_eq!(next(&mut received).await.len(), 1);
}

#[tokio::test]
async fn what_waits_is_sent_before_the_end() {
    let (address, mut received) = receiver(0).await;
    let (tracer, exporting) = tracer(&format!("http://{address}"));
    for _ in 0..700 {
        tracer.record(span());
    }
    exporting.finish(PATIENCE).await;
    let mut spans = 0;
    while let Ok(message) = received.try_recv() {
        spans += message.resource_spans[0].scope_spans[0].spans.len();
    }
    assert_eq!(spans, 700);
}

#[tokio::test]
async fn recording_never_waits_for_a_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tracer, exporting) = tracer(&format!("http://{address}"));
    // Nobody accepts, and there are more than fit any queue.
    for _ in 0..50_000 {
        tracer.record(span());
    }
    let begun = std::time::Instant::now();
    exporting.finish(Duration::from_millis(100)).await;
    assert!(begun.elapsed() < PATIENCE);
}

/// The head and body of one HTTP/1.1 request.
async fn http_receiver() -> (SocketAddr, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let end = loop {
                socket.read_buf(&mut bytes).await.unwrap();
                if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            while bytes.len() < end + length {
                socket.read_buf(&mut bytes).await.unwrap();
            }
            requests.send((head, bytes.split_off(end))).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        }
    });
    (address, received)
}

#[tokio::test]
async fn receivers_over_http_get_protobuf_or_json() {
    let (address, mut received) = http_receiver().await;
    let (protobuf, _exporting) = tracer(&format!("otlp+http://{address}/v1/traces"));
    protobuf.record(span());
    let (head, body) = received.recv().await.unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf\r\n"),
        "{head}"
    );
    assert!(head.contains("authorization: secret\r\n"), "{head}");
    let message: ExportTraceServiceRequest = prost::Message::decode(&body[..]).unwrap();
    assert_eq!(message.resource_spans[0].scope_spans[0].spans.len(), 1);

    let (json, _exporting) = tracer(&format!("otlp+http+json://{address}/v1/traces"));
    json.record(span());
    let (head, body) = received.recv().await.unwrap();
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let span = &message["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
}
