//! The one typed configuration tree.
//!
//! Built-in defaults, then a TOML file, then the environment (`ABIDE_WORKER__CLEANUP_INTERVAL` is
//! `worker.cleanup-interval`); a command line sets fields afterwards and calls [`Config::validate`].
//! Components receive their subtree. Start at [`Config`] for what can be set and at [`Config::load`] for how.

mod invocations;
mod listening;
mod load;
mod metadata;
mod networking;
mod root;
mod snapshots;
mod storage;
mod text;
mod validate;
mod worker;

pub use invocations::{OnMaxAttempts, RetryPolicy};
pub use listening::{
    AdminConfig, IngestionConfig, IngressConfig, KafkaClusterConfig, ListenMode, QueryEngineConfig,
};
pub use load::{ConfigError, ignored_variables};
pub use metadata::{MetadataClientConfig, MetadataServerConfig};
pub use networking::NetworkingConfig;
pub use root::{Config, LogFormat};
pub use snapshots::{DurabilityMode, ObjectStoreRetryPolicy, SnapshotsConfig};
pub use storage::{LogServerConfig, PartitionStoreConfig};
pub use text::{ByteCount, ByteCountError, DurationError, format_duration, parse_duration};
pub use validate::InvalidValue;
pub use worker::{InvokerConfig, WorkerConfig};
