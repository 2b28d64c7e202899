//! Whether a connection has bytes that nobody has read.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};

use crate::forward::forward_writes;

/// Asks a [`Watched`] stream that somebody else owns.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    asked: AtomicBool,
    unread: AtomicBool,
}

impl Probe {
    /// The next read that would wait answers.
    pub(crate) fn ask(&self) {
        self.unread.store(false, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Since it was asked a reader was told to wait although bytes were there: the runtime had not heard of them.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }
}

/// A stream that tells a [`Probe`] what the system has for it. Costs a comparison where a read waits.
pub(crate) struct Watched<S> {
    stream: S,
    probe: Arc<Probe>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, probe: Arc<Probe>) -> Self {
        Self { stream, probe }
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() && self.probe.asked.load(Ordering::Relaxed) {
            let mut byte = [MaybeUninit::uninit()];
            let found = SockRef::from(&self.stream).peek(&mut byte);
            let unread = found.is_ok_and(|count| 0 < count);
            self.probe.unread.store(unread, Ordering::Relaxed);
        }
        polled
    }
}

forward_writes!(Watched);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write;

    use tokio::net::TcpListener;

    use super::*;

    fn read<S: AsyncRead + AsFd + Unpin>(stream: &mut Watched<S>) -> Poll<usize> {
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(stream)
            .poll_read(&mut context, &mut buffer)
            .map(|read| read.map(|()| buffer.filled().len()).unwrap())
    }

    #[tokio::test]
    async fn bytes_are_seen_before_the_runtime_hears_of_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let probe = Arc::new(Probe::default());
        let mut stream = Watched::new(stream, probe.clone());
        while read(&mut stream).is_ready() {}
        assert!(!probe.is_unread(), "it was not asked");
        probe.ask();
        assert_eq!(read(&mut stream), Poll::Pending);
        assert!(!probe.is_unread(), "nothing is there");

        // The runtime has no turn in between.
        client.write_all(b"GET").unwrap();
        assert_eq!(read(&mut stream), Poll::Pending);
        assert!(probe.is_unread());
        probe.ask();
        assert!(!probe.is_unread(), "it is asked anew");

        while read(&mut stream) != Poll::Ready(3) {
            tokio::task::yield_now().await;
        }
        assert_eq!(read(&mut stream), Poll::Pending);
        assert!(!probe.is_unread());
    }
}
