//! The partitions of this node: where what comes for one of them goes.

use std::collections::HashMap;

use abide_rpc::proto::partition as wire;
use abide_rpc::{Handler, Reply};
use abide_types::{NodeId, PartitionId};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::waiters::Responder;
use crate::wire::{Request, Response};

/// What a partition hears from others.
pub(crate) enum Event {
    /// Somebody asks its leader.
    Ask(Request, Responder),
    /// Another partition's outbox has messages for it.
    Deliveries(wire::Deliveries),
    /// Another partition has taken messages of its outbox.
    DeliveryAcks(wire::DeliveryAcks),
    /// How far a follower is.
    Progress(NodeId, wire::Progress),
}

/// Senders to the tasks of this node's partitions.
#[derive(Default)]
pub(crate) struct Directory {
    partitions: RwLock<HashMap<PartitionId, mpsc::Sender<Event>>>,
}

impl Directory {
    pub(crate) fn insert(&self, partition: PartitionId, sender: mpsc::Sender<Event>) {
        self.partitions.write().insert(partition, sender);
    }

    pub(crate) fn remove(&self, partition: PartitionId) {
        self.partitions.write().remove(&partition);
    }

    /// Asks the partition's task here. It answers itself if it does not lead.
    pub(crate) fn ask(&self, partition: PartitionId, request: Request, responder: Responder) {
        let sender = self.partitions.read().get(&partition).cloned();
        let Some(sender) = sender else {
            return responder.answer(Response::NotLeader);
        };
        match sender.try_send(Event::Ask(request, responder)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Event::Ask(_, responder))) => {
                responder.answer(Response::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed(Event::Ask(_, responder))) => {
                responder.answer(Response::NotLeader);
            }
            Err(_) => {}
        }
    }

    /// Posts are lost when a partition is behind with them; who sent them sends again.
    pub(crate) fn post(&self, from: NodeId, post: wire::Post) {
        use wire::post::Kind;
        let (partition, event) = match post.kind {
            Some(Kind::Deliveries(deliveries)) => (deliveries.to, Event::Deliveries(deliveries)),
            Some(Kind::DeliveryAcks(acks)) => (acks.from, Event::DeliveryAcks(acks)),
            Some(Kind::Progress(progress)) => (progress.partition, Event::Progress(from, progress)),
            None => return,
        };
        let Ok(partition) = u16::try_from(partition) else {
            return;
        };
        if let Some(sender) = self.partitions.read().get(&PartitionId(partition)) {
            let _ = sender.try_send(event);
        }
    }
}

impl Handler for Directory {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        match wire::Post::decode(payload) {
            Ok(post) => self.post(from, post),
            Err(error) => tracing::warn!(%from, %error, "post not understood"),
        }
    }

    fn on_call(&self, from: NodeId, payload: Bytes, reply: Reply) {
        match Request::decode(payload) {
            Ok((partition, request)) => self.ask(partition, request, Responder::Remote(reply)),
            Err(error) => {
                tracing::warn!(%from, %error, "request not understood");
                reply.refuse(error.to_string());
            }
        }
    }
}
