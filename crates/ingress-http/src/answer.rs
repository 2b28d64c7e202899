//! What a client gets: outcomes and errors as responses (ingress reference, sections 6 and 7).

use std::collections::BTreeMap;

use abide_processor::api::{Accepted, Finished, Outcome};
use abide_schema::Schema;
use abide_service_protocol::Failure;
use abide_types::{InvocationId, Timestamp};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::error::IngressError;

/// A response; bodies are always whole.
pub(crate) type Answer = Response<Full<Bytes>>;

const ID: HeaderName = HeaderName::from_static("x-restate-id");
const ERROR_SOURCE: HeaderName = HeaderName::from_static("x-restate-error-source");
const EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Who says that it went wrong: the durable execution, so that trying again changes nothing, or the ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Invocation,
    Ingress,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Invocation => "invocation",
            Self::Ingress => "ingress",
        }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stacktrace: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    source: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SendBody<'a> {
    invocation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<String>,
    status: &'static str,
}

fn response(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("structs of texts and numbers");
    let mut answer = response(status, body);
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    answer
}

fn with_id(mut answer: Answer, id: &InvocationId) -> Answer {
    let id = HeaderValue::try_from(id.to_string()).expect("an id is ASCII");
    answer.headers_mut().insert(ID, id);
    answer
}

/// The result of an invocation.
pub(crate) fn finished(id: &InvocationId, finished: Finished, schema: &Schema) -> Answer {
    let Finished {
        outcome,
        expires_at,
        target,
    } = finished;
    let mut answer = match outcome {
        Outcome::Value(value) => {
            let output = schema.resolve(&target.service, &target.handler);
            let content_type = match output {
                Ok(handler) => handler
                    .output
                    .content_type(&value)
                    .map(HeaderValue::from_str),
                // The service was removed since; the default of handlers that say nothing.
                Err(_) => (!value.is_empty()).then_some(Ok(JSON)),
            };
            let mut answer = response(StatusCode::OK, value);
            if let Some(Ok(content_type)) = content_type {
                answer
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, content_type);
            }
            answer
        }
        Outcome::Failure(failure) => failed(&failure),
    };
    if let Some(expires) = expires_at.and_then(expiry) {
        answer.headers_mut().insert(EXPIRES, expires);
    }
    with_id(answer, id)
}

fn failed(failure: &Failure) -> Answer {
    // A 1xx announces another response in HTTP, so that no client would ever see it as the answer.
    let status = StatusCode::from_u16(failure.code).ok();
    let status = status.filter(|status| !status.is_informational());
    let source = Source::Invocation;
    let metadata = failure.metadata.iter();
    let body = ErrorBody {
        code: failure.code,
        message: &failure.message,
        stacktrace: failure.stacktrace.as_deref(),
        metadata: metadata
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
        source: source.name(),
    };
    error_response(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        &body,
        source,
    )
}

fn error_response(status: StatusCode, body: &ErrorBody<'_>, source: Source) -> Answer {
    let mut answer = json(status, body);
    let source = HeaderValue::from_static(source.name());
    answer.headers_mut().insert(ERROR_SOURCE, source);
    answer
}

/// There is no such invocation to wait for.
pub(crate) fn nothing_to_attach_to(id: &InvocationId) -> Answer {
    with_id(
        failed(&Failure::new(StatusCode::NOT_FOUND.as_u16(), "not found")),
        id,
    )
}

/// An invocation was accepted.
pub(crate) fn accepted(
    id: &InvocationId,
    accepted: Accepted,
    execute_at: Option<Timestamp>,
) -> Answer {
    let body = SendBody {
        invocation_id: &id.to_string(),
        execution_time: accepted
            .execute_at
            .or(execute_at.filter(|_| accepted.new))
            .map(|at| format!("{:.9}", civil(at))),
        status: if accepted.new {
            "Accepted"
        } else {
            "PreviouslyAccepted"
        },
    };
    with_id(json(StatusCode::ACCEPTED, &body), id)
}

/// The id of what a client asked for.
pub(crate) fn looked_up(id: &InvocationId) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        invocation_id: String,
    }
    json(
        StatusCode::OK,
        &Body {
            invocation_id: id.to_string(),
        },
    )
}

/// An awakeable was completed, now or before.
pub(crate) fn completed() -> Answer {
    response(StatusCode::ACCEPTED, Bytes::new())
}

/// The node serves, and these are the services.
pub(crate) fn health(schema: &Schema) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        services: Vec<&'a str>,
    }
    let services = schema.services().map(|service| service.name.as_str());
    json(
        StatusCode::OK,
        &Body {
            services: services.collect(),
        },
    )
}

/// The ingress itself refuses or cannot.
pub(crate) fn error(error: &IngressError) -> Answer {
    let status = error.status();
    let source = Source::Ingress;
    let body = ErrorBody {
        code: status.as_u16(),
        message: &error.to_string(),
        stacktrace: None,
        metadata: BTreeMap::new(),
        source: source.name(),
    };
    let mut answer = error_response(status, &body, source);
    if let Some(seconds) = error.retry_after() {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// The length that a request announces is too long. In plain text, as it is found before anything else is known.
pub(crate) fn announced_too_long() -> Answer {
    let mut answer = response(StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded");
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

fn civil(at: Timestamp) -> jiff::Timestamp {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}

fn expiry(at: Timestamp) -> Option<HeaderValue> {
    let utc = format!("{:.3}", civil(at));
    HeaderValue::try_from(utc.replace('Z', "+00:00")).ok()
}

#[cfg(test)]
mod tests;
