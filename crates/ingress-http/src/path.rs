//! Which route a path names (ingress reference, sections 2 and 3).
//!
//! Services are looked up while the path is read, since only the service's kind tells whether a key follows.

use std::borrow::Cow;

use abide_schema::{Schema, ServiceView};
use abide_types::{AwakeableId, HandlerKind, InvocationId, InvocationTarget, ServiceKind};

use crate::error::IngressError;
use crate::query::percent_decode;

/// Slashes that a path may have once those around it are gone.
const SLASHES: std::ops::RangeInclusive<usize> = 2..=7;

/// Whether the client waits for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Call,
    Send,
}

/// What a client wants to know of an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Its result, however long that takes.
    Attach,
    /// Its result if it is there.
    Output,
}

/// What a path names. Methods are not looked at yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Route<'a> {
    Invoke {
        service: &'a ServiceView,
        key: Option<String>,
        handler: &'a str,
        mode: Mode,
        scope: Option<String>,
    },
    /// An invocation that the path names.
    Get { want: Want, id: InvocationId },
    /// An invocation that the body names.
    GetByBody(Want),
    /// The id of an invocation that the body names.
    LookUp,
    /// Completes an awakeable.
    Awakeable { id: AwakeableId, resolve: bool },
    /// Readiness, and the services.
    Health,
}

/// Reads a path.
pub(crate) fn route<'a>(path: &'a str, schema: &'a Schema) -> Result<Route<'a>, IngressError> {
    let path = path.trim_matches('/');
    // The slash in front is gone, but counts.
    let slashes = 1 + path.bytes().filter(|byte| *byte == b'/').count();
    if !SLASHES.contains(&slashes) {
        return Err(IngressError::BadPath(format!("/{path}")));
    }
    let mut segments = path.split('/');
    match segments.next().unwrap_or_default() {
        "restate" => restate(segments, schema),
        "openapi" => Err(IngressError::NotFound),
        service => {
            let service = schema.service(service)?;
            let (key, handler) = callee(service, &mut segments, IngressError::ExpectedOldPath)?;
            let mode = match (segments.next(), segments.next()) {
                (None, _) => Mode::Call,
                (Some("send"), None) => Mode::Send,
                _ => return Err(IngressError::ExpectedOldPath),
            };
            Ok(Route::Invoke {
                service,
                key,
                handler,
                mode,
                scope: None,
            })
        }
    }
}

type Segments<'a> = std::str::Split<'a, char>;

fn restate<'a>(mut segments: Segments<'a>, schema: &'a Schema) -> Result<Route<'a>, IngressError> {
    match segments.next().unwrap_or_default() {
        "call" => invoke(Mode::Call, None, segments, schema),
        "send" => invoke(Mode::Send, None, segments, schema),
        "scope" => {
            let scope = decode(segments.next().unwrap_or_default())?.into_owned();
            let mode = match segments.next() {
                Some("call") => Mode::Call,
                Some("send") => Mode::Send,
                _ => return Err(IngressError::ExpectedNewPath),
            };
            invoke(mode, Some(scope), segments, schema)
        }
        "attach" => get(Want::Attach, segments),
        "output" => get(Want::Output, segments),
        "lookup" if segments.next().is_none() => Ok(Route::LookUp),
        "lookup" => Err(IngressError::ExpectedNewPath),
        "invocation" => invocation(segments, schema),
        "workflow" => workflow(segments, schema),
        "awakeables" | "a" => awakeable(segments),
        "health" if segments.next().is_none() => Ok(Route::Health),
        _ => Err(IngressError::NotFound),
    }
}

fn invoke<'a>(
    mode: Mode,
    scope: Option<String>,
    mut segments: Segments<'a>,
    schema: &'a Schema,
) -> Result<Route<'a>, IngressError> {
    let service = segments.next().ok_or(IngressError::ExpectedNewPath)?;
    let service = schema.service(service)?;
    let (key, handler) = callee(service, &mut segments, IngressError::ExpectedNewPath)?;
    if segments.next().is_some() {
        return Err(IngressError::ExpectedNewPath);
    }
    Ok(Route::Invoke {
        service,
        key,
        handler,
        mode,
        scope,
    })
}

/// Key, for a keyed service, and handler.
fn callee<'a>(
    service: &ServiceView,
    segments: &mut Segments<'a>,
    otherwise: IngressError,
) -> Result<(Option<String>, &'a str), IngressError> {
    let key = match (service.kind.is_keyed(), segments.clone().next()) {
        (false, _) => None,
        (true, None) => return Err(otherwise),
        (true, Some(key)) => {
            segments.next();
            Some(decode(key)?.into_owned())
        }
    };
    match segments.next() {
        Some(handler) if !handler.is_empty() => Ok((key, handler)),
        _ => Err(otherwise),
    }
}

fn get<'a>(want: Want, mut segments: Segments<'a>) -> Result<Route<'a>, IngressError> {
    match (segments.next(), segments.next()) {
        (None, _) => Ok(Route::GetByBody(want)),
        (Some(id), None) => Ok(Route::Get {
            want,
            id: invocation_id(id)?,
        }),
        _ => Err(IngressError::ExpectedNewPath),
    }
}

fn want(segment: Option<&str>) -> Result<Want, IngressError> {
    match segment {
        Some("attach") => Ok(Want::Attach),
        Some("output") => Ok(Want::Output),
        _ => Err(IngressError::NotFound),
    }
}

/// The older forms: by id, or by service and idempotency key. Segments behind the verb do not count.
fn invocation<'a>(
    mut segments: Segments<'a>,
    schema: &'a Schema,
) -> Result<Route<'a>, IngressError> {
    let first = segments.next().ok_or(IngressError::NotFound)?;
    if first.starts_with("inv_") || segments.clone().count() <= 1 {
        let id = invocation_id(first)?;
        let want = want(segments.next())?;
        return Ok(Route::Get { want, id });
    }
    let service = schema.service(first)?;
    let (key, handler) = callee(service, &mut segments, IngressError::NotFound)?;
    let idempotency_key = segments.next().ok_or(IngressError::NotFound)?;
    let want = want(segments.next())?;
    let id = idempotent_id(&service.name, key, handler, idempotency_key);
    Ok(Route::Get { want, id })
}

fn workflow<'a>(mut segments: Segments<'a>, schema: &'a Schema) -> Result<Route<'a>, IngressError> {
    let name = segments.next().ok_or(IngressError::NotFound)?;
    let key = segments.next().ok_or(IngressError::NotFound)?;
    let want = want(segments.next())?;
    let service = schema.service(name)?;
    let id = workflow_id(&service.name, decode(key)?.into_owned());
    Ok(Route::Get { want, id })
}

fn awakeable<'a>(mut segments: Segments<'a>) -> Result<Route<'a>, IngressError> {
    let id = segments.next().ok_or(IngressError::NotFound)?;
    let resolve = match segments.next() {
        Some("resolve") => true,
        Some("reject") => false,
        _ => return Err(IngressError::NotFound),
    };
    let id = id.parse().map_err(|source| IngressError::BadAwakeableId {
        id: id.to_owned(),
        source,
    })?;
    Ok(Route::Awakeable { id, resolve })
}

/// Reads the text of an invocation's id.
pub(crate) fn invocation_id(id: &str) -> Result<InvocationId, IngressError> {
    id.parse().map_err(|source| IngressError::BadInvocationId {
        id: id.to_owned(),
        source,
    })
}

/// The id of the run of a workflow.
pub(crate) fn workflow_id(workflow: &str, key: String) -> InvocationId {
    let target = InvocationTarget {
        service: workflow.to_owned(),
        key: Some(key),
        // Not part of the id: a workflow has one run.
        handler: String::new(),
        service_kind: ServiceKind::Workflow,
        handler_kind: HandlerKind::Workflow,
    };
    target.invocation_id(None, 0)
}

/// The id of an invocation with an idempotency key. Kinds do not count beyond whether there is a key.
pub(crate) fn idempotent_id(
    service: &str,
    key: Option<String>,
    handler: &str,
    idempotency_key: &str,
) -> InvocationId {
    let (service_kind, handler_kind) = match key {
        Some(_) => (ServiceKind::VirtualObject, HandlerKind::Exclusive),
        None => (ServiceKind::Service, HandlerKind::Plain),
    };
    let target = InvocationTarget {
        service: service.to_owned(),
        key,
        handler: handler.to_owned(),
        service_kind,
        handler_kind,
    };
    target.invocation_id(Some(idempotency_key), 0)
}

fn decode(segment: &str) -> Result<Cow<'_, str>, IngressError> {
    percent_decode(segment, false).map_err(IngressError::BadKey)
}
