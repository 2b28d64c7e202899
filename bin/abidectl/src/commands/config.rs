//! `abidectl config get` and `abidectl config set`.

use std::fmt::Write as _;
use std::time::Duration;

use abide_rpc::proto::operations::{ClusterConfig, GetConfig, SetConfig, SetConfigReply};
use abide_types::ReplicationWish;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cli::{self, Cli};
use crate::client::Node;
use crate::commands::replication;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::json_lines;

/// How often is looked how far the cluster is.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn get(node: &Node, json: bool) -> Result<String, Failure> {
    Ok(show(&fetch(node).await?, json))
}

pub(crate) async fn set(
    node: &Node,
    wanted: &cli::SetConfig,
    cli: &Cli,
) -> Result<String, Failure> {
    let now = fetch(node).await?;
    let before = now
        .replication
        .map(replication::from_wire)
        .unwrap_or_default();
    let after = change(before, wanted)?;
    let mut request = SetConfig {
        replication: Some(replication::to_wire(after)),
        expected_version: now.version,
        dry_run: true,
    };
    let checked = send(node, request).await?;
    if before == after {
        eprintln!("nothing to do: it is so already");
    } else {
        let plan = difference(before, after, &checked);
        if wanted.dry_run {
            for line in plan {
                eprintln!("{line}");
            }
            return Ok(checked
                .after
                .map_or_else(String::new, |config| show(&config, cli.json)));
        }
        confirm(&plan, &Answer::Yes, cli.yes)?;
        request.dry_run = false;
        send(node, request).await?;
    }
    let config = match wanted.following.limit() {
        Some(limit) => follow(node, limit).await?,
        None => fetch(node).await?,
    };
    Ok(show(&config, cli.json))
}

async fn fetch(node: &Node) -> Result<ClusterConfig, Failure> {
    let answer = node.operations().config(GetConfig {}).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| node.failure(&status))
}

async fn send(node: &Node, request: SetConfig) -> Result<SetConfigReply, Failure> {
    let answer = node.operations().change_config(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| node.failure(&status))
}

/// Says how far the cluster is, until it is as configured.
async fn follow(node: &Node, limit: Duration) -> Result<ClusterConfig, Failure> {
    let deadline = Instant::now() + limit;
    let mut said = None;
    loop {
        let config = fetch(node).await?;
        let left = config.unreconciled.len();
        if left == 0 {
            return Ok(config);
        }
        if deadline <= Instant::now() {
            return Err(Failure::StillGoingOn {
                seconds: limit.as_secs(),
                left: format!("{left} partitions are not as configured"),
            });
        }
        if said != Some(left) {
            eprintln!(
                "{left} of {} partitions are not as configured",
                config.partitions
            );
            said = Some(left);
        }
        sleep(LOOK).await;
    }
}

/// `before` with what was asked for.
fn change(before: ReplicationWish, wanted: &cli::SetConfig) -> Result<ReplicationWish, Failure> {
    let parts = [
        wanted.replicas,
        wanted.write_quorum,
        wanted.zones,
        wanted.regions,
    ];
    if wanted.replication.is_none() && parts.iter().all(Option::is_none) {
        return Err(Failure::NoChange {
            hint: "say what to change: --replication, --replicas, --write-quorum, --zones or --regions",
        });
    }
    let mut after = wanted.replication.unwrap_or(before);
    let [replicas, write_quorum, zones, regions] = parts;
    if let Some(replicas) = replicas {
        after.replicas = replicas;
        // The write quorum that was there belongs to the replicas that were there.
        if write_quorum.is_none() && wanted.replication.is_none() {
            after.write_quorum = 0;
        }
    }
    after.write_quorum = write_quorum.unwrap_or(after.write_quorum);
    after.zones = zones.unwrap_or(after.zones);
    after.regions = regions.unwrap_or(after.regions);
    Ok(after)
}

fn difference(
    before: ReplicationWish,
    after: ReplicationWish,
    checked: &SetConfigReply,
) -> Vec<String> {
    let mut lines = vec![
        format!("- replication: {}", replication::in_words(before)),
        format!("+ replication: {}", replication::in_words(after)),
    ];
    lines.extend(checked.notes.iter().cloned());
    let problems = checked.after.iter().flat_map(|config| &config.problems);
    lines.extend(problems.map(|problem| format!("Note: {problem}")));
    lines
}

fn show(config: &ClusterConfig, json: bool) -> String {
    let replication = config
        .replication
        .map(replication::from_wire)
        .unwrap_or_default();
    if json {
        return json_lines([object(config, replication)]);
    }
    let total = config.partitions as usize;
    let settled = total.saturating_sub(config.unreconciled.len());
    let features = match config.features.as_slice() {
        [] => "-".to_owned(),
        features => features.join(" "),
    };
    let mut text = format!(
        "cluster:       {}\n\
         partitions:    {total}\n\
         replication:   {replication} ({})\n\
         reconciled:    {settled} of {total} partitions\n\
         state machine: version {}\n\
         features:      {features}\n",
        config.cluster_name,
        replication::in_words(replication),
        config.state_machine,
    );
    for problem in &config.problems {
        // Writing to a string does not fail.
        let _ = writeln!(text, "problem:       {problem}");
    }
    text
}

fn object(config: &ClusterConfig, replication: ReplicationWish) -> Value {
    json!({
        "cluster_name": config.cluster_name,
        "partitions": config.partitions,
        "replication": replication.to_string(),
        "replicas": replication.replicas,
        "write_quorum": replication.write_quorum,
        "zones": replication.zones,
        "regions": replication.regions,
        "state_machine": config.state_machine,
        "features": config.features,
        "unreconciled": config.unreconciled,
        "problems": config.problems,
        "version": config.version,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use expect_test::expect;

    fn wanted() -> cli::SetConfig {
        cli::SetConfig {
            replication: None,
            replicas: None,
            write_quorum: None,
            zones: None,
            regions: None,
            dry_run: false,
            following: cli::Following::default(),
        }
    }

    fn changed(before: &str, wanted: &cli::SetConfig) -> String {
        let after = change(before.parse().unwrap(), wanted);
        after.map_or_else(|failure| failure.to_string(), |after| after.to_string())
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(changed("2", &wanted()), "no change was asked for");
        let zones = cli::SetConfig {
            zones: Some(2),
            ..wanted()
        };
        assert_eq!(changed("2", &zones), "{zone: 2, quorum: 2, node: 3}");
        let replicas = cli::SetConfig {
            replicas: Some(5),
            ..wanted()
        };
        assert_eq!(changed("2", &replicas), "{node: 5}");
        let number = cli::SetConfig {
            replication: "3".parse().ok(),
            ..wanted()
        };
        assert_eq!(changed("{zone: 2, node: 3}", &number), "3");
    }

    #[test]
    fn the_configuration_says_what_stands_in_its_way() {
        let config = ClusterConfig {
            cluster_name: "local".to_owned(),
            partitions: 4,
            replication: Some(replication::to_wire("{zone: 2, node: 3}".parse().unwrap())),
            state_machine: 1,
            features: Vec::new(),
            unreconciled: vec![0, 2],
            problems: vec!["replicas should be in 2 zones, and there are nodes in 1.".to_owned()],
            version: 9,
        };
        expect![[r#"
            cluster:       local
            partitions:    4
            replication:   {zone: 2, node: 3} (3 replicas in at least 2 zones, of which a majority acknowledges a write)
            reconciled:    2 of 4 partitions
            state machine: version 1
            features:      -
            problem:       replicas should be in 2 zones, and there are nodes in 1.
        "#]]
        .assert_eq(&show(&config, false));
        expect![[r#"
            {"cluster_name":"local","features":[],"partitions":4,"problems":["replicas should be in 2 zones, and there are nodes in 1."],"regions":0,"replicas":3,"replication":"{zone: 2, node: 3}","state_machine":1,"unreconciled":[0,2],"version":9,"write_quorum":0,"zones":2}
        "#]]
        .assert_eq(&show(&config, true));
    }
}
