//! The way to the log servers: the local one directly, the others over the fabric.
//!
//! Appends and their answers are messages that nobody waits for; fence, read, trim and tail are calls. Start
//! at [`LogClient::send`].

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::{Fabric, SendError, Service};
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot, watch};

use crate::message::{
    AppendOutcome, AppendReply, AppendRequest, FenceReply, FenceRequest, ReadReply, ReadRequest,
    TailReply,
};
use crate::sequencer::Sequencer;
use crate::wire::{
    DecodeError, decode_fence_reply, decode_read_reply, decode_tail_reply, decode_trim_reply,
    encode_append, encode_fence, encode_read, encode_tail, encode_trim,
};

/// A future that can be stored.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes the answers to a log's appends. Called on the log server's writer thread and on connection tasks,
/// so it must not block.
pub type ReplyCallback = Arc<dyn Fn(NodeId, AppendReply) + Send + Sync>;

/// Takes one answer of the local log server, on its writer thread: it must not block.
pub type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// What carries bytes between the nodes' log services: the [`Fabric`], or a test.
pub trait Conduit: Send + Sync + 'static {
    /// Sends without waiting, in order.
    fn send(&self, to: NodeId, payload: Bytes) -> Result<(), SendError>;

    /// Sends and waits for the answer.
    fn call(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, abide_rpc::CallError>>;
}

impl Conduit for Fabric {
    fn send(&self, to: NodeId, payload: Bytes) -> Result<(), SendError> {
        Fabric::send(self, to, Service::Log, payload)
    }

    fn call(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, abide_rpc::CallError>> {
        Box::pin(Fabric::call(self, to, Service::Log, payload, deadline))
    }
}

/// The log server of this node, called without serialization.
pub trait LocalLog: Send + Sync + 'static {
    /// Stores durably and answers, all without blocking the caller. A notice of the commit is not answered
    /// unless the epoch was fenced.
    fn append(&self, request: AppendRequest, reply: Answer<AppendReply>);

    /// Promises durably, then answers.
    fn fence(&self, request: FenceRequest, reply: Answer<FenceReply>);

    /// Reads what is in memory; `None` when the disk has to be asked.
    fn read_cached(&self, request: &ReadRequest) -> Option<ReadReply>;

    /// Reads, from the disk if need be; blocks for that long.
    fn read(&self, request: &ReadRequest) -> ReadReply;

    /// Forgets everything below durably, then answers with the trim point.
    fn trim(&self, partition: PartitionId, trimmed: Lsn, reply: Answer<Lsn>);

    /// The state of a log.
    fn tail(&self, partition: PartitionId) -> TailReply;

    /// The tail of what is both stored here and known to be committed.
    fn subscribe(&self, partition: PartitionId) -> watch::Receiver<Lsn>;
}

/// Why a log server did not answer a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call did not go through; it says itself whether that is certain.
    #[error("the log server of {node} did not answer")]
    Call {
        /// The log server's node.
        node: NodeId,
        /// What happened.
        source: abide_rpc::CallError,
    },
    /// The answer makes no sense.
    #[error("the log server of {node} answered with rubbish")]
    Decode {
        /// The log server's node.
        node: NodeId,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The local log server is shutting down.
    #[error("the local log server is gone")]
    Gone,
}

/// Sends to the log servers and hands their answers out.
pub struct LogClient {
    node: NodeId,
    conduit: Arc<dyn Conduit>,
    local: Option<Arc<dyn LocalLog>>,
    callbacks: Arc<Callbacks>,
    attempted: Mutex<BTreeMap<PartitionId, Epoch>>,
}

#[derive(Default)]
struct Callbacks(RwLock<BTreeMap<PartitionId, ReplyCallback>>);

impl Callbacks {
    fn deliver(&self, from: NodeId, reply: AppendReply) {
        // Cloned, so that the callback may register another one.
        let callback = self.0.read().get(&reply.partition).cloned();
        if let Some(callback) = callback {
            callback(from, reply);
        }
    }
}

impl LogClient {
    /// The client of `node`, with its own log server if it has one.
    pub fn new(
        node: NodeId,
        conduit: Arc<dyn Conduit>,
        local: Option<Arc<dyn LocalLog>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            conduit,
            local,
            callbacks: Arc::default(),
            attempted: Mutex::default(),
        })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node's log server.
    pub fn local(&self) -> Option<&Arc<dyn LocalLog>> {
        self.local.as_ref()
    }

    /// Hands the answers to the appends of `partition` to `callback` from now on.
    pub fn register(&self, partition: PartitionId, callback: ReplyCallback) {
        self.callbacks.0.write().insert(partition, callback);
    }

    /// Drops the answers to the appends of `partition` from now on.
    pub fn unregister(&self, partition: PartitionId) {
        self.callbacks.0.write().remove(&partition);
    }

    /// Hands an answer that came over the fabric to whom it is for.
    pub fn deliver(&self, from: NodeId, reply: AppendReply) {
        self.callbacks.deliver(from, reply);
    }

    /// Sends what `sequencer` has to send; `out` is scratch space. What cannot be sent is told to it.
    pub fn send(&self, sequencer: &mut Sequencer, out: &mut Vec<(NodeId, AppendRequest)>) {
        out.clear();
        sequencer.poll_send(out);
        self.send_all(sequencer, out);
    }

    /// Tells the replicas of the last commit if `sequencer` owes them that.
    pub fn send_commit(&self, sequencer: &mut Sequencer, out: &mut Vec<(NodeId, AppendRequest)>) {
        out.clear();
        sequencer.poll_commit(out);
        self.send_all(sequencer, out);
    }

    fn send_all(&self, sequencer: &mut Sequencer, out: &mut Vec<(NodeId, AppendRequest)>) {
        let mut encoded: Option<(AppendRequest, Bytes)> = None;
        // The peers first: their way is longer.
        for remote in [true, false] {
            for (node, request) in &*out {
                if remote == (*node == self.node && self.local.is_some()) {
                    continue;
                }
                if !remote {
                    self.append_locally(request.clone());
                    continue;
                }
                let payload = match &encoded {
                    Some((same, payload)) if is_same(same, request) => payload.clone(),
                    _ => {
                        let payload = encode_append(request);
                        encoded = Some((request.clone(), payload.clone()));
                        payload
                    }
                };
                match self.conduit.send(*node, payload) {
                    Ok(()) => {}
                    Err(SendError::Unreachable) => sequencer.on_disconnected(*node),
                    Err(error @ (SendError::Full | SendError::TooLarge { .. })) => {
                        tracing::warn!(
                            partition = %request.partition, %node, lsn = %request.first, %error,
                            "append not sent"
                        );
                        sequencer.on_stalled(*node);
                    }
                }
            }
        }
        out.clear();
    }

    fn append_locally(&self, request: AppendRequest) {
        if let Some(local) = &self.local {
            let (callbacks, node) = (self.callbacks.clone(), self.node);
            local.append(
                request,
                Box::new(move |reply| callbacks.deliver(node, reply)),
            );
        }
    }

    /// Asks the log server of `node` to promise an epoch.
    pub async fn fence(
        &self,
        node: NodeId,
        request: FenceRequest,
        deadline: Duration,
    ) -> Result<FenceReply, CallError> {
        if let Some(local) = self.local_of(node) {
            let (reply, answer) = oneshot::channel();
            local.fence(
                request,
                Box::new(move |promise| {
                    // The taker may have given up.
                    let _ = reply.send(promise);
                }),
            );
            return answer.await.map_err(|_| CallError::Gone);
        }
        let bytes = self.call(node, encode_fence(&request), deadline).await?;
        decode_fence_reply(bytes).map_err(|source| CallError::Decode { node, source })
    }

    /// Reads from the log server of `node`; a remote one waits up to `wait` for the first record.
    pub async fn read(
        &self,
        node: NodeId,
        request: ReadRequest,
        wait: Duration,
        deadline: Duration,
    ) -> Result<ReadReply, CallError> {
        if let Some(local) = self.local_of(node) {
            if let Some(reply) = local.read_cached(&request) {
                return Ok(reply);
            }
            let local = local.clone();
            let read = tokio::task::spawn_blocking(move || local.read(&request));
            return read.await.map_err(|_| CallError::Gone);
        }
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let payload = encode_read(&request, wait_ms);
        let bytes = self.call(node, payload, wait + deadline).await?;
        decode_read_reply(&request, bytes).map_err(|source| CallError::Decode { node, source })
    }

    /// Has the log server of `node` forget everything below `trimmed`. Only what is committed and that no
    /// replica of the partition needs may be trimmed. Returns its trim point.
    pub async fn trim(
        &self,
        node: NodeId,
        partition: PartitionId,
        trimmed: Lsn,
        deadline: Duration,
    ) -> Result<Lsn, CallError> {
        if let Some(local) = self.local_of(node) {
            let (reply, answer) = oneshot::channel();
            local.trim(
                partition,
                trimmed,
                Box::new(move |point| {
                    // The caller may have given up.
                    let _ = reply.send(point);
                }),
            );
            return answer.await.map_err(|_| CallError::Gone);
        }
        let bytes = self
            .call(node, encode_trim(partition, trimmed), deadline)
            .await?;
        decode_trim_reply(bytes).map_err(|source| CallError::Decode { node, source })
    }

    /// Asks the log server of `node` for the state of a log.
    pub async fn tail(
        &self,
        node: NodeId,
        partition: PartitionId,
        deadline: Duration,
    ) -> Result<TailReply, CallError> {
        if let Some(local) = self.local_of(node) {
            return Ok(local.tail(partition));
        }
        let bytes = self.call(node, encode_tail(partition), deadline).await?;
        decode_tail_reply(bytes).map_err(|source| CallError::Decode { node, source })
    }

    /// Uses `epoch` up for `partition`; false when it or a higher one was used here before.
    pub(crate) fn attempt(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let mut attempted = self.attempted.lock();
        let last = attempted.entry(partition).or_default();
        let fresh = *last < epoch;
        *last = epoch.max(*last);
        fresh
    }

    fn local_of(&self, node: NodeId) -> Option<&Arc<dyn LocalLog>> {
        self.local.as_ref().filter(|_| node == self.node)
    }

    async fn call(
        &self,
        node: NodeId,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let answer = self.conduit.call(node, payload, deadline).await;
        answer.map_err(|source| CallError::Call { node, source })
    }
}

fn is_same(a: &AppendRequest, b: &AppendRequest) -> bool {
    let same_records =
        Arc::ptr_eq(&a.records, &b.records) || (a.records.is_empty() && b.records.is_empty());
    same_records
        && (a.partition, a.epoch, a.base, a.first) == (b.partition, b.epoch, b.base, b.first)
        && (a.committed, a.trimmed, a.probe) == (b.committed, b.trimmed, b.probe)
}

/// Keeps the answers to a log's appends until somebody takes them. Acks are cumulative, so that of one
/// replica only the last is kept, and the size is bounded by the replicas.
#[derive(Default)]
pub struct Mailbox {
    replies: Mutex<Vec<(NodeId, AppendReply)>>,
    arrived: Notify,
}

impl Mailbox {
    /// An empty one; register [`Self::callback`].
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What puts answers in.
    pub fn callback(self: &Arc<Self>) -> ReplyCallback {
        let mailbox = self.clone();
        Arc::new(move |from, reply| mailbox.put(from, reply))
    }

    /// Puts an answer in.
    pub fn put(&self, from: NodeId, reply: AppendReply) {
        let mut replies = self.replies.lock();
        let last = replies.iter().rposition(|(node, _)| *node == from);
        match last {
            Some(last) if supersedes(&replies[last].1, &reply) => replies[last].1 = reply,
            _ if replies.len() < Self::REPLIES_MAX => replies.push((from, reply)),
            // Lost like a message on the way; the next tick finds out.
            _ => return,
        }
        drop(replies);
        self.arrived.notify_one();
    }

    /// Far more than a leader leaves lying, far less than a peer gone wild could send.
    const REPLIES_MAX: usize = 4096;

    /// Waits for answers and moves them to `out`. May be cancelled.
    pub async fn take(&self, out: &mut Vec<(NodeId, AppendReply)>) {
        loop {
            if self.try_take(out) {
                return;
            }
            self.arrived.notified().await;
        }
    }

    /// Moves what is there to `out`; false when nothing is.
    pub fn try_take(&self, out: &mut Vec<(NodeId, AppendReply)>) -> bool {
        let mut replies = mem::take(&mut *self.replies.lock());
        let any = !replies.is_empty();
        out.append(&mut replies);
        any
    }
}

fn supersedes(old: &AppendReply, new: &AppendReply) -> bool {
    let stored = |outcome| match outcome {
        AppendOutcome::Stored { tail } => Some(tail),
        _ => None,
    };
    let same = (old.epoch, old.storage) == (new.epoch, new.storage);
    let tails = stored(old.outcome).zip(stored(new.outcome));
    same && tails.is_some_and(|(old, new)| old <= new)
}
