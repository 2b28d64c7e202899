//! Snapshots of partitions, and what must be stored before logs are trimmed.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{duration, duration_option};

/// Snapshots of partitions in an object store: what replicas start from when the log has been trimmed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SnapshotsConfig {
    /// Where they go, the same for all nodes: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or,
    /// for nodes that share a directory, `file:///directory`. Unset takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Takes one of each partition so often. Shorter shortens what a fresh replica reads of the log, and sends more.
    #[serde(with = "duration_option", skip_serializing_if = "Option::is_none")]
    pub snapshot_interval: Option<Duration>,
    /// Takes one of a partition after so many records. With `snapshot-interval` too, both must be met; with neither,
    /// they are taken on request only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_interval_num_records: Option<NonZeroU64>,
    /// How many of each partition are kept. Logs are trimmed below the oldest: more is more to fall back on, in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_retained: Option<NonZeroU32>,
    /// Whether older ones are deleted. Without it something else has to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_cleanup: Option<bool>,
    /// Partitions of a node whose files are sent or fetched at a time. More is sooner done and takes more of network
    /// and memory, some 30 MiB each. Unset is 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_concurrency_limit: Option<NonZeroU32>,
    /// Region of S3. This and what follows comes from the usual variables of the environment if it is unset, as do the
    /// credentials of Google Cloud and Azure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<String>,
    /// URL of a store that speaks like S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_endpoint_url: Option<String>,
    /// Access key of S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_access_key_id: Option<String>,
    /// Its secret. Not printed with the configuration.
    #[serde(skip_serializing)]
    pub aws_secret_access_key: Option<String>,
    /// Token of temporary credentials. Not printed with the configuration.
    #[serde(skip_serializing)]
    pub aws_session_token: Option<String>,
    /// Takes an endpoint without TLS.
    pub aws_allow_http: bool,
    /// How requests to the store that failed are repeated.
    pub object_store_retry_policy: ObjectStoreRetryPolicy,
}

/// How requests to an object store are repeated: with pauses that grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ObjectStoreRetryPolicy {
    /// The first pause.
    #[serde(with = "duration")]
    pub initial_interval: Duration,
    /// By how much each is longer than the one before.
    pub exponentiation_factor: f64,
    /// The longest.
    #[serde(with = "duration")]
    pub max_interval: Duration,
    /// How often a request is repeated before it has failed.
    pub max_attempts: u32,
}

impl Default for ObjectStoreRetryPolicy {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_millis(100),
            exponentiation_factor: 2.0,
            max_interval: Duration::from_secs(10),
            max_attempts: 10,
        }
    }
}

/// What must be stored before records of a log are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum DurabilityMode {
    /// A snapshot shows them, and every replica in reach has their effects on disk. A node that is away does not hold
    /// trimming up: it starts from the snapshot when it comes back.
    Balanced,
    /// All replicas have their effects on disk. A node that is away holds trimming up.
    ReplicaSetOnly,
    /// A snapshot shows them.
    SnapshotOnly,
    /// A snapshot shows them, and all replicas have their effects on disk.
    SnapshotAndReplicaSet,
    /// Nothing is forgotten, and disks fill up.
    None,
}

impl TryFrom<String> for DurabilityMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "balanced" => Ok(Self::Balanced),
            "replica-set-only" => Ok(Self::ReplicaSetOnly),
            "snapshot-only" => Ok(Self::SnapshotOnly),
            "snapshot-and-replica-set" => Ok(Self::SnapshotAndReplicaSet),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "'{text}' is not a mode; use balanced, replica-set-only, snapshot-only, \
                 snapshot-and-replica-set or none"
            )),
        }
    }
}

impl DurabilityMode {
    /// Whether it asks for snapshots.
    pub fn wants_snapshots(self) -> bool {
        matches!(
            self,
            Self::Balanced | Self::SnapshotOnly | Self::SnapshotAndReplicaSet
        )
    }
}
