//! Connections between nodes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{ByteCount, duration};

/// Connections between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkingConfig {
    /// How often a quiet connection carries a sign of life. Shorter finds the dead sooner and costs idle CPU.
    #[serde(with = "duration")]
    pub heartbeat_interval: Duration,
    /// Silence after which a node counts as dead. Shorter replaces its leaders sooner and mistakes a stall
    /// for a death. A process that is gone is noticed at once, whatever stands here.
    #[serde(with = "duration")]
    pub failure_timeout: Duration,
    /// How long a connection may take to be made.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long the other side may take to introduce itself.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
    /// The longest pause between two attempts to reach a node: one that comes back is found within it.
    #[serde(with = "duration")]
    pub reconnect_interval_max: Duration,
    /// The largest payload of a client or a service, the same on all nodes. Larger ones need memory several
    /// times their size.
    pub message_size_limit: ByteCount,
    /// What may wait to be sent to one node before senders are told to wait. More rides out a stall of the
    /// other side, at the price of memory.
    pub send_queue_size: ByteCount,
}

impl Default for NetworkingConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            failure_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            reconnect_interval_max: Duration::from_millis(200),
            message_size_limit: ByteCount::mib(32),
            send_queue_size: ByteCount::mib(64),
        }
    }
}

impl NetworkingConfig {
    /// The largest frame between nodes: a payload and everything that a record says besides.
    pub fn frame_bytes_max(&self) -> usize {
        self.message_size_limit.as_usize().saturating_mul(2)
    }
}
