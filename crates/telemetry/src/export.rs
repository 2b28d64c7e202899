//! One message of spans to the receiver, over a connection that is kept.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::endpoint::{Endpoint, Protocol};

/// How long one message may take, its connection included.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_MAX: usize = 64 * 1024;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("{authority} cannot be reached: {reason}")]
    Connect { authority: String, reason: String },
    #[error("no answer within {SEND_WITHIN:?}")]
    TimedOut,
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the receiver answered {0}")]
    Status(StatusCode),
    #[error("the receiver answered with gRPC status {code}: {message}")]
    Grpc { code: u32, message: String },
    #[error("the spans cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl ExportError {
    /// Whether another try may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut | Self::Broken(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss: as OTLP has it.
            Self::Grpc { code, .. } => matches!(code, 1 | 4 | 10 | 11 | 14 | 15),
            Self::Json(_) => false,
        }
    }
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Sends messages one after the other.
pub(crate) struct Exporter {
    endpoint: Endpoint,
    headers: HeaderMap,
    connection: Option<Connection>,
}

impl Exporter {
    pub(crate) fn new(endpoint: Endpoint, headers: HeaderMap) -> Self {
        Self {
            endpoint,
            headers,
            connection: None,
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: &ExportTraceServiceRequest,
    ) -> Result<(), ExportError> {
        let body = self.body(request)?;
        let sent = timeout(SEND_WITHIN, self.exchange(body)).await;
        let sent = sent.unwrap_or(Err(ExportError::TimedOut));
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }

    fn body(&self, request: &ExportTraceServiceRequest) -> Result<Bytes, ExportError> {
        Ok(match self.endpoint.protocol {
            Protocol::Grpc => {
                let length = request.encoded_len();
                let mut body = BytesMut::with_capacity(length + 5);
                body.put_u8(0);
                body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
                body.put(&request.encode_to_vec()[..]);
                body.freeze()
            }
            Protocol::HttpProtobuf => request.encode_to_vec().into(),
            Protocol::HttpJson => serde_json::to_vec(request)?.into(),
        })
    }

    async fn exchange(&mut self, body: Bytes) -> Result<(), ExportError> {
        let request = self.request(body);
        let connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        let response = match self.connection.insert(connection) {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(ExportError::Status(head.status));
        }
        let trailers = read(body).await.unwrap_or_default();
        match self.endpoint.protocol {
            Protocol::Grpc => check_grpc(&trailers)
                .or_else(|| check_grpc(&head.headers))
                .unwrap_or_else(|| {
                    Err(ExportError::Grpc {
                        code: 2,
                        message: "the answer lacks its status".to_owned(),
                    })
                }),
            Protocol::HttpProtobuf | Protocol::HttpJson => Ok(()),
        }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        let content_type = match self.endpoint.protocol {
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                "application/grpc"
            }
            Protocol::HttpProtobuf => "application/x-protobuf",
            Protocol::HttpJson => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.endpoint.protocol != Protocol::Grpc
            && let Ok(host) = HeaderValue::from_str(self.endpoint.authority.as_str())
        {
            headers.insert(header::HOST, host);
        }
        request
    }

    async fn connect(&self) -> Result<Connection, ExportError> {
        let failed = |reason: &dyn std::fmt::Display| ExportError::Connect {
            authority: self.endpoint.authority.to_string(),
            reason: reason.to_string(),
        };
        let address = (self.endpoint.host(), self.endpoint.port());
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| failed(&error))?;
        let _ = stream.set_nodelay(true);
        if !self.endpoint.tls {
            return self.handshake(stream).await;
        }
        let name = ServerName::try_from(self.endpoint.host().to_owned())
            .map_err(|error| failed(&error))?;
        let mut config = tls().map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![match self.endpoint.protocol {
            Protocol::Grpc => b"h2".to_vec(),
            Protocol::HttpProtobuf | Protocol::HttpJson => b"http/1.1".to_vec(),
        }];
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| failed(&error))?;
        self.handshake(stream).await
    }

    async fn handshake<T>(&self, stream: T) -> Result<Connection, ExportError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        Ok(match self.endpoint.protocol {
            Protocol::Grpc => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(driver);
                Connection::Http2(sender)
            }
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                let (sender, driver) = http1::handshake(stream).await?;
                tokio::spawn(driver);
                Connection::Http1(sender)
            }
        })
    }
}

/// Reads an answer to its end, so that its connection can be used again.
async fn read(body: Incoming) -> Option<HeaderMap> {
    let read = Limited::new(body, ANSWER_MAX).collect().await.ok()?;
    read.trailers().cloned()
}

/// `None` if there is no status.
fn check_grpc(headers: &HeaderMap) -> Option<Result<(), ExportError>> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message");
    Some(Err(ExportError::Grpc {
        code,
        message: message
            .map(|message| String::from_utf8_lossy(message.as_bytes()).into_owned())
            .unwrap_or_default(),
    }))
}

/// Made once: reading the machine's certificates takes a while.
fn tls() -> Result<ClientConfig, rustls::Error> {
    static CONFIG: OnceLock<Result<ClientConfig, rustls::Error>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth())
    };
    CONFIG.get_or_init(make).clone()
}
