//! What an operator does when too much was lost: types a confirmation, waits, starts nodes again.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::binaries;
use crate::cluster::Cluster;

/// What one run of the operators' tool came to.
#[derive(Debug)]
pub struct Ran {
    /// Whether it ended well.
    pub success: bool,
    /// The data that it printed.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

impl Ran {
    /// What it printed as lines of JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        (self.stdout.lines())
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
            })
            .collect()
    }
}

impl Cluster {
    /// Runs the operators' tool at a node and types a line. The future does without the cluster, so that nodes can
    /// be started meanwhile.
    pub fn operator_types(
        &self,
        node: usize,
        arguments: &[&str],
        line: &str,
    ) -> impl Future<Output = Ran> + Send + use<> {
        let mut command = tokio::process::Command::new(binaries::operator_tool());
        command
            .args(["--address", &format!("http://{}", self.node_address(node))])
            .args(arguments);
        run(command, line.to_owned())
    }

    /// As [`Cluster::operator_types`], while nodes that end by themselves are started again.
    pub async fn operator_types_under_supervision(
        &mut self,
        node: usize,
        arguments: &[&str],
        line: &str,
    ) -> Ran {
        let ran = tokio::spawn(self.operator_types(node, arguments, line));
        while !ran.is_finished() {
            self.restart_the_ended();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ran.await.expect("the tool's run does not panic")
    }

    /// Starts every node again that has ended by itself.
    pub fn restart_the_ended(&mut self) {
        for node in 0..self.len() {
            if self.id(node).is_some() && !self.is_running(node) {
                self.start_node(node);
            }
        }
    }
}

async fn run(mut command: tokio::process::Command, line: String) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start the operators' tool");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // One that ended without reading has an answer of its own.
    let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("its output");
    Ran {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
