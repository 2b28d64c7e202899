//! Decides what each committed command does to invocations, journals, state and timers.

pub mod store;

pub use store::{Store, StoreError};
