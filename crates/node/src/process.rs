//! What the system says of this process. Only Linux tells; elsewhere everything is absent.

use std::fs;

/// A look at the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) cpu_ms: u64,
    pub(crate) threads: u64,
    pub(crate) open_files: u64,
    pub(crate) open_files_max: u64,
}

/// Clock ticks a second in `/proc/self/stat`: part of Linux's interface, whatever the kernel's own clock.
const TICKS_A_SECOND: u64 = 100;

impl Process {
    /// `None` where there is no `/proc`.
    pub(crate) fn look() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Some(Self {
            resident_bytes: field(&status, "VmRSS:")? * 1024,
            virtual_bytes: field(&status, "VmSize:")? * 1024,
            threads: field(&status, "Threads:")?,
            cpu_ms: cpu_ticks(&stat)? * 1000 / TICKS_A_SECOND,
            // The look itself had one open.
            open_files: (open as u64).saturating_sub(1),
            open_files_max: field(&limits, "Max open files").unwrap_or(0),
        })
    }
}

/// The first number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time. The program's name may hold blanks and brackets; what follows the last bracket does not.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_stand_behind_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 25 17 0 0 20 0 9 0 123 456 789";
        assert_eq!(cpu_ticks(stat), Some(42));
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let text = "VmPeak:\t 10 kB\nVmRSS:\t  2048 kB\nMax open files            1024                 4096                 files\n";
        assert_eq!(field(text, "VmRSS:"), Some(2048));
        assert_eq!(field(text, "Max open files"), Some(1024));
        assert_eq!(field(text, "Threads:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_and_threads() {
        let process = Process::look();
        assert!(process.is_some_and(|process| process.resident_bytes > 0 && process.threads > 0));
    }
}
