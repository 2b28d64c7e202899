//! The span of one attempt.

use std::time::SystemTime;

use abide_service_protocol::{MessageType, Notification, NotificationId, RawEntry};
use abide_telemetry::{Span, Stage, Subject, Tracer, Value};
use abide_types::TraceContext;

use crate::api::{Attempt, Effect};

/// Where an attempt stands in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptTrace {
    /// The attempt's own span: endpoints and callees are told of it.
    pub context: TraceContext,
    /// The span of the invocation's start.
    pub parent: u64,
}

/// Makes an attempt's span of what the attempt does. Dropped before the end is told, it records an attempt that was
/// given up.
pub(crate) struct Recorder {
    tracer: Tracer,
    /// `None` once it is recorded.
    span: Option<Span>,
}

impl Recorder {
    /// `None` if nobody wants to see it.
    pub(crate) fn new(tracer: &Tracer, attempt: &Attempt) -> Option<Self> {
        if !tracer.is_on() {
            return None;
        }
        let trace = attempt.trace.as_deref()?;
        let subject = Subject {
            id: &attempt.invocation,
            target: &attempt.target,
        };
        trace.context.sampled.then(|| Self {
            tracer: tracer.clone(),
            span: Some(Span::new(
                Stage::Attempt,
                subject,
                &trace.context,
                trace.parent,
                SystemTime::now(),
            )),
        })
    }

    /// Says where it runs.
    pub(crate) fn runs_at(&mut self, deployment: String, address: &str, protocol: u16) {
        self.span = self.span.take().map(|span| {
            span.with("restate.deployment.id", deployment)
                .with("restate.deployment.address", address)
                .with(
                    "restate.deployment.service_protocol_version",
                    protocol.to_string(),
                )
        });
    }

    /// Says what it did.
    pub(crate) fn note(&mut self, effect: &Effect) {
        match effect {
            Effect::Pinned(_) => {}
            Effect::Command { entry, .. } => self.command(entry),
            Effect::RunProposal { entry } => {
                let id = match Notification::decode(entry).map(|notification| notification.id) {
                    Ok(NotificationId::Completion(id)) => format!("CompletionId: {id}"),
                    _ => return,
                };
                let id = ("restate.journal.notification.id", Value::from(id));
                self.event("restate.invocation.lifecycle.run_ended", [id]);
            }
            Effect::Suspended { .. } => {
                self.event("restate.invocation.lifecycle.suspended", []);
                self.end(Span::succeeded);
            }
            Effect::End => self.end(Span::succeeded),
            Effect::Failed(_) => self.end(|span| span.failed("transient failure")),
        }
    }

    fn command(&mut self, entry: &RawEntry) {
        let ty = MessageType::from_code(entry.ty).map_or("unknown", MessageType::name);
        let ty = (
            "restate.journal.command.type",
            Value::from(format!("Command/{ty}")),
        );
        let name = Some(entry.command_name()).filter(|name| !name.is_empty());
        let name = name.map(|name| ("restate.journal.command.name", Value::from(name)));
        let attributes = [Some(ty), name].into_iter().flatten();
        self.event("restate.invocation.lifecycle.new_command", attributes);
    }

    fn event(
        &mut self,
        name: &'static str,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if let Some(span) = &mut self.span {
            span.add_event(SystemTime::now(), name, attributes);
        }
    }

    fn end(&mut self, ended: impl FnOnce(Span) -> Span) {
        if let Some(span) = self.span.take() {
            self.tracer.record(ended(span));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end(|mut span| {
            span.end_now();
            span
        });
    }
}
