//! Reading a request's body, up to a limit.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::error::IngressError;

/// A client that sends nothing of its body for so long is given up.
const NEXT_FRAME_WITHIN: Duration = Duration::from_secs(60);

/// The whole body. One that came in one piece, as nearly all do, is not copied.
pub(crate) async fn read(mut body: Incoming, bytes_max: usize) -> Result<Bytes, IngressError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while !body.is_end_stream() {
        let frame = tokio::time::timeout(NEXT_FRAME_WITHIN, body.frame()).await;
        let Some(frame) = frame.map_err(|_| IngressError::BodyStalled)? else {
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
