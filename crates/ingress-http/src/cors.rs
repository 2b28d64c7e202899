//! Scripts of any origin may call the ingress (ingress reference, section 13).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::Full;

use crate::answer::Answer;

const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);

/// The answer to a preflight request: whatever it asks for is allowed.
pub(crate) fn preflight(request: &HeaderMap) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    let echoes = [
        (
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ];
    for (asked, allowed) in echoes {
        if let Some(value) = request.get(asked) {
            answer.headers_mut().insert(allowed, value.clone());
        }
    }
    allow(request.get(header::ORIGIN).cloned(), answer)
}

/// Lets the origin of the request read the answer.
pub(crate) fn allow(origin: Option<HeaderValue>, mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    headers.insert(header::VARY, VARY);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    answer
}
