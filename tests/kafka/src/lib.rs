//! Kafka ingress against a real broker: Apache Kafka's own, in a process of its own.
//!
//! [`Broker`] is one broker, which a test can kill and start again on its data. [`Endpoint`] has the services that
//! records are sent to. The tests are in `tests/`.

#![allow(
    clippy::unwrap_used,
    reason = "only tests use this, and they fail where they are wrong"
)]

mod broker;
mod endpoint;
mod producer;

pub use broker::{Broker, PASSWORD, USER};
pub use endpoint::{Endpoint, Seen};
pub use producer::{Producer, Record};
