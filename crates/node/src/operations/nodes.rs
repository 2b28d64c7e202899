//! Draining, removing and the votes of nodes.

use std::collections::BTreeSet;

use abide_metadata::{Metadata, NodeEntry, NodeState, Nodes};
use abide_rpc::proto::operations::change_node::Change;
use abide_rpc::proto::operations::{ChangeNode, ChangeNodeReply, Holdings, Plan};
use abide_types::{NodeId, PartitionId, Role};

use super::picture::{Picture, is_home};
use super::{OperationError, commit, waits};
use crate::describe::Answers;

/// What a node has that would be missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    leads: BTreeSet<PartitionId>,
    replicas: BTreeSet<PartitionId>,
    logs: BTreeSet<PartitionId>,
    frozen: BTreeSet<PartitionId>,
    votes: bool,
}

impl Held {
    fn of(picture: &Picture, node: NodeId) -> Self {
        let mut held = Self {
            votes: picture.voters.contains(&node),
            ..Self::default()
        };
        for (partition, entry) in &picture.table.partitions {
            if entry.leader.is_some_and(|leader| leader.node == node) {
                held.leads.insert(*partition);
            }
            if entry.replicas.contains(&node) {
                held.replicas.insert(*partition);
                let rule = picture.rules.partitions.get(partition);
                if rule.is_some_and(|rule| rule.placement_frozen.is_some()) {
                    held.frozen.insert(*partition);
                }
            }
        }
        for (partition, chain) in &picture.chains {
            if chain
                .segments()
                .iter()
                .any(|segment| segment.nodes().any(|at| at == node))
            {
                held.logs.insert(*partition);
            }
        }
        held
    }

    fn is_empty(&self) -> bool {
        !self.votes && self.leads.is_empty() && self.replicas.is_empty() && self.logs.is_empty()
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted = [
            (self.leads.len(), "leader"),
            (self.replicas.len(), "replica"),
            (self.logs.len(), "log that is needed"),
        ];
        let mut parts: Vec<String> = counted
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| plural(count, what))
            .collect();
        if self.votes {
            parts.push("a vote of the metadata plane".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

fn plural(count: usize, what: &str) -> String {
    match (count, what.strip_prefix("log")) {
        (1, _) => format!("1 {what}"),
        (_, Some(rest)) => format!("{count} logs{}", rest.replace(" is ", " are ")),
        _ => format!("{count} {what}s"),
    }
}

/// What is left on a node, and what its going waits for if the node is drained.
pub(crate) fn holdings(
    picture: &Picture,
    answers: &Answers,
    node: &str,
) -> Result<Holdings, OperationError> {
    let (node, entry) = picture.node(node)?;
    let held = Held::of(picture, node);
    let waits = match entry.state {
        NodeState::Draining => {
            let partitions: BTreeSet<_> = held.replicas.union(&held.logs).copied().collect();
            waits::of(picture, answers, node, &partitions)
        }
        NodeState::Active | NodeState::Removed => Vec::new(),
    };
    let numbers = |partitions: BTreeSet<PartitionId>| {
        let numbers = partitions.into_iter().map(|partition| partition.0.into());
        numbers.collect()
    };
    Ok(Holdings {
        node: node.0,
        name: entry.name.clone(),
        state: state_name(entry.state).to_owned(),
        leads: numbers(held.leads),
        replicas: numbers(held.replicas),
        logs: numbers(held.logs),
        votes: held.votes,
        frozen: numbers(held.frozen),
        waits,
    })
}

/// The name in listings.
pub(crate) const fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

/// Changes what a node is for, after the checks; or says what that would come to.
pub(crate) async fn change(
    picture: &Picture,
    metadata: &Metadata,
    request: &ChangeNode,
) -> Result<ChangeNodeReply, OperationError> {
    let (node, entry) = picture.node(&request.node)?;
    let force = request.force;
    let plan = match request.change() {
        Change::Drain => plan_drain(picture, node, entry, force)?,
        Change::Activate => plan_activation(node, entry),
        Change::Remove => plan_removal(picture, node, entry, force)?,
        Change::TakeVote => plan_vote(picture, node, entry, false)?,
        Change::GiveVote => plan_vote(picture, node, entry, true)?,
        Change::Unknown => return Err(OperationError::Missing("what is to be changed")),
    };
    if !request.dry_run && !plan.nothing_to_do {
        let state = |state: NodeState| move |entry: &mut NodeEntry| entry.state = state;
        match request.change() {
            Change::Drain => set(metadata, node, state(NodeState::Draining)).await?,
            Change::Activate => set(metadata, node, state(NodeState::Active)).await?,
            Change::TakeVote => set(metadata, node, |entry| entry.never_votes = true).await?,
            Change::GiveVote => set(metadata, node, |entry| entry.never_votes = false).await?,
            // The metadata plane makes sure that it loses its vote first.
            Change::Remove => commit::remove(metadata, node).await?,
            Change::Unknown => {}
        }
    }
    Ok(ChangeNodeReply {
        plan: Some(plan),
        node: node.0,
        name: entry.name.clone(),
    })
}

async fn set(
    metadata: &Metadata,
    node: NodeId,
    change: impl Fn(&mut NodeEntry),
) -> Result<(), OperationError> {
    commit::change(metadata, |nodes: &mut Nodes| {
        let entry = nodes
            .nodes
            .get_mut(&node)
            .ok_or_else(|| OperationError::NoNode(node.to_string()))?;
        if entry.state == NodeState::Removed {
            return Err(OperationError::Removed { node });
        }
        let before = entry.clone();
        change(entry);
        Ok(*entry != before)
    })
    .await
}

fn plan_drain(
    picture: &Picture,
    node: NodeId,
    entry: &NodeEntry,
    force: bool,
) -> Result<Plan, OperationError> {
    if entry.state == NodeState::Draining {
        return Ok(nothing(format!("{node} is draining already.")));
    }
    // A dead one takes nothing.
    let left = picture
        .homes()
        .filter(|(home, _)| *home != node && picture.is_alive(*home))
        .count();
    let replication = picture.cluster.replication;
    let quorum = usize::from(replication.write_quorum).max(1);
    let forcible = left > 0;
    if is_home(entry) && left < quorum && !(force && forcible) {
        return Err(OperationError::TooFewNodes {
            node,
            left,
            quorum,
            forcible,
        });
    }
    let held = Held::of(picture, node);
    let name = &entry.name;
    let mut lines = vec![match held.is_empty() {
        true => format!("{node} ({name}) is drained: it gets no work any more. It has none now."),
        false => {
            format!("{node} ({name}) is drained: what it has moves to other nodes. It has {held}.")
        }
    }];
    let (wanted, _) = replication.effective(left);
    if is_home(entry) && left < usize::from(wanted) {
        lines.push(format!(
            "There are {left} other nodes for replicas, so that each partition has {left} instead of {wanted}."
        ));
    }
    if !held.frozen.is_empty() {
        let frozen: Vec<String> = held.frozen.iter().map(PartitionId::to_string).collect();
        lines.push(format!(
            "The placement of partitions {} is frozen: they stay on it until that is lifted.",
            frozen.join(", ")
        ));
    }
    let others = picture.nodes.with_role(Role::MetadataServer);
    let mut others = others.filter(|(other, entry)| {
        *other != node && entry.state == NodeState::Active && !entry.never_votes
    });
    if held.votes && others.next().is_none() {
        lines.push("It keeps its vote: there is no other metadata server.".to_owned());
    }
    Ok(Plan {
        lines,
        nothing_to_do: false,
    })
}

fn plan_activation(node: NodeId, entry: &NodeEntry) -> Plan {
    match entry.state {
        NodeState::Active => nothing(format!("{node} is active already.")),
        _ => Plan {
            lines: vec![format!("{node} ({}) gets work again.", entry.name)],
            nothing_to_do: false,
        },
    }
}

fn plan_removal(
    picture: &Picture,
    node: NodeId,
    entry: &NodeEntry,
    force: bool,
) -> Result<Plan, OperationError> {
    let alive = picture.is_alive(node);
    if alive && entry.state != NodeState::Draining {
        return Err(OperationError::NotDrained { node });
    }
    let held = Held::of(picture, node);
    let only_voter = held.votes && picture.voters.len() == 1;
    if only_voter {
        return Err(OperationError::LastVoter { node });
    }
    if alive && !held.is_empty() {
        return Err(OperationError::StillHolds {
            node,
            what: held.to_string(),
            alive,
        });
    }
    check_quorums(picture, node)?;
    let stuck = !held.replicas.is_empty() || !held.logs.is_empty();
    if stuck && !force {
        return Err(OperationError::StillHolds {
            node,
            what: held.to_string(),
            alive,
        });
    }
    let mut lines = vec![format!(
        "{node} ({}) is removed for good: it cannot come back with the data that it has, and its id is never used again.",
        entry.name
    )];
    if alive {
        lines.push("Its process ends when it hears of it.".to_owned());
    }
    if stuck {
        lines.push(format!(
            "It still has {held}. Every record is on another node too; the copies are made anew where there are nodes for them."
        ));
    }
    Ok(Plan {
        lines,
        nothing_to_do: false,
    })
}

/// Every record of a segment is on a write quorum of its replicas. It is on one that is left for sure when fewer than
/// that are gone.
fn check_quorums(picture: &Picture, node: NodeId) -> Result<(), OperationError> {
    let gone = |other: NodeId| other == node || !picture.is_alive(other);
    for (partition, chain) in &picture.chains {
        for segment in chain.segments() {
            if !segment.nodes().any(|other| other == node) {
                continue;
            }
            let gone = segment.nodes().filter(|other| gone(*other)).count();
            if segment.write_quorum() <= gone {
                return Err(OperationError::QuorumAtRisk {
                    node,
                    partition: *partition,
                    epoch: segment.epoch().0,
                    gone,
                    replicas: segment.members().len(),
                    quorum: segment.write_quorum(),
                });
            }
        }
    }
    Ok(())
}

fn plan_vote(
    picture: &Picture,
    node: NodeId,
    entry: &NodeEntry,
    votes: bool,
) -> Result<Plan, OperationError> {
    if !entry.roles.contains(&Role::MetadataServer) {
        return Err(OperationError::NoMetadataServer { node });
    }
    let name = &entry.name;
    if votes {
        if !entry.never_votes {
            return Ok(nothing(format!("{node} may vote already.")));
        }
        return Ok(Plan {
            lines: vec![format!(
                "{node} ({name}) may vote in the metadata plane again, as soon as that makes an odd number of voters."
            )],
            nothing_to_do: false,
        });
    }
    if entry.never_votes {
        return Ok(nothing(format!("{node} has no vote already.")));
    }
    if picture.voters.contains(&node) && picture.voters.len() == 1 {
        return Err(OperationError::LastVoter { node });
    }
    Ok(Plan {
        lines: vec![format!(
            "{node} ({name}) keeps the metadata but votes no more; another server takes its place where there is one."
        )],
        nothing_to_do: false,
    })
}

fn nothing(line: String) -> Plan {
    Plan {
        lines: vec![line],
        nothing_to_do: true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "nodes_tests.rs"]
mod tests;
