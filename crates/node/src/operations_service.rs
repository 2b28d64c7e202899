//! The gRPC service with which operators change the cluster.

use std::sync::Arc;

use abide_rpc::proto::operations::operations_server::Operations;
use abide_rpc::proto::operations::{
    ChangeNode, ChangeNodeReply, ChangeRules, ChangeRulesReply, ClusterConfig, GetConfig,
    GetHoldings, GetRules, Holdings, PutDocument, PutDocumentReply, Reassign, ReassignReply,
    RulesReply, SetConfig, SetConfigReply, TrimPartition, TrimReply,
};
use tonic::{Request, Response, Status};

use crate::cluster_service::{self, ask_all};
use crate::facts::Facts;
use crate::operations::{self, Picture};

/// Takes requests in at any node.
pub(crate) struct OperationsService {
    pub(crate) facts: Arc<Facts>,
}

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn node(
        &self,
        request: Request<ChangeNode>,
    ) -> Result<Response<ChangeNodeReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let request = request.into_inner();
        let reply = operations::change_node(&picture, &member.metadata, &request).await?;
        if !request.dry_run {
            tracing::info!(node = reply.name, change = ?request.change(), force = request.force, "an operator changed a node");
        }
        Ok(Response::new(reply))
    }

    async fn node_holdings(
        &self,
        request: Request<GetHoldings>,
    ) -> Result<Response<Holdings>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let answers = ask_all(member).await;
        let holdings = operations::holdings(&picture, &answers, &request.into_inner().node)?;
        Ok(Response::new(holdings))
    }

    async fn rules(&self, _: Request<GetRules>) -> Result<Response<RulesReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        Ok(Response::new(operations::rules(&picture)))
    }

    async fn set_rules(
        &self,
        request: Request<ChangeRules>,
    ) -> Result<Response<ChangeRulesReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let request = request.into_inner();
        tracing::info!(?request, "an operator changes rules of partitions");
        let reply = operations::change_rules(&picture, &member.metadata, request).await?;
        Ok(Response::new(reply))
    }

    async fn reassign_partitions(
        &self,
        request: Request<Reassign>,
    ) -> Result<Response<ReassignReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let answers = ask_all(member).await;
        let request = request.into_inner();
        tracing::info!(?request, "an operator reassigns partitions");
        let reply = operations::reassign(&picture, &member.metadata, &answers, request).await?;
        Ok(Response::new(reply))
    }

    async fn trim_log(
        &self,
        request: Request<TrimPartition>,
    ) -> Result<Response<TrimReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let processors =
            (member.processors.get()).ok_or_else(|| Status::unavailable("the node is starting"))?;
        let request = request.into_inner();
        if !request.dry_run {
            tracing::info!(?request, "an operator trims a log");
        }
        let reply = operations::trim(&picture, &processors.router(), &request).await?;
        Ok(Response::new(reply))
    }

    async fn config(&self, _: Request<GetConfig>) -> Result<Response<ClusterConfig>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        Ok(Response::new(operations::show_config(&picture)))
    }

    async fn change_config(
        &self,
        request: Request<SetConfig>,
    ) -> Result<Response<SetConfigReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let picture = Picture::take(&self.facts, member).await;
        let request = request.into_inner();
        let reply = operations::change_config(&picture, &member.metadata, &request).await?;
        if !request.dry_run {
            tracing::info!(?request, "an operator changed the cluster's configuration");
        }
        Ok(Response::new(reply))
    }

    async fn put(
        &self,
        request: Request<PutDocument>,
    ) -> Result<Response<PutDocumentReply>, Status> {
        let member = cluster_service::member(&self.facts)?;
        let request = request.into_inner();
        if !request.dry_run {
            tracing::warn!(
                key = request.key,
                "an operator writes a metadata document by hand"
            );
        }
        let reply = operations::put(&member.metadata, request).await?;
        Ok(Response::new(reply))
    }
}
