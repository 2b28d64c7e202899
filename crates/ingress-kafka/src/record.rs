//! A record of a topic as an invocation: what the handler sees of it (operations reference, section 9).

use abide_processor::api::{NewInvocation, Produced};
use abide_schema::{ResolveError, Schema, Subscription};
use abide_types::DeploymentId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use xxhash_rust::xxh3::xxh3_128;

/// What a record weighs beside its key and value.
const OVERHEAD_BYTES: usize = 512;

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Bytes,
    /// `traceparent` and `tracestate`.
    pub(crate) trace: Option<(String, String)>,
}

/// Why a record cannot be made an invocation. Its partition of the topic waits until it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the key of the record is not UTF-8: {0}")]
    Key(std::str::Utf8Error),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(
        "the service '{service}' is served by {deployment} only, whose protocol is not spoken any more"
    )]
    Deprecated {
        service: String,
        deployment: DeploymentId,
    },
}

impl From<&BorrowedMessage<'_>> for Record {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message
                .payload()
                .map(Bytes::copy_from_slice)
                .unwrap_or_default(),
            trace: trace(message),
        }
    }
}

fn trace(message: &BorrowedMessage<'_>) -> Option<(String, String)> {
    let headers = message.headers()?;
    let find = |name: &str| {
        let header = headers
            .iter()
            .find(|header| header.key.eq_ignore_ascii_case(name))?;
        Some(std::str::from_utf8(header.value?).ok()?.to_owned())
    };
    Some((find("traceparent")?, find("tracestate").unwrap_or_default()))
}

impl Record {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.value.len() + self.key.as_ref().map_or(0, Bytes::len)
    }

    /// The invocation, aimed at what is registered now. The same record of the same `producer` makes the same
    /// invocation wherever it is read, so that its partition knows a repetition.
    pub(crate) fn invocation(
        &self,
        subscription: &Subscription,
        producer: &[u8],
        schema: &Schema,
    ) -> Result<Produced, Refused> {
        let service = schema.service(&subscription.service)?;
        let handler = service.handler(&subscription.handler)?;
        if !service.supported {
            return Err(Refused::Deprecated {
                service: service.name.clone(),
                deployment: service.deployment,
            });
        }
        let key = if service.kind.is_keyed() {
            let key = self.key.as_deref().unwrap_or_default();
            Some(std::str::from_utf8(key).map_err(Refused::Key)?.to_owned())
        } else {
            None
        };
        let target = handler.target(key);
        let invocation = NewInvocation {
            id: target.invocation_id(None, self.unique(producer)),
            target,
            flow: None,
            headers: self.headers(subscription),
            input: self.value.clone(),
            idempotency_key: None,
            execute_at: None,
            // Repetitions are known by their positions, so that nothing has to be kept for them.
            retention: handler.retention(false),
            // In the batch, beside its position.
            trace: None,
        };
        Ok(Produced {
            // Offsets start at 0, positions above it.
            position: self.offset.unsigned_abs() + 1,
            invocation,
            trace: self.trace.clone(),
        })
    }

    /// In the form of a ULID, as other invocations have it: the time, then what no other record has.
    fn unique(&self, producer: &[u8]) -> u128 {
        const HASH_BITS: u32 = 80;
        let mut identity = producer.to_vec();
        identity.extend_from_slice(&self.offset.to_be_bytes());
        let hash = xxh3_128(&identity) & ((1 << HASH_BITS) - 1);
        let at = self.timestamp.unwrap_or(0).unsigned_abs();
        u128::from(at) << HASH_BITS | hash
    }

    fn headers(&self, subscription: &Subscription) -> Vec<(String, String)> {
        let mut headers = Vec::with_capacity(6);
        let mut push = |name: &str, value: String| headers.push((name.to_owned(), value));
        push("restate.subscription.id", subscription.id.to_string());
        push("kafka.topic", subscription.topic.clone());
        push("kafka.partition", self.partition.to_string());
        push("kafka.offset", self.offset.to_string());
        if let Some(timestamp) = self.timestamp {
            push("kafka.timestamp", timestamp.to_string());
        }
        if let Some(key) = &self.key {
            push("kafka.key", URL_SAFE.encode(key));
        }
        headers
    }
}

/// Tells a partition of a topic from every other one that is read for any subscription.
pub(crate) fn producer(subscription: &Subscription, group: &str, partition: i32) -> Bytes {
    let id = subscription.id.to_string();
    let mut identity = Vec::new();
    for part in [&id, group, &subscription.topic] {
        identity.extend_from_slice(part.as_bytes());
        identity.push(0xFF);
    }
    identity.extend_from_slice(&partition.to_be_bytes());
    Bytes::copy_from_slice(&xxh3_128(&identity).to_be_bytes())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
