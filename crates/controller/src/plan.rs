//! What has to change in the partition table: a function of the cluster's state and of nothing else.

use std::collections::BTreeMap;

use abide_types::PartitionId;

use crate::cluster::{Cluster, Placement};
use crate::leadership::Leadership;
use crate::replicas::Replicas;

/// The new placement of every partition that has to change, each with a fresh epoch. Empty when all is well.
///
/// A change of the replica set takes an epoch even when the leader stays, since an epoch owns one segment and a
/// segment has one replica set.
pub fn plan(cluster: &Cluster) -> BTreeMap<PartitionId, Placement> {
    let replicas = Replicas::of(cluster).settle();
    let leaders = Leadership::of(cluster, &replicas).settle();
    let mut changes = BTreeMap::new();
    for (partition, replicas) in replicas {
        let current = cluster.table.get(&partition);
        let leader = leaders.get(&partition).copied();
        let unchanged =
            current.is_some_and(|current| current.replicas == replicas && current.leader == leader);
        // Without a leader an epoch would have no owner: the placement waits until somebody can lead.
        if unchanged || leader.is_none() {
            continue;
        }
        let epoch = current
            .map(|current| current.epoch)
            .unwrap_or_default()
            .next();
        changes.insert(
            partition,
            Placement {
                epoch,
                leader,
                replicas,
            },
        );
    }
    changes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "plan_tests.rs"]
mod tests;
