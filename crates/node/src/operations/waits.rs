//! What a drain waits for: for each partition, who has to get on before the node can let go of it.

use std::collections::BTreeSet;

use abide_rpc::proto::cluster::ReplicaStatus;
use abide_rpc::proto::operations::Obstacle;
use abide_types::{NodeId, PartitionId};

use super::picture::Picture;
use crate::describe::Answers;

/// Obstacles that are told; of more it is enough to know that there are some.
const OBSTACLES_MAX: usize = 64;
/// A replica with more records before it has not caught up, as who governs sees it.
const LAG_RECORDS_MAX: u64 = 200;

/// Of partitions that have a replica or a segment of their log on `node`.
pub(crate) fn of(
    picture: &Picture,
    answers: &Answers,
    node: NodeId,
    partitions: &BTreeSet<PartitionId>,
) -> Vec<Obstacle> {
    let look = Look {
        picture,
        answers,
        node,
    };
    let obstacles = partitions.iter().flat_map(|partition| look.at(*partition));
    obstacles.take(OBSTACLES_MAX).collect()
}

struct Look<'a> {
    picture: &'a Picture,
    answers: &'a Answers,
    node: NodeId,
}

impl Look<'_> {
    fn at(&self, partition: PartitionId) -> Vec<Obstacle> {
        let on_nobody = |what: &str| {
            vec![Obstacle {
                partition: partition.0.into(),
                what: what.to_owned(),
                ..Obstacle::default()
            }]
        };
        let Some(entry) = self.picture.table.partitions.get(&partition) else {
            return on_nobody("the partition is not placed");
        };
        if !entry.replicas.contains(&self.node) {
            return self.at_segments(partition, &entry.replicas);
        }
        let rule = self.picture.rules.partitions.get(&partition);
        if let Some(reason) = rule.and_then(|rule| rule.placement_frozen.as_deref()) {
            return on_nobody(&format!("its placement is frozen: {reason}"));
        }
        if entry.next.is_empty() || entry.next.contains(&self.node) {
            return on_nobody("its turn to exchange replicas has not come");
        }
        let staying = entry.next.iter();
        let obstacles: Vec<Obstacle> = staying
            .filter_map(|stays| self.at_replica(partition, *stays))
            .collect();
        match obstacles.is_empty() {
            true => on_nobody("all who stay have caught up; the exchange is under way"),
            false => obstacles,
        }
    }

    /// A replica that stays and may not be ready to stand in.
    fn at_replica(&self, partition: PartitionId, stays: NodeId) -> Option<Obstacle> {
        let told = |behind: u64, what: String| {
            Some(Obstacle {
                partition: partition.0.into(),
                node: stays.0,
                behind,
                what,
            })
        };
        let status = match self.answers.get(&stays) {
            Some(Ok(_)) => self.replica(stays, partition),
            Some(Err(error)) => return told(0, format!("{stays} does not answer: {error}")),
            None => return told(0, format!("{stays} does not answer")),
        };
        let Some(status) = status else {
            return told(0, format!("{stays} has not begun with its replica"));
        };
        if matches!(status.state.as_str(), "rebuilding" | "stopped") {
            return told(
                self.behind(partition, status),
                format!(
                    "the replica on {stays} is {}: {}",
                    status.state, status.problem
                ),
            );
        }
        let behind = self.behind(partition, status);
        if behind > LAG_RECORDS_MAX {
            let applied = status.applied;
            return told(
                behind,
                format!("{stays} is {behind} records behind, it has applied {applied}"),
            );
        }
        let open = self.picture.chains.get(&partition)?.last()?;
        let votes = open.storage(stays).is_some();
        (!votes).then(|| Obstacle {
            partition: partition.0.into(),
            node: stays.0,
            behind: 0,
            what: format!("the log server of {stays} is not yet a voter of the open segment"),
        })
    }

    /// No replica is left, but segments of the log are: they go when all replicas have what they hold on disk.
    fn at_segments(&self, partition: PartitionId, replicas: &[NodeId]) -> Vec<Obstacle> {
        let segments = self.picture.chains.get(&partition);
        let segments = segments.iter().flat_map(|chain| chain.segments());
        let mut held = segments.filter(|segment| segment.nodes().any(|at| at == self.node));
        let ends: Option<Vec<_>> = held.by_ref().map(|segment| segment.end()).collect();
        let end = match ends.map(|ends| ends.into_iter().max()) {
            Some(Some(end)) => end,
            // Nothing is held any more.
            Some(None) => return Vec::new(),
            None => {
                return vec![Obstacle {
                    partition: partition.0.into(),
                    what: "the log's open segment is on it; its leader begins another one"
                        .to_owned(),
                    ..Obstacle::default()
                }];
            }
        };
        let last = end.previous().0;
        let lacking = replicas.iter().filter_map(|replica| {
            let told = |behind, what| Obstacle {
                partition: partition.0.into(),
                node: replica.0,
                behind,
                what,
            };
            let Some(status) = self.replica(*replica, partition) else {
                return Some(told(
                    0,
                    format!("{replica} does not say whether it has the log up to {last} on disk"),
                ));
            };
            (status.durable < last).then(|| {
                told(
                    last - status.durable,
                    format!(
                        "{replica} has what {} did on its disk, and old segments of the log go up to {last}",
                        status.durable
                    ),
                )
            })
        });
        let lacking: Vec<Obstacle> = lacking.collect();
        match lacking.is_empty() {
            true => vec![Obstacle {
                partition: partition.0.into(),
                what: "old segments of the log are about to be trimmed".to_owned(),
                ..Obstacle::default()
            }],
            false => lacking,
        }
    }

    fn replica(&self, node: NodeId, partition: PartitionId) -> Option<&ReplicaStatus> {
        let status = self.answers.get(&node)?.as_ref().ok()?;
        let mut replicas = status.replicas.iter();
        replicas.find(|replica| replica.partition == u32::from(partition.0))
    }

    /// Records before a replica, as whoever knows most of the log has it.
    fn behind(&self, partition: PartitionId, status: &ReplicaStatus) -> u64 {
        let tails = self.answers.keys().filter_map(|node| {
            let replica = self.replica(*node, partition)?;
            Some(replica.tail)
        });
        let tail = tails.max().unwrap_or(status.tail);
        tail.saturating_sub(status.applied.saturating_add(1))
    }
}
