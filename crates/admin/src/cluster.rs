//! What the API asks of the cluster, and the cluster that answers.

use std::sync::Arc;

use abide_invoker::{
    DiscoverError, DiscoverRequest, DiscoveredEndpoint, Invoker, SerdesError, SerdesRequest,
};
use abide_metadata::{CommitError, Metadata, MetadataError, Txn, keys};
use abide_processor::Router as Partitions;
use abide_processor::api::{
    InvocationFilter, InvocationInfo, Operated, Operation, Restarted, RouteError, StateChange,
    Whither,
};
use abide_types::{InvocationId, QueueId, Role};
use async_trait::async_trait;
use bytes::Bytes;

/// Why the stored schema was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the metadata plane does not answer: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Broken(String),
}

/// Whether a write took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// Somebody else wrote first.
    No,
    /// The answer was lost.
    Unknown,
}

/// Name and metadata servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) name: String,
    pub(crate) metadata_servers: Vec<u32>,
}

/// What the API asks of the cluster.
#[async_trait]
pub(crate) trait Cluster: Send + Sync {
    async fn discover(&self, request: DiscoverRequest)
    -> Result<DiscoveredEndpoint, DiscoverError>;
    async fn serdes(&self, request: SerdesRequest<'_>) -> Result<Bytes, SerdesError>;
    /// The stored schema and its version; absent is version 0 and empty.
    async fn read_schema(&self) -> Result<(u64, Bytes), StoreError>;
    async fn write_schema(&self, version: u64, schema: Vec<u8>) -> Result<Written, StoreError>;
    /// Another document and its version; absent is version 0 and empty.
    async fn read_document(&self, key: &'static str) -> Result<(u64, Bytes), StoreError>;
    async fn write_document(
        &self,
        key: &'static str,
        version: u64,
        document: Vec<u8>,
    ) -> Result<Written, StoreError>;
    async fn pause_queue(&self, queue: QueueId, paused: bool) -> Result<(), RouteError>;
    async fn operate(&self, id: InvocationId, operation: Operation)
    -> Result<Operated, RouteError>;
    async fn resume(&self, id: InvocationId, whither: Whither) -> Result<Operated, RouteError>;
    /// With the id of the new invocation, if there is one.
    async fn restart(
        &self,
        id: InvocationId,
        from: u32,
        whither: Whither,
    ) -> Result<(InvocationId, Restarted), RouteError>;
    async fn change_state(&self, change: StateChange) -> Result<(), RouteError>;
    async fn get(&self, id: InvocationId) -> Result<Option<InvocationInfo>, RouteError>;
    async fn list(&self, filter: InvocationFilter) -> Result<Vec<InvocationInfo>, RouteError>;
    /// `None` before provisioning.
    fn membership(&self) -> Option<Membership>;
}

/// The cluster that this node is part of.
pub(crate) struct Engine {
    pub(crate) metadata: Metadata,
    pub(crate) partitions: Partitions,
    pub(crate) invoker: Arc<Invoker>,
}

#[async_trait]
impl Cluster for Engine {
    async fn discover(
        &self,
        request: DiscoverRequest,
    ) -> Result<DiscoveredEndpoint, DiscoverError> {
        self.invoker.discover(&request).await
    }

    async fn serdes(&self, request: SerdesRequest<'_>) -> Result<Bytes, SerdesError> {
        self.invoker.serdes(request).await
    }

    async fn read_schema(&self) -> Result<(u64, Bytes), StoreError> {
        self.read_document(keys::SCHEMA).await
    }

    async fn write_schema(&self, version: u64, schema: Vec<u8>) -> Result<Written, StoreError> {
        self.write_document(keys::SCHEMA, version, schema).await
    }

    async fn pause_queue(&self, queue: QueueId, paused: bool) -> Result<(), RouteError> {
        self.partitions.pause_queue(queue, paused).await
    }

    async fn read_document(&self, key: &'static str) -> Result<(u64, Bytes), StoreError> {
        match self.metadata.read(key).await {
            Ok(Some(stored)) => Ok((stored.version, stored.value)),
            Ok(None) => Ok((0, Bytes::new())),
            Err(error @ MetadataError::Unavailable { .. }) => {
                Err(StoreError::Unavailable(error.to_string()))
            }
            Err(error) => Err(StoreError::Broken(error.to_string())),
        }
    }

    async fn write_document(
        &self,
        key: &'static str,
        version: u64,
        document: Vec<u8>,
    ) -> Result<Written, StoreError> {
        let txn = Txn::new().expect(key, version).put(key, document);
        match self.metadata.commit(txn).await {
            Ok(_) => Ok(Written::Yes),
            Err(CommitError::Conflict { .. }) => Ok(Written::No),
            Err(CommitError::Unknown { .. }) => Ok(Written::Unknown),
            Err(error @ CommitError::Unavailable { .. }) => {
                Err(StoreError::Unavailable(error.to_string()))
            }
            Err(error @ CommitError::Refused { .. }) => Err(StoreError::Broken(error.to_string())),
        }
    }

    async fn operate(
        &self,
        id: InvocationId,
        operation: Operation,
    ) -> Result<Operated, RouteError> {
        self.partitions.operate(id, operation).await
    }

    async fn resume(&self, id: InvocationId, whither: Whither) -> Result<Operated, RouteError> {
        self.partitions.resume(id, whither).await
    }

    async fn restart(
        &self,
        id: InvocationId,
        from: u32,
        whither: Whither,
    ) -> Result<(InvocationId, Restarted), RouteError> {
        self.partitions.restart_as_new(id, from, whither).await
    }

    async fn change_state(&self, change: StateChange) -> Result<(), RouteError> {
        self.partitions.mutate_state(change).await
    }

    async fn get(&self, id: InvocationId) -> Result<Option<InvocationInfo>, RouteError> {
        self.partitions.get(id).await
    }

    async fn list(&self, filter: InvocationFilter) -> Result<Vec<InvocationInfo>, RouteError> {
        self.partitions.list(filter).await
    }

    fn membership(&self) -> Option<Membership> {
        let view = self.metadata.view();
        let cluster = view.cluster.as_ref()?;
        let servers = view.nodes.with_role(Role::MetadataServer);
        Some(Membership {
            name: cluster.name.clone(),
            metadata_servers: servers.map(|(node, _)| node.0).collect(),
        })
    }
}
