//! The partitions of this node: where what comes for one of them goes.

use std::collections::HashMap;
use std::sync::Arc;

use abide_partition_store::PartitionReader;
use abide_rpc::proto::partition as wire;
use abide_rpc::{Handler, Reply};
use abide_types::{NodeId, PartitionId};
use bytes::Bytes;
use metrics::Counter;
use parking_lot::RwLock;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::scan::{AttemptsQuestion, ScanRequest, Scans};
use crate::transfer::{Transfers, unavailable};
use crate::waiters::Responder;
use crate::wire::{Malformed, Request, Response};

/// What a partition hears from others.
#[allow(
    clippy::large_enum_variant,
    reason = "most are requests, which would be boxed one by one"
)]
pub(crate) enum Event {
    /// Somebody asks its leader.
    Ask(Request, Responder),
    /// Another partition's outbox has messages for it.
    Deliveries(wire::Deliveries),
    /// Another partition has taken messages of its outbox.
    DeliveryAcks(wire::DeliveryAcks),
    /// How far a follower is.
    Progress(NodeId, wire::Progress),
    /// A scan wants to know of attempts.
    Attempts(AttemptsQuestion),
}

/// A request about snapshots and backups. Such come past the queue of all else: what ends a hold must not wait behind
/// what the hold keeps waiting.
pub(crate) type Order = (wire::ArchiveRequest, Responder);

/// One partition of this node, for others.
struct Entry {
    events: mpsc::Sender<Event>,
    orders: mpsc::Sender<Order>,
    reader: PartitionReader,
}

/// The ways to this node's partitions.
pub(crate) struct Directory {
    /// Requests and posts that found a queue full.
    refused: Counter,
    partitions: RwLock<HashMap<PartitionId, Entry>>,
    transfers: Arc<Transfers>,
    scans: Scans,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            refused: metrics::counter!("abide_queue_refused_total", "queue" => "partition-events"),
            partitions: RwLock::default(),
            transfers: Arc::default(),
            scans: Scans::default(),
        }
    }
}

impl Directory {
    pub(crate) fn insert(
        &self,
        partition: PartitionId,
        events: mpsc::Sender<Event>,
        orders: mpsc::Sender<Order>,
        reader: PartitionReader,
    ) {
        let entry = Entry {
            events,
            orders,
            reader,
        };
        (self.partitions.write()).insert(partition, entry);
    }

    pub(crate) fn remove(&self, partition: PartitionId) {
        self.partitions.write().remove(&partition);
    }

    /// Ends the transfers of states to other nodes, so that nothing keeps the stores open.
    pub(crate) fn end_transfers(&self) {
        self.transfers.end_all();
    }

    fn events_of(&self, partition: PartitionId) -> Option<mpsc::Sender<Event>> {
        let partitions = self.partitions.read();
        partitions.get(&partition).map(|entry| entry.events.clone())
    }

    /// Asks the partition's task here. It answers itself if it does not lead.
    pub(crate) fn ask(&self, partition: PartitionId, request: Request, responder: Responder) {
        let request = match request {
            Request::Scan(request) => return self.scan(partition, request, responder),
            Request::Archive(request) => return self.order(partition, request, responder),
            request => request,
        };
        let Some(sender) = self.events_of(partition) else {
            return responder.answer(Response::NotLeader);
        };
        match sender.try_send(Event::Ask(request, responder)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Event::Ask(_, responder))) => {
                self.refused.increment(1);
                responder.answer(Response::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed(Event::Ask(_, responder))) => {
                responder.answer(Response::NotLeader);
            }
            Err(_) => {}
        }
    }

    fn order(&self, partition: PartitionId, request: wire::ArchiveRequest, responder: Responder) {
        let orders = {
            let partitions = self.partitions.read();
            partitions.get(&partition).map(|entry| entry.orders.clone())
        };
        let Some(orders) = orders else {
            return responder.answer(Response::NotLeader);
        };
        match orders.try_send((request, responder)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full((_, responder))) => {
                responder.answer(Response::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed((_, responder))) => {
                responder.answer(Response::NotLeader);
            }
        }
    }

    /// Beside the partition's task, which only says what it knows.
    fn scan(&self, partition: PartitionId, request: ScanRequest, responder: Responder) {
        let entry = {
            let partitions = self.partitions.read();
            let entry = partitions.get(&partition);
            entry.map(|entry| (entry.events.clone(), entry.reader.clone()))
        };
        match entry {
            Some((events, reader)) => self.scans.serve(events, reader, request, responder),
            None => responder.answer(Response::NotLeader),
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
        if let Some(sender) = self.events_of(PartitionId(partition))
            && let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event)
        {
            self.refused.increment(1);
        }
    }

    /// Not through the partition's task: giving its state away must not hold it up.
    fn fetch_state(&self, from: NodeId, partition: u32, fetch: wire::FetchState, reply: Reply) {
        let partition = u16::try_from(partition).ok().map(PartitionId);
        let reader = partition.and_then(|partition| {
            let partitions = self.partitions.read();
            Some((partition, partitions.get(&partition)?.reader.clone()))
        });
        match reader {
            Some((partition, reader)) => {
                (self.transfers).serve(from, partition, &reader, fetch, reply);
            }
            None => reply.send(unavailable("the partition is not placed here")),
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
        let request = match wire::Request::decode(payload) {
            Ok(wire::Request {
                partition,
                kind: Some(wire::request::Kind::FetchState(fetch)),
            }) => return self.fetch_state(from, partition, fetch, reply),
            Ok(request) => Request::from_wire(request),
            Err(_) => Err(Malformed("request")),
        };
        match request {
            Ok((partition, request)) => self.ask(partition, request, Responder::Remote(reply)),
            Err(error) => {
                tracing::warn!(%from, %error, "request not understood");
                reply.refuse(error.to_string());
            }
        }
    }
}
