//! Who may be drained and removed, over clusters made up for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use abide_controller::Health;
use abide_log::{LogChain, Member, Segment, StorageId};
use abide_metadata::{
    ClusterDocument, PartitionEntry, PartitionRule, PartitionRules, PartitionTable, Replication,
    Supports,
};
use abide_rpc::proto::cluster::{NodeStatus, ReplicaStatus};
use abide_types::{Epoch, Generation, Lsn, NodeIncarnation};

use super::*;

/// Active nodes that are alive and vote, with one partition on the first three of them.
fn cluster(nodes: u32) -> Picture {
    let mut picture = Picture {
        cluster: Arc::new(ClusterDocument {
            partitions: 1,
            replication: Replication {
                replicas: 3,
                write_quorum: 2,
                ..Replication::default()
            },
            ..ClusterDocument::default()
        }),
        ..Picture::default()
    };
    let mut members = Nodes::default();
    for node in 1..=nodes {
        let entry = NodeEntry {
            name: format!("node{node}"),
            generation: Generation(1),
            address: String::new(),
            ingress_address: None,
            admin_address: None,
            roles: Role::ALL.to_vec(),
            location: String::new(),
            state: NodeState::Active,
            directory: 0,
            never_votes: false,
            supports: Supports::default(),
        };
        members.nodes.insert(NodeId(node), entry);
        picture.health.insert(NodeId(node), Health::Stable);
        picture.voters.insert(NodeId(node));
    }
    picture.nodes = Arc::new(members);
    placed(&mut picture, &[1, 2, 3], &[(1, &[1, 2, 3])]);
    picture
}

/// Partition 0 on `replicas`, its log on the nodes of `segments`, oldest first.
fn placed(picture: &mut Picture, replicas: &[u32], segments: &[(u64, &[u32])]) {
    let mut table = PartitionTable::default();
    let ids: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
    table.partitions.insert(
        PartitionId(0),
        PartitionEntry {
            epoch: Epoch(9),
            leader: ids.first().map(|node| NodeIncarnation {
                node: *node,
                generation: Generation(1),
            }),
            replicas: ids,
            ..PartitionEntry::default()
        },
    );
    picture.table = Arc::new(table);
    let mut chain = LogChain::default();
    for (epoch, nodes) in segments {
        let member = |node: &u32| Member {
            node: NodeId(*node),
            storage: Some(StorageId(1)),
        };
        let members = nodes.iter().map(member).collect();
        let segment = Segment::open(Epoch(*epoch), Lsn(*epoch * 10), members, 2).unwrap();
        chain = chain.extended(segment);
    }
    picture.chains = BTreeMap::from([(PartitionId(0), chain)]);
}

fn set_state(picture: &mut Picture, node: u32, state: NodeState) {
    let nodes = Arc::make_mut(&mut picture.nodes);
    nodes.nodes.get_mut(&NodeId(node)).unwrap().state = state;
}

/// What is answered: the plan, or the refusal.
fn told(outcome: Result<Plan, OperationError>) -> String {
    let mut text = String::new();
    match outcome {
        Ok(plan) => {
            for line in plan.lines {
                let _ = writeln!(text, "{line}");
            }
        }
        Err(error) => {
            let _ = writeln!(text, "refused: {error}");
        }
    }
    text
}

fn drain(picture: &Picture, node: u32, force: bool) -> String {
    let entry = &picture.nodes.nodes[&NodeId(node)];
    told(plan_drain(picture, NodeId(node), entry, force))
}

fn remove(picture: &Picture, node: u32, force: bool) -> String {
    let entry = &picture.nodes.nodes[&NodeId(node)];
    told(plan_removal(picture, NodeId(node), entry, force))
}

#[test]
fn a_node_is_named_by_id_or_name() {
    let mut picture = cluster(3);
    for text in ["N2", "n2", "2", "node2"] {
        assert_eq!(picture.node(text).unwrap().0, NodeId(2), "{text}");
    }
    assert!(matches!(picture.node("N7"), Err(OperationError::NoNode(_))));
    assert!(matches!(
        picture.node("two"),
        Err(OperationError::NoNode(_))
    ));
    set_state(&mut picture, 2, NodeState::Removed);
    assert!(matches!(
        picture.node("N2"),
        Err(OperationError::Removed { .. })
    ));
    assert!(matches!(
        picture.partitions(&[1]),
        Err(OperationError::NoPartition { .. })
    ));
}

#[test]
fn a_drain_says_what_moves_and_what_gets_less() {
    assert_eq!(
        drain(&cluster(4), 1, false),
        "N1 (node1) is drained: what it has moves to other nodes. It has 1 leader, 1 replica, 1 log that is needed, a vote of the metadata plane.\n"
    );
    assert_eq!(
        drain(&cluster(3), 2, false),
        "N2 (node2) is drained: what it has moves to other nodes. It has 1 replica, 1 log that is needed, a vote of the metadata plane.\n\
         There are 2 other nodes for replicas, so that each partition has 2 instead of 3.\n"
    );
}

#[test]
fn a_drain_never_goes_below_the_write_quorum_unless_forced() {
    let refused = "refused: without N1 there are 1 nodes that can hold replicas, and a write takes 2 of them\n";
    assert_eq!(drain(&cluster(2), 1, false), refused);
    assert!(drain(&cluster(2), 1, true).starts_with("N1 (node1) is drained"));
    let mut dying = cluster(3);
    dying.health.insert(NodeId(3), Health::Dead);
    assert_eq!(drain(&dying, 1, false), refused);
    assert!(drain(&dying, 3, false).starts_with("N3 (node3) is drained"));
    let alone = "refused: without N1 there are 0 nodes that can hold replicas, and a write takes 2 of them\n";
    assert_eq!(drain(&cluster(1), 1, true), alone);
}

#[test]
fn what_is_frozen_is_said_to_stay() {
    let mut picture = cluster(4);
    let rule = PartitionRule {
        placement_frozen: Some("audit".to_owned()),
        ..PartitionRule::default()
    };
    picture.rules = Arc::new(PartitionRules {
        version: 1,
        partitions: BTreeMap::from([(PartitionId(0), rule)]),
    });
    let text = drain(&picture, 1, false);
    assert!(
        text.ends_with(
            "The placement of partitions 0 is frozen: they stay on it until that is lifted.\n"
        ),
        "{text}"
    );
}

#[test]
fn a_living_node_is_drained_before_it_is_removed() {
    let mut picture = cluster(4);
    assert_eq!(
        remove(&picture, 1, true),
        "refused: N1 is alive and was not drained\n"
    );
    set_state(&mut picture, 1, NodeState::Draining);
    placed(
        &mut picture,
        &[2, 3, 4],
        &[(1, &[1, 2, 3]), (2, &[2, 3, 4])],
    );
    assert_eq!(
        remove(&picture, 1, true),
        "refused: N1 still has 1 log that is needed, a vote of the metadata plane\n"
    );
    placed(&mut picture, &[2, 3, 4], &[(2, &[2, 3, 4])]);
    picture.voters.remove(&NodeId(1));
    assert_eq!(
        remove(&picture, 1, false),
        "N1 (node1) is removed for good: it cannot come back with the data that it has, and its id is never used again.\n\
         Its process ends when it hears of it.\n"
    );
}

#[test]
fn a_dead_node_goes_only_where_every_record_is_elsewhere() {
    let mut picture = cluster(4);
    picture.health.insert(NodeId(1), Health::Dead);
    assert_eq!(
        remove(&picture, 1, false),
        "refused: N1 still has 1 leader, 1 replica, 1 log that is needed, a vote of the metadata plane\n"
    );
    assert!(remove(&picture, 1, true).contains("Every record is on another node too"));
    picture.health.insert(NodeId(3), Health::Dead);
    assert_eq!(
        remove(&picture, 1, true),
        "refused: log 0 may have records on N1 that no node has which is left: 2 of the 3 replicas of its segment of epoch 1 are gone, and a write took 2\n"
    );
}

#[test]
fn the_last_vote_is_kept() {
    let mut picture = cluster(2);
    set_state(&mut picture, 1, NodeState::Draining);
    placed(&mut picture, &[2], &[(1, &[2, 3])]);
    picture.voters = BTreeSet::from([NodeId(1)]);
    let refused = "refused: N1 has the only vote of the metadata plane\n";
    assert_eq!(remove(&picture, 1, true), refused);
    let entry = &picture.nodes.nodes[&NodeId(1)];
    assert_eq!(told(plan_vote(&picture, NodeId(1), entry, false)), refused);
    assert!(
        plan_vote(&picture, NodeId(1), entry, true)
            .unwrap()
            .nothing_to_do
    );
}

/// What each node says of its replica of partition 0: state, applied, durable; the log goes up to 999.
fn answers(replicas: &[(u32, &str, u64, u64)]) -> Answers {
    let said = replicas.iter().map(|(node, state, applied, durable)| {
        let replica = ReplicaStatus {
            partition: 0,
            state: (*state).to_owned(),
            applied: *applied,
            durable: *durable,
            tail: 1000,
            problem: "no source".to_owned(),
            ..ReplicaStatus::default()
        };
        let status = NodeStatus {
            node: *node,
            replicas: vec![replica],
            ..NodeStatus::default()
        };
        (NodeId(*node), Ok(status))
    });
    said.collect()
}

/// What the drain of N1 waits for, one line each.
fn waits(picture: &Picture, answers: &Answers) -> String {
    let held = holdings(picture, answers, "N1").unwrap();
    let lines = held.waits.iter().map(|wait| {
        format!(
            "{} N{} {}: {}\n",
            wait.partition, wait.node, wait.behind, wait.what
        )
    });
    lines.collect()
}

#[test]
fn a_drain_says_whom_it_waits_for() {
    let mut picture = cluster(4);
    let well = answers(&[
        (2, "active", 999, 999),
        (3, "active", 999, 999),
        (4, "active", 100, 0),
    ]);
    assert_eq!(
        waits(&picture, &well),
        "",
        "an active node waits for nothing"
    );
    set_state(&mut picture, 1, NodeState::Draining);
    assert_eq!(
        waits(&picture, &well),
        "0 N0 0: its turn to exchange replicas has not come\n"
    );

    placed(&mut picture, &[1, 2, 3, 4], &[(1, &[1, 2, 3])]);
    let table = Arc::make_mut(&mut picture.table);
    let entry = table.partitions.get_mut(&PartitionId(0)).unwrap();
    entry.next = [2, 3, 4].map(NodeId).to_vec();
    assert_eq!(
        waits(&picture, &well),
        "0 N4 899: N4 is 899 records behind, it has applied 100\n"
    );
    let rebuilding = answers(&[
        (2, "active", 999, 999),
        (3, "active", 999, 999),
        (4, "rebuilding", 0, 0),
    ]);
    assert_eq!(
        waits(&picture, &rebuilding),
        "0 N4 999: the replica on N4 is rebuilding: no source\n"
    );
    let silent = answers(&[(2, "active", 999, 999), (3, "active", 999, 999)]);
    assert_eq!(waits(&picture, &silent), "0 N4 0: N4 does not answer\n");
    let close = answers(&[
        (2, "active", 999, 999),
        (3, "active", 999, 999),
        (4, "active", 990, 0),
    ]);
    assert_eq!(
        waits(&picture, &close),
        "0 N4 0: the log server of N4 is not yet a voter of the open segment\n"
    );

    // The replica has gone, and the log's old segment is there until all others have it on disk.
    placed(
        &mut picture,
        &[2, 3, 4],
        &[(1, &[1, 2, 3]), (9, &[2, 3, 4])],
    );
    assert_eq!(
        waits(&picture, &close),
        "0 N4 89: N4 has what 0 did on its disk, and old segments of the log go up to 89\n"
    );
    let flushed = answers(&[
        (2, "active", 999, 999),
        (3, "active", 999, 999),
        (4, "active", 999, 89),
    ]);
    assert_eq!(
        waits(&picture, &flushed),
        "0 N0 0: old segments of the log are about to be trimmed\n"
    );
}
