//! One HTTP exchange: the request's and the response's body, each as far as it gets without waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use abide_schema::HttpVersion;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use crate::http1::Http1;
use crate::outgoing::Outgoing;
use crate::pool::{ConnectError, Lease, Remote};

/// How much of a body goes into one write at most.
pub(crate) const PIECE_MAX: usize = 256 * 1024;

/// Why an exchange broke.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("the connection broke: {0}")]
    Broken(String),
    /// A connection that had waited for its next exchange broke before anything was answered: the endpoint may have
    /// closed it just then.
    #[error("the connection was closed: {0}")]
    Stale(String),
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
    Http1(Box<Http1>),
}

pub(crate) struct Http2 {
    request: SendStream<Bytes>,
    request_ended: bool,
    /// `None` once it has come: h2 does not survive being asked again.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    _lease: Lease,
}

impl Exchange {
    /// Sends the head of a request.
    pub(crate) async fn begin(
        remote: &std::sync::Arc<Remote>,
        version: HttpVersion,
        request: Request<()>,
    ) -> Result<Self, ExchangeError> {
        match version {
            HttpVersion::Http2 => Http2::begin(remote, request).await.map(Self::Http2),
            HttpVersion::Http11 => {
                let exchange = Http1::begin(remote, request).await?;
                Ok(Self::Http1(Box::new(exchange)))
            }
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
            Self::Http1(exchange) => exchange.poll_head(cx),
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

fn clone_head(request: &Request<()>) -> Request<()> {
    let mut clone = Request::new(());
    *clone.method_mut() = request.method().clone();
    *clone.uri_mut() = request.uri().clone();
    *clone.headers_mut() = request.headers().clone();
    clone
}
