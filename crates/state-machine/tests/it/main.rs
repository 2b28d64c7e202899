//! What the state machine does, seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod apply;
mod events;
mod harness;
mod hostile;
mod mutations;
mod random;
mod restart;
mod retention;
mod signals;
mod traces;
mod waiting;
