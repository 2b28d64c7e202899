//! `GET /health`, `/health/live` and `/health/ready` at the node port.

use std::time::Duration;

use abide_metadata::{ServerState, keys};
use abide_types::Role;
use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use crate::facts::{Facts, Member, Phase};
use crate::ready;

/// The report; the names and values are those of the operations reference.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    node_id: Option<String>,
    node_name: String,
    cluster_name: String,
    roles: Vec<String>,
    age: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unready_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_server_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_server_status: Option<&'static str>,
    nodes_config_version: u64,
    logs_version: u64,
    schema_version: u64,
    partition_table_version: u64,
    bound_addresses: Vec<Address>,
    advertised_addresses: Vec<Address>,
}

#[derive(Debug, Serialize)]
struct Address {
    name: &'static str,
    address: String,
    kind: &'static str,
}

impl Health {
    pub(crate) fn of(facts: &Facts) -> Self {
        let config = &facts.config;
        let phase = facts.phase();
        let member = facts.member.get();
        let view = member.map(|member| member.metadata.view());
        let version = |key: &str| {
            let stored = view.as_ref().and_then(|view| view.raw(key));
            stored.map_or(0, |stored| stored.version)
        };
        let logs = view.iter().flat_map(|view| {
            let keys = view.keys().filter(|key| key.starts_with("log/"));
            keys.filter_map(|key| view.raw(key).map(|stored| stored.version))
        });
        let status = |role: Role| config.roles.contains(&role).then_some(part_status(phase));
        let addresses = |kind, address: fn(&crate::facts::Bound) -> String| {
            let of = facts.bound.iter().map(move |bound| Address {
                name: bound.port.server_name(),
                address: address(bound),
                kind,
            });
            of.collect::<Vec<_>>()
        };
        let unready = ready::why_not(facts);
        Self {
            ready: unready.is_none(),
            unready_reason: unready,
            status: phase.health_name(),
            node_id: member.map(|member| member.incarnation().to_string()),
            node_name: config.node_name.clone(),
            cluster_name: config.cluster_name.clone(),
            roles: config.roles.iter().map(ToString::to_string).collect(),
            age: age(facts.started.elapsed()),
            admin_status: status(Role::Admin),
            worker_status: status(Role::Worker),
            log_server_status: status(Role::LogServer).map(|status| match member {
                Some(member) if is_full(member) => "DiskFull",
                _ => status,
            }),
            metadata_server_status: facts
                .server
                .get()
                .map(|server| server_status(server.status().state)),
            nodes_config_version: version(keys::NODES),
            logs_version: logs.max().unwrap_or(0),
            schema_version: version(keys::SCHEMA),
            partition_table_version: version(keys::PARTITION_TABLE),
            bound_addresses: addresses("tcp", |bound| bound.address.to_string()),
            advertised_addresses: addresses("http", |bound| bound.advertised.clone()),
        }
    }
}

/// The process answers: no reason to start it anew.
pub(crate) async fn live() -> Json<serde_json::Value> {
    Json(json!({ "live": true }))
}

/// Whether requests should come here, and why not.
pub(crate) fn ready(facts: &Facts) -> Response {
    match ready::why_not(facts) {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = Json(json!({ "ready": false, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// Whether appends are refused for want of room.
fn is_full(member: &Member) -> bool {
    let server = member.log_server.as_ref();
    server.is_some_and(|server| server.status().is_full)
}

const fn part_status(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "StartingUp",
        Phase::Alive => "Ready",
        Phase::Stopping => "Stopping",
    }
}

const fn server_status(state: ServerState) -> &'static str {
    match state {
        ServerState::Unprovisioned => "AwaitingProvisioning",
        ServerState::Learner => "Standby",
        ServerState::Follower | ServerState::Candidate | ServerState::Leader => "Member",
        ServerState::Stopped => "Stopped",
    }
}

/// `2h 3m 4s 5ms`, without the zeroes in front.
fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    let first = units
        .iter()
        .position(|(count, _)| *count > 0)
        .unwrap_or(units.len() - 1);
    let texts: Vec<String> = units[first..]
        .iter()
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_from_the_largest_unit_down() {
        assert_eq!(age(Duration::from_millis(28_324)), "28s 324ms");
        assert_eq!(age(Duration::from_millis(7_200_005)), "2h 0m 0s 5ms");
        assert_eq!(age(Duration::ZERO), "0ms");
    }
}
