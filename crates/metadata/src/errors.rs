//! What can go wrong, one type per operation.

use std::path::PathBuf;

use abide_types::NodeId;

/// Why a metadata server has failed, and its node has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerFailure {
    /// Its disk refused a write, or raft met something impossible.
    #[error("{0}")]
    Raft(String),
    /// The cluster was recovered without it; it says how to go on.
    #[error("{0}")]
    Superseded(String),
    /// An operator removed its node.
    #[error("{node} was removed from the cluster")]
    Removed {
        /// The node of this server.
        node: NodeId,
    },
}

/// A stored document that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("document '{key}' at version {version}")]
pub struct DocumentError {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version: u64,
    /// What is wrong with it.
    pub source: serde_json::Error,
}

/// Why something could not be read or asked.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Nobody answered, or nobody leads, until the deadline.
    #[error("the metadata plane did not answer in time: {detail}")]
    Unavailable {
        /// What the last try met.
        detail: String,
    },
    /// The server refused the caller: it belongs to another cluster, or the request is malformed.
    #[error("refused by {address}: {detail}")]
    Refused {
        /// Who refused.
        address: String,
        /// Why.
        detail: String,
    },
    /// The cluster does not exist yet.
    #[error("the cluster has not been provisioned")]
    NotProvisioned,
}

/// Why a transaction was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Not done: a key was at another version.
    #[error("'{key}' is at version {actual}, not {expected}")]
    Conflict {
        /// The key.
        key: String,
        /// The version that the transaction expected.
        expected: u64,
        /// The version that it met.
        actual: u64,
    },
    /// Not done: no leader took it until the deadline.
    #[error("not committed, the metadata plane did not answer in time: {detail}")]
    Unavailable {
        /// What the last try met.
        detail: String,
    },
    /// Unknown: a leader may have taken it, and the deadline passed before it was heard again.
    #[error("it is not known whether the transaction was committed: {detail}")]
    Unknown {
        /// What the last try met.
        detail: String,
    },
    /// Not done: the server belongs to another cluster, or the transaction is malformed or too large.
    #[error("refused: {detail}")]
    Refused {
        /// Why.
        detail: String,
    },
}

/// Why a metadata server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened or written.
    #[error("open the metadata store in {}", directory.display())]
    Open {
        /// Where it is.
        directory: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// The database holds something that is not understood.
    #[error("the metadata store in {} is corrupt: {detail}", directory.display())]
    Corrupt {
        /// Where it is.
        directory: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The directory belongs to a node of another name.
    #[error(
        "the metadata store in {} belongs to node '{stored}', this is node '{configured}'",
        directory.display()
    )]
    OtherNode {
        /// Where it is.
        directory: PathBuf,
        /// The name in the store.
        stored: String,
        /// The name in the configuration.
        configured: String,
    },
    /// Settings that cannot work together.
    #[error("metadata settings: {0}")]
    Options(String),
    /// Raft did not start on what the store holds.
    #[error("start raft on the metadata store in {}: {detail}", directory.display())]
    Raft {
        /// Where it is.
        directory: PathBuf,
        /// What it says.
        detail: String,
    },
}

/// Why a node is not a member of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster has another name.
    #[error("{detail}")]
    OtherCluster {
        /// Which name it has.
        detail: String,
    },
    /// A node of that name is registered with another data directory.
    #[error(
        "the name '{name}' belongs to {node}, whose data directory is another one; remove {node} first if that directory is lost"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        node: NodeId,
    },
    /// The node was removed; its id is never used again.
    #[error(
        "{node} was removed from the cluster; start with an empty data directory to join as a new node"
    )]
    Removed {
        /// The node.
        node: NodeId,
    },
    /// The servers at the seed addresses belong to another cluster than this data directory.
    #[error("refused by {address}: {detail}")]
    Refused {
        /// Who refused.
        address: String,
        /// Why.
        detail: String,
    },
    /// The description of the node is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// The local server could not go on.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server was shut down meanwhile.
    #[error("the metadata server was stopped")]
    Stopped,
}

/// Why no cluster was formed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// There is a cluster already.
    #[error("already provisioned, the cluster's fingerprint is {fingerprint:016x}")]
    AlreadyProvisioned {
        /// Its fingerprint.
        fingerprint: u64,
    },
    /// The settings are not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// Nobody answered at the address, or the new cluster did not come up in time. Ask again: a repetition
    /// never makes a second cluster.
    #[error("not known to be provisioned: {detail}")]
    Unavailable {
        /// What the last try met.
        detail: String,
    },
    /// The local server could not go on.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why a node was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Removing it would break the cluster, or it does not exist.
    #[error("{0}")]
    Refused(String),
    /// Not known to be done; ask again, a repetition is harmless.
    #[error("not known to be removed: {detail}")]
    Unavailable {
        /// What the last try met.
        detail: String,
    },
}

/// Why a server was not made to go on alone.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// It belongs to no cluster.
    #[error("this server belongs to no cluster, so that there is nothing to go on with")]
    NoMember,
    /// Its log is not the one that was looked at.
    #[error(
        "the last log entry is {actual} and not {expected} any more: somebody leads; look again"
    )]
    Moved {
        /// What the caller was shown.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// The directory cannot be read or written.
    #[error("the metadata store: {0}")]
    Storage(String),
}
