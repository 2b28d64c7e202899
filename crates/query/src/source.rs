//! Where rows come from.

use std::sync::Arc;
use std::time::Duration;

use abide_processor::Router;
use abide_processor::flow::FlowState;
use abide_processor::scan::{ScanError, ScanPage, ScanRequest};
use abide_rpc::proto::cluster::{ClusterStatus, LogEntry};
use abide_schema::Schema;
use abide_types::{PartitionId, Timestamp};
use async_trait::async_trait;
use tokio::sync::watch;

/// The partitions of the cluster.
#[async_trait]
pub trait Partitions: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> u16;

    /// Some rows of one of them, as its leader has them. While it has none, the next one is waited for.
    async fn scan(
        &self,
        partition: PartitionId,
        request: ScanRequest,
    ) -> Result<ScanPage, ScanError>;
}

/// Partitions whose leaders a router finds.
pub struct Routed {
    router: Router,
    patience: Duration,
}

impl Routed {
    /// Waits for a leader until a query that lasts for `query_timeout` at most is nearly over: it then fails by saying
    /// which partition has none, rather than by its own time.
    pub fn new(router: Router, query_timeout: Duration) -> Self {
        Self {
            router,
            patience: query_timeout.mul_f64(0.9),
        }
    }
}

#[async_trait]
impl Partitions for Routed {
    fn count(&self) -> u16 {
        self.router.partition_count()
    }

    async fn scan(
        &self,
        partition: PartitionId,
        request: ScanRequest,
    ) -> Result<ScanPage, ScanError> {
        self.router.scan(partition, request, self.patience).await
    }
}

/// The cluster, as an operator sees it.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Nodes and partitions, with what each node that answers says of itself.
    async fn describe(&self) -> Result<ClusterStatus, String>;

    /// The log of every partition, with what each log server that answers has of it.
    async fn logs(&self) -> Result<Vec<LogEntry>, String>;

    /// The configuration of this node: dotted names and values as JSON.
    fn config(&self) -> Vec<(String, String)>;
}

/// A rule that limits what runs at a time.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// To which scopes and limit keys it applies.
    pub pattern: String,
    /// How many may run at a time.
    pub concurrency: Option<u32>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// Counts its changes.
    pub version: u32,
    /// When it was changed.
    pub last_modified: Option<Timestamp>,
}

/// A counter to which rules apply.
#[derive(Debug, Clone, Default)]
pub struct UserLimit {
    /// The key that decides on its partition.
    pub partition_key: u64,
    /// The scope.
    pub scope: String,
    /// The first part of the limit key.
    pub l1: Option<String>,
    /// The second part of the limit key.
    pub l2: Option<String>,
    /// `Scope`, `Level1` or `Level2`.
    pub level: &'static str,
    /// How many run.
    pub usage: u32,
    /// How many may.
    pub concurrency_limit: Option<u32>,
    /// The rule that says so; `[removed]` if it is gone.
    pub rule_pattern: Option<String>,
    /// How many more may.
    pub available: Option<u32>,
    /// How many wait.
    pub num_waiters: u64,
}

/// What limits the flow of invocations. Whoever has rules or counters fills the tables of them through this.
#[async_trait]
pub trait FlowControl: Send + Sync + 'static {
    /// The rule book.
    async fn rules(&self) -> Result<Vec<Rule>, String> {
        Ok(Vec::new())
    }

    /// The counters of all partitions.
    async fn user_limits(&self) -> Result<Vec<UserLimit>, String> {
        Ok(Vec::new())
    }

    /// The queues in which something waits, and those that are paused, of all partitions.
    async fn queues(&self) -> Result<Vec<FlowState>, String> {
        Ok(Vec::new())
    }
}

/// A source without rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl FlowControl for Nothing {}

#[async_trait]
impl Cluster for Nothing {
    async fn describe(&self) -> Result<ClusterStatus, String> {
        Ok(ClusterStatus::default())
    }

    async fn logs(&self) -> Result<Vec<LogEntry>, String> {
        Ok(Vec::new())
    }

    fn config(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// All of them.
#[derive(Clone)]
pub struct Sources {
    /// Rows of partitions.
    pub partitions: Arc<dyn Partitions>,
    /// What is registered.
    pub schema: watch::Receiver<Arc<Schema>>,
    /// Nodes and logs.
    pub cluster: Arc<dyn Cluster>,
    /// Rules and counters.
    pub flow_control: Arc<dyn FlowControl>,
}

impl Sources {
    pub(crate) fn schema(&self) -> Arc<Schema> {
        self.schema.borrow().clone()
    }
}
