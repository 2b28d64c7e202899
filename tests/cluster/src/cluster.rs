//! A cluster of `abide-server` processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Answer, Api};
use crate::binaries;
use crate::network::Network;
use crate::ports::free_port;
use crate::process::Process;

/// How long a cluster may take until it serves; generous, since tests share few cores.
const SERVING_WITHIN: Duration = Duration::from_secs(60);

/// How long what an operator asked for may take.
const OPERATED_WITHIN: Duration = Duration::from_secs(180);

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More lines of configuration, put at the top of every node's file.
    pub config: String,
    /// More lines of its section `[ingress]`.
    pub ingress: String,
    /// `default-replication`, as it is written in the file; two with three nodes or more if empty, else one.
    pub replication: String,
    /// `location` of each node, the first one's first; the last counts for all further nodes.
    pub locations: Vec<String>,
    /// Nobody forms a cluster: the test does, with the operators' tool.
    pub unprovisioned: bool,
    /// Each node in a network namespace of its own; all on this machine's loopback if there is none.
    pub network: Option<Arc<Network>>,
    /// More environment of single nodes.
    pub environment: BTreeMap<usize, Vec<(String, String)>>,
}

struct Node {
    name: String,
    ingress_port: u16,
    admin_port: u16,
    node_port: u16,
    /// Another program than the usual one.
    program: Option<PathBuf>,
    process: Option<Process>,
}

/// Who leads a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Index of the node in the cluster, from 0.
    pub node: usize,
    /// The epoch under which it leads.
    pub epoch: u64,
}

/// How a run of the operators' tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutput {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed for programs to read.
    pub stdout: String,
    /// What it said beside that.
    pub stderr: String,
}

/// Some nodes on this machine, numbered from 0. Dropping it kills them and removes their data.
pub struct Cluster {
    nodes: Vec<Node>,
    options: Options,
    api: Api,
    /// Last, so that it outlives the nodes, whose logs in it are shown when a test fails.
    folder: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until every node serves, unless nobody forms it.
    pub async fn start(nodes: usize, options: Options) -> Cluster {
        let mut cluster = Cluster::prepare(nodes, options);
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index);
        }
        if !cluster.options.unprovisioned {
            cluster.wait_until_serving().await;
        }
        cluster
    }

    /// Starts one more node, which joins. Does not wait until it serves.
    pub fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::new(index + 1));
        self.start_node(index);
        index
    }

    /// Removes all data of a node that does not run.
    pub fn wipe(&self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        fs::remove_dir_all(self.data(node)).expect("remove the node's data");
    }

    /// Gives a node that does not run another name, so that it joins as a new one.
    pub fn rename(&mut self, node: usize, name: &str) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs");
        name.clone_into(&mut self.nodes[node].name);
    }

    /// The name of a node.
    pub fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// A cluster of which no node is started yet.
    pub fn prepare(nodes: usize, options: Options) -> Cluster {
        Cluster {
            folder: tempfile::tempdir().expect("a temporary folder"),
            nodes: (1..=nodes).map(Node::new).collect(),
            options,
            api: Api::default(),
        }
    }

    /// Has a node run another program from its next start on.
    pub fn set_program(&mut self, node: usize, program: PathBuf) {
        self.nodes[node].program = Some(program);
    }

    /// Where the nodes reach what the test serves.
    pub fn test_host(&self) -> String {
        match &self.options.network {
            Some(network) => network.host(),
            None => "127.0.0.1".to_owned(),
        }
    }

    /// The address of a node without a port.
    fn host(&self, node: usize) -> String {
        match &self.options.network {
            Some(network) => network.address(node),
            None => "127.0.0.1".to_owned(),
        }
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The HTTP client that the helpers of this cluster use.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Base URL of a node's ingress.
    pub fn ingress(&self, node: usize) -> String {
        format!(
            "http://{}:{}",
            self.host(node),
            self.nodes[node].ingress_port
        )
    }

    /// Base URL of a node's admin API.
    pub fn admin(&self, node: usize) -> String {
        format!("http://{}:{}", self.host(node), self.nodes[node].admin_port)
    }

    /// Host and port for traffic between nodes.
    pub fn node_address(&self, node: usize) -> String {
        format!("{}:{}", self.host(node), self.nodes[node].node_port)
    }

    /// The folder with a node's data.
    pub fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join("data").join(&self.nodes[node].name)
    }

    /// Process id of a running node.
    pub fn id(&self, node: usize) -> Option<u32> {
        self.nodes[node].process.as_ref().map(Process::id)
    }

    /// Whether a node's process runs.
    pub fn is_running(&mut self, node: usize) -> bool {
        self.nodes[node]
            .process
            .as_mut()
            .is_some_and(Process::is_running)
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// SIGTERM, then waits for the end. Panics when the node does not end.
    pub async fn terminate(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        process.signal("TERM");
        assert!(
            process.wait_for_end(Duration::from_secs(30)).await,
            "{} did not end after SIGTERM",
            self.nodes[node].name
        );
    }

    /// `kill -STOP`.
    pub fn pause(&self, node: usize) {
        self.signal(node, "STOP");
    }

    /// `kill -CONT`.
    pub fn resume(&self, node: usize) {
        self.signal(node, "CONT");
    }

    fn signal(&self, node: usize, signal: &str) {
        if let Some(process) = &self.nodes[node].process {
            process.signal(signal);
        }
    }

    /// Starts a node's process, on the data it has. Does not wait until it serves.
    pub fn start_node(&mut self, index: usize) {
        let config = self.write_config(index);
        let log = self
            .folder
            .path()
            .join(format!("{}.log", self.nodes[index].name));
        let program = (self.nodes[index].program.clone()).unwrap_or_else(binaries::server);
        let mut command = match &self.options.network {
            Some(network) => network.command(index, &program),
            None => Command::new(program),
        };
        let environment = self.options.environment.get(&index);
        command
            .arg("--config-file")
            .arg(config)
            .current_dir(self.folder.path())
            .env("DO_NOT_TRACK", "1")
            .envs(environment.into_iter().flatten().cloned());
        let node = &mut self.nodes[index];
        let process = Process::start(&node.name, &mut command, &log).expect("start the server");
        node.process = Some(process);
    }

    fn write_config(&self, index: usize) -> PathBuf {
        let node = &self.nodes[index];
        let addresses: Vec<String> = (0..self.nodes.len())
            .map(|node| format!("\"http://{}\"", self.node_address(node)))
            .collect();
        let config = format!(
            "{extra}\n\
             node-name = \"{name}\"\n\
             cluster-name = \"test\"\n\
             base-dir = \"{data}\"\n\
             auto-provision = {provision}\n\
             default-replication = {replication}\n\
             {location}\n\
             bind-ip = \"{host}\"\n\
             bind-port = {node_port}\n\
             advertised-address = \"http://{host}:{node_port}\"\n\
             [ingress]\n\
             bind-ip = \"{host}\"\n\
             bind-port = {ingress_port}\n\
             {ingress}\n\
             [admin]\n\
             bind-ip = \"{host}\"\n\
             bind-port = {admin_port}\n\
             [metadata-client]\n\
             addresses = [{addresses}]\n",
            extra = self.options.config,
            ingress = self.options.ingress,
            name = node.name,
            host = self.host(index),
            data = self.folder.path().join("data").display(),
            provision = index == 0 && !self.options.unprovisioned,
            replication = self.replication(),
            location = self.location(index),
            node_port = node.node_port,
            ingress_port = node.ingress_port,
            admin_port = node.admin_port,
            addresses = addresses.join(", "),
        );
        let path = self.folder.path().join(format!("{}.toml", node.name));
        fs::write(&path, config).expect("write the node's configuration");
        path
    }

    fn replication(&self) -> &str {
        match self.options.replication.as_str() {
            "" if self.nodes.len() >= 3 => "2",
            "" => "1",
            replication => replication,
        }
    }

    fn location(&self, index: usize) -> String {
        let locations = &self.options.locations;
        let location = locations.get(index).or_else(|| locations.last());
        location.map_or_else(String::new, |location| format!("location = \"{location}\""))
    }

    /// Waits until every running node answers at its ingress. Panics when one ends or takes too long.
    pub async fn wait_until_serving(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].process.is_some() {
                self.wait_until_node_serves(index).await;
            }
        }
    }

    /// Waits until one node answers at its ingress.
    pub async fn wait_until_node_serves(&mut self, index: usize) {
        self.wait_until_node_serves_within(index, SERVING_WITHIN)
            .await;
    }

    /// The same with another limit, for a machine on which others are at work.
    pub async fn wait_until_node_serves_within(&mut self, index: usize, within: Duration) {
        let deadline = Instant::now() + within;
        let api = Api::new(Duration::from_secs(2));
        let url = format!("{}/restate/health", self.ingress(index));
        loop {
            let answer = api.request(Method::GET, &url, &[], "").await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                return;
            }
            let name = &self.nodes[index].name;
            assert!(Instant::now() < deadline, "{name} does not serve");
            assert!(self.is_running(index), "node {index} ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Panics when a running node has ended, or any node has printed that it panicked.
    #[track_caller]
    pub fn assert_healthy(&mut self) {
        for index in 0..self.nodes.len() {
            assert!(self.is_running(index), "node {index} ended");
            let output = self.output(index);
            assert!(
                !output.contains("panicked at"),
                "node {index} panicked:\n{output}"
            );
        }
    }

    /// All that a running node has printed.
    pub fn output(&self, node: usize) -> String {
        self.nodes[node]
            .process
            .as_ref()
            .map_or_else(String::new, Process::output)
    }

    /// Registers an endpoint. Panics unless it is accepted.
    pub async fn register(&self, uri: &str) -> Value {
        let answer = self.try_register(uri).await;
        answer.expect_success()
    }

    /// Registers an endpoint at the first running node.
    pub async fn try_register(&self, uri: &str) -> Answer {
        let node = self.first_running();
        let url = format!("{}/deployments", self.admin(node));
        self.api
            .post(&url, &json!({ "uri": uri, "force": true }))
            .await
    }

    fn first_running(&self) -> usize {
        self.nodes
            .iter()
            .position(|node| node.process.is_some())
            .expect("a node is running")
    }

    /// Calls a handler, `Service/handler` or `Service/key/handler`, with a JSON body.
    pub async fn call(&self, node: usize, target: &str, input: &Value) -> Answer {
        self.api
            .post(&format!("{}/{target}", self.ingress(node)), input)
            .await
    }

    /// Sends to a handler, and answers with the invocation's id.
    pub async fn send(&self, node: usize, target: &str, input: &Value) -> String {
        let url = format!("{}/{target}/send", self.ingress(node));
        let accepted = self.api.post(&url, input).await.expect_success();
        text_of(&accepted, "invocationId")
    }

    /// Waits for an invocation's result.
    pub async fn attach(&self, node: usize, invocation: &str) -> Answer {
        let url = format!(
            "{}/restate/invocation/{invocation}/attach",
            self.ingress(node)
        );
        self.api.get(&url).await
    }

    /// An admin operation on an invocation, such as `cancel` or `kill`.
    pub async fn operate(&self, node: usize, invocation: &str, operation: &str) -> Answer {
        let url = format!("{}/invocations/{invocation}/{operation}", self.admin(node));
        self.api.patch(&url).await
    }

    /// Runs the operators' tool against the first running node; one JSON value per line it printed.
    pub async fn operator(&self, arguments: &[&str]) -> Vec<Value> {
        self.try_operator(arguments)
            .await
            .unwrap_or_else(|error| panic!("abidectl {arguments:?}: {error}"))
    }

    /// Runs the operators' tool against a node, which may be one that has not joined: its exit code and what it
    /// printed.
    pub async fn tool(&self, node: usize, arguments: &[&str]) -> ToolOutput {
        let address = format!("http://{}", self.node_address(node));
        let output = tokio::process::Command::new(binaries::operator_tool())
            .args(["--address", &address])
            .args(arguments)
            .output()
            .await
            .expect("run abidectl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ToolOutput {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// As [`Cluster::operator`], for when the cluster may be between leaders.
    pub async fn try_operator(&self, arguments: &[&str]) -> Result<Vec<Value>, String> {
        let address = format!("http://{}", self.node_address(self.first_running()));
        let output = tokio::process::Command::new(binaries::operator_tool())
            .args(["--address", &address])
            .args(arguments)
            .arg("--json")
            .output()
            .await
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}")))
            .collect()
    }

    /// Waits until `command`, which follows something until it is done, says that it is; panics when it fails.
    pub async fn operate_until_done(&self, arguments: &[&str]) -> Vec<Value> {
        let limit = OPERATED_WITHIN.as_secs().to_string();
        let mut arguments = arguments.to_vec();
        arguments.extend(["--yes", "--wait", "--wait-timeout", &limit]);
        self.operator(&arguments).await
    }

    /// The partition of an invocation.
    pub async fn partition_of(&self, invocation: &str) -> u64 {
        let answers = self.operator(&["partitions", "of", invocation]).await;
        answers[0]["partition"].as_u64().expect("a partition")
    }

    /// The leader of a partition; waits while there is none.
    pub async fn leader_of(&self, partition: u64) -> Leader {
        let deadline = Instant::now() + SERVING_WITHIN;
        loop {
            let found = self.try_leader_of(partition).await;
            match found {
                Ok(leader) => return leader,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_leader_of(&self, partition: u64) -> Result<Leader, String> {
        let rows = self.try_operator(&["partitions", "list"]).await?;
        let row = rows
            .iter()
            .find(|row| row["partition"] == partition)
            .ok_or_else(|| format!("partition {partition} is not listed"))?;
        let node = self
            .nodes
            .iter()
            .position(|node| row["leader_name"] == *node.name)
            .ok_or_else(|| format!("partition {partition} has no leader: {row}"))?;
        let epoch = row["epoch"].as_u64().ok_or("no epoch")?;
        Ok(Leader { node, epoch })
    }

    /// The node that leads the metadata plane; waits while there is none.
    pub async fn metadata_leader(&self) -> usize {
        let deadline = Instant::now() + SERVING_WITHIN;
        loop {
            let rows = self
                .try_operator(&["nodes", "list"])
                .await
                .unwrap_or_default();
            let leader = rows.iter().find(|row| row["metadata_server"] == "leader");
            let index =
                leader.and_then(|row| self.nodes.iter().position(|node| row["name"] == *node.name));
            if let Some(index) = index {
                return index;
            }
            assert!(
                Instant::now() < deadline,
                "nobody leads the metadata plane: {rows:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The folder that holds configuration, logs and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Node {
    fn new(number: usize) -> Node {
        Node {
            name: format!("node{number}"),
            ingress_port: free_port(),
            admin_port: free_port(),
            node_port: free_port(),
            program: None,
            process: None,
        }
    }
}

fn text_of(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
        .to_owned()
}
