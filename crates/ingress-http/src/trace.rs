//! The span of a client's request, below the client's own if it has one.

use std::net::SocketAddr;
use std::time::SystemTime;

use abide_processor::api::NewInvocation;
use abide_telemetry::{Span, Stage, Subject, Tracer, new_span_id, new_trace_id};
use abide_types::TraceContext;
use http::HeaderMap;
use http::request::Parts;

/// From where a request came; an extension of requests while the tracer is on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) SocketAddr);

/// Records that a request was accepted and puts its invocation into the trace. Called if the tracer is on.
pub(crate) fn accepted(tracer: &Tracer, parts: &Parts, invocation: &mut NewInvocation) {
    let clients = context(&parts.headers);
    let parent = clients.as_ref().map_or(0, |context| context.span_id);
    let context = match &clients {
        Some(context) => context.with_span(new_span_id()),
        None => TraceContext {
            trace_id: new_trace_id(),
            span_id: new_span_id(),
            sampled: true,
            state: String::new(),
        },
    };
    if context.sampled {
        let subject = Subject {
            id: &invocation.id,
            target: &invocation.target,
        };
        let span = Span::new(Stage::Ingress, subject, &context, parent, SystemTime::now());
        let span = match parts.extensions.get::<Client>() {
            Some(Client(address)) => span
                .with(
                    "client.socket.address",
                    address.ip().to_canonical().to_string(),
                )
                .with("client.socket.port", address.port().to_string()),
            None => span,
        };
        tracer.record(if clients.is_some() {
            span.below_client()
        } else {
            span
        });
    }
    invocation.trace = Some(Box::new(context));
}

fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let states: Vec<_> = headers
        .get_all("tracestate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    TraceContext::from_headers(parent, &states.join(","))
}
