//! What becomes of the records of Kafka topics (admin reference, section 11).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use abide_schema::{KafkaProperties, Subscription, SubscriptionError};
use abide_types::SubscriptionId;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::app::Shared;
use crate::bodies::listing;
use crate::error::AdminError;
use crate::kafka_clusters::without_secrets;
use crate::registry::Changed;

#[derive(Deserialize)]
pub(crate) struct CreateBody {
    #[serde(deserialize_with = "parsed")]
    source: Uri,
    #[serde(deserialize_with = "parsed")]
    sink: Uri,
    #[serde(default)]
    options: Option<KafkaProperties>,
}

/// Reads a text where it stands, so that the place of a wrong one is told.
pub(crate) fn parsed<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    struct Text<T>(PhantomData<T>);
    impl<T> de::Visitor<'_> for Text<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        type Value = T;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    from.deserialize_str(Text(PhantomData))
}

/// Host and path of `uri`, without the slash between them.
fn parts(
    end: &'static str,
    scheme: &'static str,
    uri: Uri,
) -> Result<(String, String), AdminError> {
    match (uri.scheme_str(), uri.authority()) {
        (Some(found), Some(host)) if found == scheme => {
            let path = uri.path();
            let path = path.strip_prefix('/').unwrap_or(path);
            Ok((host.to_string(), path.to_owned()))
        }
        _ => Err(AdminError::SubscriptionScheme { end, uri, scheme }),
    }
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Json(body): Json<CreateBody>,
) -> Result<Response, AdminError> {
    let (cluster, topic) = parts("source", "kafka", body.source)?;
    let (service, handler) = parts("sink", "service", body.sink)?;
    let wanted = Subscription {
        id: SubscriptionId(ulid::Ulid::generate().into()),
        cluster,
        topic,
        service,
        handler,
        options: body.options.unwrap_or_default(),
    };
    let schema = shared
        .change_schema(|schema| {
            // Its own, found again: the answer to an earlier try was lost.
            if schema.subscription(wanted.id).is_some() {
                return Ok(Changed {
                    next: None,
                    answer: schema.clone(),
                });
            }
            let next = schema.add_subscription(wanted.clone())?;
            Ok(Changed {
                next: Some(next.clone()),
                answer: next,
            })
        })
        .await?;
    let subscription = schema.subscription(wanted.id);
    let subscription = subscription.ok_or(AdminError::SubscriptionNotFound(wanted.id))?;
    tracing::info!(
        subscription = %wanted.id,
        source = subscription.source(),
        sink = subscription.sink(),
        "subscribed"
    );
    let location = [(header::LOCATION, format!("subscriptions/{}", wanted.id))];
    let body = Json(SubscriptionBody::from(subscription));
    Ok((StatusCode::CREATED, location, body).into_response())
}

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    source: Option<String>,
    sink: Option<String>,
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<ListQuery>,
) -> Response {
    let schema = shared.schema();
    let bodies = schema.subscriptions().map(SubscriptionBody::from);
    let wanted: Vec<_> = bodies
        .filter(|body| {
            query
                .source
                .as_ref()
                .is_none_or(|source| *source == body.source)
        })
        .filter(|body| query.sink.as_ref().is_none_or(|sink| *sink == body.sink))
        .collect();
    Json(listing("subscriptions", wanted)).into_response()
}

pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    let id = parse_id(id)?;
    let schema = shared.schema();
    let subscription = schema.subscription(id);
    let subscription = subscription.ok_or(AdminError::SubscriptionNotFound(id))?;
    Ok(Json(SubscriptionBody::from(subscription)).into_response())
}

pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<StatusCode, AdminError> {
    let id = parse_id(id)?;
    let mut tried = false;
    shared
        .change_schema(|schema| {
            let next = match (
                schema.remove_subscription(id),
                std::mem::replace(&mut tried, true),
            ) {
                // A second look finds nothing when the first try was done and its answer was lost.
                (Err(SubscriptionError::NothingToRemove(_)), true) => None,
                (next, _) => Some(next?),
            };
            Ok(Changed { next, answer: () })
        })
        .await?;
    tracing::info!(subscription = %id, "unsubscribed");
    Ok(StatusCode::ACCEPTED)
}

fn parse_id(id: String) -> Result<SubscriptionId, AdminError> {
    id.parse().map_err(|source| AdminError::Path {
        name: "subscription",
        value: id,
        source,
    })
}

#[derive(Serialize)]
pub(crate) struct SubscriptionBody<'a> {
    id: String,
    source: String,
    sink: String,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a Subscription> for SubscriptionBody<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        Self {
            id: subscription.id.to_string(),
            source: subscription.source(),
            sink: subscription.sink(),
            options: without_secrets(&subscription.options),
        }
    }
}
