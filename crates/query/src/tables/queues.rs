//! Tables of virtual queues. There are none of these: keys have inboxes ([`super::objects`]), so that their tables are
//! empty, and have the columns that tools ask for. Only the counters of limits have rows.

use std::sync::Arc;

use crate::column::{Column, Ty};
use crate::provider::LocalTable;
use crate::source::{Sources, UserLimit};
use crate::tables::Tables;

/// A row of a table that has none.
enum Never {}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    for (name, columns) in [
        ("sys_vqueue_meta", VQUEUE_META),
        ("sys_vqueues", VQUEUES),
        ("sys_vqueue_entry_status", VQUEUE_ENTRY_STATUS),
        ("sys_scheduler", SCHEDULER),
        ("sys_locks", LOCKS),
    ] {
        let columns = (columns.iter())
            .map(|(name, ty)| Column::<Never>::null(name, *ty))
            .collect();
        let rows = Box::new(|_| Box::pin(async { Ok(Vec::new()) }) as _);
        let table = LocalTable::new(columns, rows, sources.clone());
        tables.insert(name, Arc::new(table));
    }
    let limits = LocalTable::new(
        limit_columns(),
        Box::new(|sources| Box::pin(async move { sources.flow_control.user_limits().await })),
        sources.clone(),
    );
    tables.insert("sys_user_limits", Arc::new(limits));
}

fn limit_columns() -> Vec<Column<UserLimit>> {
    vec![
        Column::new("partition_key", Ty::U64, |row| row.partition_key.into()),
        Column::new("scope", Ty::Text, |row| (&row.scope).into()),
        Column::new("l1", Ty::Text, |row| row.l1.as_ref().into()),
        Column::new("l2", Ty::Text, |row| row.l2.as_ref().into()),
        Column::new("level", Ty::Text, |row| row.level.into()),
        Column::new("usage", Ty::U32, |row| row.usage.into()),
        Column::new("concurrency_limit", Ty::U32, |row| {
            row.concurrency_limit.into()
        }),
        Column::new("rule_pattern", Ty::Text, |row| {
            row.rule_pattern.as_ref().into()
        }),
        Column::new("available", Ty::U32, |row| row.available.into()),
        Column::new("num_waiters", Ty::U64, |row| row.num_waiters.into()),
    ]
}

const VQUEUE_META: &[(&str, Ty)] = &[
    ("partition_key", Ty::U64),
    ("id", Ty::Text),
    ("is_active", Ty::Bool),
    ("queue_is_paused", Ty::Bool),
    ("service_name", Ty::Text),
    ("scope", Ty::Text),
    ("limit_key", Ty::Text),
    ("lock_name", Ty::Text),
    ("created_at", Ty::Time),
    ("last_enqueued_at", Ty::Time),
    ("last_start_at", Ty::Time),
    ("last_attempt_at", Ty::Time),
    ("last_finish_at", Ty::Time),
    ("avg_queue_duration", Ty::Duration),
    ("avg_inbox_duration", Ty::Duration),
    ("avg_run_duration", Ty::Duration),
    ("avg_suspension_duration", Ty::Duration),
    ("avg_end_to_end_duration", Ty::Duration),
    ("avg_blocked_on_concurrency_rules", Ty::Duration),
    ("avg_blocked_on_invoker_concurrency", Ty::Duration),
    ("avg_blocked_on_invoker_throttling", Ty::Duration),
    ("avg_blocked_on_lock", Ty::Duration),
    ("num_inbox", Ty::U64),
    ("num_running", Ty::U64),
    ("num_suspended", Ty::U64),
    ("num_paused", Ty::U64),
    ("num_finished", Ty::U64),
];

const VQUEUES: &[(&str, Ty)] = &[
    ("partition_key", Ty::U64),
    ("id", Ty::Text),
    ("stage", Ty::Text),
    ("status", Ty::Text),
    ("has_lock", Ty::Bool),
    ("run_at", Ty::Time),
    ("sequence_number", Ty::U64),
    ("entry_id", Ty::Text),
    ("entry_kind", Ty::Text),
    ("created_at", Ty::Time),
    ("transitioned_at", Ty::Time),
    ("num_attempts", Ty::U32),
    ("num_errors", Ty::U32),
    ("num_pauses", Ty::U32),
    ("num_suspensions", Ty::U32),
    ("num_yields", Ty::U32),
    ("first_attempt_at", Ty::Time),
    ("latest_attempt_at", Ty::Time),
    ("first_runnable_at", Ty::Time),
    ("deployment", Ty::Text),
];

const VQUEUE_ENTRY_STATUS: &[(&str, Ty)] = &[
    ("partition_key", Ty::U64),
    ("entry_id", Ty::Text),
    ("vqueue_id", Ty::Text),
    ("stage", Ty::Text),
    ("status", Ty::Text),
    ("has_lock", Ty::Bool),
    ("next_at", Ty::Time),
    ("sequence_number", Ty::U64),
    ("entry_kind", Ty::Text),
    ("created_at", Ty::Time),
    ("transitioned_at", Ty::Time),
    ("num_attempts", Ty::U32),
    ("num_errors", Ty::U32),
    ("num_pauses", Ty::U32),
    ("num_suspensions", Ty::U32),
    ("num_yields", Ty::U32),
    ("first_attempt_at", Ty::Time),
    ("latest_attempt_at", Ty::Time),
    ("first_runnable_at", Ty::Time),
    ("deployment", Ty::Text),
    ("needed_memory", Ty::U64),
    ("retry_attempts", Ty::U32),
    ("retry_count_since_last_stored_command", Ty::U32),
    (
        "latest_attempt_blocked_on_invoker_concurrency",
        Ty::Duration,
    ),
    ("latest_attempt_blocked_on_throttling_rules", Ty::Duration),
    ("latest_attempt_blocked_on_invoker_throttling", Ty::Duration),
    ("latest_attempt_blocked_on_invoker_memory", Ty::Duration),
    ("latest_attempt_blocked_on_concurrency_rules", Ty::Duration),
    ("latest_attempt_blocked_on_lock", Ty::Duration),
    (
        "latest_attempt_blocked_on_deployment_concurrency",
        Ty::Duration,
    ),
    ("total_blocked_on_invoker_concurrency", Ty::Duration),
    ("total_blocked_on_throttling_rules", Ty::Duration),
    ("total_blocked_on_invoker_throttling", Ty::Duration),
    ("total_blocked_on_invoker_memory", Ty::Duration),
    ("total_blocked_on_concurrency_rules", Ty::Duration),
    ("total_blocked_on_lock", Ty::Duration),
    ("total_blocked_on_deployment_concurrency", Ty::Duration),
];

const SCHEDULER: &[(&str, Ty)] = &[
    ("partition_key", Ty::U64),
    ("id", Ty::Text),
    ("num_inbox", Ty::U64),
    ("status", Ty::Text),
    ("head_entry_id", Ty::Text),
    ("scheduled_at", Ty::Time),
    ("blocked_on", Ty::Text),
    ("blocked_on_json", Ty::Text),
    ("invoker_concurrency_block_duration", Ty::Duration),
    ("throttling_rules_block_duration", Ty::Duration),
    ("invoker_throttling_block_duration", Ty::Duration),
    ("invoker_memory_block_duration", Ty::Duration),
    ("concurrency_rules_block_duration", Ty::Duration),
    ("lock_block_duration", Ty::Duration),
    ("deployment_concurrency_block_duration", Ty::Duration),
];

const LOCKS: &[(&str, Ty)] = &[
    ("partition_key", Ty::U64),
    ("scope", Ty::Text),
    ("lock_name", Ty::Text),
    ("acquired_at", Ty::Time),
    ("acquired_by", Ty::Text),
];
