//! From documents, connections and reports to the [`Cluster`] that the planner knows, and from its plan back to a
//! transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use abide_metadata::{NodeState, PartitionEntry, PartitionTable, View};
use abide_rpc::PeerState;
use abide_types::{NodeId, NodeIncarnation, PartitionId, Role};

use crate::cluster::{Budget, Cluster, Health, Member, Placement};
use crate::liveness::Contact;

/// What nodes say of themselves, as far as it was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    /// They are about to stop.
    pub(crate) leaving: BTreeSet<NodeIncarnation>,
    /// Their replicas of these have not caught up.
    pub(crate) behind: BTreeMap<NodeIncarnation, BTreeSet<PartitionId>>,
}

impl Reports {
    /// Takes the place of what was reported in other generations of the node.
    pub(crate) fn forget_others(&mut self, of: NodeIncarnation) {
        self.leaving
            .retain(|other| other.node != of.node || *other == of);
        self.behind
            .retain(|other, _| other.node != of.node || *other == of);
    }
}

/// What the connections say of every member.
pub(crate) fn contacts(
    own: NodeId,
    now: Instant,
    view: &View,
    peers: &BTreeMap<NodeId, PeerState>,
    last_heard: impl Fn(NodeId) -> Option<Instant>,
) -> BTreeMap<NodeId, Contact> {
    let of = |node: NodeId, entry: &abide_metadata::NodeEntry| {
        if node == own {
            return Contact {
                generation: entry.generation,
                connected: true,
                refused: false,
                last_heard: Some(now),
            };
        }
        let peer = peers.get(&node);
        Contact {
            generation: entry.generation,
            connected: peer.is_some_and(|peer| peer.connected),
            refused: peer.is_some_and(|peer| peer.refused),
            last_heard: last_heard(node),
        }
    };
    view.nodes
        .members()
        .map(|(node, entry)| (node, of(node, entry)))
        .collect()
}

/// The cluster as the planner sees it; `None` before it is provisioned.
pub(crate) fn cluster(
    view: &View,
    health: &BTreeMap<NodeId, Health>,
    reports: &Reports,
) -> Option<Cluster> {
    let document = view.cluster.as_ref()?;
    let mut nodes = BTreeMap::new();
    let mut behind = BTreeSet::new();
    for (node, entry) in view.nodes.members() {
        let incarnation = entry.incarnation(node);
        let hosts = [Role::Worker, Role::LogServer]
            .iter()
            .all(|role| entry.roles.contains(role));
        nodes.insert(
            node,
            Member {
                generation: entry.generation,
                location: entry.location.clone(),
                eligible: hosts && entry.state == NodeState::Active,
                leaving: reports.leaving.contains(&incarnation),
                health: health.get(&node).copied().unwrap_or(Health::Suspect),
            },
        );
        let late = reports.behind.get(&incarnation).into_iter().flatten();
        behind.extend(late.map(|partition| (*partition, node)));
    }
    let table = view.partition_table.partitions.iter();
    let replicas = usize::from(document.replication.replicas);
    Some(Cluster {
        replicas: (replicas > 0).then_some(replicas),
        partitions: document.partitions,
        nodes,
        table: table
            .map(|(partition, entry)| (*partition, placement(entry)))
            .collect(),
        behind,
        budget: Budget::NONE,
    })
}

fn placement(entry: &PartitionEntry) -> Placement {
    Placement {
        epoch: entry.epoch,
        leader: entry.leader,
        replicas: entry.replicas.clone(),
    }
}

/// `table` with `changes` made; it keeps the version that it was read at.
pub(crate) fn changed(
    table: &PartitionTable,
    changes: &BTreeMap<PartitionId, Placement>,
) -> PartitionTable {
    let mut table = table.clone();
    for (partition, placement) in changes {
        table.partitions.insert(
            *partition,
            PartitionEntry {
                epoch: placement.epoch,
                leader: placement.leader,
                replicas: placement.replicas.clone(),
            },
        );
    }
    table
}
