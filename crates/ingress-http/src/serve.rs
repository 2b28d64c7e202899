//! Connections: HTTP/1.1 and cleartext HTTP/2 on one port, told apart by their first bytes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use abide_processor::Router;
use abide_schema::Schema;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handle::Door;
use crate::options::IngressOptions;
use crate::partitions::Partitions;
use crate::patience::Patience;
use crate::trace::Client;

/// Pause after the system refused a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Before a door that closes takes no more connections and closes those that are idle, it says so for this long in its
/// answers: a request that is on its way over a connection that is being closed has failed for all that its client knows.
const NOTICE: Duration = Duration::from_millis(500);
/// A peer that is silent for so long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// By then a new connection has said which HTTP it speaks.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(30);
/// A request's head is here by then, counted from the end of the one before it: long enough for the idle connections
/// that clients keep, and an end for those that send one byte at a time.
const HEAD_WITHIN: Duration = Duration::from_secs(300);

/// The HTTP front door.
pub struct Ingress {
    door: Arc<Door<Router>>,
}

impl Ingress {
    /// A door that serves what `schema` holds and asks `router`.
    pub fn new(
        options: IngressOptions,
        router: Router,
        schema: watch::Receiver<Arc<Schema>>,
    ) -> Self {
        Self {
            door: Arc::new(Door::new(options, router, schema)),
        }
    }

    /// Serves until `shutdown`; then takes no more connections, lets requests in progress end for a while, and
    /// drops the rest.
    pub async fn serve<L: Listen>(self: Arc<Self>, listener: L, shutdown: CancellationToken) {
        serve(self.door.clone(), listener, shutdown).await;
    }
}

/// Where connections come from.
pub trait Listen: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and where it is from if that is an address.
    fn accept(&self)
    -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, client) = TcpListener::accept(self).await?;
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "socket options not set");
        }
        Ok((stream, Some(client)))
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = UnixListener::accept(self).await?;
        Ok((stream, None))
    }
}

async fn serve<P: Partitions, L: Listen>(
    door: Arc<Door<P>>,
    listener: L,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let builder = Arc::new(builder(&door.options));
    let take = |(stream, client): (L::Stream, Option<SocketAddr>)| {
        let connection = Connection {
            door: door.clone(),
            builder: builder.clone(),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
            // Nobody else asks for it.
            client: client.filter(|_| door.options.tracer.is_on()).map(Client),
        };
        connections.spawn(connection.serve(stream));
    };
    let notice_given = async {
        shutdown.cancelled().await;
        tokio::time::sleep(NOTICE).await;
    };
    let mut notice_given = pin!(notice_given);
    loop {
        let accepted = tokio::select! {
            () = notice_given.as_mut() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => take(accepted),
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who is connected already and waits to be accepted would see a broken connection, not a refused one.
    while let Some(accepted) = waiting(&listener).await {
        take(accepted);
    }
    drop(listener);
    connections.close();
    let drain = door.options.drain;
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(
            connections = connections.len(),
            "dropping what has not ended"
        );
        cut.cancel();
        connections.wait().await;
    }
}

/// A connection that needs not be waited for.
async fn waiting<L: Listen>(listener: &L) -> Option<(L::Stream, Option<SocketAddr>)> {
    let mut accepting = pin!(listener.accept());
    poll_fn(|context| {
        Poll::Ready(match accepting.as_mut().poll(context) {
            Poll::Ready(accepted) => accepted.ok(),
            Poll::Pending => None,
        })
    })
    .await
}

fn builder(options: &IngressOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let streams = options.http2_streams_max;
    (builder.http1())
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN);
    let mut http2 = builder.http2();
    http2
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .keep_alive_interval(KEEP_ALIVE);
    if let Some(streams) = streams {
        http2.max_concurrent_streams(streams.get());
    }
    builder
}

struct Connection<P> {
    door: Arc<Door<P>>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    shutdown: CancellationToken,
    cut: CancellationToken,
    client: Option<Client>,
}

impl<P: Partitions> Connection<P> {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let metrics = &self.door.metrics;
        metrics.connections_created.increment(1);
        let service = service_fn(|mut request: Request<Incoming>| {
            let door = self.door.clone();
            if let Some(client) = self.client {
                request.extensions_mut().insert(client);
            }
            let keeps_alive = request.version() < Version::HTTP_2;
            let shutdown = self.shutdown.clone();
            async move {
                let mut response = door.answer(request).await;
                if keeps_alive && shutdown.is_cancelled() {
                    let headers = response.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(Patience::new(stream, FIRST_BYTES_WITHIN));
        let mut served = pin!(self.builder.serve_connection(stream, service));
        let result = tokio::select! {
            result = served.as_mut() => result,
            () = self.leave() => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    result = served => result,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        match result {
            Ok(()) => metrics.connections_dropped.increment(1),
            Err(error) => {
                tracing::debug!(error, "connection broken");
                metrics.connections_broken.increment(1);
            }
        }
    }
}

impl<P> Connection<P> {
    /// Returns when a connection that is idle may be closed: its client had time to hear that it will be.
    async fn leave(&self) {
        self.shutdown.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(NOTICE) => {}
            () = self.cut.cancelled() => {}
        }
    }
}

/// Answers are small and wanted at once; a peer that vanished without a word is found out by the system.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

#[cfg(test)]
mod tests;
