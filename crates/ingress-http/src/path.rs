//! Which route a path names (ingress reference, sections 2 and 3).
//!
//! Services are looked up while the path is read, since only the service's kind tells whether a key follows.

use std::borrow::Cow;

use abide_schema::{Schema, ServiceView};
use abide_types::{
    AwakeableId, HandlerKind, InvocationId, InvocationTarget, LegacyAwakeableId, ServiceKind,
};

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
    Get { want: Want, id: Named<'a> },
    /// An invocation that the body names.
    GetByBody(Want),
    /// The id of an invocation that the body names.
    LookUp,
    /// Completes an awakeable.
    Awakeable { id: &'a str, resolve: bool },
    /// Readiness, and the services.
    Health,
}

/// How a path names an invocation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Named<'a> {
    /// By its id, which is read once the method is known to be right.
    Id(&'a str),
    /// By what it is.
    Target(InvocationId),
}

impl Named<'_> {
    /// The id.
    pub(crate) fn id(&self) -> Result<InvocationId, IngressError> {
        match self {
            Self::Id(text) => invocation_id(text),
            Self::Target(id) => Ok(*id),
        }
    }
}

/// The path without the slashes around it, as everything here reads it and handlers see it.
pub(crate) fn trimmed(path: &str) -> &str {
    path.trim_matches('/')
}

/// Reads a path.
pub(crate) fn route<'a>(path: &'a str, schema: &'a Schema) -> Result<Route<'a>, IngressError> {
    let path = trimmed(path);
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
        "workflow" => workflow(segments),
        "awakeables" | "a" => awakeable(segments),
        "health" => Ok(Route::Health),
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
    // An empty name is a handler that does not exist.
    segments
        .next()
        .map(|handler| (key, handler))
        .ok_or(otherwise)
}

fn get<'a>(want: Want, mut segments: Segments<'a>) -> Result<Route<'a>, IngressError> {
    match (segments.next(), segments.next()) {
        (None, _) => Ok(Route::GetByBody(want)),
        (Some(id), None) => Ok(Route::Get {
            want,
            id: Named::Id(id),
        }),
        _ => Err(IngressError::ExpectedNewPath),
    }
}

fn want(segment: Option<&str>, otherwise: IngressError) -> Result<Want, IngressError> {
    match segment {
        Some("attach") => Ok(Want::Attach),
        Some("output") => Ok(Want::Output),
        Some(_) => Err(IngressError::NotFound),
        None => Err(otherwise),
    }
}

/// The older forms: by id, or by service and idempotency key, told apart by how much follows. What is behind the verb
/// of the latter does not count.
fn invocation<'a>(
    mut segments: Segments<'a>,
    schema: &'a Schema,
) -> Result<Route<'a>, IngressError> {
    let otherwise = || IngressError::ExpectedInvocationPath;
    let first = segments.next().ok_or_else(otherwise)?;
    if segments.clone().count() <= 1 {
        let want = want(segments.next(), otherwise())?;
        let id = Named::Id(first);
        return Ok(Route::Get { want, id });
    }
    let service = schema.service(first)?;
    let (key, handler) = callee(service, &mut segments, otherwise())?;
    let idempotency_key = segments.next().ok_or_else(otherwise)?;
    let want = want(segments.next(), otherwise())?;
    let id = idempotent_id(None, &service.name, key, handler, idempotency_key);
    let id = Named::Target(id);
    Ok(Route::Get { want, id })
}

/// The workflow need not be registered, nor be one.
fn workflow(mut segments: Segments<'_>) -> Result<Route<'_>, IngressError> {
    let otherwise = || IngressError::ExpectedWorkflowPath;
    let name = segments.next().ok_or_else(otherwise)?;
    let key = segments.next().ok_or_else(otherwise)?;
    let want = want(segments.next(), otherwise())?;
    let id = Named::Target(workflow_id(None, name, decode(key)?.into_owned()));
    Ok(Route::Get { want, id })
}

fn awakeable(mut segments: Segments<'_>) -> Result<Route<'_>, IngressError> {
    let otherwise = || IngressError::ExpectedAwakeablePath;
    let id = segments.next().ok_or_else(otherwise)?;
    let resolve = match segments.next() {
        Some("resolve") => true,
        Some("reject") => false,
        Some(_) => return Err(IngressError::NotFound),
        None => return Err(otherwise()),
    };
    Ok(Route::Awakeable { id, resolve })
}

/// Reads the text of an awakeable's id. `None` is one of the older form, for which nothing waits here.
pub(crate) fn awakeable_id(id: &str) -> Result<Option<AwakeableId>, IngressError> {
    let read = if id.starts_with("prom_") {
        id.parse::<LegacyAwakeableId>().map(|_| None)
    } else {
        id.parse().map(Some)
    };
    read.map_err(|source| IngressError::BadAwakeableId {
        id: id.to_owned(),
        source,
    })
}

/// Reads the text of an invocation's id.
pub(crate) fn invocation_id(id: &str) -> Result<InvocationId, IngressError> {
    id.parse().map_err(|source| IngressError::BadInvocationId {
        id: id.to_owned(),
        source,
    })
}

/// The id of the run of a workflow.
pub(crate) fn workflow_id(scope: Option<&str>, workflow: &str, key: String) -> InvocationId {
    let target = InvocationTarget {
        service: workflow.to_owned(),
        key: Some(key),
        // Not part of the id: a workflow has one run.
        handler: String::new(),
        service_kind: ServiceKind::Workflow,
        handler_kind: HandlerKind::Workflow,
    };
    target.scoped_id(scope, None, 0)
}

/// The id of an invocation with an idempotency key. Kinds do not count beyond whether there is a key.
pub(crate) fn idempotent_id(
    scope: Option<&str>,
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
    target.scoped_id(scope, Some(idempotency_key), 0)
}

fn decode(segment: &str) -> Result<Cow<'_, str>, IngressError> {
    percent_decode(segment, false).map_err(IngressError::BadKey)
}
