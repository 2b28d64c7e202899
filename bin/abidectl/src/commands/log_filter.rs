//! `abidectl log-filter`: what nodes log, and another filter while they run.

use abide_rpc::proto::cluster::LogFilterChange;
use abide_rpc::proto::observe::{LogFilterReply, LogFilterRequest, NodeLogFilter};
use serde_json::{Value, json};

use crate::cli;
use crate::client::Node;
use crate::failure::Failure;
use crate::output::{json_lines, node, or_dash, table};

pub(crate) async fn run(
    asked: &Node,
    options: &cli::LogFilter,
    json: bool,
) -> Result<String, Failure> {
    let change = match &options.command {
        None | Some(cli::LogFilterCommand::Show) => LogFilterChange::default(),
        Some(cli::LogFilterCommand::Set { filter }) => LogFilterChange {
            filter: Some(filter.clone()),
            reset: false,
        },
        Some(cli::LogFilterCommand::Reset) => LogFilterChange {
            filter: None,
            reset: true,
        },
    };
    let reply = asked
        .log_filter(LogFilterRequest {
            nodes: options.node.clone(),
            change: Some(change),
        })
        .await?;
    let text = show(&reply, json);
    match reply.nodes.iter().all(|node| node.problem.is_empty()) {
        true => Ok(text),
        false => Err(Failure::NotWell { text }),
    }
}

fn show(reply: &LogFilterReply, json: bool) -> String {
    if json {
        return json_lines(reply.nodes.iter().map(object));
    }
    let header = ["NODE", "NAME", "FILTER", "CONFIGURED", "PROBLEM"];
    table(&header, reply.nodes.iter().map(row))
}

fn problem(filter: &NodeLogFilter) -> Option<&String> {
    Some(&filter.problem).filter(|problem| !problem.is_empty())
}

fn id(filter: &NodeLogFilter) -> Option<String> {
    (filter.node > 0).then(|| node(filter.node))
}

fn row(filter: &NodeLogFilter) -> Vec<String> {
    let state = filter.state.as_ref();
    vec![
        or_dash(id(filter)),
        filter.name.clone(),
        or_dash(state.map(|state| &state.filter)),
        or_dash(state.map(|state| &state.configured)),
        or_dash(problem(filter)),
    ]
}

fn object(filter: &NodeLogFilter) -> Value {
    let state = filter.state.as_ref();
    json!({
        "node": id(filter),
        "name": filter.name,
        "filter": state.map(|state| &state.filter),
        "configured": state.map(|state| &state.configured),
        "problem": problem(filter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_rpc::proto::cluster::LogFilterState;
    use expect_test::expect;

    #[test]
    fn every_node_has_a_row_with_what_is_wrong() {
        let reply = LogFilterReply {
            nodes: vec![
                NodeLogFilter {
                    node: 1,
                    name: "node1".to_owned(),
                    state: Some(LogFilterState {
                        filter: "debug".to_owned(),
                        configured: "info".to_owned(),
                        refused: String::new(),
                    }),
                    problem: String::new(),
                },
                NodeLogFilter {
                    node: 3,
                    name: "node3".to_owned(),
                    state: None,
                    problem: "the node is not connected".to_owned(),
                },
            ],
        };
        expect![[r#"
            NODE  NAME   FILTER  CONFIGURED  PROBLEM
            N1    node1  debug   info        -
            N3    node3  -       -           the node is not connected
        "#]]
        .assert_eq(&show(&reply, false));
    }
}
