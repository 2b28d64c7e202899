//! `abidectl nodes drain`, `undrain` and `remove`, and the votes of metadata servers.

use std::time::Duration;

use abide_rpc::proto::operations::change_node::Change;
use abide_rpc::proto::operations::{ChangeNode, ChangeNodeReply, GetHoldings, Holdings, Obstacle};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cli::{self, Cli};
use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::{json_lines, node};

/// How often is looked how far a drain is.
const LOOK: Duration = Duration::from_millis(500);
/// A drain that does not get on says so again after this time.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Of what a drain waits for, so much is said.
const WAITS_SAID_MAX: usize = 8;

/// What is done to nodes, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) force: bool,
    /// How long to follow a drain.
    pub(crate) wait: Option<Duration>,
}

impl Request {
    pub(crate) fn of(change: Change) -> Self {
        Self {
            change,
            force: false,
            wait: None,
        }
    }
}

/// Says what would happen to all of the nodes, asks, and does it.
pub(crate) async fn run(
    node: &Node,
    names: &cli::NodeNames,
    request: Request,
    cli: &Cli,
) -> Result<String, Failure> {
    let mut due = Vec::new();
    for name in names.iter() {
        let reply = ask(node, name, request, true).await?;
        let plan = reply.plan.clone().unwrap_or_default();
        if plan.nothing_to_do {
            for line in &plan.lines {
                eprintln!("{line}");
            }
        } else {
            due.push((reply, plan.lines));
        }
    }
    match request.change {
        // Each of them cannot be undone.
        Change::Remove => {
            for (reply, lines) in &due {
                confirm(lines, &Answer::Word(reply.name.clone()), cli.yes)?;
            }
        }
        _ if due.is_empty() => {}
        _ => {
            let lines: Vec<String> = due.iter().flat_map(|(_, lines)| lines.clone()).collect();
            confirm(&lines, &Answer::Yes, cli.yes)?;
        }
    }
    for (reply, _) in &due {
        ask(node, &format!("N{}", reply.node), request, false).await?;
    }
    if request.change == Change::Remove {
        return Ok(removed(due.iter().map(|(reply, _)| reply), cli.json));
    }
    let mut outcomes = Vec::new();
    for name in names.iter() {
        let holdings = match request.wait {
            Some(limit) => follow(node, name, limit).await?,
            None => holdings(node, name).await?,
        };
        outcomes.push(holdings);
    }
    if cli.json {
        return Ok(json_lines(outcomes.iter().map(object)));
    }
    Ok(outcomes
        .iter()
        .map(|held| format!("{}{}\n", sentence(held), waits(held)))
        .collect())
}

async fn ask(
    node: &Node,
    name: &str,
    request: Request,
    dry_run: bool,
) -> Result<ChangeNodeReply, Failure> {
    let message = ChangeNode {
        node: name.to_owned(),
        change: request.change.into(),
        force: request.force,
        dry_run,
    };
    let answer = node.operations().node(message).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| node.failure(&status))
}

async fn holdings(node: &Node, name: &str) -> Result<Holdings, Failure> {
    let message = GetHoldings {
        node: name.to_owned(),
    };
    let answer = node.operations().node_holdings(message).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| node.failure(&status))
}

/// Says how far it is, until nothing is left.
async fn follow(asked: &Node, name: &str, limit: Duration) -> Result<Holdings, Failure> {
    let deadline = Instant::now() + limit;
    let mut said: Option<(String, Instant)> = None;
    loop {
        let held = holdings(asked, name).await?;
        if is_empty(&held) || held.state != "draining" {
            return Ok(held);
        }
        let (now, sentence) = (Instant::now(), sentence(&held));
        if deadline <= now {
            return Err(Failure::StillGoingOn {
                seconds: limit.as_secs(),
                left: sentence + &waits(&held),
            });
        }
        let is_news = said.as_ref().is_none_or(|(before, at)| {
            *before != sentence || SAID_AGAIN_AFTER <= now.duration_since(*at)
        });
        if is_news {
            eprintln!("{sentence}{}", waits(&held));
            said = Some((sentence, now));
        }
        sleep(LOOK.min(deadline - now)).await;
    }
}

fn is_empty(held: &Holdings) -> bool {
    !held.votes && held.leads.is_empty() && held.replicas.is_empty() && held.logs.is_empty()
}

fn sentence(held: &Holdings) -> String {
    let who = format!("{} ({})", node(held.node), held.name);
    if held.state != "draining" {
        return format!("{who} is {}", held.state);
    }
    if is_empty(held) {
        return format!("{who} is drained: nothing is left on it");
    }
    let mut left: Vec<String> = [
        (held.leads.len(), "leaders"),
        (held.replicas.len(), "replicas"),
        (held.logs.len(), "logs"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if held.votes {
        left.push("a vote".to_owned());
    }
    let frozen = match held.frozen.len() {
        0 => String::new(),
        count => format!("; {count} partitions are frozen there"),
    };
    format!("{who} is draining: {} left{frozen}", left.join(", "))
}

/// What it waits for, one more line each.
fn waits(held: &Holdings) -> String {
    let mut lines: String = (held.waits.iter())
        .take(WAITS_SAID_MAX)
        .map(|wait| format!("\n  partition {}: {}", wait.partition, wait.what))
        .collect();
    let more = held.waits.len().saturating_sub(WAITS_SAID_MAX);
    if more > 0 {
        lines.push_str(&format!("\n  and {more} more"));
    }
    lines
}

fn wait_object(wait: &Obstacle) -> Value {
    json!({
        "partition": wait.partition,
        "node": (wait.node > 0).then(|| node(wait.node)),
        "records_behind": (wait.behind > 0).then_some(wait.behind),
        "what": wait.what,
    })
}

fn object(held: &Holdings) -> Value {
    json!({
        "node": node(held.node),
        "name": held.name,
        "state": held.state,
        "leads": held.leads,
        "replicas": held.replicas,
        "logs": held.logs,
        "votes": held.votes,
        "frozen": held.frozen,
        "empty": is_empty(held),
        "waits": held.waits.iter().map(wait_object).collect::<Vec<_>>(),
    })
}

fn removed<'a>(nodes: impl Iterator<Item = &'a ChangeNodeReply>, json: bool) -> String {
    if json {
        return json_lines(nodes.map(
            |reply| json!({ "node": node(reply.node), "name": reply.name, "state": "removed" }),
        ));
    }
    nodes
        .map(|reply| format!("{} ({}) is removed\n", node(reply.node), reply.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_what_is_left() {
        let mut held = Holdings {
            node: 3,
            name: "node3".to_owned(),
            state: "draining".to_owned(),
            leads: vec![1],
            replicas: vec![0, 1],
            logs: vec![0, 1, 2],
            votes: true,
            frozen: vec![1],
            waits: vec![Obstacle {
                partition: 1,
                node: 0,
                behind: 0,
                what: "its placement is frozen: audit".to_owned(),
            }],
        };
        assert_eq!(
            waits(&held),
            "\n  partition 1: its placement is frozen: audit"
        );
        assert_eq!(
            sentence(&held),
            "N3 (node3) is draining: 1 leaders, 2 replicas, 3 logs, a vote left; 1 partitions are frozen there"
        );
        held = Holdings {
            node: 3,
            name: "node3".to_owned(),
            state: "draining".to_owned(),
            ..Holdings::default()
        };
        assert_eq!(
            sentence(&held),
            "N3 (node3) is drained: nothing is left on it"
        );
        held.state = "active".to_owned();
        assert_eq!(sentence(&held), "N3 (node3) is active");
    }
}
