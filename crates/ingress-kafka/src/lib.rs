//! Kafka ingress: records of subscribed topics become invocations, exactly once.
//!
//! Every worker runs one consumer for each subscription ([`KafkaIngress`]), all of a subscription in one group, so that
//! Kafka spreads the topic's partitions over the nodes. A consumer reads ([`reader`]), makes invocations of records
//! ([`record`]), sends them to the leaders of their partitions in the order of their offsets ([`source`] keeps that
//! order), and stores an offset only when everything before it is durably accepted.
//!
//! **Invariant:** what one partition of a topic sends to one partition of the cluster is accepted before the next is
//! sent. The receiver keeps the highest position that it took from each source and refuses what is not above it, so that
//! a record that is read again creates nothing, whoever reads it.
//!
//! Not here: what is subscribed to what (`abide_schema`), and the refusing (`abide_state_machine`).

mod client;
mod metrics;
mod reader;
mod record;
mod source;
mod subscriptions;
mod trace;

pub use subscriptions::{KafkaIngress, KafkaOptions};
