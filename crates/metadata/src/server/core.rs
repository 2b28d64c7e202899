//! What the parts of a server share, and how raft is started and stopped.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_types::{Generation, NodeId};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft::{Config, ServerState as RaftServerState, SnapshotPolicy};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::addresses::AddressBook;
use super::members::{self, to_node};
use super::network::Network;
use super::recovery;
use super::storage::{Database, IDENTITY, LogStore, SharedState, StateMachine};
use super::types::Raft;
use super::{ServerState, ServerStatus};
use crate::documents::{Document as _, Nodes};
use crate::errors::{ServerFailure, StartError};
use crate::options::{MetadataOptions, NodeDescription};
use crate::transport::Channels;

/// A snapshot has this long to be sent and installed.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// One server.
pub(crate) struct Core {
    pub(crate) description: NodeDescription,
    pub(crate) options: MetadataOptions,
    pub(crate) database: Arc<Database>,
    pub(crate) shared: Arc<SharedState>,
    pub(crate) addresses: Arc<AddressBook>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) leader: watch::Sender<Option<NodeId>>,
    /// Whether this start was registered.
    pub(crate) registered: watch::Sender<bool>,
    /// Held while this server becomes a member of a cluster.
    pub(crate) becoming: tokio::sync::Mutex<()>,
    identity: watch::Sender<pb::IdentityRecord>,
    raft: watch::Sender<Option<Raft>>,
    failure: watch::Sender<Option<ServerFailure>>,
    stopping: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl Core {
    /// Opens the store, and starts raft if the directory belongs to a member of a cluster.
    pub(crate) async fn open(
        directory: &Path,
        description: NodeDescription,
        options: MetadataOptions,
    ) -> Result<Arc<Self>, StartError> {
        options.validate().map_err(StartError::Options)?;
        let database = Arc::new(Database::open(directory)?);
        let unreadable = |error: std::io::Error| database.start_error(&error);
        let mut identity = next_identity(&database, &description).await?;
        let log = LogStore::new(Arc::clone(&database));
        log.check().map_err(unreadable)?;
        let mut state = StateMachine::load(&database).map_err(unreadable)?;
        if let Some(order) = identity.recovery.take() {
            identity = recovery::carry_out(&database, &log, &state, identity, order)
                .await
                .map_err(unreadable)?;
            state = StateMachine::load(&database).map_err(unreadable)?;
        }
        let addresses = AddressBook::default();
        if let Some(stored) = state.documents.get(Nodes::KEY) {
            let nodes = Nodes::from_versioned(stored).map_err(|error| StartError::Corrupt {
                directory: directory.to_owned(),
                detail: format!("{error}: {}", error.source),
            })?;
            addresses.update(&nodes);
        }
        let superseded = recovery::put_aside_if_superseded(
            &database,
            identity.fingerprint,
            &addresses,
            &description,
            &options,
        );
        if superseded.await? {
            return Box::pin(Self::open(directory, description, options)).await;
        }
        let core = Arc::new(Self {
            channels: Arc::new(Channels::new(&options)),
            description,
            options,
            shared: Arc::new(SharedState::new(state)),
            addresses: Arc::new(addresses),
            database,
            leader: watch::Sender::new(None),
            registered: watch::Sender::new(false),
            becoming: tokio::sync::Mutex::new(()),
            identity: watch::Sender::new(identity),
            raft: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            tasks: Mutex::new(JoinSet::new()),
        });
        if core.node().is_some() {
            core.start_raft().await?;
        }
        Ok(core)
    }

    /// Who this data directory is.
    pub(crate) fn identity(&self) -> pb::IdentityRecord {
        self.identity.borrow().clone()
    }

    /// Who this data directory is, as it becomes somebody.
    pub(crate) fn identity_changes(&self) -> watch::Receiver<pb::IdentityRecord> {
        self.identity.subscribe()
    }

    /// Notes durably who this directory is.
    pub(crate) async fn become_member(
        &self,
        identity: pb::IdentityRecord,
    ) -> Result<(), StartError> {
        self.database
            .put_durably(IDENTITY, &identity)
            .await
            .map_err(|error| self.database.start_error(&error))?;
        self.identity.send_replace(identity);
        Ok(())
    }

    /// The node, once it is a member.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self.identity.borrow().node {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    /// The cluster; 0 before the node is a member.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.identity.borrow().fingerprint
    }

    /// Raft, while it runs.
    pub(crate) fn raft(&self) -> Option<Raft> {
        self.raft.borrow().clone()
    }

    /// Whether this server leads.
    pub(crate) fn is_leader(&self) -> bool {
        self.raft().is_some_and(|raft| raft.is_leader())
    }

    /// Whether it was told to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Why the node has to end.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<ServerFailure>> {
        self.failure.subscribe()
    }

    /// Ends the node.
    pub(crate) fn fail(&self, failure: ServerFailure) {
        tracing::error!(%failure, "the metadata server failed");
        self.failure.send_replace(Some(failure));
    }

    /// Runs a task until the server stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        if !*self.stopping.borrow() {
            tasks.spawn(task);
        }
    }

    /// Starts raft as the member that this directory is. Does nothing if it runs.
    pub(crate) async fn start_raft(self: &Arc<Self>) -> Result<(), StartError> {
        let identity = self.identity();
        if self.raft().is_some() || identity.node == 0 {
            return Ok(());
        }
        let node = NodeId(identity.node);
        let failed = |detail: String| StartError::Raft {
            directory: self.database.directory().to_owned(),
            detail,
        };
        self.addresses.learn(
            node,
            Generation(identity.generation),
            &self.description.address,
        );
        let config = raft_config(&self.description.cluster_name, &self.options)
            .map_err(StartError::Options)?;
        let network = Network {
            addresses: Arc::clone(&self.addresses),
            channels: Arc::clone(&self.channels),
            fingerprint: identity.fingerprint,
            append_timeout: self.options.attempt_timeout,
        };
        let raft = Raft::new(
            u64::from(node.0),
            Arc::new(config),
            network,
            LogStore::new(Arc::clone(&self.database)),
            StateMachine::new(Arc::clone(&self.database), Arc::clone(&self.shared)),
        )
        .await
        .map_err(|error| failed(error.to_string()))?;
        self.raft.send_replace(Some(raft.clone()));
        self.spawn(follow_leader(Arc::clone(self), raft.clone()));
        self.spawn(follow_addresses(Arc::clone(self)));
        self.spawn(members::manage(Arc::clone(self), raft));
        self.spawn(super::announce::run(Arc::clone(self)));
        tracing::info!(%node, "metadata server started");
        Ok(())
    }

    /// Stands for election at once, on the word of the caller that the leader is gone.
    pub(crate) async fn trigger_election(&self) {
        let Some(raft) = self.raft() else {
            return;
        };
        let metrics = raft.server_metrics().borrow_watched().clone();
        let own = metrics.id;
        let votes = metrics.membership_config.voter_ids().any(|id| id == own);
        if metrics.current_leader == Some(own) || !votes {
            return;
        }
        // As if the leader had asked for it: peers then vote although they heard of the leader a moment ago.
        let transfer = TransferLeaderRequest::new(metrics.vote, own, None);
        let accepted = raft.handle_transfer_leader(transfer).await;
        tracing::info!(
            accepted = accepted.is_ok(),
            "stand for election, the leader is gone"
        );
        if !matches!(accepted, Ok(Ok(()))) {
            // Without a leader whose word could be taken: an election like any other.
            if let Err(error) = raft.trigger().elect(true).await {
                tracing::warn!(%error, "no election");
            }
        }
    }

    /// Hands leadership over if this server leads, then stops.
    pub(crate) async fn shutdown(&self) {
        if let Some(raft) = self.raft() {
            self.hand_over(&raft).await;
        }
        self.stop().await;
    }

    /// Stops everything and closes the store.
    pub(crate) async fn stop(&self) {
        if self.stopping.send_replace(true) {
            return;
        }
        let raft = self.raft.send_replace(None);
        if let Some(raft) = raft
            && let Err(error) = raft.shutdown().await
        {
            tracing::warn!(%error, "raft did not end well");
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        self.leader.send_replace(None);
        self.channels.clear();
        let database = Arc::clone(&self.database);
        if tokio::task::spawn_blocking(move || database.close())
            .await
            .is_err()
        {
            tracing::error!("closing the metadata store panicked");
        }
    }

    async fn hand_over(&self, raft: &Raft) {
        if !raft.is_leader() {
            return;
        }
        let own = raft.server_metrics().borrow_watched().id;
        let replication = raft.data_metrics().borrow_watched().replication.clone();
        let voters = raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let next = replication
            .unwrap_or_default()
            .into_iter()
            .filter(|(node, _)| *node != own && voters.voter_ids().any(|voter| voter == *node))
            .max_by_key(|(_, matched)| *matched);
        let Some((next, _)) = next else {
            return;
        };
        if raft.trigger().transfer_leader(next).await.is_err() {
            return;
        }
        let mut leader = self.leader.subscribe();
        let handed_over =
            leader.wait_for(|leader| leader.is_some_and(|leader| u64::from(leader.0) != own));
        let in_time = tokio::time::timeout(self.handover_timeout(), handed_over).await;
        tracing::info!(
            to = %to_node(next),
            done = in_time.is_ok(),
            "handed leadership of the metadata plane over"
        );
    }

    /// What this server says of itself.
    pub(crate) fn status(&self) -> ServerStatus {
        let mut status = ServerStatus {
            name: self.description.name.clone(),
            node: self.node(),
            state: ServerState::Unprovisioned,
            term: 0,
            leader: *self.leader.borrow(),
            last_log: 0,
            applied: self.shared.read(|state| state.applied_index()),
            snapshot: 0,
            purged: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            changing: false,
        };
        let Some(raft) = self.raft() else {
            if status.node.is_some() {
                status.state = ServerState::Stopped;
            }
            return status;
        };
        let metrics = raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        status.state = match metrics.state {
            _ if metrics.running_state.is_err() => ServerState::Stopped,
            RaftServerState::Learner => ServerState::Learner,
            RaftServerState::Follower => ServerState::Follower,
            RaftServerState::Candidate => ServerState::Candidate,
            RaftServerState::Leader => ServerState::Leader,
            RaftServerState::Shutdown => ServerState::Stopped,
        };
        status.term = metrics.current_term;
        status.last_log = metrics.last_log_index.unwrap_or(0);
        status.snapshot = metrics.snapshot.map_or(0, |id| id.index);
        status.purged = metrics.purged.map_or(0, |id| id.index);
        status.voters = membership.voter_ids().map(to_node).collect();
        status.learners = membership.learner_ids().map(to_node).collect();
        status.changing = membership.get_joint_config().len() > 1
            || metrics.membership_config != metrics.committed_membership_config;
        status.voters.sort();
        status.voters.dedup();
        status
    }
}

/// Reads who the directory is, and counts this start.
async fn next_identity(
    database: &Database,
    description: &NodeDescription,
) -> Result<pb::IdentityRecord, StartError> {
    let unreadable = |error: std::io::Error| database.start_error(&error);
    let identity = match database.identity().map_err(unreadable)? {
        Some(mut identity) => {
            if identity.name != description.name {
                return Err(StartError::OtherNode {
                    directory: database.directory().to_owned(),
                    stored: identity.name,
                    configured: description.name.clone(),
                });
            }
            identity.generation = identity.generation.saturating_add(1);
            identity
        }
        None => pb::IdentityRecord {
            directory: rand::rng().random_range(1..=u64::MAX),
            name: description.name.clone(),
            node: 0,
            fingerprint: 0,
            generation: 1,
            provisioning: None,
            former: Vec::new(),
            recovery: None,
        },
    };
    database
        .put_durably(IDENTITY, &identity)
        .await
        .map_err(unreadable)?;
    Ok(identity)
}

fn raft_config(cluster_name: &str, options: &MetadataOptions) -> Result<Config, String> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: cluster_name.to_owned(),
        heartbeat_interval: millis(options.heartbeat_interval),
        // An append that was just acknowledged is as good as a heartbeat.
        heartbeat_min_interval: Some(millis(options.heartbeat_interval) / 2),
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.entries_kept,
        replication_lag_threshold: options.snapshot_every.saturating_add(options.entries_kept),
        // Followers get an entry while the leader's own disk is still busy with it.
        broadcast_submitted_on_append: Some(true),
        enable_pre_vote: Some(true),
        backoff: format!(
            "{}ms ...{}ms",
            millis(options.retry_pause_min).max(1),
            millis(options.retry_pause_max).max(1)
        ),
        api_channel_size: Some(1024),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

/// Tells who leads, and notices when raft stops by itself.
async fn follow_leader(core: Arc<Core>, raft: Raft) {
    let mut metrics = raft.server_metrics();
    loop {
        let leader = metrics.borrow_watched().current_leader.map(to_node);
        core.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
        if metrics.changed().await.is_err() {
            break;
        }
    }
    if !*core.stopping.borrow() {
        let state = raft.metrics().borrow_watched().running_state.clone();
        let detail = state
            .err()
            .map_or_else(|| "raft ended".to_owned(), |error| error.to_string());
        core.leader.send_replace(None);
        core.fail(ServerFailure::Raft(detail));
    }
}

/// Keeps the address book up to date with the `nodes` document.
async fn follow_addresses(core: Arc<Core>) {
    let mut applied = core.shared.applied();
    let mut seen = 0;
    loop {
        applied.borrow_and_update();
        let version = core.shared.read(|state| state.version_of(Nodes::KEY));
        if version != seen {
            seen = version;
            core.addresses.update(&core.nodes());
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}
