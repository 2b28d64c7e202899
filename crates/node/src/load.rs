//! What a node does at the moment, for `abidectl top`.
//!
//! Counts are read off the metrics' text: whoever asks does so about once a second, and so the hot path counts once.

use abide_rpc::proto::cluster::NodeLoad;

use crate::facts::Facts;
use crate::process::Process;

/// `text` are the metrics of this moment.
pub(crate) fn measure(facts: &Facts, text: &str) -> NodeLoad {
    let process = Process::look().unwrap_or_default();
    let sum = |name| sum(text, name, &[]);
    let append = |quantile| {
        let quantile = format!("quantile=\"{quantile}\"");
        let seconds = max(
            text,
            "restate_bifrost_sequencer_append_duration_seconds",
            &quantile,
        );
        whole(seconds * 1e6)
    };
    let tasks = "restate_ingress_requests_total";
    NodeLoad {
        invocations_completed: whole(sum("abide_partition_invocations_completed_total")),
        invocations_invoked: whole(sum("abide_invocations_invoked")),
        attempts_running: whole(sum("abide_invoker_attempts_running")),
        attempts_started: whole(sum("abide_invoker_attempts_started_total")),
        attempts_failed: whole(sum("abide_invoker_attempts_failed_total")),
        ingress_requests: whole(self::sum(text, tasks, &["status=\"admitted\""])),
        log_records: whole(sum("restate_bifrost_sequencer_committed_records_total")),
        append_p50_us: append("0.5"),
        append_p99_us: append("0.99"),
        resident_bytes: process.resident_bytes,
        cpu_ms: process.cpu_ms,
        uptime_ms: u64::try_from(facts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts below 2^53, and `as` stops at the ends"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn samples<'a>(text: &'a str, name: &'a str, labels: &'a [&str]) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        // Not a longer name that begins alike.
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            return None;
        }
        let (_, value) = rest.rsplit_once(' ')?;
        value.parse().ok().filter(|value: &f64| value.is_finite())
    })
}

fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    samples(text, name, labels).sum()
}

fn max(text: &str, name: &str, label: &str) -> f64 {
    samples(text, name, &[label]).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# TYPE a counter\na{x=\"1\",status=\"ok\"} 3\na{x=\"2\",status=\"no\"} 4\na_b 9\nb 2.5\n";

    #[test]
    fn samples_are_summed_over_their_labels_and_not_over_longer_names() {
        assert!((sum(TEXT, "a", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((sum(TEXT, "a", &["status=\"ok\""]) - 3.0).abs() < f64::EPSILON);
        assert!((sum(TEXT, "b", &[]) - 2.5).abs() < f64::EPSILON);
        assert_eq!(whole(sum(TEXT, "c", &[])), 0);
    }
}
