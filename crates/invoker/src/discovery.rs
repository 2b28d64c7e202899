//! Asks an endpoint what it offers.

use std::collections::BTreeMap;
use std::time::Duration;

use abide_schema::HttpVersion;
use abide_service_protocol::ErrorCode;
use abide_service_protocol::manifest::{self, Manifest, ManifestError};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::deployment::{Address, AddressError};
use crate::http1::origin_form;
use crate::options::InvokerOptions;
use crate::pool::{ConnectError, Transport, connect, handshake};
use crate::{Invoker, tls};

/// Requests at most, the first included.
const TRIES: u32 = 5;
/// Before the second request; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// How much of an error's body is shown.
const BODY_SHOWN_MAX: usize = 4096;

/// Which endpoint is asked, and how.
#[derive(Debug, Clone)]
pub struct DiscoverRequest {
    /// Where it is.
    pub uri: String,
    /// Headers that go with the request.
    pub additional_headers: BTreeMap<String, String>,
    /// HTTP/1.1 only.
    pub use_http_11: bool,
}

/// What an endpoint answered.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoveredEndpoint {
    /// What it offers.
    pub manifest: Manifest,
    /// What it says it is.
    pub sdk_version: Option<String>,
    /// What it spoke.
    pub http_version: HttpVersion,
}

/// Why an endpoint's offer is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiscoverError {
    /// The address or a header is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// There was no response.
    #[error("the endpoint {uri} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        uri: String,
        /// What went wrong with the last try.
        reason: String,
    },
    /// The response was no HTTP/2.
    #[error(
        "the endpoint {uri} does not speak HTTP/2, probably it speaks HTTP/1.1 only: register it with use_http_11 ({reason})"
    )]
    Http11Only {
        /// Where.
        uri: String,
        /// What HTTP/2 made of it.
        reason: String,
    },
    /// The status is not a success.
    #[error(
        "the endpoint {uri} answered the discovery with {status}{}: {body}",
        if *.status == StatusCode::NOT_FOUND {
            " (is the path under which the SDK's handler is mounted part of the URI?)"
        } else {
            ""
        }
    )]
    Status {
        /// Where.
        uri: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
    /// The body is longer than allowed.
    #[error("the endpoint {uri} answered the discovery with more than {max} bytes")]
    TooLong {
        /// Where.
        uri: String,
        /// The limit.
        max: usize,
    },
    /// The response is no acceptable manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl DiscoverError {
    /// The documented code, where there is one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Unreachable { .. } | Self::Status { .. } => Some(ErrorCode::Meta0003),
            Self::Http11Only { .. } => Some(ErrorCode::Meta0014),
            Self::TooLong { .. } => Some(ErrorCode::Meta0013),
            Self::Manifest(error) => error.code(),
            Self::Address(_) => None,
        }
    }

    fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Address(_)
            | Self::Http11Only { .. }
            | Self::TooLong { .. }
            | Self::Manifest(_) => false,
        }
    }
}

/// An endpoint's whole answer to a request outside of invocations.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    http_version: HttpVersion,
}

impl Invoker {
    /// Asks an endpoint what it offers; several times if it looks as if that helped.
    pub async fn discover(
        &self,
        request: &DiscoverRequest,
    ) -> Result<DiscoveredEndpoint, DiscoverError> {
        let options = self.options();
        let address = Address::new(&request.uri, &request.additional_headers, &options.headers)?
            .through(options.proxy.as_ref());
        let accept = HeaderValue::from_static(manifest::ACCEPT);
        let discovery = Question {
            address,
            uri: &request.uri,
            use_http_11: request.use_http_11,
            method: Method::GET,
            path: &["discover"],
            headers: HeaderMap::from_iter([(header::ACCEPT, accept)]),
            body: Bytes::new(),
            options,
        };
        let mut delay = FIRST_DELAY;
        for _ in 1..TRIES {
            match discovery.discover().await {
                Err(error) if error.is_worth_another_try() => {
                    tracing::debug!(%error, "discovery is tried again");
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
                done => return done,
            }
        }
        discovery.discover().await
    }
}

/// A request outside of invocations, over a connection of its own.
pub(crate) struct Question<'a> {
    pub(crate) address: Address,
    /// The address as it is shown.
    pub(crate) uri: &'a str,
    pub(crate) use_http_11: bool,
    pub(crate) method: Method,
    /// Below the address.
    pub(crate) path: &'a [&'a str],
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) options: &'a InvokerOptions,
}

impl Question<'_> {
    async fn discover(&self) -> Result<DiscoveredEndpoint, DiscoverError> {
        let response = self.ask().await?;
        if !response.status.is_success() {
            let shown = &response.body[..response.body.len().min(BODY_SHOWN_MAX)];
            return Err(DiscoverError::Status {
                uri: self.uri.to_owned(),
                status: response.status,
                body: String::from_utf8_lossy(shown).into_owned(),
            });
        }
        let text = |name: &str| response.headers.get(name)?.to_str().ok();
        let server = text("x-restate-server");
        let manifest = manifest::read(manifest::Response {
            content_type: text(header::CONTENT_TYPE.as_str()),
            server,
            body: &response.body,
        })?;
        Ok(DiscoveredEndpoint {
            sdk_version: server.map(Into::into),
            http_version: response.http_version,
            manifest,
        })
    }

    /// Asks once, within the limits of time and length that discovery has.
    pub(crate) async fn ask(&self) -> Result<Response, DiscoverError> {
        let limit = self.options.discovery_timeout;
        match timeout(limit, self.request()).await {
            Ok(response) => response,
            Err(_) => Err(self.unreachable(&format!("no answer within {limit:?}"))),
        }
    }

    async fn request(&self) -> Result<Response, DiscoverError> {
        let versions: &[HttpVersion] = match self.use_http_11 {
            true => &[HttpVersion::Http11],
            false => &[HttpVersion::Http2, HttpVersion::Http11],
        };
        let connecting = timeout(
            self.options.connect_timeout,
            connect(&self.address, versions),
        );
        let transport = connecting
            .await
            .unwrap_or(Err(ConnectError::TimedOut(self.options.connect_timeout)))
            .map_err(|error| self.unreachable(&error))?;
        match transport {
            Transport::Plain(stream) if self.use_http_11 => self.http1(stream).await,
            Transport::Plain(stream) => self.http2(stream).await,
            Transport::Tls(stream) => match tls::negotiated(&stream) {
                HttpVersion::Http11 => self.http1(stream).await,
                HttpVersion::Http2 => self.http2(stream).await,
            },
        }
    }

    fn head(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.address.uri(self.path);
        let headers = request.headers_mut();
        headers.extend(self.address.headers.clone());
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        if let Some(identity) = &self.options.identity {
            identity.sign(self.path, None, headers);
        }
        request
    }

    async fn http2<T>(&self, stream: T) -> Result<Response, DiscoverError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: h2::Error| self.broken_http2(&error);
        let (sender, connection) = handshake(stream).await.map_err(broken)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let exchange = async {
            let mut sender = sender.ready().await?;
            let (response, mut stream) = sender.send_request(self.head(), self.body.is_empty())?;
            if !self.body.is_empty() {
                stream.send_data(self.body.clone(), true)?;
            }
            let (head, mut body) = response.await?.into_parts();
            let mut collected = BytesMut::new();
            while let Some(data) = body.data().await {
                let data = data?;
                if collected.len() + data.len() > self.options.discovery_bytes_max {
                    return Ok(None);
                }
                collected.extend_from_slice(&data);
                body.flow_control().release_capacity(data.len())?;
            }
            Ok(Some((head, collected.freeze())))
        };
        let response = match exchange.await {
            Ok(response) => response,
            Err(error) => {
                // What the whole connection died of says more than what a stream makes of it.
                let cause = match connection.await {
                    Ok(Err(cause)) => cause,
                    _ => error,
                };
                return Err(broken(cause));
            }
        };
        let (head, body) = response.ok_or_else(|| self.too_long())?;
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
            http_version: HttpVersion::Http2,
        })
    }

    async fn http1<T>(&self, stream: T) -> Result<Response, DiscoverError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| self.unreachable(&error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let (mut parts, ()) = self.head().into_parts();
        origin_form(&mut parts);
        let request = Request::from_parts(parts, Full::new(self.body.clone()));
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        let mut collected = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                if collected.len() + data.len() > self.options.discovery_bytes_max {
                    return Err(self.too_long());
                }
                collected.extend_from_slice(&data);
            }
        }
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: collected.freeze(),
            http_version: HttpVersion::Http11,
        })
    }

    fn too_long(&self) -> DiscoverError {
        DiscoverError::TooLong {
            uri: self.uri.to_owned(),
            max: self.options.discovery_bytes_max,
        }
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> DiscoverError {
        DiscoverError::Unreachable {
            uri: self.uri.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The text of an HTTP/1.1 response, read as a frame, announces far more than a frame may have.
    fn broken_http2(&self, error: &h2::Error) -> DiscoverError {
        match error.reason() {
            Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::HTTP_1_1_REQUIRED) => {
                DiscoverError::Http11Only {
                    uri: self.uri.to_owned(),
                    reason: error.to_string(),
                }
            }
            _ => self.unreachable(error),
        }
    }
}
