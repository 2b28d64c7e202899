//! The server of the metadata plane.

use std::path::Path;

use abide_types::NodeId;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::client::{Joined, Metadata};
use crate::errors::{JoinError, ProvisionError, StartError};
use crate::options::{MetadataOptions, NodeDescription, ProvisionSettings};

/// What a server does in raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Not a member of a cluster yet.
    Unprovisioned,
    /// Listens, without a vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Was shut down, or its disk failed.
    Stopped,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Name of the node.
    pub name: String,
    /// The node, once it is a member.
    pub node: Option<NodeId>,
    /// What it does.
    pub state: ServerState,
    /// Its raft term.
    pub term: u64,
    /// Whom it follows.
    pub leader: Option<NodeId>,
    /// Its last log entry.
    pub last_log: u64,
    /// The last entry that its state holds.
    pub applied: u64,
    /// The last entry that its snapshot holds; 0 without one.
    pub snapshot: u64,
    /// The last entry that was dropped from its log; 0 if none was.
    pub purged: u64,
    /// The voters it knows.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
}

/// A metadata server. Cheap to clone.
#[derive(Clone)]
pub struct MetadataServer {}

impl MetadataServer {
    /// Opens the store in `directory` and, if it belongs to a cluster, starts raft from it. Serve
    /// [`Self::routes`] on the node port next, then call [`Self::join`].
    pub async fn start(
        directory: &Path,
        node: NodeDescription,
        options: MetadataOptions,
    ) -> Result<Self, StartError> {
        let _ = (directory, node, options);
        unimplemented!()
    }

    /// The gRPC services to mount on the node port.
    pub fn routes(&self) -> Routes {
        unimplemented!()
    }

    /// Registers this start: provisions if that is configured and there is no cluster, else asks the cluster
    /// at the configured addresses. Waits for as long as there is none.
    pub async fn join(&self) -> Result<(Metadata, Joined), JoinError> {
        unimplemented!()
    }

    /// Forms a cluster with this server as its first member; returns the fingerprint.
    pub async fn provision(&self, settings: ProvisionSettings) -> Result<u64, ProvisionError> {
        let _ = settings;
        unimplemented!()
    }

    /// Who leads, as far as this server knows.
    pub fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        unimplemented!()
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        unimplemented!()
    }

    /// Stands for election at once. For a follower that knows that the leader's process is gone, for instance
    /// because its port refuses connections; does nothing on a leader or without one.
    pub async fn trigger_election(&self) {
        unimplemented!()
    }

    /// What it does in raft.
    pub fn status(&self) -> ServerStatus {
        unimplemented!()
    }

    /// Hands leadership over if this server leads, then stops.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
