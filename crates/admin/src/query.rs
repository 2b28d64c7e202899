//! SQL: the route, and what runs it behind a door of its own, so that nothing here knows the engine.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use crate::app::Shared;
use crate::error::AdminError;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlFormat {
    /// `{"rows":[…]}`.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// Why there are no rows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SqlError {
    /// The statement cannot be read or is not allowed.
    #[error("{0}")]
    Refused(String),
    /// It names what is not there, or failed.
    #[error("{0}")]
    Failed(String),
    /// Too many run.
    #[error("{0}")]
    Overloaded(String),
    /// Nothing runs queries here, or not now.
    #[error("{0}")]
    Unavailable(String),
}

/// The rows, as they are made. An error ends the body before its time.
pub type SqlRows = Pin<Box<dyn Stream<Item = Result<Bytes, SqlError>> + Send>>;

/// What runs queries.
#[async_trait]
pub trait Sql: Send + Sync {
    /// Runs one; returns when its first rows are there.
    async fn query(&self, text: String, format: SqlFormat) -> Result<SqlRows, SqlError>;
}

#[derive(Deserialize)]
pub(crate) struct Request {
    query: String,
}

pub(crate) async fn query(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Result<Response, AdminError> {
    let Some(sql) = &shared.sql else {
        return Err(AdminError::NotThereYet("POST /query".to_owned()));
    };
    let wants_json = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept == "application/json");
    let (format, content_type) = match wants_json {
        true => (SqlFormat::Json, "application/json"),
        false => (SqlFormat::Arrow, "application/vnd.apache.arrow.stream"),
    };
    Ok(match sql.query(request.query, format).await {
        Ok(rows) => (
            [(header::CONTENT_TYPE, content_type)],
            Body::from_stream(rows),
        )
            .into_response(),
        Err(error) => refusal(&error),
    })
}

/// Unlike those of other routes the bodies have no code.
fn refusal(error: &SqlError) -> Response {
    let status = match error {
        SqlError::Refused(_) => StatusCode::BAD_REQUEST,
        SqlError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        SqlError::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
        SqlError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = Json(json!({ "message": error.to_string() }));
    match error {
        SqlError::Overloaded(_) | SqlError::Unavailable(_) => {
            (status, [(header::RETRY_AFTER, "1")], body).into_response()
        }
        SqlError::Refused(_) | SqlError::Failed(_) => (status, body).into_response(),
    }
}
