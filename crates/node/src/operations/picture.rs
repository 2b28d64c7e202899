//! The cluster as the checks see it: values only.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use abide_controller::Health;
use abide_log::LogChain;
use abide_metadata::{
    ClusterDocument, NodeEntry, NodeState, Nodes, PartitionRules, PartitionTable, View, keys,
};
use abide_types::{NodeId, PartitionId, Role};

use super::OperationError;
use crate::facts::{Facts, Member};

/// Everything on which a check depends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Picture {
    pub(crate) cluster: Arc<ClusterDocument>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) table: Arc<PartitionTable>,
    pub(crate) rules: Arc<PartitionRules>,
    pub(crate) chains: BTreeMap<PartitionId, LogChain>,
    pub(crate) health: BTreeMap<NodeId, Health>,
    /// Who votes in the metadata plane.
    pub(crate) voters: BTreeSet<NodeId>,
}

impl Picture {
    /// As this node has it now.
    pub(crate) async fn take(facts: &Facts, member: &Member) -> Self {
        let voters = voters(facts, member).await;
        Self::of(
            &member.metadata.view(),
            member.controller.health().borrow().as_ref().clone(),
            voters,
        )
    }

    fn of(view: &View, health: BTreeMap<NodeId, Health>, voters: BTreeSet<NodeId>) -> Self {
        let partitions = view.partition_table.partitions.keys();
        let chain = |partition: &PartitionId| {
            let stored = view.raw(&keys::log(*partition))?;
            // One that does not parse was reported where it is followed.
            let chain = LogChain::from_json(&stored.value).ok()?;
            Some((*partition, chain))
        };
        Self {
            cluster: view.cluster.clone().unwrap_or_default(),
            nodes: Arc::clone(&view.nodes),
            table: Arc::clone(&view.partition_table),
            rules: Arc::clone(&view.partition_rules),
            chains: partitions.filter_map(chain).collect(),
            health,
            voters,
        }
    }

    /// The node that an operator names: by id (`N1`, `1`) or by name.
    pub(crate) fn node(&self, text: &str) -> Result<(NodeId, &NodeEntry), OperationError> {
        if let Some(found) = self.nodes.by_name(text) {
            return Ok(found);
        }
        let digits = text.strip_prefix(['N', 'n']).unwrap_or(text);
        let node = digits
            .parse()
            .map(NodeId)
            .map_err(|_| OperationError::NoNode(text.to_owned()))?;
        match self.nodes.nodes.get(&node) {
            Some(entry) if entry.state == NodeState::Removed => {
                Err(OperationError::Removed { node })
            }
            Some(entry) => Ok((node, entry)),
            None => Err(OperationError::NoNode(text.to_owned())),
        }
    }

    /// The partitions that an operator names; all if none.
    pub(crate) fn partitions(&self, wanted: &[u32]) -> Result<Vec<PartitionId>, OperationError> {
        let count = self.cluster.partitions;
        if wanted.is_empty() {
            return Ok((0..count).map(PartitionId).collect());
        }
        wanted
            .iter()
            .map(|partition| self.partition(*partition))
            .collect()
    }

    /// The one partition that an operator names.
    pub(crate) fn partition(&self, wanted: u32) -> Result<PartitionId, OperationError> {
        let partitions = self.cluster.partitions;
        let known = u16::try_from(wanted)
            .ok()
            .filter(|partition| *partition < partitions);
        known.map(PartitionId).ok_or(OperationError::NoPartition {
            partition: wanted,
            partitions,
        })
    }

    /// Whether the node can be reached.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        let health = self.health.get(&node).copied();
        health.is_some_and(|health| !health.is_dead())
    }

    /// Nodes that may hold replicas, dead ones included.
    pub(crate) fn homes(&self) -> impl Iterator<Item = (NodeId, &NodeEntry)> {
        self.nodes
            .members()
            .filter(|(_, entry)| is_home(entry) && entry.state == NodeState::Active)
    }
}

/// Whether the node has the roles that a replica takes.
pub(crate) fn is_home(entry: &NodeEntry) -> bool {
    [Role::Worker, Role::LogServer]
        .iter()
        .all(|role| entry.roles.contains(role))
}

/// Who votes, as the local server has it or else as the server says that has seen the latest term.
async fn voters(facts: &Facts, member: &Member) -> BTreeSet<NodeId> {
    if let Some(server) = facts.server.get() {
        return server.status().voters.into_iter().collect();
    }
    // Boxed: the compiler gives up on the depth of the client's futures.
    let asking: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(member.metadata.servers());
    let latest = asking
        .await
        .into_iter()
        .filter_map(|(_, status)| status.ok())
        .max_by_key(|status| status.term);
    latest
        .map(|status| status.voters.into_iter().collect())
        .unwrap_or_default()
}
