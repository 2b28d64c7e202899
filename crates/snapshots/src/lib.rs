//! Snapshots of partitions and backups of whole clusters in an object store.
//!
//! A [`Destination`] is a place in a store: a local directory, S3, Google Cloud Storage or Azure. Below it every
//! partition has a [`Shelf`]: files under the names of their contents, which snapshots share; a document for each
//! snapshot that says which files it is made of; and, for snapshots that replicas start from, a pointer to the newest
//! ([`Shelf::publish`]). A [`BackupManifest`] names one snapshot of every partition, all of one moment.
//!
//! **Invariant:** a pointer or manifest is written after everything that it names, and nothing that either names is
//! deleted. What was fetched is what was stored: every file is compared with its length and SHA-256.
//! Not here: how a partition's files come to be, and when.

mod backup;
mod destination;
mod directory;
mod documents;
mod error;
mod files;
mod shelf;

pub use backup::{Backups, DELETED_WITHIN, MADE_WITHIN};
pub use destination::{Destination, RetryPolicy, StoreSettings};
pub use documents::{
    BackedUpDocument, BackedUpPartition, BackupManifest, ClusterId, Pointer, Retained,
    SnapshotFile, SnapshotMetadata,
};
pub use error::RepositoryError;
pub use files::KnownFiles;
pub use shelf::{LocalFile, NewSnapshot, Saved, Shelf};
