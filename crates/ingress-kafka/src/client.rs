//! The Kafka client: its properties, what it tells, and its end.

use std::collections::BTreeMap;

use abide_schema::KafkaProperties;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tokio::sync::mpsc;

/// What holds where a subscription and its cluster say nothing.
const DEFAULTS: [(&str, &str); 3] = [
    // Lag is told so often.
    ("statistics.interval.ms", "5000"),
    // Fetched ahead, for each consumer; more would wait in memory for no gain.
    ("queued.max.messages.kbytes", "16384"),
    // A full queue is looked at again so soon.
    ("fetch.queue.backoff.ms", "20"),
];
/// The same, where the group's protocol leaves it to the client.
const SESSIONS: [(&str, &str); 2] = [
    // A node that dies leaves its partitions to the others after this time.
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "2000"),
];
/// What a subscription cannot change: offsets are stored by the reader and committed by the client.
const FORCED: [(&str, &str); 2] = [
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
];

pub(crate) type Consumer = StreamConsumer<Context>;

/// What the client tells between records. Bounded by what a group and its statistics say.
pub(crate) enum Told {
    /// These partitions are to be read here from now on.
    Assigned(Vec<i32>),
    /// These are not any more.
    Revoked(Vec<i32>),
    /// Records behind, by partition.
    Lag(BTreeMap<i32, i64>),
}

/// Passes on what the client tells about one subscription.
pub(crate) struct Context {
    subscription: String,
    topic: String,
    told: mpsc::UnboundedSender<Told>,
}

/// A client of its own for a subscription. It connects by itself.
pub(crate) fn connect(
    subscription: String,
    topic: String,
    properties: &KafkaProperties,
    told: mpsc::UnboundedSender<Told>,
) -> KafkaResult<Consumer> {
    let mut config = ClientConfig::new();
    let broker_decides = properties
        .get("group.protocol")
        .is_some_and(|protocol| protocol == "consumer");
    let sessions = if broker_decides {
        &[][..]
    } else {
        &SESSIONS[..]
    };
    for (name, value) in DEFAULTS.iter().chain(sessions) {
        config.set(*name, *value);
    }
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value) in FORCED {
        config.set(name, value);
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    config.create_with_context(Context {
        subscription,
        topic,
        told,
    })
}

/// Whether the client gets over it by itself.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, NodeUpdate, OperationTimedOut, Resolve,
    };
    matches!(
        error,
        KafkaError::PartitionEOF(_)
            | KafkaError::MessageConsumption(
                AllBrokersDown | BrokerTransportFailure | NodeUpdate | OperationTimedOut | Resolve
            )
    )
}

impl Context {
    fn tell(&self, told: Told) {
        // A reader that has ended wants to hear nothing.
        let _ = self.told.send(told);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let subscription = &self.subscription;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(subscription, facility, "{message}");
            }
            // Brokers come and go; what does not pass by itself is told as an error to the reader.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(subscription, facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(subscription, facility, "{message}");
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let known = topic
            .partitions
            .iter()
            .filter(|(_, partition)| partition.consumer_lag_stored >= 0)
            .map(|(partition, statistics)| (*partition, statistics.consumer_lag_stored));
        self.tell(Told::Lag(known.collect()));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(subscription = self.subscription, %error, "{reason}");
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            self.tell(Told::Revoked(numbers(partitions)));
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.tell(Told::Assigned(numbers(partitions))),
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => {
                tracing::warn!(subscription = self.subscription, %error, "the group is in disorder");
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // The next commit covers what this one did not; what is read again is known.
        if let Err(error) = result
            && !matches!(
                error,
                KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)
            )
        {
            tracing::debug!(subscription = self.subscription, %error, "offsets not committed");
        }
    }
}

fn numbers(partitions: &TopicPartitionList) -> Vec<i32> {
    let elements = partitions.elements();
    elements.iter().map(|element| element.partition()).collect()
}
