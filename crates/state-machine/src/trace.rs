//! Where invocations stand in the traces of who called them.

use abide_types::{InvocationId, TraceContext};

use crate::action::Action;
use crate::apply::Transaction;
use crate::proto::{self, Invocation};

impl Transaction<'_> {
    /// The trace of a callee that its caller waits for: below the attempt that called.
    pub(crate) fn trace_of_call(&self, caller: &Invocation) -> Option<Box<proto::TraceContext>> {
        let stored = caller.trace.as_deref()?;
        let mut context = context_of(stored)?;
        context.span_id = match self.span {
            0 => context.span_id,
            span => span,
        };
        Some(Box::new((&context).into()))
    }

    /// The trace of a callee that goes its own way: a new one, linked to the attempt that called.
    pub(crate) fn trace_of_send(
        &self,
        caller: &Invocation,
        callee: &InvocationId,
    ) -> Option<Box<proto::TraceContext>> {
        let stored = caller.trace.as_deref()?;
        let context = context_of(stored)?;
        let linked = context.with_span(self.span).parent();
        let own = TraceContext {
            trace_id: u128::from_be_bytes(callee.uuid()).max(1),
            span_id: 0,
            sampled: context.sampled,
            state: String::new(),
        };
        Some(Box::new(proto::TraceContext {
            linked,
            ..(&own).into()
        }))
    }

    /// Says that an invocation with a trace has come to be.
    pub(crate) fn trace_start(&mut self, id: &InvocationId, invocation: &Invocation) {
        if let Some(trace) = &invocation.trace
            && let Some(target) = &invocation.target
        {
            self.actions.push(Action::Created {
                id: *id,
                target: target.into(),
                at: self.at,
                trace: trace.clone(),
            });
        }
    }
}

/// A stored context; `None` if it is none.
pub fn context_of(stored: &proto::TraceContext) -> Option<TraceContext> {
    TraceContext::read(&stored.traceparent, &stored.tracestate)
}

impl From<&TraceContext> for proto::TraceContext {
    fn from(context: &TraceContext) -> Self {
        Self {
            traceparent: context.parent(),
            tracestate: context.state.clone(),
            linked: String::new(),
        }
    }
}
