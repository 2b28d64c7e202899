//! `abidectl nodes list`.

use abide_rpc::proto::cluster::{ClusterStatus, NodeEntry, NodeStatus};
use serde_json::json;

use crate::output::{json_lines, node, or_dash, since, table};

pub(crate) fn list(cluster: &ClusterStatus, extra: bool, json: bool) -> String {
    if json {
        return json_lines(objects(cluster));
    }
    if extra {
        let header = [
            "NODE",
            "NAME",
            "GEN",
            "STATE",
            "LIVENESS",
            "LOCATION",
            "VERSION",
            "STATE-MACHINE",
            "FEATURES",
            "METADATA-VERSION",
            "INGRESS",
            "ADMIN",
        ];
        return table(&header, cluster.nodes.iter().map(extra_row));
    }
    let header = [
        "NODE", "NAME", "GEN", "LIVENESS", "UPTIME", "METADATA", "LEADS", "FOLLOWS", "ADDRESS",
        "ROLES",
    ];
    table(&header, cluster.nodes.iter().map(row))
}

/// One object a node.
pub(crate) fn objects(cluster: &ClusterStatus) -> Vec<serde_json::Value> {
    cluster.nodes.iter().map(object).collect()
}

fn row(entry: &NodeEntry) -> Vec<String> {
    let status = entry.status.as_ref();
    let liveness = if entry.state == "active" {
        entry.liveness.clone()
    } else {
        format!("{}, {}", entry.liveness, entry.state)
    };
    vec![
        node(entry.node),
        entry.name.clone(),
        entry.generation.to_string(),
        liveness,
        or_dash(status.map(|status| since(status.uptime_ms))),
        or_dash(metadata_state(status)),
        or_dash(status.map(|status| count(status, "leader"))),
        or_dash(status.map(|status| count(status, "follower"))),
        entry.address.clone(),
        entry.roles.join(" "),
    ]
}

fn extra_row(entry: &NodeEntry) -> Vec<String> {
    let status = entry.status.as_ref();
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    vec![
        node(entry.node),
        entry.name.clone(),
        entry.generation.to_string(),
        entry.state.clone(),
        entry.liveness.clone(),
        or_dash(known(&entry.location)),
        or_dash(status.map(|status| status.version.clone())),
        or_dash((entry.state_machine > 0).then_some(entry.state_machine)),
        or_dash(known(&entry.features.join(" "))),
        or_dash(status.map(|status| status.metadata_version)),
        or_dash(known(&entry.ingress_address)),
        or_dash(known(&entry.admin_address)),
    ]
}

fn object(entry: &NodeEntry) -> serde_json::Value {
    let status = entry.status.as_ref();
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "node": node(entry.node),
        "name": entry.name,
        "generation": entry.generation,
        "address": entry.address,
        "ingress_address": known(&entry.ingress_address),
        "admin_address": known(&entry.admin_address),
        "roles": entry.roles,
        "location": entry.location,
        "state": entry.state,
        "liveness": entry.liveness,
        "unreachable": known(&entry.unreachable),
        "version": status.map(|status| status.version.clone()),
        "state_machine": (entry.state_machine > 0).then_some(entry.state_machine),
        "features": entry.features,
        "metadata_version": status.map(|status| status.metadata_version),
        "uptime_ms": status.map(|status| status.uptime_ms),
        "metadata_server": metadata_state(status),
        "leads": status.map(|status| count(status, "leader")),
        "follows": status.map(|status| count(status, "follower")),
    })
}

fn metadata_state(status: Option<&NodeStatus>) -> Option<String> {
    let server = status?.metadata_server.as_ref()?;
    Some(server.state.clone())
}

fn count(status: &NodeStatus, role: &str) -> usize {
    status
        .replicas
        .iter()
        .filter(|replica| replica.role == role)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    #[test]
    fn a_node_that_does_not_answer_is_listed_with_the_reason() {
        let text = list(&samples::cluster(), false, true);
        expect![[r#"
            {"address":"127.0.0.1:9092","admin_address":null,"features":[],"follows":null,"generation":5,"ingress_address":null,"leads":null,"liveness":"dead","location":"","metadata_server":null,"metadata_version":null,"name":"node3","node":"N3","roles":["worker","log-server"],"state":"active","state_machine":null,"unreachable":"the node is not connected","uptime_ms":null,"version":null}
        "#]]
        .assert_eq(&format!("{}\n", text.lines().last().unwrap_or_default()));
    }
}
