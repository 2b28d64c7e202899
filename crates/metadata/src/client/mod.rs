//! The client that every node has.

use std::sync::Arc;
use std::time::Duration;

use abide_types::{Generation, NodeId};
use tokio::sync::watch;

use crate::errors::{CommitError, JoinError, MetadataError, ProvisionError, RemoveError};
use crate::options::{MetadataOptions, NodeDescription, ProvisionSettings};
use crate::server::ServerStatus;
use crate::txn::{Txn, Versioned};
use crate::view::View;

/// Who a node is in its cluster, from this start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The node.
    pub node: NodeId,
    /// This start.
    pub generation: Generation,
    /// The cluster.
    pub fingerprint: u64,
}

/// Reads, watches and changes the metadata. Cheap to clone. It talks to the server in this process where
/// there is one, else to others by gRPC; follows hints to the leader; and tries again until a deadline.
#[derive(Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
}

struct Inner {
    view: watch::Sender<Arc<View>>,
}

impl Metadata {
    /// Registers a node that runs no metadata server, trying `options.addresses` until one answers, and
    /// starts its client. Waits for as long as the cluster is not provisioned.
    pub async fn join(
        options: MetadataOptions,
        node: NodeDescription,
    ) -> Result<(Self, Joined), JoinError> {
        let _ = (options, node);
        unimplemented!()
    }

    /// A client that is no node: for tools.
    pub async fn connect(options: MetadataOptions) -> Result<Self, MetadataError> {
        let _ = options;
        unimplemented!()
    }

    /// Asks the server at `address` to form a cluster; returns the fingerprint.
    pub async fn provision(
        address: &str,
        cluster_name: &str,
        settings: ProvisionSettings,
        options: &MetadataOptions,
    ) -> Result<u64, ProvisionError> {
        let _ = (address, cluster_name, settings, options);
        unimplemented!()
    }

    /// The cache, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// The cache as it is now.
    pub fn view(&self) -> Arc<View> {
        self.inner.view.borrow().clone()
    }

    /// The cache once it is complete up to `version`: a committed transaction is in the view of the
    /// version that it returned.
    pub async fn view_at_least(
        &self,
        version: u64,
        timeout: Duration,
    ) -> Result<Arc<View>, MetadataError> {
        let _ = (version, timeout);
        unimplemented!()
    }

    /// Reads a key linearizably.
    pub async fn read(&self, key: &str) -> Result<Option<Versioned>, MetadataError> {
        let _ = key;
        unimplemented!()
    }

    /// Commits a transaction; returns the version that the written keys have now. It takes effect at most
    /// once, however often it was tried.
    pub async fn commit(&self, txn: Txn) -> Result<u64, CommitError> {
        let _ = txn;
        unimplemented!()
    }

    /// Takes a node out of the metadata plane's voters, then marks it as removed.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), RemoveError> {
        let _ = node;
        unimplemented!()
    }

    /// What every metadata server says of itself; an error stands for one that does not answer.
    pub async fn servers(&self) -> Vec<(NodeId, Result<ServerStatus, MetadataError>)> {
        unimplemented!()
    }

    /// Stops the watch stream. Clones stop with it.
    pub fn close(&self) {}
}
