//! Settings of the metadata plane, and what a node says of itself.

use std::time::Duration;

use abide_types::{ReplicationWish, Role};

/// How servers and clients of the metadata plane behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataOptions {
    /// `host:port` of nodes to ask before any other is known (`http://` in front is allowed). A server's own
    /// address may be among them.
    pub addresses: Vec<String>,
    /// Forms a cluster on the first start, if no node at `addresses` belongs to one. Set on at most one node.
    pub auto_provision: Option<ProvisionSettings>,
    /// What an operator who forms a cluster with this server, and does not say otherwise, gets.
    pub provision_defaults: ProvisionSettings,
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval: Duration,
    /// Silence after which a follower stands for election is between this and `election_timeout_max`.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`. Also how long a voter stays with a leader that it heard of.
    pub election_timeout_max: Duration,
    /// Voters at most; more metadata servers listen and take a voter's place when it leaves. Odd.
    pub voters_max: usize,
    /// Log entries behind the last snapshot at which a new one is made.
    pub snapshot_every: u64,
    /// Log entries that are kept behind a snapshot, to feed followers that are a little late.
    pub entries_kept: u64,
    /// How long a commit, a read or a registration is tried before it fails.
    pub request_timeout: Duration,
    /// How long one attempt waits for one server.
    pub attempt_timeout: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// First pause before the addresses are tried again; doubles up to `retry_pause_max`.
    pub retry_pause_min: Duration,
    /// See `retry_pause_min`.
    pub retry_pause_max: Duration,
    /// Largest message and largest snapshot.
    pub message_bytes_max: usize,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            auto_provision: None,
            provision_defaults: ProvisionSettings::default(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(250),
            election_timeout_max: Duration::from_millis(500),
            voters_max: 5,
            snapshot_every: 5_000,
            entries_kept: 1_000,
            request_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            retry_pause_min: Duration::from_millis(20),
            retry_pause_max: Duration::from_millis(100),
            message_bytes_max: 64 << 20,
        }
    }
}

impl MetadataOptions {
    /// Checks the relations between settings; the error says what would be right.
    pub fn validate(&self) -> Result<(), String> {
        if self.election_timeout_min >= self.election_timeout_max {
            return Err("the shortest election timeout must be below the longest".into());
        }
        if self.heartbeat_interval * 2 > self.election_timeout_min {
            return Err(
                "the shortest election timeout must be at least twice the heartbeat interval"
                    .into(),
            );
        }
        if self.heartbeat_interval < Duration::from_millis(5) {
            return Err("the heartbeat interval must be at least 5 ms".into());
        }
        if self.voters_max == 0 {
            return Err("there must be room for one voter".into());
        }
        if self.snapshot_every == 0 {
            return Err("a snapshot cannot be made every 0 entries; use 1 or more".into());
        }
        if self.message_bytes_max < 64 << 10 {
            return Err("messages must be allowed to have 64 KiB".into());
        }
        if self.retry_pause_min.is_zero() || self.retry_pause_min > self.retry_pause_max {
            return Err("the first retry pause must be above zero and at most the longest".into());
        }
        match &self.auto_provision {
            Some(settings) => settings.validate(),
            None => Ok(()),
        }
    }
}

/// What is fixed when a cluster is formed. Its name is the [`NodeDescription::cluster_name`] of the node
/// that forms it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvisionSettings {
    /// Number of partitions.
    pub partitions: u16,
    /// Copies of logs and partitions, and where they are.
    pub replication: ReplicationWish,
}

impl Default for ProvisionSettings {
    fn default() -> Self {
        Self {
            partitions: 24,
            replication: ReplicationWish::default(),
        }
    }
}

impl ProvisionSettings {
    /// Checks the settings; the error says what would be right.
    pub fn validate(&self) -> Result<(), String> {
        if self.partitions == 0 {
            return Err("a cluster has at least one partition".into());
        }
        let ReplicationWish {
            replicas,
            write_quorum,
            zones,
            regions,
        } = self.replication;
        if write_quorum > 0 && write_quorum > replicas {
            return Err(format!(
                "the write quorum {write_quorum} is above the number of replicas {replicas}"
            ));
        }
        if replicas > 0 && zones.max(regions) > replicas {
            return Err(format!(
                "{replicas} replicas are in fewer than {} zones or regions",
                zones.max(regions)
            ));
        }
        Ok(())
    }
}

/// What a node says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDescription {
    /// The cluster that it wants to be in.
    pub cluster_name: String,
    /// Its name, of its own in the cluster.
    pub name: String,
    /// `host:port` at which the others reach its node port.
    pub address: String,
    /// Where clients reach its ingress.
    pub ingress_address: Option<String>,
    /// Where operators reach its admin API.
    pub admin_address: Option<String>,
    /// What it does.
    pub roles: Vec<Role>,
    /// `region` or `region.zone`; may be empty.
    pub location: String,
}
