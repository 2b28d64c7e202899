//! What is known of this node while it starts, runs and stops: the source of health, status and metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use abide_admin::MetricsText;
use abide_config::Config;
use abide_controller::Controller;
use abide_invoker::Invoker;
use abide_log::LogClient;
use abide_log_server::LogServer;
use abide_metadata::{Joined, Metadata, MetadataServer};
use abide_partition_store::PartitionStores;
use abide_processor::Processors;
use abide_rpc::Fabric;
use abide_rpc::proto::cluster::NodeLoad;
use abide_types::NodeIncarnation;

use crate::compactions::Compactions;
use crate::load;
use crate::log_filter::LogFilter;
use crate::ports::Port;
use crate::sql::Queries;

/// How far the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It has not joined, or its parts do not all run.
    Starting = 0,
    /// It serves.
    Alive = 1,
    /// It hands over and ends.
    Stopping = 2,
}

impl Phase {
    /// The name in the health report.
    pub const fn health_name(self) -> &'static str {
        match self {
            Self::Starting => "StartingUp",
            Self::Alive => "Alive",
            Self::Stopping => "Stopping",
        }
    }

    /// The name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting-up",
            Self::Alive => "alive",
            Self::Stopping => "stopping",
        }
    }
}

/// What a node waits for that has not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// That there be one, or that one be found.
    Cluster,
    /// It belongs to one; most of its metadata servers are missing.
    Majority,
    /// It keeps no metadata itself, and nobody who does was found.
    Server,
}

impl std::fmt::Display for Awaits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cluster => {
                "it waits for a cluster to be formed, or to be found at the metadata addresses"
            }
            Self::Majority => "it waits for a majority of the cluster's metadata servers",
            Self::Server => "it waits for a metadata server of a cluster at the metadata addresses",
        })
    }
}

/// One port and where it is bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) port: Port,
    pub(crate) address: SocketAddr,
    /// Where others reach it.
    pub(crate) advertised: String,
}

/// Filled in as the start goes on.
pub(crate) struct Facts {
    pub(crate) config: Arc<Config>,
    pub(crate) started: Instant,
    pub(crate) bound: Vec<Bound>,
    pub(crate) server: OnceLock<MetadataServer>,
    pub(crate) member: OnceLock<Member>,
    pub(crate) log_filter: LogFilter,
    pub(crate) compactions: Compactions,
    metrics: OnceLock<MetricsText>,
    phase: AtomicU8,
}

/// What a node has that belongs to a cluster.
pub(crate) struct Member {
    pub(crate) joined: Joined,
    pub(crate) metadata: Metadata,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) controller: Controller,
    pub(crate) log_server: Option<Arc<LogServer>>,
    /// The way to all log servers.
    pub(crate) log: Arc<LogClient>,
    /// Not kept open by who looks at them.
    pub(crate) stores: Option<Weak<PartitionStores>>,
    pub(crate) processors: OnceLock<Arc<Processors>>,
    pub(crate) invoker: OnceLock<Arc<Invoker>>,
    pub(crate) queries: OnceLock<Arc<Queries>>,
}

impl Member {
    pub(crate) fn incarnation(&self) -> NodeIncarnation {
        NodeIncarnation {
            node: self.joined.node,
            generation: self.joined.generation,
        }
    }
}

impl Facts {
    pub(crate) fn new(config: Arc<Config>, bound: Vec<Bound>, log_filter: LogFilter) -> Self {
        Self {
            config,
            started: Instant::now(),
            bound,
            server: OnceLock::new(),
            member: OnceLock::new(),
            log_filter,
            compactions: Compactions::default(),
            metrics: OnceLock::new(),
            phase: AtomicU8::new(Phase::Starting as u8),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Alive,
            _ => Phase::Stopping,
        }
    }

    /// From now on [`Facts::load`] can tell.
    pub(crate) fn measured_by(&self, metrics: MetricsText) {
        let _ = self.metrics.set(metrics);
    }

    /// What the node does at the moment; `None` before it can be told.
    pub(crate) fn load(&self) -> Option<NodeLoad> {
        let metrics = self.metrics.get()?;
        Some(load::measure(self, &metrics()))
    }

    /// What it waits for while it is no member.
    pub(crate) fn awaits(&self) -> Awaits {
        match self.server.get().map(|server| server.status().node) {
            Some(Some(_)) => Awaits::Majority,
            Some(None) => Awaits::Cluster,
            None => Awaits::Server,
        }
    }

    /// Phases go one way.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }
}
