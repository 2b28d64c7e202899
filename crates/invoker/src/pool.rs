//! HTTP/2 connections to deployments, shared by the attempts of this node.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use abide_schema::{Deployment, HttpVersion};
use abide_types::DeploymentId;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::deployment::{Address, AddressError};
use crate::http1::Idle;
use crate::metrics::Metrics;
use crate::options::InvokerOptions;
use crate::prompt::PromptStream;

const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// What h2 may keep of one stream's bytes that the peer's window does not take yet.
const SEND_BUFFER: usize = 256 * 1024;
const HEADER_LIST_SIZE: u32 = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
    #[error("cannot connect to {authority}: {reason}")]
    Connect { authority: String, reason: String },
    #[error("the HTTP/2 handshake with {authority} failed: {reason}")]
    Handshake { authority: String, reason: String },
    #[error("{0}")]
    Tls(String),
    #[error("connecting was given up")]
    GivenUp,
}

/// All connections of this node.
pub(crate) struct Pool {
    options: Arc<InvokerOptions>,
    metrics: Arc<Metrics>,
    remotes: Mutex<HashMap<DeploymentId, Arc<Remote>>>,
}

/// One deployment as requests are made to it.
pub(crate) struct Remote {
    /// As registered; if that changes, the remote is made anew.
    uri: String,
    additional_headers: std::collections::BTreeMap<String, String>,
    pub(crate) address: Address,
    options: Arc<InvokerOptions>,
    metrics: Arc<Metrics>,
    connections: Mutex<Connections>,
    pub(crate) idle_http1: Idle,
}

#[derive(Default)]
struct Connections {
    open: Vec<Arc<Connection>>,
    /// One connection is opened at a time; whoever needs it waits for it.
    opening: Option<Shared<BoxFuture<'static, Result<(), ConnectError>>>>,
}

struct Connection {
    /// Cloned for every stream.
    sender: Mutex<SendRequest<Bytes>>,
    streams: AtomicUsize,
    streams_max: usize,
    closed: AtomicBool,
    used_at: Mutex<Instant>,
}

impl Connection {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes a stream if the connection has one left.
    fn take(self: &Arc<Self>) -> Option<(SendRequest<Bytes>, Lease)> {
        let sender = self.sender.lock().clone();
        let most = sender.current_max_send_streams().clamp(1, self.streams_max);
        self.streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |streams| {
                (streams < most).then_some(streams + 1)
            })
            .ok()?;
        Some((sender, Lease(self.clone())))
    }
}

/// A stream's place on its connection.
pub(crate) struct Lease(Arc<Connection>);

impl Lease {
    /// No more streams are taken from this connection.
    pub(crate) fn condemn(&self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.used_at.lock() = Instant::now();
        }
    }
}

impl Pool {
    pub(crate) fn new(options: Arc<InvokerOptions>, metrics: Arc<Metrics>) -> Self {
        Self {
            options,
            metrics,
            remotes: Mutex::default(),
        }
    }

    /// Open HTTP/2 connections, and the streams on them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let remotes: Vec<_> = self.remotes.lock().values().cloned().collect();
        let mut counts = (0, 0);
        for remote in remotes {
            let connections = remote.connections.lock();
            for connection in connections.open.iter().filter(|open| !open.is_closed()) {
                counts.0 += 1;
                counts.1 += connection.streams.load(Ordering::Relaxed);
            }
        }
        counts
    }

    /// The remote of a deployment, as it is registered now.
    pub(crate) fn remote(&self, deployment: &Deployment) -> Result<Arc<Remote>, AddressError> {
        let mut remotes = self.remotes.lock();
        if let Some(remote) = remotes.get(&deployment.id)
            && remote.uri == deployment.uri
            && remote.additional_headers == deployment.additional_headers
        {
            return Ok(remote.clone());
        }
        // A good moment to forget deployments that nobody talks to any more.
        remotes.retain(|_, remote| {
            Arc::strong_count(remote) > 1
                || !remote.connections.lock().open.is_empty()
                || !remote.idle_http1.is_empty()
        });
        let remote = Arc::new(Remote {
            uri: deployment.uri.clone(),
            additional_headers: deployment.additional_headers.clone(),
            address: Address::new(
                &deployment.uri,
                &deployment.additional_headers,
                &self.options.headers,
            )?
            .through(self.options.proxy.as_ref()),
            options: self.options.clone(),
            metrics: self.metrics.clone(),
            connections: Mutex::default(),
            idle_http1: Idle::default(),
        });
        remotes.insert(deployment.id, remote.clone());
        Ok(remote)
    }
}

impl Remote {
    /// Its address as it was registered.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// How long a connection may take to open.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.options.connect_timeout
    }

    /// How long a connection without streams is kept.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.options.idle_timeout
    }

    /// A stream's place on an open connection; opens one if there is none with places left.
    pub(crate) async fn stream(
        self: &Arc<Self>,
    ) -> Result<(SendRequest<Bytes>, Lease), ConnectError> {
        loop {
            let opening = {
                let mut connections = self.connections.lock();
                connections
                    .open
                    .retain(|connection| !connection.is_closed());
                if let Some(taken) = connections.open.iter().find_map(Connection::take) {
                    return Ok(taken);
                }
                connections
                    .opening
                    .get_or_insert_with(|| self.clone().open())
                    .clone()
            };
            opening.await?;
        }
    }

    /// Opens a connection in a task of its own, so that it comes about even if who wanted it is gone.
    fn open(self: Arc<Self>) -> Shared<BoxFuture<'static, Result<(), ConnectError>>> {
        let task = tokio::spawn(async move {
            let connected = match timeout(self.options.connect_timeout, self.connect()).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectError::TimedOut(self.options.connect_timeout)),
            };
            match &connected {
                Ok(_) => self.metrics.connections_opened.increment(1),
                Err(_) => self.metrics.connections_failed.increment(1),
            }
            let mut connections = self.connections.lock();
            connections.opening = None;
            connections.open.push(connected?);
            Ok(())
        });
        task.map(|joined| joined.unwrap_or(Err(ConnectError::GivenUp)))
            .boxed()
            .shared()
    }

    async fn connect(&self) -> Result<Arc<Connection>, ConnectError> {
        let stream = connect(&self.address, &[HttpVersion::Http2]).await?;
        match stream {
            Transport::Plain(stream) => self.handshake(stream).await,
            Transport::Tls(stream) => self.handshake(stream).await,
        }
    }

    async fn handshake<T>(&self, stream: T) -> Result<Arc<Connection>, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(stream)
                .await
                .map_err(|error| ConnectError::Handshake {
                    authority: self.address.authority.to_string(),
                    reason: error.to_string(),
                })?;
        let shared = Arc::new(Connection {
            sender: Mutex::new(sender),
            streams: AtomicUsize::new(0),
            streams_max: self.options.streams_per_connection_max,
            closed: AtomicBool::new(false),
            used_at: Mutex::new(Instant::now()),
        });
        tokio::spawn(drive(
            connection,
            Arc::downgrade(&shared),
            self.options.clone(),
        ));
        Ok(shared)
    }
}

/// A connected socket.
pub(crate) enum Transport {
    Plain(PromptStream),
    Tls(Box<tokio_rustls::client::TlsStream<PromptStream>>),
}

/// Connects a socket; with TLS, for one of `versions`, if the address says so.
pub(crate) async fn connect(
    address: &Address,
    versions: &[HttpVersion],
) -> Result<Transport, ConnectError> {
    let failed = |error: io::Error| ConnectError::Connect {
        authority: address.authority.to_string(),
        reason: error.to_string(),
    };
    let stream = match &address.proxy {
        None => TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(failed)?,
        Some(proxy) => {
            let tunnel = proxy.tunnel(address).await;
            tunnel.map_err(|reason| ConnectError::Connect {
                authority: address.authority.to_string(),
                reason,
            })?
        }
    };
    let stream = PromptStream::new(stream).map_err(failed)?;
    if address.is_tls() {
        let stream = crate::tls::wrap(address, stream, versions)
            .await
            .map_err(ConnectError::Tls)?;
        Ok(Transport::Tls(Box::new(stream)))
    } else {
        Ok(Transport::Plain(stream))
    }
}

/// Begins HTTP/2 with prior knowledge.
pub(crate) async fn handshake<T>(
    stream: T,
) -> Result<(SendRequest<Bytes>, h2::client::Connection<T, Bytes>), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST_SIZE)
        .handshake(stream)
        .await
}

/// Moves a connection's bytes until it ends, is idle for too long, or does not answer.
async fn drive<T>(
    mut connection: h2::client::Connection<T, Bytes>,
    shared: std::sync::Weak<Connection>,
    options: Arc<InvokerOptions>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = connection.ping_pong();
    let mut connection = pin!(connection);
    let mut tick = tokio::time::interval(options.keep_alive_interval.max(Duration::from_millis(1)));
    tick.reset();
    let mut unanswered: Option<Instant> = None;
    let mut silence = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to a deployment ended");
            }
            return Poll::Ready(());
        }
        if let (Some(pings), Some(_)) = (&mut pings, unanswered) {
            match pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => unanswered = None,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending if silence.as_mut().poll(cx).is_ready() => {
                    tracing::info!("a deployment does not answer pings, its connection is cut");
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        while tick.poll_tick(cx).is_ready() {
            let Some(shared) = shared.upgrade() else {
                continue;
            };
            let streams = shared.streams.load(Ordering::Acquire);
            if streams == 0 && shared.used_at.lock().elapsed() >= options.idle_timeout {
                // The pool drops its end with the next look at it, or with the remote.
                shared.closed.store(true, Ordering::Release);
                if shared.streams.load(Ordering::Acquire) == 0 {
                    return Poll::Ready(());
                }
            }
            if let (Some(pings), None, true) = (&mut pings, unanswered, streams > 0)
                && pings.send_ping(h2::Ping::opaque()).is_ok()
            {
                unanswered = Some(Instant::now());
                silence
                    .as_mut()
                    .reset(Instant::now() + options.keep_alive_timeout);
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
    if let Some(shared) = shared.upgrade() {
        shared.closed.store(true, Ordering::Release);
    }
}
