//! Services and handlers, as their latest revisions have them.

use std::sync::Arc;
use std::time::Duration;

use abide_invoker::{SerdesOperation, SerdesRequest};
use abide_schema::{Schema, ServiceChanges, duration, update_service};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::app::Shared;
use crate::bodies::{self, HandlerBody, Offer, listing};
use crate::error::AdminError;
use crate::registry::Changed;
use crate::service_openapi;

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let schema = shared.schema();
    let services = schema.services();
    let services: Vec<_> = services
        .filter_map(|view| bodies::service(&schema, view))
        .collect();
    Json(listing("services", services)).into_response()
}

pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Response, AdminError> {
    show(&shared.schema(), &name)
}

fn show(schema: &Schema, name: &str) -> Result<Response, AdminError> {
    let view = schema.service(name).ok();
    let body = view.and_then(|view| bodies::service(schema, view));
    let body = body.ok_or_else(|| AdminError::ServiceNotFound(name.to_owned()))?;
    Ok(Json(body).into_response())
}

pub(crate) async fn handlers(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Response, AdminError> {
    let schema = shared.schema();
    let offer = Offer::latest(&schema, &name).ok_or(AdminError::ServiceNotFound(name))?;
    let handlers = offer.service.handlers.values();
    let handlers: Vec<_> = handlers
        .map(|handler| HandlerBody::new(offer, handler))
        .collect();
    Ok(Json(listing("handlers", handlers)).into_response())
}

pub(crate) async fn handler(
    State(shared): State<Arc<Shared>>,
    Path((name, handler)): Path<(String, String)>,
) -> Result<Response, AdminError> {
    let schema = shared.schema();
    let found = Offer::latest(&schema, &name)
        .and_then(|offer| Some((offer, offer.service.handlers.get(&handler)?)));
    match found {
        Some((offer, handler)) => Ok(Json(HandlerBody::new(offer, handler)).into_response()),
        None => Err(AdminError::HandlerNotFound {
            service: name,
            handler,
        }),
    }
}

pub(crate) async fn openapi(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Response, AdminError> {
    let schema = shared.schema();
    let offer = Offer::latest(&schema, &name).ok_or(AdminError::ServiceNotFound(name))?;
    let ingress = shared.options.ingress_endpoint.as_deref();
    Ok(Json(service_openapi::document(offer.service, ingress)).into_response())
}

/// Has the endpoint decode or encode a payload. What comes back has no content type, as only the caller knows it.
pub(crate) async fn serdes(
    State(shared): State<Arc<Shared>>,
    Path((service, operation, serde)): Path<(String, String, String)>,
    body: Bytes,
) -> Result<Response, AdminError> {
    let operation = match operation.as_str() {
        "decode" => SerdesOperation::Decode,
        "encode" => SerdesOperation::Encode,
        _ => return Ok(StatusCode::NOT_FOUND.into_response()),
    };
    let schema = shared.schema();
    let deployment = schema
        .latest_deployment_of(&service)
        .ok_or_else(|| AdminError::ServiceNotFound(service.clone()))?;
    let request = SerdesRequest {
        deployment,
        service: &service,
        operation,
        serde: &serde,
        body,
    };
    let answer = shared.cluster.serdes(request).await?;
    Ok(axum::body::Body::from(answer).into_response())
}

/// A duration as people write it. What is below a millisecond is cut off, as nothing here is that exact.
struct Friendly(Duration);

impl<'de> Deserialize<'de> for Friendly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let duration = duration::parse(&text).map_err(D::Error::custom)?;
        let millis = u64::try_from(duration.as_millis()).map_err(D::Error::custom)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

#[derive(Deserialize)]
pub(crate) struct UpdateBody {
    public: Option<bool>,
    idempotency_retention: Option<Friendly>,
    workflow_completion_retention: Option<Friendly>,
    journal_retention: Option<Friendly>,
    inactivity_timeout: Option<Friendly>,
    abort_timeout: Option<Friendly>,
}

impl From<UpdateBody> for ServiceChanges {
    fn from(body: UpdateBody) -> Self {
        let read = |duration: Option<Friendly>| duration.map(|Friendly(duration)| duration);
        Self {
            public: body.public,
            idempotency_retention: read(body.idempotency_retention),
            workflow_completion_retention: read(body.workflow_completion_retention),
            journal_retention: read(body.journal_retention),
            inactivity_timeout: read(body.inactivity_timeout),
            abort_timeout: read(body.abort_timeout),
        }
    }
}

pub(crate) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Result<Response, AdminError> {
    let changes = ServiceChanges::from(body);
    let schema = shared
        .change_schema(|schema| {
            let next = update_service(schema, &name, &changes)?;
            let changed = next != *schema;
            Ok(Changed {
                next: changed.then(|| next.clone()),
                answer: next,
            })
        })
        .await?;
    show(&schema, &name)
}
