//! Collects spans and sends them, many at a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use metrics::Counter;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::endpoint::{Endpoint, EndpointError};
use crate::export::{ExportError, Exporter};
use crate::span::{Span, Value, attribute};

/// Spans that wait to be sent; more are dropped.
const QUEUE_MAX: usize = 8192;
/// Spans of one message.
const BATCH_MAX: usize = 512;
/// How long the first span of a message waits for others.
const BATCH_WITHIN: Duration = Duration::from_millis(500);
/// Tries to send one message, and the pause before the second; it doubles from there.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where spans go and how they introduce themselves.
#[derive(Debug, Clone)]
pub struct TelemetryOptions {
    /// The receiver.
    pub endpoint: Endpoint,
    /// Headers of every message to it.
    pub headers: Vec<(String, String)>,
    /// The cluster and the node.
    pub instance: String,
    /// The version of this server.
    pub version: String,
}

/// Takes spans. Cheap to clone; off unless it was started.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Queue>>);

struct Queue {
    sender: mpsc::Sender<Span>,
    dropped: Counter,
}

impl Tracer {
    /// One that takes nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether spans go anywhere. If not, don't make any.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes a span, or drops it if too many wait.
    pub fn record(&self, span: Span) {
        if let Some(queue) = &self.0
            && queue.sender.try_send(span).is_err()
        {
            queue.dropped.increment(1);
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() {
            "Tracer(on)"
        } else {
            "Tracer(off)"
        })
    }
}

/// Tracers are all alike: which one it is changes nothing of what is done.
impl PartialEq for Tracer {
    fn eq(&self, other: &Self) -> bool {
        self.is_on() == other.is_on()
    }
}

impl Eq for Tracer {}

/// The task that sends spans.
#[derive(Debug)]
pub struct Exporting {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what waits, for at most so long, and ends.
    pub async fn finish(self, within: Duration) {
        let deadline = Instant::now() + within;
        drop(self.stop);
        let mut task = self.task;
        if timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("spans that could not be sent in time are dropped");
        }
    }
}

/// Starts to take and send spans.
///
/// # Errors
/// If a header is none.
pub fn start(options: TelemetryOptions) -> Result<(Tracer, Exporting), EndpointError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let bad = || EndpointError::Header(name.clone());
        headers.insert(
            HeaderName::try_from(name.as_str()).map_err(|_| bad())?,
            HeaderValue::from_str(value).map_err(|_| bad())?,
        );
    }
    let (sender, spans) = mpsc::channel(QUEUE_MAX);
    let (stop, stopped) = mpsc::channel(1);
    let dropped = metrics::counter!("abide_telemetry_spans_dropped_total");
    let collector = Collector {
        spans,
        stopped,
        exporter: Exporter::new(options.endpoint.clone(), headers),
        resource: resource(&options),
        sent: metrics::counter!("abide_telemetry_spans_sent_total"),
        dropped: dropped.clone(),
        is_failing: false,
    };
    let task = tokio::spawn(collector.run());
    let queue = Queue { sender, dropped };
    Ok((Tracer(Some(Arc::new(queue))), Exporting { stop, task }))
}

fn resource(options: &TelemetryOptions) -> Resource {
    let text = |key, value: &str| attribute(key, Value::from(value));
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_default();
    Resource {
        attributes: vec![
            text(
                "service.name",
                if name.is_empty() { "Abide" } else { &name },
            ),
            text("service.namespace", "Abide"),
            text("service.instance.id", &options.instance),
            text("service.version", &options.version),
        ],
        ..Default::default()
    }
}

struct Collector {
    spans: mpsc::Receiver<Span>,
    /// Closes when everything has to be sent now.
    stopped: mpsc::Receiver<()>,
    exporter: Exporter,
    resource: Resource,
    sent: Counter,
    dropped: Counter,
    /// The last message could not be sent: it has been said.
    is_failing: bool,
}

impl Collector {
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let is_stopped = self.fill(&mut batch).await;
            if !batch.is_empty() {
                self.send(std::mem::take(&mut batch), is_stopped).await;
            } else if is_stopped {
                return;
            }
        }
    }

    /// Collects spans until there are enough, the first has waited long enough, or all has to end. Says whether the
    /// latter is so.
    async fn fill(&mut self, batch: &mut Vec<Span>) -> bool {
        let mut deadline = None;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let waited = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                received = self.spans.recv_many(batch, room) => match received {
                    0 => return true,
                    _ => deadline = deadline.or_else(|| Some(Instant::now() + BATCH_WITHIN)),
                },
                _ = self.stopped.recv() => return true,
                () = waited => return false,
            }
        }
        false
    }

    async fn send(&mut self, batch: Vec<Span>, is_last_chance: bool) {
        let count = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "services".to_owned(),
                        ..Default::default()
                    }),
                    spans: batch.into_iter().map(|span| *span.0).collect(),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        match self.try_send(&request, is_last_chance).await {
            Ok(()) => {
                self.sent.increment(count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("spans are sent again");
                }
            }
            Err(error) => {
                self.dropped.increment(count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, spans = count, "spans cannot be sent and are dropped");
                }
            }
        }
    }

    async fn try_send(
        &mut self,
        request: &ExportTraceServiceRequest,
        is_last_chance: bool,
    ) -> Result<(), ExportError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.exporter.send(request).await {
                Err(error) if error.may_pass() && !is_last_chance => {
                    tracing::debug!(%error, "spans are sent again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.exporter.send(request).await
    }
}
