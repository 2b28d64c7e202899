//! What is counted. Handles are made once per service, so that a request costs no lookup by label.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram};

use crate::error::IngressError;
use crate::path::Mode;

const REQUESTS: &str = "restate_ingress_requests_total";
const DURATION: &str = "restate_ingress_request_duration_seconds";
const CONNECTIONS_CREATED: &str = "restate_ingress_http_connection_created_total";
const CONNECTIONS_DROPPED: &str = "restate_ingress_http_connection_dropped_total";

/// The label of what was refused before its service was known.
const UNKNOWN: &str = "unknown";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    InvocationError,
    RequestError,
    IngressError,
    RateLimited,
}

impl Ended {
    pub(crate) fn of_error(error: &IngressError) -> Self {
        match error {
            IngressError::TooManyRequests => Self::RateLimited,
            error if error.status().is_server_error() => Self::IngressError,
            _ => Self::RequestError,
        }
    }
}

/// The counters of calls or of sends of one service.
pub(crate) struct Series {
    pub(crate) admitted: Counter,
    completed: Counter,
    invocation_error: Counter,
    request_error: Counter,
    ingress_error: Counter,
    rate_limited: Counter,
    duration: Histogram,
}

impl Series {
    fn new(service: &str, rpc_type: &'static str) -> Self {
        let counter = |status: &'static str| metrics::counter!(REQUESTS, "status" => status, "rpc_service" => service.to_owned(), "rpc_type" => rpc_type);
        Self {
            admitted: counter("admitted"),
            completed: counter("completed"),
            invocation_error: counter("invocation_error"),
            request_error: counter("request_error"),
            ingress_error: counter("ingress_error"),
            rate_limited: counter("rate-limited"),
            duration: metrics::histogram!(DURATION, "rpc_service" => service.to_owned(), "rpc_type" => rpc_type),
        }
    }

    pub(crate) fn ended(&self, how: Ended, since: Instant) {
        let counter = match how {
            Ended::Completed => &self.completed,
            Ended::InvocationError => &self.invocation_error,
            Ended::RequestError => &self.request_error,
            Ended::IngressError => &self.ingress_error,
            Ended::RateLimited => &self.rate_limited,
        };
        counter.increment(1);
        self.duration.record(since.elapsed());
    }
}

struct OfService {
    call: Arc<Series>,
    send: Arc<Series>,
}

/// Everything that the front door counts. Only registered services get series, so that clients cannot make them up.
pub(crate) struct Metrics {
    services: RwLock<HashMap<String, OfService>>,
    pub(crate) unknown: Arc<Series>,
    pub(crate) in_progress: Gauge,
    pub(crate) connections_created: Counter,
    pub(crate) connections_dropped: Counter,
    pub(crate) connections_broken: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            services: RwLock::default(),
            unknown: Arc::new(Series::new(UNKNOWN, UNKNOWN)),
            in_progress: metrics::gauge!("abide_ingress_requests_in_progress"),
            connections_created: metrics::counter!(CONNECTIONS_CREATED, "status" => "success"),
            connections_dropped: metrics::counter!(CONNECTIONS_DROPPED, "status" => "success"),
            connections_broken: metrics::counter!(CONNECTIONS_DROPPED, "status" => "incomplete"),
        }
    }

    pub(crate) fn of(&self, service: &str, mode: Mode) -> Arc<Series> {
        let choose = |series: &OfService| match mode {
            Mode::Call => series.call.clone(),
            Mode::Send => series.send.clone(),
        };
        let known = self.services.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(service) {
            return choose(series);
        }
        drop(known);
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let series = services
            .entry(service.to_owned())
            .or_insert_with(|| OfService {
                call: Arc::new(Series::new(service, "call")),
                send: Arc::new(Series::new(service, "send")),
            });
        choose(series)
    }
}
