//! The server of the metadata plane.
//!
//! [`core`] starts and stops raft, [`service`] answers gRPC, [`leader`] does what only the leader can,
//! [`members`] lets the membership follow the registered nodes, [`storage`] is the disk and [`network`] the way
//! to the peers; [`recovery`] goes on when most voters are lost. Start at [`MetadataServer::start`].

mod addresses;
mod announce;
mod codec;
mod core;
mod joining;
mod leader;
mod members;
mod network;
mod provision;
mod recovery;
mod service;
mod storage;
mod types;

use std::path::Path;
use std::sync::Arc;

use abide_types::{Generation, NodeId};
use tokio::sync::watch;
use tonic::service::Routes;

pub(crate) use self::core::Core;
pub(crate) use self::leader::transaction;
pub use self::recovery::{Holdings, LogPosition};
pub(crate) use self::recovery::{superseded_by, went_on};
pub(crate) use self::service::status_from;
use crate::client::{Joined, Metadata, join_until_stopped};
use crate::errors::{JoinError, ProvisionError, RecoveryError, ServerFailure, StartError};
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
    /// A change of the voters is under way: until it is done, the old ones are needed as well.
    pub changing: bool,
}

/// A metadata server. Cheap to clone.
#[derive(Clone)]
pub struct MetadataServer {
    core: Arc<Core>,
}

impl MetadataServer {
    /// Opens the store in `directory` and, if it belongs to a cluster, starts raft from it. Serve
    /// [`Self::routes`] on the node port next, then call [`Self::join`]. A store whose cluster was recovered without
    /// it is put aside, so that the server joins anew.
    pub async fn start(
        directory: &Path,
        node: NodeDescription,
        options: MetadataOptions,
    ) -> Result<Self, StartError> {
        let core = Core::open(directory, node, options).await?;
        Ok(Self { core })
    }

    /// The gRPC services to mount on the node port.
    pub fn routes(&self) -> Routes {
        service::routes(Arc::clone(&self.core))
    }

    /// Registers this start: provisions if that is configured and there is no cluster, else asks the cluster
    /// at the configured addresses. Waits for as long as there is none.
    pub async fn join(&self) -> Result<(Metadata, Joined), JoinError> {
        let core = &self.core;
        if core.node().is_none()
            && let Some(settings) = core.options.auto_provision
        {
            match core.provision(settings, Vec::new()).await {
                Ok(_) | Err(ProvisionError::AlreadyProvisioned { .. }) => {}
                Err(ProvisionError::Start(error)) => return Err(error.into()),
                Err(ProvisionError::Invalid(detail)) => return Err(JoinError::Invalid(detail)),
                // What was begun is finished below.
                Err(error @ ProvisionError::Unavailable { .. }) => {
                    tracing::warn!(%error, "provisioning takes longer");
                }
            }
        }
        let (joined, version) = join_until_stopped(core).await?;
        let mut identity = core.identity();
        identity.node = joined.node.0;
        identity.fingerprint = joined.fingerprint;
        identity.generation = identity.generation.max(joined.generation.0);
        core.become_member(identity).await?;
        core.start_raft().await?;
        core.registered.send_replace(true);
        let metadata = Metadata::local(Arc::clone(core), joined.fingerprint);
        metadata.wait_for_registration(version).await;
        Ok((metadata, joined))
    }

    /// Forms a cluster with this server as its first member; returns the fingerprint.
    pub async fn provision(&self, settings: ProvisionSettings) -> Result<u64, ProvisionError> {
        self.core.provision(settings, Vec::new()).await
    }

    /// Who leads, as far as this server knows.
    pub fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.core.leader.subscribe()
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        self.core.is_leader()
    }

    /// Stands for election at once. For a follower that knows that the leader's process is gone, for instance
    /// because its port refuses connections; does nothing on a leader or on a server without a vote.
    pub async fn trigger_election(&self) {
        self.core.trigger_election().await;
    }

    /// Makes a snapshot now, after which the log is cut down to the entries that are kept.
    pub async fn make_snapshot(&self) {
        if let Some(raft) = self.core.raft()
            && let Err(error) = raft.trigger().snapshot().await
        {
            tracing::warn!(%error, "no snapshot");
        }
    }

    /// What it does in raft.
    pub fn status(&self) -> ServerStatus {
        self.core.status()
    }

    /// A number that RocksDB keeps, such as `rocksdb.estimate-live-data-size`; `None` if it knows no such number.
    pub fn property(&self, name: &str) -> Option<u64> {
        self.core.database.property(name)
    }

    /// Rewrites the database into as few files as can be. Blocks until that is done; others use it meanwhile.
    pub fn compact(&self) {
        self.core.database.compact();
    }

    /// Why it failed, once it has. The node cannot go on safely and should end. Stays `None` for a server that is shut down.
    pub fn failure(&self) -> watch::Receiver<Option<ServerFailure>> {
        self.core.failure()
    }

    /// What its directory holds, with or without a majority.
    pub fn holdings(&self) -> Result<Holdings, RecoveryError> {
        recovery::holdings(&self.core).map_err(|error| RecoveryError::Storage(error.to_string()))
    }

    /// Orders this server to go on alone with what it holds, from its next start on; the process should end now.
    /// Returns the fingerprint that the cluster has then. What other servers hold beyond `last` is lost, so that
    /// the caller must know that most voters are gone for good.
    pub async fn order_recovery(&self, last: LogPosition) -> Result<u64, RecoveryError> {
        recovery::order(&self.core, last).await
    }

    /// Notes where another server is, for instance because its fabric connection told.
    pub fn learn_address(&self, node: NodeId, generation: Generation, address: &str) {
        self.core.addresses.learn(node, generation, address);
    }

    /// Hands leadership over if this server leads, then stops and closes the store.
    pub async fn shutdown(&self) {
        self.core.shutdown().await;
    }

    /// Stops and closes the store at once. Followers of a leader that stops so have to notice.
    pub async fn stop(&self) {
        self.core.stop().await;
    }
}
