//! What is in the queues of invocations with a scope: `sys_vqueues`, `sys_vqueue_entry_status` and, added up by queue,
//! `sys_vqueue_meta`. An invocation without a scope is in none; keys have inboxes ([`super::objects`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_processor::scan::{ScanPage, ScanRequest};
use abide_schema::Schema;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{Status, outcome::Outcome};
use abide_types::{PartitionId, QueueId};

use crate::column::{Cell, Column, Ty, at};
use crate::lookup::{KeyShape, Lookup};
use crate::provider::{Definition, LocalTable, PAGE_BYTES, PAGE_ROWS, PartitionTable};
use crate::source::Sources;
use crate::tables::Tables;
use crate::tables::invocations::{self, Row, partition_key, pinned};

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let lookup = |id, queue| Lookup {
        table: Table::Invocation,
        shape: KeyShape::Id {
            id,
            object_key: None,
            queue: Some(queue),
        },
        service: None,
        status: None,
        scoped: true,
    };
    let definition = Definition {
        lookup: lookup("entry_id", "id"),
        columns: entries(),
        read,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_vqueues", Arc::new(table));
    let definition = Definition {
        lookup: lookup("entry_id", "vqueue_id"),
        columns: entry_status(),
        read,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_vqueue_entry_status", Arc::new(table));
    let rows = Box::new(|sources| Box::pin(queues(sources)) as _);
    let table = LocalTable::new(meta_columns(), rows, sources.clone());
    tables.insert("sys_vqueue_meta", Arc::new(table));
}

fn read(page: ScanPage, schema: &Arc<Schema>) -> Result<Vec<Row>, String> {
    let mut rows = invocations::read(page, schema)?;
    rows.retain(|row| row.invocation.flow.is_some());
    Ok(rows)
}

fn is_running(row: &Row) -> bool {
    (row.started()).is_some_and(|attempt| attempt.in_flight)
}

fn stage(row: &Row) -> &'static str {
    match row.invocation.status() {
        Status::Invoked if is_running(row) => "running",
        Status::Invoked | Status::Scheduled | Status::Inboxed => "inbox",
        Status::Suspended => "suspended",
        Status::Paused => "paused",
        Status::Completed => "finished",
    }
}

fn status(row: &Row) -> &'static str {
    match (row.invocation.status(), row.completed()) {
        (Status::Completed, Some(Outcome::Success(_))) => "succeeded",
        (Status::Completed, Some(Outcome::Failure(failure))) => {
            match (failure.code, failure.message.as_str()) {
                (409, "killed") => "killed",
                (409, "canceled") => "cancelled",
                _ => "failed",
            }
        }
        (Status::Completed, None) => "unknown",
        (Status::Scheduled, _) => "scheduled",
        _ if next_retry(row).is_some() => "backing-off",
        _ if row.began_at() > 0 => "started",
        _ => "new",
    }
}

fn next_retry(row: &Row) -> Option<u64> {
    let attempt = row.started().filter(|attempt| !attempt.in_flight)?;
    attempt.next_retry_at.map(|at| at.0)
}

/// When it may run, of what waits.
fn run_at(row: &Row) -> u64 {
    match (next_retry(row), row.invocation.execute_at) {
        (Some(at), _) => at,
        (None, 0) => row.invocation.created_at,
        (None, at) => at,
    }
}

/// As its leader has counted; of what is at rest no more is known than whether it was ever attempted.
fn attempts(row: &Row) -> u64 {
    match row.started() {
        Some(attempt) => attempt.started,
        None => u64::from(row.began_at() > 0),
    }
}

fn latest_attempt(row: &Row) -> u64 {
    let live = (row.started()).and_then(|attempt| attempt.last_start_at);
    live.map_or(row.began_at(), |at| at.0)
}

fn queue(name: &'static str) -> Column<Row> {
    Column::new(name, Ty::Text, |row| {
        row.queue().map(|queue| queue.to_string()).into()
    })
}

fn entry_id() -> Column<Row> {
    Column::new("entry_id", Ty::Text, |row| row.id.to_string().into())
}

fn place() -> [Column<Row>; 3] {
    [
        Column::live("stage", Ty::Text, |row| stage(row).into()),
        Column::live("status", Ty::Text, |row| status(row).into()),
        // Objects have no scope, and a workflow has its key for itself.
        Column::new("has_lock", Ty::Bool, |_| false.into()),
    ]
}

fn sequence_number() -> Column<Row> {
    Column::new("sequence_number", Ty::U64, |row| {
        row.invocation.incarnation.into()
    })
}

fn entry_kind() -> Column<Row> {
    // Changes of state have no scope.
    Column::new("entry_kind", Ty::Text, |_| "invocation".into())
}

/// From `created_at` to `deployment`.
fn history() -> Vec<Column<Row>> {
    vec![
        Column::new("created_at", Ty::Time, |row| {
            row.invocation.created_at.into()
        }),
        Column::new("transitioned_at", Ty::Time, |row| {
            row.invocation.modified_at.into()
        }),
        Column::live("num_attempts", Ty::U32, |row| attempts(row).into()),
        // Not counted.
        Column::null("num_errors", Ty::U32),
        Column::null("num_pauses", Ty::U32),
        Column::null("num_suspensions", Ty::U32),
        Column::null("num_yields", Ty::U32),
        Column::live("first_attempt_at", Ty::Time, |row| at(row.began_at())),
        Column::live("latest_attempt_at", Ty::Time, |row| at(latest_attempt(row))),
        Column::new("first_runnable_at", Ty::Time, |row| {
            match row.invocation.execute_at {
                0 => row.invocation.created_at.into(),
                at => at.into(),
            }
        }),
        Column::live("deployment", Ty::Text, |row| {
            let last = || row.last_deployment().map(|id| id.to_string());
            pinned(row).or_else(last).into()
        }),
    ]
}

fn entries() -> Vec<Column<Row>> {
    let mut columns = vec![partition_key(), queue("id")];
    columns.extend(place());
    columns.extend([
        Column::live("run_at", Ty::Time, |row| match stage(row) {
            "inbox" => run_at(row).into(),
            _ => Cell::Null,
        }),
        sequence_number(),
        entry_id(),
        entry_kind(),
    ]);
    columns.extend(history());
    columns
}

fn entry_status() -> Vec<Column<Row>> {
    let mut columns = vec![partition_key(), entry_id(), queue("vqueue_id")];
    columns.extend(place());
    columns.extend([
        Column::live("next_at", Ty::Time, |row| run_at(row).into()),
        sequence_number(),
        entry_kind(),
    ]);
    columns.extend(history());
    columns.extend([
        Column::null("needed_memory", Ty::U64),
        Column::live("retry_attempts", Ty::U32, |row: &Row| {
            row.started()
                .map_or(0, |attempt| attempt.started.saturating_sub(1))
                .into()
        }),
        Column::null("retry_count_since_last_stored_command", Ty::U32),
    ]);
    // How long it was blocked is known of a queue's head only: `sys_scheduler` says it.
    columns.extend(BLOCKED.map(|name| Column::null(name, Ty::Duration)));
    columns
}

const BLOCKED: [&str; 14] = [
    "latest_attempt_blocked_on_invoker_concurrency",
    "latest_attempt_blocked_on_throttling_rules",
    "latest_attempt_blocked_on_invoker_throttling",
    "latest_attempt_blocked_on_invoker_memory",
    "latest_attempt_blocked_on_concurrency_rules",
    "latest_attempt_blocked_on_lock",
    "latest_attempt_blocked_on_deployment_concurrency",
    "total_blocked_on_invoker_concurrency",
    "total_blocked_on_throttling_rules",
    "total_blocked_on_invoker_throttling",
    "total_blocked_on_invoker_memory",
    "total_blocked_on_concurrency_rules",
    "total_blocked_on_lock",
    "total_blocked_on_deployment_concurrency",
];

/// One queue, added up from what is in it.
struct Queue {
    id: QueueId,
    paused: bool,
    service: Option<String>,
    scope: Option<String>,
    limit_key: Option<String>,
    created_at: u64,
    last_enqueued_at: u64,
    last_start_at: u64,
    last_attempt_at: u64,
    last_finish_at: u64,
    inbox: u64,
    running: u64,
    suspended: u64,
    resting: u64,
    finished: u64,
}

impl Queue {
    fn new(id: QueueId) -> Self {
        Self {
            id,
            paused: false,
            service: None,
            scope: None,
            limit_key: None,
            created_at: 0,
            last_enqueued_at: 0,
            last_start_at: 0,
            last_attempt_at: 0,
            last_finish_at: 0,
            inbox: 0,
            running: 0,
            suspended: 0,
            resting: 0,
            finished: 0,
        }
    }

    fn add(&mut self, row: &Row) {
        let invocation = &row.invocation;
        if self.service.is_none() {
            let flow = invocation.flow.as_deref();
            self.service = Some(row.target.service.clone());
            self.scope = flow.map(|flow| flow.scope.clone());
            self.limit_key = flow.and_then(|flow| flow.limit_key.clone());
            self.created_at = invocation.created_at;
        }
        self.created_at = self.created_at.min(invocation.created_at);
        self.last_enqueued_at = self.last_enqueued_at.max(invocation.created_at);
        self.last_start_at = self.last_start_at.max(row.began_at());
        self.last_attempt_at = self.last_attempt_at.max(latest_attempt(row));
        self.last_finish_at = self.last_finish_at.max(invocation.completed_at);
        let count = match stage(row) {
            "running" => &mut self.running,
            "suspended" => &mut self.suspended,
            "paused" => &mut self.resting,
            "finished" => &mut self.finished,
            _ => &mut self.inbox,
        };
        *count += 1;
    }

    fn is_active(&self) -> bool {
        self.inbox + self.running + self.suspended + self.resting > 0
    }
}

/// The queues of all invocations with a scope, and those that are paused and empty.
async fn queues(sources: Sources) -> Result<Vec<Queue>, String> {
    let registry = sources.schema();
    let mut queues = BTreeMap::new();
    for partition in (0..sources.partitions.count()).map(PartitionId) {
        let all = keys::table_start(Table::Invocation)..keys::table_end(Table::Invocation);
        let mut request = ScanRequest {
            ranges: vec![all],
            attempts: true,
            scoped: true,
            rows_max: PAGE_ROWS,
            bytes_max: PAGE_BYTES,
            ..ScanRequest::default()
        };
        while !request.ranges.is_empty() {
            let page = sources.partitions.scan(partition, request.clone()).await;
            let page = page.map_err(|error| error.to_string())?;
            match &page.next {
                Some(next) => request.go_on(next),
                None => request.ranges.clear(),
            }
            for row in read(page, &registry)? {
                if let Some(id) = row.queue() {
                    queues.entry(id).or_insert_with(|| Queue::new(id)).add(&row);
                }
            }
        }
    }
    for state in sources.flow_control.queues().await? {
        for id in state.paused {
            queues.entry(id).or_insert_with(|| Queue::new(id)).paused = true;
        }
    }
    Ok(queues.into_values().collect())
}

fn meta_columns() -> Vec<Column<Queue>> {
    let mut columns = vec![
        Column::new("partition_key", Ty::U64, |row: &Queue| {
            row.id.partition_key.0.into()
        }),
        Column::new("id", Ty::Text, |row| row.id.to_string().into()),
        Column::new("is_active", Ty::Bool, |row| row.is_active().into()),
        Column::new("queue_is_paused", Ty::Bool, |row| row.paused.into()),
        Column::new("service_name", Ty::Text, |row| row.service.as_ref().into()),
        Column::new("scope", Ty::Text, |row| row.scope.as_ref().into()),
        Column::new("limit_key", Ty::Text, |row| row.limit_key.as_ref().into()),
        Column::null("lock_name", Ty::Text),
        Column::new("created_at", Ty::Time, |row| at(row.created_at)),
        Column::new("last_enqueued_at", Ty::Time, |row| at(row.last_enqueued_at)),
        Column::new("last_start_at", Ty::Time, |row| at(row.last_start_at)),
        Column::new("last_attempt_at", Ty::Time, |row| at(row.last_attempt_at)),
        Column::new("last_finish_at", Ty::Time, |row| at(row.last_finish_at)),
    ];
    columns.extend(AVERAGES.map(|name| Column::null(name, Ty::Duration)));
    columns.extend([
        Column::new("num_inbox", Ty::U64, |row: &Queue| row.inbox.into()),
        Column::new("num_running", Ty::U64, |row| row.running.into()),
        Column::new("num_suspended", Ty::U64, |row| row.suspended.into()),
        Column::new("num_paused", Ty::U64, |row| row.resting.into()),
        Column::new("num_finished", Ty::U64, |row| row.finished.into()),
    ]);
    columns
}

/// Nothing keeps these.
const AVERAGES: [&str; 9] = [
    "avg_queue_duration",
    "avg_inbox_duration",
    "avg_run_duration",
    "avg_suspension_duration",
    "avg_end_to_end_duration",
    "avg_blocked_on_concurrency_rules",
    "avg_blocked_on_invoker_concurrency",
    "avg_blocked_on_invoker_throttling",
    "avg_blocked_on_lock",
];
