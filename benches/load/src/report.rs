//! One run as one line of JSON.

use serde_json::{Value, json};

use crate::run::{Load, Outcome};

/// The line, with stable names. Figures of the server are there only when it was measured.
pub fn line(label: &str, load: &Load, outcome: &Outcome) -> Value {
    let requests = outcome.latencies.len();
    let seconds = outcome.counted.as_secs_f64();
    let ms = |micros: u64| micros as f64 / 1000.0;
    let mut line = json!({
        "label": label,
        "workload": load.workload.name(),
        "in_flight": load.in_flight,
        "rate_wanted": load.rate,
        "duration_s": rounded(seconds),
        "requests": requests,
        "errors": outcome.errors,
        "rate": rounded(requests as f64 / seconds),
        "p50_ms": ms(outcome.latencies.value_at_quantile(0.5)),
        "p90_ms": ms(outcome.latencies.value_at_quantile(0.9)),
        "p99_ms": ms(outcome.latencies.value_at_quantile(0.99)),
        "max_ms": ms(outcome.latencies.max()),
    });
    if !load.pids.is_empty() {
        let per_thousand = 1000.0 / (requests.max(1)) as f64;
        let cpu = outcome.after.cpu_seconds - outcome.before.cpu_seconds;
        let written = outcome
            .after
            .written_bytes
            .saturating_sub(outcome.before.written_bytes);
        line["cpu_s"] = json!(rounded(cpu));
        line["cpu_s_per_1000"] = json!(rounded(cpu * per_thousand));
        line["written_bytes"] = json!(written);
        line["written_bytes_per_request"] = json!(written / requests.max(1));
        line["rss_max_mib"] = json!(outcome.after.resident_bytes_max >> 20);
    }
    line
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
