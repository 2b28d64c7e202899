//! Where spans are sent, and in which form.

use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// The method of the trace service that takes spans.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Why spans cannot be sent to an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URI with a host.
    #[error("'{0}' is no URI with a host")]
    Uri(String),
    /// The scheme is not known.
    #[error(
        "the scheme of '{0}' is none of http, https, grpc (OTLP over gRPC), otlp+http, otlp+https (over HTTP), \
         otlp+http+json, otlp+https+json"
    )]
    Scheme(String),
    /// A header cannot be sent.
    #[error("'{0}' is no valid header")]
    Header(String),
}

/// The form in which spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
    HttpJson,
}

/// A receiver of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
    pub(crate) authority: Authority,
    pub(crate) path: PathAndQuery,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Uri(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (protocol, tls) = match scheme {
            "http" | "grpc" => (Protocol::Grpc, false),
            "https" => (Protocol::Grpc, true),
            "otlp+http" => (Protocol::HttpProtobuf, false),
            "otlp+https" => (Protocol::HttpProtobuf, true),
            "otlp+http+json" => (Protocol::HttpJson, false),
            "otlp+https+json" => (Protocol::HttpJson, true),
            _ => return Err(EndpointError::Scheme(text.to_owned())),
        };
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| bad())?;
        let parts = uri.into_parts();
        let authority = parts.authority.ok_or_else(bad)?;
        if authority.host().is_empty() {
            return Err(bad());
        }
        let given = parts
            .path_and_query
            .unwrap_or(PathAndQuery::from_static("/"));
        let path = match protocol {
            Protocol::Grpc => {
                let base = given.path().trim_end_matches('/');
                PathAndQuery::from_maybe_shared(format!("{base}{GRPC_PATH}")).map_err(|_| bad())?
            }
            Protocol::HttpProtobuf | Protocol::HttpJson => given,
        };
        Ok(Self {
            protocol,
            tls,
            authority,
            path,
        })
    }
}

impl Endpoint {
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.host();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(match self.protocol {
            Protocol::Grpc => 4317,
            Protocol::HttpProtobuf | Protocol::HttpJson => 4318,
        })
    }

    /// As the request names it.
    pub(crate) fn uri(&self) -> Uri {
        match self.protocol {
            Protocol::Grpc => {
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(if self.tls {
                    Scheme::HTTPS
                } else {
                    Scheme::HTTP
                });
                parts.authority = Some(self.authority.clone());
                parts.path_and_query = Some(self.path.clone());
                Uri::from_parts(parts).unwrap_or_default()
            }
            Protocol::HttpProtobuf | Protocol::HttpJson => Uri::from(self.path.clone()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn schemes_say_how_spans_travel() {
        for (text, protocol, tls, port, path) in [
            ("http://h", Protocol::Grpc, false, 4317, GRPC_PATH),
            ("grpc://h:1", Protocol::Grpc, false, 1, GRPC_PATH),
            ("https://h/", Protocol::Grpc, true, 4317, GRPC_PATH),
            (
                "otlp+http://h/v1/traces",
                Protocol::HttpProtobuf,
                false,
                4318,
                "/v1/traces",
            ),
            (
                "otlp+https://h:443/v1/traces?a=b",
                Protocol::HttpProtobuf,
                true,
                443,
                "/v1/traces?a=b",
            ),
            (
                "otlp+http+json://[::1]:9/v1/traces",
                Protocol::HttpJson,
                false,
                9,
                "/v1/traces",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.protocol, protocol, "{text}");
            assert_eq!((endpoint.tls, endpoint.port()), (tls, port), "{text}");
            assert_eq!(endpoint.path, path, "{text}");
        }
        assert_eq!(
            "otlp+http://[::1]:9/".parse::<Endpoint>().unwrap().host(),
            "::1"
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "collector:4317", "ftp://h", "http://", "http:// h"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
