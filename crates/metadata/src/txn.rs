//! What is committed at once, and what is read back.

use bytes::Bytes;

use crate::documents::Document;

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The raft log index of the last write. Never 0.
    pub version: u64,
    /// What was written.
    pub value: Bytes,
}

/// Writes that take effect together, if all expectations hold; else not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub(crate) preconditions: Vec<(String, u64)>,
    pub(crate) puts: Vec<(String, Bytes)>,
    pub(crate) deletes: Vec<String>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that `key` is at `version`; 0 demands that it is absent.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, version: u64) -> Self {
        self.preconditions.push((key.into(), version));
        self
    }

    /// Writes `value` under `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Deletes `key`, if it exists.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// Writes a document in the place of the version that it was read at.
    #[must_use]
    pub fn replace<D: Document>(self, document: &D) -> Self {
        self.expect(D::KEY, document.version())
            .put(D::KEY, document.to_bytes())
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}
