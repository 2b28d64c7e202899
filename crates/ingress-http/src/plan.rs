//! What a request asks for, decided before anybody is asked (ingress reference, sections 3 to 5, 9 and 11).
//!
//! The order of the checks is part of the interface: [`step`] holds those before the body is read, and
//! [`new_invocation`] those after it.

use abide_processor::api::NewInvocation;
use abide_schema::{ResolvedHandler, Schema, duration};
use abide_types::{AwakeableId, HandlerKind, InvocationId, Timestamp};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Deserialize;

use crate::error::{IngressError, NameError};
use crate::path::{self, Mode, Route, Want};
use crate::query::parameter;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");
const LIMIT_KEY: HeaderName = HeaderName::from_static("x-restate-limit-key");
/// Where a handler finds the path and query that the client asked for.
const INGRESS_PATH: &str = "x-restate-ingress-path";
/// Bytes that a scope, or a level of a limit key, may have.
const NAME_BYTES_MAX: usize = 36;

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
    /// Read the body; it is the value or the reason.
    Awakeable {
        id: AwakeableId,
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
}

/// What can be decided from the head of a request.
pub(crate) fn step<'a>(parts: &'a Parts, schema: &'a Schema) -> Result<Step<'a>, IngressError> {
    let step = match path::route(parts.uri.path(), schema)? {
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
            if let Some(scope) = scope {
                check_name(&scope).map_err(IngressError::BadScope)?;
                return Err(IngressError::ScopesOff);
            }
            Step::Invoke(Callee {
                handler,
                key,
                mode,
                idempotency_key: idempotency_key.map(str::to_owned),
            })
        }
        Route::Get { want, id } => Step::Get { want, id },
        Route::GetByBody(want) => Step::GetByBody(want),
        Route::LookUp => Step::LookUp,
        Route::Awakeable { id, resolve } => Step::Awakeable { id, resolve },
        Route::Health => Step::Health,
    };
    let allowed = match &step {
        Step::Invoke(_) => parts.method == Method::GET || parts.method == Method::POST,
        Step::Get { .. } | Step::Health => parts.method == Method::GET,
        Step::GetByBody(_) | Step::LookUp | Step::Awakeable { .. } => parts.method == Method::POST,
    };
    if allowed {
        Ok(step)
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
    } = callee;
    // A content type that is not ASCII matches no rule; the check of the headers below names it.
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map(|value| value.to_str().unwrap_or_default());
    handler.input.check(content_type, &body)?;

    let query = parts.uri.query();
    let delay = parameter(query, "delay")
        .map(|text| duration::parse(&text).map_err(IngressError::BadDelay))
        .transpose()?;
    check_limit_key(&parts.headers, query)?;
    let headers = handler_headers(parts)?;
    if delay.is_some() && mode == Mode::Call {
        return Err(IngressError::DelayOnCall);
    }
    let target = handler.target(key);
    Ok(NewInvocation {
        id: target.invocation_id(idempotency_key.as_deref(), arrival.unique),
        target,
        headers,
        input: body,
        idempotency_key,
        execute_at: delay.map(|delay| arrival.at.plus(delay)),
        // The ingress itself repeats a request when a leader goes, so every invocation that comes through it is
        // one whose repetition has to meet the first, even after the end.
        retention: handler.retention(true),
    })
}

/// There are no scopes yet, so that a limit key is never right; but a wrong one is told what is wrong with it.
fn check_limit_key(headers: &HeaderMap, query: Option<&str>) -> Result<(), IngressError> {
    let from_query = parameter(query, "limit-key");
    let key = match headers.get(&LIMIT_KEY) {
        Some(value) => Some(text(&LIMIT_KEY, value)?),
        None => from_query.as_deref(),
    };
    let Some(key) = key else { return Ok(()) };
    let mut levels = key.split('/');
    for level in levels.by_ref().take(2) {
        check_name(level).map_err(IngressError::BadLimitKey)?;
    }
    if levels.next().is_some() {
        return Err(IngressError::BadLimitKey(NameError::Levels));
    }
    Err(IngressError::LimitKeyWithoutScope)
}

fn check_name(name: &str) -> Result<(), NameError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match name.len() {
        0 => Err(NameError::Empty),
        length if length > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ if !name.bytes().all(is_good) => Err(NameError::Characters),
        _ => Ok(()),
    }
}

/// The headers that reach the handler: where it was called, then the first value of each of the request's.
fn handler_headers(parts: &Parts) -> Result<Vec<(String, String)>, IngressError> {
    let mut headers = Vec::with_capacity(parts.headers.keys_len() + 1);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    headers.push((INGRESS_PATH.to_owned(), path.to_owned()));
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

/// The invocation that a body names; it need not exist, nor its service.
pub(crate) fn named_by_body(body: &[u8]) -> Result<InvocationId, IngressError> {
    match serde_json::from_slice(body).map_err(IngressError::BadJson)? {
        Named::Workflow { scope: Some(_), .. }
        | Named::IdempotentInvocation { scope: Some(_), .. } => Err(IngressError::ScopesOff),
        Named::Workflow {
            workflow_name,
            workflow_key,
            scope: None,
        } => Ok(path::workflow_id(&workflow_name, workflow_key)),
        Named::IdempotentInvocation {
            service,
            key,
            handler,
            idempotency_key,
            scope: None,
        } => Ok(path::idempotent_id(
            &service,
            key,
            &handler,
            &idempotency_key,
        )),
        Named::Invocation { invocation_id } => path::invocation_id(&invocation_id),
    }
}

#[cfg(test)]
mod tests;
