//! Looking at invocations and operating on them.

use std::fmt;
use std::sync::Arc;

use abide_processor::api::{
    InvocationFilter, InvocationStatus, Operated, Operation, Restarted, Unsuitable, Whither,
};
use abide_types::{IdError, InvocationId};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::StatusCode;
use serde::de::{Error, Visitor};
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
        (Operated::Unsuitable(why), _) => Err(protocol_outside(id, why)),
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
    let whither = in_query(query.deployment.as_deref(), Whither::Keep)?;
    resume_one(&shared, id, whither).await
}

async fn resume_one(
    shared: &Shared,
    id: InvocationId,
    whither: Whither,
) -> Result<StatusCode, AdminError> {
    match shared.cluster.resume(id, whither).await? {
        Operated::Unsuitable(Unsuitable::Unknown) => Err(AdminError::NoDeploymentToResume(id)),
        operated => outcome(id, Operation::Resume, operated),
    }
}

#[derive(Deserialize)]
pub(crate) struct RestartQuery {
    #[serde(default)]
    from: u32,
    deployment: Option<String>,
}

pub(crate) async fn restart_as_new(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<RestartQuery>,
) -> Result<Response, AdminError> {
    #[derive(Serialize)]
    struct Body {
        new_invocation_id: String,
    }
    let id = parse_id(&id)?;
    let whither = in_query(query.deployment.as_deref(), Whither::Latest)?;
    let new = restart_one(&shared, id, query.from, whither).await?;
    let new_invocation_id = new.to_string();
    Ok(Json(Body { new_invocation_id }).into_response())
}

async fn restart_one(
    shared: &Shared,
    id: InvocationId,
    from: u32,
    whither: Whither,
) -> Result<InvocationId, AdminError> {
    let (new, restarted) = shared.cluster.restart(id, from, whither).await?;
    match restarted {
        Restarted::Done => Ok(new),
        Restarted::NotFound => Err(AdminError::InvocationNotFound(id)),
        Restarted::StillRunning => Err(AdminError::StillRunning(id)),
        Restarted::NotStarted => Err(AdminError::RestartTooEarly(id)),
        Restarted::NoInput => Err(AdminError::NoInput(id)),
        Restarted::Unsupported => Err(AdminError::CannotRestart(id)),
        Restarted::Incomplete => Err(AdminError::IncompletePrefix(id)),
        Restarted::Unsuitable(Unsuitable::Unknown) => Err(AdminError::NoDeploymentToRestart(id)),
        Restarted::Unsuitable(why) => Err(protocol_outside(id, why)),
    }
}

/// The deployment is there, but speaks something else.
fn protocol_outside(id: InvocationId, why: Unsuitable) -> AdminError {
    match why {
        Unsuitable::Unknown => AdminError::NoDeploymentToResume(id),
        Unsuitable::Protocol {
            deployment,
            bound,
            min,
            max,
        } => AdminError::ProtocolOutside {
            id,
            bound,
            deployment,
            min,
            max,
        },
    }
}

/// Where an invocation is to go on, as a client writes it.
fn whither(text: Option<&str>, default: Whither) -> Result<Whither, IdError> {
    match text {
        None => Ok(default),
        Some(text) if text.eq_ignore_ascii_case("keep") => Ok(Whither::Keep),
        Some(text) if text.eq_ignore_ascii_case("latest") => Ok(Whither::Latest),
        // Nothing at all is too short rather than misshapen.
        Some("") => Err(IdError::BadLength {
            expected: DEPLOYMENT_ID_LENGTH,
            actual: 0,
        }),
        Some(id) => id.parse().map(Whither::Deployment),
    }
}

/// Characters of a deployment's id.
const DEPLOYMENT_ID_LENGTH: usize = 26;

fn in_query(text: Option<&str>, default: Whither) -> Result<Whither, AdminError> {
    whither(text, default).map_err(|error| AdminError::Parameter {
        parameter: "deployment",
        reason: error.to_string(),
    })
}

fn in_body(text: Option<&str>, default: Whither) -> Result<Whither, AdminError> {
    whither(text, default).map_err(|error| AdminError::Field {
        field: "deployment",
        reason: error.to_string(),
    })
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
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = IdText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an invocation id")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<IdText, E> {
                text.parse().map(IdText).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(IdVisitor)
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
struct RestartedBody {
    old_invocation_id: String,
    new_invocation_id: String,
}

#[derive(Serialize)]
struct BatchResult<T> {
    succeeded: Vec<T>,
    failed: Vec<Failed>,
}

pub(crate) async fn batch(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(body): Json<BatchBody>,
) -> Result<Response, AdminError> {
    let ids = body.invocation_ids;
    let deployment = body.deployment.as_deref();
    if ids.len() > BATCH_MAX {
        return Err(AdminError::BatchTooLarge(ids.len()));
    }
    let shared = &*shared;
    let operation = match name.as_str() {
        "cancel" => Operation::Cancel,
        "kill" => Operation::Kill,
        "pause" => Operation::Pause,
        "purge" => Operation::Purge,
        "purge-journal" => Operation::PurgeJournal,
        "resume" => {
            let whither = in_body(deployment, Whither::Keep)?;
            let resumed = each(ids, |id| async move {
                resume_one(shared, id, whither).await?;
                Ok(id.to_string())
            });
            return Ok(resumed.await);
        }
        "restart-as-new" => {
            let whither = in_body(deployment, Whither::Latest)?;
            let restarted = each(ids, |id| async move {
                let new = restart_one(shared, id, 0, whither).await?;
                Ok(RestartedBody {
                    old_invocation_id: id.to_string(),
                    new_invocation_id: new.to_string(),
                })
            });
            return Ok(restarted.await);
        }
        _ => return Ok(StatusCode::NOT_FOUND.into_response()),
    };
    let operated = each(ids, |id| async move {
        operate(shared, id, operation).await?;
        Ok(id.to_string())
    });
    Ok(operated.await)
}

/// Does the same to each, some at a time, and tells what became of them.
async fn each<T, F>(ids: Vec<IdText>, operate: impl Fn(InvocationId) -> F) -> Response
where
    T: Serialize,
    F: Future<Output = Result<T, AdminError>>,
{
    let results = futures::stream::iter(ids)
        .map(|IdText(id)| {
            let done = operate(id);
            async move { (id, done.await) }
        })
        .buffered(BATCH_WIDTH)
        .collect::<Vec<_>>()
        .await;
    let mut succeeded = Vec::new();
    let mut failed = Vec::new();
    for (id, result) in results {
        match result {
            Ok(done) => succeeded.push(done),
            Err(error) => failed.push(Failed {
                invocation_id: id.to_string(),
                error: error.in_batch(),
            }),
        }
    }
    Json(BatchResult { succeeded, failed }).into_response()
}
