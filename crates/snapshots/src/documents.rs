//! The documents of a repository. Fields that a later version adds are ignored by this one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::RepositoryError;

/// The version of the documents that this version writes, and the highest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// Which cluster something belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterId {
    /// Its name.
    pub name: String,
    /// 16 hexadecimal digits.
    pub fingerprint: String,
}

impl ClusterId {
    /// Of a cluster.
    pub fn new(name: impl Into<String>, fingerprint: u64) -> Self {
        Self {
            name: name.into(),
            fingerprint: format!("{fingerprint:016x}"),
        }
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' ({})", self.name, self.fingerprint)
    }
}

/// `latest.json`: the snapshots of a partition that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Of the document.
    pub format: u32,
    /// Whose they are.
    pub cluster: ClusterId,
    /// The partition.
    pub partition: u16,
    /// The leader that wrote it.
    pub epoch: u64,
    /// Oldest first; never empty.
    pub retained: Vec<Retained>,
}

impl Pointer {
    /// The newest.
    pub fn latest(&self) -> Option<&Retained> {
        self.retained.last()
    }

    /// The position that every snapshot which is kept covers.
    pub fn archived(&self) -> Option<&Retained> {
        self.retained.first()
    }
}

/// A snapshot that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// Random.
    pub id: String,
    /// The last record that it shows.
    pub lsn: u64,
    /// Its folder below the partition's.
    pub folder: String,
    /// When, in milliseconds since 1970.
    pub created_at: u64,
    /// Of all its files, shared ones included.
    pub bytes: u64,
    /// SHA-256 of its `metadata.json`.
    pub metadata_sha256: String,
}

/// `metadata.json`: what a snapshot is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMetadata {
    /// Of the document.
    pub format: u32,
    /// Whose it is.
    pub cluster: ClusterId,
    /// The partition.
    pub partition: u16,
    /// How many the cluster has: the meaning of every key hangs on it.
    pub partitions: u16,
    /// Random.
    pub id: String,
    /// The last record that it shows.
    pub lsn: u64,
    /// The leader that took it.
    pub epoch: u64,
    /// The node that it ran on.
    pub node: u32,
    /// When, in milliseconds since 1970.
    pub created_at: u64,
    /// What it consists of.
    pub files: Vec<SnapshotFile>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its name where it is used.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Of its content.
    pub sha256: String,
    /// The object below the partition's `files`.
    pub key: String,
}

/// A whole cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// Of the document.
    pub format: u32,
    /// Its name.
    pub id: String,
    /// What was backed up.
    pub cluster: ClusterId,
    /// How many partitions there are.
    pub partitions: u16,
    /// The program that wrote it.
    pub version: String,
    /// The moment, in milliseconds since 1970.
    pub created_at: u64,
    /// Every partition, in order.
    pub snapshots: Vec<BackedUpPartition>,
    /// What the metadata plane held, besides nodes and placement.
    pub documents: Vec<BackedUpDocument>,
}

/// Somebody is at something with backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Of the document.
    pub format: u32,
    /// Since when, in milliseconds since 1970.
    pub at: u64,
}

/// A partition of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpPartition {
    /// The partition.
    pub partition: u16,
    /// Its snapshot.
    pub snapshot: Retained,
}

/// A document of the metadata plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpDocument {
    /// Its key.
    pub key: String,
    /// As it was stored: all are texts.
    pub value: String,
}

pub(crate) fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("plain fields always have a JSON form")
}

/// Reads a document whose format this version knows.
pub(crate) fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, RepositoryError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let malformed = |reason: String| RepositoryError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let head: Head = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if FORMAT < head.format {
        let format = head.format;
        return Err(malformed(format!(
            "it has format {format}, this version reads up to {FORMAT}"
        )));
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
