//! Servers on ephemeral ports, and a limit on every wait.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use abide_metadata::{
    Joined, Metadata, MetadataOptions, MetadataServer, NodeDescription, ProvisionSettings,
    ServerStatus,
};
use abide_types::Role;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Longer than anything takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that has to happen.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

pub fn describe(name: &str, address: &str, roles: &[Role]) -> NodeDescription {
    NodeDescription {
        cluster_name: "test".into(),
        name: name.into(),
        address: address.into(),
        ingress_address: None,
        admin_address: None,
        roles: roles.to_vec(),
        location: String::new(),
    }
}

pub fn options(addresses: &[String]) -> MetadataOptions {
    MetadataOptions {
        addresses: addresses.to_vec(),
        request_timeout: Duration::from_secs(20),
        ..MetadataOptions::default()
    }
}

/// A port that is bound but not yet served.
pub struct Port {
    listener: TcpListener,
    pub address: String,
}

pub async fn port() -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    Port { listener, address }
}

pub async fn ports<const N: usize>() -> [Port; N] {
    let mut ports = Vec::new();
    for _ in 0..N {
        ports.push(port().await);
    }
    ports.try_into().unwrap_or_else(|_| unreachable!())
}

pub fn addresses(ports: &[Port]) -> Vec<String> {
    ports.iter().map(|port| port.address.clone()).collect()
}

/// A server that is served.
pub struct Node {
    pub server: MetadataServer,
    pub address: String,
    serving: JoinHandle<()>,
}

impl Node {
    pub async fn start(name: &str, directory: &Path, port: Port, options: MetadataOptions) -> Self {
        let roles = [Role::MetadataServer, Role::Worker];
        let description = describe(name, &port.address, &roles);
        let server = MetadataServer::start(directory, description, options)
            .await
            .unwrap();
        let routes = server.routes();
        let serving = tokio::spawn(async move {
            Server::builder()
                .add_routes(routes)
                .serve_with_incoming(TcpListenerStream::new(port.listener))
                .await
                .unwrap();
        });
        Self {
            server,
            address: port.address,
            serving,
        }
    }

    pub async fn join(&self) -> (Metadata, Joined) {
        soon("joining", self.server.join()).await.unwrap()
    }

    /// Stops as on SIGTERM.
    pub async fn shutdown(self) {
        soon("shutdown", self.server.shutdown()).await;
        self.serving.abort();
    }

    /// Stops as on SIGKILL, as far as a process can do that to a part of itself.
    pub async fn kill(self) {
        self.serving.abort();
        soon("stop", self.server.stop()).await;
    }
}

/// Three servers, the first of which provisions.
pub struct Three {
    pub nodes: Vec<Node>,
    pub clients: Vec<Metadata>,
    pub joined: Vec<Joined>,
    pub directories: Vec<TempDir>,
    pub addresses: Vec<String>,
}

pub async fn three() -> Three {
    three_with(|_| {}).await
}

/// Shows what servers do, where `RUST_LOG` asks for it.
pub fn log() {
    // Another test of this process was first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

pub async fn three_with(adjust: impl Fn(&mut MetadataOptions)) -> Three {
    log();
    let ports = ports::<3>().await;
    let addresses = addresses(&ports);
    let directories: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let mut nodes = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let mut options = options(&addresses);
        adjust(&mut options);
        options.auto_provision = (index == 0).then(ProvisionSettings::default);
        let name = format!("n{}", index + 1);
        nodes.push(Node::start(&name, directories[index].path(), port, options).await);
    }
    let results = futures::future::join_all(nodes.iter().map(Node::join)).await;
    let (clients, joined) = results.into_iter().unzip();
    let three = Three {
        nodes,
        clients,
        joined,
        directories,
        addresses,
    };
    until("three voters", &three.nodes, |status| {
        status.voters.len() == 3 && !status.changing
    })
    .await;
    three
}

/// Waits until `holds` is true of every server's status.
pub async fn until(what: &str, nodes: &[Node], holds: impl Fn(&ServerStatus) -> bool) {
    for node in nodes {
        soon(what, until_status(&node.server, &holds)).await;
    }
}

/// There is no event for all of a status; looking again now and then is for tests only.
async fn until_status(server: &MetadataServer, holds: impl Fn(&ServerStatus) -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !holds(&server.status()) {
        ticks.tick().await;
    }
}

impl Three {
    /// The index of the server that all agree leads.
    pub async fn leader(&self) -> usize {
        leader_of(&self.nodes).await
    }
}

pub async fn leader_of(nodes: &[Node]) -> usize {
    soon("a leader", async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            let agreed: Vec<_> = nodes
                .iter()
                .map(|node| *node.server.leader().borrow())
                .collect();
            if let Some(index) = nodes.iter().position(|node| node.server.is_leader())
                && agreed.iter().all(|leader| *leader == agreed[0])
                && agreed[0] == nodes[index].server.status().node
            {
                return index;
            }
        }
    })
    .await
}
