//! What has to change in the partition table: a function of the cluster's state and of nothing else.

use std::collections::BTreeMap;

use abide_types::PartitionId;

use crate::cluster::{Cluster, Placement};
use crate::leadership::Leadership;
use crate::replicas::Replicas;
use crate::step::{Step, Steps};

/// The new placement of every partition that has to change, each with a fresh epoch. Empty when all is well.
///
/// A change of the replica set takes an epoch even when the leader stays, since an epoch owns one segment and a
/// segment has one replica set.
pub fn plan(cluster: &Cluster) -> BTreeMap<PartitionId, Placement> {
    let mut steps = Steps::of(cluster);
    let steps: BTreeMap<PartitionId, Step> = Replicas::of(cluster)
        .settle()
        .into_iter()
        .map(|(partition, goal)| (partition, steps.toward(partition, goal)))
        .collect();
    let replicas = (steps.iter())
        .map(|(partition, step)| (*partition, step.replicas.clone()))
        .collect();
    let leaders = Leadership::of(cluster, &replicas).settle();
    let mut changes = BTreeMap::new();
    for (partition, Step { replicas, next }) in steps {
        // Without a leader an epoch would have no owner: the placement waits until somebody can lead.
        let Some(leader) = leaders.get(&partition).copied() else {
            continue;
        };
        let current = cluster.table.get(&partition);
        let goal = if next.is_empty() { &replicas } else { &next };
        let placement = Placement {
            epoch: current
                .map(|current| current.epoch)
                .unwrap_or_default()
                .next(),
            leader: Some(leader),
            write_quorum: cluster.quorum_of(goal.len()),
            replicas,
            next,
        };
        if !current.is_some_and(|current| current.agrees_with(&placement)) {
            changes.insert(partition, placement);
        }
    }
    changes
}

impl Placement {
    /// Whether a change to `other` would change nothing but the epoch.
    fn agrees_with(&self, other: &Self) -> bool {
        let quorum = self.write_quorum == 0 || self.write_quorum == other.write_quorum;
        quorum
            && self.leader == other.leader
            && self.replicas == other.replicas
            && self.next == other.next
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "plan_tests.rs"]
mod tests;
