//! Where connections come from, and how a listener closes without breaking one.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A peer that is silent for so long is asked whether it is still there.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A connection, and where it is from if that is an address.
pub(crate) type Accepted<L> = (<L as Listen>::Stream, Option<SocketAddr>);

/// Where connections come from.
pub trait Listen: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static;

    /// The next connection, and where it is from if that is an address.
    fn accept(&self)
    -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;

    /// From now on nobody begins to connect; who has begun may still come.
    ///
    /// # Errors
    ///
    /// The system does not know how: connections that come while the listener closes are broken, then.
    fn last_call(&self) -> io::Result<()>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, client) = TcpListener::accept(self).await?;
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "socket options not set");
        }
        Ok((stream, Some(client)))
    }

    /// First segments of new connections are dropped. Their clients send them again after a second, by the rules of
    /// TCP, and are refused, or meet the node's next start.
    #[cfg(target_os = "linux")]
    fn last_call(&self) -> io::Result<()> {
        SockRef::from(self).attach_filter(&no_first_segments())
    }

    #[cfg(not(target_os = "linux"))]
    fn last_call(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = UnixListener::accept(self).await?;
        Ok((stream, None))
    }

    fn last_call(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A connection that needs not be waited for.
pub(crate) async fn waiting<L: Listen>(listener: &L) -> Option<Accepted<L>> {
    let mut accepting = pin!(listener.accept());
    poll_fn(|context| {
        Poll::Ready(match accepting.as_mut().poll(context) {
            Poll::Ready(accepted) => accepted.ok(),
            Poll::Pending => None,
        })
    })
    .await
}

/// Answers are small and wanted at once; a peer that vanished without a word is found out by the system.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

/// A program of the classic packet filter (Linux, `Documentation/networking/filter.rst`). A TCP socket's filter sees
/// segments from their TCP header on (RFC 9293, section 3.1), whose byte 13 has the flags.
#[cfg(target_os = "linux")]
fn no_first_segments() -> [socket2::SockFilter; 5] {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        socket2::SockFilter::new(LOAD_BYTE, 0, 0, 13),
        socket2::SockFilter::new(AND, 0, 0, SYN | ACK),
        socket2::SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        // Nothing of it is let through.
        socket2::SockFilter::new(RETURN, 0, 0, 0),
        socket2::SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}
