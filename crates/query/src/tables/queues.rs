//! Queues of invocations with a scope as their leaders schedule them: `sys_scheduler`, `sys_user_limits`. What is in the
//! queues is in [`super::vqueues`].

use std::sync::Arc;
use std::time::Duration;

use abide_processor::flow::{Blocked, QueueState};

use crate::column::{Column, Ty};
use crate::json;
use crate::provider::LocalTable;
use crate::source::{Sources, UserLimit};
use crate::tables::Tables;

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let limits = LocalTable::new(
        limit_columns(),
        Box::new(|sources| Box::pin(async move { sources.flow_control.user_limits().await })),
        sources.clone(),
    );
    tables.insert("sys_user_limits", Arc::new(limits));
    let scheduler = LocalTable::new(
        scheduler_columns(),
        Box::new(|sources| Box::pin(scheduled(sources))),
        sources.clone(),
    );
    tables.insert("sys_scheduler", Arc::new(scheduler));
}

/// Queues whose turn can come: what is paused does not.
async fn scheduled(sources: Sources) -> Result<Vec<QueueState>, String> {
    let mut rows = Vec::new();
    for state in sources.flow_control.queues().await? {
        let paused = state.paused;
        let queues = state.queues.into_iter();
        rows.extend(queues.filter(|queue| queue.waiting > 0 && !paused.contains(&queue.id)));
    }
    Ok(rows)
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

/// What a queue waits for, as tools read it, in the order in which people are used to read it.
fn blocked_json(queue: &QueueState) -> Option<String> {
    let blocked = queue.blocked.as_ref()?;
    let level = match blocked.level.matches('/').count() {
        0 => "scope",
        1 => "level1",
        _ => "level2",
    };
    Some(json::object(|waits| {
        waits.text("resource", "limit-key-concurrency");
        waits.text("scope", &queue.flow.scope);
        if let Some(limit_key) = &queue.flow.limit_key {
            waits.text("limit_key", limit_key);
        }
        waits.text("blocked_level", level);
        if let Some(rule) = &blocked.rule {
            waits.text("blocked_rule", rule);
        }
    }))
}

fn scheduler_columns() -> Vec<Column<QueueState>> {
    fn millis(since: Duration) -> u64 {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
    // What never holds a queue up here.
    let zero = |name| Column::<QueueState>::new(name, Ty::Duration, |_| 0u64.into());
    vec![
        Column::new("partition_key", Ty::U64, |row| {
            row.id.partition_key.0.into()
        }),
        Column::new("id", Ty::Text, |row| row.id.to_string().into()),
        Column::new("num_inbox", Ty::U64, |row| row.waiting.into()),
        Column::new("status", Ty::Text, |row| {
            match row.blocked {
                Some(_) => "blocked",
                None => "ready",
            }
            .into()
        }),
        Column::new("head_entry_id", Ty::Text, |row| {
            row.head.map(|id| id.to_string()).into()
        }),
        Column::null("scheduled_at", Ty::Time),
        Column::new("blocked_on", Ty::Text, |row| {
            let blocked = row.blocked.as_ref();
            blocked.map(|_| "limit-key-concurrency").into()
        }),
        Column::new("blocked_on_json", Ty::Text, |row| blocked_json(row).into()),
        zero("invoker_concurrency_block_duration"),
        zero("throttling_rules_block_duration"),
        zero("invoker_throttling_block_duration"),
        zero("invoker_memory_block_duration"),
        Column::new("concurrency_rules_block_duration", Ty::Duration, |row| {
            let since = |blocked: &Blocked| millis(blocked.since);
            row.blocked.as_ref().map_or(0, since).into()
        }),
        zero("lock_block_duration"),
        zero("deployment_concurrency_block_duration"),
    ]
}
