//! Why an operator's request is refused, and what to do instead.

use abide_metadata::{CommitError, DocumentError, MetadataError, RemoveError};
use abide_processor::api::RouteError;
use abide_types::{NodeId, PartitionId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The header that says what to do instead.
const HINT: &str = "abide-hint";

/// A request that was not carried out. Nothing was changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperationError {
    #[error("there is no node '{0}'")]
    NoNode(String),
    #[error("{node} was removed already")]
    Removed { node: NodeId },
    #[error("partition {partition} does not exist")]
    NoPartition { partition: u32, partitions: u16 },
    #[error("the request does not say {0}")]
    Missing(&'static str),
    #[error(
        "without {node} there are {left} nodes that can hold replicas, and a write takes {quorum} of them"
    )]
    TooFewNodes {
        node: NodeId,
        left: usize,
        quorum: usize,
        forcible: bool,
    },
    #[error("{node} is alive and was not drained")]
    NotDrained { node: NodeId },
    #[error("{node} still has {what}")]
    StillHolds {
        node: NodeId,
        what: String,
        alive: bool,
    },
    #[error(
        "log {partition} may have records on {node} that no node has which is left: {gone} of the {replicas} replicas of its segment of epoch {epoch} are gone, and a write took {quorum}"
    )]
    QuorumAtRisk {
        node: NodeId,
        partition: PartitionId,
        epoch: u64,
        gone: usize,
        replicas: usize,
        quorum: usize,
    },
    #[error("{node} has the only vote of the metadata plane")]
    LastVoter { node: NodeId },
    #[error("{node} keeps no metadata: it has not the role metadata-server")]
    NoMetadataServer { node: NodeId },
    #[error("partition {partition} is not placed yet")]
    NotPlaced { partition: PartitionId },
    #[error("{node} is no replica of partition {partition}")]
    NoReplica {
        node: NodeId,
        partition: PartitionId,
    },
    #[error("{node} cannot hold replicas: it has not the roles worker and log-server")]
    NoHome { node: NodeId },
    #[error("{node} is {state}")]
    NotActive { node: NodeId, state: &'static str },
    #[error("{node} is not in reach")]
    NotInReach { node: NodeId },
    #[error("{node} has not caught up with partition {partition}: {detail}")]
    NotCaughtUp {
        node: NodeId,
        partition: PartitionId,
        detail: String,
    },
    #[error("partition {partition} is pinned to {node}")]
    Pinned {
        partition: PartitionId,
        node: NodeId,
    },
    #[error(
        "log {partition} cannot be trimmed to {to}: beyond {possible} its records are not committed and applied"
    )]
    TrimBeyond {
        partition: PartitionId,
        to: u64,
        possible: u64,
    },
    #[error("log {partition} cannot be trimmed to {to}, only to {safe}: {why}")]
    TrimUnsafe {
        partition: PartitionId,
        to: u64,
        safe: u64,
        why: String,
    },
    #[error("the leader of partition {partition} refuses: {reason}")]
    Leader {
        partition: PartitionId,
        reason: String,
    },
    #[error("the leader of partition {partition} does not answer")]
    NoLeader {
        partition: PartitionId,
        source: RouteError,
    },
    #[error("{field} is {value}, {rule}")]
    Invalid {
        field: &'static str,
        value: u32,
        rule: String,
    },
    #[error("{nodes} nodes can hold replicas, and a write quorum of {quorum} takes {quorum}")]
    QuorumOutOfReach { nodes: usize, quorum: u32 },
    #[error("document '{key}' would not be understood: {detail}")]
    NotUnderstood { key: String, detail: String },
    #[error("{what} of a cluster cannot be changed")]
    Fixed { what: &'static str },
    #[error("'{key}' is at version {actual}, not {expected}")]
    Version {
        key: String,
        expected: u64,
        actual: u64,
    },
    #[error("others changed the same again and again")]
    Contended,
    #[error("a document of the metadata plane does not parse")]
    Document(#[from] DocumentError),
    #[error("the metadata plane does not answer")]
    Metadata(#[from] MetadataError),
    #[error("the metadata plane did not take the change")]
    Commit(#[source] CommitError),
    #[error("the metadata plane did not remove the node")]
    Remove(#[source] RemoveError),
}

impl OperationError {
    fn code(&self) -> Code {
        match self {
            Self::NoNode(_) | Self::NoPartition { .. } => Code::NotFound,
            Self::Missing(_)
            | Self::Invalid { .. }
            | Self::NotUnderstood { .. }
            | Self::Fixed { .. } => Code::InvalidArgument,
            Self::Removed { .. }
            | Self::TooFewNodes { .. }
            | Self::NotDrained { .. }
            | Self::StillHolds { .. }
            | Self::QuorumAtRisk { .. }
            | Self::LastVoter { .. }
            | Self::NoMetadataServer { .. }
            | Self::NotPlaced { .. }
            | Self::NoReplica { .. }
            | Self::NoHome { .. }
            | Self::NotActive { .. }
            | Self::NotInReach { .. }
            | Self::NotCaughtUp { .. }
            | Self::Pinned { .. }
            | Self::TrimBeyond { .. }
            | Self::TrimUnsafe { .. }
            | Self::Leader { .. }
            | Self::QuorumOutOfReach { .. } => Code::FailedPrecondition,
            Self::Version { .. } | Self::Contended => Code::Aborted,
            Self::Document(_) => Code::DataLoss,
            Self::NoLeader { .. } | Self::Metadata(_) | Self::Commit(_) | Self::Remove(_) => {
                Code::Unavailable
            }
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::NoNode(_) => {
                "a node is named by its id, such as N1 or 1, or by its name; `abidectl nodes list` shows them".into()
            }
            Self::Removed { .. } => {
                "ids are never used again: the same machine joins anew with an empty data directory".into()
            }
            Self::NoPartition { partitions, .. } => format!(
                "`abidectl partitions list` shows the {partitions} partitions of this cluster"
            ),
            Self::TooFewNodes { forcible: true, .. } => {
                "start another node first, or lower the replication with `abidectl config set`; `--force` goes on with fewer copies".into()
            }
            Self::TooFewNodes { .. } => "start another node first".into(),
            Self::NotDrained { node } => {
                format!("`abidectl nodes drain {node} --wait` moves what it has to others")
            }
            Self::StillHolds { node, alive: true, .. } => {
                format!("`abidectl nodes drain {node} --wait` follows what is moved, until it can go")
            }
            Self::StillHolds { node, .. } => format!(
                "`abidectl nodes drain {node} --wait` has it moved to others first; `--force` removes it now: every record is on another node, but there are fewer copies until they are made anew"
            ),
            Self::QuorumAtRisk { .. } => {
                "bring a lost node back with its disk; `abidectl logs describe` shows what each has".into()
            }
            Self::LastVoter { .. } => "start another metadata server first".into(),
            Self::NoMetadataServer { .. } => {
                "`abidectl metadata-server list-servers` shows those that do".into()
            }
            Self::NotPlaced { .. } => "it is placed when enough nodes are there".into(),
            Self::NoReplica { partition, .. } => format!(
                "`abidectl partitions placement show {partition}` shows them, `… placement set` changes them"
            ),
            Self::NoHome { .. } => "`abidectl nodes list` shows the roles of each node".into(),
            Self::NotActive { node, .. } => {
                format!("`abidectl nodes undrain {node}` gives a draining node work again")
            }
            Self::NotInReach { .. } => "`abidectl nodes list` shows who is alive".into(),
            Self::NotCaughtUp { .. } => {
                "`abidectl partitions list --replicas` shows how far it is".into()
            }
            Self::Pinned { partition, .. } => {
                format!("`abidectl partitions leadership unpin {partition}` first")
            }
            Self::TrimBeyond { .. } => "`abidectl logs find-tail` shows where each log ends".into(),
            Self::TrimUnsafe { .. } => {
                "`abidectl snapshots create` makes a snapshot first; `--force` trims what is on the leader's disk alone"
                    .into()
            }
            Self::Leader { .. } => "the log of the node that leads it says more".into(),
            Self::NoLeader { .. } => {
                "try again; `abidectl status` shows whether the partition has a leader".into()
            }
            Self::QuorumOutOfReach { .. } => "start more nodes first, or ask for less".into(),
            Self::Version { .. } => "look at what it is now, and decide anew".into(),
            Self::Missing(_)
            | Self::Invalid { .. }
            | Self::NotUnderstood { .. }
            | Self::Fixed { .. } => "see `--help`".into(),
            Self::Contended | Self::Metadata(_) | Self::Commit(_) | Self::Remove(_) => {
                "try again; `abidectl status` shows whether the metadata plane has a leader".into()
            }
            Self::Document(_) => "`abidectl metadata get` shows what is stored".into(),
        }
    }
}

impl From<OperationError> for Status {
    fn from(error: OperationError) -> Self {
        let mut status = Self::new(error.code(), crate::start::chain(&error));
        // Hints are ASCII but for the ellipsis, which a header cannot carry.
        let hint = error.hint().replace('…', "...");
        if let Ok(hint) = MetadataValue::try_from(hint) {
            status.metadata_mut().insert(HINT, hint);
        }
        status
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_what_to_do_instead() {
        let status = Status::from(OperationError::NotDrained { node: NodeId(3) });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "N3 is alive and was not drained");
        assert_eq!(
            status.metadata().get(HINT).unwrap(),
            "`abidectl nodes drain N3 --wait` moves what it has to others"
        );
        let no_replica = OperationError::NoReplica {
            node: NodeId(3),
            partition: PartitionId(1),
        };
        assert!(Status::from(no_replica).metadata().get(HINT).is_some());
    }
}
