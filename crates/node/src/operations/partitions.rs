//! Pins, freezes, and moving leaders and replicas.

use std::collections::{BTreeMap, BTreeSet};

use abide_metadata::{
    Metadata, NodeState, PartitionEntry, PartitionRule, PartitionRules, PartitionTable,
    Replication, Txn,
};
use abide_rpc::proto::cluster::ReplicaStatus;
use abide_rpc::proto::operations::change_rules::Change;
use abide_rpc::proto::operations::{
    ChangeRules, ChangeRulesReply, Reassign, ReassignReply, Reassigned, Rule, RulesReply,
};
use abide_types::{NodeId, NodeIncarnation, PartitionId};

use super::picture::{Picture, is_home};
use super::{OperationError, commit};
use crate::describe::Answers;

/// More records than this before a replica, and it has not caught up.
const LAG_RECORDS_MAX: u64 = 200;
/// How often a change is made anew because another came between.
const TRIES_MAX: usize = 8;

/// What is wanted of partitions.
pub(crate) fn rules(picture: &Picture) -> RulesReply {
    let rules = picture.rules.partitions.iter();
    RulesReply {
        rules: rules
            .map(|(partition, rule)| Rule {
                partition: partition.0.into(),
                pinned: rule.pinned.map_or(0, |node| node.0),
                leadership_frozen: rule.leadership_frozen.clone().unwrap_or_default(),
                placement_frozen: rule.placement_frozen.clone().unwrap_or_default(),
            })
            .collect(),
    }
}

/// Pins, freezes and their opposites.
pub(crate) async fn change_rules(
    picture: &Picture,
    metadata: &Metadata,
    request: ChangeRules,
) -> Result<ChangeRulesReply, OperationError> {
    let partitions = picture.partitions(&request.partitions)?;
    let change = request
        .change
        .ok_or(OperationError::Missing("what is wanted of the partitions"))?;
    let change = edit(picture, &partitions, change)?;
    let mut changed = Vec::new();
    commit::change(metadata, |rules: &mut PartitionRules| {
        changed.clear();
        for partition in &partitions {
            let rule = rules.partitions.entry(*partition).or_default();
            let before = rule.clone();
            change(rule);
            if *rule != before {
                changed.push(partition.0.into());
            }
        }
        rules.partitions.retain(|_, rule| !rule.is_empty());
        Ok(!changed.is_empty())
    })
    .await?;
    Ok(ChangeRulesReply { changed })
}

/// What is done to the rule of each partition.
type Edit = Box<dyn Fn(&mut PartitionRule) + Send + Sync>;

fn edit(
    picture: &Picture,
    partitions: &[PartitionId],
    change: Change,
) -> Result<Edit, OperationError> {
    Ok(match change {
        Change::Pin(node) => {
            let node = active(picture, &node)?;
            for partition in partitions {
                let entry = placement(picture, *partition)?;
                if !goal(entry).contains(&node) {
                    let partition = *partition;
                    return Err(OperationError::NoReplica { node, partition });
                }
            }
            Box::new(move |rule| rule.pinned = Some(node))
        }
        Change::Unpin(_) => Box::new(|rule| rule.pinned = None),
        Change::FreezeLeadership(reason) => {
            Box::new(move |rule| rule.leadership_frozen = Some(reason.clone()))
        }
        Change::UnfreezeLeadership(_) => Box::new(|rule| rule.leadership_frozen = None),
        Change::FreezePlacement(reason) => {
            Box::new(move |rule| rule.placement_frozen = Some(reason.clone()))
        }
        Change::UnfreezePlacement(_) => Box::new(|rule| rule.placement_frozen = None),
    })
}

/// A fresh epoch for each partition, with the leader and the replicas that are asked for.
pub(crate) async fn reassign(
    picture: &Picture,
    metadata: &Metadata,
    answers: &Answers,
    request: Reassign,
) -> Result<ReassignReply, OperationError> {
    let partitions = picture.partitions(&request.partitions)?;
    let leader = match request.leader.as_str() {
        "" => None,
        text => Some(active(picture, text)?),
    };
    let replicas = request
        .replicas
        .iter()
        .map(|text| home(picture, text))
        .collect::<Result<BTreeSet<NodeId>, _>>()?;
    let quorum = usize::from(picture.cluster.replication.write_quorum).max(1);
    if !replicas.is_empty() && replicas.len() < quorum {
        return Err(OperationError::Invalid {
            field: "the number of replicas",
            value: u32::try_from(replicas.len()).unwrap_or(u32::MAX),
            rule: format!("a write takes {quorum} of them"),
        });
    }
    for partition in &partitions {
        check(picture, answers, *partition, leader)?;
    }
    let wish = Wish {
        leader: leader.and_then(|node| incarnation(picture, node)),
        replicas: replicas.into_iter().collect(),
        replication: picture.cluster.replication,
    };
    for _ in 0..TRIES_MAX {
        let mut table: PartitionTable = commit::load(metadata).await?;
        let done = wish.grant_all(&partitions, &mut table)?;
        let mut txn = Txn::new().replace(&table);
        if !request.freeze.is_empty() {
            let mut rules: PartitionRules = commit::load(metadata).await?;
            for partition in &partitions {
                let rule = rules.partitions.entry(*partition).or_default();
                rule.placement_frozen = Some(request.freeze.clone());
            }
            // At once: who governs would put in between what it thinks right, and that would be frozen.
            txn = txn.replace(&rules);
        }
        if commit::commit(metadata, txn).await? {
            return Ok(ReassignReply {
                partitions: done.into_iter().map(reassigned).collect(),
            });
        }
    }
    Err(OperationError::Contended)
}

/// What every partition of a request is to become.
struct Wish {
    leader: Option<NodeIncarnation>,
    /// Empty: as they are.
    replicas: Vec<NodeId>,
    replication: Replication,
}

impl Wish {
    /// The next epoch of each partition.
    fn grant_all(
        &self,
        partitions: &[PartitionId],
        table: &mut PartitionTable,
    ) -> Result<BTreeMap<PartitionId, PartitionEntry>, OperationError> {
        let mut done = BTreeMap::new();
        for partition in partitions.iter().copied() {
            let entry = table
                .partitions
                .get_mut(&partition)
                .filter(|entry| entry.leader.is_some())
                .ok_or(OperationError::NotPlaced { partition })?;
            self.grant(partition, entry)?;
            done.insert(partition, entry.clone());
        }
        Ok(done)
    }

    /// The next epoch of a partition.
    fn grant(
        &self,
        partition: PartitionId,
        entry: &mut PartitionEntry,
    ) -> Result<(), OperationError> {
        if !self.replicas.is_empty() {
            let both: BTreeSet<NodeId> = entry
                .replicas
                .iter()
                .chain(&self.replicas)
                .copied()
                .collect();
            entry.replicas = both.into_iter().collect();
            entry.next = if entry.replicas == self.replicas {
                Vec::new()
            } else {
                self.replicas.clone()
            };
            let quorum = self.replication.quorum_of(self.replicas.len());
            entry.write_quorum = u8::try_from(quorum).unwrap_or(u8::MAX);
        }
        if let Some(leader) = self.leader {
            if !goal(entry).contains(&leader.node) {
                let node = leader.node;
                return Err(OperationError::NoReplica { node, partition });
            }
            entry.leader = Some(leader);
        }
        entry.epoch = entry.epoch.next();
        Ok(())
    }
}

fn check(
    picture: &Picture,
    answers: &Answers,
    partition: PartitionId,
    leader: Option<NodeId>,
) -> Result<(), OperationError> {
    let entry = placement(picture, partition)?;
    let Some(node) = leader else {
        return Ok(());
    };
    if !entry.replicas.contains(&node) {
        return Err(OperationError::NoReplica { node, partition });
    }
    let pinned = picture.rules.partitions.get(&partition);
    if let Some(other) = pinned.and_then(|rule| rule.pinned)
        && other != node
    {
        let node = other;
        return Err(OperationError::Pinned { partition, node });
    }
    let Some(Ok(status)) = answers.get(&node) else {
        return Err(OperationError::NotInReach { node });
    };
    let of = |replica: &&ReplicaStatus| replica.partition == u32::from(partition.0);
    let detail = match status.replicas.iter().find(of) {
        None => "it has only just got the replica".to_owned(),
        Some(replica) if !["active", "taking-over"].contains(&replica.state.as_str()) => {
            format!("it is {}", replica.state)
        }
        Some(replica) => {
            let lag = replica.tail.saturating_sub(replica.applied + 1);
            if lag <= LAG_RECORDS_MAX {
                return Ok(());
            }
            format!("{lag} records are before it")
        }
    };
    Err(OperationError::NotCaughtUp {
        node,
        partition,
        detail,
    })
}

fn placement(picture: &Picture, partition: PartitionId) -> Result<&PartitionEntry, OperationError> {
    let entry = picture.table.partitions.get(&partition);
    entry.ok_or(OperationError::NotPlaced { partition })
}

fn goal(entry: &PartitionEntry) -> &[NodeId] {
    if entry.next.is_empty() {
        &entry.replicas
    } else {
        &entry.next
    }
}

/// A node that may be given something.
fn active(picture: &Picture, text: &str) -> Result<NodeId, OperationError> {
    let (node, entry) = picture.node(text)?;
    if entry.state != NodeState::Active {
        let state = super::nodes::state_name(entry.state);
        return Err(OperationError::NotActive { node, state });
    }
    if !picture.is_alive(node) {
        return Err(OperationError::NotInReach { node });
    }
    Ok(node)
}

/// A node that may be given replicas.
fn home(picture: &Picture, text: &str) -> Result<NodeId, OperationError> {
    let node = active(picture, text)?;
    let entry = picture.nodes.get(node);
    if entry.is_some_and(is_home) {
        Ok(node)
    } else {
        Err(OperationError::NoHome { node })
    }
}

fn incarnation(picture: &Picture, node: NodeId) -> Option<NodeIncarnation> {
    let entry = picture.nodes.get(node)?;
    Some(entry.incarnation(node))
}

fn reassigned((partition, entry): (PartitionId, PartitionEntry)) -> Reassigned {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    Reassigned {
        partition: partition.0.into(),
        epoch: entry.epoch.0,
        leader: entry.leader.map_or(0, |leader| leader.node.0),
        replicas: numbers(&entry.replicas),
        next: numbers(&entry.next),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use abide_types::{Epoch, Generation};

    use super::*;

    fn nodes(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn granted(leader: Option<u32>, replicas: &[u32]) -> Result<PartitionEntry, OperationError> {
        let incarnation = |node: u32| NodeIncarnation {
            node: NodeId(node),
            generation: Generation(1),
        };
        let mut entry = PartitionEntry {
            epoch: Epoch(4),
            leader: Some(incarnation(1)),
            replicas: nodes(&[1, 2, 3]),
            ..PartitionEntry::default()
        };
        let wish = Wish {
            leader: leader.map(incarnation),
            replicas: nodes(replicas),
            replication: Replication::default(),
        };
        wish.grant(PartitionId(0), &mut entry).map(|()| entry)
    }

    #[test]
    fn new_replicas_come_beside_the_old_ones() {
        let entry = granted(None, &[2, 3, 4]).unwrap();
        assert_eq!(entry.epoch, Epoch(5));
        assert_eq!(entry.replicas, nodes(&[1, 2, 3, 4]));
        assert_eq!(entry.next, nodes(&[2, 3, 4]));
        assert_eq!(entry.write_quorum, 2);
        let grown = granted(None, &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(grown.next, nodes(&[]));
        assert_eq!(grown.write_quorum, 3);
    }

    #[test]
    fn only_who_stays_a_replica_is_made_leader() {
        let entry = granted(Some(2), &[]).unwrap();
        assert_eq!(entry.leader.unwrap().node, NodeId(2));
        assert_eq!(entry.write_quorum, 0);
        assert!(matches!(
            granted(Some(1), &[2, 3, 4]),
            Err(OperationError::NoReplica { .. })
        ));
    }
}
