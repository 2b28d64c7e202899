//! The partitions of this node: starts and stops their tasks as the partition table says.

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_invoker::Invoker;
use abide_log::LogClient;
use abide_metadata::Metadata;
use abide_partition_store::{OpenError, PartitionStore, PartitionStores};
use abide_rpc::{Fabric, Service};
use abide_schema::Schema;
use abide_types::{NodeIncarnation, PartitionId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::chains::Chains;
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::partition::{
    Context, DiskFull, Fatal, Partition, PartitionRole, PartitionStatus, ProcessorOptions, chain_of,
};
use crate::router::Router;

/// What waits for one partition's task.
pub(crate) const EVENTS_MAX: usize = 4096;
/// Requests about snapshots that wait for it.
const ORDERS_MAX: usize = 16;

/// What the partitions of a node need.
pub struct Dependencies {
    /// This node.
    pub node: NodeIncarnation,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Connections to the other nodes.
    pub fabric: Arc<Fabric>,
    /// The metadata plane.
    pub metadata: Metadata,
    /// The log servers.
    pub log: Arc<LogClient>,
    /// What is registered.
    pub schema: watch::Receiver<Arc<Schema>>,
    /// Limits and intervals.
    pub options: ProcessorOptions,
    /// Where snapshots go and come from.
    pub archive: Arc<Archive>,
    /// Whether this node's disk is nearly full: then followers wait.
    pub disk_full: DiskFull,
    /// Called when the partition stores are damaged so that only another start of the node mends them.
    pub fatal: Fatal,
}

/// The partitions of this node, and the way to all others.
pub struct Processors {
    context: Option<Arc<Context>>,
    router: Router,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Processors {
    /// Starts what the partition table places here. `worker` is absent on nodes without that role: they only route.
    pub fn start(
        dependencies: Dependencies,
        worker: Option<(Arc<PartitionStores>, Arc<Invoker>)>,
    ) -> Arc<Self> {
        let directory = Arc::<Directory>::default();
        dependencies
            .fabric
            .register(Service::Partition, directory.clone());
        let router = Router::new(
            dependencies.node.node,
            dependencies.fabric.clone(),
            dependencies.metadata.watch(),
            directory.clone(),
            dependencies.options.give_up_after,
            dependencies.partitions,
        );
        let stop = CancellationToken::new();
        let mut task = None;
        let mut context = None;
        if let Some((stores, invoker)) = worker {
            let shared = Arc::new(Context {
                node: dependencies.node,
                partitions: dependencies.partitions,
                fabric: dependencies.fabric,
                chains: Chains::new(dependencies.metadata.clone()),
                metadata: dependencies.metadata,
                log: dependencies.log,
                invoker,
                schema: dependencies.schema,
                directory,
                options: dependencies.options,
                archive: dependencies.archive,
                disk_full: dependencies.disk_full,
                fatal: dependencies.fatal,
                metrics: Metrics::new(dependencies.partitions),
                statuses: Mutex::default(),
            });
            task = Some(tokio::spawn(place(shared.clone(), stores, stop.clone())));
            context = Some(shared);
        }
        Arc::new(Self {
            context,
            router,
            stop,
            task: Mutex::new(task),
        })
    }

    /// The way to every partition of the cluster.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// How this node's partitions fare.
    pub fn statuses(&self) -> BTreeMap<PartitionId, PartitionStatus> {
        self.context
            .as_ref()
            .map(|context| context.statuses.lock().clone())
            .unwrap_or_default()
    }

    /// How many partitions this node leads.
    pub fn leading(&self) -> usize {
        let leads = |status: &&PartitionStatus| status.role == PartitionRole::Leader;
        self.context.as_ref().map_or(0, |context| {
            context.statuses.lock().values().filter(leads).count()
        })
    }

    /// Stops all partitions and waits until their stores are flushed.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic in it was reported when it happened.
            let _ = task.await;
        }
        if let Some(context) = &self.context {
            context.directory.end_transfers();
        }
    }
}

struct Placed {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn place(context: Arc<Context>, stores: Arc<PartitionStores>, stop: CancellationToken) {
    let chains = tokio::spawn(context.chains.clone().follow());
    let mut views = context.metadata.watch();
    let mut placed: BTreeMap<PartitionId, Placed> = BTreeMap::new();
    loop {
        let view = views.borrow_and_update().clone();
        let here = |partition: &PartitionId| {
            view.partition_table
                .partitions
                .get(partition)
                .is_some_and(|entry| entry.replicas.contains(&context.node.node))
        };
        for partition in view
            .partition_table
            .partitions
            .keys()
            .filter(|partition| here(partition))
        {
            if !placed.contains_key(partition)
                && let Some(task) = spawn(&context, &stores, *partition, &stop)
            {
                placed.insert(*partition, task);
            }
        }
        let gone: Vec<_> = placed
            .keys()
            .filter(|partition| !here(partition))
            .copied()
            .collect();
        for partition in gone {
            if let Some(task) = placed.remove(&partition) {
                end(&context, partition, task).await;
                tracing::info!(%partition, "no longer placed here");
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = views.changed() => if changed.is_err() {
                break;
            },
        }
    }
    stop.cancel();
    for (partition, task) in placed {
        end(&context, partition, task).await;
    }
    chains.abort();
}

async fn end(context: &Context, partition: PartitionId, placed: Placed) {
    placed.stop.cancel();
    context.metrics.removed(partition);
    // A panic in it was reported when it happened.
    let _ = placed.task.await;
    context.directory.remove(partition);
    context.statuses.lock().remove(&partition);
}

fn spawn(
    context: &Arc<Context>,
    stores: &Arc<PartitionStores>,
    partition: PartitionId,
    stop: &CancellationToken,
) -> Option<Placed> {
    let store = match open(stores, partition) {
        Ok(store) => store,
        Err(error) => {
            let reason = chain_of(&error);
            tracing::error!(%partition, reason, "the partition store does not open");
            context.report(partition, |status| {
                status.role = PartitionRole::Stopped;
                status.stopped = Some(reason);
            });
            return None;
        }
    };
    context.metrics.placed();
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let (order_sender, orders) = mpsc::channel(ORDERS_MAX);
    (context.directory).insert(partition, sender, order_sender, store.reader());
    let stop = stop.child_token();
    let task = Partition {
        context: context.clone(),
        partition,
        store,
        events,
        orders,
        stop: stop.clone(),
        damages: 0,
    };
    Some(Placed {
        task: tokio::spawn(task.run()),
        stop,
    })
}

/// A partition whose rows are damaged is opened empty: the log says whether it is enough to make them anew.
fn open(
    stores: &Arc<PartitionStores>,
    partition: PartitionId,
) -> Result<PartitionStore, OpenError> {
    match stores.partition(partition) {
        Err(error) if error.is_damage() => {
            tracing::error!(%partition, reason = chain_of(&error), "the partition store is damaged; it is rebuilt");
            stores.drop_partition(partition)?;
            stores.partition(partition)
        }
        opened => opened,
    }
}
