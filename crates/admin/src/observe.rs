//! The cluster's status and this node's log filter.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::app::Shared;
use crate::error::AdminError;

/// What looks into the cluster.
#[async_trait]
pub trait Observer: Send + Sync {
    /// The status of the cluster, as the API shows it; or why it is not known.
    async fn stats(&self) -> Result<serde_json::Value, String>;

    /// Changes what this node logs, if asked to, and says what that is then.
    fn log_filter(&self, change: FilterChange) -> FilterState;
}

/// What becomes of the log filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterChange {
    /// Nothing: it is only looked at.
    None,
    /// The configured one is in force again.
    Reset,
    /// This one is, until the next start.
    Set(String),
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterState {
    /// The filter in force.
    pub filter: String,
    /// The one after a start.
    pub configured: String,
    /// Why the wished one is not in force.
    pub refused: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct FilterRequest {
    filter: String,
}

#[derive(Serialize)]
struct FilterBody {
    filter: String,
    configured: String,
}

fn observer<'a>(shared: &'a Shared, what: &str) -> Result<&'a dyn Observer, AdminError> {
    let observer = shared.observer.as_deref();
    observer.ok_or_else(|| AdminError::NotThereYet(what.to_owned()))
}

pub(crate) async fn stats(State(shared): State<Arc<Shared>>) -> Result<Response, AdminError> {
    let stats = observer(&shared, "GET /api/v1/cluster/stats")?
        .stats()
        .await;
    stats
        .map(|stats| Json(stats).into_response())
        .map_err(AdminError::NoStatus)
}

pub(crate) async fn log_filter(State(shared): State<Arc<Shared>>) -> Result<Response, AdminError> {
    change(&shared, FilterChange::None)
}

pub(crate) async fn set_log_filter(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<FilterRequest>,
) -> Result<Response, AdminError> {
    change(&shared, FilterChange::Set(request.filter))
}

pub(crate) async fn reset_log_filter(
    State(shared): State<Arc<Shared>>,
) -> Result<Response, AdminError> {
    change(&shared, FilterChange::Reset)
}

fn change(shared: &Shared, change: FilterChange) -> Result<Response, AdminError> {
    let FilterState {
        filter,
        configured,
        refused,
    } = observer(shared, "/api/v1/log-filter")?.log_filter(change);
    match refused {
        Some(why) => Err(AdminError::LogFilter(why)),
        None => Ok(Json(FilterBody { filter, configured }).into_response()),
    }
}
