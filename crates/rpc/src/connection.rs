//! Drives one fabric connection: one task reads, hands on and writes.
//!
//! It reads before it writes, so that what a handler answers at once leaves in the same turn without
//! waking anybody. Payloads are slices of the read buffer: whoever keeps a small one for long keeps
//! up to [`READ_BYTES`] alive and had better copy it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::frame::Header;
use crate::outbox::{Batch, Outbox, Taken};
use crate::status::Heard;

/// Size of a read buffer.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this a new buffer is taken.
const READ_ROOM_MIN: usize = 4 * 1024;
/// How far ahead room is made for a large frame: a length is believed as far as bytes arrive.
const READ_AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("closed by the other node")]
    ByPeer,
    #[error("closed here")]
    Here,
    #[error("connection failed: {0}")]
    Failed(#[from] io::Error),
    #[error("frame of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("protocol violated: {0}")]
    Violation(&'static str),
}

/// One established connection, the handshake behind it.
pub(crate) struct Connection<S> {
    pub stream: S,
    pub outbox: Arc<Outbox>,
    pub heard: Arc<Heard>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Runs until the connection is over; `on_frame` sees every frame in order.
    pub async fn run(
        self,
        on_frame: impl FnMut(Header, Bytes) -> Result<(), &'static str>,
    ) -> Ended {
        let mut driver = Driver {
            connection: self,
            read: BytesMut::new(),
            batch: Batch::default(),
            on_frame,
        };
        poll_fn(|cx| driver.poll(cx)).await
    }
}

struct Driver<S, F> {
    connection: Connection<S>,
    read: BytesMut,
    batch: Batch,
    on_frame: F,
}

impl<S, F> Driver<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Header, Bytes) -> Result<(), &'static str>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if !self.connection.outbox.attend(cx.waker()) {
            return Poll::Ready(Ended::Here);
        }
        loop {
            let read = self.poll_read(cx);
            if let Poll::Ready(Err(ended)) = read {
                return Poll::Ready(ended);
            }
            if let Poll::Ready(ended) = self.poll_write(cx) {
                return Poll::Ready(ended);
            }
            if read.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads once and hands on the frames that are whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.read.capacity() - self.read.len() < READ_ROOM_MIN {
            self.read.reserve(READ_BYTES);
        }
        let count = {
            let read = pin!(self.connection.stream.read_buf(&mut self.read));
            ready!(read.poll(cx))?
        };
        if count == 0 {
            return Poll::Ready(Err(Ended::ByPeer));
        }
        self.connection.outbox.note_heard();
        self.connection.heard.now();
        Poll::Ready(self.hand_on())
    }

    fn hand_on(&mut self) -> Result<(), Ended> {
        let bytes_max = self.connection.outbox.payload_bytes_max();
        while let Some(header) = self.read.first_chunk::<{ Header::LENGTH }>() {
            let header = Header::decode(header).ok_or(Ended::Violation("unknown kind of frame"))?;
            let bytes = header.length as usize;
            if bytes > bytes_max {
                return Err(Ended::TooLarge { bytes, bytes_max });
            }
            let whole = Header::LENGTH + bytes;
            if self.read.len() < whole {
                let missing = whole - self.read.len();
                // Doubling what has arrived keeps the copying of a large frame linear.
                let ahead = self.read.len().max(READ_AHEAD_BYTES_MAX);
                self.read.reserve(missing.min(ahead));
                break;
            }
            self.read.advance(Header::LENGTH);
            let payload = self.read.split_to(bytes).freeze();
            (self.on_frame)(header, payload).map_err(Ended::Violation)?;
        }
        Ok(())
    }

    /// Writes until nothing waits or the stream takes no more; ready only when the connection is over.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if self.batch.is_empty() {
                match self.connection.outbox.take(&mut self.batch) {
                    Taken::Frames => {}
                    Taken::Nothing => return Poll::Pending,
                    Taken::Closed => return Poll::Ready(Ended::Here),
                }
            }
            let stream = Pin::new(&mut self.connection.stream);
            if let Err(error) = ready!(self.batch.poll_write(stream, cx)) {
                return Poll::Ready(error.into());
            }
        }
    }
}
