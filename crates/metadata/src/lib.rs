//! The strongly consistent metadata plane: server on openraft, client with a watched cache.
//!
//! A small store of versioned JSON documents under string keys. [`MetadataServer`] keeps it on the nodes
//! with the role `metadata-server`: raft over gRPC, its log and state in one RocksDB. [`Metadata`] is the
//! client that every node has: it commits [`Txn`]s by compare-and-set, reads linearizably, and feeds a
//! [`View`] from a watch stream, so that readers never poll. Start at [`Metadata::commit`] and
//! [`Metadata::view`]; a node begins with [`MetadataServer::start`] or [`Metadata::join`].
//!
//! **Invariant:** no type of openraft leaves this crate.

mod client;
mod documents;
mod errors;
mod json;
mod options;
mod server;
mod transport;
mod txn;
mod view;

pub use client::{Joined, Metadata};
pub use documents::{
    ClusterDocument, Document, NodeEntry, NodeState, Nodes, PartitionEntry, PartitionRule,
    PartitionRules, PartitionTable, Replication, Supports, keys,
};
pub use errors::{
    CommitError, DocumentError, JoinError, MetadataError, ProvisionError, RecoveryError,
    RemoveError, ServerFailure, StartError,
};
pub use options::{MetadataOptions, NodeDescription, ProvisionSettings};
pub use server::{Holdings, LogPosition, MetadataServer, ServerState, ServerStatus};
pub use txn::{Txn, Versioned};
pub use view::View;
