//! What partitions count. Handles are made once, so that an event costs an atomic addition and no lookup by label.
//!
//! What a scrape can read off a partition's status (lag, queues) is not here: the node sets those gauges when
//! somebody looks.

use std::time::{Duration, SystemTime};

use abide_invoker::api::{Effect, Effects};
use abide_service_protocol::MessageType;
use abide_state_machine::Action;
use abide_types::{Lsn, PartitionId, Timestamp};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

const TASKS: &str = "restate_invoker_invocation_tasks_total";
const REQUESTS: &str = "restate_invocation_client_requests_total";
const FLARE: &str = "restate_partition_blocked_flare";

/// Handles of a node and of each of its partitions.
pub(crate) struct Metrics {
    partitions: Vec<PartitionMetrics>,
    append: Histogram,
    apply: Histogram,
    read_latency: Histogram,
    record_commands: Histogram,
    record_bytes: Histogram,
    records: Counter,
    bytes: Counter,
    commands: Counter,
    starts: Counter,
    stops: Counter,
    takeovers: Counter,
    takeovers_failed: Counter,
    takeover: Histogram,
    timers_fired: Counter,
    outbox_sent: Counter,
    rebuilds: Counter,
    actions: [(Counter, Counter); ACTIONS.len()],
    /// By type code from [`MessageType::Input`] on.
    entries: Vec<Option<Counter>>,
}

struct PartitionMetrics {
    applied: Gauge,
    completed: Counter,
    stopped: Gauge,
    snapshot_age: Gauge,
    snapshot_overdue: Gauge,
    enqueued: Counter,
    started: Counter,
    ended: Counter,
    suspended: Counter,
    failed: Counter,
    failed_transiently: Counter,
}

/// The names of [`Action`]s, at the places that [`place_of`] tells.
const ACTIONS: [&str; 12] = [
    "invocation-created",
    "invoke",
    "pause-queue",
    "notify",
    "ack-command",
    "stop-attempt",
    "retry-now",
    "invocation-completed",
    "arm-timer",
    "disarm-timer",
    "send",
    "ack-delivery",
];

fn place_of(action: &Action) -> usize {
    match action {
        Action::Created { .. } => 0,
        Action::Start { .. } => 1,
        Action::PauseQueue { .. } => 2,
        Action::Notify { .. } => 3,
        Action::CommandAck { .. } => 4,
        Action::Stop { .. } => 5,
        Action::RetryNow { .. } => 6,
        Action::Completed { .. } => 7,
        Action::ArmTimer { .. } => 8,
        Action::DisarmTimer { .. } => 9,
        Action::Send { .. } => 10,
        Action::AckDelivery { .. } => 11,
    }
}

/// A record that a leader has appended.
pub(crate) struct Appended {
    pub(crate) commands: usize,
    pub(crate) bytes: usize,
}

impl Metrics {
    pub(crate) fn new(partitions: u16) -> Self {
        let entry = |code: u16| {
            let name = MessageType::from_code(code)?.name();
            Some(counter!("restate_usage_leader_journal_entry_count_total", "entry" => name))
        };
        let first = MessageType::Input.code();
        let last = MessageType::ALL
            .iter()
            .map(|ty| ty.code())
            .filter(|code| *code < first + ENTRIES_MAX)
            .max();
        Self {
            partitions: (0..partitions).map(PartitionMetrics::new).collect(),
            append: histogram!("restate_bifrost_sequencer_append_duration_seconds"),
            apply: histogram!("restate_partition_apply_command_duration_seconds"),
            read_latency: histogram!("restate_partition_record_committed_to_read_latency_seconds"),
            record_commands: histogram!("abide_partition_record_commands"),
            record_bytes: histogram!("abide_partition_record_bytes"),
            records: counter!("restate_bifrost_sequencer_committed_records_total"),
            bytes: counter!("restate_bifrost_sequencer_committed_records_bytes_total"),
            commands: counter!("abide_partition_commands_total"),
            starts: counter!("restate_partition_start_total"),
            stops: counter!("restate_partition_stop_total"),
            takeovers: counter!("abide_partition_takeovers_total", "outcome" => "done"),
            takeovers_failed: counter!("abide_partition_takeovers_total", "outcome" => "failed"),
            takeover: histogram!("abide_partition_takeover_duration_seconds"),
            timers_fired: counter!("abide_timers_fired_total"),
            outbox_sent: counter!("restate_partition_shuffle_message_total"),
            rebuilds: counter!("abide_partition_rebuilds_total"),
            actions: ACTIONS.map(|action| {
                (
                    counter!("restate_partition_handle_leader_action_total", "action" => action),
                    counter!("restate_usage_leader_action_count_total", "action" => action),
                )
            }),
            entries: (first..=last.unwrap_or(first)).map(entry).collect(),
        }
    }

    fn of(&self, partition: PartitionId) -> Option<&PartitionMetrics> {
        self.partitions.get(usize::from(partition.0))
    }

    pub(crate) fn applied(&self, partition: PartitionId, lsn: Lsn) {
        if let Some(metrics) = self.of(partition) {
            metrics.applied.set(lsn.0 as f64);
        }
    }

    /// Of the newest snapshot, as its leader has it.
    pub(crate) fn snapshot_age(&self, partition: PartitionId, age: Duration) {
        if let Some(metrics) = self.of(partition) {
            metrics.snapshot_age.set(age.as_secs_f64());
        }
    }

    /// For how long a snapshot has been due, as the leader has it.
    pub(crate) fn snapshot_overdue(&self, partition: PartitionId, overdue: Duration) {
        if let Some(metrics) = self.of(partition) {
            metrics.snapshot_overdue.set(overdue.as_secs_f64());
        }
    }

    /// A record of this leader is committed; `took` is from its append on.
    pub(crate) fn committed(&self, took: Duration, record: &Appended) {
        self.append.record(took);
        self.records.increment(1);
        self.bytes.increment(record.bytes as u64);
        self.commands.increment(record.commands as u64);
        self.record_commands.record(record.commands as f64);
        self.record_bytes.record(record.bytes as f64);
    }

    /// One record took so long to be applied.
    pub(crate) fn took_to_apply(&self, took: Duration) {
        self.apply.record(took);
    }

    /// A follower reads a record that was proposed at `at`.
    pub(crate) fn read(&self, at: Timestamp) {
        let now = Timestamp::from_system(SystemTime::now());
        self.read_latency.record(now.since(at));
    }

    /// The leader acts on what was applied.
    pub(crate) fn acts(&self, partition: PartitionId, action: &Action) {
        let (handled, used) = &self.actions[place_of(action)];
        handled.increment(1);
        used.increment(1);
        if let Some(metrics) = self.of(partition) {
            match action {
                Action::Start { .. } => metrics.enqueued.increment(1),
                Action::Completed { .. } => metrics.completed.increment(1),
                _ => {}
            }
        }
    }

    /// An attempt was started.
    pub(crate) fn attempt_started(&self, partition: PartitionId) {
        if let Some(metrics) = self.of(partition) {
            metrics.started.increment(1);
        }
    }

    /// What a running attempt has done.
    pub(crate) fn attempt_did(&self, partition: PartitionId, effects: &Effects) {
        let Some(metrics) = self.of(partition) else {
            return;
        };
        for effect in &effects.effects {
            match effect {
                Effect::Command { entry, .. } => self.entry(entry.ty),
                Effect::End => metrics.ended.increment(1),
                Effect::Suspended { .. } => metrics.suspended.increment(1),
                Effect::Failed(failure) => {
                    let ends = matches!(failure.retry, abide_invoker::api::Retry::Fail);
                    match ends {
                        true => metrics.failed.increment(1),
                        false => metrics.failed_transiently.increment(1),
                    }
                }
                Effect::RunProposal { .. } | Effect::Pinned(_) => {}
            }
        }
    }

    fn entry(&self, code: u16) {
        let place = code.checked_sub(MessageType::Input.code()).map(usize::from);
        if let Some(Some(counter)) = place.and_then(|place| self.entries.get(place)) {
            counter.increment(1);
        }
    }

    pub(crate) fn stopped(&self, partition: PartitionId) {
        if let Some(metrics) = self.of(partition) {
            metrics.stopped.set(1.0);
        }
    }

    /// The partition's task is there.
    pub(crate) fn placed(&self) {
        self.starts.increment(1);
    }

    /// The partition's task is gone: whatever held it up does so elsewhere.
    pub(crate) fn removed(&self, partition: PartitionId) {
        self.stops.increment(1);
        if let Some(metrics) = self.of(partition) {
            metrics.stopped.set(0.0);
        }
    }

    /// The log was taken over, or not.
    pub(crate) fn took_over(&self, took: Duration, done: bool) {
        match done {
            true => self.takeovers.increment(1),
            false => self.takeovers_failed.increment(1),
        }
        self.takeover.record(took);
    }

    pub(crate) fn timer_fired(&self) {
        self.timers_fired.increment(1);
    }

    pub(crate) fn outbox_sent(&self, messages: usize) {
        self.outbox_sent.increment(messages as u64);
    }

    /// The store was filled with another replica's rows.
    pub(crate) fn rebuilt(&self) {
        self.rebuilds.increment(1);
    }
}

/// Journal entries have codes below this many from the first on; custom ones begin higher and are not counted.
const ENTRIES_MAX: u16 = 0x100;

impl PartitionMetrics {
    fn new(partition: u16) -> Self {
        let partition = partition.to_string();
        let tasks = |status: &'static str| counter!(TASKS, "partition_id" => partition.clone(), "status" => status);
        let failed = |transient: &'static str| counter!(TASKS, "partition_id" => partition.clone(), "status" => "failed", "transient" => transient);
        Self {
            applied: gauge!("abide_partition_applied_lsn", "partition" => partition.clone()),
            completed: counter!("abide_partition_invocations_completed_total", "partition" => partition.clone()),
            stopped: gauge!(FLARE, "partition" => partition.clone(), "reason" => "stopped"),
            snapshot_age: gauge!("restate_partition_snapshot_age_seconds", "partition" => partition.clone()),
            snapshot_overdue: gauge!("abide_partition_snapshot_overdue_seconds", "partition" => partition.clone()),
            enqueued: counter!("restate_invoker_enqueue_total", "partition_id" => partition.clone()),
            started: tasks("started"),
            ended: tasks("completed"),
            suspended: tasks("suspended"),
            failed: failed("false"),
            failed_transiently: failed("true"),
        }
    }
}

/// How requests of this node to the leaders of partitions end.
pub(crate) struct RouteMetrics {
    partitions: Vec<[Counter; ROUTED.len()]>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routed {
    Answered,
    NotLeader,
    Overloaded,
    Stopped,
    NoLeader,
}

const ROUTED: [&str; 5] = [
    "success",
    "not-leader",
    "overloaded",
    "stopped",
    "no-leader",
];

impl RouteMetrics {
    pub(crate) fn new(partitions: u16) -> Self {
        let of = |partition: u16| {
            let partition = partition.to_string();
            ROUTED.map(|status| counter!(REQUESTS, "partition_id" => partition.clone(), "status" => status))
        };
        Self {
            partitions: (0..partitions).map(of).collect(),
        }
    }

    pub(crate) fn ended(&self, partition: PartitionId, how: Routed) {
        if let Some(counters) = self.partitions.get(usize::from(partition.0)) {
            counters[how as usize].increment(1);
        }
    }
}
