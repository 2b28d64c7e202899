//! One cluster, broken in one way at a time.

use abide_rpc::proto::cluster::{DiskStatus, NodeStatus, SnapshotState};

use super::*;

const GIB: u64 = 1 << 30;

/// Three nodes, two partitions, three replicas with a write quorum of two; all is well.
fn well() -> ClusterStatus {
    let partition = |partition, leader| PartitionEntry {
        partition,
        epoch: 3,
        leader,
        leader_generation: 1,
        replicas: vec![1, 2, 3],
        ..PartitionEntry::default()
    };
    ClusterStatus {
        node: 1,
        cluster_name: "c".to_owned(),
        partitions_count: 2,
        replicas: 3,
        write_quorum: 2,
        metadata_leader: 1,
        nodes: (1..=3).map(node).collect(),
        partitions: vec![partition(0, 1), partition(1, 2)],
        ..ClusterStatus::default()
    }
}

fn node(id: u32) -> NodeEntry {
    let replica = |partition, leader| ReplicaStatus {
        partition,
        role: if leader == id { "leader" } else { "follower" }.to_owned(),
        state: "active".to_owned(),
        ..ReplicaStatus::default()
    };
    NodeEntry {
        node: id,
        name: format!("n{id}"),
        roles: ["worker", "log-server", "metadata-server"]
            .map(str::to_owned)
            .to_vec(),
        state: "active".to_owned(),
        liveness: "alive".to_owned(),
        status: Some(NodeStatus {
            node: id,
            state: "alive".to_owned(),
            version: "1.0.0".to_owned(),
            replicas: vec![replica(0, 1), replica(1, 2)],
            metadata_server: Some(MetadataServerStatus {
                term: 4,
                voters: vec![1, 2, 3],
                ..MetadataServerStatus::default()
            }),
            disk: Some(DiskStatus {
                is_full: false,
                free_bytes: Some(10 * GIB),
                free_bytes_min: GIB,
            }),
            unready: Some(String::new()),
            ..NodeStatus::default()
        }),
        ..NodeEntry::default()
    }
}

fn kill(cluster: &mut ClusterStatus, id: u32) {
    let node = &mut cluster.nodes[id as usize - 1];
    node.status = None;
    node.liveness = "dead".to_owned();
    node.unreachable = "the node is not connected".to_owned();
}

fn status(cluster: &mut ClusterStatus, id: u32) -> &mut NodeStatus {
    let node = &mut cluster.nodes[id as usize - 1];
    node.status.get_or_insert_default()
}

/// `severity code: subjects` of each.
fn found(cluster: &ClusterStatus) -> Vec<String> {
    let problems = find(cluster);
    for problem in &problems {
        assert!(!problem.advice.is_empty(), "{problem:?}");
    }
    problems
        .iter()
        .map(|problem| {
            format!(
                "{} {}: {}",
                problem.severity,
                problem.code,
                problem.subjects.join(", ")
            )
        })
        .collect()
}

#[test]
fn a_cluster_that_is_well_has_no_problems() {
    assert_eq!(found(&well()), [""; 0]);
}

#[test]
fn a_single_node_is_well_without_replicas() {
    let mut cluster = well();
    cluster.nodes.truncate(1);
    (cluster.replicas, cluster.write_quorum) = (1, 1);
    for partition in &mut cluster.partitions {
        (partition.replicas, partition.leader) = (vec![1], 1);
    }
    let status = status(&mut cluster, 1);
    status.replicas[1].role = "leader".to_owned();
    status.metadata_server.as_mut().unwrap().voters = vec![1];
    assert_eq!(found(&cluster), [""; 0]);
}

#[test]
fn a_dead_node_that_led_nothing_leaves_everything_at_risk() {
    let mut cluster = well();
    kill(&mut cluster, 3);
    assert_eq!(
        found(&cluster),
        [
            "warning metadata-at-risk: N3",
            "warning partitions-at-risk: partition 0, partition 1",
            "warning node-dead: N3",
        ]
    );
}

#[test]
fn a_leader_without_a_quorum_is_not_active() {
    let states = |cluster: &ClusterStatus| {
        let status = cluster.nodes[0].status.as_ref().unwrap();
        let states = status.replicas.iter().map(|replica| replica.state.clone());
        states.collect::<Vec<_>>()
    };
    let mut cluster = well();
    kill(&mut cluster, 3);
    mark_without_quorum(&mut cluster);
    assert_eq!(states(&cluster), ["active", "active"]);
    kill(&mut cluster, 2);
    mark_without_quorum(&mut cluster);
    // It leads the first and follows the second.
    assert_eq!(states(&cluster), ["no-quorum", "active"]);
    assert!(
        found(&cluster)
            .contains(&"critical partitions-without-quorum: partition 0, partition 1".to_owned())
    );
}

#[test]
fn a_dead_leader_is_missed_until_another_serves() {
    let mut cluster = well();
    kill(&mut cluster, 2);
    assert_eq!(
        found(&cluster)[0],
        "critical partitions-without-leader: partition 1"
    );
    cluster.partitions[1].leader = 3;
    assert_eq!(
        found(&cluster)[1],
        "warning partitions-taking-over: partition 1"
    );
    status(&mut cluster, 3).replicas[1].role = "leader".to_owned();
    assert!(
        found(&cluster)
            .iter()
            .all(|problem| !problem.contains("partition 1:"))
    );
}

#[test]
fn two_dead_nodes_of_three_are_two_lost_quorums() {
    let mut cluster = well();
    kill(&mut cluster, 2);
    kill(&mut cluster, 3);
    assert_eq!(
        found(&cluster)[..2],
        [
            "critical metadata-quorum-lost: N2, N3",
            "critical partitions-without-quorum: partition 0, partition 1",
        ]
    );
}

#[test]
fn with_more_copies_than_needed_one_loss_is_no_risk_yet() {
    let mut cluster = well();
    (cluster.replicas, cluster.write_quorum) = (5, 3);
    cluster.nodes.extend([node(4), node(5)]);
    for partition in &mut cluster.partitions {
        partition.replicas = vec![1, 2, 3, 4, 5];
    }
    kill(&mut cluster, 5);
    assert_eq!(
        found(&cluster),
        [
            "warning partitions-under-replicated: partition 0, partition 1",
            "warning node-dead: N5",
        ]
    );
}

#[test]
fn nobody_leads_the_metadata_plane() {
    let mut cluster = well();
    cluster.metadata_leader = 0;
    assert_eq!(
        found(&cluster),
        ["critical metadata-without-leader: metadata"]
    );
}

#[test]
fn replicas_that_do_not_go_on_or_lag_are_told_of_their_node() {
    let mut cluster = well();
    let replica = &mut status(&mut cluster, 2).replicas[0];
    (replica.state, replica.problem) = (
        "stopped".to_owned(),
        "a record cannot be applied".to_owned(),
    );
    status(&mut cluster, 3).replicas[0].state = "catching-up".to_owned();
    status(&mut cluster, 3).replicas[1].state = "rebuilding".to_owned();
    assert_eq!(
        found(&cluster),
        [
            "critical replica-stopped: N2, partition 0",
            "warning replicas-rebuilding: N3",
            "warning replicas-behind: N3",
        ]
    );
}

#[test]
fn a_disk_is_told_before_it_is_full() {
    let mut cluster = well();
    status(&mut cluster, 1).disk = Some(DiskStatus {
        is_full: true,
        free_bytes: Some(GIB / 2),
        free_bytes_min: GIB,
    });
    status(&mut cluster, 2).disk = Some(DiskStatus {
        is_full: false,
        free_bytes: Some(GIB * 3 / 2),
        free_bytes_min: GIB,
    });
    assert_eq!(
        found(&cluster),
        ["critical disk-full: N1", "warning disk-nearly-full: N2"]
    );
}

#[test]
fn what_an_operator_does_is_noticed_and_no_fault() {
    let mut cluster = well();
    cluster.nodes.push(node(4));
    cluster.nodes[2].state = "draining".to_owned();
    status(&mut cluster, 2).version = "1.0.1".to_owned();
    (
        status(&mut cluster, 1).state,
        status(&mut cluster, 1).unready,
    ) = ("stopping".to_owned(), Some("it is stopping".to_owned()));
    assert_eq!(
        found(&cluster),
        [
            "notice node-not-ready: N1",
            "notice node-draining: N3",
            "notice versions-mixed: cluster",
        ]
    );
}

#[test]
fn more_replicas_than_nodes_that_can_hold_one() {
    let mut cluster = well();
    cluster.replicas = 5;
    assert_eq!(found(&cluster), ["warning too-few-nodes: cluster"]);
}

#[test]
fn partitions_that_were_never_placed() {
    let mut cluster = well();
    cluster.partitions.pop();
    assert_eq!(
        found(&cluster),
        ["critical partitions-not-placed: partition 1"]
    );
}

#[test]
fn snapshots_that_do_not_come_are_told_with_the_reason() {
    let mut cluster = well();
    let state = |overdue_ms, age_ms, problem: &str| SnapshotState {
        age_ms,
        overdue_ms,
        overdue_ms_max: 600_000,
        problem: problem.to_owned(),
    };
    status(&mut cluster, 1).replicas[0].snapshots = Some(state(600_000, Some(900_000), ""));
    assert_eq!(
        found(&cluster),
        [""; 0],
        "one that is due may take its time"
    );
    status(&mut cluster, 1).replicas[0].snapshots =
        Some(state(660_000, Some(3_000_000), "access denied"));
    status(&mut cluster, 2).replicas[1].snapshots = Some(state(700_000, None, "access denied"));
    // What a follower says is of the time when it led.
    status(&mut cluster, 2).replicas[0].snapshots = Some(state(u64::MAX, None, ""));
    assert_eq!(
        found(&cluster),
        ["warning snapshots-overdue: partition 0, partition 1"]
    );
    assert_eq!(
        find(&cluster)[0].message,
        "a snapshot of partitions 0, 1 has been due for 11 minutes; the newest one is 50 minutes old: access denied"
    );
}
