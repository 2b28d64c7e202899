//! The rows of a run, as SQL shows them, in words that do not differ between engines.
//!
//! Ids become the labels of their invocations. Commands keep their order, which the handlers decide;
//! notifications come when they come, and are compared as a set.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::interpreter::{BEFORE, NEVER_ENDS, in_one_spelling};
use crate::world::World;

/// How often the rows are read until they hold still.
const READS: usize = 40;

/// Every invocation of the run with its journal, and the rows of what outlives invocations.
pub async fn of_run(world: &World, run: &str) -> Value {
    let mut before = Value::Null;
    for _ in 0..READS {
        let (rows, settled) = read(world, run).await;
        if rows == before && settled {
            return rows;
        }
        before = rows;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    before
}

/// The rows, and whether nothing in them waits for a time or a turn of its own.
async fn read(world: &World, run: &str) -> (Value, bool) {
    let mut settled = true;
    let invocations = world.ledger().invocations(run);
    let ids: Vec<String> = invocations.values().map(|id| format!("'{id}'")).collect();
    let ids = ids.join(",");
    if ids.is_empty() {
        return (Value::Null, settled);
    }
    let labels: HashMap<&str, &str> = invocations
        .iter()
        // Whether a caller that is interrupted has come to its call is a matter of time.
        .filter(|(label, _)| !label.ends_with(" waits") && !label.ends_with(NEVER_ENDS))
        .map(|(label, id)| (id.as_str(), label.as_str()))
        .collect();
    let mut told: BTreeMap<&str, Value> = BTreeMap::new();
    let statuses = query(
        world,
        &format!(
            "SELECT id, status, completion_result, completion_failure, target_service_name, \
             target_service_ty, target_handler_name, invoked_by, invoked_by_service_name, \
             invoked_by_id, invoked_by_target, journal_size, journal_commands_size \
             FROM sys_invocation WHERE id IN ({ids})"
        ),
    )
    .await;
    for mut row in statuses {
        let id = row["id"].take();
        let Some(label) = id.as_str().and_then(|id| labels.get(id)) else {
            continue;
        };
        if let Some(caller) = row["invoked_by_id"].as_str() {
            row["invoked_by_id"] = json!(labels.get(caller));
        }
        if let Some(target) = row["invoked_by_target"].as_str() {
            row["invoked_by_target"] = json!(target.replace(run, "run"));
        }
        if let Some(failure) = row["completion_failure"].as_str() {
            let spelled = match failure.split_once("] ") {
                Some((code, message)) => format!("{code}] {}", in_one_spelling(message)),
                None => failure.to_owned(),
            };
            row["completion_failure"] = json!(spelled);
        }
        let status = row["status"].as_str().unwrap_or_default();
        settled &= !["backing-off", "ready", "pending", "scheduled"].contains(&status);
        if status != "completed" {
            // Whether it has suspended yet is a matter of time.
            row["status"] = json!("not completed");
        }
        told.insert(
            label,
            json!({ "invocation": row, "commands": [], "notifications": [] }),
        );
    }
    let entries = query(
        world,
        &format!(
            "SELECT id, index, entry_type, name, entry_lite_json FROM sys_journal \
             WHERE id IN ({ids}) ORDER BY id, index"
        ),
    )
    .await;
    for row in entries {
        let Some(label) = row["id"].as_str().and_then(|id| labels.get(id)) else {
            continue;
        };
        let entry_type = row["entry_type"].as_str().unwrap_or_default();
        let list = if entry_type.starts_with("Notification") {
            "notifications"
        } else {
            "commands"
        };
        let callee = callee(&row).map(|callee| callee.replace(run, "run"));
        let entry = json!([entry_type, row["name"], callee]);
        if let Some(entries) = told
            .get_mut(label)
            .and_then(|invocation| invocation[list].as_array_mut())
        {
            entries.push(entry);
        }
    }
    for (label, invocation) in &mut told {
        leave_out_what_may_be_interrupted(label, invocation);
        if let Some(notifications) = invocation["notifications"].as_array_mut() {
            notifications.sort_by_key(Value::to_string);
        }
    }
    let state = format!(
        "SELECT service_name, service_key, key, value_utf8 FROM state \
         WHERE service_key LIKE '{run}-%' ORDER BY service_name, service_key, key"
    );
    let promises = format!(
        "SELECT service_key, key, completed, completion_success_value_utf8, \
         completion_failure FROM sys_promise WHERE service_key LIKE '{run}-%' \
         ORDER BY service_key, key"
    );
    let rows = json!({
        "invocations": told,
        "state": without_run(query(world, &state).await, run),
        "promises": without_run(query(world, &promises).await, run),
    });
    (rows, settled)
}

/// The client hears that a handler waits before the engine has all that the handler does then. How much of it is still
/// stored when the interruption comes is a matter of time, and so is whether who was cancelled still hears of the calls
/// that it cancels in turn.
fn leave_out_what_may_be_interrupted(label: &str, invocation: &mut Value) {
    if invocation["invocation"]["completion_failure"] == "[409] cancelled" {
        invocation["notifications"] = json!([]);
        invocation["invocation"]["journal_size"] = Value::Null;
    }
    let last = format!("{label}{BEFORE}");
    let Some(commands) = invocation["commands"].as_array_mut() else {
        return;
    };
    let Some(place) = commands.iter().position(|command| command[1] == *last) else {
        return;
    };
    commands.truncate(place + 1);
    invocation["notifications"] = json!([]);
    for size in ["journal_size", "journal_commands_size"] {
        invocation["invocation"][size] = Value::Null;
    }
}

/// Whom a command calls. The entry says it on every server, `invoked_target` does not.
fn callee(row: &Value) -> Option<String> {
    let entry: Value = serde_json::from_str(row["entry_lite_json"].as_str()?).ok()?;
    let command = entry["Command"].as_object()?.values().next()?;
    let target = command["invocation_target"].as_object()?.values().next()?;
    let parts = ["name", "key", "handler"].map(|part| target[part].as_str());
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join("/"))
}

fn without_run(mut rows: Vec<Value>, run: &str) -> Vec<Value> {
    for row in &mut rows {
        if let Some(key) = row["service_key"].as_str() {
            row["service_key"] = json!(key.replace(run, "run"));
        }
    }
    rows
}

async fn query(world: &World, sql: &str) -> Vec<Value> {
    let url = format!("{}/query", world.admins[0]);
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
    ];
    let body = json!({ "query": sql }).to_string();
    match world
        .api()
        .request(Method::POST, &url, &headers, body)
        .await
    {
        Ok(answer) if answer.status.is_success() => match answer.json()["rows"].take() {
            Value::Array(rows) => rows,
            other => vec![other],
        },
        Ok(answer) => vec![json!({ "refused": answer.text() })],
        Err(error) => vec![json!({ "refused": error.to_string() })],
    }
}
