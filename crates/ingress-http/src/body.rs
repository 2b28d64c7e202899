//! Reading a request's body, up to a limit.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::error::IngressError;

/// The whole body. One that came in one piece, as nearly all do, is not copied.
pub(crate) async fn read(mut body: Incoming, bytes_max: usize) -> Result<Bytes, IngressError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(data) = frame.map_err(IngressError::BodyBroken)?.into_data() else {
            // Trailers say nothing here.
            continue;
        };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(IngressError::BodyTooLong);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}
