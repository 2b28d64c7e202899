//! HTTP/1.1 exchanges, and the connections that wait for the next one.
//!
//! A connection carries one exchange at a time. When both bodies have ended it waits with its [`crate::pool::Remote`]
//! until another exchange takes it, it is closed by the endpoint, or it has waited for too long.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use abide_schema::HttpVersion;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Sink as _, SinkExt as _, Stream as _};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::exchange::{ExchangeError, PIECE_MAX};
use crate::outgoing::Outgoing;
use crate::pool::{ConnectError, Remote, Transport, connect};

/// Connections to one deployment that wait for their next exchange.
const IDLE_MAX: usize = 256;
/// A connection is given up so much earlier than the endpoint said that it would close it.
const CLOSE_EARLIER: Duration = Duration::from_secs(1);

/// Connections of one deployment between two exchanges.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<Waiting>>);

struct Waiting {
    connection: Connection,
    until: Instant,
}

impl Idle {
    pub(crate) fn is_empty(&self) -> bool {
        let now = Instant::now();
        let mut waiting = self.0.lock();
        waiting.retain(|one| now < one.until && !one.connection.sender.is_closed());
        waiting.is_empty()
    }

    /// The connection that has waited least: its endpoint has the least reason to be closing it.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut waiting = self.0.lock();
        waiting.retain(|one| now < one.until && !one.connection.sender.is_closed());
        waiting.pop().map(|one| one.connection)
    }

    fn put(&self, connection: Connection, keep: Duration) {
        let mut waiting = self.0.lock();
        if waiting.len() < IDLE_MAX && !connection.sender.is_closed() {
            let until = Instant::now() + keep;
            waiting.push(Waiting { connection, until });
        }
    }
}

struct Connection {
    sender: SendRequest<RequestBody>,
    /// Moves its bytes; ends with it.
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    async fn open(remote: &Remote) -> Result<Self, ExchangeError> {
        let limit = remote.connect_timeout();
        let opening = async {
            match connect(&remote.address, &[HttpVersion::Http11]).await? {
                Transport::Plain(stream) => Self::over(TokioIo::new(stream)).await,
                Transport::Tls(stream) => Self::over(TokioIo::new(stream)).await,
            }
        };
        timeout(limit, opening)
            .await
            .unwrap_or(Err(ConnectError::TimedOut(limit).into()))
    }

    async fn over<T>(io: T) -> Result<Self, ExchangeError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a deployment ended");
            }
        });
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        })
    }
}

/// The pieces of a request's body as they are sent.
struct RequestBody(mpsc::Receiver<Bytes>);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
}

type Responding =
    Pin<Box<dyn Future<Output = Result<(Response<Incoming>, Connection), ExchangeError>> + Send>>;

/// One exchange.
pub(crate) struct Http1 {
    remote: Arc<Remote>,
    /// `None` once the request's body has ended.
    request: Option<mpsc::Sender<Bytes>>,
    /// `None` once the response's head has come. Holds the connection until then.
    response: Option<Responding>,
    body: Option<Incoming>,
    /// From the response's head on; `None` again when it waits for another exchange.
    connection: Option<Connection>,
    keep: Duration,
}

impl Http1 {
    pub(crate) async fn begin(
        remote: &Arc<Remote>,
        request: Request<()>,
    ) -> Result<Self, ExchangeError> {
        let idle = remote.idle_http1.take();
        let is_reused = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => Connection::open(remote).await?,
        };
        let (pieces, body) = mpsc::channel::<Bytes>(1);
        let (mut parts, ()) = request.into_parts();
        origin_form(&mut parts);
        let request = Request::from_parts(parts, RequestBody(body));
        let exchange = exchange(remote.clone(), connection, is_reused, request);
        Ok(Self {
            remote: remote.clone(),
            request: Some(pieces),
            response: Some(Box::pin(exchange)),
            body: None,
            connection: None,
            keep: Duration::ZERO,
        })
    }

    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, ExchangeError>> {
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        let response = ready!(response.as_mut().poll(cx));
        self.response = None;
        let (response, connection) = response?;
        let (parts, body) = response.into_parts();
        self.keep = keep_alive(&parts.headers, self.remote.idle_timeout());
        self.body = Some(body);
        self.connection = Some(connection);
        Poll::Ready(Ok(Response::from_parts(parts, ())))
    }

    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        loop {
            return match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => {
                    self.connection = None;
                    Poll::Ready(Some(Err(error.into())))
                }
                None => {
                    if self.request.is_none()
                        && let Some(connection) = self.connection.take()
                    {
                        self.remote.idle_http1.put(connection, self.keep);
                    }
                    Poll::Ready(None)
                }
            };
        }
    }

    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
        end: bool,
    ) -> Poll<Result<(), ExchangeError>> {
        let Some(request) = &mut self.request else {
            outgoing.clear();
            return Poll::Ready(Ok(()));
        };
        let closed = |_| ExchangeError::Broken("the endpoint closed the connection".into());
        while !outgoing.is_empty() {
            ready!(request.poll_ready_unpin(cx)).map_err(closed)?;
            if let Some(piece) = outgoing.take(PIECE_MAX) {
                Pin::new(&mut *request).start_send(piece).map_err(closed)?;
            }
        }
        if end {
            self.request = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends a request. If a connection that had waited turns out to be closed before it took anything, a new one is made.
async fn exchange(
    remote: Arc<Remote>,
    mut connection: Connection,
    mut is_reused: bool,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Connection), ExchangeError> {
    loop {
        // A connection that waited has to have seen the end of the exchange before.
        let sent = match connection.sender.ready().await {
            Ok(()) => connection.sender.try_send_request(request).await,
            Err(_) if is_reused => {
                is_reused = false;
                connection = Connection::open(&remote).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut error = match sent {
            Ok(response) => return Ok((response, connection)),
            Err(error) => error,
        };
        match error.take_message() {
            Some(unsent) if is_reused => {
                is_reused = false;
                request = unsent;
                connection = Connection::open(&remote).await?;
            }
            _ if is_reused => return Err(ExchangeError::Stale(error.into_error().to_string())),
            _ => return Err(error.into_error().into()),
        }
    }
}

/// How long a connection may wait: at most as long as the endpoint says, if it does.
fn keep_alive(headers: &HeaderMap, most: Duration) -> Duration {
    let said = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| {
            text.split(',')
                .find_map(|part| part.trim().strip_prefix("timeout="))
        })
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    said.map_or(most, |said| said.saturating_sub(CLOSE_EARLIER).min(most))
}

/// What HTTP/1.1 wants of a request: the path alone, and the host as a header.
pub(crate) fn origin_form(parts: &mut http::request::Parts) {
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    if let Some(path) = parts.uri.path_and_query() {
        parts.uri = Uri::from(path.clone());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_no_longer_than_its_endpoint_says() {
        let most = Duration::from_secs(300);
        let keep = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            keep_alive(
                &HeaderMap::from_iter([("keep-alive".parse().unwrap(), value)]),
                most,
            )
        };
        assert_eq!(keep_alive(&HeaderMap::new(), most), most);
        assert_eq!(keep("timeout=5"), Duration::from_secs(4));
        assert_eq!(keep("max=10, timeout=5"), Duration::from_secs(4));
        assert_eq!(keep("timeout=0"), Duration::ZERO);
        assert_eq!(keep("timeout=100000"), most);
        assert_eq!(keep("nonsense"), most);
    }
}
