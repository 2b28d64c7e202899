//! Serves the connections that other nodes dialled.

use std::io;
use std::sync::Arc;

use abide_types::NodeId;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::connection::{Connection, Ended};
use crate::fabric::{Inbound, NO_HANDLER, Node, Reply, Shared};
use crate::frame::{Header, Hello, Kind, PROTOCOL_VERSION};
use crate::outbox::{Outbox, Return};

/// Why a connection was not let in. The other node reads it.
#[derive(Debug, thiserror::Error)]
enum RejectError {
    #[error("no hello")]
    NoHello,
    #[error("fabric protocol {theirs}; this node speaks {PROTOCOL_VERSION}")]
    Version { theirs: u16 },
    #[error("the node belongs to another cluster: its fingerprint is {theirs:016x}")]
    Fingerprint { theirs: u64 },
    #[error("{0} is the node that was dialled")]
    Dialled(NodeId),
    #[error("generation {theirs} of {node} is superseded by {known}")]
    Stale {
        node: NodeId,
        theirs: abide_types::Generation,
        known: abide_types::Generation,
    },
    #[error("too many nodes")]
    TooMany,
}

/// Why the handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error(transparent)]
    Rejected(#[from] RejectError),
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(shared: &Arc<Shared>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let deadline = shared.options.handshake_timeout;
    let (node, hello) = match timeout(deadline, greet(shared, &mut stream)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            tracing::info!(%error, "fabric connection not accepted");
            return;
        }
        Err(_) => {
            tracing::info!("fabric connection without a hello");
            return;
        }
    };
    if let Some(link) = shared.links.read().get(&hello.node) {
        link.kick.notify_one();
    }
    let admitted = Admitted::new(&node, &hello, Outbox::new(shared.limits()));
    // The predecessor was told to go; it needs no longer than its handlers take.
    let Ok(_turn) = timeout(deadline, node.turn.lock()).await else {
        tracing::warn!(node = %hello.node, "the connection before this one does not end");
        return;
    };
    shared.look_after(&admitted.outbox, false);
    node.heard.now();
    let connection = Connection {
        stream,
        outbox: Arc::clone(&admitted.outbox),
        heard: Arc::clone(&node.heard),
    };
    let on_frame =
        |header, payload| on_frame(shared, hello.node, &admitted.outbox, header, payload);
    let ended = tokio::select! {
        biased;
        () = shared.stop.cancelled() => Ended::Here,
        ended = connection.run(on_frame) => ended,
    };
    match ended {
        Ended::ByPeer | Ended::Here => {
            tracing::debug!(node = %hello.node, reason = %ended, "inbound connection over");
        }
        Ended::Failed(_) | Ended::TooLarge { .. } | Ended::Violation(_) => {
            tracing::info!(node = %hello.node, reason = %ended, "inbound connection over");
        }
    }
}

/// The place of an inbound connection; given up when dropped, also by a handler that panics.
struct Admitted<'a> {
    node: &'a Node,
    outbox: Arc<Outbox>,
}

impl<'a> Admitted<'a> {
    /// Takes the place of the node's connection before, which is closed: the node has dialled anew.
    fn new(node: &'a Node, hello: &Hello, outbox: Arc<Outbox>) -> Self {
        outbox.open();
        let inbound = Inbound {
            generation: hello.generation,
            outbox: Arc::clone(&outbox),
        };
        let mut place = node.inbound.lock();
        // A later start may have come in between this one's hello and here.
        if place
            .as_ref()
            .is_some_and(|other| hello.generation < other.generation)
        {
            outbox.close();
        } else if let Some(before) = place.replace(inbound) {
            before.outbox.close();
        }
        drop(place);
        Self { node, outbox }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.outbox.close();
        let mut place = self.node.inbound.lock();
        if place
            .as_ref()
            .is_some_and(|inbound| Arc::ptr_eq(&inbound.outbox, &self.outbox))
        {
            *place = None;
        }
    }
}

fn on_frame(
    shared: &Shared,
    from: NodeId,
    outbox: &Arc<Outbox>,
    header: Header,
    payload: Bytes,
) -> Result<(), &'static str> {
    match header.kind {
        Kind::Message => {
            if let Some(handler) = shared.handler(header.service) {
                handler.on_message(from, payload);
            }
        }
        Kind::Call => {
            let reply = Reply::new(Return::Remote {
                outbox: Arc::clone(outbox),
                correlation: header.correlation,
            });
            match shared.handler(header.service) {
                Some(handler) => handler.on_call(from, payload, reply),
                None => reply.refuse(NO_HANDLER),
            }
        }
        Kind::Ping => outbox.answer(Kind::Pong, 0, 0, Bytes::new()),
        Kind::Pong => {}
        Kind::Reply | Kind::Error | Kind::Hello => return Err("the dialling node asks"),
    }
    Ok(())
}

async fn greet<S>(shared: &Shared, stream: &mut S) -> Result<(Arc<Node>, Hello), GreetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (kind, payload) = read_frame(stream).await?;
    match judge(shared, kind, &payload) {
        Ok(admitted) => {
            let hello = frame(Kind::Hello, &shared.hello().encode());
            stream.write_all(&hello).await?;
            Ok(admitted)
        }
        Err(error) => {
            let reason = frame(Kind::Error, error.to_string().as_bytes());
            stream.write_all(&reason).await?;
            stream.shutdown().await?;
            Err(error.into())
        }
    }
}

fn judge(shared: &Shared, kind: Kind, payload: &[u8]) -> Result<(Arc<Node>, Hello), RejectError> {
    if kind != Kind::Hello {
        return Err(RejectError::NoHello);
    }
    let hello = Hello::decode(payload).ok_or(RejectError::NoHello)?;
    if hello.version != PROTOCOL_VERSION {
        return Err(RejectError::Version {
            theirs: hello.version,
        });
    }
    if hello.fingerprint != shared.identity.fingerprint {
        return Err(RejectError::Fingerprint {
            theirs: hello.fingerprint,
        });
    }
    if hello.node == shared.identity.node {
        return Err(RejectError::Dialled(hello.node));
    }
    let node = shared.node(hello.node).ok_or(RejectError::TooMany)?;
    if !node.learn(hello.generation) {
        return Err(RejectError::Stale {
            node: hello.node,
            theirs: hello.generation,
            known: node.generation(),
        });
    }
    Ok((node, hello))
}

/// A whole frame of the handshake.
pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(Hello::LENGTH_MAX)];
    let header = Header {
        length: u32::try_from(payload.len()).expect("cut above"),
        kind,
        service: 0,
        correlation: 0,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads one frame of the handshake, and not a byte more. A length that no hello has is an error before
/// anything is allocated for it.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Kind, Vec<u8>)> {
    let mut header = [0; Header::LENGTH];
    stream.read_exact(&mut header).await?;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let header = Header::decode(&header).ok_or_else(|| invalid("unknown kind of frame"))?;
    let length = header.length as usize;
    if length > Hello::LENGTH_MAX {
        return Err(invalid("hello is too long"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((header.kind, payload))
}
