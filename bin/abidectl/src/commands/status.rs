//! `abidectl status`: is all well, and if not, what is to be done?

use abide_rpc::proto::cluster::{ClusterStatus, Problem};
use serde_json::{Value, json};

use crate::cli::Sort;
use crate::commands::{nodes, partitions};
use crate::failure::Failure;
use crate::output::{json_lines, node, or_dash};

/// The page, as a failure when the cluster is not well. Notices leave it well.
pub(crate) fn show(cluster: &ClusterStatus, extra: bool, json: bool) -> Result<String, Failure> {
    let text = match json {
        true => json_lines(objects(cluster, extra)),
        false => page(cluster, extra),
    };
    match is_well(cluster) {
        true => Ok(text),
        false => Err(Failure::NotWell { text }),
    }
}

fn is_well(cluster: &ClusterStatus) -> bool {
    (cluster.problems.iter()).all(|problem| problem.severity == "notice") && cluster.judged
}

struct Summary {
    total: usize,
    active: usize,
    alive: usize,
    leader: Option<String>,
}

fn summary(cluster: &ClusterStatus) -> Summary {
    let alive = |node: &&abide_rpc::proto::cluster::NodeEntry| node.liveness == "alive";
    Summary {
        total: cluster.partitions_count as usize,
        active: partitions::active(cluster),
        alive: cluster.nodes.iter().filter(alive).count(),
        leader: (cluster.metadata_leader > 0).then(|| node(cluster.metadata_leader)),
    }
}

/// What the whole amounts to, in one word.
fn verdict(cluster: &ClusterStatus) -> &'static str {
    let has = |severity: &str| {
        let mut problems = cluster.problems.iter();
        problems.any(|problem| problem.severity == severity)
    };
    match () {
        () if !cluster.judged => "unknown",
        () if has("critical") => "critical",
        () if has("warning") => "degraded",
        () => "well",
    }
}

fn objects(cluster: &ClusterStatus, extra: bool) -> Vec<Value> {
    let Summary {
        total,
        active,
        alive,
        leader,
    } = summary(cluster);
    let problems = cluster.problems.iter().map(problem_object);
    let mut object = json!({
        "status": verdict(cluster),
        "cluster_name": cluster.cluster_name,
        "fingerprint": format!("{:016x}", cluster.fingerprint),
        "nodes": cluster.nodes.len(),
        "nodes_alive": alive,
        "partitions": total,
        "partitions_active": active,
        "metadata_leader": leader,
        "metadata_version": cluster.metadata_version,
        "problems": problems.collect::<Vec<_>>(),
    });
    if extra {
        object["node_list"] = nodes::objects(cluster).into();
        object["partition_list"] = partitions::objects(cluster).into();
    }
    vec![object]
}

fn problem_object(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity,
        "code": problem.code,
        "subjects": problem.subjects,
        "message": problem.message,
        "advice": problem.advice,
    })
}

fn page(cluster: &ClusterStatus, extra: bool) -> String {
    let Summary {
        total,
        active,
        alive,
        leader,
    } = summary(cluster);
    let verdict = match verdict(cluster) {
        "well" => "is well",
        "degraded" => "is degraded",
        "critical" => "is in a critical state",
        _ => "cannot be judged: the node that answers runs an earlier version",
    };
    let mut text = format!(
        "cluster {} {verdict}\n{alive} of {} nodes alive, {active} of {total} partitions active, metadata led by {}\n\n",
        cluster.cluster_name,
        cluster.nodes.len(),
        or_dash(leader),
    );
    for Problem {
        severity,
        code,
        message,
        advice,
        ..
    } in &cluster.problems
    {
        text.push_str(&format!("{severity}: {message} [{code}]\n    {advice}\n"));
    }
    if !cluster.problems.is_empty() {
        text.push('\n');
    }
    text.push_str(&nodes::list(cluster, false, false));
    if extra {
        text.push('\n');
        text.push_str(&partitions::list(cluster, Sort::Partition, false));
        text.push('\n');
        text.push_str(&partitions::replicas(cluster, Sort::Partition, false));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    fn judged() -> ClusterStatus {
        let problem = |severity: &str, code: &str, message: &str, advice: &str| Problem {
            severity: severity.to_owned(),
            code: code.to_owned(),
            subjects: vec!["N3".to_owned()],
            message: message.to_owned(),
            advice: advice.to_owned(),
        };
        ClusterStatus {
            judged: true,
            problems: vec![
                problem(
                    "critical",
                    "partitions-without-leader",
                    "partition 1 has no leader",
                    "look",
                ),
                problem(
                    "warning",
                    "node-dead",
                    "N3 (node3) is dead",
                    "start it again",
                ),
            ],
            ..samples::cluster()
        }
    }

    fn text(result: Result<String, Failure>) -> String {
        match result {
            Ok(text) | Err(Failure::NotWell { text }) => text,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn status_says_what_is_wrong_and_what_to_do() {
        let shown = show(&judged(), false, false);
        assert!(shown.is_err(), "the exit code says that it is not well");
        expect![[r#"
            cluster local is in a critical state
            2 of 3 nodes alive, 1 of 2 partitions active, metadata led by N1

            critical: partition 1 has no leader [partitions-without-leader]
                look
            warning: N3 (node3) is dead [node-dead]
                start it again

            NODE  NAME   GEN  LIVENESS  UPTIME   METADATA  LEADS  FOLLOWS  ADDRESS         ROLES
            N1    node1  2    alive     17m 37s  leader    1      0        127.0.0.1:9090  worker log-server
            N2    node2  1    alive     4s       follower  0      1        127.0.0.1:9091  worker log-server
            N3    node3  5    dead      -        -         -      -        127.0.0.1:9092  worker log-server
        "#]]
        .assert_eq(&text(shown));
    }

    #[test]
    fn notices_leave_it_well() {
        let mut cluster = judged();
        cluster.problems.clear();
        assert!(text(show(&cluster, false, false)).starts_with("cluster local is well\n"));
        cluster.problems = judged().problems;
        cluster.problems.truncate(1);
        cluster.problems[0].severity = "notice".to_owned();
        assert!(show(&cluster, false, false).is_ok());
    }

    #[test]
    fn who_does_not_judge_is_not_taken_for_well() {
        let shown = show(&samples::cluster(), false, true);
        assert!(shown.is_err());
        assert!(text(shown).contains("\"status\":\"unknown\""));
    }

    #[test]
    fn status_for_programs_is_one_object() {
        expect![[r#"
            {"cluster_name":"local","fingerprint":"00000000000000ab","metadata_leader":"N1","metadata_version":40,"nodes":3,"nodes_alive":2,"partitions":2,"partitions_active":1,"problems":[{"advice":"look","code":"partitions-without-leader","message":"partition 1 has no leader","severity":"critical","subjects":["N3"]},{"advice":"start it again","code":"node-dead","message":"N3 (node3) is dead","severity":"warning","subjects":["N3"]}],"status":"critical"}
        "#]]
        .assert_eq(&text(show(&judged(), false, true)));
        let extra: Value = serde_json::from_str(&text(show(&judged(), true, true))).unwrap();
        assert_eq!(extra["node_list"][2]["liveness"], "dead");
        assert_eq!(extra["partition_list"][0]["leader"], "N1");
    }
}
