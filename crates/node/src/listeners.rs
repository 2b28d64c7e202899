//! Every port and socket of the node, bound at once, and the addresses under which others reach them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use abide_config::{Config, ListenMode};
use abide_types::Role;
use tokio::net::{TcpListener, UnixListener};

use crate::facts::Bound;
use crate::ports::{self, BindError, Port};

/// A socket that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at the socket {}; `listen-mode = \"tcp\"` does without", path.display())]
pub struct SocketError {
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Why not everything is bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(transparent)]
    Port(#[from] BindError),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// The bound ports and sockets.
pub(crate) struct Listeners {
    pub(crate) node: TcpListener,
    pub(crate) ingress: DoorListeners,
    pub(crate) admin: DoorListeners,
}

/// Where one door listens; nowhere if the node has not its role.
#[derive(Default)]
pub(crate) struct DoorListeners {
    pub(crate) port: Option<TcpListener>,
    pub(crate) socket: Option<UnixListener>,
}

impl DoorListeners {
    pub(crate) fn is_there(&self) -> bool {
        self.port.is_some() || self.socket.is_some()
    }

    fn bind(
        mode: ListenMode,
        port: Port,
        address: SocketAddr,
        socket: &Path,
    ) -> Result<Self, ListenError> {
        let mut door = Self::default();
        if mode.has_port() {
            door.port = Some(ports::bind(port, address)?);
        }
        if mode.has_socket() {
            match socket_at(socket) {
                Ok(listener) => door.socket = Some(listener),
                // Where there is a port the socket is a convenience: paths have a length that systems bound.
                Err(error) if mode.has_port() => {
                    tracing::warn!(error = %error.source, path = %error.path.display(), "no socket");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(door)
    }
}

/// The node's directory is locked: what is at the path is left from an earlier start.
fn socket_at(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(failed)
}

impl Listeners {
    /// Binds what the node's roles need.
    pub(crate) fn bind(config: &Config) -> Result<Self, ListenError> {
        let directory = config.node_dir();
        let door = |role, mode, port, address, name| match config.roles.contains(&role) {
            true => DoorListeners::bind(mode, port, address, &directory.join(name)),
            false => Ok(DoorListeners::default()),
        };
        Ok(Self {
            node: ports::bind(Port::Node, config.node_bind())?,
            ingress: door(
                Role::HttpIngress,
                config.ingress_listen_mode(),
                Port::Ingress,
                config.ingress_bind(),
                "ingress.sock",
            )?,
            admin: door(
                Role::Admin,
                config.admin_listen_mode(),
                Port::Admin,
                config.admin_bind(),
                "admin.sock",
            )?,
        })
    }

    /// What is bound where, and how others reach it.
    pub(crate) fn bound(&self, config: &Config) -> Vec<Bound> {
        let host = host(config, &self.node);
        let listed = [
            (Port::Node, Some(&self.node), &config.advertised_address),
            (
                Port::Ingress,
                self.ingress.port.as_ref(),
                &config.ingress.advertised_address,
            ),
            (
                Port::Admin,
                self.admin.port.as_ref(),
                &config.admin.advertised_address,
            ),
        ];
        let bound = listed
            .into_iter()
            .filter_map(|(port, listener, advertised)| {
                let address = listener?.local_addr().ok()?;
                let advertised = match advertised {
                    Some(url) if url.contains("://") => url.clone(),
                    Some(bare) => format!("http://{bare}"),
                    None => format!("http://{host}:{}", address.port()),
                };
                Some(Bound {
                    port,
                    address,
                    advertised,
                })
            });
        bound.collect()
    }
}

/// The part before the port: of the advertised address, else of the bound one if it is one address, else the name
/// of the machine.
fn host(config: &Config, node: &TcpListener) -> String {
    if let Some(advertised) = &config.advertised_address {
        let bare = advertised.strip_prefix("http://").unwrap_or(advertised);
        if let Some((host, _)) = bare.rsplit_once(':') {
            return host.to_owned();
        }
    }
    match node.local_addr() {
        Ok(address) if !address.ip().is_unspecified() => host_of(address),
        _ => machine_name(),
    }
}

fn host_of(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config {
            listen_mode: ListenMode::Tcp,
            bind_ip: "127.0.0.1".parse().unwrap(),
            bind_port: 0,
            ..Config::default()
        };
        config.ingress.bind_port = 0;
        config.admin.bind_port = 0;
        config
    }

    #[tokio::test]
    async fn ports_are_advertised_at_the_bound_address() {
        let config = config();
        let listeners = Listeners::bind(&config).unwrap();
        for bound in listeners.bound(&config) {
            assert_eq!(bound.advertised, format!("http://{}", bound.address));
        }
    }

    #[tokio::test]
    async fn the_advertised_host_holds_for_all_ports_and_roles_decide_which_there_are() {
        let config = Config {
            advertised_address: Some("http://node1:7000".to_owned()),
            roles: vec![Role::HttpIngress],
            ..config()
        };
        let listeners = Listeners::bind(&config).unwrap();
        let bound = listeners.bound(&config);
        assert_eq!(bound.len(), 2);
        assert_eq!(bound[0].advertised, "http://node1:7000");
        let port = bound[1].address.port();
        assert_eq!(bound[1].advertised, format!("http://node1:{port}"));
    }

    #[tokio::test]
    async fn doors_listen_at_sockets_too_and_at_nothing_else_if_so_configured() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen_mode: ListenMode::All,
            base_dir: directory.path().to_owned(),
            node_name: "n".to_owned(),
            ..config()
        };
        config.admin.listen_mode = Some(ListenMode::Unix);
        std::fs::create_dir(config.node_dir()).unwrap();
        // A second start finds the sockets of the first.
        for _ in 0..2 {
            let listeners = Listeners::bind(&config).unwrap();
            assert!(listeners.ingress.port.is_some() && listeners.ingress.socket.is_some());
            assert!(listeners.admin.port.is_none() && listeners.admin.socket.is_some());
            let socket = config.node_dir().join("admin.sock");
            assert!(tokio::net::UnixStream::connect(socket).await.is_ok());
            assert_eq!(listeners.bound(&config).len(), 2);
        }
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_matters_only_without_a_port() {
        let mut config = Config {
            listen_mode: ListenMode::All,
            base_dir: PathBuf::from("/".to_owned() + &"long".repeat(50)),
            ..config()
        };
        assert!(Listeners::bind(&config).unwrap().admin.socket.is_none());
        config.admin.listen_mode = Some(ListenMode::Unix);
        let error = Listeners::bind(&config).err().unwrap();
        assert!(
            error.to_string().contains("admin.sock; `listen-mode"),
            "{error}"
        );
    }
}
