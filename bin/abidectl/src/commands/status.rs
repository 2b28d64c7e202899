//! `abidectl status`: is all well?

use abide_rpc::proto::cluster::ClusterStatus;
use serde_json::json;

use crate::commands::{nodes, partitions};
use crate::output::{json_lines, node, or_dash};

pub(crate) fn show(cluster: &ClusterStatus, json: bool) -> String {
    let total = cluster.partitions_count as usize;
    let active = partitions::active(cluster);
    let alive = cluster
        .nodes
        .iter()
        .filter(|node| node.liveness == "alive")
        .count();
    let leader = (cluster.metadata_leader > 0).then(|| node(cluster.metadata_leader));
    if json {
        return json_lines([json!({
            "cluster_name": cluster.cluster_name,
            "fingerprint": format!("{:016x}", cluster.fingerprint),
            "nodes": cluster.nodes.len(),
            "nodes_alive": alive,
            "partitions": total,
            "partitions_active": active,
            "metadata_leader": leader,
            "metadata_version": cluster.metadata_version,
        })]);
    }
    format!(
        "cluster {}: {alive} of {} nodes alive, {active} of {total} partitions active, metadata led by {}\n\n{}",
        cluster.cluster_name,
        cluster.nodes.len(),
        or_dash(leader),
        nodes::list(cluster, false, false),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    #[test]
    fn status_says_first_whether_all_is_well() {
        expect![[r#"
            cluster local: 2 of 3 nodes alive, 1 of 2 partitions active, metadata led by N1

            NODE  NAME   GEN  LIVENESS  UPTIME   METADATA  LEADS  FOLLOWS  ADDRESS         ROLES
            N1    node1  2    alive     17m 37s  leader    1      0        127.0.0.1:9090  worker log-server
            N2    node2  1    alive     4s       follower  0      1        127.0.0.1:9091  worker log-server
            N3    node3  5    dead      -        -         -      -        127.0.0.1:9092  worker log-server
        "#]]
        .assert_eq(&show(&samples::cluster(), false));
    }

    #[test]
    fn status_for_programs_is_one_object() {
        expect![[r#"
            {"cluster_name":"local","fingerprint":"00000000000000ab","metadata_leader":"N1","metadata_version":40,"nodes":3,"nodes_alive":2,"partitions":2,"partitions_active":1}
        "#]]
        .assert_eq(&show(&samples::cluster(), true));
    }
}
