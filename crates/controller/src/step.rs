//! From the replicas that a partition has to those that it should have, without a moment at which too few have it.
//!
//! New replicas come first, beside all that are there ([`Placement::next`] says who stays); the others go when the new
//! ones have caught up. Start at [`Steps::toward`].

use std::collections::BTreeSet;

use abide_types::{NodeId, PartitionId};

use crate::cluster::{Cluster, Health, Placement};

/// Partitions whose replicas are exchanged at a time; each of them copies a store.
const EXCHANGES_MAX: usize = 8;

/// The replicas of one partition after the next change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) next: Vec<NodeId>,
}

/// The steps of one plan.
pub(crate) struct Steps<'a> {
    cluster: &'a Cluster,
    /// How many exchanges may still begin.
    room: usize,
}

impl<'a> Steps<'a> {
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            room: EXCHANGES_MAX.saturating_sub(exchanges(cluster)),
        }
    }

    /// The next step of `partition` toward `goal`.
    pub(crate) fn toward(&mut self, partition: PartitionId, goal: Vec<NodeId>) -> Step {
        let current = self.cluster.table.get(&partition);
        let Some(current) = current.filter(|current| !current.replicas.is_empty()) else {
            return Step {
                replicas: goal,
                next: Vec::new(),
            };
        };
        // What was lost comes back by itself or not at all; it need not be waited for, unless nothing else is left.
        let there: BTreeSet<NodeId> = (current.replicas.iter().copied())
            .filter(|node| !self.is_lost(*node))
            .collect();
        let there = if there.is_empty() {
            current.replicas.iter().copied().collect()
        } else {
            there
        };
        let stays = |node: &NodeId| goal.contains(node);
        if there.iter().all(stays) || self.has_settled(partition, current, &goal) {
            return Step {
                replicas: goal,
                next: Vec::new(),
            };
        }
        if current.next.is_empty() {
            if self.room == 0 {
                return Step {
                    replicas: current.replicas.clone(),
                    next: Vec::new(),
                };
            }
            self.room -= 1;
        }
        let both: BTreeSet<NodeId> = there.into_iter().chain(goal.iter().copied()).collect();
        Step {
            replicas: both.into_iter().collect(),
            next: goal,
        }
    }

    /// Whether all of `goal` that are alive have what there is, and are enough to commit by themselves.
    fn has_settled(&self, partition: PartitionId, current: &Placement, goal: &[NodeId]) -> bool {
        let settled = |node: &NodeId| self.cluster.is_settled(partition, *node);
        let ready = goal.iter().filter(|node| settled(node)).count();
        let waits = goal
            .iter()
            .any(|node| !settled(node) && self.is_awaited(current, *node));
        !waits && self.cluster.quorum_of(goal.len()) <= ready
    }

    /// Whether a replica that has not caught up can be expected to: it is alive, or not even placed.
    fn is_awaited(&self, current: &Placement, node: NodeId) -> bool {
        let member = self.cluster.nodes.get(&node);
        !current.replicas.contains(&node) || member.is_some_and(|member| !member.health.is_dead())
    }

    fn is_lost(&self, node: NodeId) -> bool {
        let member = self.cluster.nodes.get(&node);
        member.is_none_or(|member| member.health == Health::Lost)
    }
}

/// Partitions whose replicas are being exchanged.
pub(crate) fn exchanges(cluster: &Cluster) -> usize {
    let under_way = |placement: &&Placement| !placement.next.is_empty();
    cluster.table.values().filter(under_way).count()
}
