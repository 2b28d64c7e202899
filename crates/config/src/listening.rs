//! The ports for clients and operators.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{ByteCount, duration, ip_option};

/// Where the ingress and the admin API listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenMode {
    /// At a port and at a socket in the node's data directory.
    #[default]
    All,
    /// At a port only.
    Tcp,
    /// At a socket only: reachable for programs on this machine that may open the file.
    Unix,
}

impl ListenMode {
    /// Whether there is a port.
    pub const fn has_port(self) -> bool {
        matches!(self, Self::All | Self::Tcp)
    }

    /// Whether there is a socket.
    pub const fn has_socket(self) -> bool {
        matches!(self, Self::All | Self::Unix)
    }
}

/// Calls by clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IngressConfig {
    /// Port, socket or both. Unset takes the node's.
    pub listen_mode: Option<ListenMode>,
    /// Address to bind. Unset takes the node's.
    #[serde(with = "ip_option", skip_serializing_if = "Option::is_none")]
    pub bind_ip: Option<IpAddr>,
    /// Port to bind. 0 takes a free one.
    pub bind_port: u16,
    /// `ip:port` to bind; overrides `bind-ip` and `bind-port`.
    pub bind_address: Option<SocketAddr>,
    /// URL under which clients reach this ingress, for listings. Unset is made from the node's address.
    pub advertised_address: Option<String>,
    /// The longest request body; a longer one is refused with 413. Unset is `networking.message-size-limit`.
    pub request_size_limit: Option<ByteCount>,
    /// Requests at a time; more get 429. Unset does not limit them, which leaves memory to the clients.
    pub concurrent_api_requests_limit: Option<NonZeroU32>,
    /// Streams at a time of one HTTP/2 connection. Unset leaves it to the library.
    pub http2_max_concurrent_streams: Option<NonZeroU32>,
    /// How long requests in progress may take to end when the node stops.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Kafka clusters that every node of the cluster has to list alike. Better register them with the admin API, which
    /// can change them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kafka_clusters: Vec<KafkaClusterConfig>,
    /// Records of subscribed topics on their way to their partitions.
    pub ingestion: IngestionConfig,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            listen_mode: None,
            bind_ip: None,
            bind_port: 8080,
            bind_address: None,
            advertised_address: None,
            request_size_limit: None,
            concurrent_api_requests_limit: None,
            http2_max_concurrent_streams: None,
            drain_timeout: Duration::from_secs(5),
            kafka_clusters: Vec::new(),
            ingestion: IngestionConfig::default(),
        }
    }
}

/// A Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaClusterConfig {
    /// Its name in the sources of subscriptions.
    pub name: String,
    /// `host:port` of some of its brokers.
    pub brokers: Vec<String>,
    /// More properties of the client, by their names in librdkafka's documentation.
    #[serde(flatten)]
    pub properties: BTreeMap<String, String>,
}

/// Records of subscribed topics on their way to their partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IngestionConfig {
    /// Records of one subscription that were read and are not accepted yet. More rides out a change of leader without a
    /// pause and takes memory.
    pub inflight_memory_budget: ByteCount,
    /// Records that are sent to a partition together. More share the cost of an answer and hold up the first of them.
    pub request_batch_size: ByteCount,
}

impl Default for IngestionConfig {
    fn default() -> Self {
        Self {
            inflight_memory_budget: ByteCount::mib(4),
            request_batch_size: ByteCount::kib(256),
        }
    }
}

/// The admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdminConfig {
    /// Port, socket or both. Unset takes the node's.
    pub listen_mode: Option<ListenMode>,
    /// Address to bind. Unset takes the node's.
    #[serde(with = "ip_option", skip_serializing_if = "Option::is_none")]
    pub bind_ip: Option<IpAddr>,
    /// Port to bind. 0 takes a free one.
    pub bind_port: u16,
    /// `ip:port` to bind; overrides `bind-ip` and `bind-port`.
    pub bind_address: Option<SocketAddr>,
    /// URL under which operators reach this admin API, for listings. Unset is made from the node's address.
    pub advertised_address: Option<String>,
    /// Requests at a time; more get 429. Unset does not limit them.
    pub concurrent_api_requests_limit: Option<NonZeroU32>,
    /// Headers whose values tell deployments at one address apart: of two registrations that differ in one of
    /// them, neither replaces the other.
    pub deployment_routing_headers: Vec<String>,
    /// Leaves out the paths of the web UI.
    pub disable_web_ui: bool,
    /// SQL at `/query`.
    pub query_engine: QueryEngineConfig,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen_mode: None,
            bind_ip: None,
            bind_port: 9070,
            bind_address: None,
            advertised_address: None,
            concurrent_api_requests_limit: None,
            deployment_routing_headers: Vec::new(),
            disable_web_ui: false,
            query_engine: QueryEngineConfig::default(),
        }
    }
}

/// SQL at `/query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QueryEngineConfig {
    /// Memory that all queries of the node may take together. A query that needs more fails.
    pub memory_size: ByteCount,
    /// Threads that run queries, and partitions that one of them reads at a time. Unset is one for each core.
    pub query_parallelism: Option<NonZeroU32>,
    /// Where sorts that do not fit into the memory go. Unset lets them fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_dir: Option<PathBuf>,
    /// How long a query may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Queries at a time; more get 429.
    pub concurrent_queries_limit: NonZeroU32,
}

impl Default for QueryEngineConfig {
    fn default() -> Self {
        Self {
            memory_size: ByteCount::mib(1024),
            query_parallelism: None,
            tmp_dir: None,
            timeout: Duration::from_secs(60),
            concurrent_queries_limit: NonZeroU32::new(32).expect("not zero"),
        }
    }
}
