//! `abidectl partitions leadership`, `partitions placement` and `partitions move`; new segments of logs.

use abide_rpc::proto::cluster::{ClusterStatus, PartitionEntry};
use abide_rpc::proto::operations::change_rules::{Change, Unset};
use abide_rpc::proto::operations::{ChangeRules, GetRules, Reassign, Reassigned, Rule};
use serde_json::{Value, json};

use crate::cli::{self, Cli};
use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::{json_lines, node, nodes, or_dash, table};
use crate::select::selects;

pub(crate) async fn leadership(
    asked: &Node,
    command: &cli::Leadership,
    cli: &Cli,
) -> Result<String, Failure> {
    use cli::Leadership as L;
    let (which, change) = match command {
        L::Show { which } => {
            let rows = rows(asked, &which.numbers()).await?;
            return Ok(show_leadership(&rows, cli.json));
        }
        L::Pin { which, node } => {
            let what = format!("Each is led by {node} whenever it can, however loaded it is.");
            confirm_for_all(asked, &which.numbers(), "are pinned", what, cli).await?;
            (which, Change::Pin(node.clone()))
        }
        L::Unpin { which } => (which, Change::Unpin(Unset {})),
        L::Freeze { which, reason } => {
            let what = "No leader moves but after a failure: balance and new nodes change nothing."
                .to_owned();
            confirm_for_all(asked, &which.numbers(), "keep their leaders", what, cli).await?;
            (which, Change::FreezeLeadership(reason.clone()))
        }
        L::Unfreeze { which } => (which, Change::UnfreezeLeadership(Unset {})),
    };
    let wanted = which.numbers();
    change_rules(asked, &wanted, change).await?;
    let rows = rows(asked, &wanted).await?;
    Ok(show_leadership(&rows, cli.json))
}

pub(crate) async fn placement(
    asked: &Node,
    command: &cli::Placement,
    cli: &Cli,
) -> Result<String, Failure> {
    use cli::Placement as P;
    let wanted = match command {
        P::Show { which } => which.numbers(),
        P::Set {
            which,
            replicas,
            freeze,
        } => {
            let request = Reassign {
                partitions: which.numbers(),
                leader: String::new(),
                replicas: replicas.clone(),
                freeze: freeze.clone(),
            };
            let plan = format!(
                "Replicas of {} go to {}: new ones come first, and the others go when these have caught up.",
                named(&request.partitions),
                replicas.join(" ")
            );
            confirm(&[plan], &Answer::Yes, cli.yes)?;
            reassign(asked, request).await?;
            which.numbers()
        }
        P::Freeze { which, reason } => {
            let wanted = which.numbers();
            let what =
                "What a lost node had is not made anew, and no node can be drained.".to_owned();
            confirm_for_all(asked, &wanted, "keep their replicas", what, cli).await?;
            change_rules(asked, &wanted, Change::FreezePlacement(reason.clone())).await?;
            wanted
        }
        P::Unfreeze { which } => {
            let wanted = which.numbers();
            change_rules(asked, &wanted, Change::UnfreezePlacement(Unset {})).await?;
            wanted
        }
    };
    let rows = rows(asked, &wanted).await?;
    Ok(show_placement(&rows, cli.json))
}

/// Has another replica lead.
pub(crate) async fn move_leader(
    asked: &Node,
    partitions: Vec<u32>,
    to: &str,
    cli: &Cli,
) -> Result<String, Failure> {
    let request = Reassign {
        partitions,
        leader: to.to_owned(),
        ..Reassign::default()
    };
    let done = reassign(asked, request).await?;
    Ok(show_reassigned(&done, cli.json))
}

/// Begins new segments of logs.
pub(crate) async fn reconfigure(
    asked: &Node,
    request: Reassign,
    cli: &Cli,
) -> Result<String, Failure> {
    let mut plan = format!(
        "The open segments of {} are closed, and new ones begin under fresh epochs",
        named(&request.partitions)
    );
    if !request.replicas.is_empty() {
        plan.push_str(&format!(" on {}", request.replicas.join(" ")));
    }
    if !request.leader.is_empty() {
        plan.push_str(&format!(", led by {}", request.leader));
    }
    plan.push('.');
    confirm(&[plan], &Answer::Yes, cli.yes)?;
    let done = reassign(asked, request).await?;
    Ok(show_reassigned(&done, cli.json))
}

fn named(partitions: &[u32]) -> String {
    match partitions {
        [] => "all partitions".to_owned(),
        [one] => format!("partition {one}"),
        many => {
            let many: Vec<String> = many.iter().map(u32::to_string).collect();
            format!("partitions {}", many.join(", "))
        }
    }
}

/// Asks before something is wanted of every partition that there is: it is easily done, and felt much later.
async fn confirm_for_all(
    asked: &Node,
    wanted: &[u32],
    what_they_do: &str,
    what_it_means: String,
    cli: &Cli,
) -> Result<(), Failure> {
    let count = asked.describe().await?.partitions_count;
    if count < 2 || !(0..count).all(|partition| wanted.contains(&partition)) {
        return Ok(());
    }
    let plan = [
        format!("All {count} partitions of the cluster {what_they_do}."),
        what_it_means,
    ];
    confirm(&plan, &Answer::Yes, cli.yes)
}

async fn change_rules(asked: &Node, partitions: &[u32], change: Change) -> Result<(), Failure> {
    let request = ChangeRules {
        partitions: partitions.to_vec(),
        change: Some(change),
    };
    let answer = asked.operations().set_rules(request).await;
    let answer = answer
        .map_err(|status| asked.failure(&status))?
        .into_inner();
    if answer.changed.is_empty() {
        eprintln!("nothing to do: it is so already");
    }
    Ok(())
}

async fn reassign(asked: &Node, request: Reassign) -> Result<Vec<Reassigned>, Failure> {
    let answer = asked.operations().reassign_partitions(request).await;
    let answer = answer.map_err(|status| asked.failure(&status))?;
    Ok(answer.into_inner().partitions)
}

/// A partition, what is wanted of it, and the name of its leader.
struct Row {
    entry: PartitionEntry,
    rule: Rule,
    leader_name: Option<String>,
}

async fn rows(asked: &Node, wanted: &[u32]) -> Result<Vec<Row>, Failure> {
    let cluster = asked.describe().await?;
    let answer = asked.operations().rules(GetRules {}).await;
    let rules = answer
        .map_err(|status| asked.failure(&status))?
        .into_inner()
        .rules;
    if let Some(missing) = wanted
        .iter()
        .find(|partition| **partition >= cluster.partitions_count)
    {
        return Err(Failure::NoPartition {
            partition: u16::try_from(*missing).unwrap_or(u16::MAX),
            count: cluster.partitions_count,
        });
    }
    Ok(combine(&cluster, &rules, wanted))
}

fn combine(cluster: &ClusterStatus, rules: &[Rule], wanted: &[u32]) -> Vec<Row> {
    let row = |entry: &PartitionEntry| {
        let rule = rules.iter().find(|rule| rule.partition == entry.partition);
        let leader = cluster.nodes.iter().find(|node| node.node == entry.leader);
        Row {
            entry: entry.clone(),
            rule: rule.cloned().unwrap_or_default(),
            leader_name: leader.map(|leader| leader.name.clone()),
        }
    };
    let entries = cluster.partitions.iter();
    entries
        .filter(|entry| selects(wanted, entry.partition))
        .map(row)
        .collect()
}

fn known(number: u32) -> Option<String> {
    (number > 0).then(|| node(number))
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn show_leadership(rows: &[Row], json: bool) -> String {
    if json {
        return json_lines(rows.iter().map(|row| {
            json!({
                "partition": row.entry.partition,
                "leader": known(row.entry.leader),
                "leader_name": row.leader_name,
                "epoch": row.entry.epoch,
                "pinned": known(row.rule.pinned),
                "frozen": text(&row.rule.leadership_frozen),
            })
        }));
    }
    let header = ["PARTITION", "LEADER", "NAME", "EPOCH", "PINNED", "FROZEN"];
    table(
        &header,
        rows.iter().map(|row| {
            vec![
                row.entry.partition.to_string(),
                or_dash(known(row.entry.leader)),
                or_dash(row.leader_name.as_ref()),
                row.entry.epoch.to_string(),
                or_dash(known(row.rule.pinned)),
                or_dash(text(&row.rule.leadership_frozen)),
            ]
        }),
    )
}

fn show_placement(rows: &[Row], json: bool) -> String {
    let names = |ids: &[u32]| ids.iter().map(|id| node(*id)).collect::<Vec<_>>();
    if json {
        return json_lines(rows.iter().map(|row| {
            json!({
                "partition": row.entry.partition,
                "replicas": names(&row.entry.replicas),
                "next": names(&row.entry.next),
                "write_quorum": row.entry.write_quorum,
                "frozen": text(&row.rule.placement_frozen),
            })
        }));
    }
    let header = ["PARTITION", "REPLICAS", "NEXT", "QUORUM", "PLACEMENT"];
    table(
        &header,
        rows.iter().map(|row| {
            let placement = match text(&row.rule.placement_frozen) {
                Some(reason) => format!("frozen: {reason}"),
                None => "automatic".to_owned(),
            };
            vec![
                row.entry.partition.to_string(),
                nodes(&row.entry.replicas),
                nodes(&row.entry.next),
                row.entry.write_quorum.to_string(),
                placement,
            ]
        }),
    )
}

fn show_reassigned(done: &[Reassigned], json: bool) -> String {
    if json {
        return json_lines(done.iter().map(object));
    }
    let header = ["PARTITION", "EPOCH", "LEADER", "REPLICAS", "NEXT"];
    table(
        &header,
        done.iter().map(|row| {
            vec![
                row.partition.to_string(),
                row.epoch.to_string(),
                or_dash(known(row.leader)),
                nodes(&row.replicas),
                nodes(&row.next),
            ]
        }),
    )
}

fn object(row: &Reassigned) -> Value {
    let names = |ids: &[u32]| ids.iter().map(|id| node(*id)).collect::<Vec<_>>();
    json!({
        "partition": row.partition,
        "epoch": row.epoch,
        "leader": known(row.leader),
        "replicas": names(&row.replicas),
        "next": names(&row.next),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    fn rows() -> Vec<Row> {
        let rule = Rule {
            partition: 1,
            pinned: 2,
            leadership_frozen: String::new(),
            placement_frozen: "audit".to_owned(),
        };
        combine(&samples::cluster(), &[rule], &[])
    }

    #[test]
    fn leadership_shows_pins_and_freezes() {
        expect![[r#"
            PARTITION  LEADER  NAME   EPOCH  PINNED  FROZEN
            0          N1      node1  7      -       -
            1          N3      node3  4      N2      -
        "#]]
        .assert_eq(&show_leadership(&rows(), false));
    }

    #[test]
    fn placement_shows_what_is_next_and_what_is_left_alone() {
        expect![[r#"
            PARTITION  REPLICAS  NEXT  QUORUM  PLACEMENT
            0          N1 N2 N3  -     2       automatic
            1          N1 N2 N3  -     2       frozen: audit
        "#]]
        .assert_eq(&show_placement(&rows(), false));
        expect![[r#"
            {"frozen":null,"next":[],"partition":0,"replicas":["N1","N2","N3"],"write_quorum":2}
            {"frozen":"audit","next":[],"partition":1,"replicas":["N1","N2","N3"],"write_quorum":2}
        "#]]
        .assert_eq(&show_placement(&rows(), true));
    }

    #[test]
    fn only_what_was_selected_is_shown() {
        let rows = combine(&samples::cluster(), &[], &[1]);
        assert_eq!(rows.len(), 1);
    }
}
