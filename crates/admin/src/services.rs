//! Services and handlers, as their latest revisions have them.

use std::sync::Arc;
use std::time::Duration;

use abide_schema::{Schema, ServiceChanges, duration, update_service};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::app::Shared;
use crate::bodies::{self, HandlerBody, listing};
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
    let service = schema
        .latest_deployment_of(&name)
        .and_then(|deployment| deployment.services.get(&name))
        .ok_or_else(|| AdminError::ServiceNotFound(name.clone()))?;
    let handlers = service.handlers.values();
    let handlers: Vec<_> = handlers
        .map(|handler| HandlerBody::new(service, handler))
        .collect();
    Ok(Json(listing("handlers", handlers)).into_response())
}

pub(crate) async fn handler(
    State(shared): State<Arc<Shared>>,
    Path((name, handler)): Path<(String, String)>,
) -> Result<Response, AdminError> {
    let schema = shared.schema();
    let service = schema
        .latest_deployment_of(&name)
        .and_then(|deployment| deployment.services.get(&name))
        .ok_or_else(|| AdminError::ServiceNotFound(name.clone()))?;
    match service.handlers.get(&handler) {
        Some(found) => Ok(Json(HandlerBody::new(service, found)).into_response()),
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
    let service = schema
        .latest_deployment_of(&name)
        .and_then(|deployment| deployment.services.get(&name))
        .ok_or_else(|| AdminError::ServiceNotFound(name.clone()))?;
    let ingress = shared.options.ingress_endpoint.as_deref();
    Ok(Json(service_openapi::document(service, ingress)).into_response())
}

#[derive(Deserialize)]
pub(crate) struct UpdateBody {
    public: Option<bool>,
    idempotency_retention: Option<String>,
    workflow_completion_retention: Option<String>,
    journal_retention: Option<String>,
    inactivity_timeout: Option<String>,
    abort_timeout: Option<String>,
}

impl UpdateBody {
    fn changes(&self) -> Result<ServiceChanges, AdminError> {
        let read = |field: &'static str, text: &Option<String>| -> Result<Option<Duration>, _> {
            let read = text.as_deref().map(duration::parse).transpose();
            read.map_err(|error| AdminError::Field {
                field,
                reason: error.to_string(),
            })
        };
        Ok(ServiceChanges {
            public: self.public,
            idempotency_retention: read("idempotency_retention", &self.idempotency_retention)?,
            workflow_completion_retention: read(
                "workflow_completion_retention",
                &self.workflow_completion_retention,
            )?,
            journal_retention: read("journal_retention", &self.journal_retention)?,
            inactivity_timeout: read("inactivity_timeout", &self.inactivity_timeout)?,
            abort_timeout: read("abort_timeout", &self.abort_timeout)?,
        })
    }
}

pub(crate) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Result<Response, AdminError> {
    let changes = body.changes()?;
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
