//! What an operator can set.

use std::sync::Arc;
use std::time::Duration;

use abide_service_protocol::{awaiting, frame};
use abide_telemetry::Tracer;

use crate::identity::Identity;
use crate::proxy::Proxy;

/// How deployments are driven.
#[derive(Debug, Clone)]
pub struct InvokerOptions {
    /// Attempts at a time on this node. More of them wait, and their invocations with them.
    pub concurrency_max: usize,
    /// Bytes of messages that are half received, over all attempts. An attempt that would need more fails and is
    /// tried again.
    pub memory_bytes_max: usize,
    /// The longest message that an endpoint may send.
    pub message_bytes_max: usize,
    /// From this length on a message is logged as large.
    pub message_bytes_warn: usize,
    /// Bytes of messages that one attempt may have half received. An attempt that needs more fails and is tried
    /// again.
    pub attempt_memory_bytes_max: usize,
    /// How deep the things that a handler awaits may be nested; one that nests them deeper is paused.
    pub await_depth_max: usize,
    /// Whether calls of handlers may carry scopes and limit keys.
    pub scopes: bool,
    /// Messages from the leader that wait for one attempt. When there are more the leader starts another attempt.
    pub messages_max: usize,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// Streams on one connection, if the endpoint allows as many.
    pub streams_per_connection_max: usize,
    /// How long a connection without streams is kept.
    pub idle_timeout: Duration,
    /// How often a connection with streams is asked whether it lives.
    pub keep_alive_interval: Duration,
    /// How long the answer may take.
    pub keep_alive_timeout: Duration,
    /// How long the response of an ended attempt may take to end.
    pub drain_timeout: Duration,
    /// How long one request of a discovery may take.
    pub discovery_timeout: Duration,
    /// The longest response to a discovery.
    pub discovery_bytes_max: usize,
    /// Headers that go with every discovery and invocation, such as the cluster's name.
    pub headers: Vec<(String, String)>,
    /// Signs every discovery and invocation.
    pub identity: Option<Identity>,
    /// What connections to deployments go through.
    pub proxy: Option<Arc<Proxy>>,
    /// Takes the spans of attempts.
    pub tracer: Tracer,
}

impl Default for InvokerOptions {
    fn default() -> Self {
        Self {
            concurrency_max: 1000,
            memory_bytes_max: 256 * 1024 * 1024,
            message_bytes_max: frame::DEFAULT_PAYLOAD_LENGTH_MAX,
            message_bytes_warn: 10 * 1024 * 1024,
            attempt_memory_bytes_max: 32 * 1024 * 1024,
            await_depth_max: awaiting::DEFAULT_DEPTH_MAX,
            scopes: false,
            messages_max: 1024,
            connect_timeout: Duration::from_secs(10),
            streams_per_connection_max: 128,
            idle_timeout: Duration::from_secs(300),
            keep_alive_interval: Duration::from_secs(40),
            keep_alive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(5),
            discovery_timeout: Duration::from_secs(10),
            discovery_bytes_max: 32 * 1024 * 1024,
            headers: Vec::new(),
            identity: None,
            proxy: None,
            tracer: Tracer::off(),
        }
    }
}
