//! This node and the cluster in the words of `cluster.proto`.

use std::collections::BTreeMap;

use abide_controller::Health;
use abide_log::{LocalLog as _, LogChain};
use abide_metadata::{NodeState, Replication, ServerState, ServerStatus, View, keys};
use abide_rpc::CallError;
use abide_rpc::proto::cluster::{
    ChainSegment, ClusterStatus, DiskStatus, LogEntry, LogReplica, LogStatus, MetadataServerStatus,
    NodeEntry, NodeStatus, PartitionEntry, SegmentStatus,
};
use abide_types::{NodeId, PartitionId, Role};

use crate::facts::{Facts, Member};
use crate::{ready, replicas};

/// What each node says of itself, or why it does not.
pub(crate) type Answers = BTreeMap<NodeId, Result<NodeStatus, CallError>>;

/// This node.
pub(crate) fn node(facts: &Facts) -> NodeStatus {
    let member = facts.member.get();
    let incarnation = member.map(Member::incarnation);
    NodeStatus {
        node: incarnation.map_or(0, |incarnation| incarnation.node.0),
        generation: incarnation.map_or(0, |incarnation| incarnation.generation.0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: u64::try_from(facts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        state: facts.phase().name().to_owned(),
        metadata_server: facts
            .server
            .get()
            .map(|server| server_status(&server.status())),
        metadata_version: member.map_or(0, |member| member.metadata.view().version),
        replicas: replicas::statuses(facts),
        logs: member.map(logs).unwrap_or_default(),
        load: None,
        disk: member.and_then(|member| disk(facts, member)),
        unready: Some(ready::why_not(facts).unwrap_or_default()),
    }
}

fn disk(facts: &Facts, member: &Member) -> Option<DiskStatus> {
    let server = member.log_server.as_ref()?;
    Some(DiskStatus {
        is_full: server.status().is_full,
        free_bytes: server.free_bytes(),
        free_bytes_min: facts.config.log_server.free_space_min.0,
    })
}

fn server_status(status: &ServerStatus) -> MetadataServerStatus {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    MetadataServerStatus {
        state: server_state(status.state).to_owned(),
        term: status.term,
        leader: status.leader.map_or(0, |leader| leader.0),
        last_log: status.last_log,
        applied: status.applied,
        snapshot: status.snapshot,
        voters: ids(&status.voters),
        learners: ids(&status.learners),
    }
}

const fn server_state(state: ServerState) -> &'static str {
    match state {
        ServerState::Unprovisioned => "unprovisioned",
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Stopped => "stopped",
    }
}

fn logs(member: &Member) -> Vec<LogStatus> {
    let Some(server) = &member.log_server else {
        return Vec::new();
    };
    let view = member.metadata.view();
    let count = view
        .cluster
        .as_ref()
        .map_or(0, |cluster| cluster.partitions);
    let of = |partition: PartitionId| {
        let status = server.tail(partition);
        LogStatus {
            partition: partition.0.into(),
            promised: status.promised.0,
            trimmed: status.trimmed.0,
            storage: status.storage.0,
            segments: status
                .segments
                .iter()
                .map(|segment| SegmentStatus {
                    epoch: segment.epoch.0,
                    base: segment.base.0,
                    tail: segment.tail.0,
                    committed: segment.committed.0,
                })
                .collect(),
        }
    };
    (0..count).map(PartitionId).map(of).collect()
}

/// The cluster as this node has it, with what the others say of themselves.
pub(crate) fn cluster(facts: &Facts, member: &Member, mut answers: Answers) -> ClusterStatus {
    let view = member.metadata.view();
    let health = member.controller.health().borrow().clone();
    let nodes = view.nodes.members().map(|(id, entry)| {
        let (status, unreachable) = match answers.remove(&id) {
            Some(Ok(status)) => (Some(status), String::new()),
            Some(Err(error)) => (None, error.to_string()),
            None => (None, "not asked".to_owned()),
        };
        NodeEntry {
            node: id.0,
            generation: entry.generation.0,
            name: entry.name.clone(),
            address: entry.address.clone(),
            ingress_address: entry.ingress_address.clone().unwrap_or_default(),
            admin_address: entry.admin_address.clone().unwrap_or_default(),
            roles: entry.roles.iter().map(Role::to_string).collect(),
            location: entry.location.clone(),
            state: match entry.state {
                NodeState::Active => "active",
                NodeState::Draining => "draining",
                NodeState::Removed => "removed",
            }
            .to_owned(),
            liveness: health
                .get(&id)
                .map_or("suspect", |health: &Health| health.name())
                .to_owned(),
            status,
            unreachable,
            state_machine: entry.supports.state_machine,
            features: entry.supports.features.iter().cloned().collect(),
        }
    });
    let nodes: Vec<NodeEntry> = nodes.collect();
    let document = view.cluster.clone().unwrap_or_default();
    ClusterStatus {
        node: member.joined.node.0,
        cluster_name: document.name.clone(),
        fingerprint: member.joined.fingerprint,
        partitions_count: document.partitions.into(),
        replicas: document.replication.replicas.into(),
        write_quorum: document.replication.write_quorum.into(),
        metadata_leader: metadata_leader(facts, &nodes),
        metadata_version: view.version,
        nodes,
        partitions: partitions(&view),
        state_machine: document.state_machine_in_force(),
        features: document.features.iter().cloned().collect(),
        zones: document.replication.zones.into(),
        regions: document.replication.regions.into(),
        problems: Vec::new(),
        judged: false,
    }
}

/// As the local server has it, or as most of those say who should know.
fn metadata_leader(facts: &Facts, nodes: &[NodeEntry]) -> u32 {
    if let Some(leader) = facts
        .server
        .get()
        .and_then(|server| *server.leader().borrow())
    {
        return leader.0;
    }
    let servers = nodes
        .iter()
        .filter_map(|node| node.status.as_ref()?.metadata_server.as_ref());
    let leading = servers.max_by_key(|server| server.term);
    leading.map_or(0, |server| server.leader)
}

fn partitions(view: &View) -> Vec<PartitionEntry> {
    let replication = view
        .cluster
        .as_ref()
        .map_or_else(Replication::default, |cluster| cluster.replication);
    let table = view.partition_table.partitions.iter();
    table
        .map(|(partition, entry)| PartitionEntry {
            partition: partition.0.into(),
            epoch: entry.epoch.0,
            leader: entry.leader.map_or(0, |leader| leader.node.0),
            leader_generation: entry.leader.map_or(0, |leader| leader.generation.0),
            replicas: entry.replicas.iter().map(|node| node.0).collect(),
            next: entry.next.iter().map(|node| node.0).collect(),
            write_quorum: u32::try_from(entry.quorum(replication)).unwrap_or(u32::MAX),
        })
        .collect()
}

/// The chains of logs, and what each log server holds of them. Those that do not exist are left out.
pub(crate) fn log_entries(view: &View, wanted: &[u32], answers: &Answers) -> Vec<LogEntry> {
    let count = view
        .cluster
        .as_ref()
        .map_or(0, |cluster| cluster.partitions);
    (0..count)
        .filter(|partition| wanted.is_empty() || wanted.contains(&u32::from(*partition)))
        .map(|partition| log_entry(view, PartitionId(partition), answers))
        .collect()
}

fn log_entry(view: &View, partition: PartitionId, answers: &Answers) -> LogEntry {
    let stored = view.raw(&keys::log(partition));
    let chain = stored.and_then(|stored| {
        LogChain::from_json(&stored.value)
            .inspect_err(
                |error| tracing::error!(%partition, %error, "a log chain that does not parse"),
            )
            .ok()
    });
    let segments = chain.iter().flat_map(LogChain::segments);
    LogEntry {
        partition: partition.0.into(),
        version: stored.map_or(0, |stored| stored.version),
        segments: segments
            .map(|segment| ChainSegment {
                epoch: segment.epoch().0,
                base: segment.base().0,
                end: segment.end().map(|end| end.0),
                replicas: segment.nodes().map(|node| node.0).collect(),
                write_quorum: u32::try_from(segment.write_quorum()).unwrap_or(u32::MAX),
            })
            .collect(),
        replicas: log_replicas(view, partition, answers),
    }
}

fn log_replicas(view: &View, partition: PartitionId, answers: &Answers) -> Vec<LogReplica> {
    let servers = view.nodes.with_role(Role::LogServer);
    let held = servers.filter_map(|(node, _)| {
        let answer = answers.get(&node)?;
        let (status, unreachable) = match answer {
            Ok(status) => {
                let of = |log: &&LogStatus| log.partition == u32::from(partition.0);
                let log = status
                    .logs
                    .iter()
                    .find(of)
                    .filter(|log| log.promised > 0 || !log.segments.is_empty());
                (log.cloned(), String::new())
            }
            Err(error) => (None, error.to_string()),
        };
        Some(LogReplica {
            node: node.0,
            status,
            unreachable,
        })
    });
    held.collect()
}
