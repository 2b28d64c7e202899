//! A cluster to show: two partitions, and of three nodes one is dead.

use abide_rpc::proto::cluster::{
    ChainSegment, ClusterStatus, LogEntry, LogReplica, LogStatus, MetadataServerStatus, NodeEntry,
    NodeStatus, PartitionEntry, ReplicaStatus, SegmentStatus,
};

pub(crate) fn cluster() -> ClusterStatus {
    ClusterStatus {
        node: 1,
        cluster_name: "local".to_owned(),
        fingerprint: 0xab,
        partitions_count: 2,
        metadata_leader: 1,
        metadata_version: 40,
        nodes: vec![
            node(
                1,
                2,
                Some((1_057_000, "leader", replica("leader", "active", 180, 170))),
            ),
            node(
                2,
                1,
                Some((
                    4_000,
                    "follower",
                    replica("follower", "catching-up", 150, 100),
                )),
            ),
            node(3, 5, None),
        ],
        partitions: vec![partition(0, 7, 1, 2), partition(1, 4, 3, 5)],
        ..ClusterStatus::default()
    }
}

fn node(id: u32, generation: u32, status: Option<(u64, &str, ReplicaStatus)>) -> NodeEntry {
    let (liveness, unreachable) = match status {
        Some(_) => ("alive", ""),
        None => ("dead", "the node is not connected"),
    };
    NodeEntry {
        node: id,
        generation,
        name: format!("node{id}"),
        address: format!("127.0.0.1:{}", 9089 + id),
        roles: vec!["worker".to_owned(), "log-server".to_owned()],
        state: "active".to_owned(),
        liveness: liveness.to_owned(),
        unreachable: unreachable.to_owned(),
        status: status.map(|(uptime_ms, state, replica)| NodeStatus {
            node: id,
            generation,
            uptime_ms,
            metadata_server: Some(MetadataServerStatus {
                state: state.to_owned(),
                ..MetadataServerStatus::default()
            }),
            replicas: vec![replica],
            ..NodeStatus::default()
        }),
        ..NodeEntry::default()
    }
}

fn replica(role: &str, state: &str, applied: u64, durable: u64) -> ReplicaStatus {
    ReplicaStatus {
        partition: 0,
        role: role.to_owned(),
        state: state.to_owned(),
        epoch: 7,
        applied,
        durable,
        archived: if role == "leader" { 120 } else { 0 },
        snapshots: None,
        tail: 184,
        problem: String::new(),
    }
}

fn partition(partition: u32, epoch: u64, leader: u32, leader_generation: u32) -> PartitionEntry {
    PartitionEntry {
        partition,
        epoch,
        leader,
        leader_generation,
        replicas: vec![1, 2, 3],
        next: Vec::new(),
        write_quorum: 2,
    }
}

pub(crate) fn log() -> LogEntry {
    let segment = |epoch, base, end| ChainSegment {
        epoch,
        base,
        end,
        replicas: vec![1, 2, 3],
        write_quorum: 2,
    };
    let held = |node, committed| LogReplica {
        node,
        status: Some(LogStatus {
            partition: 0,
            promised: 7,
            trimmed: 10,
            storage: 7,
            segments: vec![SegmentStatus {
                epoch: 7,
                base: 150,
                tail: 184,
                committed,
            }],
        }),
        unreachable: String::new(),
    };
    LogEntry {
        partition: 0,
        version: 33,
        segments: vec![segment(3, 1, Some(150)), segment(7, 150, None)],
        replicas: vec![
            held(1, 183),
            held(2, 180),
            LogReplica {
                node: 3,
                status: None,
                unreachable: "the node is not connected".to_owned(),
            },
        ],
    }
}
