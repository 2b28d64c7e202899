//! Changes of the stored schema: read, change by a pure function, write if nobody else did, and start over if so.

use std::time::Duration;

use abide_schema::Schema;

use crate::app::Shared;
use crate::cluster::{StoreError, Written};
use crate::error::AdminError;

/// How often somebody else may come first.
const TRIES_MAX: u32 = 10;
/// How long an answer waits for this node to have seen the change, so that the next request finds it.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// What a change makes of the schema, or why it does not.
pub(crate) struct Changed<T> {
    /// What is to be stored; `None` leaves it as it is.
    pub(crate) next: Option<Schema>,
    /// What the caller wants to know.
    pub(crate) answer: T,
}

impl Shared {
    /// Applies `change` to the stored schema. It may be called several times, each time with a newer schema; a
    /// write whose answer was lost is found as done by whoever reads again, so `change` has to recognise its own.
    pub(crate) async fn change_schema<T>(
        &self,
        mut change: impl FnMut(&Schema) -> Result<Changed<T>, AdminError> + Send,
    ) -> Result<T, AdminError> {
        for _ in 0..TRIES_MAX {
            let (version, stored) = self.cluster.read_schema().await?;
            let current = self.read(&stored)?;
            let Changed { next, answer } = change(&current)?;
            let Some(next) = next else { return Ok(answer) };
            match self.cluster.write_schema(version, next.to_json()).await? {
                Written::Yes => {
                    self.wait_until_seen(&next).await;
                    return Ok(answer);
                }
                Written::No | Written::Unknown => {}
            }
        }
        let reason = format!("{TRIES_MAX} times somebody else changed the schema first");
        Err(StoreError::Unavailable(reason).into())
    }

    fn read(&self, stored: &[u8]) -> Result<Schema, AdminError> {
        let defaults = self.schema.borrow().defaults().clone();
        Schema::from_json(stored, defaults)
            .map_err(|error| StoreError::Broken(error.to_string()).into())
    }

    async fn wait_until_seen(&self, schema: &Schema) {
        let mut seen = self.schema.clone();
        let seen = seen.wait_for(|seen| seen.registers_the_same(schema));
        // Another change may have overtaken this one; then there is nothing to wait for.
        let _ = tokio::time::timeout(SEEN_WITHIN, seen).await;
    }
}
