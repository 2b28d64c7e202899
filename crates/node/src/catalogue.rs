//! Every metric that a node exposes: its name, type, labels and meaning.
//!
//! The texts go out as `# HELP`; `docs/observability.md` shows them as a table, and tests compare both with what running
//! nodes expose. A new metric is entered here first.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and begins at 0 with every start of the node.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Quantiles 0.5, 0.9, 0.99 and 1 of the last minute, a sum and a count.
    Summary,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels, beside `cluster_name` and `node_name`, which all have.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
    /// When a node does not expose it, if ever.
    pub when: &'static str,
}

/// Gives the recorder all descriptions.
pub(crate) fn describe() {
    for Family {
        name, kind, help, ..
    } in FAMILIES.iter().copied()
    {
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Summary => describe_histogram!(name, help),
        }
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        labels,
        help,
        when: "",
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family {
        kind: Kind::Gauge,
        ..counter(name, labels, help)
    }
}

const fn summary(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        kind: Kind::Summary,
        ..counter(name, labels, help)
    }
}

impl Family {
    const fn when(self, when: &'static str) -> Self {
        Self { when, ..self }
    }
}

const INGRESS: &str = "role http-ingress";
const WORKER: &str = "role worker";
const LOG_SERVER: &str = "role log-server";
const METADATA: &str = "role metadata-server";
const KAFKA: &str = "while partitions of a subscribed topic are read here";
const SNAPSHOTS: &str = "once snapshots were taken or used here";
const TRACING: &str = "with a tracing endpoint";

/// All of them, by area.
pub const FAMILIES: &[Family] = &[
    // The node and the cluster.
    gauge("abide_build_info", &["version"], "1; the label is the version of the program."),
    gauge("abide_node_ready", &[], "1 while GET /health/ready answers 200."),
    gauge("abide_cluster_problems", &["severity"], "Problems of the cluster as `abidectl status` lists them; only the node that leads the metadata plane counts them, the others say 0."),
    gauge("restate_num_partitions", &[], "Partitions of the cluster."),
    gauge("restate_num_active_partitions", &[], "Replicas of partitions on this node."),
    gauge("restate_num_active_partition_leaders", &[], "Partitions that this node leads; the sum over all nodes is the number of partitions while all is well."),
    gauge("restate_failure_detector_nodes_total", &["state"], "Nodes as this one sees them: alive, suspect, dead."),
    gauge("restate_failure_detector_lonely", &[], "1 while there are other nodes and none of them answers."),
    // Ingress.
    counter("restate_ingress_requests_total", &["status", "rpc_service", "rpc_type"], "Requests by how far they came: admitted, then completed, invocation_error, request_error, ingress_error or rate-limited.").when(INGRESS),
    summary("restate_ingress_request_duration_seconds", &["rpc_service", "rpc_type"], "From a request's head to its answer.").when(INGRESS),
    counter("restate_ingress_http_connection_created_total", &["status"], "Connections of clients that were accepted.").when(INGRESS),
    counter("restate_ingress_http_connection_dropped_total", &["status"], "Connections of clients that ended: success, or incomplete when they broke.").when(INGRESS),
    gauge("abide_ingress_requests_in_progress", &[], "Requests that are being answered.").when(INGRESS),
    counter("restate_invocation_client_requests_total", &["partition_id", "status"], "Requests of this node to leaders of partitions: success, not-leader, no-leader, overloaded, stopped; all but the first are tried again."),
    // Invoker.
    counter("restate_invoker_invocation_tasks_total", &["partition_id", "status", "transient"], "Attempts by outcome: started, completed, suspended, failed (with transient true if there will be another).").when(WORKER),
    summary("restate_invoker_task_duration_seconds", &[], "How long attempts run."),
    gauge("restate_invoker_concurrency_limit", &["invoker_id"], "Attempts that may run at a time."),
    counter("restate_invoker_concurrency_slots_acquired", &["invoker_id"], "Attempts that took a place."),
    counter("restate_invoker_concurrency_slots_released", &["invoker_id"], "Attempts that gave their place back."),
    counter("restate_invoker_enqueue_total", &["partition_id"], "Invocations that were queued for an attempt because they began or went on.").when(WORKER),
    counter("restate_invoker_client_requests_total", &["type", "status_code"], "Requests to deployments by the status of the answer, `none` if there was none."),
    counter("restate_invoker_sent_bytes_total", &[], "Bytes of bodies sent to deployments."),
    counter("restate_invoker_received_bytes_total", &[], "Bytes of bodies received from deployments."),
    counter("abide_invoker_attempts_started_total", &[], "Attempts that were started."),
    counter("abide_invoker_attempts_failed_total", &[], "Attempts that failed for whatever reason."),
    gauge("abide_invoker_attempts_running", &[], "Attempts that run."),
    counter("abide_invoker_connections_opened_total", &["outcome"], "Connections to deployments that were tried: opened, failed."),
    gauge("abide_invoker_connections", &[], "Open HTTP/2 connections to deployments."),
    gauge("abide_invoker_streams", &[], "Streams on them."),
    // Partitions.
    gauge("restate_partition_applied_lsn_lag", &["partition"], "Committed records that this node's replica has not applied.").when(WORKER),
    gauge("abide_partition_applied_lsn", &["partition"], "Last record that the leader applied.").when(WORKER),
    gauge("abide_partition_durable_lsn_lag", &["partition"], "Applied records that a restart of this node would have to apply again.").when(WORKER),
    gauge("restate_partition_time_since_last_status_update_seconds", &["partition"], "Since the replica last said how it fares; rises when its task hangs.").when(WORKER),
    gauge("restate_partition_snapshot_age_seconds", &["partition"], "How old the newest snapshot of a partition is that this node leads; 0 where there is none.").when(WORKER),
    gauge("abide_partition_snapshot_overdue_seconds", &["partition"], "For how long a snapshot has been due of a partition that this node leads, by `snapshot-interval` and `snapshot-interval-num-records`; 0 while none is.").when(WORKER),
    counter("abide_partition_snapshots_total", &[], "Snapshots that this node has stored.").when(SNAPSHOTS),
    counter("abide_partition_snapshot_failures_total", &[], "Snapshots that were not taken, and looks at the repository that failed.").when(SNAPSHOTS),
    counter("abide_partition_snapshot_sent_bytes_total", &[], "Bytes that were sent for snapshots: those of files that were not there yet.").when(SNAPSHOTS),
    counter("abide_partition_restores_total", &[], "Partition stores that this node has filled from snapshots.").when(SNAPSHOTS),
    gauge("restate_partition_blocked_flare", &["partition", "reason"], "1 when a replica cannot go on and an operator has to look.").when(WORKER),
    counter("restate_partition_start_total", &[], "Replicas that were started here.").when(WORKER),
    counter("restate_partition_stop_total", &[], "Replicas that were stopped here.").when(WORKER),
    counter("abide_partition_takeovers_total", &["outcome"], "Takeovers of logs by this node: done, failed.").when(WORKER),
    summary("abide_partition_takeover_duration_seconds", &[], "From the grant of an epoch until the partition serves, or the takeover was given up.").when(WORKER),
    counter("abide_partition_rebuilds_total", &[], "Stores that were filled with another replica's rows.").when(WORKER),
    counter("abide_partition_invocations_completed_total", &["partition"], "Invocations that ended, by their leader.").when(WORKER),
    counter("abide_partition_commands_total", &[], "Commands in committed records of this node's leaders.").when(WORKER),
    summary("abide_partition_record_commands", &[], "Commands in one record.").when(WORKER),
    summary("abide_partition_record_bytes", &[], "Bytes of one record.").when(WORKER),
    summary("restate_partition_apply_command_duration_seconds", &[], "How long a leader takes to apply one committed record.").when(WORKER),
    summary("restate_partition_record_committed_to_read_latency_seconds", &[], "On followers: from the proposal of a record until it is read here, by the clocks of two nodes.").when(WORKER),
    counter("restate_partition_handle_leader_action_total", &["action"], "What leaders did after records were applied.").when(WORKER),
    counter("restate_partition_shuffle_message_total", &[], "Messages sent to other partitions, repetitions included.").when(WORKER),
    gauge("restate_partition_shuffle_inflight", &[], "Messages to other partitions that are sent and not acked.").when(WORKER),
    gauge("abide_outbox_messages", &[], "Messages to other partitions that are not acked, sent or not.").when(WORKER),
    gauge("abide_timers_in_memory", &[], "Timers that leaders hold in memory, the nearest ones.").when(WORKER),
    counter("abide_timers_fired_total", &[], "Timers that fired.").when(WORKER),
    gauge("abide_invocations_invoked", &[], "Invocations that run, wait for a place or back off, on this node's leaders.").when(WORKER),
    gauge("abide_invocations_backing_off", &[], "Of those, the ones whose next attempt is delayed after a failure.").when(WORKER),
    counter("restate_usage_leader_action_count_total", &["action"], "The same as restate_partition_handle_leader_action_total, as a measure of use.").when(WORKER),
    counter("restate_usage_leader_journal_entry_count_total", &["entry"], "Journal entries that handlers made, by type.").when(WORKER),
    // Queues.
    gauge("abide_queue_length", &["queue"], "Items that wait in the longest queue of that kind on this node.").when(WORKER),
    gauge("abide_queue_capacity", &["queue"], "Items that one queue of that kind takes.").when(WORKER),
    gauge("abide_queue_bytes", &["queue"], "Bytes that wait in the fullest queue of that kind on this node."),
    gauge("abide_queue_bytes_capacity", &["queue"], "Bytes that one queue of that kind takes."),
    counter("abide_queue_refused_total", &["queue"], "What found a queue full: it was told to come again."),
    // The log.
    summary("restate_bifrost_sequencer_append_duration_seconds", &[], "From the append of a record until a write quorum has it on disk and the leader knows.").when(WORKER),
    counter("restate_bifrost_sequencer_committed_records_total", &[], "Records that this node's leaders committed.").when(WORKER),
    counter("restate_bifrost_sequencer_committed_records_bytes_total", &[], "Bytes of them.").when(WORKER),
    summary("abide_log_server_commit_seconds", &[], "One group commit of the log server: a synchronous write of all that waits.").when(LOG_SERVER),
    summary("abide_log_server_commit_records", &[], "Records that share one group commit.").when(LOG_SERVER),
    counter("abide_log_server_commits_total", &[], "Group commits.").when(LOG_SERVER),
    counter("abide_log_server_commit_bytes_total", &[], "Bytes that group commits wrote.").when(LOG_SERVER),
    counter("abide_log_server_records_total", &[], "Records stored.").when(LOG_SERVER),
    counter("abide_log_server_refused_total", &["reason"], "Appends refused: disk-full, overloaded.").when(LOG_SERVER),
    counter("abide_log_server_reads_total", &["from"], "Reads by where they were answered from: memory, disk.").when(LOG_SERVER),
    counter("abide_log_server_corrupt_records_total", &[], "Reads that met a record with a wrong checksum.").when(LOG_SERVER),
    counter("abide_log_server_fences_total", &[], "Fences by new leaders.").when(LOG_SERVER),
    counter("abide_log_server_trims_total", &[], "Trims that took something away.").when(LOG_SERVER),
    counter("abide_log_server_journal_rotations_total", &[], "Times that the journal went on in another file.").when(LOG_SERVER),
    counter("abide_log_server_flushes_total", &["outcome"], "Journal files put into the database: done, failed.").when(LOG_SERVER),
    gauge("abide_log_server_disk_full", &[], "1 while appends are refused because the disk is nearly full.").when(LOG_SERVER),
    gauge("abide_log_server_disk_free_bytes", &[], "Room on the disk of the log.").when(LOG_SERVER),
    // The metadata plane.
    gauge("restate_metadata_server_replicated_leader_id", &[], "The node that leads the metadata plane; 0 if this server knows none.").when(METADATA),
    gauge("restate_metadata_server_replicated_term", &[], "Term of the metadata plane; every election raises it.").when(METADATA),
    gauge("restate_metadata_server_replicated_applied_lsn", &[], "Last entry that this server has applied.").when(METADATA),
    gauge("restate_metadata_server_replicated_committed_lsn", &[], "Last entry of this server's log.").when(METADATA),
    gauge("abide_metadata_voters", &[], "Metadata servers with a vote, as this one knows.").when(METADATA),
    counter("abide_metadata_leader_changes_total", &[], "Times that this server saw another leader of the metadata plane.").when(METADATA),
    gauge("abide_metadata_version", &[], "Version of the metadata that this node has seen."),
    // Kafka.
    counter("restate_kafka_ingress_requests_total", &["subscription", "topic", "partition"], "Records of topics that are durably accepted.").when(KAFKA),
    gauge("restate_kafka_ingress_consumer_lag", &["subscription", "topic", "partition"], "Records of the topic that are not taken yet.").when(KAFKA),
    counter("abide_kafka_ingress_repetitions_total", &["subscription", "topic", "partition"], "Accepted records that had been taken before.").when(KAFKA),
    gauge("abide_kafka_ingress_blocked", &["subscription", "topic", "partition"], "1 while a record cannot be made an invocation.").when(KAFKA),
    // Tracing.
    counter("abide_telemetry_spans_sent_total", &[], "Spans sent.").when(TRACING),
    counter("abide_telemetry_spans_dropped_total", &[], "Spans dropped because too many waited or the endpoint did not take them.").when(TRACING),
    // Memory and storage.
    gauge("restate_memory_pool_capacity_bytes", &["name"], "Bytes that a pool may use."),
    gauge("restate_memory_pool_usage_bytes", &["name"], "Bytes that a pool uses."),
    gauge("abide_partition_store_overlay_bytes", &[], "Rows that are in memory and not in RocksDB yet.").when(WORKER),
    gauge("abide_rocksdb_live_data_bytes", &["db"], "Estimate of the live data: partitions, log, metadata."),
    gauge("abide_rocksdb_sst_files_bytes", &["db"], "Size of all files."),
    gauge("abide_rocksdb_memtables_bytes", &["db"], "Memory of memtables."),
    gauge("abide_rocksdb_block_cache_bytes", &["db"], "Memory of cached blocks and filters."),
    gauge("abide_rocksdb_keys", &["db"], "Estimate of the number of keys."),
    gauge("abide_rocksdb_pending_compaction_bytes", &["db"], "Estimate of what compactions have to rewrite."),
    gauge("abide_rocksdb_running_compactions", &["db"], "Compactions that run."),
    gauge("abide_rocksdb_running_flushes", &["db"], "Flushes that run."),
    gauge("abide_rocksdb_write_stopped", &["db"], "1 while RocksDB stops writes."),
    gauge("abide_rocksdb_delayed_write_rate_bytes", &["db"], "Bytes a second to which RocksDB slows writes down; 0 while it does not."),
    gauge("abide_rocksdb_background_errors", &["db"], "Errors of flushes and compactions."),
    // The process.
    gauge("abide_process_resident_memory_bytes", &[], "Resident memory."),
    gauge("abide_process_virtual_memory_bytes", &[], "Virtual memory."),
    counter("abide_process_cpu_milliseconds_total", &[], "CPU time, user and system."),
    gauge("abide_process_threads", &[], "Threads."),
    gauge("abide_process_open_files", &[], "Open file descriptors."),
    gauge("abide_process_open_files_max", &[], "File descriptors that the process may have open."),
    gauge("abide_process_uptime_seconds", &[], "Since the start."),
    gauge("abide_tokio_workers", &[], "Worker threads of the runtime."),
    gauge("abide_tokio_tasks", &[], "Tasks that are alive."),
    gauge("abide_tokio_queue_length", &[], "Tasks that are ready and wait for any worker."),
    counter("abide_tokio_busy_milliseconds_total", &[], "Time that workers were busy, summed over them."),
    counter("abide_tokio_parks_total", &[], "Times that a worker went to sleep."),
];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_there_once_and_says_what_it_measures() {
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            assert!(family.help.ends_with('.'), "{}", family.name);
            let counts = family.kind == Kind::Counter;
            // Two names are the peer's.
            let is_peers = family
                .name
                .starts_with("restate_invoker_concurrency_slots_")
                || family.name == "restate_failure_detector_nodes_total";
            assert!(
                is_peers || counts == family.name.ends_with("_total"),
                "{}",
                family.name
            );
        }
    }

    const BEGIN: &str = "<!-- The table is made from crates/node/src/catalogue.rs: UPDATE_EXPECT=1 writes it anew. -->\n";
    const END: &str = "<!-- The end of the table. -->\n";

    fn table() -> String {
        let mut table =
            "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
        for Family {
            name,
            kind,
            labels,
            help,
            when,
        } in FAMILIES
        {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let only = match when.is_empty() {
                true => String::new(),
                false => format!(" *Only: {when}.*"),
            };
            let (labels, kind) = (labels.join(", "), kind.name());
            table.push_str(&format!(
                "| `{name}` | {kind} | {labels} | {help}{only} |\n"
            ));
        }
        table
    }

    #[test]
    fn the_page_has_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/observability.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let page = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
            std::fs::write(path, page).unwrap();
            return;
        }
        assert_eq!(
            found.trim(),
            table().trim(),
            "run this test with UPDATE_EXPECT=1"
        );
    }
}
