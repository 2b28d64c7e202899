//! What only the leader can do: commit, read linearizably, register and remove nodes. On other servers the
//! answer is who leads, so that the caller goes there.

use std::collections::BTreeSet;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_types::NodeId;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use rand::Rng as _;

use super::core::Core;
use super::joining;
use super::members::{to_node, voters};
use super::types::{Command, Outcome, Raft};
use crate::documents::{ClusterDocument, Document, NodeState, Nodes};
use crate::txn::Txn;

/// Keys have at most so many bytes.
const KEY_BYTES_MAX: usize = 1024;
/// A transaction may fill this part of a message: it travels with others.
const TRANSACTION_PART_OF_MESSAGE: usize = 4;
/// Registrations that collide are repeated so often; each repetition means that another one succeeded.
const REGISTER_TRIES: usize = 100;

/// What proposing a transaction came to.
#[derive(Debug)]
pub(crate) enum Proposed {
    Committed(u64),
    Conflict(pb::Conflict),
    NotLeader(pb::NotLeader),
    Undecided,
}

/// The message of a transaction, with a random id.
pub(crate) fn transaction(txn: Txn) -> pb::Transaction {
    let id: [u8; 16] = rand::rng().random();
    pb::Transaction {
        id: id.to_vec().into(),
        preconditions: txn
            .preconditions
            .into_iter()
            .map(|(key, version)| pb::Precondition { key, version })
            .collect(),
        puts: txn
            .puts
            .into_iter()
            .map(|(key, value)| pb::Put { key, value })
            .collect(),
        deletes: txn.deletes,
    }
}

impl Core {
    fn not_leader(&self, leader: Option<u64>) -> pb::NotLeader {
        let leader = leader.map(to_node);
        pb::NotLeader {
            leader: leader.map_or(0, |node| node.0),
            address: leader
                .and_then(|node| self.addresses.get(node))
                .unwrap_or_default(),
        }
    }

    /// Proposes a transaction and waits until it is applied here.
    pub(crate) async fn propose(&self, transaction: pb::Transaction) -> Proposed {
        let Some(raft) = self.raft() else {
            return Proposed::NotLeader(self.not_leader(None));
        };
        let written = raft.client_write(Command(transaction));
        match tokio::time::timeout(self.options.attempt_timeout, written).await {
            Err(_) => Proposed::Undecided,
            Ok(Ok(written)) => match written.data {
                Outcome::Committed(version) => Proposed::Committed(version),
                Outcome::Conflict {
                    key,
                    expected,
                    actual,
                } => Proposed::Conflict(pb::Conflict {
                    key,
                    expected,
                    actual,
                }),
                // Only entries that are no transactions come to nothing.
                Outcome::Nothing => Proposed::Undecided,
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Proposed::NotLeader(self.not_leader(forward.leader_id))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a proposal has no known outcome");
                Proposed::Undecided
            }
        }
    }

    fn check_transaction(&self, transaction: &pb::Transaction) -> Result<(), String> {
        let keys = transaction
            .preconditions
            .iter()
            .map(|precondition| &precondition.key)
            .chain(transaction.puts.iter().map(|put| &put.key))
            .chain(&transaction.deletes);
        for key in keys {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(format!(
                    "a key has 1 to {KEY_BYTES_MAX} bytes, not {}",
                    key.len()
                ));
            }
        }
        if transaction.id.len() > 16 {
            return Err("a transaction's id has at most 16 bytes".into());
        }
        let mut written = BTreeSet::new();
        for key in transaction
            .puts
            .iter()
            .map(|put| &put.key)
            .chain(&transaction.deletes)
        {
            if !written.insert(key) {
                return Err(format!(
                    "the key '{key}' is written twice in one transaction"
                ));
            }
        }
        let size = prost::Message::encoded_len(transaction);
        let size_max = self.options.message_bytes_max / TRANSACTION_PART_OF_MESSAGE;
        if size > size_max {
            return Err(format!(
                "the transaction has {size} bytes, more than {size_max}"
            ));
        }
        Ok(())
    }

    /// Commits a transaction.
    pub(crate) async fn commit(&self, transaction: pb::Transaction) -> pb::CommitReply {
        use pb::commit_reply::{Outcome, Undecided};
        let outcome = match self.check_transaction(&transaction) {
            Err(detail) => Outcome::Invalid(detail),
            Ok(()) => match self.propose(transaction).await {
                Proposed::Committed(version) => Outcome::Committed(version),
                Proposed::Conflict(conflict) => Outcome::Conflict(conflict),
                Proposed::NotLeader(not_leader) => Outcome::NotLeader(not_leader),
                Proposed::Undecided => Outcome::Undecided(Undecided {}),
            },
        };
        pb::CommitReply {
            outcome: Some(outcome),
        }
    }

    /// Waits until this server is known to lead and to have applied all that was committed before.
    async fn linearize(&self, raft: &Raft) -> Result<(), pb::NotLeader> {
        let confirmed = raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.options.attempt_timeout, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(forward.leader_id))
            }
            Ok(Err(_)) | Err(_) => Err(self.not_leader(None)),
        }
    }

    /// Reads a key linearizably.
    pub(crate) async fn read(&self, key: &str) -> pb::ReadReply {
        use pb::read_reply::{Found, Outcome};
        let outcome = match self.raft() {
            None => Outcome::NotLeader(self.not_leader(None)),
            Some(raft) => match self.linearize(&raft).await {
                Err(not_leader) => Outcome::NotLeader(not_leader),
                Ok(()) => {
                    let stored = self.shared.read(|state| state.documents.get(key).cloned());
                    Outcome::Found(Found {
                        document: stored.map(|stored| pb::Document {
                            key: key.to_owned(),
                            version: stored.version,
                            value: stored.value,
                        }),
                    })
                }
            },
        };
        pb::ReadReply {
            outcome: Some(outcome),
        }
    }

    /// Registers a start of a node.
    pub(crate) async fn register(&self, request: &pb::JoinRequest) -> pb::JoinReply {
        use pb::join_reply::{NotProvisioned, Outcome};
        let outcome = if self.raft().is_some() {
            self.register_as_leader(request).await
        } else {
            Outcome::NotProvisioned(NotProvisioned {})
        };
        pb::JoinReply {
            outcome: Some(outcome),
        }
    }

    async fn register_as_leader(&self, request: &pb::JoinRequest) -> pb::join_reply::Outcome {
        use pb::join_reply::{NotProvisioned, Outcome};
        for _ in 0..REGISTER_TRIES {
            let leader = *self.leader.borrow();
            if leader != self.node() || leader.is_none() {
                return Outcome::NotLeader(self.not_leader(leader.map(|node| node.0.into())));
            }
            let Some(cluster) = self.document::<ClusterDocument>() else {
                // The first leader has not committed the cluster's documents yet.
                return Outcome::NotProvisioned(NotProvisioned {});
            };
            let nodes = self.nodes();
            let registration = match joining::register(&cluster, &nodes, request) {
                Ok(registration) => registration,
                // Refusals must not come from an old state: ask the leader that is confirmed to be one.
                Err(refusal) => match self.raft() {
                    Some(raft) => match self.linearize(&raft).await {
                        Ok(()) if self.nodes().version == nodes.version => {
                            return Outcome::Refused(refusal);
                        }
                        Ok(()) => continue,
                        Err(not_leader) => return Outcome::NotLeader(not_leader),
                    },
                    None => return Outcome::NotLeader(self.not_leader(None)),
                },
            };
            let txn = Txn::new().replace(&registration.nodes);
            match self.propose(transaction(txn)).await {
                Proposed::Committed(version) => {
                    return Outcome::Joined(pb::Joined {
                        node: registration.node.0,
                        generation: registration.generation.0,
                        fingerprint: cluster.fingerprint,
                        version,
                    });
                }
                Proposed::Conflict(_) => {}
                Proposed::NotLeader(not_leader) => return Outcome::NotLeader(not_leader),
                // Repeating it is harmless: at worst a generation is skipped.
                Proposed::Undecided => return Outcome::NotLeader(self.not_leader(None)),
            }
        }
        Outcome::NotLeader(self.not_leader(self.node().map(|node| node.0.into())))
    }

    /// Takes a node out of the voters, then marks it as removed.
    pub(crate) async fn remove(&self, node: NodeId) -> pb::RemoveReply {
        pb::RemoveReply {
            outcome: Some(self.remove_as_leader(node).await),
        }
    }

    async fn remove_as_leader(&self, node: NodeId) -> pb::remove_reply::Outcome {
        use pb::remove_reply::Outcome;
        let Some(raft) = self.raft() else {
            return Outcome::NotLeader(self.not_leader(None));
        };
        if let Err(not_leader) = self.linearize(&raft).await {
            return Outcome::NotLeader(not_leader);
        }
        if voters(&raft) == BTreeSet::from([node]) {
            return Outcome::Refused(format!(
                "{node} is the only voter of the metadata plane; start another metadata server first"
            ));
        }
        let draining = self.set_state(node, NodeState::Draining).await;
        if !matches!(draining, Outcome::Removed(_)) {
            return draining;
        }
        if !self.wait_for_vote_given_up(&raft, node).await {
            return Outcome::NotLeader(self.not_leader(None));
        }
        self.set_state(node, NodeState::Removed).await
    }

    async fn wait_for_vote_given_up(&self, raft: &Raft, node: NodeId) -> bool {
        let mut metrics = raft.server_metrics();
        let left = async {
            loop {
                let committed = metrics.borrow_watched().committed_membership_config.clone();
                if !committed.voter_ids().any(|voter| to_node(voter) == node) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(self.options.attempt_timeout, left)
            .await
            .unwrap_or(false)
    }

    async fn set_state(&self, node: NodeId, state: NodeState) -> pb::remove_reply::Outcome {
        use pb::remove_reply::Outcome;
        for _ in 0..REGISTER_TRIES {
            let mut nodes: Nodes = self.nodes();
            let Some(entry) = nodes.nodes.get_mut(&node) else {
                return Outcome::Refused(format!("{node} does not exist"));
            };
            if entry.state == state || entry.state == NodeState::Removed {
                return Outcome::Removed(nodes.version);
            }
            entry.state = state;
            match self.propose(transaction(Txn::new().replace(&nodes))).await {
                Proposed::Committed(version) => return Outcome::Removed(version),
                Proposed::Conflict(_) => {}
                Proposed::NotLeader(not_leader) => return Outcome::NotLeader(not_leader),
                Proposed::Undecided => return Outcome::NotLeader(self.not_leader(None)),
            }
        }
        Outcome::NotLeader(self.not_leader(None))
    }

    /// A document as it is applied here.
    pub(crate) fn document<D: Document>(&self) -> Option<D> {
        let stored = self
            .shared
            .read(|state| state.documents.get(D::KEY).cloned())?;
        D::from_versioned(&stored)
            .inspect_err(|error| {
                tracing::error!(key = D::KEY, error = %error.source, "a document is not understood");
            })
            .ok()
    }

    /// The nodes as they are applied here.
    pub(crate) fn nodes(&self) -> Nodes {
        self.document().unwrap_or_default()
    }

    /// Whether the node is known to have been a member and to have been removed.
    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        let nodes = self.nodes().nodes;
        nodes
            .get(&node)
            .is_some_and(|entry| entry.state == NodeState::Removed)
    }

    /// How long a leader may take to hand over.
    pub(crate) fn handover_timeout(&self) -> Duration {
        self.options.election_timeout_max * 3
    }
}
