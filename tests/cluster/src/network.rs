//! A network of namespaces: every node has an address of its own, and single directions between two can be cut.
//!
//! The namespaces hang on one bridge, at which the test itself listens as well; its way to the nodes is never cut. A
//! direction is cut by a wrong entry in the sender's neighbour table: what it sends to the other goes nowhere and no
//! error tells, as with a switch that lost its mind. That needs neither a firewall nor traffic control in the kernel.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";
/// The host part of the bridge's address.
const HOST: usize = 254;

/// Namespaces on a bridge; dropping it removes them.
#[derive(Debug)]
pub struct Network {
    name: String,
    prefix: String,
    nodes: usize,
}

impl Network {
    /// Makes the network, or says why this machine does not let us: it takes root, and `ip` with namespaces.
    pub fn try_new(nodes: usize) -> Result<Network, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() << 4).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Network {
            name: format!("ab{:06x}", number & 0xff_ffff),
            // Of the addresses for benchmarks, which no other network uses.
            prefix: format!("198.{}.{}", 18 + (number >> 8) % 2, number & 0xff),
            nodes,
        };
        network.make()?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        let bridge = &self.name;
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}.{HOST}/24 dev {bridge}", self.prefix))?;
        ip(&format!("link set {bridge} up"))?;
        for node in 0..self.nodes {
            let (space, port) = (self.space(node), format!("{bridge}p{node}"));
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {port} type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("link set {port} master {bridge} up"))?;
            ip(&format!(
                "-n {space} addr add {}/24 dev eth0",
                self.address(node)
            ))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    /// The address of the test.
    pub fn host(&self) -> String {
        format!("{}.{HOST}", self.prefix)
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> String {
        format!("{}.{}", self.prefix, node + 1)
    }

    /// A command in a node's namespace.
    pub(crate) fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(node)])
            .arg(program);
        command
    }

    /// Has nothing that one node sends reach the other.
    pub fn cut(&self, from: usize, to: usize) {
        let (space, address) = (self.space(from), self.address(to));
        let cut = ip(&format!(
            "-n {space} neigh replace {address} lladdr {NOWHERE} dev eth0 nud permanent"
        ));
        cut.expect("the network lets its neighbours be set");
    }

    /// Has nothing pass between two nodes.
    pub fn cut_both_ways(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Mends all that was cut.
    pub fn heal(&self) {
        for node in 0..self.nodes {
            ip(&format!(
                "-n {} neigh flush nud permanent dev eth0",
                self.space(node)
            ))
            .expect("the network lets its neighbours be forgotten");
        }
    }

    fn space(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What does not exist, since making it failed, is not there to be removed.
        for node in 0..self.nodes {
            let _ = ip(&format!("netns del {}", self.space(node)));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", said.trim()))
}
