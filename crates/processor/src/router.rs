//! Brings a request to the leader of its partition, wherever that is now, and carries it on to the next leader.

use std::sync::Arc;

use abide_types::{InvocationId, PartitionId};
use abide_service_protocol::NotificationId;

use crate::api::{
    Accepted, Attached, Finished, InvocationFilter, InvocationInfo, NewInvocation, Operated, Operation,
    Outcome, RouteError,
};

/// The way to every partition of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {}

impl Router {
    /// The partition that owns `id`.
    pub fn partition_of(&self, id: &InvocationId) -> PartitionId {
        let _ = (&self.inner, id);
        unreachable!("being written")
    }

    /// Creates the invocation, or joins it if its id is known, and waits for its end however long that takes.
    /// Leaders may change meanwhile.
    pub async fn call(&self, invocation: NewInvocation) -> Result<Finished, RouteError> {
        let _ = invocation;
        unreachable!("being written")
    }

    /// Creates the invocation and returns when it is durably accepted.
    pub async fn send(&self, invocation: NewInvocation) -> Result<Accepted, RouteError> {
        let _ = invocation;
        unreachable!("being written")
    }

    /// Waits for the end of an invocation.
    pub async fn attach(&self, id: InvocationId) -> Result<Attached, RouteError> {
        let _ = id;
        unreachable!("being written")
    }

    /// The result of an invocation, if it has ended.
    pub async fn output(&self, id: InvocationId) -> Result<Attached, RouteError> {
        let _ = id;
        unreachable!("being written")
    }

    /// Delivers a signal (an awakeable is one) to an invocation; returns when it is durably accepted. An unknown
    /// or completed invocation takes no notice.
    pub async fn signal(
        &self,
        id: InvocationId,
        signal: NotificationId,
        outcome: Outcome,
    ) -> Result<(), RouteError> {
        let _ = (id, signal, outcome);
        unreachable!("being written")
    }

    /// Does what an operator asks of one invocation.
    pub async fn operate(&self, id: InvocationId, operation: Operation) -> Result<Operated, RouteError> {
        let _ = (id, operation);
        unreachable!("being written")
    }

    /// One invocation.
    pub async fn get(&self, id: InvocationId) -> Result<Option<InvocationInfo>, RouteError> {
        let _ = id;
        unreachable!("being written")
    }

    /// Invocations of all partitions.
    pub async fn list(&self, filter: InvocationFilter) -> Result<Vec<InvocationInfo>, RouteError> {
        let _ = filter;
        unreachable!("being written")
    }
}
