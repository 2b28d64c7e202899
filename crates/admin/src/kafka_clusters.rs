//! The Kafka clusters that subscriptions read from (admin reference, section 10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use abide_schema::{KafkaCluster, KafkaClusterError, KafkaProperties, Schema, is_secret_property};
use abide_types::Timestamp;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::app::Shared;
use crate::bodies::{listing, time};
use crate::error::AdminError;
use crate::registry::Changed;
use crate::subscriptions::{SubscriptionBody, parsed};

const SHOWN_FOR_A_SECRET: &str = "***";
const FROM_THE_FILE: &str = "This Kafka cluster was configured in the static cluster configuration, this is deprecated. Please register it using the new Kafka Admin functionalities.";

/// Names stand where a URI has its host.
#[derive(Deserialize)]
pub(crate) struct CreateBody {
    #[serde(deserialize_with = "parsed")]
    name: Authority,
    properties: KafkaProperties,
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Json(body): Json<CreateBody>,
) -> Result<Response, AdminError> {
    let cluster = KafkaCluster {
        name: body.name.to_string(),
        properties: body.properties,
        created_at: Timestamp::from_system(SystemTime::now()),
    };
    let mut tried = false;
    shared
        .change_schema(|schema| {
            // Its own, found again: the answer to an earlier try was lost.
            let is_done = std::mem::replace(&mut tried, true)
                && schema.kafka_cluster(&cluster.name) == Some(&cluster);
            let next = (!is_done).then(|| schema.add_kafka_cluster(cluster.clone()));
            Ok(Changed {
                next: next.transpose()?,
                answer: (),
            })
        })
        .await?;
    tracing::info!(cluster = cluster.name, "Kafka cluster registered");
    let location = [(header::LOCATION, format!("kafka-clusters/{}", cluster.name))];
    let body = Json(ClusterBody::new(&shared.schema(), &cluster));
    Ok((StatusCode::CREATED, location, body).into_response())
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let schema = shared.schema();
    let clusters = schema.kafka_clusters();
    let clusters: Vec<_> = clusters
        .map(|cluster| ClusterBody::new(&schema, cluster))
        .collect();
    Json(listing("clusters", clusters)).into_response()
}

#[derive(Deserialize)]
pub(crate) struct GetQuery {
    #[serde(default)]
    include_subscriptions: bool,
}

pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<GetQuery>,
) -> Result<Response, AdminError> {
    let schema = shared.schema();
    let Some(cluster) = schema.kafka_cluster(&name) else {
        return Err(AdminError::KafkaClusterNotFound(name));
    };
    let readers = schema
        .subscriptions()
        .filter(|subscription| query.include_subscriptions && subscription.cluster == name);
    let body = ClusterBody {
        subscriptions: Some(readers.map(SubscriptionBody::from).collect()),
        ..ClusterBody::new(&schema, cluster)
    };
    Ok(Json(body).into_response())
}

#[derive(Deserialize)]
pub(crate) struct UpdateBody {
    properties: KafkaProperties,
}

pub(crate) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Result<Response, AdminError> {
    let schema = shared
        .change_schema(|schema| {
            let properties = with_known_secrets(schema, &name, body.properties.clone());
            let next = schema.update_kafka_cluster(&name, properties)?;
            let changed = next != *schema;
            Ok(Changed {
                next: changed.then(|| next.clone()),
                answer: next,
            })
        })
        .await?;
    tracing::info!(cluster = name, "Kafka cluster changed");
    let Some(cluster) = schema.kafka_cluster(&name) else {
        return Err(AdminError::KafkaClusterNotFound(name));
    };
    Ok(Json(ClusterBody::new(&schema, cluster)).into_response())
}

/// Tools change what they were shown and send back all of it. A secret that comes back as it was shown stays what it is.
fn with_known_secrets(
    schema: &Schema,
    name: &str,
    mut properties: KafkaProperties,
) -> KafkaProperties {
    let known = schema.kafka_cluster(name);
    for (property, value) in &mut properties {
        if value == SHOWN_FOR_A_SECRET
            && is_secret_property(property)
            && let Some(secret) = known.and_then(|known| known.properties.get(property))
        {
            value.clone_from(secret);
        }
    }
    properties
}

#[derive(Deserialize)]
pub(crate) struct DeleteQuery {
    #[serde(default)]
    force: bool,
}

pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, AdminError> {
    let mut tried = false;
    shared
        .change_schema(|schema| {
            let next = schema.remove_kafka_cluster(&name, query.force);
            let next = match (next, std::mem::replace(&mut tried, true)) {
                // A second look finds nothing when the first try was done and its answer was lost.
                (Err(KafkaClusterError::NothingToRemove(_)), true) => None,
                (next, _) => Some(next?),
            };
            Ok(Changed { next, answer: () })
        })
        .await?;
    tracing::info!(cluster = name, "Kafka cluster removed");
    Ok(StatusCode::ACCEPTED)
}

#[derive(Serialize)]
struct ClusterBody<'a> {
    name: &'a str,
    properties: BTreeMap<&'a str, &'a str>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<Vec<SubscriptionBody<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<[Info; 1]>,
}

#[derive(Serialize)]
struct Info {
    message: &'static str,
}

impl<'a> ClusterBody<'a> {
    fn new(schema: &Schema, cluster: &'a KafkaCluster) -> Self {
        let configured = schema.is_configured_kafka_cluster(&cluster.name);
        Self {
            name: &cluster.name,
            properties: without_secrets(&cluster.properties),
            created_at: match configured {
                true => "1970-01-01T00:00:00Z".to_owned(),
                false => time(cluster.created_at),
            },
            subscriptions: None,
            info: configured.then_some([Info {
                message: FROM_THE_FILE,
            }]),
        }
    }
}

/// The properties as they are shown.
pub(crate) fn without_secrets(properties: &KafkaProperties) -> BTreeMap<&str, &str> {
    let shown = properties.iter().map(|(name, value)| {
        let hidden = is_secret_property(name);
        let value = if hidden { SHOWN_FOR_A_SECRET } else { value };
        (name.as_str(), value)
    });
    shown.collect()
}
