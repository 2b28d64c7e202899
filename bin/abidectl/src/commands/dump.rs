//! `abidectl logs dump`: a log's records, page by page, so that neither side ever holds more than one.

use std::fmt::Write as _;

use abide_rpc::proto::observe::{LogRecord, ReadLog};
use serde_json::{Value, json};
use tonic::Code;

use crate::cli::Dump;
use crate::client::Node;
use crate::failure::Failure;
use crate::output;

/// Records that are asked for at a time.
const PAGE_RECORDS: u64 = 200;

/// Prints while it reads; what is left to print is nothing.
pub(crate) async fn dump(node: &Node, wanted: &Dump, json: bool) -> Result<String, Failure> {
    let mut left = wanted.limit;
    let mut request = ReadLog {
        partition: wanted.partition.into(),
        from: wanted.from.unwrap_or(0),
        end: wanted.to.map_or(0, |to| to.saturating_add(1)),
        records_max: 0,
    };
    if !json && !output::piece("LSN  EPOCH  AT  COMMAND\n")? {
        return Ok(String::new());
    }
    loop {
        request.records_max = u32::try_from(left.min(PAGE_RECORDS)).unwrap_or(u32::MAX);
        let page = node.log_page(request).await;
        let page = page.map_err(|status| refused(node, &status))?;
        let text: String = page
            .records
            .iter()
            .map(|record| show(wanted.partition, record, json))
            .collect();
        if !output::piece(&text)? {
            return Ok(String::new());
        }
        left = left.saturating_sub(page.records.len() as u64);
        if page.next == 0 || page.records.is_empty() {
            return Ok(String::new());
        }
        if left == 0 {
            eprintln!("there may be more: --from {}", page.next);
            return Ok(String::new());
        }
        request.from = page.next;
    }
}

fn refused(node: &Node, status: &tonic::Status) -> Failure {
    let hint = match status.code() {
        Code::OutOfRange => "without `--from` it begins with the first record that there is",
        Code::NotFound => "`abidectl partitions list` shows the partitions of this cluster",
        _ => return node.failure(status),
    };
    Failure::Operation {
        detail: status.message().to_owned(),
        hint: hint.to_owned(),
        misused: false,
    }
}

fn show(log: u16, record: &LogRecord, json: bool) -> String {
    // A node that writes no JSON here is of no version that there is; it is shown as it came.
    let commands: Value = serde_json::from_str(&record.commands)
        .unwrap_or_else(|_| Value::String(record.commands.clone()));
    let problem = Some(&record.problem).filter(|problem| !problem.is_empty());
    let at = (record.at > 0).then(|| output::time(record.at));
    if json {
        return output::json_lines([json!({
            "log": log,
            "lsn": record.lsn,
            "epoch": record.epoch,
            "at": at,
            "bytes": record.bytes,
            "commands": commands,
            "problem": problem,
        })]);
    }
    let head = format!(
        "{}  {}  {}",
        record.lsn,
        record.epoch,
        output::or_dash(at.as_ref())
    );
    if let Some(problem) = problem {
        return format!(
            "{head}  not understood, {} bytes: {problem}\n",
            record.bytes
        );
    }
    let lines = commands.as_array().into_iter().flatten();
    lines
        .map(|command| format!("{head}  {}\n", line(command)))
        .collect()
}

/// `invoke input_bytes=4 invocation=inv_1... target=Counter/k/add`: what is null is left out.
fn line(command: &Value) -> String {
    let mut text = command["kind"].as_str().unwrap_or("unknown").to_owned();
    for (name, value) in command.as_object().into_iter().flatten() {
        // Writing to a string does not fail.
        let _ = match value {
            Value::Null => Ok(()),
            _ if name == "kind" => Ok(()),
            Value::String(value) => write!(text, " {name}={value}"),
            value => write!(text, " {name}={value}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn record() -> LogRecord {
        LogRecord {
            lsn: 17,
            epoch: 3,
            at: 951_782_400_000,
            bytes: 90,
            commands: r#"[{"kind":"invoke","target":"Counter/k/add","scope":null},{"kind":"purge","expired":2}]"#
                .to_owned(),
            problem: String::new(),
        }
    }

    #[test]
    fn every_command_has_a_line_and_every_record_an_object() {
        expect![[r#"
            17  3  2000-02-29T00:00:00Z  invoke target=Counter/k/add
            17  3  2000-02-29T00:00:00Z  purge expired=2
        "#]]
        .assert_eq(&show(0, &record(), false));
        expect![[r#"
            {"at":"2000-02-29T00:00:00Z","bytes":90,"commands":[{"kind":"invoke","scope":null,"target":"Counter/k/add"},{"expired":2,"kind":"purge"}],"epoch":3,"log":0,"lsn":17,"problem":null}
        "#]]
        .assert_eq(&show(0, &record(), true));
    }

    #[test]
    fn what_is_not_understood_is_told_all_the_same() {
        let record = LogRecord {
            at: 0,
            commands: "[]".to_owned(),
            problem: "of a later version".to_owned(),
            ..record()
        };
        expect![[r#"
            17  3  -  not understood, 90 bytes: of a later version
        "#]]
        .assert_eq(&show(0, &record, false));
    }
}
