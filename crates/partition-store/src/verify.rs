//! Looking for damage that RocksDB has met where nobody reads: in a compaction.
//!
//! RocksDB counts such errors for the whole database and does not say where they were. So every partition reads all of
//! its rows once when the count has risen, on a thread of its own; the one that is damaged meets the damage, and its
//! processor makes it anew. Start at [`PartitionStore::look_for_damage`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abide_state_machine::StoreError;
use rocksdb::ReadOptions;

use crate::partition::{PartitionStore, Shared};

/// What RocksDB counts.
const BACKGROUND_ERRORS: &str = "rocksdb.background-errors";
/// A partition that was found sound is not read again before this has passed: RocksDB tries a compaction that failed
/// again and again until the partition that is damaged is dropped.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// One partition's view of the matter.
pub(crate) struct Verifier {
    errors_seen: u64,
    not_before: Instant,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), rocksdb::Error>>,
}

impl Verifier {
    /// Errors of before the partition was opened are no news: what they were about is met again, or gone.
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            errors_seen: errors(shared),
            not_before: Instant::now(),
            running: None,
        }
    }

    /// Ends a look that is under way.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            // What it found does not matter any more.
            let _ = running.thread.join();
        }
    }
}

impl PartitionStore {
    /// Begins to read all rows when RocksDB has met errors lately, and says what was found.
    ///
    /// # Errors
    /// The partition is damaged; see [`crate::is_corruption`].
    pub(crate) fn look_for_damage(&mut self, now: Instant) -> Result<(), StoreError> {
        if let Some(running) = self
            .verifier
            .running
            .take_if(|running| running.thread.is_finished())
        {
            self.verifier.not_before = now + AGAIN_AFTER;
            match running.thread.join() {
                Ok(found) => {
                    found.map_err(|source| self.shared.error("reading all rows", source))?
                }
                Err(_) => {
                    return Err(self
                        .shared
                        .bare_error("reading all rows: the thread panicked"));
                }
            }
        }
        if self.verifier.running.is_some() || now < self.verifier.not_before {
            return Ok(());
        }
        let errors = errors(&self.shared);
        if errors <= self.verifier.errors_seen {
            return Ok(());
        }
        tracing::warn!(
            partition = %self.partition(), errors,
            "RocksDB failed in the background; the partition is read to see whether it is damaged"
        );
        let (shared, stop) = (Arc::clone(&self.shared), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("verify".to_owned());
        match thread.spawn(move || read_all(&shared, &stopped)) {
            Ok(thread) => {
                self.verifier.errors_seen = errors;
                self.verifier.running = Some(Running { stop, thread });
            }
            // It is tried again with the next look.
            Err(error) => tracing::warn!(%error, "no thread to read the rows on"),
        }
        Ok(())
    }
}

fn errors(shared: &Shared) -> u64 {
    let counted = shared.stores.db().property_int_value(BACKGROUND_ERRORS);
    counted.ok().flatten().unwrap_or(0)
}

fn read_all(shared: &Shared, stop: &AtomicBool) -> Result<(), rocksdb::Error> {
    let Some(family) = shared.family() else {
        return Ok(());
    };
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_verify_checksums(true);
    let mut rows = shared.stores.db().raw_iterator_cf_opt(&family, options);
    rows.seek_to_first();
    while rows.valid() && !stop.load(Ordering::Relaxed) {
        rows.next();
    }
    rows.status()
}
