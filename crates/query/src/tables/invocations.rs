//! `sys_invocation`, `sys_invocation_status`, `sys_invocation_state`: the same rows, seen differently.

use std::sync::Arc;
use std::time::SystemTime;

use abide_processor::scan::{AttemptInfo, ScanPage};
use abide_schema::Schema;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{self as state, Status, outcome::Outcome};
use abide_types::{
    DeploymentId, Flow, InvocationId, QueueId, ServiceKind, SubscriptionId, Timestamp,
};
use bytes::Bytes;
use prost::Message as _;

use crate::column::{Cell, Column, Ty, at};
use crate::json::{Waits, command_type};
use crate::lookup::{KeyShape, Lookup};
use crate::provider::{Definition, PartitionTable};
use crate::source::Sources;
use crate::tables::{Tables, damaged};

/// The version whose interface is spoken; see `/version`.
const INTERFACE_VERSION: &str = "1.7.12";

/// An invocation, with what its leader knows of its attempts.
pub(super) struct Row {
    pub(super) id: InvocationId,
    pub(super) invocation: state::Invocation,
    pub(super) target: abide_types::InvocationTarget,
    /// Of those that are invoked, as the leader has it; of those that were paused, why.
    pub(super) attempt: Option<AttemptInfo>,
    waits: Option<Waits>,
    schema: Arc<Schema>,
}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let definition = Definition {
        lookup: lookup(Some(stored_status)),
        columns: sys_invocation(),
        read,
        is_view: true,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_invocation", Arc::new(table));
    let definition = Definition {
        lookup: lookup(Some(durable_status)),
        columns: sys_invocation_status(),
        read,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_invocation_status", Arc::new(table));
    let definition = Definition {
        lookup: Lookup {
            service: None,
            ..lookup(None)
        },
        columns: sys_invocation_state(),
        read: read_attempted,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_invocation_state", Arc::new(table));
}

fn lookup(status: Option<fn(&str) -> &'static [Status]>) -> Lookup {
    Lookup {
        table: Table::Invocation,
        shape: KeyShape::Id {
            id: "id",
            object_key: Some("target_service_key"),
            queue: Some("vqueue_id"),
        },
        service: Some("target_service_name"),
        status,
        scoped: false,
    }
}

pub(super) fn read(page: ScanPage, schema: &Arc<Schema>) -> Result<Vec<Row>, String> {
    let now = Timestamp::from_system(SystemTime::now());
    let mut rows = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let id = keys::parse_invocation(&row.key).ok_or_else(|| damaged("invocation id"))?;
        let invocation = state::Invocation::decode(row.value)
            .map_err(|error| damaged(&format!("invocation {id} ({error})")))?;
        // Kept for repetitions only.
        if abide_state_machine::is_forgotten(&invocation, now) {
            continue;
        }
        let target = invocation.target.clone().unwrap_or_default();
        rows.push(Row {
            id,
            target: (&target).into(),
            attempt: row.attempt.or_else(|| paused(&invocation)),
            waits: match invocation.status() {
                Status::Suspended => Waits::read(&invocation.awaiting),
                _ => None,
            },
            invocation,
            schema: schema.clone(),
        });
    }
    Ok(rows)
}

/// Only those of which an attempt is known.
fn read_attempted(page: ScanPage, schema: &Arc<Schema>) -> Result<Vec<Row>, String> {
    let mut rows = read(page, schema)?;
    rows.retain(|row| {
        row.attempt
            .as_ref()
            .is_some_and(|attempt| attempt.started > 0)
    });
    Ok(rows)
}

/// What is left of the attempts of a paused invocation.
fn paused(invocation: &state::Invocation) -> Option<AttemptInfo> {
    let failure = invocation.last_failure.as_deref()?.clone();
    (invocation.status() == Status::Paused).then(|| AttemptInfo {
        failure: Some(failure),
        ..AttemptInfo::default()
    })
}

/// The stored states behind a value of `sys_invocation.status`.
fn stored_status(name: &str) -> &'static [Status] {
    match name {
        // With a scope, its row says that it is invoked.
        "pending" => &[Status::Inboxed, Status::Invoked],
        "scheduled" => &[Status::Scheduled],
        "ready" | "running" | "backing-off" => &[Status::Invoked],
        "suspended" => &[Status::Suspended],
        "paused" => &[Status::Paused],
        "completed" => &[Status::Completed],
        _ => &[],
    }
}

/// The stored state behind a value of `sys_invocation_status.status`.
fn durable_status(name: &str) -> &'static [Status] {
    match name {
        "inboxed" => &[Status::Inboxed, Status::Invoked],
        "invoked" => &[Status::Invoked],
        "scheduled" | "suspended" | "paused" | "completed" => stored_status(name),
        _ => &[],
    }
}

impl Row {
    fn status(&self) -> &'static str {
        match (self.invocation.status(), &self.attempt) {
            (Status::Invoked, Some(attempt)) if attempt.in_flight => "running",
            (Status::Invoked, Some(attempt)) if attempt.started > 0 => "backing-off",
            (Status::Invoked, _) if self.is_yet_to_begin() => "pending",
            (Status::Invoked, _) => "ready",
            (Status::Inboxed, _) => "pending",
            (Status::Scheduled, _) => "scheduled",
            (Status::Suspended, _) => "suspended",
            (Status::Paused, _) => "paused",
            (Status::Completed, _) => "completed",
        }
    }

    fn durable_status(&self) -> &'static str {
        match self.invocation.status() {
            Status::Inboxed => "inboxed",
            Status::Invoked if self.is_yet_to_begin() => "inboxed",
            Status::Invoked => "invoked",
            Status::Scheduled => "scheduled",
            Status::Suspended => "suspended",
            Status::Paused => "paused",
            Status::Completed => "completed",
        }
    }

    fn invoked_by(&self) -> &'static str {
        if !self.invocation.invoked_by.is_empty() {
            "service"
        } else if self.invocation.subscription.is_some() {
            "subscription"
        } else if !self.invocation.restarted_from.is_empty() {
            "restart_as_new"
        } else {
            "ingress"
        }
    }

    /// The queue in which it waits for its place, if it has a scope.
    pub(super) fn queue(&self) -> Option<QueueId> {
        let flow = Flow::from(self.invocation.flow.as_deref()?.clone());
        Some(flow.queue(&self.target.service))
    }

    fn caller(&self) -> Option<abide_types::InvocationTarget> {
        self.invocation.invoked_by_target.as_deref().map(Into::into)
    }

    pub(super) fn completed(&self) -> Option<&Outcome> {
        let outcome = self.invocation.outcome.as_ref()?;
        outcome.outcome.as_ref()
    }

    fn failure(&self) -> Option<&state::AttemptFailure> {
        self.attempt.as_ref()?.failure.as_ref()
    }

    fn related(&self) -> Option<&state::RelatedCommand> {
        self.failure()?.related_command.as_ref()
    }

    /// Whether it waits for its first turn in its scope. Its row says from the beginning that it is invoked.
    pub(super) fn is_yet_to_begin(&self) -> bool {
        self.invocation.status() == Status::Invoked
            && self.invocation.flow.is_some()
            && self.invocation.pinned.is_none()
            && (self.attempt.as_ref())
                .is_some_and(|attempt| attempt.started == 0 && !attempt.in_flight)
    }

    /// When it was first attempted, or first could have been.
    pub(super) fn began_at(&self) -> u64 {
        match self.is_yet_to_begin() {
            true => 0,
            false => self.invocation.running_at,
        }
    }

    /// When it was put behind others. What has a scope begins in its queue.
    fn inboxed_at(&self) -> u64 {
        let invocation = &self.invocation;
        match &invocation.flow {
            Some(_) if invocation.inboxed_at == 0 && invocation.execute_at == 0 => {
                invocation.created_at
            }
            _ => invocation.inboxed_at,
        }
    }

    pub(super) fn started(&self) -> Option<&AttemptInfo> {
        self.attempt.as_ref().filter(|attempt| attempt.started > 0)
    }

    fn has_journal(&self) -> bool {
        self.invocation.journal_length > 0
    }

    pub(super) fn last_deployment(&self) -> Option<DeploymentId> {
        self.started()?.deployment
    }

    fn live_waits(&self) -> Option<Waits> {
        Waits::read(&self.attempt.as_ref()?.awaiting)
    }
}

fn id_of(bytes: &Bytes) -> Option<String> {
    InvocationId::from_bytes(bytes).map(|id| id.to_string())
}

pub(super) fn pinned(row: &Row) -> Option<String> {
    let pinned = row.invocation.pinned.as_ref()?;
    let bytes: [u8; 16] = pinned.deployment.as_ref().try_into().ok()?;
    Some(DeploymentId(u128::from_be_bytes(bytes)).to_string())
}

/// A failure with the name that goes with its code where the interface shows one.
pub(super) fn coded(failure: &state::Failure) -> String {
    let (code, message) = (failure.code, &failure.message);
    match code_name(code) {
        Some(name) => format!("[{code} {name}] {message}"),
        None => format!("[{code}] {message}"),
    }
}

/// The codes that have names; HTTP has more.
fn code_name(code: u32) -> Option<&'static str> {
    Some(match code {
        400 => "Bad request",
        404 => "Not found",
        409 => "Aborted",
        410 => "Gone",
        415 => "Unsupported media type",
        470 => "Not ready",
        500 => "Internal",
        570 => "Journal mismatch",
        571 => "Protocol violation",
        572 => "Awaiting two async results",
        573 => "Unsupported feature",
        _ => return None,
    })
}

fn last_failure(row: &Row) -> Option<String> {
    let failure = row.failure()?.failure.as_ref()?;
    let mut text = coded(failure);
    if let Some(stacktrace) = failure
        .stacktrace
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        text.push('\n');
        text.push_str(stacktrace);
    }
    Some(text)
}

/// The middle part of `version-trace-span-flags`.
fn trace_id(row: &Row) -> Option<&str> {
    let trace = row.invocation.trace.as_ref()?;
    trace
        .traceparent
        .split('-')
        .nth(1)
        .filter(|id| !id.is_empty())
}

fn subscription(row: &Row) -> Option<String> {
    let text = row.invocation.subscription.clone()?;
    // Kept as it came; both forms are of the same id.
    match text.parse::<SubscriptionId>() {
        Ok(id) => Some(id.to_string()),
        Err(_) => Some(text),
    }
}

pub(super) fn partition_key() -> Column<Row> {
    Column::new("partition_key", Ty::U64, |row| {
        row.id.partition_key().0.into()
    })
}

fn id() -> Column<Row> {
    Column::new("id", Ty::Text, |row| row.id.to_string().into())
}

fn vqueue_id() -> Column<Row> {
    Column::new("vqueue_id", Ty::Text, |row| {
        row.queue().map(|queue| queue.to_string()).into()
    })
}

fn target() -> [Column<Row>; 5] {
    [
        Column::new("target", Ty::Text, |row| row.target.to_string().into()),
        Column::new("target_service_name", Ty::Text, |row| {
            (&row.target.service).into()
        }),
        Column::new("target_service_key", Ty::Text, |row| {
            row.target.key.as_ref().into()
        }),
        Column::new("target_handler_name", Ty::Text, |row| {
            (&row.target.handler).into()
        }),
        Column::new("target_service_ty", Ty::Text, |row| {
            match row.target.service_kind {
                ServiceKind::Service => "service",
                ServiceKind::VirtualObject => "virtual_object",
                ServiceKind::Workflow => "workflow",
            }
            .into()
        }),
    ]
}

fn flow() -> [Column<Row>; 4] {
    [
        Column::new("scope", Ty::Text, |row| {
            row.invocation.flow.as_ref().map(|flow| &flow.scope).into()
        }),
        Column::new("limit_key", Ty::Text, |row| {
            let flow = row.invocation.flow.as_ref();
            flow.and_then(|flow| flow.limit_key.as_ref()).into()
        }),
        Column::new("idempotency_key", Ty::Text, |row| {
            row.invocation.idempotency_key.as_ref().into()
        }),
        Column::new("invoked_by", Ty::Text, |row| row.invoked_by().into()),
    ]
}

fn invoked_by_service_name() -> Column<Row> {
    Column::new("invoked_by_service_name", Ty::Text, |row| {
        row.caller().map(|caller| caller.service).into()
    })
}

fn invoked_by_id() -> Column<Row> {
    Column::new("invoked_by_id", Ty::Text, |row| {
        id_of(&row.invocation.invoked_by).into()
    })
}

fn invoked_by_subscription_id() -> Column<Row> {
    Column::new("invoked_by_subscription_id", Ty::Text, |row| {
        subscription(row).into()
    })
}

fn invoked_by_target() -> Column<Row> {
    Column::new("invoked_by_target", Ty::Text, |row| {
        row.caller().map(|caller| caller.to_string()).into()
    })
}

/// From `restarted_from` to `suspended_waiting_future_json`.
fn durable() -> Vec<Column<Row>> {
    vec![
        Column::new("restarted_from", Ty::Text, |row| {
            id_of(&row.invocation.restarted_from).into()
        }),
        Column::new("pinned_deployment_id", Ty::Text, |row| pinned(row).into()),
        Column::new("pinned_service_protocol_version", Ty::U32, |row| {
            row.invocation
                .pinned
                .as_ref()
                .map(|pinned| pinned.protocol)
                .into()
        }),
        Column::new("trace_id", Ty::Text, |row| trace_id(row).into()),
        Column::new("journal_size", Ty::U32, |row| {
            row.has_journal()
                .then_some(row.invocation.journal_length)
                .into()
        }),
        Column::new("journal_commands_size", Ty::U32, |row| {
            row.has_journal()
                .then_some(row.invocation.command_count)
                .into()
        }),
        Column::new("created_at", Ty::Time, |row| {
            row.invocation.created_at.into()
        }),
        Column::new("created_using_restate_version", Ty::Text, |_| {
            INTERFACE_VERSION.into()
        }),
        Column::new("modified_at", Ty::Time, |row| {
            row.invocation.modified_at.into()
        }),
        Column::new("inboxed_at", Ty::Time, |row| at(row.inboxed_at())),
        Column::new("scheduled_at", Ty::Time, |row| {
            at(row.invocation.scheduled_at)
        }),
        Column::new("scheduled_start_at", Ty::Time, |row| {
            at(row.invocation.execute_at)
        }),
        Column::live("running_at", Ty::Time, |row| at(row.began_at())),
        Column::new("completed_at", Ty::Time, |row| {
            at(row.invocation.completed_at)
        }),
        Column::new("completion_retention", Ty::Duration, |row| {
            row.invocation.completion_retention_ms.into()
        }),
        Column::new("journal_retention", Ty::Duration, |row| {
            row.invocation.journal_retention_ms.into()
        }),
        Column::new("suspended_waiting_for_completions", Ty::U32s, |row| {
            row.waits
                .as_ref()
                .map(|waits| waits.completions.clone())
                .into()
        }),
        Column::new("suspended_waiting_for_signals", Ty::U32s, |row| {
            row.waits.as_ref().map(|waits| waits.signals.clone()).into()
        }),
        Column::new("suspended_waiting_future_json", Ty::Text, |row| {
            row.waits.as_ref().map(|waits| &waits.tree).into()
        }),
    ]
}

fn completion() -> [Column<Row>; 2] {
    [
        Column::new("completion_result", Ty::Text, |row| {
            row.completed()
                .map(|outcome| match outcome {
                    Outcome::Success(_) => "success",
                    Outcome::Failure(_) => "failure",
                })
                .into()
        }),
        Column::new("completion_failure", Ty::Text, |row| {
            match row.completed() {
                Some(Outcome::Failure(failure)) => {
                    format!("[{}] {}", failure.code, failure.message).into()
                }
                _ => Cell::Null,
            }
        }),
    ]
}

fn retry_count() -> Column<Row> {
    Column::live("retry_count", Ty::U64, |row| {
        row.started().map(|attempt| attempt.started).into()
    })
}

fn last_start_at() -> Column<Row> {
    Column::live("last_start_at", Ty::Time, |row| {
        row.started()
            .and_then(|attempt| attempt.last_start_at)
            .into()
    })
}

fn next_retry_at() -> Column<Row> {
    Column::live("next_retry_at", Ty::Time, |row| {
        row.started()
            .and_then(|attempt| attempt.next_retry_at)
            .into()
    })
}

fn last_attempt() -> [Column<Row>; 2] {
    [
        Column::live("last_attempt_deployment_id", Ty::Text, |row| {
            row.last_deployment().map(|id| id.to_string()).into()
        }),
        Column::live("last_attempt_server", Ty::Text, |row| {
            row.last_deployment()
                .and_then(|id| row.schema.deployment(id)?.sdk_version.as_ref())
                .into()
        }),
    ]
}

fn failure() -> [Column<Row>; 2] {
    [
        Column::live("last_failure", Ty::Text, |row| last_failure(row).into()),
        Column::live("last_failure_error_code", Ty::Text, |row| {
            row.failure()
                .map(|failure| failure.documented_code.as_str())
                .filter(|code| !code.is_empty())
                .into()
        }),
    ]
}

/// Of the journal format that is not spoken here.
fn related_entry() -> [Column<Row>; 3] {
    [
        Column::null("last_failure_related_entry_index", Ty::U64),
        Column::null("last_failure_related_entry_name", Ty::Text),
        Column::null("last_failure_related_entry_type", Ty::Text),
    ]
}

fn related_command() -> [Column<Row>; 3] {
    [
        Column::live("last_failure_related_command_index", Ty::U64, |row| {
            row.related().and_then(|related| related.index).into()
        }),
        Column::live("last_failure_related_command_name", Ty::Text, |row| {
            row.related()
                .map(|related| &related.name)
                .filter(|name| !name.is_empty())
                .into()
        }),
        Column::live("last_failure_related_command_type", Ty::Text, |row| {
            row.related()
                .and_then(|related| command_type(related.ty?))
                .into()
        }),
    ]
}

fn last_awaiting() -> Column<Row> {
    Column::live("last_awaiting_on_future_json", Ty::Text, |row| {
        row.live_waits().map(|waits| waits.tree).into()
    })
}

fn sys_invocation() -> Vec<Column<Row>> {
    let mut columns = vec![id(), vqueue_id()];
    columns.extend(target());
    columns.extend(flow());
    columns.extend([
        invoked_by_service_name(),
        invoked_by_id(),
        invoked_by_subscription_id(),
        invoked_by_target(),
    ]);
    columns.extend(durable());
    columns.extend([retry_count(), last_start_at(), next_retry_at()]);
    columns.extend(last_attempt());
    columns.extend(failure());
    columns.extend(related_entry());
    columns.extend(related_command());
    columns.push(last_awaiting());
    columns.push(Column::live("status", Ty::Text, |row: &Row| row.status().into()).not_null());
    columns.extend(completion());
    columns
}

fn sys_invocation_status() -> Vec<Column<Row>> {
    let mut columns = vec![
        partition_key(),
        id(),
        vqueue_id(),
        Column::live("status", Ty::Text, |row| row.durable_status().into()),
    ];
    columns.extend(completion());
    columns.extend(target());
    columns.extend(flow());
    columns.extend([
        invoked_by_id(),
        invoked_by_subscription_id(),
        invoked_by_service_name(),
        invoked_by_target(),
    ]);
    columns.extend(durable());
    columns
}

fn sys_invocation_state() -> Vec<Column<Row>> {
    let mut columns = vec![
        partition_key(),
        id(),
        Column::live("in_flight", Ty::Bool, |row| {
            row.attempt.as_ref().map(|attempt| attempt.in_flight).into()
        }),
        retry_count(),
        last_start_at(),
    ];
    columns.extend(last_attempt());
    columns.push(next_retry_at());
    columns.extend(failure());
    columns.extend(related_command());
    columns.extend(related_entry());
    columns.push(last_awaiting());
    // Which rows there are is known to leaders only, whichever columns are asked for.
    for column in &mut columns {
        column.live = true;
    }
    columns
}
