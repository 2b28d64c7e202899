//! The node's listening ports, bound before anything else starts: a taken port is found out at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// What a port is for. The names are those of the health report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Nodes and operators' tools.
    Node,
    /// Clients' calls.
    Ingress,
    /// The admin API.
    Admin,
}

impl Port {
    /// The name in the health report.
    pub const fn server_name(self) -> &'static str {
        match self {
            Self::Node => "message-fabric-server",
            Self::Ingress => "http-ingress-server",
            Self::Admin => "admin-api-server",
        }
    }

    /// The keys that set it.
    const fn keys(self) -> &'static str {
        match self {
            Self::Node => "`bind-address`, or `bind-ip` and `bind-port`,",
            Self::Ingress => "`bind-address`, or `bind-ip` and `bind-port`, under [ingress]",
            Self::Admin => "`bind-address`, or `bind-ip` and `bind-port`, under [admin]",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Node => "node port",
            Self::Ingress => "ingress port",
            Self::Admin => "admin port",
        }
    }
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind the {} to {address}{}; {} set it", port.label(), taken(source), port.keys())]
pub struct BindError {
    /// Which one.
    pub port: Port,
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

fn taken(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ", another program listens there",
        io::ErrorKind::PermissionDenied => ", this user may not",
        io::ErrorKind::AddrNotAvailable => ", this machine has no such address",
        _ => "",
    }
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens at `address`. Without IPv6 on the machine, `::` means all IPv4 addresses.
pub(crate) fn bind(port: Port, address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = listen(address).or_else(|error| {
        let no_ipv6 = matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
        ) || error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED);
        if no_ipv6 && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            listen(SocketAddr::new(
                Ipv4Addr::UNSPECIFIED.into(),
                address.port(),
            ))
        } else {
            Err(error)
        }
    });
    bound.map_err(|source| BindError {
        port,
        address,
        source,
    })
}

/// `EAFNOSUPPORT` on Linux.
const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the old connections' ends.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_sets_it() {
        let first = bind(Port::Ingress, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(Port::Admin, address).unwrap_err();
        let expected = format!(
            "cannot bind the admin port to {address}, another program listens there; `bind-address`, or `bind-ip` and `bind-port`, under [admin] set it"
        );
        assert_eq!(error.to_string(), expected);
    }
}
