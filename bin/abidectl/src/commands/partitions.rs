//! `abidectl partitions list` and `abidectl partitions of`.

use abide_rpc::proto::cluster::{ClusterStatus, PartitionEntry, ReplicaStatus};
use abide_types::{InvocationId, PartitionKey, partition_of};
use serde_json::{Value, json};

use crate::cli::Sort;
use crate::failure::Failure;
use crate::output::{json_lines, node, nodes, or_dash, table};

pub(crate) fn list(cluster: &ClusterStatus, sort: Sort, json: bool) -> String {
    let mut entries = all(cluster);
    match sort {
        Sort::Partition => {}
        Sort::Node => entries.sort_by_key(|entry| entry.leader),
        Sort::Active => entries.sort_by_key(|entry| state(cluster, entry) == "active"),
    }
    if json {
        return json_lines(entries.iter().map(|entry| object(cluster, entry)));
    }
    let header = [
        "PARTITION",
        "LEADER",
        "NAME",
        "EPOCH",
        "APPLIED",
        "DURABLE",
        "ARCHIVED",
        "TAIL",
        "LAG",
        "STATE",
        "REPLICAS",
    ];
    table(&header, entries.iter().map(|entry| row(cluster, entry)))
}

/// One object a partition.
pub(crate) fn objects(cluster: &ClusterStatus) -> Vec<Value> {
    let entries = all(cluster);
    entries.iter().map(|entry| object(cluster, entry)).collect()
}

/// One row for each replica, those of nodes that do not answer included.
pub(crate) fn replicas(cluster: &ClusterStatus, sort: Sort, json: bool) -> String {
    let entries = all(cluster);
    let rows = entries.iter().flat_map(|entry| {
        entry.replicas.iter().map(|id| {
            let status = replica(cluster, *id, entry.partition);
            (entry.partition, *id, status)
        })
    });
    let mut rows: Vec<_> = rows.collect();
    let is_active = |status: &ReplicaStatus| status.state == "active";
    match sort {
        Sort::Partition => {}
        Sort::Node => rows.sort_by_key(|(_, id, _)| *id),
        Sort::Active => rows.sort_by_key(|(_, _, status)| status.is_some_and(is_active)),
    }
    let rows = rows.into_iter();
    if json {
        return json_lines(rows.map(|(partition, id, status)| {
            json!({
                "partition": partition,
                "node": node(id),
                "node_name": name(cluster, id),
                "role": status.map(|status| status.role.clone()),
                "epoch": status.map(|status| status.epoch),
                "applied": status.map(|status| status.applied),
                "durable": status.map(|status| status.durable),
                "archived": status.and_then(archived),
                "tail": status.map(|status| status.tail),
                "state": status.map_or("unreachable", |status| status.state.as_str()),
                "problem": status.map(|status| status.problem.clone()).filter(|problem| !problem.is_empty()),
            })
        }));
    }
    let header = [
        "PARTITION",
        "NODE",
        "NAME",
        "ROLE",
        "EPOCH",
        "APPLIED",
        "DURABLE",
        "ARCHIVED",
        "LAG",
        "STATE",
        "PROBLEM",
    ];
    table(
        &header,
        rows.map(|(partition, id, status)| {
            vec![
                partition.to_string(),
                node(id),
                or_dash(name(cluster, id)),
                or_dash(status.map(|status| status.role.clone())),
                or_dash(status.map(|status| status.epoch)),
                or_dash(status.map(|status| status.applied)),
                or_dash(status.map(|status| status.durable)),
                or_dash(status.and_then(archived)),
                or_dash(status.map(lag)),
                status
                    .map_or("unreachable", |status| status.state.as_str())
                    .to_owned(),
                or_dash(
                    status
                        .map(|status| status.problem.clone())
                        .filter(|problem| !problem.is_empty()),
                ),
            ]
        }),
    )
}

/// What an operator names: an invocation, or the key of an object or workflow.
pub(crate) fn key_of(text: &str) -> Result<PartitionKey, Failure> {
    if !text.starts_with("inv_") {
        return Ok(PartitionKey::of_key(text));
    }
    let id: InvocationId = text.parse().map_err(|_| Failure::InvocationId {
        text: text.to_owned(),
    })?;
    Ok(id.partition_key())
}

pub(crate) fn of(cluster: &ClusterStatus, key: PartitionKey, json: bool) -> String {
    let count = u16::try_from(cluster.partitions_count).unwrap_or(u16::MAX);
    let partition = u32::from(partition_of(key, count).0);
    let entry = entry(cluster, partition);
    if json {
        return json_lines([object(cluster, &entry)]);
    }
    let header = ["PARTITION", "LEADER", "NAME", "EPOCH", "STATE", "REPLICAS"];
    let leader = leader(&entry);
    table(
        &header,
        [vec![
            partition.to_string(),
            or_dash(leader.map(node)),
            or_dash(leader.and_then(|leader| name(cluster, leader))),
            entry.epoch.to_string(),
            state(cluster, &entry),
            nodes(&entry.replicas),
        ]],
    )
}

/// How many partitions have a leader that serves.
pub(crate) fn active(cluster: &ClusterStatus) -> usize {
    all(cluster)
        .iter()
        .filter(|entry| state(cluster, entry) == "active")
        .count()
}

fn row(cluster: &ClusterStatus, entry: &PartitionEntry) -> Vec<String> {
    let leader = leader(entry);
    let status = leader.and_then(|leader| replica(cluster, leader, entry.partition));
    vec![
        entry.partition.to_string(),
        or_dash(leader.map(node)),
        or_dash(leader.and_then(|leader| name(cluster, leader))),
        entry.epoch.to_string(),
        or_dash(status.map(|status| status.applied)),
        or_dash(status.map(|status| status.durable)),
        or_dash(status.and_then(archived)),
        or_dash(status.map(|status| status.tail)),
        or_dash(status.map(lag)),
        state(cluster, entry),
        nodes(&entry.replicas),
    ]
}

fn object(cluster: &ClusterStatus, entry: &PartitionEntry) -> Value {
    let leader = leader(entry);
    let status = leader.and_then(|leader| replica(cluster, leader, entry.partition));
    let replicas: Vec<String> = entry.replicas.iter().map(|id| node(*id)).collect();
    json!({
        "partition": entry.partition,
        "leader": leader.map(node),
        "leader_name": leader.and_then(|leader| name(cluster, leader)),
        "epoch": entry.epoch,
        "applied": status.map(|status| status.applied),
        "durable": status.map(|status| status.durable),
        "archived": status.and_then(archived),
        "tail": status.map(|status| status.tail),
        "state": state(cluster, entry),
        "replicas": replicas,
    })
}

/// Every partition, those that were never placed included.
fn all(cluster: &ClusterStatus) -> Vec<PartitionEntry> {
    (0..cluster.partitions_count)
        .map(|partition| entry(cluster, partition))
        .collect()
}

fn entry(cluster: &ClusterStatus, partition: u32) -> PartitionEntry {
    let known = cluster
        .partitions
        .iter()
        .find(|entry| entry.partition == partition);
    known.cloned().unwrap_or(PartitionEntry {
        partition,
        ..PartitionEntry::default()
    })
}

fn leader(entry: &PartitionEntry) -> Option<u32> {
    (entry.leader > 0).then_some(entry.leader)
}

fn name(cluster: &ClusterStatus, id: u32) -> Option<String> {
    let entry = cluster.nodes.iter().find(|entry| entry.node == id)?;
    Some(entry.name.clone())
}

fn replica(cluster: &ClusterStatus, id: u32, partition: u32) -> Option<&ReplicaStatus> {
    let entry = cluster.nodes.iter().find(|entry| entry.node == id)?;
    let status = entry.status.as_ref()?;
    status
        .replicas
        .iter()
        .find(|replica| replica.partition == partition)
}

/// As the leader has it; where it does not answer or is not there, what that means.
fn state(cluster: &ClusterStatus, entry: &PartitionEntry) -> String {
    let Some(leader) = leader(entry) else {
        return "no-leader".to_owned();
    };
    match replica(cluster, leader, entry.partition) {
        Some(status) if status.role == "leader" => status.state.clone(),
        Some(_) => "taking-over".to_owned(),
        None => "unreachable".to_owned(),
    }
}

/// The last record that every kept snapshot shows, as leaders know it.
fn archived(status: &ReplicaStatus) -> Option<u64> {
    (status.archived > 0).then_some(status.archived)
}

/// Records that are there and not applied.
pub(crate) fn lag(status: &ReplicaStatus) -> u64 {
    status.tail.saturating_sub(status.applied + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    #[test]
    fn the_list_has_a_row_per_partition() {
        expect![[r#"
            PARTITION  LEADER  NAME   EPOCH  APPLIED  DURABLE  ARCHIVED  TAIL  LAG  STATE        REPLICAS
            0          N1      node1  7      180      170      120       184   3    active       N1 N2 N3
            1          N3      node3  4      -        -        -         -     -    unreachable  N1 N2 N3
        "#]]
        .assert_eq(&list(&samples::cluster(), Sort::Partition, false));
    }

    #[test]
    fn programs_get_an_object_per_partition() {
        expect![[r#"
            {"applied":180,"archived":120,"durable":170,"epoch":7,"leader":"N1","leader_name":"node1","partition":0,"replicas":["N1","N2","N3"],"state":"active","tail":184}
            {"applied":null,"archived":null,"durable":null,"epoch":4,"leader":"N3","leader_name":"node3","partition":1,"replicas":["N1","N2","N3"],"state":"unreachable","tail":null}
        "#]]
        .assert_eq(&list(&samples::cluster(), Sort::Partition, true));
    }

    #[test]
    fn every_replica_has_a_row() {
        expect![[r#"
            PARTITION  NODE  NAME   ROLE      EPOCH  APPLIED  DURABLE  ARCHIVED  LAG  STATE        PROBLEM
            0          N1    node1  leader    7      180      170      120       3    active       -
            0          N2    node2  follower  7      150      100      -         33   catching-up  -
            0          N3    node3  -         -      -        -        -         -    unreachable  -
            1          N1    node1  -         -      -        -        -         -    unreachable  -
            1          N2    node2  -         -      -        -        -         -    unreachable  -
            1          N3    node3  -         -      -        -        -         -    unreachable  -
        "#]]
        .assert_eq(&replicas(&samples::cluster(), Sort::Partition, false));
    }

    #[test]
    fn what_is_not_active_comes_first_if_asked_for() {
        let text = list(&samples::cluster(), Sort::Active, false);
        let partitions: Vec<&str> = text.lines().map(|line| &line[..1]).collect();
        assert_eq!(partitions, ["P", "1", "0"]);
    }

    #[test]
    fn an_invocation_and_a_key_lead_to_their_partition() {
        let key = key_of("k1").unwrap();
        expect![[r#"
            {"applied":180,"archived":120,"durable":170,"epoch":7,"leader":"N1","leader_name":"node1","partition":0,"replicas":["N1","N2","N3"],"state":"active","tail":184}
        "#]]
        .assert_eq(&of(&samples::cluster(), key, true));
        let id = InvocationId::new(PartitionKey(u64::MAX), [7; 16]);
        let key = key_of(&id.to_string()).unwrap();
        expect![[r#"
            PARTITION  LEADER  NAME   EPOCH  STATE        REPLICAS
            1          N3      node3  4      unreachable  N1 N2 N3
        "#]]
        .assert_eq(&of(&samples::cluster(), key, false));
        assert!(key_of("inv_nonsense").is_err());
    }
}
