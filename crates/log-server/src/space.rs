//! Refuses appends before the disk is full.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Tells the free bytes of the disk that a directory is on.
pub(crate) type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Asks the operating system.
pub(crate) fn free_space() -> FreeSpace {
    Arc::new(|path| {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    })
}

/// Watches the free space of one disk. Owned by the writer thread.
pub(crate) struct SpaceGuard {
    directory: PathBuf,
    free: FreeSpace,
    free_bytes_min: u64,
    checked: Option<Instant>,
    written: u64,
    full: Arc<AtomicBool>,
}

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_BYTES: u64 = 64 << 20;

impl SpaceGuard {
    pub(crate) fn new(
        directory: PathBuf,
        free: FreeSpace,
        free_bytes_min: u64,
        full: Arc<AtomicBool>,
    ) -> Self {
        Self {
            directory,
            free,
            free_bytes_min,
            checked: None,
            written: 0,
            full,
        }
    }

    /// Counts what was written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Whether appends are to be refused. Looks at the disk once a second or every 64 MiB.
    pub(crate) fn is_full(&mut self) -> bool {
        let stale = self
            .checked
            .is_none_or(|checked| CHECK_INTERVAL <= checked.elapsed());
        if stale || CHECK_BYTES <= self.written {
            self.checked = Some(Instant::now());
            self.written = 0;
            self.check();
        }
        self.full.load(Ordering::Relaxed)
    }

    fn check(&self) {
        let free = match (self.free)(&self.directory) {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), %error, "free space not known");
                return;
            }
        };
        let full = free < self.free_bytes_min;
        if full != self.full.swap(full, Ordering::Relaxed) {
            let (directory, needed) = (self.directory.display(), self.free_bytes_min);
            match full {
                true => {
                    tracing::error!(%directory, free, needed, "disk nearly full, appends refused")
                }
                false => tracing::info!(%directory, free, needed, "disk has room again"),
            }
        }
    }
}
