//! What nodes tell and ask each other about themselves, over the fabric.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use abide_controller::ReplicaReport;
use abide_rpc::proto::cluster::{
    Answer, Behind, Call, Compact, CompactState, DescribeNode, Leaving, LogFilterChange,
    LogFilterState, NodeStatus, Notice, answer, call, notice,
};
use abide_rpc::{CallError, Fabric, Handler, Reply, Service};
use abide_types::{Generation, NodeId, NodeIncarnation, PartitionId};
use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::facts::Facts;
use crate::{compactions, describe};

/// How long a node may take to describe itself.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(2);

/// Takes notices and answers questions. It does not keep the node alive.
pub(crate) struct ClusterHandler {
    pub(crate) facts: Weak<Facts>,
}

impl Handler for ClusterHandler {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        let Some(facts) = self.facts.upgrade() else {
            return;
        };
        let Some(member) = facts.member.get() else {
            return;
        };
        let notice = match Notice::decode(payload) {
            Ok(notice) => notice,
            Err(error) => {
                tracing::warn!(%from, %error, "a notice that does not parse");
                return;
            }
        };
        let node = NodeIncarnation {
            node: from,
            generation: Generation(notice.generation),
        };
        match notice.body {
            Some(notice::Body::Leaving(Leaving {})) => member.controller.leaving(node),
            Some(notice::Body::Behind(Behind {
                partitions,
                caught_up,
            })) => {
                let report = ReplicaReport {
                    behind: partition_ids(partitions),
                    caught_up: partition_ids(caught_up),
                };
                member.controller.replicas(node, report);
            }
            // A later version's: nothing that this one could do about it.
            None => {}
        }
    }

    fn on_call(&self, from: NodeId, payload: Bytes, reply: Reply) {
        let Some(facts) = self.facts.upgrade() else {
            return reply.refuse("the node is stopping");
        };
        let call = match Call::decode(payload) {
            Ok(call) => call,
            Err(error) => {
                tracing::warn!(%from, %error, "a call that does not parse");
                return reply.refuse("the call does not parse");
            }
        };
        match call.body {
            Some(call::Body::Describe(DescribeNode { with_load })) => {
                // Log servers are asked on the way; that is not for the task that reads the connection.
                tokio::spawn(async move {
                    let mut status = describe::node(&facts);
                    if with_load {
                        status.load = facts.load();
                    }
                    let body = Some(answer::Body::Node(status));
                    reply.send(Answer { body }.encode_to_vec().into());
                });
            }
            Some(call::Body::LogFilter(change)) => {
                let body = Some(answer::Body::LogFilter(facts.log_filter.change(&change)));
                reply.send(Answer { body }.encode_to_vec().into());
            }
            Some(call::Body::Compact(wanted)) => {
                // The answer comes at once; the work goes on.
                let body = Some(answer::Body::Compact(compactions::answer(&facts, &wanted)));
                reply.send(Answer { body }.encode_to_vec().into());
            }
            None => reply.refuse("this node does not know the call"),
        }
    }
}

/// Tells the other nodes, as far as they can be reached, and this one.
pub(crate) fn tell(fabric: &Fabric, nodes: impl IntoIterator<Item = NodeId>, body: notice::Body) {
    let notice = Notice {
        generation: fabric.identity().generation.0,
        body: Some(body),
    };
    let payload = Bytes::from(notice.encode_to_vec());
    for node in nodes {
        // Who cannot be reached now is told when a connection comes, by who sends notices.
        let _ = fabric.send(node, Service::Cluster, payload.clone());
    }
}

/// The notice of how replicas fare.
pub(crate) fn replicas(report: &ReplicaReport) -> notice::Body {
    let numbers = |partitions: &BTreeSet<PartitionId>| {
        let numbers = partitions.iter().map(|partition| u32::from(partition.0));
        numbers.collect()
    };
    notice::Body::Behind(Behind {
        partitions: numbers(&report.behind),
        caught_up: numbers(&report.caught_up),
    })
}

fn partition_ids(numbers: Vec<u32>) -> BTreeSet<PartitionId> {
    let known = numbers.into_iter().filter_map(|id| u16::try_from(id).ok());
    known.map(PartitionId).collect()
}

/// The notice of a polite stop.
pub(crate) fn leaving() -> notice::Body {
    notice::Body::Leaving(Leaving {})
}

/// What each node says of itself, or why it does not.
pub(crate) async fn ask_all(
    fabric: &Arc<Fabric>,
    nodes: impl IntoIterator<Item = NodeId>,
    with_load: bool,
) -> BTreeMap<NodeId, Result<NodeStatus, CallError>> {
    let describe = call::Body::Describe(DescribeNode { with_load });
    let status = |answer| match answer {
        answer::Body::Node(status) => Some(status),
        _ => None,
    };
    call_all(fabric, nodes, describe, status).await
}

/// Has nodes change, or show, what they log.
pub(crate) async fn filter_all(
    fabric: &Arc<Fabric>,
    nodes: impl IntoIterator<Item = NodeId>,
    change: LogFilterChange,
) -> BTreeMap<NodeId, Result<LogFilterState, CallError>> {
    let state = |answer| match answer {
        answer::Body::LogFilter(state) => Some(state),
        _ => None,
    };
    call_all(fabric, nodes, call::Body::LogFilter(change), state).await
}

/// Has nodes compact their databases, or say how far they are.
pub(crate) async fn compact_all(
    fabric: &Arc<Fabric>,
    nodes: impl IntoIterator<Item = NodeId>,
    wanted: Compact,
) -> BTreeMap<NodeId, Result<CompactState, CallError>> {
    let state = |answer| match answer {
        answer::Body::Compact(state) => Some(state),
        _ => None,
    };
    call_all(fabric, nodes, call::Body::Compact(wanted), state).await
}

/// Asks nodes the same; `expected` takes what is wanted out of an answer to that question.
async fn call_all<T: Send + 'static>(
    fabric: &Arc<Fabric>,
    nodes: impl IntoIterator<Item = NodeId>,
    body: call::Body,
    expected: fn(answer::Body) -> Option<T>,
) -> BTreeMap<NodeId, Result<T, CallError>> {
    let call = Call { body: Some(body) };
    let payload = Bytes::from(call.encode_to_vec());
    let mut asked = JoinSet::new();
    for node in nodes {
        let (fabric, payload) = (Arc::clone(fabric), payload.clone());
        asked.spawn(async move {
            let answer = fabric
                .call(node, Service::Cluster, payload, DESCRIBED_WITHIN)
                .await;
            let other = || CallError::Refused("the answer is to another question".to_owned());
            let answer = answer.and_then(understood);
            let answer = answer.and_then(|answer| expected(answer).ok_or_else(other));
            (node, answer)
        });
    }
    asked.join_all().await.into_iter().collect()
}

fn understood(answer: Bytes) -> Result<answer::Body, CallError> {
    let refused = |reason: &str| CallError::Refused(reason.to_owned());
    let answer = Answer::decode(answer).map_err(|_| refused("the answer does not parse"))?;
    answer
        .body
        .ok_or_else(|| refused("the answer is not known here"))
}
