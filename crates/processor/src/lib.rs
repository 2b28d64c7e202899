//! Runs partitions: leader and follower loops, timers, outbox, and the routing of requests to leaders.

pub mod api;
mod router;

pub use router::Router;
