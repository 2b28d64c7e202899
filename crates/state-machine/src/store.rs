//! The narrow interface through which the state machine sees its tables.

use std::ops::ControlFlow;

use bytes::Bytes;

/// The store could not answer; the partition cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{what} in {place}")]
pub struct StoreError {
    /// What was tried.
    pub what: &'static str,
    /// Directory or table that an operator has to look at.
    pub place: String,
    /// The engine's own error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Ordered rows of one partition. A write is seen by the reads after it.
pub trait Store {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Sets `key` to `value`.
    fn put(&mut self, key: Bytes, value: Bytes);

    /// Removes `key`; nothing happens if it is absent.
    fn delete(&mut self, key: Bytes);

    /// Shows `visit` the rows in `[from, to)` in order until it breaks off.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;
}
