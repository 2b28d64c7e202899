//! What the front door asks of the partitions. The router does it; tests have something simpler.

use std::future::Future;

use abide_processor::Router;
use abide_processor::api::{Accepted, Attached, Finished, NewInvocation, Outcome, RouteError};
use abide_service_protocol::NotificationId;
use abide_types::InvocationId;

/// See [`Router`], whose methods these are. A dropped future leaves nothing behind on this node.
pub(crate) trait Partitions: Send + Sync + 'static {
    fn call(
        &self,
        invocation: NewInvocation,
    ) -> impl Future<Output = Result<Finished, RouteError>> + Send;

    fn send(
        &self,
        invocation: NewInvocation,
    ) -> impl Future<Output = Result<Accepted, RouteError>> + Send;

    fn attach(&self, id: InvocationId)
    -> impl Future<Output = Result<Attached, RouteError>> + Send;

    fn output(&self, id: InvocationId)
    -> impl Future<Output = Result<Attached, RouteError>> + Send;

    fn signal(
        &self,
        id: InvocationId,
        signal: NotificationId,
        outcome: Outcome,
    ) -> impl Future<Output = Result<(), RouteError>> + Send;
}

impl Partitions for Router {
    async fn call(&self, invocation: NewInvocation) -> Result<Finished, RouteError> {
        Router::call(self, invocation).await
    }

    async fn send(&self, invocation: NewInvocation) -> Result<Accepted, RouteError> {
        Router::send(self, invocation).await
    }

    async fn attach(&self, id: InvocationId) -> Result<Attached, RouteError> {
        Router::attach(self, id).await
    }

    async fn output(&self, id: InvocationId) -> Result<Attached, RouteError> {
        Router::output(self, id).await
    }

    async fn signal(
        &self,
        id: InvocationId,
        signal: NotificationId,
        outcome: Outcome,
    ) -> Result<(), RouteError> {
        Router::signal(self, id, signal, outcome).await
    }
}
