//! Spans as users see them.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use abide_types::{InvocationId, InvocationTarget, TraceContext};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

/// Events of one span at most; what is beyond is counted.
const EVENTS_MAX: usize = 128;
const SAMPLED: u32 = 1;
const KNOWS_WHERE_PARENT_IS: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// What of an invocation's life a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A client's request was accepted.
    Ingress,
    /// A record of a Kafka topic was read.
    IngressKafka,
    /// It was created.
    Start,
    /// An attempt to run it.
    Attempt,
    /// It ended.
    End,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::IngressKafka => "ingress_kafka",
            Self::Start => "invocation-start",
            Self::Attempt => "invocation-attempt",
            Self::End => "invocation-end",
        }
    }
}

/// Which invocation a span is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a InvocationId,
    /// What is invoked.
    pub target: &'a InvocationTarget,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Yes or no.
    Flag(bool),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// One span, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Span(pub(crate) Box<otlp::Span>);

impl Span {
    /// A span that ends now. `context` names it; `parent` is 0 where the trace begins.
    pub fn new(
        stage: Stage,
        subject: Subject<'_>,
        context: &TraceContext,
        parent: u64,
        from: SystemTime,
    ) -> Self {
        let target = subject.target;
        let keyed = if target.key.is_some() { "{key}/" } else { "" };
        let parent_span_id = match parent {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        };
        let start = nanos(from);
        let span = Self(Box::new(otlp::Span {
            trace_id: context.trace_id.to_be_bytes().to_vec(),
            span_id: context.span_id.to_be_bytes().to_vec(),
            trace_state: context.state.clone(),
            parent_span_id,
            flags: SAMPLED | KNOWS_WHERE_PARENT_IS,
            name: format!(
                "{} {}/{keyed}{}",
                stage.name(),
                target.service,
                target.handler
            ),
            kind: otlp::span::SpanKind::Internal as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: nanos(SystemTime::now()).max(start),
            ..Default::default()
        }));
        let span = match stage {
            Stage::Attempt => span.with("rpc.system", "restate"),
            Stage::IngressKafka => span.with("messaging.system", "kafka"),
            Stage::Ingress | Stage::Start | Stage::End => span,
        };
        span.with("rpc.service", target.service.as_str())
            .with("rpc.method", target.handler.as_str())
            .with("restate.invocation.id", subject.id.to_string())
            .with("restate.invocation.target", target.to_string())
    }

    /// Its parent is a client's span.
    #[must_use]
    pub fn below_client(mut self) -> Self {
        self.0.flags |= PARENT_IS_REMOTE;
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.attributes.push(attribute(key, value.into()));
        self
    }

    /// Adds what happened within.
    pub fn add_event(
        &mut self,
        at: SystemTime,
        name: &'static str,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if self.0.events.len() >= EVENTS_MAX {
            self.0.dropped_events_count += 1;
            return;
        }
        self.0.events.push(otlp::span::Event {
            time_unix_nano: nanos(at),
            name: name.to_owned(),
            attributes: (attributes.into_iter())
                .map(|(key, value)| attribute(key, value))
                .collect(),
            dropped_attributes_count: 0,
        });
    }

    /// Names a span of another trace from which this one came.
    #[must_use]
    pub fn linked_to(mut self, other: &TraceContext) -> Self {
        self.0.links.push(otlp::span::Link {
            trace_id: other.trace_id.to_be_bytes().to_vec(),
            span_id: other.span_id.to_be_bytes().to_vec(),
            attributes: vec![attribute("restate.runtime", Value::Flag(true))],
            flags: SAMPLED | KNOWS_WHERE_PARENT_IS,
            ..Default::default()
        });
        self
    }

    /// It went well.
    #[must_use]
    pub fn succeeded(self) -> Self {
        self.ended(StatusCode::Ok, String::new())
    }

    /// It did not.
    #[must_use]
    pub fn failed(self, why: impl Display) -> Self {
        self.ended(StatusCode::Error, why.to_string())
    }

    fn ended(mut self, code: StatusCode, message: String) -> Self {
        self.0.status = Some(otlp::Status {
            message,
            code: code as i32,
        });
        self.end_now();
        self
    }

    /// It ends now.
    pub fn end_now(&mut self) {
        self.0.end_time_unix_nano = nanos(SystemTime::now()).max(self.0.start_time_unix_nano);
    }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(match value {
                Value::Text(text) => any_value::Value::StringValue(text),
                Value::Flag(flag) => any_value::Value::BoolValue(flag),
            }),
        }),
        ..Default::default()
    }
}
