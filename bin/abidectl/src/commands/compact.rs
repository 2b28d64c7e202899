//! `abidectl storage compact`: has nodes rewrite their databases, and follows that.

use std::time::Duration;

use abide_rpc::proto::cluster::{Compact, DatabaseState};
use abide_rpc::proto::observe::{CompactReply, CompactRequest, NodeCompaction};
use clap::ValueEnum as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cli;
use crate::client::Node;
use crate::failure::Failure;
use crate::output::{duration, json_lines, node, or_dash, size, table};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) async fn run(
    asked: &Node,
    wanted: &cli::Compact,
    json: bool,
) -> Result<String, Failure> {
    let deadline = Instant::now() + Duration::from_secs(wanted.timeout);
    let mut reply = asked.compact(request(wanted, true)).await?;
    let mut said = None;
    loop {
        let running = rows(&reply).filter(|(_, state)| state.is_some_and(|state| state.running));
        let running = running.count();
        if running == 0 {
            break;
        }
        if deadline <= Instant::now() {
            return Err(Failure::StillGoingOn {
                seconds: wanted.timeout,
                left: format!("{running} databases are being compacted"),
            });
        }
        if said != Some(running) {
            eprintln!("{running} databases are being compacted");
            said = Some(running);
        }
        sleep(LOOK).await;
        reply = asked.compact(request(wanted, false)).await?;
    }
    let text = show(&reply, json);
    match rows(&reply).all(|(node, state)| problem(node, state).is_none()) {
        true => Ok(text),
        false => Err(Failure::NotWell { text }),
    }
}

fn request(wanted: &cli::Compact, start: bool) -> CompactRequest {
    let names = wanted.database.iter().filter_map(|database| {
        let value = database.to_possible_value()?;
        Some(value.get_name().to_owned())
    });
    CompactRequest {
        nodes: wanted.node.clone(),
        compact: Some(Compact {
            databases: names.collect(),
            start,
        }),
    }
}

/// A row for each database, and for each node that has none to tell of.
fn rows(reply: &CompactReply) -> impl Iterator<Item = (&NodeCompaction, Option<&DatabaseState>)> {
    reply.nodes.iter().flat_map(|node| {
        let states = node.state.iter().flat_map(|state| &state.databases);
        let none = node.state.is_none().then_some((node, None));
        states.map(move |state| (node, Some(state))).chain(none)
    })
}

fn show(reply: &CompactReply, json: bool) -> String {
    if json {
        return json_lines(rows(reply).map(|(node, state)| object(node, state)));
    }
    let header = [
        "NODE", "NAME", "DATABASE", "BEFORE", "AFTER", "TOOK", "PROBLEM",
    ];
    table(&header, rows(reply).map(|(node, state)| row(node, state)))
}

fn problem<'a>(node: &'a NodeCompaction, state: Option<&'a DatabaseState>) -> Option<&'a str> {
    let problem = state.map_or(&node.problem, |state| &state.problem);
    (!problem.is_empty()).then_some(problem)
}

fn row(of: &NodeCompaction, state: Option<&DatabaseState>) -> Vec<String> {
    vec![
        node(of.node),
        of.name.clone(),
        or_dash(state.map(|state| &state.name)),
        or_dash(state.map(|state| size(state.bytes_before))),
        or_dash(state.map(|state| size(state.bytes))),
        or_dash(state.map(|state| duration(state.took_ms))),
        or_dash(problem(of, state)),
    ]
}

fn object(of: &NodeCompaction, state: Option<&DatabaseState>) -> Value {
    json!({
        "node": node(of.node),
        "name": of.name,
        "database": state.map(|state| &state.name),
        "bytes_before": state.map(|state| state.bytes_before),
        "bytes": state.map(|state| state.bytes),
        "took_ms": state.map(|state| state.took_ms),
        "problem": problem(of, state),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_rpc::proto::cluster::CompactState;
    use expect_test::expect;

    #[test]
    fn what_is_wrong_is_told_of_databases_and_nodes() {
        let log = DatabaseState {
            name: "log".to_owned(),
            running: false,
            bytes_before: 3 << 30,
            bytes: 1 << 30,
            took_ms: 65_000,
            problem: "3 MiB must be free on the disk, and 2 MiB are".to_owned(),
        };
        let reply = CompactReply {
            nodes: vec![
                NodeCompaction {
                    node: 1,
                    name: "node1".to_owned(),
                    state: Some(CompactState {
                        databases: vec![log],
                    }),
                    problem: String::new(),
                },
                NodeCompaction {
                    node: 3,
                    name: "node3".to_owned(),
                    state: None,
                    problem: "the node is not connected".to_owned(),
                },
            ],
        };
        expect![[r#"
            NODE  NAME   DATABASE  BEFORE   AFTER    TOOK   PROBLEM
            N1    node1  log       3.0 GiB  1.0 GiB  1m 5s  3 MiB must be free on the disk, and 2 MiB are
            N3    node3  -         -        -        -      the node is not connected
        "#]].assert_eq(&show(&reply, false));
    }
}
