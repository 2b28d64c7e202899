//! The metadata plane and the way to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::duration;

/// How the metadata plane is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetadataClientConfig {
    /// `host:port` of nodes to ask before any other is known; `http://` in front is allowed. The node's own
    /// address is implied where it has the role.
    pub addresses: Vec<String>,
    /// How long a connection may take to be made.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long a read or a commit is tried before it fails. Longer rides out an election or two.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
}

impl Default for MetadataClientConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// The metadata plane, on nodes with the role `metadata-server`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetadataServerConfig {
    /// How often a leader tells its followers that it lives. Shorter allows shorter election timeouts and
    /// costs idle CPU.
    #[serde(with = "duration")]
    pub heartbeat_interval: Duration,
    /// Silence after which a follower stands for election is between this and `election-timeout-max`.
    /// Shorter replaces a lost leader sooner and mistakes a stall for a loss.
    #[serde(with = "duration")]
    pub election_timeout_min: Duration,
    /// See `election-timeout-min`. A wider range has fewer followers stand at the same time.
    #[serde(with = "duration")]
    pub election_timeout_max: Duration,
    /// Voters at most; more servers listen and take the place of a voter that leaves. Odd. More survive more
    /// failures and make every commit wait for more disks.
    pub voters_max: u8,
    /// Log entries between two snapshots. Fewer keep restarts short and write more.
    pub log_trim_threshold: u64,
    /// Share of `rocksdb-total-memory-size`.
    pub rocksdb_memory_ratio: f64,
}

impl Default for MetadataServerConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(250),
            election_timeout_max: Duration::from_millis(500),
            voters_max: 5,
            log_trim_threshold: 5_000,
            rocksdb_memory_ratio: 0.02,
        }
    }
}
