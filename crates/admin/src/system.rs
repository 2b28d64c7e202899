//! The server itself: version, health, metrics, and where the web UI would be.

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_service_protocol::ProtocolVersion;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::json;

use crate::app::Shared;

/// The version of the interface that is spoken. Tools choose the shape of their requests by it, so that it is not
/// the version of this engine.
pub(crate) const INTERFACE_VERSION: &str = "1.7.12";

/// Experimental switches that tools ask for; all of them are off, but for the protocol version.
const SWITCHES: [&str; 11] = [
    "vqueues",
    "kafka_scope",
    "scoped_virtual_objects",
    "unique_random_seeds",
    "invoker_yield",
    "vqueues_async_refill",
    "vqueue_obsolete_cleanup",
    "vqueues_migration_skip_completed",
    "preflight_invocation_termination_retention",
    "scoped_state_table_migration",
    "scoped_promise_table_migration",
];

#[derive(Serialize)]
struct VersionBody<'a> {
    version: &'static str,
    min_admin_api_version: u8,
    max_admin_api_version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_endpoint: Option<&'a str>,
    features: BTreeMap<&'static str, bool>,
}

pub(crate) async fn version(State(shared): State<Arc<Shared>>) -> Response {
    let mut features: BTreeMap<_, _> = SWITCHES.iter().map(|name| (*name, false)).collect();
    features.insert("protocol_v7", ProtocolVersion::MAX == ProtocolVersion::V7);
    let body = VersionBody {
        version: INTERFACE_VERSION,
        min_admin_api_version: 2,
        max_admin_api_version: 4,
        ingress_endpoint: shared.options.ingress_endpoint.as_deref(),
        features,
    };
    Json(body).into_response()
}

pub(crate) async fn health() -> StatusCode {
    StatusCode::OK
}

pub(crate) async fn cluster_health(State(shared): State<Arc<Shared>>) -> Response {
    match shared.cluster.membership() {
        Some(membership) => Json(json!({
            "cluster_name": membership.name,
            "metadata_cluster_health": { "members": membership.metadata_servers },
        }))
        .into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, (shared.metrics)()).into_response()
}

/// The web UI is not part of the server; its address says what there is instead.
pub(crate) async fn no_ui() -> (StatusCode, &'static str) {
    let text = "The web UI is not part of this server. Use the `restate` command line, the admin API (described at \
                /openapi) or SQL at /query.\n";
    (StatusCode::NOT_IMPLEMENTED, text)
}

/// Where browsers look for the UI.
pub(crate) async fn to_ui() -> (StatusCode, [(header::HeaderName, &'static str); 1]) {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "/ui/")])
}
