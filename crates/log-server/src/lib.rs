//! Stores segment replicas and fences stale epochs.
//!
//! All logs of a node share one database and one writer thread, which drains everything that waits from all
//! logs into one write and one sync. What a log server must do is decided by [`abide_log::ReplicaLog`]; this
//! crate makes it durable before anybody hears of it. Recent records stay in memory for followers and
//! replicas that lag. Start at [`LogServer::open`]; [`LogService`] connects it to the fabric.
//!
//! A failed write or sync ends the process, since nothing can be said any more about what is on disk.

mod journal;
mod keys;
mod metrics;
mod server;
mod service;
mod space;
mod store;
mod view;
mod writer;

pub use journal::JournalError;
pub use server::{LogServer, LogServerOptions, LogServerStatus};
pub use service::LogService;
pub use store::StoreError;
