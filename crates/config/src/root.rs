//! The root of the tree: the node itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use abide_types::{ReplicationWish, Role};
use serde::{Deserialize, Serialize};

use crate::invocations::RetryPolicy;
use crate::listening::{AdminConfig, IngressConfig, ListenMode};
use crate::metadata::{MetadataClientConfig, MetadataServerConfig};
use crate::networking::NetworkingConfig;
use crate::storage::LogServerConfig;
use crate::text::{ByteCount, duration, duration_option, ip, replication, roles};
use crate::validate::strip_address;
use crate::worker::WorkerConfig;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What the node does. Fewer roles isolate load; a small cluster runs all of them everywhere.
    #[serde(with = "roles")]
    pub roles: Vec<Role>,
    /// The node's name in the cluster, unique and for good: a restart under another name is another node.
    /// Empty takes the host name.
    pub node_name: String,
    /// The cluster to form or join. A node refuses to work with data or nodes of another one.
    pub cluster_name: String,
    /// `region` or `region.zone`. Copies are spread over different ones; empty spreads them over nodes.
    pub location: String,
    /// Where all data of the node is. Everything on it is lost with it but what other nodes replicate.
    pub base_dir: PathBuf,
    /// Whether this node may form a cluster by itself if it finds none. On for one node at most: two that
    /// cannot see each other would form two clusters.
    pub auto_provision: bool,
    /// Partitions of a new cluster; fixed from then on. More spread the load over more cores and nodes
    /// and cost idle work.
    pub default_num_partitions: u16,
    /// Disks that hold a record before it counts in a new cluster. More survive more failures and wait for
    /// more disks; 0 is two with three or more nodes, else one. Of *2n − 1* replicas *n* have to hold it;
    /// `{zone = 2, node = 3}` says instead how many replicas there are and in how many zones (or regions) at least,
    /// and a majority of them has to.
    #[serde(with = "replication")]
    pub default_replication: ReplicationWish,
    /// Threads that do the node's work; unset takes one for each core. What blocks on a disk has others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_thread_pool_size: Option<NonZeroUsize>,
    /// How long a start may wait for the cluster before it fails. Longer rides out a slow cluster, shorter
    /// leaves the restarting to the supervisor.
    #[serde(with = "duration")]
    pub initialization_timeout: Duration,
    /// How long a stop may take to hand over and finish before it is cut short.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,
    /// Whether ingress and admin API listen at their ports, at sockets in the node's data directory
    /// (`ingress.sock`, `admin.sock`), or both. The node port is always one: other nodes come to it.
    pub listen_mode: ListenMode,
    /// Address on which all ports are bound unless their section says otherwise.
    #[serde(with = "ip")]
    pub bind_ip: IpAddr,
    /// The node port: traffic between nodes, health and metrics. 0 takes a free one.
    pub bind_port: u16,
    /// `ip:port` to bind; overrides `bind-ip` and `bind-port`.
    pub bind_address: Option<SocketAddr>,
    /// `host:port` under which other nodes reach the node port. Unset takes the host name, or the bound
    /// address where that is a specific one.
    pub advertised_address: Option<String>,
    /// Memory of all databases of the node together. More saves reads and compactions.
    pub rocksdb_total_memory_size: ByteCount,
    /// How failed attempts are repeated where neither service nor deployment says.
    pub default_retry_policy: RetryPolicy,
    /// Attempts that a service may ask for at most. Unset does not limit them.
    pub max_retry_policy_max_attempts: Option<u32>,
    /// How long a result is kept for its idempotency key. Longer catches later repetitions and stores more.
    #[serde(with = "duration")]
    pub default_idempotency_retention: Duration,
    /// How long a journal is kept after its invocation has ended, to look at. 0 drops it at once.
    #[serde(with = "duration")]
    pub default_journal_retention: Duration,
    /// How long a workflow's result and state are kept after it has ended.
    #[serde(with = "duration")]
    pub default_workflow_completion_retention: Duration,
    /// The longest that a service may ask for. Unset does not limit it.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub max_idempotency_retention: Option<Duration>,
    /// The longest that a service may ask for. Unset does not limit it.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub max_journal_retention: Option<Duration>,
    /// The longest that a service may ask for. Unset does not limit it.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub max_workflow_completion_retention: Option<Duration>,
    /// What is logged, in the syntax of `RUST_LOG`. More detail costs CPU and disk.
    pub log_filter: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// Leaves colours out, also on a terminal.
    pub log_disable_ansi_codes: bool,
    /// Where spans of invocations are sent: `http://host:4317` or `https://` over gRPC, `otlp+http://host:4318/v1/traces`
    /// or `otlp+https://` over HTTP, `otlp+http+json://` as JSON. Unset sends none and costs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing_endpoint: Option<String>,
    /// The same for the spans of invocations alone. Overrides `tracing-endpoint`; there are no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing_services_endpoint: Option<String>,
    /// Headers of every message of spans, such as what the receiver wants as authorization.
    pub tracing_headers: BTreeMap<String, String>,
    /// Connections between nodes.
    pub networking: NetworkingConfig,
    /// Calls by clients.
    pub ingress: IngressConfig,
    /// The admin API.
    pub admin: AdminConfig,
    /// How the metadata plane is found.
    pub metadata_client: MetadataClientConfig,
    /// The metadata plane, on nodes with that role.
    pub metadata_server: MetadataServerConfig,
    /// Storage of the logs, on nodes with that role.
    pub log_server: LogServerConfig,
    /// Partition processors and the calling of services.
    pub worker: WorkerConfig,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            roles: Role::ALL.to_vec(),
            node_name: String::new(),
            cluster_name: "localcluster".to_owned(),
            location: String::new(),
            base_dir: PathBuf::from("abide-data"),
            auto_provision: true,
            default_num_partitions: 24,
            default_replication: ReplicationWish::default(),
            default_thread_pool_size: None,
            initialization_timeout: Duration::from_secs(5 * 60),
            shutdown_timeout: Duration::from_secs(60),
            listen_mode: ListenMode::default(),
            bind_ip: Ipv6Addr::UNSPECIFIED.into(),
            bind_port: 5122,
            bind_address: None,
            advertised_address: None,
            rocksdb_total_memory_size: ByteCount::mib(1024),
            default_retry_policy: RetryPolicy::default(),
            max_retry_policy_max_attempts: None,
            default_idempotency_retention: DAY,
            default_journal_retention: DAY,
            default_workflow_completion_retention: DAY,
            max_idempotency_retention: None,
            max_journal_retention: None,
            max_workflow_completion_retention: None,
            log_filter: "warn,abide=info".to_owned(),
            log_format: LogFormat::Pretty,
            log_disable_ansi_codes: false,
            tracing_endpoint: None,
            tracing_services_endpoint: None,
            tracing_headers: BTreeMap::new(),
            networking: NetworkingConfig::default(),
            ingress: IngressConfig::default(),
            admin: AdminConfig::default(),
            metadata_client: MetadataClientConfig::default(),
            metadata_server: MetadataServerConfig::default(),
            log_server: LogServerConfig::default(),
            worker: WorkerConfig::default(),
        }
    }
}

impl Config {
    /// Where this node's data is: below the base directory, so that several nodes can share that.
    pub fn node_dir(&self) -> PathBuf {
        self.base_dir.join(&self.node_name)
    }

    /// Where the node port is bound.
    pub fn node_bind(&self) -> SocketAddr {
        (self.bind_address).unwrap_or_else(|| SocketAddr::new(self.bind_ip, self.bind_port))
    }

    /// Where the ingress is bound.
    pub fn ingress_bind(&self) -> SocketAddr {
        let ip = self.ingress.bind_ip.unwrap_or(self.bind_ip);
        (self.ingress.bind_address).unwrap_or_else(|| SocketAddr::new(ip, self.ingress.bind_port))
    }

    /// Where the admin API is bound.
    pub fn admin_bind(&self) -> SocketAddr {
        let ip = self.admin.bind_ip.unwrap_or(self.bind_ip);
        (self.admin.bind_address).unwrap_or_else(|| SocketAddr::new(ip, self.admin.bind_port))
    }

    /// Where the ingress listens.
    pub fn ingress_listen_mode(&self) -> ListenMode {
        self.ingress.listen_mode.unwrap_or(self.listen_mode)
    }

    /// Where the admin API listens.
    pub fn admin_listen_mode(&self) -> ListenMode {
        self.admin.listen_mode.unwrap_or(self.listen_mode)
    }

    /// `host:port` under which other nodes reach the node port, if it is set.
    pub fn advertised_host_port(&self) -> Option<&str> {
        self.advertised_address.as_deref().map(strip_address)
    }

    /// The longest request body that the ingress takes.
    pub fn ingress_request_bytes_max(&self) -> ByteCount {
        let limit = self.ingress.request_size_limit;
        limit.unwrap_or(self.networking.message_size_limit)
    }

    /// The longest message that the invoker takes from a service.
    pub fn invoker_message_bytes_max(&self) -> ByteCount {
        let limit = self.worker.invoker.message_size_limit;
        limit.unwrap_or(self.networking.message_size_limit)
    }

    /// Memory of the partition store's database.
    pub fn partition_store_memory(&self) -> ByteCount {
        self.database_memory(self.worker.storage.rocksdb_memory_ratio)
    }

    /// Memory of the log server's database.
    pub fn log_server_memory(&self) -> ByteCount {
        self.database_memory(self.log_server.rocksdb_memory_ratio)
    }

    /// Memory of the metadata server's database.
    pub fn metadata_server_memory(&self) -> ByteCount {
        self.database_memory(self.metadata_server.rocksdb_memory_ratio)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of memory need not be exact, and validation keeps the ratio within 0 and 1"
    )]
    fn database_memory(&self, ratio: f64) -> ByteCount {
        ByteCount((self.rocksdb_total_memory_size.0 as f64 * ratio) as u64)
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum LogFormat {
    /// For people: several lines an event.
    Pretty,
    /// For people: one line an event.
    Compact,
    /// For machines: one JSON object an event.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "pretty" => Ok(Self::Pretty),
            "compact" => Ok(Self::Compact),
            "json" => Ok(Self::Json),
            _ => Err(format!(
                "'{text}' is not a format; use pretty, compact or json"
            )),
        }
    }
}
