//! Who leads each partition: leaders in office stay, orphans go to the least busy replica, and for balance a few
//! may move along.

use std::collections::{BTreeMap, BTreeSet};

use abide_types::{NodeId, NodeIncarnation, PartitionId};

use crate::cluster::{Cluster, Health};

/// Leaders in the making.
pub(crate) struct Leadership<'a> {
    cluster: &'a Cluster,
    replicas: &'a BTreeMap<PartitionId, Vec<NodeId>>,
    leaders: BTreeMap<PartitionId, NodeIncarnation>,
    /// Partitions led per node.
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Leadership<'a> {
    pub(crate) fn of(
        cluster: &'a Cluster,
        replicas: &'a BTreeMap<PartitionId, Vec<NodeId>>,
    ) -> Self {
        Self {
            cluster,
            replicas,
            leaders: BTreeMap::new(),
            load: cluster.nodes.keys().map(|node| (*node, 0)).collect(),
        }
    }

    pub(crate) fn settle(mut self) -> BTreeMap<PartitionId, NodeIncarnation> {
        let replicas = self.replicas;
        for partition in replicas.keys() {
            let pinned = self.pinned(*partition);
            if let Some(leader) = pinned.or_else(|| self.in_office(*partition)) {
                self.appoint(*partition, leader);
            }
        }
        for partition in replicas.keys() {
            if self.leaders.contains_key(partition) {
                continue;
            }
            if let Some(leader) = self.elect(*partition) {
                self.appoint(*partition, leader);
            }
        }
        self.balance();
        self.leaders
    }

    /// Whom an operator wants to lead, if it can without anybody noticing.
    fn pinned(&self, partition: PartitionId) -> Option<NodeIncarnation> {
        let node = self.cluster.rule(partition).pinned?;
        let leader = self.incarnation(node)?;
        let current = self.cluster.table.get(&partition)?.leader;
        let leads = current == Some(leader) && self.in_office(partition).is_some();
        let takes_over = self.replicas[&partition].contains(&node)
            && self.takes_over(partition, node)
            && self.cluster.is_settled(partition, node);
        (leads || takes_over).then_some(leader)
    }

    fn in_office(&self, partition: PartitionId) -> Option<NodeIncarnation> {
        let leader = self.cluster.table.get(&partition)?.leader?;
        let stays = self.cluster.leads(leader) && self.replicas[&partition].contains(&leader.node);
        stays.then_some(leader)
    }

    /// The replica that leads soonest, then the one that leads least.
    fn elect(&self, partition: PartitionId) -> Option<NodeIncarnation> {
        let set = &self.replicas[&partition];
        let pinned = self.cluster.rule(partition).pinned;
        let best = set
            .iter()
            .copied()
            .filter(|node| self.cluster.takes_replicas(*node))
            .min_by_key(|node| {
                (
                    self.is_fresh(partition, *node),
                    self.cluster.behind.contains(&(partition, *node)),
                    !self.cluster.is_settled(partition, *node),
                    Some(*node) != pinned,
                    self.load[node],
                    *node,
                )
            });
        let ready = best.is_some_and(|node| self.cluster.is_settled(partition, node));
        if !ready && let Some(leader) = self.drained_leader(partition) {
            return Some(leader);
        }
        best.or_else(|| self.stand_in(partition))
            .and_then(|node| self.incarnation(node))
    }

    /// A leader whose node is to be emptied and does not stop by itself: it leads until another has caught up.
    fn drained_leader(&self, partition: PartitionId) -> Option<NodeIncarnation> {
        let leader = self.cluster.table.get(&partition)?.leader?;
        let member = self.cluster.nodes.get(&leader.node)?;
        let stays = self.replicas[&partition].contains(&leader.node)
            && member.generation == leader.generation
            && !member.eligible
            && !member.leaving
            && !member.health.is_dead();
        stays.then_some(leader)
    }

    /// Nobody is there who should lead. One who is about to go, or to be emptied, still serves until then; the
    /// present leader first, for whom nothing changes.
    fn stand_in(&self, partition: PartitionId) -> Option<NodeId> {
        let leader = self
            .cluster
            .table
            .get(&partition)
            .and_then(|placement| placement.leader);
        let serves = |node: &NodeId| {
            self.cluster
                .nodes
                .get(node)
                .is_some_and(|member| member.health.answers())
        };
        let current = leader.filter(|leader| self.incarnation(leader.node) == Some(*leader));
        let set = &self.replicas[&partition];
        current
            .map(|leader| leader.node)
            .filter(|node| set.contains(node) && serves(node))
            .or_else(|| set.iter().copied().find(serves))
    }

    /// Moves leaders from the busiest to the least busy nodes, where need be along a row of nodes.
    fn balance(&mut self) {
        let mut touched = BTreeSet::new();
        while touched.len() < self.cluster.budget.leaders {
            let Some(path) = self.improvement(&touched) else {
                return;
            };
            for (partition, to) in path {
                let Some(leader) = self.incarnation(to) else {
                    return;
                };
                self.dismiss(partition);
                self.appoint(partition, leader);
                touched.insert(partition);
            }
        }
    }

    /// The shortest row of moves that takes one partition off a node that leads two more than another.
    fn improvement(&self, touched: &BTreeSet<PartitionId>) -> Option<Vec<(PartitionId, NodeId)>> {
        let mut busiest: Vec<(usize, NodeId)> = self
            .load
            .iter()
            .map(|(node, load)| (*load, *node))
            .collect();
        busiest.sort_unstable_by(|left, right| right.cmp(left));
        busiest
            .into_iter()
            .find_map(|(load, node)| self.relief(node, load, touched))
    }

    fn relief(
        &self,
        from: NodeId,
        load: usize,
        touched: &BTreeSet<PartitionId>,
    ) -> Option<Vec<(PartitionId, NodeId)>> {
        let mut reached: BTreeMap<NodeId, Option<(NodeId, PartitionId)>> =
            BTreeMap::from([(from, None)]);
        let mut distance = vec![from];
        while !distance.is_empty() {
            let relieved = distance
                .iter()
                .filter(|node| self.load[*node] + 2 <= load)
                .min_by_key(|node| (self.load[*node], **node));
            if let Some(end) = relieved {
                return Some(Self::unwind(&reached, *end));
            }
            let mut further = Vec::new();
            for node in distance {
                for (next, partition) in self.moves(node, touched) {
                    reached.entry(next).or_insert_with(|| {
                        further.push(next);
                        Some((node, partition))
                    });
                }
            }
            distance = further;
        }
        None
    }

    /// Where partitions that `node` leads could go.
    fn moves(&self, node: NodeId, touched: &BTreeSet<PartitionId>) -> Vec<(NodeId, PartitionId)> {
        let led = self
            .leaders
            .iter()
            .filter(|(partition, leader)| leader.node == node && !touched.contains(partition))
            .filter(|(partition, _)| {
                let rule = self.cluster.rule(**partition);
                !rule.leadership_frozen && rule.pinned != Some(node)
            });
        led.flat_map(|(partition, _)| {
            self.replicas[partition]
                .iter()
                .filter(|to| **to != node && self.takes_over(*partition, **to))
                .map(|to| (*to, *partition))
        })
        .collect()
    }

    fn takes_over(&self, partition: PartitionId, node: NodeId) -> bool {
        self.cluster.takes_replicas(node)
            && self.cluster.nodes[&node].health == Health::Stable
            && !self.is_fresh(partition, node)
            && !self.is_departing(partition, node)
            && !self.cluster.behind.contains(&(partition, node))
    }

    /// Whether `node` has its replica only until others have caught up.
    fn is_departing(&self, partition: PartitionId, node: NodeId) -> bool {
        let placement = self.cluster.table.get(&partition);
        placement.is_some_and(|placement| !placement.goal().contains(&node))
    }

    /// Whether `node` gets its replica only now and has the whole log before it.
    fn is_fresh(&self, partition: PartitionId, node: NodeId) -> bool {
        self.cluster
            .table
            .get(&partition)
            .is_none_or(|placement| !placement.replicas.contains(&node))
    }

    fn unwind(
        reached: &BTreeMap<NodeId, Option<(NodeId, PartitionId)>>,
        end: NodeId,
    ) -> Vec<(PartitionId, NodeId)> {
        let mut path = Vec::new();
        let mut node = end;
        while let Some(Some((from, partition))) = reached.get(&node) {
            path.push((*partition, node));
            node = *from;
        }
        path
    }

    fn appoint(&mut self, partition: PartitionId, leader: NodeIncarnation) {
        self.leaders.insert(partition, leader);
        *self.load.entry(leader.node).or_default() += 1;
    }

    fn dismiss(&mut self, partition: PartitionId) {
        if let Some(leader) = self.leaders.remove(&partition)
            && let Some(load) = self.load.get_mut(&leader.node)
        {
            *load -= 1;
        }
    }

    fn incarnation(&self, node: NodeId) -> Option<NodeIncarnation> {
        let member = self.cluster.nodes.get(&node)?;
        Some(NodeIncarnation {
            node,
            generation: member.generation,
        })
    }
}
