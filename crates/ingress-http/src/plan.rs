//! What a request asks for, decided before anybody is asked (ingress reference, sections 3 to 5, 9 and 11).
//!
//! The order of the checks is part of the interface: [`step`] holds those before the body is read, and
//! [`new_invocation`] those after it.

use abide_processor::api::NewInvocation;
use abide_schema::{ResolvedHandler, Schema, duration};
use abide_types::{
    AwakeableId, Flow, HandlerKind, InvocationId, ServiceKind, Timestamp, check_name,
    parse_limit_key,
};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Deserialize;
use ulid::Ulid;

use crate::error::IngressError;
use crate::path::{self, Mode, Route, Want};
use crate::query::parameter;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");
const LIMIT_KEY: HeaderName = HeaderName::from_static("x-restate-limit-key");
/// Where a handler finds the path and query that the client asked for.
const INGRESS_PATH: &str = "x-restate-ingress-path";

/// What is to be done for a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step<'a> {
    /// Read the body, then [`new_invocation`].
    Invoke(Callee<'a>),
    Get {
        want: Want,
        id: InvocationId,
    },
    /// Read the body, then [`named_by_body`].
    GetByBody(Want),
    /// Read the body, then [`named_by_body`].
    LookUp,
    /// Read the body; it is the value or the reason. Without an id, nothing waits for it.
    Awakeable {
        id: Option<AwakeableId>,
        resolve: bool,
    },
    Health,
}

/// What a call or send is aimed at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Callee<'a> {
    pub(crate) handler: &'a ResolvedHandler,
    pub(crate) key: Option<String>,
    pub(crate) mode: Mode,
    idempotency_key: Option<String>,
    scope: Option<String>,
}

/// What can be decided from the head of a request.
pub(crate) fn step<'a>(parts: &'a Parts, schema: &'a Schema) -> Result<Step<'a>, IngressError> {
    Ok(match path::route(parts.uri.path(), schema)? {
        Route::Invoke {
            service,
            key,
            handler,
            mode,
            scope,
        } => {
            let handler = service.handler(handler)?;
            if !handler.public {
                return Err(IngressError::NotPublic);
            }
            if !service.supported {
                return Err(IngressError::Deprecated {
                    service: service.name.clone(),
                    deployment: service.deployment,
                });
            }
            let idempotency_key = parts
                .headers
                .get(IDEMPOTENCY_KEY)
                .map(|value| text(&IDEMPOTENCY_KEY, value))
                .transpose()?;
            if idempotency_key.is_some() && handler.handler_kind == HandlerKind::Workflow {
                return Err(IngressError::IdempotencyKeyOnWorkflow);
            }
            if let Some(scope) = &scope {
                check_name(scope).map_err(IngressError::BadScope)?;
                if handler.service_kind == ServiceKind::VirtualObject {
                    return Err(IngressError::ScopedObject);
                }
            }
            let callee = Callee {
                handler,
                key,
                mode,
                idempotency_key: idempotency_key.map(str::to_owned),
                scope,
            };
            allow(&parts.method, &[Method::GET, Method::POST])?;
            Step::Invoke(callee)
        }
        Route::Get { want, id } => {
            allow(&parts.method, &[Method::GET])?;
            let id = id.id()?;
            Step::Get { want, id }
        }
        Route::GetByBody(want) => {
            allow(&parts.method, &[Method::POST])?;
            Step::GetByBody(want)
        }
        Route::LookUp => {
            allow(&parts.method, &[Method::POST])?;
            Step::LookUp
        }
        Route::Awakeable { id, resolve } => {
            allow(&parts.method, &[Method::POST])?;
            let id = path::awakeable_id(id)?;
            Step::Awakeable { id, resolve }
        }
        Route::Health => {
            allow(&parts.method, &[Method::GET])?;
            Step::Health
        }
    })
}

fn allow(method: &Method, allowed: &[Method]) -> Result<(), IngressError> {
    if allowed.contains(method) {
        Ok(())
    } else {
        Err(IngressError::MethodNotAllowed)
    }
}

/// What a request has that no other one has: when it came, and a ULID.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Timestamp,
    pub(crate) unique: u128,
}

/// The invocation that a call or send asks for.
pub(crate) fn new_invocation(
    callee: Callee<'_>,
    parts: &Parts,
    body: Bytes,
    arrival: Arrival,
) -> Result<NewInvocation, IngressError> {
    let Callee {
        handler,
        key,
        mode,
        idempotency_key,
        scope,
    } = callee;
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type
        .map(|value| text(&header::CONTENT_TYPE, value))
        .transpose()?;
    handler.input.check(content_type, &body)?;

    let query = parts.uri.query();
    let delay = parameter(query, "delay")
        .map(|text| duration::parse(&text).map_err(IngressError::BadDelay))
        .transpose()?;
    let limit_key = limit_key(&parts.headers, query)?;
    let flow = match (scope, limit_key) {
        (Some(scope), limit_key) => Some(Flow { scope, limit_key }),
        (None, Some(_)) => return Err(IngressError::LimitKeyWithoutScope),
        (None, None) => None,
    };
    let headers = handler_headers(parts)?;
    if delay.is_some() && mode == Mode::Call {
        return Err(IngressError::DelayOnCall);
    }
    let target = handler.target(key);
    // With a key of its own the result can be had again, by the client too.
    let idempotency_key = idempotency_key.or_else(|| {
        (target.service_kind != ServiceKind::Workflow)
            .then(|| Ulid::from(arrival.unique).to_string())
    });
    let scope = flow.as_ref().map(|flow| flow.scope.as_str());
    Ok(NewInvocation {
        id: target.scoped_id(scope, idempotency_key.as_deref(), arrival.unique),
        target,
        flow,
        headers,
        input: body,
        idempotency_key,
        execute_at: delay.map(|delay| arrival.at.plus(delay)),
        // The ingress itself repeats a request when a leader goes, so every invocation that comes through it is
        // one whose repetition has to meet the first, even after the end.
        retention: handler.retention(true),
        trace: None,
    })
}

/// The limit key of the header, or else of the query.
fn limit_key(headers: &HeaderMap, query: Option<&str>) -> Result<Option<String>, IngressError> {
    let from_query = parameter(query, "limit-key");
    let key = match headers.get(&LIMIT_KEY) {
        Some(value) => Some(text(&LIMIT_KEY, value)?),
        None => from_query.as_deref(),
    };
    let Some(key) = key else { return Ok(None) };
    let key = parse_limit_key(key).map_err(IngressError::BadLimitKey)?;
    Ok(key.map(str::to_owned))
}

/// The headers that reach the handler: where it was called, then the first value of each of the request's.
fn handler_headers(parts: &Parts) -> Result<Vec<(String, String)>, IngressError> {
    let mut headers = Vec::with_capacity(parts.headers.keys_len() + 1);
    let mut path = format!("/{}", path::trimmed(parts.uri.path()));
    if let Some(query) = parts.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    headers.push((INGRESS_PATH.to_owned(), path));
    for name in parts.headers.keys() {
        if matches!(*name, header::CONNECTION | header::HOST)
            || *name == IDEMPOTENCY_KEY
            || *name == IDEMPOTENCY_EXPIRES
        {
            continue;
        }
        if let Some(value) = parts.headers.get(name) {
            headers.push((name.as_str().to_owned(), text(name, value)?.to_owned()));
        }
    }
    Ok(headers)
}

fn text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, IngressError> {
    value.to_str().map_err(|source| IngressError::BadHeader {
        name: name.to_string(),
        source,
    })
}

#[derive(Deserialize)]
#[serde(
    tag = "target",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum Named {
    Workflow {
        workflow_name: String,
        workflow_key: String,
        scope: Option<String>,
    },
    IdempotentInvocation {
        service: String,
        key: Option<String>,
        handler: String,
        idempotency_key: String,
        scope: Option<String>,
    },
    Invocation {
        invocation_id: String,
    },
}

/// The invocation that a body names; it need not exist, nor its service. `what` says whose body it is.
pub(crate) fn named_by_body(what: &'static str, body: &[u8]) -> Result<InvocationId, IngressError> {
    let bad_json = |source| IngressError::BadJson { what, source };
    let checked = |scope: Option<String>| match scope {
        Some(scope) => match check_name(&scope) {
            Ok(()) => Ok(Some(scope)),
            Err(error) => Err(IngressError::BadScope(error)),
        },
        None => Ok(None),
    };
    match serde_json::from_slice(body).map_err(bad_json)? {
        Named::Workflow {
            workflow_name,
            workflow_key,
            scope,
        } => {
            let scope = checked(scope)?;
            Ok(path::workflow_id(
                scope.as_deref(),
                &workflow_name,
                workflow_key,
            ))
        }
        Named::IdempotentInvocation {
            service,
            key,
            handler,
            idempotency_key,
            scope,
        } => {
            let scope = checked(scope)?;
            Ok(path::idempotent_id(
                scope.as_deref(),
                &service,
                key,
                &handler,
                &idempotency_key,
            ))
        }
        Named::Invocation { invocation_id } => path::invocation_id(&invocation_id),
    }
}

#[cfg(test)]
mod tests;
