//! `abidectl metadata-server list-servers`.

use abide_rpc::proto::cluster::{ClusterStatus, MetadataServerStatus, NodeEntry};
use serde_json::json;

use crate::output::{json_lines, node, nodes, or_dash, table};

pub(crate) fn list(cluster: &ClusterStatus, json: bool) -> String {
    let servers: Vec<_> = cluster
        .nodes
        .iter()
        .filter(|entry| entry.roles.iter().any(|role| role == "metadata-server"))
        .map(|entry| (entry, server(entry)))
        .collect();
    let voters = newest(cluster).map_or(&[][..], |status| &status.voters);
    if json {
        return json_lines(servers.iter().map(|(entry, status)| {
            json!({
                "node": node(entry.node),
                "name": entry.name,
                "state": status.map(|status| status.state.clone()),
                "votes": voters.contains(&entry.node),
                "leader": status.and_then(leader),
                "term": status.map(|status| status.term),
                "last_log": status.map(|status| status.last_log),
                "applied": status.map(|status| status.applied),
                "snapshot": status.map(|status| status.snapshot),
                "voters": status.map(|status| status.voters.iter().map(|id| node(*id)).collect::<Vec<_>>()),
                "learners": status.map(|status| status.learners.iter().map(|id| node(*id)).collect::<Vec<_>>()),
            })
        }));
    }
    let header = [
        "NODE", "NAME", "STATE", "VOTES", "LEADER", "TERM", "LAST-LOG", "APPLIED", "SNAPSHOT",
        "VOTERS", "LEARNERS",
    ];
    table(
        &header,
        servers.iter().map(|(entry, status)| {
            vec![
                node(entry.node),
                entry.name.clone(),
                status
                    .map_or("unreachable", |status| &status.state)
                    .to_owned(),
                if voters.contains(&entry.node) {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
                or_dash(status.and_then(leader)),
                or_dash(status.map(|status| status.term)),
                or_dash(status.map(|status| status.last_log)),
                or_dash(status.map(|status| status.applied)),
                or_dash(status.map(|status| status.snapshot)),
                status.map_or_else(|| "-".to_owned(), |status| nodes(&status.voters)),
                status.map_or_else(|| "-".to_owned(), |status| nodes(&status.learners)),
            ]
        }),
    )
}

fn server(entry: &NodeEntry) -> Option<&MetadataServerStatus> {
    entry.status.as_ref()?.metadata_server.as_ref()
}

/// What the server says that has seen the latest term.
fn newest(cluster: &ClusterStatus) -> Option<&MetadataServerStatus> {
    let servers = cluster.nodes.iter().filter_map(server);
    servers.max_by_key(|status| (status.term, status.applied))
}

fn leader(status: &MetadataServerStatus) -> Option<String> {
    (status.leader > 0).then(|| node(status.leader))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    #[test]
    fn only_metadata_servers_are_listed() {
        let mut cluster = samples::cluster();
        for entry in cluster.nodes.iter_mut().take(2) {
            entry.roles.push("metadata-server".to_owned());
        }
        if let Some(status) = cluster.nodes[0].status.as_mut() {
            status.metadata_server = Some(MetadataServerStatus {
                state: "leader".to_owned(),
                term: 4,
                leader: 1,
                last_log: 90,
                applied: 90,
                snapshot: 50,
                voters: vec![1],
                learners: vec![2],
            });
        }
        expect![[r#"
            NODE  NAME   STATE     VOTES  LEADER  TERM  LAST-LOG  APPLIED  SNAPSHOT  VOTERS  LEARNERS
            N1    node1  leader    yes    N1      4     90        90       50        N1      N2
            N2    node2  follower  no     -       0     0         0        0         -       -
        "#]]
        .assert_eq(&list(&cluster, false));
    }
}
