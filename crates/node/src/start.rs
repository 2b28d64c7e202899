//! The start of a node, in the order in which its parts need each other.
//!
//! Ports first, then the databases side by side, then the node port, since other nodes may be waiting for this one's
//! metadata server; the cluster; and with the cluster's view all the rest. Nothing sleeps: every step waits for what
//! it needs and for nothing else.

use std::error::Error;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use abide_admin::{Admin, MetricsText, Sql};
use abide_config::Config;
use abide_controller::{Controller, ControllerParts};
use abide_ingress_http::{Ingress, IngressOptions};
use abide_ingress_kafka::KafkaIngress;
use abide_invoker::{Invoker, InvokerOptions};
use abide_log::{Conduit, LocalLog, LogClient};
use abide_log_server::{LogServer, LogServerOptions, LogService, StoreError as LogStoreError};
use abide_metadata::{JoinError, Joined, Metadata, MetadataServer, ServerFailure};
use abide_partition_store::PartitionStores;
use abide_processor::{Archive, Dependencies, ProcessorOptions, Processors};
use abide_query::{QueryEngine, Routed, Sources};
use abide_rpc::proto::cluster::cluster_server::ClusterServer;
use abide_rpc::proto::observe::observe_server::ObserveServer;
use abide_rpc::proto::operations::operations_server::OperationsServer;
use abide_rpc::proto::recovery::recovery_server::RecoveryServer;
use abide_rpc::proto::snapshots::snapshots_server::SnapshotsServer;
use abide_rpc::{Fabric, Identity, Service};
use abide_schema::Schema;
use abide_telemetry::{Exporting, Tracer};
use abide_types::Role;
use axum::Router;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::cluster_handler::ClusterHandler;
use crate::cluster_service::ClusterService;
use crate::data_dir;
use crate::error::NodeError;
use crate::facts::{Facts, Member, Phase};
use crate::flow_control::Limits;
use crate::health::{self, Health};
use crate::listeners::{DoorListeners, Listeners};
use crate::log_filter::LogFilter;
use crate::node::Fatal;
use crate::node_port::{self, NodePort};
use crate::observe_service::ObserveService;
use crate::observer::{self, Observes};
use crate::operations_service::OperationsService;
use crate::recovery_service::RecoveryService;
use crate::snapshots_service::SnapshotsService;
use crate::sql::{Queries, Seen};
use crate::{measures, membership, options, peers, replicas, schema_watch, stores};

/// How long is waited for a cluster before the wait is logged.
const WAIT_LOGGED_AFTER: Duration = Duration::from_secs(2);

/// A node that serves.
pub(crate) struct Running {
    pub(crate) facts: Arc<Facts>,
    /// Ends ingress and admin.
    pub(crate) doors: CancellationToken,
    pub(crate) door_tasks: TaskTracker,
    /// Ends what watches and reports.
    pub(crate) background: CancellationToken,
    pub(crate) node_port: CancellationToken,
    pub(crate) tracer: Tracer,
    /// Sends spans, until it is stopped.
    pub(crate) exporting: Mutex<Option<Exporting>>,
}

impl Running {
    pub(crate) fn member(&self) -> &Member {
        let member = self.facts.member.get();
        member.expect("a running node is a member of its cluster")
    }
}

/// Starts a node.
pub(crate) async fn start(
    config: Arc<Config>,
    log_filter: LogFilter,
    fatal: Fatal,
) -> Result<Running, NodeError> {
    let prometheus = measures::install(&config)?;
    let directory = config.node_dir();
    data_dir::prepare(&directory, &config.cluster_name, &config.node_name)?;
    // Before anything is promised to anybody: a node that cannot sign must not call services.
    let invoker = options::invoker(&config)?;
    let archive = Archive::open(options::archive(&config))?;
    let (tracer, exporting) = options::tracing(&config)?;
    let listeners = Listeners::bind(&config)?;
    let bound = listeners.bound(&config);
    let facts = Arc::new(Facts::new(Arc::clone(&config), bound, log_filter));
    let disks = Disks::open(&facts, fatal.clone()).await?;
    let running = Running {
        facts: Arc::clone(&facts),
        doors: CancellationToken::new(),
        door_tasks: TaskTracker::new(),
        background: CancellationToken::new(),
        node_port: CancellationToken::new(),
        tracer,
        exporting: Mutex::new(exporting),
    };
    let (slot, fabric_of_port) = watch::channel(None);
    let metrics = measures::text(&facts, &prometheus);
    facts.measured_by(Arc::clone(&metrics));
    let port = NodePort {
        router: router(&facts, &metrics, &archive, &fatal),
        fabric: fabric_of_port,
        stop: running.node_port.clone(),
    };
    tokio::spawn(port.serve(listeners.node));

    let (metadata, joined) = join(&facts).await?;
    tokio::spawn(watch_superseded(metadata.superseded(), fatal.clone()));
    let fabric = fabric(&facts, &joined);
    let parts = Parts {
        facts: &facts,
        joined,
        metadata,
        fabric,
        archive,
    };
    let engine = parts.assemble(disks, invoker, &running).await;
    // Every service has its handler now: the others may come.
    let member = running.member();
    slot.send_replace(Some(Arc::clone(&member.fabric)));
    tokio::spawn(peers::follow(
        member.metadata.clone(),
        Arc::clone(&member.fabric),
        running.background.clone(),
    ));
    tokio::spawn(replicas::report(
        Arc::clone(&facts),
        running.background.clone(),
    ));
    tokio::spawn(membership::follow(
        Arc::clone(&facts),
        fatal.clone(),
        running.background.clone(),
    ));
    tokio::spawn(measures::upkeep(prometheus, running.background.clone()));
    tokio::spawn(observer::watch(
        Arc::clone(&facts),
        running.background.clone(),
    ));
    if let Some(server) = facts.server.get() {
        tokio::spawn(measures::count_leaders(
            server.clone(),
            running.background.clone(),
        ));
    }
    parts.open_doors(
        &engine,
        (listeners.ingress, listeners.admin),
        metrics,
        &running,
    );
    facts.enter(Phase::Alive);
    tracing::info!(
        node = %member.incarnation(),
        name = config.node_name,
        took = ?facts.started.elapsed(),
        "node is up"
    );
    Ok(running)
}

/// What was opened.
struct Disks {
    server: Option<MetadataServer>,
    log_server: Option<Arc<LogServer>>,
    stores: Option<Arc<PartitionStores>>,
    /// Ends the node when its partition stores are of no use any more.
    stores_failure: abide_processor::Fatal,
}

impl Disks {
    /// Opens the databases that the node's roles need, side by side.
    async fn open(facts: &Arc<Facts>, fatal: Fatal) -> Result<Self, NodeError> {
        let config = &facts.config;
        let has = |role| config.roles.contains(&role);
        let directory = config.node_dir();
        let server = async {
            if !has(Role::MetadataServer) {
                return Ok(None);
            }
            let description = options::description(config, &facts.bound);
            let path = directory.join("metadata");
            let server =
                MetadataServer::start(&path, description, options::metadata(config)).await?;
            tokio::spawn(watch_metadata(server.clone(), fatal.clone(), path));
            Ok::<_, NodeError>(Some(facts.server.get_or_init(|| server).clone()))
        };
        let log_server = async {
            if !has(Role::LogServer) {
                return Ok(None);
            }
            let path = directory.join("log");
            let options = LogServerOptions {
                fatal: storage_failure(fatal.clone(), path.clone()),
                ..options::log_server(config)
            };
            blocking(move || Ok(Some(LogServer::open(&path, options)?))).await
        };
        let stores_failure: abide_processor::Fatal = {
            let (fatal, path) = (fatal.clone(), directory.join("partitions"));
            Arc::new(move |reason| report(&fatal, &path, reason))
        };
        let stores = async {
            if !has(Role::Worker) {
                return Ok(None);
            }
            let (path, options) = (directory.join("partitions"), options::stores(config));
            blocking(move || Ok(Some(stores::open(&path, options)?))).await
        };
        let (server, log_server, stores) = tokio::try_join!(server, log_server, stores)?;
        Ok(Self {
            server,
            log_server,
            stores,
            stores_failure,
        })
    }
}

/// Runs what waits for a disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or_else(|error| Err(NodeError::Part(error.to_string())))
}

/// Ends the node when its log could not be written.
fn storage_failure(fatal: Fatal, directory: PathBuf) -> Arc<dyn Fn(&LogStoreError) + Send + Sync> {
    Arc::new(move |error| report(&fatal, &directory, chain(error)))
}

/// Ends the node when its metadata server cannot go on.
async fn watch_metadata(server: MetadataServer, fatal: Fatal, directory: PathBuf) {
    let mut failure = server.failure();
    let failed = failure.wait_for(Option::is_some).await;
    let Ok(Some(failure)) = failed.as_deref().cloned() else {
        return;
    };
    match failure {
        ServerFailure::Raft(reason) => report(&fatal, &directory, reason),
        // A second failure finds the first one's report waiting.
        ServerFailure::Superseded(reason) => drop(fatal.try_send(NodeError::StartAgain(reason))),
        ServerFailure::Removed { node } => drop(fatal.try_send(NodeError::Removed { node })),
    }
}

/// Ends the node when its cluster was recovered without it knowing.
async fn watch_superseded(mut superseded: watch::Receiver<Option<String>>, fatal: Fatal) {
    let found = superseded.wait_for(Option::is_some).await;
    if let Ok(Some(reason)) = found.as_deref() {
        // A second failure finds the first one's report waiting.
        let _ = fatal.try_send(NodeError::StartAgain(reason.clone()));
    }
}

fn report(fatal: &Fatal, directory: &Path, reason: String) {
    // A second failure finds the first one's report waiting.
    let _ = fatal.try_send(NodeError::Storage {
        directory: directory.to_owned(),
        reason,
    });
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// What the node port serves besides the fabric.
fn router(
    facts: &Arc<Facts>,
    metrics: &MetricsText,
    archive: &Arc<Archive>,
    fatal: &Fatal,
) -> Router {
    let cluster = ClusterServer::new(ClusterService {
        facts: Arc::clone(facts),
    });
    let observe = ObserveServer::new(ObserveService {
        facts: Arc::clone(facts),
    });
    let recovery = RecoveryServer::new(RecoveryService {
        facts: Arc::clone(facts),
        fatal: fatal.clone(),
    });
    let operations = OperationsServer::new(OperationsService {
        facts: Arc::clone(facts),
    });
    let routes = match facts.server.get() {
        Some(server) => server.routes().add_service(cluster),
        None => Routes::new(cluster),
    };
    let routes = routes
        .add_service(operations)
        .add_service(recovery)
        .add_service(observe);
    let routes = routes.add_service(SnapshotsServer::new(SnapshotsService {
        facts: Arc::clone(facts),
        archive: Arc::clone(archive),
    }));
    let health = {
        let facts = Arc::clone(facts);
        move || async move { axum::Json(Health::of(&facts)) }
    };
    let ready = {
        let facts = Arc::clone(facts);
        move || async move { health::ready(&facts) }
    };
    let metrics = {
        let metrics = Arc::clone(metrics);
        move || async move { metrics() }
    };
    routes
        .into_axum_router()
        .route("/health", get(health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(node_port::not_found)
}

type Joining<'a> = Pin<Box<dyn Future<Output = Result<(Metadata, Joined), JoinError>> + Send + 'a>>;

/// Registers this start with the cluster, forming it where that is configured.
async fn join(facts: &Facts) -> Result<(Metadata, Joined), NodeError> {
    let config = &facts.config;
    // Boxed: the futures below are so deep that the compiler gives up on one that holds them.
    let joining: Joining<'_> = match facts.server.get() {
        Some(server) => Box::pin(server.join()),
        None => {
            let description = options::description(config, &facts.bound);
            Box::pin(Metadata::join(options::metadata(config), description))
        }
    };
    let waits = async {
        tokio::time::sleep(WAIT_LOGGED_AFTER).await;
        tracing::info!(
            addresses = ?config.metadata_client.addresses,
            reason = %facts.awaits(),
            "not a member of a cluster yet"
        );
        pending::<()>().await;
    };
    let waited = config.initialization_timeout;
    tokio::select! {
        joined = joining => Ok(joined?),
        () = waits => unreachable!("the wait is logged and then goes on"),
        () = tokio::time::sleep(waited) => Err(NodeError::NoCluster {
            waited,
            addresses: config.metadata_client.addresses.join(", "),
        }),
    }
}

fn fabric(facts: &Facts, joined: &Joined) -> Arc<Fabric> {
    let identity = Identity {
        fingerprint: joined.fingerprint,
        node: joined.node,
        generation: joined.generation,
    };
    Fabric::new(identity, options::fabric(&facts.config))
}

/// What the doors need.
struct Engine {
    processors: Arc<Processors>,
    invoker: Arc<Invoker>,
    schema: watch::Receiver<Arc<Schema>>,
}

/// What a member of a cluster is made of.
struct Parts<'a> {
    facts: &'a Arc<Facts>,
    joined: Joined,
    metadata: Metadata,
    fabric: Arc<Fabric>,
    archive: Arc<Archive>,
}

impl Parts<'_> {
    /// Registers every handler and starts what works behind the doors.
    async fn assemble(&self, disks: Disks, invoker: InvokerOptions, running: &Running) -> Engine {
        let config = &self.facts.config;
        let conduit: Arc<dyn Conduit> = self.fabric.clone();
        let local = disks
            .log_server
            .clone()
            .map(|server| server as Arc<dyn LocalLog>);
        let log = LogClient::new(self.joined.node, Arc::clone(&conduit), local);
        let service = LogService::new(Arc::clone(&log), disks.log_server.clone(), conduit);
        self.fabric.register(Service::Log, service);
        let handler = ClusterHandler {
            facts: Arc::downgrade(self.facts),
        };
        self.fabric.register(Service::Cluster, Arc::new(handler));
        let parts = ControllerParts {
            metadata: self.metadata.clone(),
            server: disks.server,
            fabric: Arc::clone(&self.fabric),
        };
        let member = Member {
            joined: self.joined,
            metadata: self.metadata.clone(),
            fabric: Arc::clone(&self.fabric),
            controller: Controller::start(parts, options::controller(config)),
            log_server: disks.log_server,
            log: Arc::clone(&log),
            stores: disks.stores.as_ref().map(Arc::downgrade),
            processors: OnceLock::new(),
            invoker: OnceLock::new(),
            queries: OnceLock::new(),
        };
        let member = self.facts.member.get_or_init(|| member);
        let schema = schema_watch::follow(
            &self.metadata,
            options::schema_defaults(config),
            running.background.clone(),
        );
        let invoker = Arc::new(Invoker::new(
            InvokerOptions {
                tracer: running.tracer.clone(),
                ..invoker
            },
            schema.clone(),
        ));
        let guarded = member.log_server.clone();
        member.invoker.get_or_init(|| Arc::clone(&invoker));
        let dependencies = Dependencies {
            disk_full: Arc::new(move || {
                guarded
                    .as_ref()
                    .is_some_and(|server| server.status().is_full)
            }),
            node: member.incarnation(),
            partitions: self.partitions().await,
            fabric: Arc::clone(&self.fabric),
            metadata: self.metadata.clone(),
            log,
            schema: schema.clone(),
            options: ProcessorOptions {
                tracer: running.tracer.clone(),
                ..options::processors(config)
            },
            archive: Arc::clone(&self.archive),
            fatal: disks.stores_failure,
        };
        let worker = disks.stores.map(|stores| (stores, Arc::clone(&invoker)));
        let processors = Processors::start(dependencies, worker);
        Engine {
            processors: Arc::clone(member.processors.get_or_init(|| processors)),
            invoker,
            schema,
        }
    }

    /// Serves clients and operators.
    fn open_doors(
        &self,
        engine: &Engine,
        listeners: (DoorListeners, DoorListeners),
        metrics: MetricsText,
        running: &Running,
    ) {
        let config = &self.facts.config;
        let (ingress, admin) = listeners;
        let router = engine.processors.router();
        let (tasks, stop) = (&running.door_tasks, &running.doors);
        // The node port answers queries as well, whether there is an admin API or not.
        let queries = running
            .member()
            .queries
            .get_or_init(|| self.queries(engine));
        let queries: Arc<dyn Sql> = queries.clone();
        if ingress.is_there() {
            let door = Arc::new(Ingress::new(
                IngressOptions {
                    tracer: running.tracer.clone(),
                    ..options::ingress(config)
                },
                router.clone(),
                engine.schema.clone(),
            ));
            if let Some(listener) = ingress.socket {
                tasks.spawn(Arc::clone(&door).serve(listener, stop.clone()));
            }
            if let Some(listener) = ingress.port {
                tasks.spawn(door.serve(listener, stop.clone()));
            }
        }
        // Where partitions are led, most of a topic's records need not cross to another node.
        if config.roles.contains(&Role::Worker) {
            let door = KafkaIngress::new(
                options::kafka(config, running.tracer.clone()),
                router.clone(),
                engine.schema.clone(),
            );
            running.door_tasks.spawn(door.run(running.doors.clone()));
        }
        if admin.is_there() {
            let door = Admin::new(
                options::admin(config, &self.facts.bound),
                self.metadata.clone(),
                router,
                Arc::clone(&engine.invoker),
                engine.schema.clone(),
                metrics,
            )
            .with_sql(queries)
            .with_observer(Arc::new(Observes(Arc::clone(self.facts))));
            if let Some(listener) = admin.socket {
                tasks.spawn(door.clone().serve(listener, stop.clone()));
            }
            if let Some(listener) = admin.port {
                tasks.spawn(door.serve(listener, stop.clone()));
            }
        }
    }

    fn queries(&self, engine: &Engine) -> Arc<Queries> {
        let options = options::queries(&self.facts.config);
        let sources = Sources {
            partitions: Arc::new(Routed::new(engine.processors.router(), options.timeout)),
            schema: engine.schema.clone(),
            cluster: Arc::new(Seen(Arc::clone(self.facts))),
            flow_control: Arc::new(Limits {
                metadata: self.metadata.clone(),
                partitions: engine.processors.router(),
            }),
        };
        Arc::new(Queries(QueryEngine::new(options, sources)))
    }

    /// How many partitions the cluster has; its view may be a moment behind the joining.
    async fn partitions(&self) -> u16 {
        let mut views = self.metadata.watch();
        let known = views.wait_for(|view| view.cluster.is_some()).await;
        known
            .ok()
            .and_then(|view| view.cluster.as_ref().map(|cluster| cluster.partitions))
            .unwrap_or(0)
    }
}
