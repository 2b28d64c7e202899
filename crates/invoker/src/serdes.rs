//! Has an endpoint decode or encode a payload, for those who look at it.

use abide_schema::{Deployment, HttpVersion};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::Invoker;
use crate::deployment::{Address, percent_encoded};
use crate::discovery::{DiscoverError, Question};

const PROTOCOL: HeaderName = HeaderName::from_static("x-restate-serdes-protocol");
/// How much of an error's body is shown.
const BODY_SHOWN_MAX: usize = 4096;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SerdesOperation {
    /// From the payload's bytes to JSON.
    Decode,
    /// From JSON to the payload's bytes.
    Encode,
}

impl SerdesOperation {
    const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Encode => "encode",
        }
    }
}

/// What is to be decoded or encoded.
#[derive(Debug, Clone)]
pub struct SerdesRequest<'a> {
    /// Who knows the serializer.
    pub deployment: &'a Deployment,
    /// The service whose payload it is.
    pub service: &'a str,
    /// Which way.
    pub operation: SerdesOperation,
    /// Name of the serializer.
    pub serde: &'a str,
    /// The payload.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SerdesError {
    /// The endpoint was not reached, or said too much.
    #[error(transparent)]
    Endpoint(#[from] DiscoverError),
    /// The status is not a success.
    #[error(
        "the endpoint answered with {status}{}: {body}",
        if *.status == StatusCode::NOT_FOUND {
            " (its SDK may not decode and encode payloads, or does not know the serializer)"
        } else {
            ""
        }
    )]
    Status {
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

impl Invoker {
    /// Has an endpoint decode or encode a payload. Asks once.
    pub async fn serdes(&self, request: SerdesRequest<'_>) -> Result<Bytes, SerdesError> {
        let deployment = request.deployment;
        let options = self.options();
        let address = Address::new(
            &deployment.uri,
            &deployment.additional_headers,
            &options.headers,
        )
        .map_err(DiscoverError::from)?
        .through(options.proxy.as_ref());
        let (accept, content_type) = match request.operation {
            SerdesOperation::Decode => ("application/json", "application/octet-stream"),
            SerdesOperation::Encode => ("*/*", "application/json"),
        };
        let headers = [
            (header::ACCEPT, accept),
            (header::CONTENT_TYPE, content_type),
            (PROTOCOL, "v1"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let serde = percent_encoded(request.serde);
        let question = Question {
            address,
            uri: &deployment.uri,
            use_http_11: deployment.http_version == HttpVersion::Http11,
            method: Method::POST,
            path: &[
                "serdes",
                request.service,
                request.operation.name(),
                serde.to_str().unwrap_or_default(),
            ],
            headers: HeaderMap::from_iter(headers),
            body: request.body,
            options,
        };
        let response = question.ask().await?;
        if response.status.is_success() {
            return Ok(response.body);
        }
        let shown = &response.body[..response.body.len().min(BODY_SHOWN_MAX)];
        Err(SerdesError::Status {
            status: response.status,
            body: String::from_utf8_lossy(shown).into_owned(),
        })
    }
}
