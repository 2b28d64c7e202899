//! The span of a record that becomes an invocation, below its producer's if it names one.

use std::time::SystemTime;

use abide_processor::api::Produced;
use abide_schema::Subscription;
use abide_telemetry::{Span, Stage, Subject, Tracer};
use abide_types::TraceContext;
use xxhash_rust::xxh3::xxh3_128;

use crate::record::Record;

/// Puts the record's invocation into a trace, and records that it was read. A record that is read again has the same
/// span, since its invocation is the same.
pub(crate) fn read(
    tracer: &Tracer,
    subscription: &Subscription,
    producer: &[u8],
    record: &Record,
    produced: &mut Produced,
) {
    let theirs = (produced.trace.as_ref())
        .and_then(|(parent, state)| TraceContext::from_headers(parent, state));
    let context = context(theirs.as_ref(), producer, record.offset);
    if context.sampled {
        let subject = Subject {
            id: &produced.invocation.id,
            target: &produced.invocation.target,
        };
        let parent = theirs.as_ref().map_or(0, |theirs| theirs.span_id);
        let span = Span::new(
            Stage::IngressKafka,
            subject,
            &context,
            parent,
            SystemTime::now(),
        )
        .with("messaging.operation", "process")
        .with("messaging.source.name", subscription.topic.as_str())
        .with("messaging.destination.name", subscription.sink())
        .with(
            "messaging.kafka.source.partition",
            record.partition.to_string(),
        )
        .with("messaging.kafka.message.offset", record.offset.to_string())
        .with("restate.subscription.id", subscription.id.to_string());
        tracer.record(match theirs {
            Some(_) => span.below_client(),
            None => span,
        });
    }
    produced.trace = Some((context.parent(), context.state));
}

fn context(theirs: Option<&TraceContext>, producer: &[u8], offset: i64) -> TraceContext {
    let mut identity = producer.to_vec();
    identity.extend_from_slice(&offset.to_be_bytes());
    // Neither may be 0.
    let span_id = (xxh3_128(&identity) as u64).max(1);
    if let Some(theirs) = theirs {
        return theirs.with_span(span_id);
    }
    identity.extend_from_slice(b"trace");
    TraceContext {
        trace_id: xxh3_128(&identity).max(1),
        span_id,
        sampled: true,
        state: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_one_span_however_often_it_is_read() {
        let first = context(None, b"p", 41);
        assert_eq!(first, context(None, b"p", 41));
        let next = context(None, b"p", 42);
        assert!(first.trace_id != next.trace_id && first.span_id != next.span_id);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let theirs = TraceContext::from_headers(parent, "a=b");
        let below = context(theirs.as_ref(), b"p", 41);
        assert_eq!(below.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(
            (below.span_id, below.state.as_str()),
            (first.span_id, "a=b")
        );
        assert!(
            !below.sampled,
            "what its producer does not record is not recorded"
        );
    }
}
