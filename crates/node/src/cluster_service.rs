//! The gRPC service behind `abidectl`.

use std::sync::Arc;

use abide_metadata::{MetadataError, Versioned};
use abide_rpc::proto::cluster::cluster_server::Cluster;
use abide_rpc::proto::cluster::{
    ClusterStatus, DescribeCluster, GetDocument, GetDocumentReply, GetLogs, GetLogsReply,
    StoredDocument,
};
use abide_types::NodeId;
use tonic::{Request, Response, Status};

use crate::cluster_handler;
use crate::describe::{self, Answers};
use crate::facts::{Awaits, Facts, Member};
use crate::observer;

/// Answers from what this node knows and from what it asks the others.
pub(crate) struct ClusterService {
    pub(crate) facts: Arc<Facts>,
}

/// What this node has that belongs to its cluster.
pub(crate) fn member(facts: &Facts) -> Result<&Member, Status> {
    let member = facts.member.get();
    // `unavailable` is what resolves itself; the other is for the operator.
    member.ok_or_else(|| match facts.awaits() {
        Awaits::Cluster => Status::failed_precondition(Awaits::Cluster.to_string()),
        other => Status::unavailable(other.to_string()),
    })
}

pub(crate) async fn ask_all(member: &Member) -> Answers {
    let nodes: Vec<NodeId> = member
        .metadata
        .view()
        .nodes
        .members()
        .map(|(node, _)| node)
        .collect();
    cluster_handler::ask_all(&member.fabric, nodes, false).await
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn describe(
        &self,
        request: Request<DescribeCluster>,
    ) -> Result<Response<ClusterStatus>, Status> {
        let member = member(&self.facts)?;
        let with_load = request.into_inner().with_load;
        let status = observer::status(&self.facts, member, with_load).await;
        Ok(Response::new(status))
    }

    async fn document(
        &self,
        request: Request<GetDocument>,
    ) -> Result<Response<GetDocumentReply>, Status> {
        let member = member(&self.facts)?;
        let GetDocument { key, linearizable } = request.into_inner();
        let view = member.metadata.view();
        let stored = if linearizable {
            member
                .metadata
                .read(&key)
                .await
                .map_err(|error| refused(&error))?
        } else {
            view.raw(&key).cloned()
        };
        let document = stored.map(|Versioned { version, value }| StoredDocument {
            key,
            version,
            value,
        });
        let keys = view.keys().map(str::to_owned).collect();
        Ok(Response::new(GetDocumentReply { document, keys }))
    }

    async fn logs(&self, request: Request<GetLogs>) -> Result<Response<GetLogsReply>, Status> {
        let member = member(&self.facts)?;
        let answers = ask_all(member).await;
        let view = member.metadata.view();
        let logs = describe::log_entries(&view, &request.into_inner().partitions, &answers);
        Ok(Response::new(GetLogsReply { logs }))
    }
}

fn refused(error: &MetadataError) -> Status {
    let message = error.to_string();
    match error {
        MetadataError::Unavailable { .. } => Status::unavailable(message),
        MetadataError::Refused { .. } => Status::permission_denied(message),
        MetadataError::NotProvisioned => Status::failed_precondition(message),
    }
}
