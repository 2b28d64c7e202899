//! A folder in which the commands of pages are run, and what goes wrong there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{env, io, iter};

use abide_test_cluster::{beside_the_test, free_port};
use regex::{Captures, Regex};
use tempfile::TempDir;

use crate::output::differs;
use crate::page::Command;

/// What the folder has of the repository.
const LINKED: [&str; 8] = [
    "cluster.sh",
    "scripts",
    "deploy",
    "docs",
    "examples",
    "helm",
    "k8s",
    "README.md",
];
/// Ports that belong together, such as those of all ingresses.
const RANGE: u16 = 5;
/// The first port of each range as the pages have it; that of the services last.
const WRITTEN: [u16; 4] = [8080, 9070, 9090, 9080];
/// The longest that a command may take, on a machine that is busy.
const COMMAND_WITHIN: Duration = Duration::from_secs(240);
/// How long what a page shows may take to become true: replicas are filled, on a machine that is busy.
const TRUE_WITHIN: Duration = Duration::from_secs(180);

/// One folder with one cluster, for any number of pages.
pub struct Session {
    folder: TempDir,
    /// First port of each range here.
    ports: [u16; 4],
}

impl Session {
    /// Makes the folder; starts nothing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(root: &Path) -> io::Result<Session> {
        let folder = tempfile::tempdir()?;
        for name in LINKED {
            symlink(root.join(name), folder.path().join(name))?;
        }
        let binaries = folder.path().join("bin");
        fs::create_dir(&binaries)?;
        for (program, variable) in [
            ("abide-server", "ABIDE_TEST_SERVER"),
            ("abidectl", "ABIDE_TEST_CTL"),
            ("abide-example", "ABIDE_TEST_EXAMPLE"),
        ] {
            let path = env::var_os(variable).map(PathBuf::from);
            let path = path.unwrap_or_else(|| beside_the_test(program));
            symlink(path, binaries.join(program))?;
        }
        // Nothing of the progress of transfers, and an end to those that make none.
        fs::write(
            folder.path().join(".curlrc"),
            "silent\nshow-error\nmax-time = 120\n",
        )?;
        let ports = WRITTEN.map(|_| free_range());
        Ok(Session { folder, ports })
    }

    /// Where the commands are run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Forgets what the page before has set.
    pub fn turn_page(&self) {
        let _ = fs::remove_file(self.variables());
    }

    /// Runs a command; what went wrong, if something did.
    ///
    /// What a page shows of a command that only looks may take a moment to become true: it is asked again until it is.
    ///
    /// # Errors
    /// It ended otherwise than the page says, or did not print what the page shows.
    pub async fn run(&self, command: &Command) -> Result<(), String> {
        let deadline = Instant::now() + TRUE_WITHIN;
        loop {
            let (status, printed) = self.once(&command.text).await?;
            let problem = match differs(&command.output, &printed) {
                _ if status != Some(command.exits) => {
                    format!("it ended with {status:?} instead of {}", command.exits)
                }
                Some(line) => format!("it did not print\n    {line}"),
                None => return Ok(()),
            };
            let again = only_looks(&command.text) && Instant::now() < deadline;
            if !again {
                return Err(format!("{problem}\nbut\n{printed}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn once(&self, text: &str) -> Result<(Option<i32>, String), String> {
        let log = self.folder.path().join("output");
        let file = fs::File::create(&log).map_err(|error| error.to_string())?;
        let both = file.try_clone().map_err(|error| error.to_string())?;
        let variables = self.variables();
        // What a command sets is there for the next one, as in one shell.
        let script = format!(
            "set -aeuo pipefail\n[[ ! -f '{0}' ]] || source '{0}'\n{1}\ndeclare -px >'{0}'\n",
            variables.display(),
            self.translated(text, Way::Here),
        );
        let [ingress, admin, node, services] = self.ports;
        let path = env::var("PATH").unwrap_or_default();
        let mut child = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .env(
                "PATH",
                format!("{}/bin:{path}", self.folder.path().display()),
            )
            .env("ABIDE_BINARIES", self.folder.path().join("bin"))
            .env("ABIDE_INGRESS_BASE_PORT", ingress.to_string())
            .env("ABIDE_ADMIN_BASE_PORT", admin.to_string())
            .env("ABIDE_NODE_BASE_PORT", node.to_string())
            .env("ABIDE_SERVICES_PORT", services.to_string())
            .env("ABIDE_START_SECONDS", "180")
            .env("CURL_HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env_remove("ABIDECTL_ADDRESS")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(both)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let ended = tokio::time::timeout(COMMAND_WITHIN, child.wait()).await;
        let printed = fs::read(&log).map_err(|error| error.to_string())?;
        let printed = self.translated(&String::from_utf8_lossy(&printed), Way::Back);
        match ended {
            Ok(Ok(status)) => Ok((status.code(), printed)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "it did not end within {COMMAND_WITHIN:?}:\n{printed}"
            )),
        }
    }

    fn variables(&self) -> PathBuf {
        self.folder.path().join("variables")
    }

    /// A text with the ports of the pages as those that are free here, or the other way round.
    fn translated(&self, text: &str, way: Way) -> String {
        let pattern = Regex::new(r"(localhost|127\.0\.0\.1):([0-9]{4,5})").expect("it is one");
        let replaced = pattern.replace_all(text, |found: &Captures<'_>| {
            let port = found[2].parse().unwrap_or(0);
            let ranges = iter::zip(WRITTEN, self.ports).map(|(written, here)| match way {
                Way::Here => (written, here),
                Way::Back => (here, written),
            });
            let moved = ranges
                .filter(|(from, _)| (*from..from.saturating_add(RANGE)).contains(&port))
                .map(|(from, to)| to + (port - from))
                .next();
            format!("{}:{}", &found[1], moved.unwrap_or(port))
        });
        replaced.into_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let state = self.folder.path().join(".cluster");
        if std::thread::panicking() {
            for node in 1..=3 {
                let log = fs::read_to_string(state.join(format!("logs/node{node}.log")));
                let log = log.unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let from = lines.len().saturating_sub(40);
                eprintln!(
                    "--- the end of node{node}'s log\n{}",
                    lines[from..].join("\n")
                );
            }
        }
        if state.exists() {
            // Nobody is left to be told of a failure, and the folder goes anyway.
            let _ = std::process::Command::new(self.folder.path().join("cluster.sh"))
                .arg("clean")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

enum Way {
    Here,
    Back,
}

/// Whether a command changes nothing, so that it may be run again.
fn only_looks(text: &str) -> bool {
    const LOOKS: [&str; 9] = [
        "status", "list", "describe", "get", "health", "of", "sql", "show", "stats",
    ];
    let mut words = text.split_whitespace();
    match words.next() {
        Some("abidectl") | Some("./cluster.sh") => words.any(|word| LOOKS.contains(&word)),
        Some("curl") => !["--json", "--data", "--request", "-X", "-d"]
            .iter()
            .any(|flag| text.contains(flag)),
        _ => false,
    }
}

/// The first of some ports in a row that are all free.
fn free_range() -> u16 {
    loop {
        let first = free_port();
        let all = (1..RANGE).all(|more| {
            std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, first + more)).is_ok()
        });
        if all {
            // Those in between are nobody else's in this process.
            for _ in 1..RANGE {
                free_port();
            }
            return first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_is_asked_again() {
        assert!(only_looks(
            "abidectl --address http://localhost:9091 nodes list"
        ));
        assert!(only_looks("curl localhost:8080/restate/health"));
        assert!(only_looks("./cluster.sh status"));
        for text in [
            "./cluster.sh kill node2",
            "abidectl provision --yes",
            "curl localhost:8080/Greeter/greet --json '\"Ada\"'",
        ] {
            assert!(!only_looks(text), "{text}");
        }
    }
}
