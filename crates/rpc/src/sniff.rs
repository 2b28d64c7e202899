//! Tells fabric connections from HTTP on the one node port.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::frame::PREFACE;

/// What a connection speaks.
#[derive(Debug)]
pub enum Sniffed<S> {
    /// The fabric; the preface is consumed. For [`crate::Fabric::accept`].
    Fabric(S),
    /// Something else, HTTP by assumption; nothing is lost of what it sent.
    Http(Rewound<S>),
}

/// Reads the first bytes of `stream`, as few as it takes to tell.
///
/// # Errors
/// The connection ended or failed before that, or said too little within `deadline`.
pub async fn sniff<S: AsyncRead + Unpin>(
    mut stream: S,
    deadline: Duration,
) -> io::Result<Sniffed<S>> {
    let mut start = [0; PREFACE.len()];
    let mut length = 0;
    let telling = async {
        while length < PREFACE.len() && start[..length] == PREFACE[..length] {
            let count = stream.read(&mut start[length..]).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            length += count;
        }
        Ok(())
    };
    timeout(deadline, telling).await??;
    if start == *PREFACE {
        return Ok(Sniffed::Fabric(stream));
    }
    Ok(Sniffed::Http(Rewound {
        stream,
        start,
        read: 0,
        length,
    }))
}

/// A stream that yields once more what was read from its beginning.
#[derive(Debug)]
pub struct Rewound<S> {
    stream: S,
    start: [u8; PREFACE.len()],
    read: usize,
    length: usize,
}

impl<S> Rewound<S> {
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read == self.length {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let rest = &self.start[self.read..self.length];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_preface_is_consumed() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"ABIDEFB1next").await.unwrap();
        let Sniffed::Fabric(mut stream) = sniff(server, DEADLINE).await.unwrap() else {
            panic!("taken for HTTP");
        };
        let mut next = [0; 4];
        stream.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next");
    }

    #[tokio::test]
    async fn http_gets_every_byte_back() {
        for request in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0", "ABIDE?", "A!"] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(request.as_bytes()).await.unwrap();
            let Sniffed::Http(mut stream) = sniff(server, DEADLINE).await.unwrap() else {
                panic!("taken for the fabric");
            };
            drop(client);
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, request);
        }
    }

    #[tokio::test]
    async fn one_that_says_nothing_is_given_up() {
        let (_client, server) = tokio::io::duplex(64);
        let error = sniff(server, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
