//! What a metadata server keeps on disk: raft's log and vote, the documents, and who the directory is.
//!
//! All of it is one RocksDB with one write-ahead log and one column family, so that what is recovered after a
//! crash is always a prefix of what was written: a purge is never there without the state that made it
//! allowed. Writes go to the WAL at once, hence are readable at once and survive the process; what must
//! survive the machine waits for [`flusher`], which syncs once for all that is waiting.

mod database;
mod flusher;
mod keys;
mod log;
mod state;
mod state_machine;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

pub(crate) use database::Database;
pub(crate) use keys::Key;
pub(crate) use log::LogStore;

pub(crate) use state::{Effects, SharedState, State};
pub(crate) use state_machine::{StateMachine, check_image, write_whole};

/// Where the identity of the directory is.
pub(crate) const IDENTITY: keys::Key<'static> = keys::Key::Identity;
