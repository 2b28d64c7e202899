//! The databases of the data path.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{ByteCount, duration};

/// Storage of the logs, on nodes with the role `log-server`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogServerConfig {
    /// Share of `rocksdb-total-memory-size`. Records wait in memory to be sorted to disk: more of it means
    /// fewer and larger files.
    pub rocksdb_memory_ratio: f64,
    /// Recent records kept in memory for followers and replicas that lag. With less, more is read from disk.
    pub record_cache_memory_size: ByteCount,
    /// The most that one write to disk takes. More shares a sync among more records and holds up the first.
    pub write_batch_size: ByteCount,
    /// With less room than this on the disk, appends are refused. It is what compaction and a repair can use.
    pub free_space_min: ByteCount,
}

impl Default for LogServerConfig {
    fn default() -> Self {
        Self {
            rocksdb_memory_ratio: 0.49,
            record_cache_memory_size: ByteCount::mib(64),
            write_batch_size: ByteCount::mib(8),
            free_space_min: ByteCount::mib(512),
        }
    }
}

/// Storage of the partitions' state, on nodes with the role `worker`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PartitionStoreConfig {
    /// Share of `rocksdb-total-memory-size`.
    pub rocksdb_memory_ratio: f64,
    /// What a partition changes is kept in memory up to this size before it is handed to the database: what
    /// is changed again or deleted until then is never written. More saves writes and costs memory per
    /// partition.
    pub spill_after_size: ByteCount,
    /// A partition whose database holds this much that is not on disk puts it there. Less keeps the replay
    /// after a crash short and writes more, smaller files. Every worker replays its partitions at once, so
    /// count with all of them.
    pub flush_after_size: ByteCount,
    /// The same by time, so that the log of a quiet partition can be trimmed.
    #[serde(with = "duration")]
    pub flush_interval: Duration,
}

impl Default for PartitionStoreConfig {
    fn default() -> Self {
        Self {
            rocksdb_memory_ratio: 0.49,
            spill_after_size: ByteCount::mib(4),
            flush_after_size: ByteCount::mib(16),
            flush_interval: Duration::from_secs(60),
        }
    }
}
