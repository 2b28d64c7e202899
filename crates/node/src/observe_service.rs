//! The gRPC service with which `abidectl` looks into a node: SQL, what nodes log, and the records of partitions.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use abide_admin::{Sql as _, SqlError, SqlFormat};
use abide_rpc::CallError;
use abide_rpc::proto::cluster::{LogFilterChange, LogFilterState};
use abide_rpc::proto::observe::observe_server::Observe;
use abide_rpc::proto::observe::{
    CompactReply, CompactRequest, LogFilterReply, LogFilterRequest, LogPage, NodeCompaction,
    NodeLogFilter, ReadLog, SqlPiece, SqlQuery,
};
use abide_types::NodeId;
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::cluster_handler;
use crate::cluster_service::member;
use crate::facts::{Facts, Member};
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
        let wanted = members(member, nodes)?;
        let asked = wanted.keys().copied();
        let answers = cluster_handler::filter_all(&member.fabric, asked, change).await;
        let nodes = answers.into_iter().map(|(node, answer)| {
            let name = wanted.get(&node).cloned().unwrap_or_default();
            let (state, problem) = split(answer);
            told(node.0, name, state, problem)
        });
        Ok(Response::new(LogFilterReply {
            nodes: nodes.collect(),
        }))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactReply>, Status> {
        let CompactRequest { nodes, compact } = request.into_inner();
        let member = member(&self.facts)?;
        let wanted = members(member, nodes)?;
        let asked = wanted.keys().copied();
        let answers =
            cluster_handler::compact_all(&member.fabric, asked, compact.unwrap_or_default()).await;
        let nodes = answers.into_iter().map(|(node, answer)| {
            let (state, problem) = split(answer);
            NodeCompaction {
                node: node.0,
                name: wanted.get(&node).cloned().unwrap_or_default(),
                state,
                problem,
            }
        });
        Ok(Response::new(CompactReply {
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

/// The names of `nodes`, or of all nodes if none is given.
fn members(member: &Member, nodes: Vec<u32>) -> Result<BTreeMap<NodeId, String>, Status> {
    let view = member.metadata.view();
    let known = view.nodes.members();
    let known: BTreeMap<NodeId, String> = known
        .map(|(node, entry)| (node, entry.name.clone()))
        .collect();
    if nodes.is_empty() {
        return Ok(known);
    }
    let wanted = nodes.into_iter().map(NodeId).map(|node| {
        let name = known.get(&node).cloned();
        name.map(|name| (node, name))
            .ok_or_else(|| Status::invalid_argument(format!("there is no node {node}")))
    });
    wanted.collect()
}

/// The answer, or why there is none.
fn split<T>(answer: Result<T, CallError>) -> (Option<T>, String) {
    match answer {
        Ok(answer) => (Some(answer), String::new()),
        Err(error) => (None, error.to_string()),
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
