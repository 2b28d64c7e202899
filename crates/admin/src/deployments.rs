//! Registering endpoints, and what is registered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use abide_invoker::DiscoverRequest;
use abide_schema::{
    Deployment, Discovered, HttpVersion, RegisterOptions, Registered, Schema, register as add,
    update_deployment,
};
use abide_types::{DeploymentId, Timestamp};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::app::{ApiVersion, Shared};
use crate::bodies::{self, RegisteredBody, listing};
use crate::error::AdminError;
use crate::registry::Changed;

#[derive(Deserialize)]
#[serde(try_from = "RegisterFields")]
pub(crate) struct RegisterBody {
    target: Target,
    additional_headers: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    use_http_11: bool,
    auth: Option<Auth>,
    breaking: bool,
    force: Option<bool>,
    dry_run: bool,
}

enum Target {
    Http(UriText),
    Lambda,
}

#[derive(Deserialize)]
struct RegisterFields {
    uri: Option<UriText>,
    arn: Option<String>,
    additional_headers: Option<Headers>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    use_http_11: bool,
    auth: Option<Auth>,
    #[serde(default)]
    breaking: bool,
    force: Option<bool>,
    #[serde(default)]
    dry_run: bool,
}

impl TryFrom<RegisterFields> for RegisterBody {
    type Error = &'static str;

    fn try_from(fields: RegisterFields) -> Result<Self, &'static str> {
        let target = match (fields.uri, fields.arn) {
            (Some(uri), _) => Target::Http(uri),
            (None, Some(_)) => Target::Lambda,
            (None, None) => return Err("there is neither a `uri` nor an `arn`"),
        };
        Ok(Self {
            target,
            additional_headers: fields.additional_headers.unwrap_or_default().0,
            metadata: fields.metadata,
            use_http_11: fields.use_http_11,
            auth: fields.auth,
            breaking: fields.breaking,
            force: fields.force,
            dry_run: fields.dry_run,
        })
    }
}

/// How the engine would have to authenticate itself with the endpoint.
#[derive(Deserialize)]
enum Auth {
    GoogleIdToken {},
}

/// What can be read as a URI.
struct UriText {
    text: String,
    uri: Uri,
}

impl<'de> Deserialize<'de> for UriText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uri = text.parse().map_err(D::Error::custom)?;
        Ok(Self { text, uri })
    }
}

/// Headers that can be sent; names in lower case.
#[derive(Default)]
struct Headers(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bad = |name: &str| D::Error::custom(format!("'{name}' cannot be sent as a header"));
        let headers = BTreeMap::<String, String>::deserialize(deserializer)?;
        let headers = headers.into_iter().map(|(name, value)| {
            let parsed = HeaderName::try_from(name.as_str()).map_err(|_| bad(&name))?;
            HeaderValue::try_from(value.as_str()).map_err(|_| bad(&name))?;
            Ok((parsed.as_str().to_owned(), value))
        });
        headers.collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) async fn register(
    State(shared): State<Arc<Shared>>,
    version: ApiVersion,
    Json(body): Json<RegisterBody>,
) -> Result<Response, AdminError> {
    let uri = match body.target {
        Target::Http(uri) => absolute(uri)?,
        Target::Lambda => {
            return Err(AdminError::Field {
                field: "arn",
                reason: "AWS Lambda functions are not supported by this server".to_owned(),
            });
        }
    };
    if let Some(Auth::GoogleIdToken {}) = body.auth {
        let reason = "requests with Google ID tokens are not supported by this server".to_owned();
        return Err(AdminError::Field {
            field: "auth",
            reason,
        });
    }
    let additional_headers = body.additional_headers;
    let force = body.force.unwrap_or(version == ApiVersion::V2);
    let routing_headers = &shared.options.deployment_routing_headers;
    let address = uri.to_string();

    let schema = shared.schema();
    let known = schema.deployment_at(&address, &additional_headers, routing_headers);
    if let (Some(known), false) = (known, force) {
        return unchanged(version, &schema, known);
    }
    let request = DiscoverRequest {
        uri: address.clone(),
        use_http_11: body.use_http_11,
        additional_headers: additional_headers.clone(),
    };
    let offer = shared.cluster.discover(request).await?;
    let discovered = Discovered {
        uri: address,
        additional_headers,
        metadata: body.metadata,
        http_version: offer.http_version,
        sdk_version: offer.sdk_version,
        manifest: offer.manifest,
    };
    let options = RegisterOptions {
        id: DeploymentId(ulid::Ulid::generate().into()),
        at: Timestamp::from_system(SystemTime::now()),
        force,
        breaking: body.breaking,
        routing_headers,
    };
    let (schema, registered) = shared
        .change_schema(|schema| {
            let (next, registered) = add(schema, discovered.clone(), &options)?;
            // Found at its own id: the answer to an earlier try was lost, but it was done.
            let registered = match registered {
                Registered::Unchanged(id) if id == options.id => Registered::Created(id),
                registered => registered,
            };
            let store = !body.dry_run && next != *schema;
            Ok(Changed {
                next: store.then(|| next.clone()),
                answer: (next, registered),
            })
        })
        .await?;
    let id = registered.deployment();
    let deployment = schema
        .deployment(id)
        .ok_or(AdminError::DeploymentNotFound(id))?;
    match registered {
        Registered::Created(id) => {
            if !body.dry_run {
                tracing::info!(deployment = %id, uri = deployment.uri, "deployment registered");
            }
            Ok(show_registered(StatusCode::CREATED, &schema, deployment))
        }
        Registered::Replaced(id) => {
            if !body.dry_run {
                tracing::info!(deployment = %id, uri = deployment.uri, "deployment replaced");
            }
            let status = match version {
                ApiVersion::V2 => StatusCode::CREATED,
                ApiVersion::Current => StatusCode::OK,
            };
            Ok(show_registered(status, &schema, deployment))
        }
        Registered::Unchanged(_) => unchanged(version, &schema, deployment),
    }
}

fn unchanged(
    version: ApiVersion,
    schema: &Schema,
    deployment: &Deployment,
) -> Result<Response, AdminError> {
    match version {
        ApiVersion::V2 => Err(AdminError::DeploymentExists(deployment.id)),
        ApiVersion::Current => Ok(show_registered(StatusCode::OK, schema, deployment)),
    }
}

fn show_registered(status: StatusCode, schema: &Schema, deployment: &Deployment) -> Response {
    let location = [(header::LOCATION, format!("deployments/{}", deployment.id))];
    let body = Json(RegisteredBody::new(schema, deployment));
    (status, location, body).into_response()
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let schema = shared.schema();
    let deployments: Vec<_> = schema
        .deployments()
        .map(bodies::deployment_in_short)
        .collect();
    Json(listing("deployments", deployments)).into_response()
}

pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    show(&shared.schema(), parse_id(id)?)
}

fn show(schema: &Schema, id: DeploymentId) -> Result<Response, AdminError> {
    let deployment = schema
        .deployment(id)
        .ok_or(AdminError::DeploymentNotFound(id))?;
    Ok(Json(bodies::deployment(schema, deployment)).into_response())
}

#[derive(Deserialize)]
pub(crate) struct UpdateBody {
    uri: Option<UriText>,
    arn: Option<String>,
    additional_headers: Option<Headers>,
    use_http_11: Option<bool>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Result<Response, AdminError> {
    let id = parse_id(id)?;
    if body.arn.is_some() {
        let reason = "the deployment is an HTTP endpoint".to_owned();
        return Err(AdminError::Field {
            field: "arn",
            reason,
        });
    }
    let schema = shared.schema();
    let old = schema
        .deployment(id)
        .ok_or(AdminError::DeploymentNotFound(id))?;
    if body.uri.is_none() && body.additional_headers.is_none() && body.use_http_11.is_none() {
        return show(&schema, id);
    }
    // Another address may speak another version.
    let as_before = body.uri.is_none() && old.http_version == HttpVersion::Http11;
    let uri = match body.uri {
        Some(uri) => absolute(uri)?.to_string(),
        None => old.uri.clone(),
    };
    let additional_headers = match body.additional_headers {
        Some(Headers(headers)) => headers,
        None => old.additional_headers.clone(),
    };
    let request = DiscoverRequest {
        uri: uri.clone(),
        use_http_11: body.use_http_11.unwrap_or(as_before),
        additional_headers: additional_headers.clone(),
    };
    let offer = shared.cluster.discover(request).await?;
    let discovered = Discovered {
        uri,
        additional_headers,
        metadata: old.metadata.clone(),
        http_version: offer.http_version,
        sdk_version: offer.sdk_version,
        manifest: offer.manifest,
    };
    let schema = shared
        .change_schema(|schema| {
            let next = update_deployment(schema, id, discovered.clone(), body.overwrite)?;
            let store = !body.dry_run && next != *schema;
            Ok(Changed {
                next: store.then(|| next.clone()),
                answer: next,
            })
        })
        .await?;
    show(&schema, id)
}

pub(crate) async fn put_is_gone() -> AdminError {
    AdminError::PutIsGone
}

#[derive(Deserialize)]
pub(crate) struct DeleteQuery {
    #[serde(default)]
    force: bool,
}

pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, AdminError> {
    let id = parse_id(id)?;
    if !query.force {
        return Ok(StatusCode::NOT_IMPLEMENTED);
    }
    let mut tried = false;
    shared
        .change_schema(|schema| {
            // A second look finds nothing when the first try was done and its answer was lost.
            let next = schema.without_deployment(id);
            match (next, std::mem::replace(&mut tried, true)) {
                (None, false) => Err(AdminError::NoDeploymentToDelete(id)),
                (next, _) => Ok(Changed { next, answer: () }),
            }
        })
        .await?;
    tracing::info!(deployment = %id, "deployment deleted");
    Ok(StatusCode::ACCEPTED)
}

fn parse_id(id: String) -> Result<DeploymentId, AdminError> {
    id.parse().map_err(|source| AdminError::Path {
        name: "deployment",
        value: id,
        source,
    })
}

/// An absolute URI. One without a path gets a slash.
fn absolute(UriText { text, uri }: UriText) -> Result<Uri, AdminError> {
    let bad = |reason: String| AdminError::Field {
        field: "uri",
        reason,
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        (Some("http" | "https"), None) | (None, _) => Err(bad(format!(
            "The provided uri {text} is not absolute, only absolute URIs can be used."
        ))),
        (Some(scheme), _) => Err(bad(format!(
            "the scheme '{scheme}' is neither http nor https"
        ))),
    }
}
