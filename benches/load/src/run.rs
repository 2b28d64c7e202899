//! Makes the calls and counts them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::process::{self, Usage};
use crate::workload::Workload;

/// Calls that an open loop has under way at most. Those that are due wait; their latency counts on.
const OPEN_IN_FLIGHT_MAX: usize = 10_000;

/// What to do.
pub struct Load {
    /// Base URLs of the ingresses.
    pub urls: Vec<String>,
    /// The kind of call.
    pub workload: Workload,
    /// For [`Workload::Sleep`].
    pub sleep_ms: u64,
    /// Closed loop, with this many calls under way.
    pub in_flight: Option<usize>,
    /// Open loop, with this many calls due a second.
    pub rate: Option<f64>,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub duration: Duration,
    /// When a call is given up.
    pub deadline: Duration,
    /// The servers' processes.
    pub pids: Vec<u32>,
}

/// What came of it.
pub struct Outcome {
    /// Of counted calls that succeeded, in microseconds.
    pub latencies: Histogram<u64>,
    /// Counted calls that did not.
    pub errors: u64,
    /// From the end of the warm-up until the last call.
    pub counted: Duration,
    /// The servers' usage when counting began.
    pub before: Usage,
    /// The servers' usage when it ended.
    pub after: Usage,
}

struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    urls: Vec<String>,
    workload: Workload,
    sleep_ms: u64,
    deadline: Duration,
    count_from: Instant,
    stop_at: Instant,
    next_url: AtomicUsize,
    results: Mutex<Results>,
}

struct Results {
    latencies: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

/// Runs one load to its end.
pub async fn run(load: &Load) -> Result<Outcome, hdrhistogram::CreationError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let count_from = Instant::now() + load.warmup;
    let shared = Arc::new(Shared {
        client: Client::builder(TokioExecutor::new()).build(connector),
        urls: load.urls.clone(),
        workload: load.workload,
        sleep_ms: load.sleep_ms,
        deadline: load.deadline,
        count_from,
        stop_at: count_from + load.duration,
        next_url: AtomicUsize::new(0),
        results: Mutex::new(Results {
            latencies: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            errors: 0,
            first_error: None,
        }),
    });
    let pids = load.pids.clone();
    let before = tokio::spawn(async move {
        tokio::time::sleep_until(count_from.into()).await;
        process::usage(&pids)
    });
    match load.rate {
        Some(rate) => open_loop(&shared, rate).await,
        None => closed_loop(&shared, load.in_flight.unwrap_or(1)).await,
    }
    let counted = count_from.elapsed();
    let after = process::usage(&load.pids);
    let before = before.await.unwrap_or_default();
    let results = shared
        .results
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = &results.first_error {
        eprintln!("first of {} errors: {error}", results.errors);
    }
    Ok(Outcome {
        latencies: results.latencies.clone(),
        errors: results.errors,
        counted,
        before,
        after,
    })
}

async fn closed_loop(shared: &Arc<Shared>, in_flight: usize) {
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let shared = Arc::clone(shared);
        callers.spawn(async move {
            while Instant::now() < shared.stop_at {
                let due = Instant::now();
                shared.call_and_count(due).await;
            }
        });
    }
    while callers.join_next().await.is_some() {}
}

async fn open_loop(shared: &Arc<Shared>, rate: f64) {
    let room = Arc::new(Semaphore::new(OPEN_IN_FLIGHT_MAX));
    let mut calls = JoinSet::new();
    let start = Instant::now();
    for number in 0u64.. {
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        if due >= shared.stop_at {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        while calls.try_join_next().is_some() {}
        let (shared, room) = (Arc::clone(shared), Arc::clone(&room));
        calls.spawn(async move {
            let _place = room.acquire().await;
            shared.call_and_count(due).await;
        });
    }
    while calls.join_next().await.is_some() {}
}

impl Shared {
    async fn call_and_count(&self, due: Instant) {
        let outcome = match tokio::time::timeout(self.deadline, self.call()).await {
            Ok(outcome) => outcome,
            Err(_) => Err("no answer in time".to_owned()),
        };
        if due < self.count_from {
            return;
        }
        let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => results.latencies.saturating_record(micros.max(1)),
            Err(error) => {
                results.errors += 1;
                results.first_error.get_or_insert(error);
            }
        }
    }

    async fn call(&self) -> Result<(), String> {
        let (path, body) = self.workload.request(&mut rand::rng(), self.sleep_ms);
        let url = &self.urls[self.next_url.fetch_add(1, Ordering::Relaxed) % self.urls.len()];
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{url}{path}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| format!("{url}: {error:?}"))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| format!("{url}: {error:?}"))?
            .to_bytes();
        match status {
            StatusCode::OK => Ok(()),
            _ => Err(format!(
                "{url}: {status}: {}",
                String::from_utf8_lossy(&body)
            )),
        }
    }
}
