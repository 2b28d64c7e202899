//! Why a node did not start, or did not go on.

use std::path::PathBuf;
use std::time::Duration;

use abide_log_server::StoreError as LogServerError;
use abide_metadata::{JoinError, StartError};
use abide_partition_store::OpenError as PartitionStoreError;
use abide_types::NodeId;

use crate::data_dir::DataDirError;
use crate::listeners::{ListenError, SocketError};
use crate::ports::BindError;

/// Why a node ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory is not ours or not usable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metadata server did not start.
    #[error("start the metadata server")]
    MetadataServer(#[from] StartError),
    /// The log server did not open its files.
    #[error("start the log server")]
    LogServer(#[from] LogServerError),
    /// The partition store did not open its files.
    #[error("open the partition store")]
    PartitionStore(#[from] PartitionStoreError),
    /// The metrics cannot be collected.
    #[error("set up metrics")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Spans cannot be sent where they are to be sent.
    #[error("`tracing-endpoint`")]
    Tracing(#[from] abide_telemetry::EndpointError),
    /// The key with which requests to services are signed is not usable.
    #[error("`worker.invoker.request-identity-private-key-pem-file`")]
    Identity(#[from] abide_invoker::IdentityError),
    /// Snapshots cannot go where they are to go.
    #[error("`worker.snapshots.destination`")]
    Snapshots(#[from] abide_snapshots::RepositoryError),
    /// Services cannot be reached like this.
    #[error("`worker.invoker.http-proxy` or `.no-proxy`")]
    Proxy(#[from] abide_invoker::ProxyError),
    /// The cluster did not take this node in.
    #[error("join the cluster")]
    Join(#[from] JoinError),
    /// There was no cluster to join for too long.
    #[error(
        "no cluster to join was found within {waited:?} at {addresses}; `initialization-timeout` sets how long to \
         wait, `metadata-client.addresses` where to ask, and `abidectl provision` forms a cluster"
    )]
    NoCluster {
        /// How long was waited.
        waited: Duration,
        /// Where was asked.
        addresses: String,
    },
    /// A database was opened twice, or a task that opens one failed.
    #[error("a part of the node did not come up: {0}")]
    Part(String),
    /// What was written may not be on disk: nothing may be answered any more.
    #[error("the node ends because its storage in {} failed: {reason}", directory.display())]
    Storage {
        /// Where.
        directory: PathBuf,
        /// What happened.
        reason: String,
    },
    /// An operator removed this node.
    #[error(
        "{node} was removed from the cluster; start with an empty data directory to join as a new node"
    )]
    Removed {
        /// This node.
        node: NodeId,
    },
    /// The cluster has switched on what this program does not know.
    #[error("this program is too old for the cluster: in force is {what}; upgrade it")]
    TooOld {
        /// What is in force.
        what: String,
    },
    /// It goes on with what is on its disk under other circumstances: whoever watches over it starts it again.
    #[error("the node ends to be started again: {0}")]
    StartAgain(String),
    /// The system does not let us listen to signals.
    #[error("listen to signals")]
    Signals(#[source] std::io::Error),
}

impl From<ListenError> for NodeError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Port(error) => Self::Bind(error),
            ListenError::Socket(error) => Self::Socket(error),
        }
    }
}

/// Why a node ended as it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// A signal: it handed over and stopped.
    Signal(&'static str),
    /// Two signals: it stopped at once.
    Impatience,
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "stopped by {name}"),
            Self::Impatience => f.write_str("stopped at once by a second signal"),
        }
    }
}
