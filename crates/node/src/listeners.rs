//! Every port of the node, bound at once, and the addresses under which others reach them.

use std::net::{IpAddr, SocketAddr};

use abide_config::Config;
use abide_types::Role;
use tokio::net::TcpListener;

use crate::facts::Bound;
use crate::ports::{self, BindError, Port};

/// The bound ports.
pub(crate) struct Listeners {
    pub(crate) node: TcpListener,
    pub(crate) ingress: Option<TcpListener>,
    pub(crate) admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the node's roles need.
    pub(crate) fn bind(config: &Config) -> Result<Self, BindError> {
        let bind = |role, port, address| {
            let wanted = config.roles.contains(&role);
            wanted.then(|| ports::bind(port, address)).transpose()
        };
        Ok(Self {
            node: ports::bind(Port::Node, config.node_bind())?,
            ingress: bind(Role::HttpIngress, Port::Ingress, config.ingress_bind())?,
            admin: bind(Role::Admin, Port::Admin, config.admin_bind())?,
        })
    }

    /// What is bound where, and how others reach it.
    pub(crate) fn bound(&self, config: &Config) -> Vec<Bound> {
        let host = host(config, &self.node);
        let listed = [
            (Port::Node, Some(&self.node), &config.advertised_address),
            (
                Port::Ingress,
                self.ingress.as_ref(),
                &config.ingress.advertised_address,
            ),
            (
                Port::Admin,
                self.admin.as_ref(),
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
}
