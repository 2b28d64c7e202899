//! `abidectl metadata get`, `put` and `patch`.

use std::io::Read as _;

use abide_rpc::proto::cluster::StoredDocument;
use abide_rpc::proto::operations::PutDocument;
use serde_json::{Value, json};

use crate::cli::{self, Cli};
use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::json_patch::{self, Operation};
use crate::output::json_lines;

pub(crate) async fn get(
    node: &Node,
    key: Option<&String>,
    linearizable: bool,
    json: bool,
) -> Result<String, Failure> {
    let Some(key) = key else {
        let keys = node.document(String::new(), false).await?.keys;
        return Ok(list(&keys, json));
    };
    let reply = node.document(key.clone(), linearizable).await?;
    let document = reply
        .document
        .ok_or_else(|| Failure::NoDocument { key: key.clone() })?;
    Ok(show(&document, json))
}

/// Writes a document.
pub(crate) async fn put(
    node: &Node,
    target: &cli::Document,
    value: &str,
    cli: &Cli,
) -> Result<String, Failure> {
    let new = parse("value", &given(value)?)?;
    let before = node.document(target.key.clone(), true).await?.document;
    write(node, target, before, &new, cli).await
}

/// Changes a document.
pub(crate) async fn patch(
    node: &Node,
    target: &cli::Document,
    patch: &str,
    cli: &Cli,
) -> Result<String, Failure> {
    let text = given(patch)?;
    let operations: Vec<Operation> =
        serde_json::from_str(&text).map_err(|error| Failure::NotJson {
            what: "patch",
            detail: error.to_string(),
        })?;
    let key = target.key.clone();
    let before = node.document(key.clone(), true).await?.document;
    let stored = before
        .as_ref()
        .ok_or_else(|| Failure::NoDocument { key: key.clone() })?;
    let document = parse("document", &String::from_utf8_lossy(&stored.value))?;
    let new = json_patch::apply(&document, &operations)
        .map_err(|source| Failure::Patch { key, source })?;
    write(node, target, before, &new, cli).await
}

async fn write(
    node: &Node,
    target: &cli::Document,
    before: Option<StoredDocument>,
    new: &Value,
    cli: &Cli,
) -> Result<String, Failure> {
    let seen = before.as_ref().map_or(0, |document| document.version);
    let mut request = PutDocument {
        key: target.key.clone(),
        value: new.to_string().into(),
        expected_version: target.version.unwrap_or(seen),
        any_version: false,
        dry_run: true,
    };
    send(node, request.clone()).await?;
    let old = before.map_or(Value::Null, |document| {
        serde_json::from_slice(&document.value).unwrap_or(Value::Null)
    });
    let mut plan = vec![format!("{} at version {seen} becomes:", target.key)];
    plan.extend(difference(&old, new));
    plan.push("Nodes go by it at once, right or wrong.".to_owned());
    if target.dry_run {
        for line in plan {
            eprintln!("{line}");
        }
        return Ok(written(&target.key, seen, new, cli.json));
    }
    confirm(&plan, &Answer::Word(target.key.clone()), cli.yes)?;
    request.dry_run = false;
    let version = send(node, request).await?;
    Ok(written(&target.key, version, new, cli.json))
}

async fn send(node: &Node, request: PutDocument) -> Result<u64, Failure> {
    let answer = node.operations().put(request).await;
    answer
        .map(|answer| answer.into_inner().version)
        .map_err(|status| node.failure(&status))
}

fn written(key: &str, version: u64, value: &Value, json: bool) -> String {
    if json {
        return json_lines([json!({ "key": key, "version": version, "value": value })]);
    }
    format!("{value:#}\n")
}

/// The argument, or what stands on the standard input.
fn given(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(Failure::Input)?;
    Ok(text)
}

fn parse(what: &'static str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::NotJson {
        what,
        detail: error.to_string(),
    })
}

/// The lines that come and go, with those that stay left out.
fn difference(old: &Value, new: &Value) -> Vec<String> {
    let lines = |value: &Value| -> Vec<String> {
        format!("{value:#}").lines().map(str::to_owned).collect()
    };
    let (old, new) = (lines(old), lines(new));
    let start = old
        .iter()
        .zip(&new)
        .take_while(|(old, new)| old == new)
        .count();
    let room = old.len().min(new.len()) - start;
    let end = (old.iter().rev().zip(new.iter().rev()))
        .take(room)
        .take_while(|(old, new)| old == new)
        .count();
    let marked = |mark: char, lines: &[String]| -> Vec<String> {
        let changed = &lines[start..lines.len() - end];
        changed
            .iter()
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut changes = marked('-', &old);
    changes.extend(marked('+', &new));
    changes
}

fn list(keys: &[String], json: bool) -> String {
    if json {
        return json_lines(keys.iter().map(|key| json!({ "key": key })));
    }
    keys.iter().map(|key| format!("{key}\n")).collect()
}

fn show(document: &StoredDocument, json: bool) -> String {
    // What is no JSON, which no document of ours is, is shown as text.
    let text = || Value::String(String::from_utf8_lossy(&document.value).into_owned());
    let value: Value = serde_json::from_slice(&document.value).unwrap_or_else(|_| text());
    if json {
        return json_lines([json!({
            "key": document.key,
            "version": document.version,
            "value": value,
        })]);
    }
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn only_what_changes_is_shown() {
        let old = json!({"a": 1, "b": [1, 2], "c": 3});
        let new = json!({"a": 1, "b": [1, 5, 2], "c": 3});
        assert_eq!(difference(&old, &new), ["+     5,"]);
        assert_eq!(difference(&old, &old), [""; 0]);
        assert_eq!(difference(&Value::Null, &json!(1)), ["- null", "+ 1"]);
    }

    #[test]
    fn a_document_is_indented_for_people_and_wrapped_for_programs() {
        let document = StoredDocument {
            key: "log/0".to_owned(),
            version: 9,
            value: br#"{"a":[1]}"#.as_slice().into(),
        };
        expect![[r#"
            {
              "a": [
                1
              ]
            }
        "#]]
        .assert_eq(&show(&document, false));
        expect![[r#"
            {"key":"log/0","value":{"a":[1]},"version":9}
        "#]]
        .assert_eq(&show(&document, true));
    }
}
