//! Messages and calls between nodes.
//!
//! A node dials every peer once and sends its messages and calls there; answers come back on the same
//! connection. What a peer sends comes in over the connection that the peer dialled. Messages of one node
//! to another arrive in order or, where a connection broke in between, not at all: nothing is sent twice
//! and nothing waits for a connection to come. Start at [`Fabric::send`] and [`Fabric::call`].

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use abide_types::{Generation, NodeId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::frame::{Hello, PROTOCOL_VERSION};
use crate::inbound;
use crate::link::{self, Link};
use crate::outbox::{CallError, Limits, Outbox, Return, SendError};
use crate::status::{Heard, PeerState, PeerStates};

/// Whom a message is for. The numbers are pinned.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Log servers and those who write to and read from them.
    Log = 1,
    /// Partition processors.
    Partition = 2,
    /// Everything about the cluster as such.
    Cluster = 3,
}

/// One more than the highest number of a service.
const SERVICES: usize = 4;

/// Takes what comes in for one service. Both methods run in the task that reads the connection (for what a
/// node sends to itself, in the task that sends): they must not block.
pub trait Handler: Send + Sync + 'static {
    /// A message; those of one node come in the order in which it sent them.
    fn on_message(&self, from: NodeId, payload: Bytes);

    /// A call; the answer goes to `reply` now or later.
    fn on_call(&self, from: NodeId, payload: Bytes, reply: Reply);
}

/// Where the answer to a call goes. If it is dropped the caller gets [`CallError::Broken`].
pub struct Reply(Option<Return>);

impl Reply {
    pub(crate) fn new(to: Return) -> Self {
        Self(Some(to))
    }

    /// Answers.
    pub fn send(self, payload: Bytes) {
        self.give(Ok(payload));
    }

    /// Tells the caller that the call was not carried out.
    pub fn refuse(self, reason: impl Into<String>) {
        self.give(Err(CallError::Refused(reason.into())));
    }

    fn give(mut self, answer: Result<Bytes, CallError>) {
        if let Some(to) = self.0.take() {
            to.give(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            to.give(Err(CallError::Broken));
        }
    }
}

/// Who this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Of the cluster: nodes of different ones do not talk.
    pub fingerprint: u64,
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub generation: Generation,
}

/// Where a peer is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `host:port` of its node port.
    pub address: String,
    /// An older generation at this address is not talked to.
    pub generation: Generation,
}

/// Limits and times of a fabric.
#[derive(Debug, Clone)]
pub struct FabricOptions {
    /// A quiet connection carries a ping this often. Shorter finds the dead sooner and costs idle CPU.
    pub heartbeat_interval: Duration,
    /// A connection that was silent for this long is closed. Shorter mistakes a stall for a death.
    pub silence_timeout: Duration,
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// How long either end waits for the other to introduce itself.
    pub handshake_timeout: Duration,
    /// Wait before the first repeated dial; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// Longest wait between two dials: a node that comes back is found within this time.
    pub redial_max: Duration,
    /// Largest payload. Both ends must have the same.
    pub payload_bytes_max: usize,
    /// What may wait to be written to one peer before [`SendError::Full`].
    pub queue_bytes_max: usize,
}

impl Default for FabricOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            silence_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            redial_min: Duration::from_millis(10),
            redial_max: Duration::from_millis(200),
            payload_bytes_max: 64 * 1024 * 1024,
            queue_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// The connections of one node with all others.
pub struct Fabric {
    shared: Arc<Shared>,
}

impl Fabric {
    /// A fabric without peers. Runs its timer on the current tokio runtime.
    pub fn new(identity: Identity, options: FabricOptions) -> Arc<Self> {
        let shared = Arc::new(Shared {
            identity,
            options,
            origin: Instant::now(),
            handlers: Default::default(),
            links: RwLock::default(),
            nodes: Mutex::default(),
            live: Mutex::default(),
            states: watch::Sender::default(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(tick(Arc::clone(&shared)));
        Arc::new(Self { shared })
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Says who the others are: new ones are dialled, removed ones dropped, and a peer whose address
    /// changed or whose generation rose is dialled anew. This node itself may be among them.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, Peer>) {
        self.shared.set_peers(peers);
    }

    /// Says who takes what comes in for `service`. Until then messages for it are dropped and calls
    /// refused, so register before the first [`Fabric::accept`].
    ///
    /// # Panics
    /// If the service has a handler already.
    pub fn register(&self, service: Service, handler: Arc<dyn Handler>) {
        let vacant = self.shared.handlers[service as usize].set(handler).is_ok();
        assert!(vacant, "a service has one handler");
    }

    /// Sends a message; never waits. `Ok` says that it is queued, not that it arrives.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn send(&self, to: NodeId, service: Service, payload: Bytes) -> Result<(), SendError> {
        if to == self.shared.identity.node {
            if let Some(handler) = self.shared.handler(service as u8) {
                handler.on_message(to, payload);
            }
            return Ok(());
        }
        let links = self.shared.links.read();
        let link = links.get(&to).ok_or(SendError::Unreachable)?;
        link.outbox.send(service as u8, payload)
    }

    /// Sends a call and waits for the answer. Dropping the future forgets the call, it does not undo it.
    ///
    /// # Errors
    /// See [`CallError`] for which of them leave open whether the call was carried out. A connection that
    /// breaks fails its calls at once.
    pub async fn call(
        &self,
        to: NodeId,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if to == self.shared.identity.node {
            return self.call_self(service, payload, deadline).await;
        }
        let waiting = {
            let links = self.shared.links.read();
            let link = links.get(&to).ok_or(CallError::Unreachable)?;
            link.outbox.call(service as u8, payload)?
        };
        timeout(deadline, waiting.answer())
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    async fn call_self(
        &self,
        service: Service,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let handler = self
            .shared
            .handler(service as u8)
            .ok_or_else(|| CallError::Refused(NO_HANDLER.to_owned()))?;
        let (sender, answer) = oneshot::channel();
        let reply = Reply::new(Return::Local(sender));
        handler.on_call(self.shared.identity.node, payload, reply);
        match timeout(deadline, answer).await {
            Ok(answer) => answer.unwrap_or(Err(CallError::Broken)),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Serves a connection that another node dialled, until it ends. The preface is consumed already
    /// (see [`crate::sniff`]). Whoever accepted it sets `TCP_NODELAY`: answers are not to wait for more.
    pub async fn accept<S>(self: &Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        inbound::serve(&self.shared, stream).await;
    }

    /// The peers' connections; changes when one comes, goes or is refused.
    pub fn peers(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, PeerState>>> {
        self.shared.states.subscribe()
    }

    /// Bytes that wait to be written to each peer, and the most that may wait for one.
    pub fn queues(&self) -> (BTreeMap<NodeId, usize>, usize) {
        let links = self.shared.links.read();
        let queued = links
            .iter()
            .map(|(node, link)| (*node, link.outbox.queued_bytes()));
        (queued.collect(), self.shared.options.queue_bytes_max)
    }

    /// When anything last came from `node`, over whichever connection.
    pub fn last_heard(&self, node: NodeId) -> Option<Instant> {
        let nodes = self.shared.nodes.lock();
        nodes.get(&node).and_then(|node| node.heard.last())
    }

    /// Closes all connections and stops. Calls in flight fail; nothing is sent or accepted any more.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Why a call for a service that has no handler is refused.
pub(crate) const NO_HANDLER: &str = "this node does not serve that";

/// Nodes that are remembered; a cluster has far fewer.
const NODES_MAX: usize = 4096;

/// What the connections' tasks have in common.
pub(crate) struct Shared {
    pub identity: Identity,
    pub options: FabricOptions,
    origin: Instant,
    handlers: [OnceLock<Arc<dyn Handler>>; SERVICES],
    pub links: RwLock<HashMap<NodeId, Arc<Link>>>,
    nodes: Mutex<HashMap<NodeId, Arc<Node>>>,
    live: Mutex<Vec<Live>>,
    states: watch::Sender<PeerStates>,
    pub stop: CancellationToken,
}

/// What is remembered of a node, whoever dialled.
pub(crate) struct Node {
    pub heard: Arc<Heard>,
    /// The highest generation that metadata or the node itself has named.
    generation: AtomicU32,
    pub inbound: Mutex<Option<Inbound>>,
    /// Held by the one inbound connection that may deliver: a successor waits for the end of its
    /// predecessor, or messages of the two would mix.
    pub turn: tokio::sync::Mutex<()>,
}

/// The connection that a node has dialled.
pub(crate) struct Inbound {
    pub generation: Generation,
    pub outbox: Arc<Outbox>,
}

impl Node {
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Learns of a generation. False if a later one is known.
    pub fn learn(&self, generation: Generation) -> bool {
        let before = self.generation.fetch_max(generation.0, Ordering::AcqRel);
        if before > generation.0 {
            return false;
        }
        let inbound = self.inbound.lock();
        if let Some(inbound) = &*inbound
            && inbound.generation < generation
        {
            inbound.outbox.close();
        }
        true
    }
}

/// A connection that the timer looks after.
struct Live {
    outbox: Arc<Outbox>,
    pings: bool,
}

impl Shared {
    pub fn hello(&self) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            fingerprint: self.identity.fingerprint,
            node: self.identity.node,
            generation: self.identity.generation,
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            payload_bytes_max: self.options.payload_bytes_max,
            queue_bytes_max: self.options.queue_bytes_max,
        }
    }

    pub fn handler(&self, service: u8) -> Option<&Arc<dyn Handler>> {
        self.handlers.get(usize::from(service))?.get()
    }

    /// What is remembered of `node`; `None` if it is unknown and there are too many already.
    pub fn node(&self, node: NodeId) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get(&node) {
            return Some(Arc::clone(known));
        }
        if nodes.len() >= NODES_MAX {
            return None;
        }
        let known = Arc::new(Node {
            heard: Arc::new(Heard::new(self.origin)),
            generation: AtomicU32::new(0),
            inbound: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
        });
        nodes.insert(node, Arc::clone(&known));
        Some(known)
    }

    /// Has the timer ping over a new connection, if this node dialled it, and close it when it is silent.
    pub fn look_after(&self, outbox: &Arc<Outbox>, pings: bool) {
        let mut live = self.live.lock();
        if !live.iter().any(|one| Arc::ptr_eq(&one.outbox, outbox)) {
            let outbox = Arc::clone(outbox);
            live.push(Live { outbox, pings });
        }
    }

    fn set_peers(self: &Arc<Self>, mut peers: BTreeMap<NodeId, Peer>) {
        if self.stop.is_cancelled() {
            return;
        }
        peers.remove(&self.identity.node);
        let mut links = self.links.write();
        let mut kept = BTreeMap::new();
        links.retain(|node, link| {
            let stays = peers.get(node).is_some_and(|peer| link.serves(peer));
            if stays {
                kept.insert(*node, ());
            } else {
                link.stop();
                if !peers.contains_key(node)
                    && let Some(known) = self.nodes.lock().get(node)
                    && let Some(inbound) = &*known.inbound.lock()
                {
                    inbound.outbox.close();
                }
            }
            stays
        });
        let mut started = Vec::new();
        for (&node, peer) in &peers {
            let Some(known) = self.node(node) else {
                tracing::error!(%node, "too many nodes; not dialled");
                continue;
            };
            known.learn(peer.generation);
            if !kept.contains_key(&node) {
                let link = Arc::new(Link::new(node, peer.clone(), known, self.limits()));
                links.insert(node, Arc::clone(&link));
                started.push(link);
            }
        }
        self.states.send_if_modified(|states| {
            let next = peers
                .iter()
                .map(|(node, peer)| {
                    let state = match states.get(node) {
                        Some(state) if kept.contains_key(node) => state.clone(),
                        _ => PeerState {
                            generation: peer.generation,
                            connected: false,
                            last_heard: states.get(node).and_then(|state| state.last_heard),
                            refused: false,
                            problem: None,
                        },
                    };
                    (*node, state)
                })
                .collect();
            let changed = **states != next;
            *states = Arc::new(next);
            changed
        });
        for link in started {
            tokio::spawn(link::keep_connected(Arc::clone(self), link));
        }
    }

    /// Publishes what became of a link, unless another has taken its place.
    pub fn update(&self, link: &Link, change: impl FnOnce(&mut PeerState)) {
        self.states.send_if_modified(|states| {
            // Checked under the lock of the states: set_peers stops a link before it publishes.
            let Some(state) = states.get(&link.node) else {
                return false;
            };
            if link.is_stopped() {
                return false;
            }
            let mut next = state.clone();
            change(&mut next);
            if next == *state {
                return false;
            }
            next.last_heard = link.known.heard.last();
            Arc::make_mut(states).insert(link.node, next);
            true
        });
    }

    fn close(&self) {
        self.stop.cancel();
        for (_, link) in self.links.write().drain() {
            link.stop();
        }
        for live in self.live.lock().drain(..) {
            live.outbox.close();
        }
    }
}

/// One timer for all connections: idle, a node wakes up for it once per heartbeat.
async fn tick(shared: Arc<Shared>) {
    let every = shared
        .options
        .heartbeat_interval
        .max(Duration::from_millis(1));
    let silent_ticks_max = shared
        .options
        .silence_timeout
        .as_nanos()
        .div_ceil(every.as_nanos());
    let silent_ticks_max = u32::try_from(silent_ticks_max).unwrap_or(u32::MAX);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        shared.live.lock().retain(|live| {
            live.outbox.tick(live.pings, silent_ticks_max);
            live.outbox.is_open()
        });
    }
}
