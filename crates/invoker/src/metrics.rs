//! What attempts count. Handles are made once; an attempt costs a dozen atomic additions.

use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

const REQUESTS: &str = "restate_invoker_client_requests_total";
/// Nodes have one invoker.
const INVOKER: &str = "0";

/// How a request to an endpoint is made, as the label says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestType {
    Bidirectional,
    RequestResponse,
}

const TYPES: [&str; 2] = ["Http/bidi-stream", "Http/request-response"];
/// What a request without an answer has for a status.
const NO_ANSWER: &str = "none";

/// The counters of one invoker.
pub(crate) struct Metrics {
    started: Counter,
    failed: Counter,
    running: Gauge,
    acquired: Counter,
    released: Counter,
    duration: Histogram,
    answered_well: [Counter; TYPES.len()],
    unanswered: [Counter; TYPES.len()],
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) connections_opened: Counter,
    pub(crate) connections_failed: Counter,
    pub(crate) memory_refused: Counter,
}

impl Metrics {
    pub(crate) fn new(concurrency_max: usize) -> Self {
        let requests = |status: &'static str| {
            TYPES.map(|ty| counter!(REQUESTS, "type" => ty, "status_code" => status))
        };
        gauge!("restate_invoker_concurrency_limit", "invoker_id" => INVOKER)
            .set(concurrency_max as f64);
        let connections = |outcome: &'static str| counter!("abide_invoker_connections_opened_total", "outcome" => outcome);
        Self {
            started: counter!("abide_invoker_attempts_started_total"),
            failed: counter!("abide_invoker_attempts_failed_total"),
            running: gauge!("abide_invoker_attempts_running"),
            acquired: counter!("restate_invoker_concurrency_slots_acquired", "invoker_id" => INVOKER),
            released: counter!("restate_invoker_concurrency_slots_released", "invoker_id" => INVOKER),
            duration: histogram!("restate_invoker_task_duration_seconds"),
            answered_well: requests("200"),
            unanswered: requests(NO_ANSWER),
            sent_bytes: counter!("restate_invoker_sent_bytes_total"),
            received_bytes: counter!("restate_invoker_received_bytes_total"),
            connections_opened: connections("opened"),
            connections_failed: connections("failed"),
            memory_refused: counter!("abide_queue_refused_total", "queue" => "invoker-memory"),
        }
    }

    pub(crate) fn started(&self) {
        self.started.increment(1);
        self.acquired.increment(1);
        self.running.increment(1.0);
    }

    pub(crate) fn ended(&self, took: Duration) {
        self.running.decrement(1.0);
        self.released.increment(1);
        self.duration.record(took);
    }

    pub(crate) fn failed(&self) {
        self.failed.increment(1);
    }

    /// The head of an endpoint's answer has come.
    pub(crate) fn answered(&self, ty: RequestType, status: StatusCode) {
        match status {
            StatusCode::OK => self.answered_well[ty as usize].increment(1),
            // Rare enough to be looked up; there are few hundred statuses at most.
            other => counter!(REQUESTS, "type" => TYPES[ty as usize], "status_code" => other.as_str().to_owned())
                .increment(1),
        }
    }

    /// None has come, and none will.
    pub(crate) fn unanswered(&self, ty: RequestType) {
        self.unanswered[ty as usize].increment(1);
    }
}
