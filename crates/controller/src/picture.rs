//! From documents, connections and reports to the [`Cluster`] that the planner knows, and from its plan back to a
//! transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use abide_metadata::{NodeState, PartitionEntry, PartitionRule, PartitionTable, View};
use abide_rpc::PeerState;
use abide_types::{NodeId, NodeIncarnation, PartitionId, Role};

use crate::cluster::{Budget, Cluster, Health, Member, Placement, Rule, Spread};
use crate::liveness::Contact;

/// What nodes say of themselves, as far as it was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    /// They are about to stop.
    pub(crate) leaving: BTreeSet<NodeIncarnation>,
    /// How their replicas fare.
    pub(crate) replicas: BTreeMap<NodeIncarnation, ReplicaReport>,
}

/// How the replicas of one node fare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// These have not caught up.
    pub behind: BTreeSet<PartitionId>,
    /// These have all there is.
    pub caught_up: BTreeSet<PartitionId>,
}

impl Reports {
    /// Takes the place of what was reported in other generations of the node.
    pub(crate) fn forget_others(&mut self, of: NodeIncarnation) {
        self.leaving
            .retain(|other| other.node != of.node || *other == of);
        self.replicas
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
    let mut caught_up = BTreeSet::new();
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
        if let Some(report) = reports.replicas.get(&incarnation) {
            let of = |partition: &PartitionId| (*partition, node);
            behind.extend(report.behind.iter().map(of));
            caught_up.extend(report.caught_up.iter().map(of));
        }
    }
    let table = view.partition_table.partitions.iter();
    let replication = document.replication;
    let configured = |count: u8| (count > 0).then_some(usize::from(count));
    let rules = view.partition_rules.partitions.iter();
    Some(Cluster {
        replicas: configured(replication.replicas),
        write_quorum: configured(replication.write_quorum),
        spread: Spread {
            zones: replication.zones.into(),
            regions: replication.regions.into(),
        },
        rules: rules
            .map(|(partition, wanted)| (*partition, rule(wanted)))
            .collect(),
        partitions: document.partitions,
        nodes,
        table: table
            .map(|(partition, entry)| (*partition, placement(entry)))
            .collect(),
        behind,
        caught_up,
        budget: Budget::NONE,
    })
}

fn placement(entry: &PartitionEntry) -> Placement {
    Placement {
        epoch: entry.epoch,
        leader: entry.leader,
        replicas: entry.replicas.clone(),
        next: entry.next.clone(),
        write_quorum: entry.write_quorum.into(),
    }
}

fn rule(wanted: &PartitionRule) -> Rule {
    Rule {
        pinned: wanted.pinned,
        leadership_frozen: wanted.leadership_frozen.is_some(),
        placement_frozen: wanted.placement_frozen.is_some(),
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
                next: placement.next.clone(),
                write_quorum: u8::try_from(placement.write_quorum).unwrap_or(u8::MAX),
            },
        );
    }
    table
}
