//! From the configuration tree to the options of each part.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use abide_admin::AdminOptions;
use abide_config::{Config, KafkaClusterConfig};
use abide_controller::{Budget, ControllerOptions, LivenessOptions};
use abide_ingress_http::IngressOptions;
use abide_ingress_kafka::KafkaOptions;
use abide_invoker::{Identity, IdentityError, InvokerOptions, Proxy, ProxyError};
use abide_log_server::LogServerOptions;
use abide_metadata::{MetadataOptions, NodeDescription, ProvisionSettings};
use abide_partition_store::StoreOptions;
use abide_processor::{ArchiveOptions, DurabilityMode, ProcessorOptions};
use abide_query::QueryOptions;
use abide_rpc::FabricOptions;
use abide_schema::{Defaults, KafkaCluster, OnMaxAttempts, RetryPolicy};
use abide_snapshots::StoreSettings;
use abide_telemetry::{EndpointError, Exporting, TelemetryOptions, Tracer};
use abide_types::Timestamp;

use crate::error::NodeError;
use crate::facts::Bound;
use crate::ports::Port;

pub(crate) fn metadata(config: &Config) -> MetadataOptions {
    let client = &config.metadata_client;
    let server = &config.metadata_server;
    MetadataOptions {
        addresses: client.addresses.clone(),
        auto_provision: config.auto_provision.then(|| provision(config)),
        provision_defaults: provision(config),
        heartbeat_interval: server.heartbeat_interval,
        election_timeout_min: server.election_timeout_min,
        election_timeout_max: server.election_timeout_max,
        voters_max: server.voters_max.into(),
        snapshot_every: server.log_trim_threshold,
        request_timeout: client.request_timeout,
        connect_timeout: client.connect_timeout,
        ..MetadataOptions::default()
    }
}

fn provision(config: &Config) -> ProvisionSettings {
    ProvisionSettings {
        partitions: config.default_num_partitions,
        replication: config.default_replication,
    }
}

pub(crate) fn description(config: &Config, bound: &[Bound]) -> NodeDescription {
    let advertised = |port| {
        let bound = bound.iter().find(|bound| bound.port == port);
        bound.map(|bound| bound.advertised.clone())
    };
    let node = advertised(Port::Node).unwrap_or_default();
    NodeDescription {
        cluster_name: config.cluster_name.clone(),
        name: config.node_name.clone(),
        address: bare(&node).to_owned(),
        ingress_address: advertised(Port::Ingress),
        admin_address: advertised(Port::Admin),
        roles: config.roles.clone(),
        location: config.location.clone(),
    }
}

/// `host:port` of a URL.
fn bare(url: &str) -> &str {
    let bare = url.strip_prefix("http://").unwrap_or(url);
    bare.trim_end_matches('/')
}

pub(crate) fn fabric(config: &Config) -> FabricOptions {
    let networking = &config.networking;
    FabricOptions {
        heartbeat_interval: networking.heartbeat_interval,
        silence_timeout: networking.failure_timeout,
        connect_timeout: networking.connect_timeout,
        handshake_timeout: networking.handshake_timeout,
        redial_max: networking.reconnect_interval_max,
        payload_bytes_max: networking.frame_bytes_max(),
        queue_bytes_max: networking.send_queue_size.as_usize(),
        ..FabricOptions::default()
    }
}

/// What ends the process when the log cannot be written stays to be set.
pub(crate) fn log_server(config: &Config) -> LogServerOptions {
    let server = &config.log_server;
    LogServerOptions {
        memory_bytes: config.log_server_memory().as_usize(),
        recent_bytes_max: server.record_cache_memory_size.as_usize(),
        batch_bytes_max: server.write_batch_size.as_usize(),
        free_bytes_min: server.free_space_min.0,
        ..LogServerOptions::default()
    }
}

pub(crate) fn stores(config: &Config) -> StoreOptions {
    let storage = &config.worker.storage;
    StoreOptions {
        memory_bytes: config.partition_store_memory().as_usize(),
        spill_after_bytes: storage.spill_after_size.as_usize(),
        flush_after_bytes: storage.flush_after_size.as_usize(),
        flush_interval: storage.flush_interval,
    }
}

pub(crate) fn processors(config: &Config) -> ProcessorOptions {
    let worker = &config.worker;
    ProcessorOptions {
        eager_state_bytes_max: worker.invoker.eager_state_size_limit.as_usize(),
        eager_state: !worker.invoker.disable_eager_state,
        timers_in_memory_max: worker.num_timers_in_memory_limit.get() as usize,
        cleanup_interval: worker.cleanup_interval,
        ..ProcessorOptions::default()
    }
}

/// Where snapshots go; files are put together in `<node>/exports`, on the disk of the stores.
pub(crate) fn archive(config: &Config) -> ArchiveOptions {
    let (worker, snapshots) = (&config.worker, &config.worker.snapshots);
    let retry = &snapshots.object_store_retry_policy;
    let default = match snapshots.destination {
        Some(_) => abide_config::DurabilityMode::Balanced,
        None => abide_config::DurabilityMode::ReplicaSetOnly,
    };
    let defaults = ArchiveOptions::default();
    ArchiveOptions {
        destination: snapshots.destination.clone(),
        store: StoreSettings {
            aws_region: snapshots.aws_region.clone(),
            aws_endpoint_url: snapshots.aws_endpoint_url.clone(),
            aws_access_key_id: snapshots.aws_access_key_id.clone(),
            aws_secret_access_key: snapshots.aws_secret_access_key.clone(),
            aws_session_token: snapshots.aws_session_token.clone(),
            aws_allow_http: snapshots.aws_allow_http,
            retry: abide_snapshots::RetryPolicy {
                initial_interval: retry.initial_interval,
                factor: retry.exponentiation_factor,
                max_interval: retry.max_interval,
                max_attempts: retry.max_attempts as usize,
            },
        },
        interval: snapshots.snapshot_interval,
        records: snapshots.snapshot_interval_num_records.map(Into::into),
        num_retained: (snapshots.num_retained)
            .map_or(defaults.num_retained, |it| it.get() as usize),
        cleanup: snapshots.enable_cleanup.unwrap_or(defaults.cleanup),
        concurrent_max: (snapshots.export_concurrency_limit)
            .map_or(defaults.concurrent_max, |it| it.get() as usize),
        staging: config.node_dir().join("exports"),
        durability: match worker.durability_mode.unwrap_or(default) {
            abide_config::DurabilityMode::Balanced => DurabilityMode::Balanced,
            abide_config::DurabilityMode::ReplicaSetOnly => DurabilityMode::ReplicaSetOnly,
            abide_config::DurabilityMode::SnapshotOnly => DurabilityMode::SnapshotOnly,
            abide_config::DurabilityMode::SnapshotAndReplicaSet => {
                DurabilityMode::SnapshotAndReplicaSet
            }
            abide_config::DurabilityMode::None => DurabilityMode::None,
        },
        trim_delay: worker.trim_delay_interval,
        check_interval: worker.trim_check_interval,
        trim_records_min: worker.trim_num_records_min.get().into(),
    }
}

pub(crate) fn controller(config: &Config) -> ControllerOptions {
    ControllerOptions {
        liveness: LivenessOptions {
            failure_timeout: config.networking.failure_timeout,
            stable_after: Duration::from_secs(3),
            boot_grace: Duration::from_millis(500),
            replace_after: Duration::from_secs(10 * 60),
        },
        balance_interval: Duration::from_secs(1),
        balance_step: Budget {
            leaders: 2,
            replicas: 1,
        },
        nodes_expected: config.metadata_client.addresses.len(),
        first_placement_wait: Duration::from_secs(2),
        commit_timeout: Duration::from_secs(3),
    }
}

pub(crate) fn ingress(config: &Config) -> IngressOptions {
    let ingress = &config.ingress;
    IngressOptions {
        request_bytes_max: config.ingress_request_bytes_max().as_usize(),
        concurrent_requests_max: ingress
            .concurrent_api_requests_limit
            .and_then(|limit| NonZeroUsize::try_from(limit).ok()),
        http2_streams_max: ingress.http2_max_concurrent_streams,
        drain: ingress.drain_timeout,
        ..IngressOptions::default()
    }
}

pub(crate) fn admin(config: &Config, bound: &[Bound]) -> AdminOptions {
    let ingress = bound.iter().find(|bound| bound.port == Port::Ingress);
    let admin = &config.admin;
    AdminOptions {
        deployment_routing_headers: admin
            .deployment_routing_headers
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        concurrent_requests_max: admin
            .concurrent_api_requests_limit
            .and_then(|limit| NonZeroUsize::try_from(limit).ok()),
        ingress_endpoint: ingress.map(|bound| with_path(&bound.advertised)),
        web_ui: !admin.disable_web_ui,
        drain: ADMIN_DRAIN,
    }
}

/// A URL whose path, if there is none, is a slash.
fn with_path(url: &str) -> String {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    match host.contains('/') {
        true => url.to_owned(),
        false => format!("{url}/"),
    }
}

pub(crate) fn queries(config: &Config) -> QueryOptions {
    let engine = &config.admin.query_engine;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    QueryOptions {
        memory_bytes: engine.memory_size.as_usize(),
        parallelism: (engine.query_parallelism).map_or(cores, |threads| threads.get() as usize),
        spill_dir: engine.tmp_dir.clone(),
        timeout: engine.timeout,
        concurrent_max: engine.concurrent_queries_limit.get() as usize,
    }
}

/// How long requests to the admin API may take to end when the node stops.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// Where spans go, if anywhere, and the task that sends them there.
pub(crate) fn tracing(config: &Config) -> Result<(Tracer, Option<Exporting>), EndpointError> {
    let services = config.tracing_services_endpoint.as_deref();
    let Some(endpoint) = services.or(config.tracing_endpoint.as_deref()) else {
        return Ok((Tracer::off(), None));
    };
    let headers = config.tracing_headers.clone();
    let (tracer, exporting) = abide_telemetry::start(TelemetryOptions {
        endpoint: endpoint.parse()?,
        headers: headers.into_iter().collect(),
        instance: format!("{}/{}", config.cluster_name, config.node_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })?;
    tracing::info!(endpoint, "spans of invocations are sent");
    Ok((tracer, Some(exporting)))
}

/// A message holds a value of the configured size and what surrounds it: a header, an id, a name.
const MESSAGE_SURROUNDINGS: usize = 256 * 1024 - 1;

/// The key with which requests to services are signed, if one is configured.
fn identity(config: &Config) -> Result<Option<Identity>, IdentityError> {
    let invoker = &config.worker.invoker;
    let path = invoker.request_identity_private_key_pem_file.as_deref();
    path.map(|path| Identity::load(path, invoker.request_identity_expiration))
        .transpose()
}

/// The proxy through which services are reached, if there is one.
fn proxy(config: &Config) -> Result<Option<Arc<Proxy>>, ProxyError> {
    let invoker = &config.worker.invoker;
    let uri = invoker.http_proxy.as_deref();
    let proxy = uri.map(|uri| Proxy::new(uri, &invoker.no_proxy));
    Ok(proxy.transpose()?.map(Arc::new))
}

/// # Errors
/// The key of the requests' signatures cannot be read, or the proxy is none.
pub(crate) fn invoker(config: &Config) -> Result<InvokerOptions, NodeError> {
    let invoker = &config.worker.invoker;
    let mut headers: Vec<(String, String)> = vec![(
        "x-restate-cluster-name".to_owned(),
        config.cluster_name.clone(),
    )];
    for (name, value) in &invoker.additional_request_headers {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.clone()));
    }
    Ok(InvokerOptions {
        concurrency_max: invoker.concurrent_invocations_limit.get() as usize,
        memory_bytes_max: invoker.memory_limit.as_usize(),
        message_bytes_max: (config.invoker_message_bytes_max().as_usize())
            .saturating_add(MESSAGE_SURROUNDINGS),
        message_bytes_warn: invoker.message_size_warning.as_usize(),
        attempt_memory_bytes_max: invoker.per_invocation_memory_limit.as_usize(),
        await_depth_max: invoker.max_awaited_future_depth as usize,
        connect_timeout: invoker.connect_timeout,
        streams_per_connection_max: invoker.http2_streams_per_connection_limit.get() as usize,
        idle_timeout: invoker.http2_idle_connection_timeout,
        keep_alive_interval: invoker.http2_keep_alive_interval,
        keep_alive_timeout: invoker.http2_keep_alive_timeout,
        headers,
        identity: identity(config)?,
        proxy: proxy(config)?,
        scopes: true,
        ..InvokerOptions::default()
    })
}

pub(crate) fn schema_defaults(config: &Config) -> Defaults {
    let retry = &config.default_retry_policy;
    let invoker = &config.worker.invoker;
    Defaults {
        inactivity_timeout: invoker.inactivity_timeout,
        abort_timeout: invoker.abort_timeout,
        idempotency_retention: config.default_idempotency_retention,
        workflow_completion_retention: config.default_workflow_completion_retention,
        journal_retention: config.default_journal_retention,
        retry: RetryPolicy {
            initial: retry.initial_interval,
            factor: retry.exponentiation_factor,
            max_interval: retry.max_interval,
            max_attempts: retry.max_attempts,
            on_max_attempts: match retry.on_max_attempts {
                abide_config::OnMaxAttempts::Pause => OnMaxAttempts::Pause,
                abide_config::OnMaxAttempts::Kill => OnMaxAttempts::Kill,
            },
        },
        max_attempts_max: config.max_retry_policy_max_attempts,
        idempotency_retention_max: config.max_idempotency_retention,
        workflow_completion_retention_max: config.max_workflow_completion_retention,
        journal_retention_max: config.max_journal_retention,
        kafka_clusters: config
            .ingress
            .kafka_clusters
            .iter()
            .map(kafka_cluster)
            .collect(),
    }
}

fn kafka_cluster(config: &KafkaClusterConfig) -> (String, KafkaCluster) {
    let mut properties = config.properties.clone();
    properties.insert("metadata.broker.list".to_owned(), config.brokers.join(","));
    let cluster = KafkaCluster {
        name: config.name.clone(),
        properties,
        created_at: Timestamp(0),
    };
    (config.name.clone(), cluster)
}

pub(crate) fn kafka(config: &Config, tracer: Tracer) -> KafkaOptions {
    let ingestion = &config.ingress.ingestion;
    KafkaOptions {
        inflight_bytes_max: ingestion.inflight_memory_budget.as_usize(),
        batch_bytes_max: ingestion.request_batch_size.as_usize(),
        tracer,
    }
}
