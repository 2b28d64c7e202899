//! One HTTP exchange: the request's and the response's body, each as far as it gets without waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use abide_schema::HttpVersion;
use bytes::Bytes;
use futures::{Sink as _, SinkExt as _, StreamExt as _};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::StreamBody;
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::outgoing::Outgoing;
use crate::pool::{ConnectError, Lease, Remote, Transport, connect};

/// How much of a body goes into one write at most.
const PIECE_MAX: usize = 256 * 1024;

/// Why an exchange broke.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl From<h2::Error> for ExchangeError {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A request whose body is being sent and a response that comes at any time. Dropping it resets the stream.
pub(crate) enum Exchange {
    Http2(Http2),
    Http1(Http1),
}

pub(crate) struct Http2 {
    request: SendStream<Bytes>,
    request_ended: bool,
    /// `None` once it has come: h2 does not survive being asked again.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    _lease: Lease,
}

pub(crate) struct Http1 {
    /// `None` once the request's body has ended.
    request: Option<futures::channel::mpsc::Sender<Bytes>>,
    response: Option<Responding>,
    body: Option<Incoming>,
    /// Ends the connection with the exchange.
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

type Responding = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

impl Exchange {
    /// Sends the head of a request.
    pub(crate) async fn begin(
        remote: &std::sync::Arc<Remote>,
        version: HttpVersion,
        request: Request<()>,
    ) -> Result<Self, ExchangeError> {
        match version {
            HttpVersion::Http2 => Http2::begin(remote, request).await.map(Self::Http2),
            HttpVersion::Http11 => Http1::begin(remote, request).await.map(Self::Http1),
        }
    }

    /// The response's head; pending for ever after it came.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, ExchangeError>> {
        match self {
            Self::Http2(exchange) => {
                let Some(response) = &mut exchange.response else {
                    return Poll::Pending;
                };
                let response = ready!(Pin::new(response).poll(cx));
                exchange.response = None;
                let (parts, body) = response?.into_parts();
                exchange.body = Some(body);
                Poll::Ready(Ok(Response::from_parts(parts, ())))
            }
            Self::Http1(exchange) => {
                let Some(response) = &mut exchange.response else {
                    return Poll::Pending;
                };
                let response = ready!(response.as_mut().poll(cx));
                exchange.response = None;
                let (parts, body) = response?.into_parts();
                exchange.body = Some(body);
                Poll::Ready(Ok(Response::from_parts(parts, ())))
            }
        }
    }

    /// The next piece of the response's body; nothing before its head.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        match self {
            Self::Http2(exchange) => exchange.poll_data(cx),
            Self::Http1(exchange) => exchange.poll_data(cx),
        }
    }

    /// Sends what there is, and the end of the body if `end`. Ready when nothing is left to send.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
        end: bool,
    ) -> Poll<Result<(), ExchangeError>> {
        match self {
            Self::Http2(exchange) => exchange.poll_send(cx, outgoing, end),
            Self::Http1(exchange) => exchange.poll_send(cx, outgoing, end),
        }
    }

    /// Tells the endpoint at once that nobody listens any more.
    pub(crate) fn reset(self) {
        if let Self::Http2(mut exchange) = self {
            exchange.request.send_reset(Reason::CANCEL);
        }
    }
}

impl Http2 {
    async fn begin(
        remote: &std::sync::Arc<Remote>,
        request: Request<()>,
    ) -> Result<Self, ExchangeError> {
        let mut tries = 0;
        loop {
            let (sender, lease) = remote.stream().await?;
            // A connection that ended a moment ago says so here, before anything was sent.
            let sent = match sender.ready().await {
                Ok(mut sender) => sender.send_request(clone_head(&request), false),
                Err(error) => Err(error),
            };
            match sent {
                Ok((response, request)) => {
                    return Ok(Self {
                        request,
                        request_ended: false,
                        response: Some(response),
                        body: None,
                        _lease: lease,
                    });
                }
                Err(error) => {
                    lease.condemn();
                    tries += 1;
                    if tries == 3 {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        match ready!(body.poll_data(cx)) {
            Some(Ok(data)) => {
                // The window is opened at once: what is not yet decoded is limited by not polling.
                let _ = body.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(data)))
            }
            // A server that has said everything may reset the request's side without an error.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => Poll::Ready(None),
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
        end: bool,
    ) -> Poll<Result<(), ExchangeError>> {
        if self.request_ended {
            outgoing.clear();
            return Poll::Ready(Ok(()));
        }
        while !outgoing.is_empty() {
            self.request.reserve_capacity(outgoing.len().min(PIECE_MAX));
            let capacity = self.request.capacity();
            if capacity == 0 {
                match ready!(self.request.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => {
                        let reason = "the endpoint closed the stream".to_owned();
                        return Poll::Ready(Err(ExchangeError::Broken(reason)));
                    }
                }
            }
            if let Some(piece) = outgoing.take(capacity) {
                let last = end && outgoing.is_empty();
                self.request.send_data(piece, last)?;
                self.request_ended = last;
            }
        }
        if end && !self.request_ended {
            self.request_ended = true;
            self.request.send_data(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Http1 {
    async fn begin(
        remote: &std::sync::Arc<Remote>,
        request: Request<()>,
    ) -> Result<Self, ExchangeError> {
        let limit = remote.connect_timeout();
        let connecting = connect(&remote.address, &[HttpVersion::Http11]);
        match timeout(limit, connecting).await {
            Ok(Ok(Transport::Plain(stream))) => Self::over(TokioIo::new(stream), request).await,
            Ok(Ok(Transport::Tls(stream))) => Self::over(TokioIo::new(stream), request).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ConnectError::TimedOut(limit).into()),
        }
    }

    pub(crate) async fn over<T>(io: T, request: Request<()>) -> Result<Self, ExchangeError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a deployment ended");
            }
        });
        let (pieces, body) = futures::channel::mpsc::channel::<Bytes>(1);
        let body = StreamBody::new(body.map(|piece| Ok::<_, hyper::Error>(Frame::data(piece))));
        let (mut parts, ()) = request.into_parts();
        origin_form(&mut parts);
        let request = Request::from_parts(parts, body);
        Ok(Self {
            request: Some(pieces),
            response: Some(Box::pin(async move { sender.send_request(request).await })),
            body: None,
            _connection: tokio_util::task::AbortOnDropHandle::new(connection),
        })
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        loop {
            return match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                None => Poll::Ready(None),
            };
        }
    }

    fn poll_send(
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

fn clone_head(request: &Request<()>) -> Request<()> {
    let mut clone = Request::new(());
    *clone.method_mut() = request.method().clone();
    *clone.uri_mut() = request.uri().clone();
    *clone.headers_mut() = request.headers().clone();
    clone
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
