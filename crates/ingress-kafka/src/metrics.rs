//! What is counted of one partition of a topic.

use abide_schema::Subscription;
use metrics::{Counter, Gauge, counter, gauge};

const TAKEN: &str = "restate_kafka_ingress_requests_total";
const LAG: &str = "restate_kafka_ingress_consumer_lag";
const REPETITIONS: &str = "abide_kafka_ingress_repetitions_total";
const BLOCKED: &str = "abide_kafka_ingress_blocked";

/// Handles, made once for as long as the partition is assigned to this node.
pub(crate) struct Metrics {
    /// Records that are durably accepted.
    pub(crate) taken: Counter,
    /// Those of them that created no invocation, since they were taken before.
    pub(crate) repetitions: Counter,
    /// 1 while a record cannot be made an invocation.
    pub(crate) blocked: Gauge,
    lag: Gauge,
}

impl Metrics {
    pub(crate) fn new(subscription: &Subscription, partition: i32) -> Self {
        let labels = [
            ("subscription", subscription.id.to_string()),
            ("topic", subscription.topic.clone()),
            ("partition", partition.to_string()),
        ];
        Self {
            taken: counter!(TAKEN, &labels),
            repetitions: counter!(REPETITIONS, &labels),
            blocked: gauge!(BLOCKED, &labels),
            lag: gauge!(LAG, &labels),
        }
    }

    /// So many records of the topic are not taken yet.
    pub(crate) fn lag(&self, records: i64) {
        self.lag.set(records.max(0) as f64);
    }
}

impl Drop for Metrics {
    /// Another node reads on: what is behind there is not behind here.
    fn drop(&mut self) {
        self.blocked.set(0.0);
        self.lag.set(0.0);
    }
}
