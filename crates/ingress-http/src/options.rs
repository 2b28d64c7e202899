//! What an operator can set.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use abide_telemetry::Tracer;

/// Limits of the front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressOptions {
    /// The longest body; a longer one is refused with 413.
    pub request_bytes_max: usize,
    /// Requests at a time; more are refused with 429. `None` is without limit.
    pub concurrent_requests_max: Option<NonZeroUsize>,
    /// Streams at a time on one HTTP/2 connection; `None` leaves it to the library.
    pub http2_streams_max: Option<NonZeroU32>,
    /// How long requests in progress may take to end at shutdown.
    pub drain: Duration,
    /// Takes the spans of requests.
    pub tracer: Tracer,
}

impl Default for IngressOptions {
    fn default() -> Self {
        Self {
            request_bytes_max: 32 * 1024 * 1024,
            concurrent_requests_max: None,
            http2_streams_max: None,
            drain: Duration::from_secs(5),
            tracer: Tracer::off(),
        }
    }
}
