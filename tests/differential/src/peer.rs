//! The other engine: a server that speaks the same protocols, as a process of its own.
//!
//! It is run to see what it does, and is no part of what is built here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use abide_test_cluster::{Api, Process, free_port};
use http::Method;
use tempfile::TempDir;

/// A running server. Dropping it kills it and removes its data.
pub struct Peer {
    ports: [u16; 3],
    _process: Process,
    _folder: TempDir,
}

impl Peer {
    /// Starts the program on ports of its own, so that no other peer answers for it, and waits until it serves.
    pub async fn start(program: &Path) -> Peer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = [free_port(), free_port(), free_port()];
        let config = format!(
            "node-name = \"peer\"\n\
             cluster-name = \"peer\"\n\
             base-dir = \"{}\"\n\
             auto-provision = true\n\
             default-num-partitions = 4\n\
             listen-mode = \"tcp\"\n\
             bind-ip = \"127.0.0.1\"\n\
             bind-port = {}\n\
             [ingress]\n\
             bind-ip = \"127.0.0.1\"\n\
             bind-port = {}\n\
             [admin]\n\
             bind-ip = \"127.0.0.1\"\n\
             bind-port = {}\n",
            folder.path().join("data").display(),
            ports[2],
            ports[0],
            ports[1],
        );
        let file = folder.path().join("peer.toml");
        fs::write(&file, config).expect("write the configuration");
        let mut command = Command::new(program);
        command
            .args(["--no-logo", "--config-file"])
            .arg(&file)
            .current_dir(folder.path())
            .env("DO_NOT_TRACK", "1");
        let log = folder.path().join("peer.log");
        let process = Process::start("the peer", &mut command, &log).expect("start the peer");
        let peer = Peer {
            ports,
            _process: process,
            _folder: folder,
        };
        peer.wait_until_serving().await;
        peer
    }

    /// Base URL of its ingress.
    pub fn ingress(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Base URL of its admin API.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    async fn wait_until_serving(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let api = Api::new(Duration::from_secs(2));
        for url in [
            format!("{}/restate/health", self.ingress()),
            format!("{}/health", self.admin()),
        ] {
            loop {
                let answer = api.request(Method::GET, &url, &[], "").await;
                if answer.is_ok_and(|answer| answer.status.is_success()) {
                    break;
                }
                assert!(Instant::now() < deadline, "the peer does not serve");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
