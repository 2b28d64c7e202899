//! The rule book of concurrency limits, and the queues that wait under it (admin reference, section 12).

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use abide_metadata::keys;
use abide_schema::{Pattern, Precondition, Rule, RuleBook, RuleChange};
use abide_types::{QueueId, Timestamp};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::app::Shared;
use crate::cluster::{StoreError, Written};
use crate::error::AdminError;

/// How often somebody else may come first.
const TRIES_MAX: u32 = 10;

#[derive(Deserialize)]
pub(crate) struct UpsertRule {
    #[serde(deserialize_with = "pattern")]
    pattern: Pattern,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    precondition: PreconditionBody,
}

#[derive(Default, Deserialize, Serialize)]
struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<NonZeroU32>,
}

#[derive(Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PreconditionBody {
    #[default]
    None,
    Matches {
        version: u64,
    },
    DoesNotExist,
}

#[derive(Serialize)]
pub(crate) struct RuleBody {
    pattern: String,
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    disabled: bool,
    version: u64,
    last_modified_millis_since_epoch: u64,
}

#[derive(Deserialize)]
pub(crate) struct DeleteRule {
    #[serde(deserialize_with = "pattern")]
    pattern: Pattern,
    #[serde(default)]
    expected_version: Option<u64>,
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    let text = String::deserialize(deserializer)?;
    Pattern::from_str(&text).map_err(de::Error::custom)
}

impl From<UpsertRule> for RuleChange {
    fn from(rule: UpsertRule) -> Self {
        Self {
            pattern: rule.pattern,
            concurrency: rule.limits.concurrency,
            description: rule.description,
            disabled: rule.disabled,
            precondition: match rule.precondition {
                PreconditionBody::None => Precondition::None,
                PreconditionBody::Matches { version } => Precondition::Matches(version),
                PreconditionBody::DoesNotExist => Precondition::DoesNotExist,
            },
        }
    }
}

impl RuleBody {
    fn new(pattern: &Pattern, rule: &Rule) -> Self {
        Self {
            pattern: pattern.to_string(),
            limits: Limits {
                concurrency: rule.concurrency,
            },
            description: rule.description.clone(),
            disabled: rule.disabled,
            version: rule.version,
            last_modified_millis_since_epoch: rule.modified_at,
        }
    }
}

/// `PUT /limits/rules`: all of them, or none.
pub(crate) async fn upsert(
    State(shared): State<Arc<Shared>>,
    Json(rules): Json<Vec<UpsertRule>>,
) -> Result<Json<Vec<RuleBody>>, AdminError> {
    let changes: Vec<RuleChange> = rules.into_iter().map(Into::into).collect();
    let now = Timestamp::from_system(SystemTime::now());
    let (book, ()) = shared
        .change_rules(|book| Ok((book.with(&changes, now)?, ())))
        .await?;
    let written = changes.iter().filter_map(|change| {
        let rule = book.get(&change.pattern)?;
        Some(RuleBody::new(&change.pattern, rule))
    });
    Ok(Json(written.collect()))
}

/// `POST /limits/rules/bulk-delete`: all of them, or none; those that are not there count as deleted.
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Json(rules): Json<Vec<DeleteRule>>,
) -> Result<Json<Vec<String>>, AdminError> {
    let removals: Vec<_> = rules
        .into_iter()
        .map(|rule| (rule.pattern, rule.expected_version))
        .collect();
    let (_, removed) = shared
        .change_rules(|book| Ok(book.without(&removals)?))
        .await?;
    Ok(Json(removed.iter().map(Pattern::to_string).collect()))
}

/// `POST /vqueues/{id}/pause`.
pub(crate) async fn pause(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<StatusCode, AdminError> {
    set_paused(&shared, &id, true).await
}

/// `POST /vqueues/{id}/resume`.
pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<StatusCode, AdminError> {
    set_paused(&shared, &id, false).await
}

async fn set_paused(shared: &Shared, id: &str, paused: bool) -> Result<StatusCode, AdminError> {
    let id: QueueId = id.parse().map_err(|error: abide_types::IdError| {
        let reason = error.to_string();
        let field = "vqueue_id";
        AdminError::Field { field, reason }
    })?;
    shared.cluster.pause_queue(id, paused).await?;
    Ok(StatusCode::ACCEPTED)
}

impl Shared {
    /// Applies `change` to the stored rules; it may be called several times, each time with newer ones.
    async fn change_rules<T>(
        &self,
        change: impl Fn(&RuleBook) -> Result<(RuleBook, T), AdminError> + Send,
    ) -> Result<(RuleBook, T), AdminError> {
        let mut lost: Option<(RuleBook, T)> = None;
        for _ in 0..TRIES_MAX {
            let (version, stored) = self.cluster.read_document(keys::LIMITS).await?;
            let current = if version == 0 {
                RuleBook::default()
            } else {
                RuleBook::from_json(&stored)
                    .map_err(|error| StoreError::Broken(error.to_string()))?
            };
            if let Some(done) = lost.take()
                && done.0 == current
            {
                return Ok(done);
            }
            let (next, answer) = change(&current)?;
            if next == current {
                return Ok((next, answer));
            }
            let written = (self.cluster)
                .write_document(keys::LIMITS, version, next.to_json())
                .await?;
            match written {
                Written::Yes => return Ok((next, answer)),
                Written::Unknown => lost = Some((next, answer)),
                Written::No => {}
            }
        }
        let reason = format!("{TRIES_MAX} times somebody else changed the rules first");
        Err(StoreError::Unavailable(reason).into())
    }
}
