//! What `/proc` tells of the processes under load.

use std::fs;
use std::io;

/// The kernel reports processor time in hundredths of a second on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Sums over processes, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor time, user and system.
    pub cpu_seconds: f64,
    /// Bytes that were sent to the disk.
    pub written_bytes: u64,
    /// The most memory that was ever resident, in bytes.
    pub resident_bytes_max: u64,
}

/// Takes the usage of all these processes. One that has ended counts for nothing.
pub fn usage(pids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        if let Ok(one) = usage_of(*pid) {
            sum.cpu_seconds += one.cpu_seconds;
            sum.written_bytes += one.written_bytes;
            sum.resident_bytes_max += one.resident_bytes_max;
        }
    }
    sum
}

fn usage_of(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage {
        cpu_seconds: cpu_seconds(&stat),
        written_bytes: number_after(&io, "write_bytes:"),
        resident_bytes_max: number_after(&status, "VmHWM:") * 1024,
    })
}

/// Fields 14 and 15, counted from 1. The second is the command's name in brackets and may hold
/// blanks.
fn cpu_seconds(stat: &str) -> f64 {
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

fn number_after(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{cpu_seconds, number_after};

    #[test]
    fn processor_time_is_found_behind_an_odd_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 9 0 77 1 2";
        assert_eq!(cpu_seconds(stat), 4.0);
    }

    #[test]
    fn a_label_is_taken_as_a_whole() {
        let io = "wchar: 7\nwrite_bytes: 4096\ncancelled_write_bytes: 3\n";
        assert_eq!(number_after(io, "write_bytes:"), 4096);
    }
}
