//! Looking at invocations and operating on them.

use std::sync::Arc;

use abide_processor::api::{InvocationFilter, InvocationStatus, Operated, Operation};
use abide_types::{DeploymentId, InvocationId};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::app::Shared;
use crate::bodies::{InvocationBody, listing};
use crate::error::{AdminError, BATCH_MAX};

/// Operations of one batch that run at a time.
const BATCH_WIDTH: usize = 32;
/// The most invocations that one listing shows.
const LIST_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    service: Option<String>,
    key: Option<String>,
    status: Option<String>,
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, AdminError> {
    let filter = InvocationFilter {
        service: query.service,
        key: query.key,
        status: query.status.as_deref().map(parse_status).transpose()?,
        limit: query.limit.unwrap_or_default().min(LIST_MAX),
    };
    let invocations = shared.cluster.list(filter).await?;
    let invocations: Vec<_> = invocations.into_iter().map(InvocationBody::from).collect();
    Ok(Json(listing("invocations", invocations)).into_response())
}

const STATUSES: [InvocationStatus; 8] = [
    InvocationStatus::Scheduled,
    InvocationStatus::Pending,
    InvocationStatus::Ready,
    InvocationStatus::Running,
    InvocationStatus::BackingOff,
    InvocationStatus::Suspended,
    InvocationStatus::Paused,
    InvocationStatus::Completed,
];

fn parse_status(text: &str) -> Result<InvocationStatus, AdminError> {
    let known = STATUSES.into_iter().find(|status| status.name() == text);
    known.ok_or_else(|| AdminError::Parameter {
        parameter: "status",
        reason: format!(
            "'{text}' is none of {}",
            STATUSES.map(InvocationStatus::name).join(", ")
        ),
    })
}

pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    let id = parse_id(&id)?;
    let info = shared.cluster.get(id).await?;
    let info = info.ok_or(AdminError::InvocationNotFound(id))?;
    Ok(Json(InvocationBody::from(info)).into_response())
}

fn parse_id(id: &str) -> Result<InvocationId, AdminError> {
    id.parse()
        .map_err(|error: abide_types::IdError| AdminError::Field {
            field: "invocation_id",
            reason: error.to_string(),
        })
}

/// The status of an operation that was done, or why it was not (admin reference, section 8).
fn outcome(
    id: InvocationId,
    operation: Operation,
    operated: Operated,
) -> Result<StatusCode, AdminError> {
    match (operated, operation) {
        (Operated::Done, _) => Ok(StatusCode::OK),
        (Operated::Appended, Operation::Cancel | Operation::Pause) => Ok(StatusCode::ACCEPTED),
        (Operated::Appended, _) => Ok(StatusCode::OK),
        (Operated::CannotMove, _) => Err(AdminError::CannotMove(id)),
        (Operated::NotFound, _) => Err(AdminError::InvocationNotFound(id)),
        (Operated::AlreadyCompleted | Operated::WrongState, Operation::Pause) => {
            Err(AdminError::NotRunning(id))
        }
        (Operated::AlreadyCompleted, Operation::Resume) => {
            Err(AdminError::CompletedCannotResume(id))
        }
        (Operated::WrongState, Operation::Resume) => Err(AdminError::NotStarted(id)),
        (Operated::NotCompleted, _)
        | (Operated::WrongState, Operation::Purge | Operation::PurgeJournal) => {
            Err(AdminError::NotCompleted(id))
        }
        (Operated::AlreadyCompleted, _)
        | (Operated::WrongState, Operation::Cancel | Operation::Kill) => {
            Err(AdminError::AlreadyCompleted(id))
        }
    }
}

async fn operate(
    shared: &Shared,
    id: InvocationId,
    operation: Operation,
) -> Result<StatusCode, AdminError> {
    outcome(id, operation, shared.cluster.operate(id, operation).await?)
}

macro_rules! operations {
    ($($name:ident => $operation:ident,)*) => {
        $(pub(crate) async fn $name(
            State(shared): State<Arc<Shared>>,
            Path(id): Path<String>,
        ) -> Result<StatusCode, AdminError> {
            operate(&shared, parse_id(&id)?, Operation::$operation).await
        })*
    };
}

operations! {
    cancel => Cancel,
    kill => Kill,
    pause => Pause,
    purge => Purge,
    purge_journal => PurgeJournal,
}

#[derive(Deserialize)]
pub(crate) struct ResumeQuery {
    deployment: Option<String>,
}

pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<ResumeQuery>,
) -> Result<StatusCode, AdminError> {
    let id = parse_id(&id)?;
    check_deployment(query.deployment.as_deref())?;
    operate(&shared, id, Operation::Resume).await
}

/// An invocation stays where it is pinned; moving it is not possible yet.
fn check_deployment(choice: Option<&str>) -> Result<(), AdminError> {
    match choice {
        None | Some("keep") => Ok(()),
        Some("latest") => Err(AdminError::NotSupported("resuming at another deployment")),
        Some(id) => Err(match id.parse::<DeploymentId>() {
            Ok(_) => AdminError::NotSupported("resuming at another deployment"),
            Err(_) => AdminError::Parameter {
                parameter: "deployment",
                reason: "bad format".to_owned(),
            },
        }),
    }
}

#[derive(Deserialize)]
pub(crate) struct DeleteQuery {
    #[serde(default)]
    mode: DeleteMode,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum DeleteMode {
    #[default]
    #[serde(alias = "cancel")]
    Cancel,
    #[serde(alias = "kill")]
    Kill,
    #[serde(alias = "purge")]
    Purge,
}

/// The deprecated form: it says that the request was taken, whatever comes of it.
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, AdminError> {
    let operation = match query.mode {
        DeleteMode::Cancel => Operation::Cancel,
        DeleteMode::Kill => Operation::Kill,
        DeleteMode::Purge => Operation::Purge,
    };
    shared.cluster.operate(parse_id(&id)?, operation).await?;
    Ok(StatusCode::ACCEPTED)
}

struct IdText(InvocationId);

impl<'de> Deserialize<'de> for IdText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
pub(crate) struct BatchBody {
    invocation_ids: Vec<IdText>,
    deployment: Option<String>,
}

#[derive(Serialize)]
struct Failed {
    invocation_id: String,
    error: String,
}

#[derive(Serialize)]
struct BatchResult {
    succeeded: Vec<String>,
    failed: Vec<Failed>,
}

pub(crate) async fn batch(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(body): Json<BatchBody>,
) -> Result<Response, AdminError> {
    let operation = match name.as_str() {
        "cancel" => Operation::Cancel,
        "kill" => Operation::Kill,
        "pause" => Operation::Pause,
        "resume" => {
            check_deployment(body.deployment.as_deref())?;
            Operation::Resume
        }
        "purge" => Operation::Purge,
        "purge-journal" => Operation::PurgeJournal,
        "restart-as-new" => return Err(AdminError::NotThereYet("restart-as-new".to_owned())),
        _ => return Ok(StatusCode::NOT_FOUND.into_response()),
    };
    if body.invocation_ids.len() > BATCH_MAX {
        return Err(AdminError::BatchTooLarge(body.invocation_ids.len()));
    }
    let results = futures::stream::iter(body.invocation_ids)
        .map(|IdText(id)| {
            let shared = &shared;
            async move { (id, operate(shared, id, operation).await) }
        })
        .buffered(BATCH_WIDTH)
        .collect::<Vec<_>>()
        .await;
    let mut succeeded = Vec::new();
    let mut failed = Vec::new();
    for (id, result) in results {
        match result {
            Ok(_) => succeeded.push(id.to_string()),
            Err(error) => failed.push(Failed {
                invocation_id: id.to_string(),
                error: match error {
                    AdminError::InvocationNotFound(id) => format!("Invocation '{id}' not found"),
                    error => error.to_string(),
                },
            }),
        }
    }
    Ok(Json(BatchResult { succeeded, failed }).into_response())
}
