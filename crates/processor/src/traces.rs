//! What a leader tells of the invocations that are traced.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abide_invoker::api::AttemptTrace;
use abide_state_machine::proto as state;
use abide_telemetry::{Span, Stage, Subject, Tracer, new_span_id};
use abide_types::{InvocationId, InvocationTarget, Timestamp, TraceContext};

/// The span of a new attempt.
pub(crate) fn of_attempt(
    id: &InvocationId,
    trace: &state::TraceContext,
) -> Option<Box<AttemptTrace>> {
    let context = abide_state_machine::context_of(trace)?;
    Some(Box::new(AttemptTrace {
        parent: context.start_span(id),
        context: context.with_span(new_span_id()),
    }))
}

/// An invocation was created.
pub(crate) fn started(
    tracer: &Tracer,
    id: &InvocationId,
    target: &InvocationTarget,
    at: Timestamp,
    trace: &state::TraceContext,
) {
    let Some(context) = wanted(tracer, trace) else {
        return;
    };
    let from = UNIX_EPOCH + Duration::from_millis(at.0);
    let span = Span::new(
        Stage::Start,
        Subject { id, target },
        &context.with_span(context.start_span(id)),
        context.span_id,
        from.min(SystemTime::now()),
    );
    let sender = TraceContext::read(&trace.linked, "");
    tracer.record(match &sender {
        Some(sender) => span.linked_to(sender),
        None => span,
    });
}

/// An invocation has ended.
pub(crate) fn ended(
    tracer: &Tracer,
    id: &InvocationId,
    target: &InvocationTarget,
    outcome: &state::Outcome,
    trace: &state::TraceContext,
) {
    let Some(context) = wanted(tracer, trace) else {
        return;
    };
    let span = Span::new(
        Stage::End,
        Subject { id, target },
        &context.with_span(new_span_id()),
        context.start_span(id),
        SystemTime::now(),
    );
    tracer.record(match &outcome.outcome {
        Some(state::outcome::Outcome::Failure(failure)) => span
            .with("restate.invocation.result", "failure")
            .with("error.message", failure.message.as_str())
            .with("restate.invocation.error.code", code(failure.code))
            .failed(&failure.message),
        _ => span
            .with("restate.invocation.result", "success")
            .succeeded(),
    });
}

fn wanted(tracer: &Tracer, trace: &state::TraceContext) -> Option<TraceContext> {
    if !tracer.is_on() {
        return None;
    }
    abide_state_machine::context_of(trace).filter(|context| context.sampled)
}

/// A code with its name, as in `409 Aborted`.
fn code(code: u32) -> String {
    let name = match code {
        400 => "Bad request",
        404 => "Not found",
        408 => "Timeout",
        409 => "Aborted",
        410 => "Gone",
        415 => "Unsupported media type",
        470 => "Not ready",
        500 => "Internal",
        570 => "Journal mismatch",
        571 => "Protocol violation",
        _ => "",
    };
    format!("{code} {name}").trim_end().to_owned()
}
