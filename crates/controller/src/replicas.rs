//! Which nodes are to hold a replica of each partition in the end: what is there stays unless it has to go. How one
//! gets there is in [`crate::step`].

use std::collections::{BTreeMap, BTreeSet};

use abide_types::{NodeId, PartitionId};

use crate::cluster::{Cluster, Health};
use crate::step::exchanges;

/// Replica sets in the making.
pub(crate) struct Replicas<'a> {
    cluster: &'a Cluster,
    wanted: usize,
    sets: BTreeMap<PartitionId, Vec<NodeId>>,
    /// Replicas per node that keeps or takes replicas.
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Replicas<'a> {
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        let mut load: BTreeMap<NodeId, usize> = cluster
            .nodes
            .keys()
            .filter(|node| cluster.keeps_replicas(**node))
            .map(|node| (*node, 0))
            .collect();
        let mut sets = BTreeMap::new();
        for partition in (0..cluster.partitions).map(PartitionId) {
            let set = cluster
                .table
                .get(&partition)
                .map(|placement| placement.goal().to_vec())
                .unwrap_or_default();
            for node in &set {
                if let Some(count) = load.get_mut(node) {
                    *count += 1;
                }
            }
            sets.insert(partition, set);
        }
        Self {
            cluster,
            wanted: cluster.replicas_wanted(),
            sets,
            load,
        }
    }

    pub(crate) fn settle(mut self) -> BTreeMap<PartitionId, Vec<NodeId>> {
        for partition in (0..self.cluster.partitions).map(PartitionId) {
            if self.is_frozen(partition) {
                continue;
            }
            self.fill(partition);
            self.spread(partition);
            self.shrink(partition);
        }
        self.balance();
        self.sets
    }

    /// One that was never placed is placed, however frozen.
    fn is_frozen(&self, partition: PartitionId) -> bool {
        self.cluster.rule(partition).placement_frozen && !self.sets[&partition].is_empty()
    }

    /// Adds replicas until there are as many as wanted on nodes that keep them.
    fn fill(&mut self, partition: PartitionId) {
        loop {
            let set = &self.sets[&partition];
            let kept = set
                .iter()
                .filter(|node| self.cluster.keeps_replicas(**node))
                .count();
            if kept >= self.wanted {
                return;
            }
            let Some(node) = self.best_home(set) else {
                return;
            };
            self.add(partition, node);
        }
    }

    /// Exchanges replicas until they are in as many zones and regions as demanded, as far as there are nodes there.
    fn spread(&mut self, partition: PartitionId) {
        let demanded = self.cluster.spread;
        for _ in 0..self.wanted {
            let set = &self.sets[&partition];
            let fresh = if self.places(set, region_of) < demanded.regions.min(self.wanted) {
                self.elsewhere(set, region_of)
            } else if self.places(set, zone_of) < demanded.zones.min(self.wanted) {
                self.elsewhere(set, zone_of)
            } else {
                return;
            };
            let Some(fresh) = fresh else {
                return;
            };
            let crowded = self.most_crowded(partition);
            self.add(partition, fresh);
            if let Some(crowded) = crowded {
                self.remove(partition, crowded);
            }
        }
    }

    /// In how many places `set` is.
    fn places(&self, set: &[NodeId], place: fn(&str) -> &str) -> usize {
        let known: BTreeSet<&str> = set
            .iter()
            .filter(|node| self.cluster.keeps_replicas(**node))
            .map(|node| place(self.location(*node)))
            .filter(|place| !place.is_empty())
            .collect();
        known.len()
    }

    /// The least busy node in a place where none of `set` is.
    fn elsewhere(&self, set: &[NodeId], place: fn(&str) -> &str) -> Option<NodeId> {
        let taken = |at: &str| set.iter().any(|node| place(self.location(*node)) == at);
        self.load
            .iter()
            .filter(|(node, _)| self.cluster.takes_replicas(**node))
            .filter(|(node, _)| {
                let at = place(self.location(**node));
                !at.is_empty() && !taken(at)
            })
            .min_by_key(|(node, load)| (**load, **node))
            .map(|(node, _)| *node)
    }

    /// The replica with most others around it, rather not the leader's.
    fn most_crowded(&self, partition: PartitionId) -> Option<NodeId> {
        let leader = self.leader(partition);
        let pinned = self.cluster.rule(partition).pinned;
        let set = &self.sets[&partition];
        set.iter()
            .copied()
            .filter(|node| Some(*node) != pinned && self.cluster.keeps_replicas(*node))
            .max_by_key(|node| {
                let others: Vec<NodeId> =
                    set.iter().copied().filter(|other| other != node).collect();
                (
                    self.neighbours(&others, *node),
                    Some(*node) != leader,
                    *node,
                )
            })
    }

    /// Takes replicas off nodes that are to be emptied, once others stand in for them, and those that are too many.
    fn shrink(&mut self, partition: PartitionId) {
        loop {
            let set = &self.sets[&partition];
            let kept = set
                .iter()
                .filter(|node| self.cluster.keeps_replicas(**node))
                .count();
            let outcast = set
                .iter()
                .copied()
                .find(|node| !self.cluster.keeps_replicas(*node));
            let gone = match outcast {
                // The last copies are not given up before there are others.
                Some(node) if kept >= self.wanted && kept > 0 => node,
                None if kept > self.wanted && self.wanted > 0 => match self.least_useful(partition)
                {
                    Some(node) => node,
                    None => return,
                },
                _ => return,
            };
            self.remove(partition, gone);
        }
    }

    /// The node that adds most to the spread and has least to do.
    fn best_home(&self, set: &[NodeId]) -> Option<NodeId> {
        self.load
            .iter()
            .filter(|(node, _)| self.cluster.takes_replicas(**node) && !set.contains(node))
            .min_by_key(|(node, load)| (self.neighbours(set, **node), **load, **node))
            .map(|(node, _)| *node)
    }

    /// The replica that is missed least: a dead one, then one on a crowded place, never the leader's.
    fn least_useful(&self, partition: PartitionId) -> Option<NodeId> {
        let leader = self.leader(partition);
        let pinned = self.cluster.rule(partition).pinned;
        let set = &self.sets[&partition];
        set.iter()
            .copied()
            .filter(|node| Some(*node) != leader && Some(*node) != pinned)
            .max_by_key(|node| {
                let others: Vec<NodeId> =
                    set.iter().copied().filter(|other| other != node).collect();
                (
                    self.health(*node),
                    self.neighbours(&others, *node),
                    self.cluster.behind.contains(&(partition, *node)),
                    self.load.get(node).copied(),
                    *node,
                )
            })
    }

    /// How many of `set` share the zone, then the region, of `node`. Less is better.
    fn neighbours(&self, set: &[NodeId], node: NodeId) -> (usize, usize) {
        let location = self.location(node);
        if location.is_empty() {
            return (0, 0);
        }
        let region = region_of(location);
        let same = |near: &dyn Fn(&str) -> bool| {
            set.iter()
                .filter(|other| near(self.location(**other)))
                .count()
        };
        (
            same(&|other| other == location),
            same(&|other| region_of(other) == region),
        )
    }

    /// Moves replicas from the fullest nodes to the emptiest as far as the budget goes.
    fn balance(&mut self) {
        let mut touched = BTreeSet::new();
        let under_way = exchanges(self.cluster);
        while touched.len() + under_way < self.cluster.budget.replicas {
            let Some((partition, from, to)) = self.improvement(&touched) else {
                return;
            };
            self.remove(partition, from);
            self.add(partition, to);
            touched.insert(partition);
        }
    }

    fn improvement(
        &self,
        touched: &BTreeSet<PartitionId>,
    ) -> Option<(PartitionId, NodeId, NodeId)> {
        let takers = self.load.iter().filter(|(node, _)| {
            self.cluster.takes_replicas(**node) && self.health(**node) == Health::Stable
        });
        let mut takers: Vec<(usize, NodeId)> = takers.map(|(node, load)| (*load, *node)).collect();
        takers.sort_unstable();
        let mut givers: Vec<(usize, NodeId)> = self
            .load
            .iter()
            // What a dead node holds is kept for its return.
            .filter(|(node, _)| self.health(**node).answers())
            .map(|(node, load)| (*load, *node))
            .collect();
        givers.sort_unstable_by(|left, right| right.cmp(left));
        for (most, from) in &givers {
            for (least, to) in &takers {
                if most < &(least + 2) {
                    break;
                }
                let movable = self.sets.keys().copied().find(|partition| {
                    !touched.contains(partition) && self.may_move(*partition, *from, *to)
                });
                if let Some(partition) = movable {
                    return Some((partition, *from, *to));
                }
            }
        }
        None
    }

    fn may_move(&self, partition: PartitionId, from: NodeId, to: NodeId) -> bool {
        let set = &self.sets[&partition];
        let rule = self.cluster.rule(partition);
        if !set.contains(&from) || set.contains(&to) {
            return false;
        }
        if rule.placement_frozen || rule.pinned == Some(from) {
            return false;
        }
        // One cold replica at a time, and the leader's own does not move under it unless it is the only one.
        let settled = set.iter().all(|node| {
            self.health(*node).answers() && !self.cluster.behind.contains(&(partition, *node))
        });
        if !settled || (self.leader(partition) == Some(from) && set.len() > 1) {
            return false;
        }
        let others: Vec<NodeId> = set.iter().copied().filter(|node| *node != from).collect();
        self.neighbours(&others, to) <= self.neighbours(&others, from)
    }

    fn add(&mut self, partition: PartitionId, node: NodeId) {
        if let Some(set) = self.sets.get_mut(&partition) {
            set.push(node);
            set.sort_unstable();
        }
        *self.load.entry(node).or_default() += 1;
    }

    fn remove(&mut self, partition: PartitionId, node: NodeId) {
        if let Some(set) = self.sets.get_mut(&partition) {
            set.retain(|other| *other != node);
        }
        if let Some(load) = self.load.get_mut(&node) {
            *load = load.saturating_sub(1);
        }
    }

    fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        let leader = self.cluster.table.get(&partition)?.leader?;
        self.cluster.leads(leader).then_some(leader.node)
    }

    fn health(&self, node: NodeId) -> Health {
        self.cluster
            .nodes
            .get(&node)
            .map_or(Health::Lost, |member| member.health)
    }

    fn location(&self, node: NodeId) -> &str {
        self.cluster
            .nodes
            .get(&node)
            .map_or("", |member| member.location.as_str())
    }
}

fn region_of(location: &str) -> &str {
    location.split('.').next().unwrap_or_default()
}

fn zone_of(location: &str) -> &str {
    location
}
