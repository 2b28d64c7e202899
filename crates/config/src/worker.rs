//! Partition processors and the calling of services.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::snapshots::{DurabilityMode, SnapshotsConfig};
use crate::storage::PartitionStoreConfig;
use crate::text::{ByteCount, duration};

/// Partition processors and the calling of services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WorkerConfig {
    /// How often results whose retention has passed are looked for.
    #[serde(with = "duration")]
    pub cleanup_interval: Duration,
    /// Commands that one record takes. More share the cost of a record and hold up the first of them.
    pub max_command_batch_size: NonZeroU32,
    /// Bytes that one record takes; a single larger command has its own.
    pub max_command_batch_bytes: ByteCount,
    /// Timers that each partition keeps in memory; later ones wait on disk until their turn is near. More save
    /// reads and take memory.
    pub num_timers_in_memory_limit: NonZeroU32,
    /// What must be stored before records of a log are forgotten: `balanced`, `replica-set-only`, `snapshot-only`,
    /// `snapshot-and-replica-set` or `none`. Unset is `balanced` where snapshots have a destination, else
    /// `replica-set-only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability_mode: Option<DurabilityMode>,
    /// In the modes `balanced` and `snapshot-only`, how long records are kept beyond that: a replica that was away for
    /// less catches up from the log instead of a snapshot. Longer takes disk for as much load. In the other modes all
    /// replicas have what is forgotten.
    #[serde(with = "duration")]
    pub trim_delay_interval: Duration,
    /// How often trimming and snapshots are considered. Shorter keeps logs shorter and writes more often.
    #[serde(with = "duration")]
    pub trim_check_interval: Duration,
    /// Fewer records are not trimmed. Less keeps quiet logs shorter and writes more often.
    pub trim_num_records_min: NonZeroU32,
    /// Snapshots of partitions in an object store.
    pub snapshots: SnapshotsConfig,
    /// Storage of the partitions' state.
    pub storage: PartitionStoreConfig,
    /// The calling of services.
    pub invoker: InvokerConfig,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            cleanup_interval: Duration::from_secs(60 * 60),
            max_command_batch_size: NonZeroU32::new(1024).expect("not zero"),
            max_command_batch_bytes: ByteCount::mib(1),
            num_timers_in_memory_limit: NonZeroU32::new(10_000).expect("not zero"),
            durability_mode: None,
            trim_delay_interval: Duration::from_secs(10 * 60),
            trim_check_interval: Duration::from_secs(5),
            trim_num_records_min: NonZeroU32::new(1000).expect("not zero"),
            snapshots: SnapshotsConfig::default(),
            storage: PartitionStoreConfig::default(),
            invoker: InvokerConfig::default(),
        }
    }
}

/// The calling of services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct InvokerConfig {
    /// Silence of a handler after which it is asked to suspend. Longer saves replays, shorter frees
    /// connections and memory.
    #[serde(with = "duration")]
    pub inactivity_timeout: Duration,
    /// How long it may then take before it is cut off. What it did since its last entry is done again.
    #[serde(with = "duration")]
    pub abort_timeout: Duration,
    /// Invocations that run on this node at a time; more wait.
    pub concurrent_invocations_limit: NonZeroU32,
    /// The longest message from a service. Unset is `networking.message-size-limit`.
    pub message_size_limit: Option<ByteCount>,
    /// From here on a message is logged as large.
    pub message_size_warning: ByteCount,
    /// State sent along with an invocation; an object with more is read key by key.
    pub eager_state_size_limit: ByteCount,
    /// Sends no state along; every key is read when a handler asks for it. Saves memory where objects are large
    /// and handlers read little of them, and costs a round trip for each read.
    pub disable_eager_state: bool,
    /// Memory of all running invocations together; more wait.
    pub memory_limit: ByteCount,
    /// Memory of one invocation.
    pub per_invocation_memory_limit: ByteCount,
    /// How deep the things that a handler awaits may be nested.
    pub max_awaited_future_depth: u32,
    /// How long a connection to a service may take to be made.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How often a connection in use is probed. A dead one holds its invocations until then.
    #[serde(with = "duration")]
    pub http2_keep_alive_interval: Duration,
    /// How long the answer to the probe may take.
    #[serde(with = "duration")]
    pub http2_keep_alive_timeout: Duration,
    /// Streams of one connection; more open another. Fewer spread invocations over more processes behind a
    /// load balancer.
    pub http2_streams_per_connection_limit: NonZeroU32,
    /// How long a connection that nobody uses is kept.
    #[serde(with = "duration")]
    pub http2_idle_connection_timeout: Duration,
    /// An Ed25519 private key as PKCS#8 PEM with which requests to services are signed, so that they can tell this
    /// cluster's from others. Another key in the file's place is used from then on. Unset signs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_identity_private_key_pem_file: Option<PathBuf>,
    /// How long a signature is good for. Longer forgives clocks that differ, shorter whoever copies a request.
    #[serde(with = "duration")]
    pub request_identity_expiration: Duration,
    /// An HTTP proxy through which connections to services are tunnelled, such as `http://proxy:3128`; name and password
    /// may stand before its host. Unset connects directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// Hosts, and domains with all below them, that are reached without the proxy; `*` is all.
    pub no_proxy: Vec<String>,
    /// Headers of every request to a service.
    pub additional_request_headers: BTreeMap<String, String>,
}

impl Default for InvokerConfig {
    fn default() -> Self {
        let count = |count| NonZeroU32::new(count).expect("not zero");
        Self {
            inactivity_timeout: Duration::from_secs(60),
            abort_timeout: Duration::from_secs(10 * 60),
            concurrent_invocations_limit: count(1000),
            message_size_limit: None,
            message_size_warning: ByteCount::mib(10),
            eager_state_size_limit: ByteCount::mib(32),
            disable_eager_state: false,
            memory_limit: ByteCount::mib(1536),
            per_invocation_memory_limit: ByteCount::mib(32),
            max_awaited_future_depth: 1000,
            connect_timeout: Duration::from_secs(10),
            http2_keep_alive_interval: Duration::from_secs(40),
            http2_keep_alive_timeout: Duration::from_secs(20),
            http2_streams_per_connection_limit: count(128),
            http2_idle_connection_timeout: Duration::from_secs(5 * 60),
            request_identity_private_key_pem_file: None,
            request_identity_expiration: Duration::from_secs(60),
            http_proxy: None,
            no_proxy: Vec::new(),
            additional_request_headers: BTreeMap::new(),
        }
    }
}
