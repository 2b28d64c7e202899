//! The gRPC service with which `abidectl` looks into a node: SQL, what nodes log, and the records of partitions.

use std::pin::Pin;
use std::sync::Arc;

use abide_admin::{Sql as _, SqlError, SqlFormat};
use abide_rpc::proto::cluster::{LogFilterChange, LogFilterState};
use abide_rpc::proto::observe::observe_server::Observe;
use abide_rpc::proto::observe::{
    LogFilterReply, LogFilterRequest, LogPage, NodeLogFilter, ReadLog, SqlPiece, SqlQuery,
};
use abide_types::NodeId;
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::cluster_handler;
use crate::cluster_service::member;
use crate::facts::Facts;
use crate::log_pages;

/// Answers itself, and passes on what is for other nodes.
pub(crate) struct ObserveService {
    pub(crate) facts: Arc<Facts>,
}

#[tonic::async_trait]
impl Observe for ObserveService {
    type QueryStream = Pin<Box<dyn Stream<Item = Result<SqlPiece, Status>> + Send>>;

    async fn query(
        &self,
        request: Request<SqlQuery>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let member = member(&self.facts)?;
        let queries = member
            .queries
            .get()
            .ok_or_else(|| Status::unavailable("the node is starting"))?;
        let rows = queries
            .query(request.into_inner().query, SqlFormat::Json)
            .await
            .map_err(|error| refused(&error))?;
        let pieces = rows.map(|piece| match piece {
            Ok(json) => Ok(SqlPiece { json }),
            Err(error) => Err(refused(&error)),
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn log_filter(
        &self,
        request: Request<LogFilterRequest>,
    ) -> Result<Response<LogFilterReply>, Status> {
        let LogFilterRequest { nodes, change } = request.into_inner();
        let change = change.unwrap_or_default();
        // One that belongs to no cluster yet answers for itself.
        let Some(member) = self.facts.member.get() else {
            return Ok(Response::new(self.only_here(&change)));
        };
        let view = member.metadata.view();
        let known = |node: &NodeId| view.nodes.members().any(|(known, _)| known == *node);
        let wanted: Vec<NodeId> = match nodes.is_empty() {
            true => view.nodes.members().map(|(node, _)| node).collect(),
            false => nodes.into_iter().map(NodeId).collect(),
        };
        if let Some(unknown) = wanted.iter().find(|node| !known(node)) {
            return Err(Status::invalid_argument(format!(
                "there is no node {unknown}"
            )));
        }
        let answers = cluster_handler::filter_all(&member.fabric, wanted, change).await;
        let nodes = answers.into_iter().map(|(node, answer)| {
            let entry = view.nodes.members().find(|(known, _)| *known == node);
            let name = entry.map(|(_, entry)| entry.name.clone());
            let (state, problem) = match answer {
                Ok(state) => (Some(state), String::new()),
                Err(error) => (None, error.to_string()),
            };
            told(node.0, name.unwrap_or_default(), state, problem)
        });
        Ok(Response::new(LogFilterReply {
            nodes: nodes.collect(),
        }))
    }

    async fn log(&self, request: Request<ReadLog>) -> Result<Response<LogPage>, Status> {
        let member = member(&self.facts)?;
        let page = log_pages::read(member, request.get_ref()).await?;
        Ok(Response::new(page))
    }
}

impl ObserveService {
    fn only_here(&self, change: &LogFilterChange) -> LogFilterReply {
        let node = self
            .facts
            .member
            .get()
            .map_or(0, |member| member.joined.node.0);
        let name = self.facts.config.node_name.clone();
        let state = self.facts.log_filter.change(change);
        LogFilterReply {
            nodes: vec![told(node, name, Some(state), String::new())],
        }
    }
}

fn told(node: u32, name: String, state: Option<LogFilterState>, problem: String) -> NodeLogFilter {
    let refused = state
        .as_ref()
        .map(|state| state.refused.clone())
        .unwrap_or_default();
    NodeLogFilter {
        node,
        name,
        state,
        problem: match problem.is_empty() {
            true => refused,
            false => problem,
        },
    }
}

fn refused(error: &SqlError) -> Status {
    let message = error.to_string();
    match error {
        SqlError::Refused(_) => Status::invalid_argument(message),
        SqlError::Failed(_) => Status::internal(message),
        SqlError::Overloaded(_) => Status::resource_exhausted(message),
        SqlError::Unavailable(_) => Status::unavailable(message),
    }
}
