//! `abidectl logs trim`.

use abide_rpc::proto::operations::{TrimPartition, TrimReply};
use serde_json::json;

use crate::cli::Cli;
use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::{json_lines, table};

/// One log, and what became of it.
struct Outcome {
    reply: TrimReply,
    trimmed: bool,
}

/// Says what would go from all of the logs, asks, and has it go. `to` is 0 for whatever nobody can miss.
pub(crate) async fn trim(
    node: &Node,
    partitions: &[u32],
    to: u64,
    force: bool,
    cli: &Cli,
) -> Result<String, Failure> {
    let mut outcomes = Vec::new();
    let mut plan = Vec::new();
    let mut risky = None;
    for partition in partitions {
        let reply = ask(node, *partition, to, force, true).await?;
        let wanted = reply.plan.clone().unwrap_or_default();
        if wanted.nothing_to_do {
            for line in &wanted.lines {
                eprintln!("{line}");
            }
        } else {
            plan.extend(wanted.lines);
        }
        if reply.risky {
            risky = Some(reply.to);
        }
        let trimmed = !wanted.nothing_to_do;
        outcomes.push(Outcome { reply, trimmed });
    }
    if !plan.is_empty() {
        let answer = risky.map_or(Answer::Yes, |to| Answer::Word(to.to_string()));
        confirm(&plan, &answer, cli.yes)?;
    }
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.trimmed) {
        let TrimReply { partition, to, .. } = outcome.reply;
        outcome.reply = ask(node, partition, to, force, false).await?;
    }
    Ok(show(&outcomes, cli.json))
}

async fn ask(
    node: &Node,
    partition: u32,
    to: u64,
    force: bool,
    dry_run: bool,
) -> Result<TrimReply, Failure> {
    let request = TrimPartition {
        partition,
        to,
        force,
        dry_run,
    };
    let answer = node.operations().trim_log(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| node.failure(&status))
}

fn show(outcomes: &[Outcome], json: bool) -> String {
    if json {
        return json_lines(outcomes.iter().map(|Outcome { reply, trimmed }| {
            json!({
                "log": reply.partition,
                "first": reply.first,
                "safe": reply.safe,
                "trimmed": trimmed,
            })
        }));
    }
    table(
        &["LOG", "BEGINS", "SAFE"],
        outcomes.iter().map(|Outcome { reply, .. }| {
            vec![
                reply.partition.to_string(),
                reply.first.to_string(),
                reply.safe.to_string(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn every_log_is_told_with_where_it_begins() {
        let reply = TrimReply {
            partition: 3,
            first: 121,
            to: 120,
            safe: 150,
            ..TrimReply::default()
        };
        let outcomes = [Outcome {
            reply,
            trimmed: true,
        }];
        expect![[r#"
            LOG  BEGINS  SAFE
            3    121     150
        "#]]
        .assert_eq(&show(&outcomes, false));
        expect![[r#"
            {"first":121,"log":3,"safe":150,"trimmed":true}
        "#]]
        .assert_eq(&show(&outcomes, true));
    }
}
