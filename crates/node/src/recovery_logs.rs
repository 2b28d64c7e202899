//! What is left of logs of which too many replicas are lost, and the order to go on with that.

use abide_controller::Health;
use abide_log::{LogChain, Member as LogMember, Salvage, Segment, fence_quorum};
use abide_metadata::{CommitError, PartitionEntry, PartitionTable, Txn, View, keys};
use abide_rpc::proto::cluster::{LogStatus, NodeStatus, ReplicaStatus};
use abide_rpc::proto::recovery::log_voter::State;
use abide_rpc::proto::recovery::{LogSurvey, LogVoter, PartitionStore, RecoverLog};
use abide_types::{Epoch, Lsn, NodeId, NodeIncarnation, PartitionId, Role};

use crate::describe::Answers;
use crate::facts::Member;

/// Why a log is not made to go on with what is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("partition {0} does not exist, or nobody has led it yet")]
    Unknown(u32),
    #[error("enough replicas of log {0} answer: a takeover needs no help")]
    NotStuck(u32),
    #[error(
        "log {partition} is not as it was shown: it is at version {version} and would keep records below {kept}; \
         look again"
    )]
    Changed {
        partition: u32,
        version: u64,
        kept: u64,
    },
    #[error("log {partition}: {obstacle}")]
    Obstacle { partition: u32, obstacle: String },
    #[error("the order was not recorded")]
    Commit(#[source] CommitError),
}

/// What the node that leads the metadata plane, or any other, sees of one log. `None` if nobody has led it yet.
pub(crate) fn survey(view: &View, partition: PartitionId, answers: &Answers) -> Option<LogSurvey> {
    let stored = view.raw(&keys::log(partition))?;
    let chain = LogChain::from_json(&stored.value).ok()?;
    let last = chain.last()?;
    let voters: Vec<LogVoter> = last
        .members()
        .iter()
        .filter_map(|member| voter(partition, last, member, answers))
        .collect();
    let stores = stores(view, partition, answers);
    let needed = fence_quorum(voters.len(), last.write_quorum());
    let present = || {
        voters
            .iter()
            .filter(|found| found.state() == State::Present)
    };
    let stuck = present().count() < needed;
    let tail = present()
        .map(|found| found.tail)
        .max()
        .unwrap_or(last.base().0);
    let floor = floor(&stores);
    let committed = voters.iter().map(|found| found.committed).max();
    Some(LogSurvey {
        partition: partition.0.into(),
        version: stored.version,
        epoch: last.epoch().0,
        base: last.base().0,
        needed: u32::try_from(needed).unwrap_or(u32::MAX),
        stuck,
        kept: tail.max(floor),
        known: tail.max(floor).max(committed.unwrap_or(0)),
        anew: tail < floor,
        ordered: chain.salvage().is_some(),
        obstacle: obstacle(view, partition, &stores, answers).unwrap_or_default(),
        voters,
        stores,
    })
}

fn voter(
    partition: PartitionId,
    last: &Segment,
    member: &LogMember,
    answers: &Answers,
) -> Option<LogVoter> {
    // One without a storage was never met: it counts for nothing.
    let storage = member.storage?;
    let mut voter = LogVoter {
        node: member.node.0,
        storage: storage.0,
        ..LogVoter::default()
    };
    let status = match answers.get(&member.node) {
        Some(Ok(status)) => status,
        Some(Err(error)) => {
            voter.unreachable = error.to_string();
            return Some(voter);
        }
        None => {
            voter.unreachable = "it is no member of the cluster any more".to_owned();
            return Some(voter);
        }
    };
    let Some(log) = log_of(status, partition) else {
        voter.unreachable = "it runs no log server".to_owned();
        return Some(voter);
    };
    if log.storage != storage.0 {
        voter.set_state(State::OtherDisk);
        return Some(voter);
    }
    voter.set_state(State::Present);
    let held = log
        .segments
        .iter()
        .find(|held| held.epoch == last.epoch().0);
    voter.tail = held
        .map_or(0, |held| held.tail)
        .max(log.trimmed)
        .max(last.base().0);
    voter.committed = held.map_or(0, |held| held.committed).max(log.trimmed);
    Some(voter)
}

fn log_of(status: &NodeStatus, partition: PartitionId) -> Option<&LogStatus> {
    let of = |log: &&LogStatus| log.partition == u32::from(partition.0);
    status.logs.iter().find(of)
}

/// What the replicas in reach have applied. One that is being rebuilt, or has stopped, holds nothing to rely on.
fn stores(view: &View, partition: PartitionId, answers: &Answers) -> Vec<PartitionStore> {
    let replicas = view.partition_table.partitions.get(&partition);
    let nodes = replicas.map_or(&[][..], |entry| &entry.replicas);
    let of = |replica: &&ReplicaStatus| replica.partition == u32::from(partition.0);
    nodes
        .iter()
        .filter_map(|node| {
            let status = answers.get(node)?.as_ref().ok()?;
            let replica = status.replicas.iter().find(of)?;
            Some(PartitionStore {
                node: node.0,
                applied: replica.applied,
                state: replica.state.clone(),
            })
        })
        .collect()
}

fn is_sound(store: &PartitionStore) -> bool {
    !matches!(store.state.as_str(), "rebuilding" | "stopped")
}

/// The first record that no store in reach has applied.
fn floor(stores: &[PartitionStore]) -> u64 {
    let sound = stores.iter().filter(|store| is_sound(store));
    sound.map(|store| store.applied + 1).max().unwrap_or(0)
}

/// Why a takeover that was ordered could not get through: it writes to the partition's present replicas.
fn obstacle(
    view: &View,
    partition: PartitionId,
    stores: &[PartitionStore],
    answers: &Answers,
) -> Option<String> {
    let entry = view.partition_table.partitions.get(&partition)?;
    let cluster = view.cluster.as_ref()?;
    let wanted = match usize::from(cluster.replication.write_quorum) {
        0 => entry.replicas.len() / 2 + 1,
        configured => configured.min(entry.replicas.len()),
    };
    let answering = |node: &&NodeId| matches!(answers.get(node), Some(Ok(_)));
    let log_server = |node: &&NodeId| {
        let entry = view.nodes.get(**node);
        entry.is_some_and(|entry| entry.roles.contains(&Role::LogServer))
    };
    let there = entry.replicas.iter().filter(answering).filter(log_server);
    let there = there.count();
    if there < wanted {
        let replicas: Vec<String> = entry.replicas.iter().map(NodeId::to_string).collect();
        return Some(format!(
            "{wanted} of its replicas {} have to run, with whatever disk, and {there} do; start replacements of the \
             others under their names first",
            replicas.join(" ")
        ));
    }
    stores
        .iter()
        .all(|store| !is_sound(store))
        .then(|| "no node in reach has a replica of the partition that could lead".to_owned())
}

/// Records the order to go on without the voters that do not answer, and has the replica lead that has applied most.
pub(crate) async fn order(
    member: &Member,
    request: &RecoverLog,
    answers: &Answers,
) -> Result<(Epoch, NodeId), Refusal> {
    let number = request.partition;
    let unknown = || Refusal::Unknown(number);
    let partition = PartitionId(u16::try_from(number).map_err(|_| unknown())?);
    let view = member.metadata.view();
    let found = survey(&view, partition, answers).ok_or_else(unknown)?;
    if !found.stuck {
        return Err(Refusal::NotStuck(number));
    }
    if found.version != request.version || found.kept != request.kept {
        return Err(Refusal::Changed {
            partition: number,
            version: found.version,
            kept: found.kept,
        });
    }
    if !found.obstacle.is_empty() {
        return Err(Refusal::Obstacle {
            partition: number,
            obstacle: found.obstacle,
        });
    }
    let stored = view.raw(&keys::log(partition)).ok_or_else(unknown)?;
    let chain = LogChain::from_json(&stored.value).map_err(|_| unknown())?;
    let lost = found
        .voters
        .iter()
        .filter(|voter| voter.state() != State::Present)
        .map(|voter| (NodeId(voter.node), abide_log::StorageId(voter.storage)));
    let salvage = Salvage {
        segment: Epoch(found.epoch),
        lost: lost.collect(),
        floor: Lsn(floor(&found.stores)),
    };
    let ordered = chain.with_salvage(salvage).ok_or_else(unknown)?;
    let mut table = PartitionTable::clone(&view.partition_table);
    let entry = table.partitions.get_mut(&partition).ok_or_else(unknown)?;
    let leader = successor(member, &view, &found.stores).ok_or_else(|| Refusal::Obstacle {
        partition: number,
        obstacle: "no replica in reach can lead".to_owned(),
    })?;
    // Whoever tries to take over now does not know of the order.
    *entry = PartitionEntry {
        epoch: entry.epoch.next(),
        leader: Some(leader),
        ..entry.clone()
    };
    let epoch = entry.epoch;
    let key = keys::log(partition);
    let txn = Txn::new()
        .expect(&key, found.version)
        .put(&key, ordered.to_json())
        .replace(&table);
    member.metadata.commit(txn).await.map_err(Refusal::Commit)?;
    tracing::warn!(
        %partition, %epoch, leader = %leader.node, kept = found.kept, known = found.known,
        "an operator has the log go on with what is left of it"
    );
    Ok((epoch, leader.node))
}

fn successor(member: &Member, view: &View, stores: &[PartitionStore]) -> Option<NodeIncarnation> {
    let health = member.controller.health().borrow().clone();
    let alive = |node: NodeId| {
        let health = health.get(&node).map(|health: &Health| health.name());
        node == member.joined.node || health == Some("alive")
    };
    stores
        .iter()
        .filter(|store| is_sound(store) && alive(NodeId(store.node)))
        .max_by_key(|store| (store.applied, std::cmp::Reverse(store.node)))
        .and_then(|store| {
            let node = NodeId(store.node);
            Some(view.nodes.get(node)?.incarnation(node))
        })
}
