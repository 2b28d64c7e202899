//! Metrics as they are exposed, as the page has them, and as expressions of PromQL use them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Labels that every sample has, here or after a scrape.
const COMMON: [&str; 4] = ["cluster_name", "node_name", "job", "instance"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    /// Whether there are nodes that do not expose it.
    conditional: bool,
}

/// What a node exposes.
#[derive(Debug, Default)]
pub struct Exposition {
    metrics: BTreeMap<String, Metric>,
    helped: BTreeSet<String>,
}

impl Exposition {
    pub fn parse(text: &str) -> Self {
        let mut exposition = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let metric = exposition.metrics.entry(name.to_owned()).or_default();
                metric.kind = kind.to_owned();
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                exposition
                    .helped
                    .extend(rest.split(' ').next().map(str::to_owned));
            } else if let Some((name, labels)) = line.split_once('{') {
                let family = exposition.family(name);
                let (labels, _) = labels.rsplit_once('}').unwrap();
                for label in labels.split("\",") {
                    let (label, _) = label.split_once('=').unwrap();
                    let of_summary = label == "quantile";
                    if !COMMON.contains(&label) && !of_summary {
                        let metric = exposition.metrics.get_mut(&family).unwrap();
                        metric.labels.insert(label.to_owned());
                    }
                }
            }
        }
        exposition
    }

    /// Summaries have samples with other names than their own.
    fn family(&self, name: &str) -> String {
        let parts = ["_sum", "_count"];
        let whole = parts.iter().find_map(|part| name.strip_suffix(part));
        match whole.filter(|whole| self.metrics.contains_key(*whole)) {
            Some(whole) => whole.to_owned(),
            None => name.to_owned(),
        }
    }

    /// Where the two differ.
    pub fn compare(&self, page: &Page) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, metric) in &self.metrics {
            let Some(documented) = page.0.get(name) else {
                problems.push(format!("{name} is exposed and not on the page"));
                continue;
            };
            if documented.kind != metric.kind {
                problems.push(format!(
                    "{name} is a {}, on the page a {}",
                    metric.kind, documented.kind
                ));
            }
            if !metric.labels.is_subset(&documented.labels) {
                problems.push(format!(
                    "{name} has the labels {:?}, on the page {:?}",
                    metric.labels, documented.labels
                ));
            }
            if !self.helped.contains(name) {
                problems.push(format!("{name} has no help"));
            }
        }
        for (name, documented) in &page.0 {
            if !documented.conditional && !self.metrics.contains_key(name) {
                problems.push(format!("{name} is on the page and not exposed"));
            }
        }
        problems
    }
}

/// What `docs/observability.md` says.
pub struct Page(BTreeMap<String, Metric>);

impl Page {
    pub fn read() -> Self {
        let text = fs::read_to_string(root().join("docs/observability.md")).unwrap();
        let mut metrics = BTreeMap::new();
        for line in text.lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [
                name,
                kind @ ("counter" | "gauge" | "summary"),
                labels,
                meaning,
            ] = cells[..]
            else {
                continue;
            };
            let labels = labels
                .split(',')
                .map(|label| label.trim().trim_matches('`').to_owned());
            let metric = Metric {
                kind: kind.to_owned(),
                labels: labels.filter(|label| !label.is_empty()).collect(),
                // These nodes have all roles; what is left is Kafka and tracing.
                conditional: ["*Only: w", "*Only: once"]
                    .iter()
                    .any(|only| meaning.contains(only)),
            };
            metrics.insert(name.trim_matches('`').to_owned(), metric);
        }
        assert!(metrics.len() > 80, "{} metrics on the page", metrics.len());
        Self(metrics)
    }
}

/// Every expression in dashboards and rules, with where it is.
pub fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in ["overview", "internals"] {
        let path = root().join(format!("deploy/grafana/{name}.json"));
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{name}: {}", panel["title"].as_str().unwrap());
            for target in panel["targets"].as_array().into_iter().flatten() {
                found.push((place.clone(), target["expr"].as_str().unwrap().to_owned()));
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(definition) = variable["definition"].as_str() {
                let inner = definition.strip_prefix("label_values(").unwrap();
                let (expression, _) = inner.rsplit_once(", ").unwrap();
                found.push((format!("{name}: variables"), expression.to_owned()));
            }
        }
    }
    found.extend(rules());
    // What Grafana puts in stands for any value.
    let filled = |text: String| text.replace("$cluster", ".*").replace("$node", ".*");
    found
        .into_iter()
        .map(|(place, text)| (place, filled(text)))
        .collect()
}

/// Those of the alert rules: `expr:` with a value on its line, or folded over the lines below.
fn rules() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("deploy/prometheus/rules.yml")).unwrap();
    let mut found = Vec::new();
    let mut alert = "";
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.trim_start().strip_prefix("- alert: ") {
            alert = name;
        }
        let Some(value) = line.trim_start().strip_prefix("expr: ") else {
            continue;
        };
        let mut expression = value.to_owned();
        if value == ">-" {
            expression.clear();
            let depth = line.len() - line.trim_start().len();
            while let Some(next) =
                lines.next_if(|next| next.len() - next.trim_start().len() > depth)
            {
                expression.push_str(next.trim());
                expression.push(' ');
            }
        }
        found.push((alert.to_owned(), expression));
    }
    found
}

/// A name, or what stands between names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Sign(char),
}

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = |is: fn(char) -> bool| rest.find(|char| !is(char)).unwrap_or(rest.len());
        let (token, taken) = if first.is_ascii_alphabetic() || first == '_' {
            let taken = length(|char| char.is_ascii_alphanumeric() || "_:".contains(char));
            (Token::Name(rest[..taken].to_owned()), taken)
        } else if first.is_ascii_digit() {
            // Durations as well: `5m`.
            let taken = length(|char| char.is_ascii_alphanumeric() || char == '.');
            (Token::Number(rest[..taken].to_owned()), taken)
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or("a text without an end")?;
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else if "+-*/%^=!~<>(){}[],".contains(first) {
            (Token::Sign(first), 1)
        } else {
            return Err(format!("'{first}' does not belong into an expression"));
        };
        tokens.push(token);
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

/// What is in use of the language, beside metrics and labels.
const FUNCTIONS: [&str; 7] = [
    "rate",
    "increase",
    "predict_linear",
    "sum",
    "max",
    "min",
    "avg",
];
/// These are followed by labels in brackets.
const GROUPINGS: [&str; 3] = ["by", "on", "without"];

/// What is wrong with an expression: brackets that do not match, or metrics and labels that are not on the page. That
/// an expression is PromQL in every detail is what `promtool check rules` says.
pub fn check(expression: &str, page: &Page) -> Vec<String> {
    let tokens = match tokens(expression) {
        Ok(tokens) => tokens,
        Err(error) => return vec![error],
    };
    let mut problems = Vec::new();
    let mut open = Vec::new();
    let mut groups: Vec<String> = Vec::new();
    let mut labels: BTreeSet<String> = COMMON.map(str::to_owned).into();
    let mut used = 0;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Sign(sign @ ('(' | '{' | '[')) => open.push(*sign),
            Token::Sign(sign @ (')' | '}' | ']')) => {
                let opened = open.pop();
                if !matches!(
                    (opened, sign),
                    (Some('('), ')') | (Some('{'), '}') | (Some('['), ']')
                ) {
                    problems.push(format!("{opened:?} is closed by {sign}"));
                }
            }
            Token::Name(name) if GROUPINGS.contains(&name.as_str()) => {
                let inside = tokens[at..]
                    .iter()
                    .take_while(|token| **token != Token::Sign(')'));
                let names = inside.filter_map(|token| match token {
                    Token::Name(name) => Some(name.clone()),
                    _ => None,
                });
                groups.extend(names);
                let length = tokens[at..]
                    .iter()
                    .position(|token| *token == Token::Sign(')'));
                at += length.map_or(tokens.len(), |length| length + 1);
            }
            Token::Name(name) if FUNCTIONS.contains(&name.as_str()) => {}
            Token::Name(name) => {
                used += 1;
                let of_metric = labels_of(name, page, &mut problems);
                if tokens.get(at) == Some(&Token::Sign('{')) {
                    let (matched, length) = matchers(&tokens[at..]);
                    for label in matched.iter().filter(|label| !of_metric.contains(*label)) {
                        problems.push(format!("{name} has no label {label}"));
                    }
                    at += length;
                }
                labels.extend(of_metric);
            }
            Token::Text(_) | Token::Number(_) | Token::Sign(_) => {}
        }
    }
    if !open.is_empty() {
        problems.push(format!("{open:?} are not closed"));
    }
    if used == 0 {
        problems.push("it speaks of no metric".to_owned());
    }
    for label in groups.iter().filter(|label| !labels.contains(*label)) {
        problems.push(format!("nothing has the label {label} by which is grouped"));
    }
    problems
}

fn labels_of(name: &str, page: &Page, problems: &mut Vec<String>) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = COMMON.map(str::to_owned).into();
    match page.0.get(name) {
        Some(metric) => {
            labels.extend(metric.labels.iter().cloned());
            if metric.kind == "summary" {
                labels.insert("quantile".to_owned());
            }
        }
        // Every scrape makes this one.
        None if name == "up" => {}
        None => problems.push(format!("there is no metric {name}")),
    }
    labels
}

/// The labels between braces, and how many tokens that takes.
fn matchers(tokens: &[Token]) -> (Vec<String>, usize) {
    let inside = tokens
        .iter()
        .take_while(|token| **token != Token::Sign('}'));
    let length = inside.clone().count() + 1;
    let labels = inside.filter_map(|token| match token {
        Token::Name(label) => Some(label.clone()),
        _ => None,
    });
    (labels.collect(), length)
}

#[test]
fn expressions_with_mistakes_are_found_out() {
    let page = Page::read();
    for (wrong, expected) in [
        (
            "rate(abide_no_such_total[1m])",
            "there is no metric abide_no_such_total",
        ),
        (
            "abide_node_ready{color=\"x\"}",
            "abide_node_ready has no label color",
        ),
        (
            "sum by (db) (abide_node_ready)",
            "nothing has the label db by which is grouped",
        ),
        ("sum(abide_node_ready", "['('] are not closed"),
        ("sum(abide_node_ready]", "Some('(') is closed by ]"),
        ("1 + 1", "it speaks of no metric"),
    ] {
        assert_eq!(check(wrong, &page), [expected], "{wrong}");
    }
    let right = "max by (queue) (rate(abide_queue_refused_total{node_name=~\".*\"}[5m])) / 2 > 0.1";
    assert_eq!(check(right, &page), [""; 0]);
}
