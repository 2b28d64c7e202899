//! Keeps one peer dialled.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use abide_types::{Generation, NodeId};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, Ended};
use crate::fabric::{Node, Peer, Shared};
use crate::frame::{ERROR_REFUSED, Header, Hello, Kind, PREFACE};
use crate::inbound::{frame, read_frame};
use crate::outbox::{CallError, Limits, Outbox};

/// The way to one peer, through all its reconnects.
pub(crate) struct Link {
    pub node: NodeId,
    peer: Peer,
    pub known: Arc<Node>,
    pub outbox: Arc<Outbox>,
    /// Of the connection that stands or stood last.
    connected_generation: AtomicU32,
    /// The peer has shown up: dial now.
    pub kick: Notify,
    stop: CancellationToken,
}

impl Link {
    pub fn new(node: NodeId, peer: Peer, known: Arc<Node>, limits: Limits) -> Self {
        Self {
            node,
            peer,
            known,
            outbox: Outbox::new(limits),
            connected_generation: AtomicU32::new(0),
            kick: Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Whether this link leads to `peer`, or to a later start of it.
    pub fn serves(&self, peer: &Peer) -> bool {
        let generation = self.connected_generation.load(Ordering::Acquire);
        self.peer.address == peer.address
            && peer.generation.0 <= self.peer.generation.0.max(generation)
    }

    /// Ends the link; its calls fail at once.
    pub fn stop(&self) {
        self.stop.cancel();
        self.outbox.close();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn on_frame(&self, header: Header, payload: Bytes) -> Result<(), &'static str> {
        match header.kind {
            Kind::Reply => self.outbox.answered(header.correlation, Ok(payload)),
            Kind::Error if header.service == ERROR_REFUSED => {
                let reason = String::from_utf8_lossy(&payload).into_owned();
                let answer = Err(CallError::Refused(reason));
                self.outbox.answered(header.correlation, answer);
            }
            Kind::Error => self
                .outbox
                .answered(header.correlation, Err(CallError::Broken)),
            Kind::Pong => {}
            Kind::Ping => self.outbox.answer(Kind::Pong, 0, 0, Bytes::new()),
            Kind::Message | Kind::Call | Kind::Hello => {
                return Err("a dialled node answers and asks nothing");
            }
        }
        Ok(())
    }
}

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("dialling {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("no answer from {address} within {deadline:?}")]
    TimedOut { address: String, deadline: Duration },
    #[error("handshake: {0}")]
    Handshake(io::Error),
    #[error("rejected: {0}")]
    Rejected(String),
    #[error("{address} is {actual}, not {expected}")]
    WrongNode {
        address: String,
        expected: NodeId,
        actual: NodeId,
    },
    #[error("generation {actual} answered where {expected} is known")]
    Stale {
        expected: Generation,
        actual: Generation,
    },
    #[error("the node belongs to another cluster")]
    WrongCluster,
}

impl DialError {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Dials until the link is stopped.
pub(crate) async fn keep_connected(shared: Arc<Shared>, link: Arc<Link>) {
    let mut failures = 0;
    while !link.is_stopped() {
        let dialled = tokio::select! {
            biased;
            () = link.stop.cancelled() => break,
            dialled = dial(&shared, &link) => dialled,
        };
        let lasted = match dialled {
            Ok((stream, generation)) => converse(&shared, &link, stream, generation).await,
            Err(error) => {
                note_failure(&shared, &link, &error);
                Duration::ZERO
            }
        };
        // A connection that broke is dialled again at once, unless it breaks as soon as it stands.
        if shared.options.redial_max < lasted {
            failures = 0;
            continue;
        }
        let wait = backoff(&shared, failures);
        failures = failures.saturating_add(1);
        tokio::select! {
            () = link.stop.cancelled() => break,
            () = link.kick.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    link.outbox.close();
}

fn backoff(shared: &Shared, failures: u32) -> Duration {
    let longest = shared.options.redial_max;
    let wait = shared
        .options
        .redial_min
        .saturating_mul(1 << failures.min(16));
    wait.min(longest).mul_f64(rand::random_range(0.5..1.0))
}

fn note_failure(shared: &Shared, link: &Link, error: &DialError) {
    let refused = error.is_refusal();
    let problem: Arc<str> = error.to_string().into();
    shared.update(link, |state| {
        if state.problem.as_ref() != Some(&problem) {
            tracing::info!(node = %link.node, %problem, "peer not reached");
        }
        state.refused = refused;
        state.problem = Some(problem);
    });
}

async fn dial(shared: &Shared, link: &Link) -> Result<(TcpStream, Generation), DialError> {
    let address = &link.peer.address;
    let timed_out = |deadline| DialError::TimedOut {
        address: address.clone(),
        deadline,
    };
    let options = &shared.options;
    let mut stream = timeout(options.connect_timeout, TcpStream::connect(address))
        .await
        .map_err(|_| timed_out(options.connect_timeout))?
        .map_err(|source| DialError::Connect {
            address: address.clone(),
            source,
        })?;
    stream.set_nodelay(true).map_err(DialError::Handshake)?;
    let generation = timeout(
        options.handshake_timeout,
        introduce(shared, link, &mut stream),
    )
    .await
    .map_err(|_| timed_out(options.handshake_timeout))??;
    Ok((stream, generation))
}

async fn introduce(
    shared: &Shared,
    link: &Link,
    stream: &mut TcpStream,
) -> Result<Generation, DialError> {
    let mut start = PREFACE.to_vec();
    start.extend_from_slice(&frame(Kind::Hello, &shared.hello().encode()));
    stream
        .write_all(&start)
        .await
        .map_err(DialError::Handshake)?;
    let (kind, payload) = read_frame(stream).await.map_err(DialError::Handshake)?;
    if kind == Kind::Error {
        let reason = String::from_utf8_lossy(&payload).into_owned();
        return Err(DialError::Rejected(reason));
    }
    let hello = match Hello::decode(&payload) {
        Some(hello) if kind == Kind::Hello => hello,
        _ => return Err(DialError::Handshake(io::ErrorKind::InvalidData.into())),
    };
    if hello.fingerprint != shared.identity.fingerprint {
        return Err(DialError::WrongCluster);
    }
    if hello.node != link.node {
        return Err(DialError::WrongNode {
            address: link.peer.address.clone(),
            expected: link.node,
            actual: hello.node,
        });
    }
    if !link.known.learn(hello.generation) {
        return Err(DialError::Stale {
            expected: link.known.generation(),
            actual: hello.generation,
        });
    }
    Ok(hello.generation)
}

/// Carries messages until the connection ends; tells how long it lasted.
async fn converse(
    shared: &Shared,
    link: &Arc<Link>,
    stream: TcpStream,
    generation: Generation,
) -> Duration {
    let since = Instant::now();
    link.connected_generation
        .store(generation.0, Ordering::Release);
    link.known.heard.now();
    link.outbox.open();
    shared.look_after(&link.outbox, true);
    shared.update(link, |state| {
        state.generation = generation;
        state.connected = true;
        state.refused = false;
        state.problem = None;
    });
    tracing::info!(node = %link.node, %generation, "peer connected");
    let connection = Connection {
        stream,
        outbox: Arc::clone(&link.outbox),
        heard: Arc::clone(&link.known.heard),
    };
    let ended = tokio::select! {
        biased;
        () = link.stop.cancelled() => Ended::Here,
        ended = connection.run(|header, payload| link.on_frame(header, payload)) => ended,
    };
    link.outbox.close();
    shared.update(link, |state| {
        state.connected = false;
        state.problem = Some(ended.to_string().into());
    });
    tracing::info!(node = %link.node, %generation, reason = %ended, "peer disconnected");
    since.elapsed()
}
