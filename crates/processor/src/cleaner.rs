//! Finds completed invocations whose retention has passed, some rows at a time.

use std::ops::ControlFlow;
use std::time::Duration;

use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{self as state, Status};
use abide_state_machine::{Store, StoreError, expires_at, journal_expires_at};
use abide_types::Timestamp;
use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

/// Rows that are looked at in one go; more would hold the partition up.
const ROWS_A_STEP: usize = 500;
/// Pause between two steps of one pass.
const STEP_AFTER: Duration = Duration::from_millis(20);

/// Walks over the invocations of a partition, again and again.
pub(crate) struct Cleaner {
    interval: Duration,
    next_run: Instant,
    /// Where the pass goes on; `None` between passes.
    at: Option<Bytes>,
}

impl Cleaner {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            next_run: now + interval,
            at: None,
        }
    }

    /// When [`Self::poll`] has something to do.
    pub(crate) fn next_run(&self) -> Instant {
        self.next_run
    }

    /// The expired invocations among the next rows, if it is time to look.
    pub(crate) fn poll(
        &mut self,
        store: &dyn Store,
        now: Timestamp,
        instant: Instant,
    ) -> Result<Vec<state::Expired>, StoreError> {
        let mut expired = Vec::new();
        if instant < self.next_run {
            return Ok(expired);
        }
        let from = self
            .at
            .take()
            .unwrap_or_else(|| keys::table_start(Table::Invocation));
        let mut rows = 0;
        store.scan(
            &from,
            &keys::table_end(Table::Invocation),
            &mut |key, value| {
                if rows == ROWS_A_STEP {
                    self.at = Some(Bytes::copy_from_slice(key));
                    return ControlFlow::Break(());
                }
                rows += 1;
                // A row that does not decode stops the partition when it is used; it is not the cleaner's to judge.
                if let (Some(id), Ok(row)) = (
                    keys::parse_invocation(key),
                    state::Invocation::decode(value.clone()),
                ) && row.status() == Status::Completed
                {
                    let whole = expires_at(&row) <= now;
                    let journal = row.journal_length > 0 && journal_expires_at(&row) <= now;
                    if whole || journal {
                        expired.push(state::Expired {
                            id: Bytes::copy_from_slice(&id.to_bytes()),
                            incarnation: row.incarnation,
                            journal_only: !whole,
                        });
                    }
                }
                ControlFlow::Continue(())
            },
        )?;
        self.next_run = instant
            + if self.at.is_some() {
                STEP_AFTER
            } else {
                self.interval
            };
        Ok(expired)
    }
}
