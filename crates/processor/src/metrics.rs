//! Counters and gauges of partitions.

use abide_types::{Lsn, PartitionId};
use metrics::{Counter, Gauge, counter, gauge};

/// Handles by partition, made once so that the hot path does not look them up.
pub(crate) struct Metrics {
    partitions: Vec<PartitionMetrics>,
}

struct PartitionMetrics {
    applied: Gauge,
    completed: Counter,
    stopped: Gauge,
}

impl Metrics {
    pub(crate) fn new(partitions: u16) -> Self {
        let of = |partition: u16| {
            let partition = partition.to_string();
            PartitionMetrics {
                applied: gauge!("abide_partition_applied_lsn", "partition" => partition.clone()),
                completed: counter!("abide_partition_invocations_completed_total", "partition" => partition.clone()),
                stopped: gauge!("restate_partition_blocked_flare", "partition" => partition, "reason" => "stopped"),
            }
        };
        Self {
            partitions: (0..partitions).map(of).collect(),
        }
    }

    fn of(&self, partition: PartitionId) -> Option<&PartitionMetrics> {
        self.partitions.get(usize::from(partition.0))
    }

    pub(crate) fn applied(&self, partition: PartitionId, lsn: Lsn) {
        if let Some(metrics) = self.of(partition) {
            metrics.applied.set(lsn.0 as f64);
        }
    }

    pub(crate) fn completed(&self, partition: PartitionId) {
        if let Some(metrics) = self.of(partition) {
            metrics.completed.increment(1);
        }
    }

    pub(crate) fn stopped(&self, partition: PartitionId) {
        if let Some(metrics) = self.of(partition) {
            metrics.stopped.set(1.0);
        }
    }
}
