//! Between the words of `types` and the stored messages. Stored enums that make no sense read as the plain kind.

use abide_service_protocol::{Failure, NotificationResult, Outcome};
use abide_types::{Flow, HandlerKind, InvocationTarget, ServiceKind};
use bytes::Bytes;

use crate::proto;

impl From<&InvocationTarget> for proto::Target {
    fn from(target: &InvocationTarget) -> Self {
        Self {
            service: target.service.clone(),
            key: target.key.clone(),
            handler: target.handler.clone(),
            service_kind: match target.service_kind {
                ServiceKind::Service => proto::ServiceKind::Service,
                ServiceKind::VirtualObject => proto::ServiceKind::VirtualObject,
                ServiceKind::Workflow => proto::ServiceKind::Workflow,
            } as i32,
            handler_kind: match target.handler_kind {
                HandlerKind::Plain => proto::HandlerKind::Plain,
                HandlerKind::Exclusive => proto::HandlerKind::Exclusive,
                HandlerKind::Shared => proto::HandlerKind::Shared,
                HandlerKind::Workflow => proto::HandlerKind::Run,
            } as i32,
        }
    }
}

impl From<&proto::Target> for InvocationTarget {
    fn from(target: &proto::Target) -> Self {
        Self {
            service: target.service.clone(),
            key: target.key.clone(),
            handler: target.handler.clone(),
            service_kind: match target.service_kind() {
                proto::ServiceKind::Service => ServiceKind::Service,
                proto::ServiceKind::VirtualObject => ServiceKind::VirtualObject,
                proto::ServiceKind::Workflow => ServiceKind::Workflow,
            },
            handler_kind: match target.handler_kind() {
                proto::HandlerKind::Plain => HandlerKind::Plain,
                proto::HandlerKind::Exclusive => HandlerKind::Exclusive,
                proto::HandlerKind::Shared => HandlerKind::Shared,
                proto::HandlerKind::Run => HandlerKind::Workflow,
            },
        }
    }
}

impl From<Flow> for proto::Flow {
    fn from(flow: Flow) -> Self {
        Self {
            scope: flow.scope,
            limit_key: flow.limit_key,
        }
    }
}

impl From<proto::Flow> for Flow {
    fn from(flow: proto::Flow) -> Self {
        Self {
            scope: flow.scope,
            limit_key: flow.limit_key,
        }
    }
}

impl proto::Outcome {
    /// A failure of the given code and message.
    pub fn failed(code: u32, message: &str) -> Self {
        Self {
            outcome: Some(proto::outcome::Outcome::Failure(proto::Failure {
                code,
                message: message.to_owned(),
                ..Default::default()
            })),
        }
    }
}

/// The protocol's form of a stored outcome. One without content is an empty value.
pub fn outcome_from_stored(outcome: proto::Outcome) -> Outcome {
    match outcome.outcome {
        Some(proto::outcome::Outcome::Failure(failure)) => Outcome::Failure(failure.into()),
        Some(proto::outcome::Outcome::Success(value)) => Outcome::Value(value),
        None => Outcome::Value(Bytes::new()),
    }
}

/// The stored form of an outcome.
pub fn outcome_to_stored(outcome: Outcome) -> proto::Outcome {
    proto::Outcome {
        outcome: Some(match outcome {
            Outcome::Value(value) => proto::outcome::Outcome::Success(value),
            Outcome::Failure(failure) => proto::outcome::Outcome::Failure(failure.into()),
        }),
    }
}

pub(crate) fn signal_result(outcome: Option<proto::Outcome>) -> NotificationResult {
    outcome.map_or(NotificationResult::Void, |outcome| {
        outcome_from_stored(outcome).into()
    })
}

impl From<proto::Failure> for Failure {
    fn from(failure: proto::Failure) -> Self {
        Self {
            code: u16::try_from(failure.code).unwrap_or(500),
            message: failure.message,
            metadata: failure
                .metadata
                .into_iter()
                .map(|pair| (pair.key, pair.value))
                .collect(),
            stacktrace: failure.stacktrace,
        }
    }
}

impl From<Failure> for proto::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.into(),
            message: failure.message,
            metadata: failure
                .metadata
                .into_iter()
                .map(|(key, value)| proto::Pair { key, value })
                .collect(),
            stacktrace: failure.stacktrace,
        }
    }
}
