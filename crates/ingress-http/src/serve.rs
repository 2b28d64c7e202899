//! Connections: HTTP/1.1 and cleartext HTTP/2 on one port, told apart by their first bytes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handle::Door;
use crate::listen::{Accepted, KEEP_ALIVE, Listen, waiting};
use crate::options::IngressOptions;
use crate::partitions::Partitions;
use crate::patience::Patience;
use crate::trace::Client;
use crate::unread::{Probe, Watched};

/// Pause after the system refused a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Before a door that closes takes no more connections and closes those that are idle, it says so for this long in its
/// answers: a request that is on its way over a connection that is being closed has failed for all that its client knows.
const NOTICE: Duration = Duration::from_millis(500);
/// Before the listener closes, at the end of the notice: for so long nobody begins to connect, and who has begun is
/// let in. Longer than a round trip nearby; who was not heard tries again after a second.
const LAST_CALL: Duration = Duration::from_millis(20);
/// How long the runtime may take to hear of bytes that the system has, before it is asked again.
const UNREAD_PAUSE: Duration = Duration::from_millis(1);
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

async fn serve<P: Partitions, L: Listen>(
    door: Arc<Door<P>>,
    listener: L,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let builder = Arc::new(builder(&door.options));
    let take = |(stream, client): Accepted<L>| {
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
        tokio::time::sleep(NOTICE - LAST_CALL).await;
    };
    accept_until(&listener, notice_given, take).await;
    if let Err(error) = listener.last_call() {
        tracing::debug!(%error, "connections that come while the listener closes are broken");
    }
    accept_until(&listener, tokio::time::sleep(LAST_CALL), take).await;
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

/// Gives `take` each connection that comes before `end`.
async fn accept_until<L: Listen>(
    listener: &L,
    end: impl Future<Output = ()>,
    take: impl Fn(Accepted<L>),
) {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = end.as_mut() => return,
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
        S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
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
        let probe = Arc::new(Probe::default());
        let stream = Watched::new(stream, probe.clone());
        let stream = TokioIo::new(Patience::new(stream, FIRST_BYTES_WITHIN));
        let mut served = pin!(self.builder.serve_connection(stream, service));
        let result = tokio::select! {
            result = served.as_mut() => result,
            () = self.leave() => {
                let last = async {
                    if let Some(result) = until_read(served.as_mut(), &probe).await {
                        return result;
                    }
                    served.as_mut().graceful_shutdown();
                    served.await
                };
                tokio::select! {
                    result = last => result,
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

/// Serves until all that the client has sent was read, or the connection has ended. A connection that is closed before
/// is reset, which its client takes for a failure of the request that it sent.
async fn until_read<T>(mut served: Pin<&mut impl Future<Output = T>>, probe: &Probe) -> Option<T> {
    loop {
        probe.ask();
        let polled = poll_fn(|context| Poll::Ready(served.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(result) => return Some(result),
            Poll::Pending if probe.is_unread() => {}
            Poll::Pending => return None,
        }
        tokio::select! {
            result = served.as_mut() => return Some(result),
            () = tokio::time::sleep(UNREAD_PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests;
