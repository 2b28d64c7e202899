//! What a log server counts. Handles are made once.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

const REFUSED: &str = "abide_log_server_refused_total";
const READS: &str = "abide_log_server_reads_total";

/// The counters of one log server.
pub(crate) struct Metrics {
    commit: Histogram,
    commits: Counter,
    commit_bytes: Counter,
    records: Counter,
    batch_records: Histogram,
    pub(crate) rotations: Counter,
    pub(crate) flushes: Counter,
    pub(crate) flush_failures: Counter,
    pub(crate) disk_full: Counter,
    pub(crate) overloaded: Counter,
    pub(crate) reads_cached: Counter,
    pub(crate) reads_disk: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) fences: Counter,
    pub(crate) trims: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            commit: histogram!("abide_log_server_commit_seconds"),
            commits: counter!("abide_log_server_commits_total"),
            commit_bytes: counter!("abide_log_server_commit_bytes_total"),
            records: counter!("abide_log_server_records_total"),
            batch_records: histogram!("abide_log_server_commit_records"),
            rotations: counter!("abide_log_server_journal_rotations_total"),
            flushes: counter!("abide_log_server_flushes_total", "outcome" => "done"),
            flush_failures: counter!("abide_log_server_flushes_total", "outcome" => "failed"),
            disk_full: counter!(REFUSED, "reason" => "disk-full"),
            overloaded: counter!(REFUSED, "reason" => "overloaded"),
            reads_cached: counter!(READS, "from" => "memory"),
            reads_disk: counter!(READS, "from" => "disk"),
            corrupt: counter!("abide_log_server_corrupt_records_total"),
            fences: counter!("abide_log_server_fences_total"),
            trims: counter!("abide_log_server_trims_total"),
        }
    }

    /// One group commit: a write to the journal that returns when it is on disk.
    pub(crate) fn committed(&self, took: Duration, bytes: usize, records: usize) {
        self.commit.record(took);
        self.commits.increment(1);
        self.commit_bytes.increment(bytes as u64);
        self.records.increment(records as u64);
        self.batch_records.record(records as f64);
    }
}
