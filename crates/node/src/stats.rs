//! The cluster's status as the admin API shows it: `GET /api/v1/cluster/stats`.

use abide_rpc::proto::cluster::{ClusterStatus, NodeEntry, PartitionEntry, ReplicaStatus};
use serde_json::{Value, json};

/// A document with stable names; what is not known is null.
pub(crate) fn document(cluster: &ClusterStatus) -> Value {
    let serious = |severity: &str| severity != "notice";
    let is_well = !(cluster.problems.iter()).any(|problem| serious(&problem.severity));
    let is_critical = (cluster.problems.iter()).any(|problem| problem.severity == "critical");
    let alive = cluster
        .nodes
        .iter()
        .filter(|node| node.liveness == "alive")
        .count();
    let active = (cluster.partitions.iter())
        .filter(|entry| leader_of(cluster, entry).is_some_and(|leader| leader.state == "active"))
        .count();
    json!({
        "cluster_name": cluster.cluster_name,
        "fingerprint": format!("{:016x}", cluster.fingerprint),
        "status": match (is_well, is_critical) {
            (true, _) => "well",
            (false, false) => "degraded",
            (false, true) => "critical",
        },
        "answered_by": id(cluster.node),
        "leader": known(cluster.metadata_leader).map(id),
        "leader_name": name_of(cluster, cluster.metadata_leader),
        "metadata_version": cluster.metadata_version,
        "nodes_total": cluster.nodes.len(),
        "nodes_alive": alive,
        "partitions_total": cluster.partitions_count,
        "partitions_active": active,
        "replication": { "replicas": cluster.replicas, "write_quorum": cluster.write_quorum },
        "members": cluster.nodes.iter().map(member).collect::<Vec<_>>(),
        "partitions": (cluster.partitions.iter())
            .map(|entry| partition(cluster, entry))
            .collect::<Vec<_>>(),
        "problems": (cluster.problems.iter())
            .map(|problem| json!({
                "severity": problem.severity,
                "code": problem.code,
                "subjects": problem.subjects,
                "message": problem.message,
                "advice": problem.advice,
            }))
            .collect::<Vec<_>>(),
    })
}

fn id(node: u32) -> String {
    format!("N{node}")
}

fn known(node: u32) -> Option<u32> {
    (node > 0).then_some(node)
}

fn name_of(cluster: &ClusterStatus, node: u32) -> Option<&str> {
    let entry = cluster.nodes.iter().find(|entry| entry.node == node)?;
    Some(&entry.name)
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn member(node: &NodeEntry) -> Value {
    let status = node.status.as_ref();
    let count = |role: &str| {
        status.map(|status| {
            let held = status.replicas.iter();
            held.filter(|replica| replica.role == role).count()
        })
    };
    let server = status.and_then(|status| status.metadata_server.as_ref());
    let disk = status.and_then(|status| status.disk.as_ref());
    json!({
        "node": id(node.node),
        "name": node.name,
        "generation": node.generation,
        "address": node.address,
        "ingress_address": some(&node.ingress_address),
        "admin_address": some(&node.admin_address),
        "roles": node.roles,
        "location": some(&node.location),
        "status": node.liveness,
        "state": node.state,
        "phase": status.map(|status| &status.state),
        "ready": status.and_then(|status| status.unready.as_ref()).map(String::is_empty),
        "unready_reason": status.and_then(|status| some(status.unready.as_deref().unwrap_or_default())),
        "unreachable_reason": some(&node.unreachable),
        "version": status.map(|status| &status.version),
        "uptime_ms": status.map(|status| status.uptime_ms),
        "metadata_server": server.map(|server| json!({
            "state": server.state,
            "term": server.term,
            "applied": server.applied,
            "last_log": server.last_log,
            "voters": server.voters.iter().copied().map(id).collect::<Vec<_>>(),
        })),
        "disk": disk.map(|disk| json!({
            "full": disk.is_full,
            "free_bytes": disk.free_bytes,
            "free_bytes_min": disk.free_bytes_min,
        })),
        "leads": count("leader"),
        "follows": count("follower"),
    })
}

fn replica_of(cluster: &ClusterStatus, node: u32, partition: u32) -> Option<&ReplicaStatus> {
    let entry = cluster.nodes.iter().find(|entry| entry.node == node)?;
    let replicas = &entry.status.as_ref()?.replicas;
    replicas
        .iter()
        .find(|replica| replica.partition == partition)
}

fn leader_of<'a>(cluster: &'a ClusterStatus, entry: &PartitionEntry) -> Option<&'a ReplicaStatus> {
    let replica = replica_of(cluster, entry.leader, entry.partition)?;
    (replica.role == "leader").then_some(replica)
}

fn partition(cluster: &ClusterStatus, entry: &PartitionEntry) -> Value {
    let replicas = entry.replicas.iter().map(|node| {
        let replica = replica_of(cluster, *node, entry.partition);
        json!({
            "node": id(*node),
            "name": name_of(cluster, *node),
            "role": replica.map(|replica| &replica.role),
            "state": replica.map_or("unreachable", |replica| &replica.state),
            "applied": replica.map(|replica| replica.applied),
            "durable": replica.map(|replica| replica.durable),
            "lag": replica.map(|replica| replica.tail.saturating_sub(replica.applied + 1)),
            "problem": replica.and_then(|replica| some(&replica.problem)),
        })
    });
    json!({
        "partition": entry.partition,
        "leader": known(entry.leader).map(id),
        "leader_name": name_of(cluster, entry.leader),
        "epoch": entry.epoch,
        "state": leader_of(cluster, entry).map_or("no-leader", |leader| &leader.state),
        "replicas": replicas.collect::<Vec<_>>(),
    })
}
