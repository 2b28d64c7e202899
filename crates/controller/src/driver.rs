//! Runs the plan: watches documents, connections and reports, and commits what has to change.
//!
//! Every node runs a [`Controller`] and knows by it who is there; only the one whose metadata server leads changes
//! anything. There is no election of its own and no state to hand over: a new one plans from what it sees. Nothing
//! is polled; the task sleeps until something happens or some silence grows too long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abide_metadata::{
    ClusterDocument, CommitError, Document as _, Metadata, MetadataServer, NodeState, Nodes, Txn,
    View,
};
use abide_rpc::{Fabric, PeerState};
use abide_types::{NodeId, NodeIncarnation, PartitionId, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Budget, Cluster, Health, Placement};
use crate::features;
use crate::liveness::{Detector, LivenessOptions};
use crate::picture::{self, ReplicaReport, Reports};
use crate::plan::plan;

/// How the cluster is governed.
#[derive(Debug, Clone, Copy)]
pub struct ControllerOptions {
    /// Who counts as there.
    pub liveness: LivenessOptions,
    /// Pause between two steps that only improve the balance.
    pub balance_interval: Duration,
    /// What one such step moves.
    pub balance_step: Budget,
    /// Nodes that are expected when the cluster is formed; partitions are first placed when they are there.
    pub nodes_expected: usize,
    /// How long the first placement waits for them.
    pub first_placement_wait: Duration,
    /// How long a commit of the partition table is waited for before everything is looked at anew.
    pub commit_timeout: Duration,
}

/// What a controller works with.
pub struct ControllerParts {
    /// The documents.
    pub metadata: Metadata,
    /// The local metadata server; without one this node never governs.
    pub server: Option<MetadataServer>,
    /// The connections.
    pub fabric: Arc<Fabric>,
}

/// A running controller; it stops when this is dropped.
pub struct Controller {
    own: NodeId,
    reports: watch::Sender<Reports>,
    health: watch::Receiver<Arc<BTreeMap<NodeId, Health>>>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Controller {
    /// Starts watching, and governs whenever the local metadata server leads.
    pub fn start(parts: ControllerParts, options: ControllerOptions) -> Self {
        let (reports, heard) = watch::channel(Reports::default());
        let (health_out, health) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let own = parts.fabric.identity().node;
        let driver = Driver {
            own,
            detector: Detector::new(options.liveness, Instant::now()),
            options,
            born: Instant::now(),
            health: health_out,
            leads_since: None,
            balanced_at: None,
            deposed: None,
            retry_at: None,
            metadata: parts.metadata,
            server: parts.server,
            fabric: parts.fabric,
        };
        let task = tokio::spawn(driver.run(heard, stop.clone()));
        Self {
            own,
            reports,
            health,
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// A node said that it is about to stop: its leaders are moved as soon as this node governs.
    pub fn leaving(&self, node: NodeIncarnation) {
        self.reports.send_if_modified(|reports| {
            reports.forget_others(node);
            reports.leaving.insert(node)
        });
    }

    /// A node said how its replicas fare.
    pub fn replicas(&self, node: NodeIncarnation, report: ReplicaReport) {
        self.reports.send_if_modified(|reports| {
            reports.forget_others(node);
            reports.replicas.get(&node) != Some(&report) && {
                reports.replicas.insert(node, report);
                true
            }
        });
    }

    /// Whether any other node is there that could lead and is not about to stop as well.
    pub fn others_stay(&self, view: &View) -> bool {
        let health = Arc::clone(&self.health.borrow());
        let reports = self.reports.borrow();
        view.nodes.with_role(Role::Worker).any(|(node, entry)| {
            let leaving = reports.leaving.contains(&entry.incarnation(node));
            let there = health.get(&node).is_some_and(|health| health.answers());
            node != self.own && there && !leaving && entry.state == NodeState::Active
        })
    }

    /// Who is there, as this node sees it.
    pub fn health(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, Health>>> {
        self.health.clone()
    }

    /// Stops and waits for the end of what is under way.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            // A panic was reported by the runtime; there is nothing to hand on.
            let _ = task.await;
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Driver {
    own: NodeId,
    options: ControllerOptions,
    born: Instant,
    metadata: Metadata,
    server: Option<MetadataServer>,
    fabric: Arc<Fabric>,
    detector: Detector,
    health: watch::Sender<Arc<BTreeMap<NodeId, Health>>>,
    /// Since when this node governs.
    leads_since: Option<Instant>,
    balanced_at: Option<Instant>,
    /// The metadata leader against which this node stood for election already.
    deposed: Option<NodeIncarnation>,
    /// When to look again after a commit that failed.
    retry_at: Option<Instant>,
}

/// Pause after a commit that failed for want of a quorum.
const COMMIT_PAUSE: Duration = Duration::from_millis(50);

impl Driver {
    async fn run(mut self, mut reports: watch::Receiver<Reports>, stop: CancellationToken) {
        let mut views = self.metadata.watch();
        let mut peers = self.fabric.peers();
        let mut leader = match &self.server {
            Some(server) => server.leader(),
            None => watch::channel(None).1,
        };
        loop {
            let now = Instant::now();
            let view = Arc::clone(&views.borrow_and_update());
            let connections = Arc::clone(&peers.borrow_and_update());
            let heard = reports.borrow_and_update().clone();
            let leading = *leader.borrow_and_update();
            let mut due = self.look(now, &view, &connections);
            if leading == Some(self.own) {
                due = earliest(due, self.govern(now, &view, &heard).await);
            } else {
                self.leads_since = None;
                self.watch_over(leading, &view, &connections).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
                changed = peers.changed() => if changed.is_err() { return },
                changed = reports.changed() => if changed.is_err() { return },
                Ok(()) = leader.changed() => {}
                () = at(due) => {}
            }
        }
    }

    /// Finds out who is there; returns when to look again.
    fn look(
        &mut self,
        now: Instant,
        view: &View,
        peers: &BTreeMap<NodeId, PeerState>,
    ) -> Option<Instant> {
        let fabric = &self.fabric;
        let contacts =
            picture::contacts(self.own, now, view, peers, |node| fabric.last_heard(node));
        let (health, due) = self.detector.assess(now, &contacts);
        self.health.send_if_modified(|known| {
            for (node, state) in &health {
                if known.get(node).map(|known| known.name()) != Some(state.name()) {
                    tracing::info!(%node, state = state.name(), "node liveness");
                }
            }
            let news = **known != health;
            if news {
                *known = Arc::new(health);
            }
            news
        });
        due
    }

    /// Plans and commits; returns when to look again.
    async fn govern(&mut self, now: Instant, view: &View, reports: &Reports) -> Option<Instant> {
        let since = *self.leads_since.get_or_insert(now);
        if let Some(at) = self.retry_at.take_if(|at| *at > now) {
            self.retry_at = Some(at);
            return Some(at);
        }
        let health = Arc::clone(&self.health.borrow());
        let mut cluster = picture::cluster(view, &health, reports)?;
        let due = view
            .cluster
            .as_ref()
            .and_then(|document| features::due(document, &view.nodes));
        if let Some(document) = due {
            return self.switch_on(view, &document).await;
        }
        if let Some(until) = self.waits_for_nodes(now, since, &cluster, view) {
            return until;
        }
        let needed = plan(&cluster);
        if !needed.is_empty() {
            if let Some(until) = self.waits_for_connections(now, &health) {
                return Some(until);
            }
            return self.commit(now, view, &needed).await;
        }
        let unsettled = |health: &Health| matches!(health, Health::Alive | Health::Suspect);
        if health.values().any(unsettled) || someone_leaves(&cluster) {
            return None;
        }
        cluster.budget = self.options.balance_step;
        let moves = plan(&cluster);
        if moves.is_empty() {
            return None;
        }
        if let Some(next) = self
            .balanced_at
            .map(|at| at + self.options.balance_interval)
            && next > now
        {
            return Some(next);
        }
        self.balanced_at = Some(now);
        self.commit(now, view, &moves).await
    }

    /// While a cluster is being formed: placing everything on the first node would move it all a moment later.
    /// `Some` while that goes on, with the time of the next look if one is due.
    fn waits_for_nodes(
        &self,
        now: Instant,
        since: Instant,
        cluster: &Cluster,
        view: &View,
    ) -> Option<Option<Instant>> {
        if cluster.table.len() >= usize::from(cluster.partitions) {
            return None;
        }
        let there = cluster
            .nodes
            .keys()
            .filter(|node| cluster.takes_replicas(**node))
            .count();
        let replication = view.cluster.as_ref()?.replication;
        let quorum = match replication.replicas {
            0 => 1,
            _ => usize::from(replication.effective(there).1),
        };
        if there < quorum {
            if since == now {
                tracing::info!(
                    there,
                    quorum,
                    "partitions are placed when enough nodes are there"
                );
            }
            return Some(None);
        }
        let until = since + self.options.first_placement_wait;
        (there < self.options.nodes_expected && now < until).then_some(Some(until))
    }

    /// In the first moments of this process, while connections are still being made: after a restart of the whole
    /// cluster the first node would be given everything, to give it away again a moment later.
    fn waits_for_connections(
        &self,
        now: Instant,
        health: &BTreeMap<NodeId, Health>,
    ) -> Option<Instant> {
        let until = self.born + self.options.liveness.boot_grace;
        let unsure = health.values().any(|health| *health == Health::Suspect);
        (unsure && now < until).then_some(until)
    }

    /// Puts what all members know in force. Who joined meanwhile and does not know it makes this fail.
    async fn switch_on(&mut self, view: &View, document: &ClusterDocument) -> Option<Instant> {
        let wait = self.options.commit_timeout;
        let txn = Txn::new()
            .expect(Nodes::KEY, view.nodes.version)
            .replace(document);
        match tokio::time::timeout(wait, self.metadata.commit(txn)).await {
            Ok(Ok(version)) => {
                tracing::info!(
                    state_machine = document.state_machine_in_force(),
                    features = ?document.features,
                    "switched on what all nodes know"
                );
                if self.metadata.view_at_least(version, wait).await.is_err() {
                    return self.pause();
                }
                None
            }
            // The conflict shows in the view before long; there is no hurry.
            _ => self.pause(),
        }
    }

    async fn commit(
        &mut self,
        now: Instant,
        view: &View,
        changes: &BTreeMap<PartitionId, Placement>,
    ) -> Option<Instant> {
        let table = picture::changed(&view.partition_table, changes);
        let wait = self.options.commit_timeout;
        let committed =
            tokio::time::timeout(wait, self.metadata.commit(Txn::new().replace(&table))).await;
        let seen = match committed {
            Ok(Ok(version)) => {
                for (partition, placement) in changes {
                    tracing::debug!(
                        %partition,
                        epoch = %placement.epoch,
                        leader = placement.leader.map(tracing::field::display),
                        replicas = ?placement.replicas,
                        "partition placed"
                    );
                }
                tracing::info!(partitions = changes.len(), took = ?now.elapsed(), "partition table changed");
                version
            }
            Ok(Err(CommitError::Conflict { actual, .. })) => actual,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the partition table was not changed");
                return self.pause();
            }
            Err(_) => {
                tracing::warn!(waited = ?wait, "the partition table was not changed in time");
                return self.pause();
            }
        };
        // Planning again from the old view would only meet a conflict.
        if self.metadata.view_at_least(seen, wait).await.is_err() {
            return self.pause();
        }
        None
    }

    fn pause(&mut self) -> Option<Instant> {
        self.retry_at = Some(Instant::now() + COMMIT_PAUSE);
        self.retry_at
    }

    /// Stands for election when the metadata leader's process is gone and this is the first server that should:
    /// waiting for the election timeout would cost all partitions of that node some 300 ms.
    async fn watch_over(
        &mut self,
        leader: Option<NodeId>,
        view: &View,
        peers: &BTreeMap<NodeId, PeerState>,
    ) {
        let (Some(server), Some(leader)) = (&self.server, leader) else {
            return;
        };
        let Some(entry) = view.nodes.get(leader) else {
            return;
        };
        let gone = peers
            .get(&leader)
            .is_some_and(|peer| peer.refused && !peer.connected);
        let incarnation = entry.incarnation(leader);
        if !gone || self.deposed == Some(incarnation) {
            return;
        }
        let voters = server.status().voters;
        let health = Arc::clone(&self.health.borrow());
        let first = view
            .nodes
            .with_role(Role::MetadataServer)
            .map(|(node, _)| node)
            .find(|node| {
                voters.contains(node) && health.get(node).is_some_and(|health| health.answers())
            });
        if first == Some(self.own) {
            tracing::info!(leader = %incarnation, "the metadata leader is gone, standing for election");
            self.deposed = Some(incarnation);
            server.trigger_election().await;
        }
    }
}

fn someone_leaves(cluster: &Cluster) -> bool {
    cluster
        .nodes
        .values()
        .any(|member| member.leaving && !member.health.is_dead())
}

fn earliest(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    [left, right].into_iter().flatten().min()
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
