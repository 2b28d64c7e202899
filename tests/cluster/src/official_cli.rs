//! The official command line, and scenarios of what it is told and prints.
//!
//! A scenario is a text: lines that begin with `$` are commands, what follows them is what they print. [`Scenario::run`]
//! does the commands of a scenario against a server and writes the text anew; a test compares the two. What differs from
//! run to run (ids, times, addresses) is replaced by names in angle brackets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use regex::Regex;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::api::Api;
use crate::binaries::package_folder;

/// How long an invocation may take to reach the state that a scenario waits for.
const STATE_WITHIN: Duration = Duration::from_secs(60);

/// One node as its clients see it.
#[derive(Debug, Clone)]
pub struct Door {
    /// URL of the admin API.
    pub admin: String,
    /// URL of the ingress.
    pub ingress: String,
}

/// A run of a scenario.
pub struct Scenario<'a> {
    doors: Vec<Door>,
    api: Api,
    home: &'a Path,
    /// Names in angle brackets and what they stand for.
    names: HashMap<String, String>,
    /// Commands so far; each goes to the next door.
    turn: usize,
}

impl<'a> Scenario<'a> {
    /// A run against servers that are one cluster. `home` is an empty folder, `endpoint` what is registered.
    pub fn new(doors: Vec<Door>, home: &'a Path, endpoint: &str) -> Self {
        let mut names = HashMap::from([
            ("endpoint".to_owned(), endpoint.to_owned()),
            ("home".to_owned(), home.display().to_string()),
        ]);
        for door in &doors {
            names.insert(format!("admin {}", names.len()), door.admin.clone());
            names.insert(format!("ingress {}", names.len()), door.ingress.clone());
        }
        Self {
            doors,
            api: Api::default(),
            home,
            names,
            turn: 0,
        }
    }

    /// Waits until every node would register the endpoint: the metadata plane has settled then.
    pub async fn wait_until_registering(&self) {
        let deadline = Instant::now() + STATE_WITHIN;
        let body = json!({ "uri": self.names["endpoint"], "dry_run": true });
        for door in &self.doors {
            let url = format!("{}/deployments", door.admin);
            while !self.api.post(&url, &body).await.status.is_success() {
                assert!(Instant::now() < deadline, "{url} registers nothing");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Does the commands of `script`; the script with what they printed.
    pub async fn run(&mut self, script: &str) -> String {
        let mut transcript = String::new();
        for line in script.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                let printed = self.execute(command).await;
                transcript.push_str(&format!("$ {command}\n{printed}"));
            } else if line.starts_with('#') {
                transcript.push_str(&format!("{line}\n"));
            }
        }
        transcript
    }

    async fn execute(&mut self, command: &str) -> String {
        self.turn += 1;
        let door = self.doors[self.turn % self.doors.len()].clone();
        let words = words(&self.with_values(command));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["restate", arguments @ ..] => self.restate(&door, arguments).await,
            // Where the order of what is printed means nothing.
            ["sorted", "restate", arguments @ ..] => {
                let printed = self.restate(&door, arguments).await;
                let mut lines: Vec<&str> = printed.lines().collect();
                lines.sort_unstable();
                lines.into_iter().map(|line| format!("{line}\n")).collect()
            }
            ["call", target, input] => {
                let url = format!("{}/{target}", door.ingress);
                let answer = self.post(&url, input).await;
                self.with_names(&format!("{} {}\n", answer.status.as_u16(), answer.text()))
            }
            ["send", name, target, input] => {
                let url = format!("{}/{target}", door.ingress);
                let answer = self.post(&url, input).await.expect_success();
                let id = answer["invocationId"].as_str().expect("an id");
                self.names.insert((*name).to_owned(), id.to_owned());
                String::new()
            }
            ["wait", id, status] => {
                let query = format!("SELECT status AS found FROM sys_invocation WHERE id = '{id}'");
                self.wait(&door, &query, Some(status)).await;
                String::new()
            }
            ["gone", id] => {
                let query = format!("SELECT id AS found FROM sys_invocation WHERE id = '{id}'");
                self.wait(&door, &query, None).await;
                String::new()
            }
            ["wait-state", service, object, key, value] => {
                let query = format!(
                    "SELECT value_utf8 AS found FROM state WHERE service_name = '{service}' \
                     AND service_key = '{object}' AND key = '{key}'"
                );
                let value = Some(*value).filter(|value| *value != "null");
                self.wait(&door, &query, value).await;
                String::new()
            }
            ["wait-sql", query, value] => {
                self.wait(&door, query, Some(value)).await;
                String::new()
            }
            ["learn-sql", name, query] => {
                let found = self.first(&door, query).await;
                let found = found.as_str().unwrap_or_else(|| panic!("{query}: {found}"));
                self.names.insert((*name).to_owned(), found.to_owned());
                String::new()
            }
            ["learn", name, path, pointer] => {
                let answer = self.api.get(&format!("{}{path}", door.admin)).await;
                let found = answer.expect_success();
                let value = found.pointer(pointer).and_then(Value::as_str);
                let value = value.unwrap_or_else(|| panic!("no {pointer} in {found}"));
                self.names.insert((*name).to_owned(), value.to_owned());
                String::new()
            }
            // The node that changed something has seen it; the others are a moment behind.
            ["same", path] => {
                self.until_same(path).await;
                String::new()
            }
            _ => panic!("unknown command: {command}"),
        }
    }

    async fn post(&self, url: &str, input: &str) -> crate::Answer {
        let json = [("content-type", "application/json")];
        self.api
            .request(Method::POST, url, &json, input.to_owned())
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error}"))
    }

    /// Waits until the first row has this in the column `found`, or there is none.
    async fn wait(&self, door: &Door, query: &str, expected: Option<&str>) {
        let deadline = Instant::now() + STATE_WITHIN;
        loop {
            let found = self.first(door, query).await;
            let text = match &found {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            if text.as_deref() == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{query} finds {found} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The column `found` of the first row; what the server said if it has no rows to give.
    async fn first(&self, door: &Door, query: &str) -> Value {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        let url = format!("{}/query", door.admin);
        let body = json!({ "query": query }).to_string();
        let answer = self
            .api
            .request(Method::POST, &url, &headers, body)
            .await
            .expect("an answer to the query");
        let mut found = answer.json();
        match answer.status.is_success() {
            true => (found.pointer_mut("/rows/0/found")).map_or(Value::Null, Value::take),
            false => found,
        }
    }

    async fn until_same(&self, path: &str) {
        let deadline = Instant::now() + STATE_WITHIN;
        loop {
            let mut answers = Vec::new();
            for door in &self.doors {
                answers.push(self.api.get(&format!("{}{path}", door.admin)).await.body);
            }
            if answers.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            assert!(Instant::now() < deadline, "{path} differs: {answers:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restate(&self, door: &Door, arguments: &[&str]) -> String {
        let output = Command::new(program())
            .args(arguments)
            .env("RESTATE_ADMIN_URL", &door.admin)
            .env("RESTATE_INGRESS_URL", &door.ingress)
            .env("RESTATE_CLI_CONFIG_HOME", self.home)
            .env("DO_NOT_TRACK", "1")
            .env("NO_COLOR", "1")
            .current_dir(self.home)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the command line starts");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let mut shown = self.with_names(&text);
        if let Some(code) = output.status.code().filter(|code| *code != 0) {
            shown.push_str(&format!("exit code {code}\n"));
        }
        shown
    }

    /// Names in angle brackets become what they stand for.
    fn with_values(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (name, value) in &self.names {
            command = command.replace(&format!("<{name}>"), value);
        }
        command
    }

    /// What differs from run to run becomes a name; so does white space, whose width follows from it.
    fn with_names(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.names {
            let name = name.split(' ').next().unwrap_or_default();
            text = text.replace(value.as_str(), &format!("<{name}>"));
        }
        for (pattern, replacement) in patterns() {
            text = pattern.replace_all(&text, replacement).into_owned();
        }
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .map(|line| line + "\n")
            .collect()
    }
}

/// What is replaced, in this order.
fn patterns() -> Vec<(Regex, &'static str)> {
    let table = [
        ("\u{1b}\\[[0-9;]*m", ""),
        // A result without an idempotency key of the client's own may show one of the server's.
        (r"(?m)^ *Idempotency key:.*\n", ""),
        (
            r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+00:00",
            "<time>",
        ),
        (
            r"\b[A-Z][a-z]{2} \d\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+00:00",
            "<time>",
        ),
        (r"\b\d{4}-\d\d-\d\dT[0-9:.]+Z", "<time>"),
        (r"Query took [0-9.]+[mµn]?s", "Query took <duration>"),
        (
            r"\b\d+ (ms|seconds?|minutes?|hours?|days?)((, | and )\d+ (ms|seconds?|minutes?|hours?))*",
            "<duration>",
        ),
        (r"\(now ago\)", "(<duration> ago)"),
        (r"invoked now ago", "invoked <duration> ago"),
        (r"running +\((now|<duration>)\)", "running"),
        // How long it has been running already is said only after a while.
        (r"(?m) (Current attempt has been|It's been holding) .*$", ""),
        (r"\b(inv|dp|vq)_1[0-9A-Za-z]{20,}", "<id>"),
        // A picture.
        ("(?m)^[ →↓↗]+$", ""),
        ("[―─]{4,}", "―――"),
    ];
    let table = table.into_iter();
    table
        .map(|(pattern, replacement)| (Regex::new(pattern).expect("a good pattern"), replacement))
        .collect()
}

/// Splits at blanks outside of single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in command.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            character => words.last_mut().expect("there is one").push(character),
        }
    }
    words
}

/// The program itself: the package's start script only looks for it.
fn program() -> PathBuf {
    let folder = package_folder("cli/node_modules/@restatedev");
    let found = std::fs::read_dir(&folder).ok().and_then(|entries| {
        let programs = entries
            .flatten()
            .map(|entry| entry.path().join("bin/restate"));
        let mut programs = programs.filter(|path| path.is_file());
        programs.next()
    });
    found.unwrap_or_else(|| {
        panic!(
            "no program in {}; run `scripts/bootstrap --tests` first",
            folder.display()
        )
    })
}
