//! Prometheus metrics: the recorder, and the gauges that are taken when somebody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use abide_admin::MetricsText;
use abide_config::Config;
use abide_metadata::MetadataServer;
use abide_processor::{PartitionLoad, PartitionRole, PartitionStatus};
use abide_rpc::proto::cluster::NodeStatus;
use abide_types::PartitionId;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::facts::{Facts, Member};
use crate::process::Process;
use crate::ready;
use crate::{catalogue, describe};

/// What summaries show.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Takes in from now on what is counted. A process has one recorder: that of its first node.
pub(crate) fn install(config: &Config) -> Result<PrometheusHandle, BuildError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .add_global_label("cluster_name", &config.cluster_name)
        .add_global_label("node_name", &config.node_name)
        .set_quantiles(&QUANTILES)?
        .install_recorder()?;
    catalogue::describe();
    gauge!("abide_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for severity in crate::problems::Severity::ALL {
        gauge!("abide_cluster_problems", "severity" => severity.name()).set(0.0);
    }
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// Writes all metrics, gauges brought up to date.
pub(crate) fn text(facts: &Arc<Facts>, prometheus: &PrometheusHandle) -> MetricsText {
    let (facts, prometheus) = (Arc::downgrade(facts), prometheus.clone());
    let seen = Mutex::default();
    Arc::new(move || {
        if let Some(facts) = facts.upgrade() {
            refresh(&facts, &seen);
        }
        prometheus.render()
    })
}

/// Condenses what was measured also when nobody asks: samples would pile up.
pub(crate) async fn upkeep(prometheus: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => prometheus.run_upkeep(),
        }
    }
}

/// How often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Counts how often another node came to lead the metadata plane, until the node stops.
pub(crate) async fn count_leaders(server: MetadataServer, stop: CancellationToken) {
    let changes = counter!("abide_metadata_leader_changes_total");
    let mut leaders = server.leader();
    let mut last = *leaders.borrow_and_update();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leaders.changed() => if changed.is_err() {
                return;
            },
        }
        let leader = *leaders.borrow_and_update();
        if leader.is_some() && leader != last {
            changes.increment(1);
            last = leader;
        }
    }
}

/// Replicas that had gauges of their own at the last look.
type Seen = Mutex<BTreeSet<PartitionId>>;

fn refresh(facts: &Facts, seen: &Seen) {
    process(facts);
    runtime();
    let unready = ready::why_not(facts);
    gauge!("abide_node_ready").set(yes(unready.is_none()));
    if let Some(server) = facts.server.get() {
        database("metadata", |name| server.property(name));
    }
    let Some(member) = facts.member.get() else {
        return;
    };
    let status = describe::node(facts);
    cluster(member, &status);
    partitions(member, &status, seen);
    queues(member);
    storage(member);
    metadata(member, &status);
}

fn cluster(member: &Member, status: &NodeStatus) {
    let view = member.metadata.view();
    let partitions = view
        .cluster
        .as_ref()
        .map_or(0, |cluster| cluster.partitions);
    let led = (status.replicas.iter())
        .filter(|replica| replica.role == "leader" && replica.state == "active");
    gauge!("restate_num_partitions").set(f64::from(partitions));
    gauge!("restate_num_active_partitions").set(count(status.replicas.len()));
    gauge!("restate_num_active_partition_leaders").set(count(led.count()));
    let mut nodes = BTreeMap::from([("alive", 0), ("suspect", 0), ("dead", 0)]);
    let own = member.joined.node;
    let health = Arc::clone(&member.controller.health().borrow());
    for health in health.values() {
        *nodes.entry(health.name()).or_default() += 1;
    }
    for (state, nodes) in nodes {
        gauge!("restate_failure_detector_nodes_total", "state" => state).set(count(nodes));
    }
    let mut others = health.iter().filter(|(node, _)| **node != own).peekable();
    let lonely = others.peek().is_some() && others.all(|(_, health)| !health.answers());
    gauge!("restate_failure_detector_lonely").set(yes(lonely));
    gauge!("abide_metadata_version").set(number(view.version));
}

fn partitions(member: &Member, status: &NodeStatus, seen: &Seen) {
    let Some(processors) = member.processors.get() else {
        return;
    };
    let statuses = processors.statuses();
    for replica in &status.replicas {
        let lag = replica.tail.saturating_sub(replica.applied + 1);
        let undurable = replica.applied.saturating_sub(replica.durable);
        lags(replica.partition, lag, undurable);
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for gone in seen.iter().filter(|gone| !statuses.contains_key(gone)) {
        lags(gone.0.into(), 0, 0);
        silent(*gone, Duration::ZERO);
    }
    *seen = statuses.keys().copied().collect();
    for (partition, status) in &statuses {
        // Followers report every time they read, leaders with every round; a stopped one has nothing more to say.
        let stopped = status.role == PartitionRole::Stopped;
        let since = if stopped {
            Duration::ZERO
        } else {
            status.said_at.elapsed()
        };
        silent(*partition, since);
    }
    let sum = |of: fn(&PartitionStatus) -> usize| count(statuses.values().map(of).sum());
    gauge!("abide_invocations_invoked").set(sum(|status| status.invoked));
    gauge!("abide_invocations_backing_off").set(sum(|status| status.load.backing_off));
    gauge!("abide_timers_in_memory").set(sum(|status| status.load.timers));
    gauge!("abide_outbox_messages").set(sum(|status| status.load.outbox));
    gauge!("restate_partition_shuffle_inflight").set(sum(|status| status.load.outbox_sent));
    let most = |of: fn(&PartitionLoad) -> usize| {
        let lengths = statuses.values().map(|status| of(&status.load));
        count(lengths.max().unwrap_or(0))
    };
    let queue = |queue: &'static str, length: f64, capacity: usize| {
        gauge!("abide_queue_length", "queue" => queue).set(length);
        gauge!("abide_queue_capacity", "queue" => queue).set(count(capacity));
    };
    queue(
        "partition-events",
        most(|load| load.events),
        PartitionLoad::EVENTS_MAX,
    );
    queue(
        "partition-effects",
        most(|load| load.effects),
        PartitionLoad::EFFECTS_MAX,
    );
    queue(
        "partition-proposals",
        most(|load| load.proposals),
        PartitionLoad::PROPOSALS_MAX,
    );
    queue(
        "partition-records",
        most(|load| load.records),
        PartitionLoad::RECORDS_MAX,
    );
    queue_bytes(
        "partition-proposals",
        most(|load| load.proposals_bytes),
        PartitionLoad::PROPOSALS_BYTES_MAX,
    );
}

fn lags(partition: u32, lag: u64, undurable: u64) {
    let partition = partition.to_string();
    gauge!("restate_partition_applied_lsn_lag", "partition" => partition.clone()).set(number(lag));
    gauge!("abide_partition_durable_lsn_lag", "partition" => partition).set(number(undurable));
}

fn silent(partition: PartitionId, since: Duration) {
    gauge!("restate_partition_time_since_last_status_update_seconds", "partition" => partition.to_string())
        .set(since.as_secs_f64());
}

fn queue_bytes(queue: &'static str, length: f64, capacity: usize) {
    gauge!("abide_queue_bytes", "queue" => queue).set(length);
    gauge!("abide_queue_bytes_capacity", "queue" => queue).set(count(capacity));
}

fn queues(member: &Member) {
    let (queued, most) = member.fabric.queues();
    let fullest = queued.values().copied().max().unwrap_or(0);
    queue_bytes("fabric", count(fullest), most);
    if let Some(server) = &member.log_server {
        let (waiting, most) = server.queue_bytes();
        queue_bytes("log-writer", count(waiting), most);
    }
    let Some(invoker) = member.invoker.get() else {
        return;
    };
    let load = invoker.load();
    gauge!("abide_invoker_connections").set(count(load.connections));
    gauge!("abide_invoker_streams").set(count(load.streams));
    pool(
        "invoker",
        load.memory_bytes_used as u64,
        load.memory_bytes as u64,
    );
    queue_bytes(
        "invoker-memory",
        count(load.memory_bytes_used),
        load.memory_bytes,
    );
}

fn pool(name: &'static str, used: u64, capacity: u64) {
    gauge!("restate_memory_pool_usage_bytes", "name" => name).set(number(used));
    gauge!("restate_memory_pool_capacity_bytes", "name" => name).set(number(capacity));
}

fn storage(member: &Member) {
    if let Some(server) = &member.log_server {
        gauge!("abide_log_server_disk_full").set(yes(server.status().is_full));
        if let Some(free) = server.free_bytes() {
            gauge!("abide_log_server_disk_free_bytes").set(number(free));
        }
        database("log", |name| server.property(name));
    }
    let stores = member.stores.as_ref().and_then(std::sync::Weak::upgrade);
    let Some(stores) = stores else {
        return;
    };
    gauge!("abide_partition_store_overlay_bytes").set(count(stores.overlay_bytes()));
    // What the families share is asked of the database, or it would be counted once for each.
    database("partitions", |name| match name {
        BLOCK_CACHE => stores.database_property(name),
        _ => Some(stores.property(name).unwrap_or(0)),
    });
    let shared = |name| stores.database_property(name).unwrap_or(0);
    pool(
        "partition-store-cache",
        shared(BLOCK_CACHE),
        shared("rocksdb.block-cache-capacity"),
    );
}

const BLOCK_CACHE: &str = "rocksdb.block-cache-usage";

/// Our names of what RocksDB knows under its own.
const PROPERTIES: [(&str, &str); 11] = [
    (
        "abide_rocksdb_live_data_bytes",
        "rocksdb.estimate-live-data-size",
    ),
    (
        "abide_rocksdb_sst_files_bytes",
        "rocksdb.total-sst-files-size",
    ),
    (
        "abide_rocksdb_memtables_bytes",
        "rocksdb.size-all-mem-tables",
    ),
    ("abide_rocksdb_block_cache_bytes", BLOCK_CACHE),
    ("abide_rocksdb_keys", "rocksdb.estimate-num-keys"),
    (
        "abide_rocksdb_pending_compaction_bytes",
        "rocksdb.estimate-pending-compaction-bytes",
    ),
    (
        "abide_rocksdb_running_compactions",
        "rocksdb.num-running-compactions",
    ),
    (
        "abide_rocksdb_running_flushes",
        "rocksdb.num-running-flushes",
    ),
    ("abide_rocksdb_write_stopped", "rocksdb.is-write-stopped"),
    (
        "abide_rocksdb_delayed_write_rate_bytes",
        "rocksdb.actual-delayed-write-rate",
    ),
    (
        "abide_rocksdb_background_errors",
        "rocksdb.background-errors",
    ),
];

fn database(db: &'static str, property: impl Fn(&str) -> Option<u64>) {
    for (name, of) in PROPERTIES {
        if let Some(value) = property(of) {
            gauge!(name, "db" => db).set(number(value));
        }
    }
}

fn metadata(member: &Member, status: &NodeStatus) {
    let Some(server) = &status.metadata_server else {
        return;
    };
    let leader = match server.state.as_str() {
        // What it says of itself may be ahead of what it has heard.
        "leader" => member.joined.node.0,
        _ => server.leader,
    };
    gauge!("restate_metadata_server_replicated_leader_id").set(f64::from(leader));
    gauge!("restate_metadata_server_replicated_term").set(number(server.term));
    gauge!("restate_metadata_server_replicated_applied_lsn").set(number(server.applied));
    gauge!("restate_metadata_server_replicated_committed_lsn").set(number(server.last_log));
    gauge!("abide_metadata_voters").set(count(server.voters.len()));
}

fn process(facts: &Facts) {
    gauge!("abide_process_uptime_seconds").set(facts.started.elapsed().as_secs_f64());
    let Some(process) = Process::look() else {
        return;
    };
    gauge!("abide_process_resident_memory_bytes").set(number(process.resident_bytes));
    gauge!("abide_process_virtual_memory_bytes").set(number(process.virtual_bytes));
    counter!("abide_process_cpu_milliseconds_total").absolute(process.cpu_ms);
    gauge!("abide_process_threads").set(number(process.threads));
    gauge!("abide_process_open_files").set(number(process.open_files));
    gauge!("abide_process_open_files_max").set(number(process.open_files_max));
}

fn runtime() {
    let Ok(handle) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let runtime = handle.metrics();
    let workers = runtime.num_workers();
    gauge!("abide_tokio_workers").set(count(workers));
    gauge!("abide_tokio_tasks").set(count(runtime.num_alive_tasks()));
    gauge!("abide_tokio_queue_length").set(count(runtime.global_queue_depth()));
    let busy: Duration = (0..workers)
        .map(|worker| runtime.worker_total_busy_duration(worker))
        .sum();
    let parks = (0..workers)
        .map(|worker| runtime.worker_park_count(worker))
        .sum();
    let busy = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
    counter!("abide_tokio_busy_milliseconds_total").absolute(busy);
    counter!("abide_tokio_parks_total").absolute(parks);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; positions stay below 2^53"
)]
fn number(value: u64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    number(value as u64)
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}
