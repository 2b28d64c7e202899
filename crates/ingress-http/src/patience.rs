//! How long a connection may take to say which HTTP it speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::forward::forward_writes;

/// Bytes from which the version of HTTP is known: the length of HTTP/2's preface.
const KNOWN_AFTER_BYTES: usize = 24;

/// A stream whose first bytes have a deadline; the library that tells the versions apart waits for them without end.
/// Behind them it costs a comparison.
pub(crate) struct Patience<S> {
    stream: S,
    seen: usize,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patience<S> {
    pub(crate) fn new(stream: S, first_bytes_within: Duration) -> Self {
        Self {
            stream,
            seen: 0,
            deadline: Instant::now() + first_bytes_within,
            timer: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if KNOWN_AFTER_BYTES <= self.seen {
            return polled;
        }
        self.seen += buffer.filled().len() - before;
        if polled.is_ready() {
            return polled;
        }
        let deadline = self.deadline;
        let timer = (self.timer).get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

forward_writes!(Patience);
