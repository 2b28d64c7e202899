//! Traces of invocations, as spans exported over OTLP.
//!
//! Who does something that users want to see makes a [`Span`] and gives it to the [`Tracer`]. A task collects them and
//! sends them to the endpoint that is configured. Without one the tracer is off: callers ask [`Tracer::is_on`] first and
//! do nothing.
//!
//! **Invariant:** recording never waits. What does not fit the queue, or cannot be sent, is dropped and counted.

mod endpoint;
mod export;
mod span;
mod tracer;

pub use endpoint::{Endpoint, EndpointError};
pub use span::{Span, Stage, Subject, Value};
pub use tracer::{Exporting, TelemetryOptions, Tracer, start};

/// A number for a new span. Not 0.
pub fn new_span_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// A number for a new trace. Not 0.
pub fn new_trace_id() -> u128 {
    rand::random::<u128>().max(1)
}
