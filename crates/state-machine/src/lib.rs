//! Decides what each committed command does to invocations, journals, state and timers.
//!
//! Start at [`StateMachine::apply`]: a record's commands in, rows changed in a [`Store`], [`Action`]s for the leader
//! out. `lifecycle` has how an invocation starts and ends, `journal` what is appended and who wakes,
//! `journal_commands` what each command of a handler does, `operations` and `restart` what operators do, `mutations`
//! how they change state, `events` what is kept beside a journal, `trace` what is known of who called, [`keys`] where rows are.
//!
//! **Invariant:** no I/O, clock or randomness. Equal logs give equal rows on every replica.
//! **Invariant:** does not know HTTP, leaders or nodes; followers run it and drop the actions.

mod action;
mod apply;
mod convert;
mod events;
mod journal;
mod journal_commands;
pub mod keys;
mod lifecycle;
mod mutations;
mod operations;
mod restart;
mod store;
mod trace;

#[allow(missing_docs, reason = "generated; the .proto file says what is what")]
pub mod proto {
    //! Commands and stored values.
    include!(concat!(env!("OUT_DIR"), "/abide.state.rs"));
}

pub use action::{Action, Finished, Invoked, Operated, OutboxPosition, Queue, Reply, Restarted};
pub use apply::{Applied, ApplyError, StateMachine, VERSION, WAITS_SINCE};
pub use convert::{outcome_from_stored, outcome_to_stored};
pub use events::EVENTS_MAX;
pub use journal::{is_notification, read_journal};
pub use journal_commands::attach_target_id;
pub use lifecycle::{expires_at, is_forgotten};
pub use mutations::state_version;
pub use operations::journal_expires_at;
pub use store::{Store, StoreError};
pub use trace::context_of;
