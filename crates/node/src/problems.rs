//! What is wrong with the cluster, and what to do about it: a function of the cluster's status.
//!
//! `abidectl status`, `GET /api/v1/cluster/stats` and `abide_cluster_problems` all show what [`find`] finds, so that
//! they never disagree. A problem is told once for everything that has it.

use std::collections::BTreeSet;

use abide_rpc::proto::cluster::{
    ClusterStatus, MetadataServerStatus, NodeEntry, PartitionEntry, Problem, ReplicaStatus,
};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Requests fail or data is at stake.
    Critical,
    /// It works, with less in reserve than there should be.
    Warning,
    /// Nothing is wrong, but it should not stay so.
    Notice,
}

impl Severity {
    pub(crate) const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Notice];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// Copies of a partition where the configuration does not say.
const REPLICAS_BY_DEFAULT: usize = 3;
/// A disk with less than this many times the room below which appends are refused is nearly full.
const ROOM_FACTOR: u64 = 2;
/// Partitions that a message names; of more it tells the number.
const NAMED_MAX: usize = 8;

/// Everything that is wrong, the worst first.
pub(crate) fn find(cluster: &ClusterStatus) -> Vec<Problem> {
    let mut found = Found::default();
    metadata(cluster, &mut found);
    partitions(cluster, &mut found);
    replicas(cluster, &mut found);
    nodes(cluster, &mut found);
    disks(cluster, &mut found);
    snapshots(cluster, &mut found);
    versions(cluster, &mut found);
    found.0.sort_by_key(|(severity, _)| *severity);
    found.0.into_iter().map(|(_, problem)| problem).collect()
}

#[derive(Default)]
struct Found(Vec<(Severity, Problem)>);

impl Found {
    fn add(
        &mut self,
        severity: Severity,
        code: &str,
        subjects: Vec<String>,
        message: String,
        advice: impl Into<String>,
    ) {
        let problem = Problem {
            severity: severity.name().to_owned(),
            code: code.to_owned(),
            subjects,
            message,
            advice: advice.into(),
        };
        self.0.push((severity, problem));
    }
}

fn name(node: &NodeEntry) -> String {
    format!("N{} ({})", node.node, node.name)
}

fn subject(node: u32) -> String {
    format!("N{node}")
}

fn answers(node: &NodeEntry) -> bool {
    node.status.is_some() && node.liveness != "dead"
}

fn is_there(cluster: &ClusterStatus, id: u32) -> bool {
    cluster
        .nodes
        .iter()
        .any(|node| node.node == id && answers(node))
}

fn metadata(cluster: &ClusterStatus, found: &mut Found) {
    let servers = cluster.nodes.iter().filter_map(|node| {
        let status = node.status.as_ref()?;
        status.metadata_server.as_ref()
    });
    // Who was elected last knows best.
    let known: Option<&MetadataServerStatus> = servers.max_by_key(|server| server.term);
    let voters: &[u32] = known.map_or(&[], |server| &server.voters);
    let missing: Vec<u32> = voters
        .iter()
        .copied()
        .filter(|id| !is_there(cluster, *id))
        .collect();
    let (total, there) = (voters.len(), voters.len() - missing.len());
    let majority = total / 2 + 1;
    let subjects = || missing.iter().copied().map(subject).collect::<Vec<_>>();
    if 0 < total && there < majority {
        found.add(
            Severity::Critical,
            "metadata-quorum-lost",
            subjects(),
            format!("{there} of {total} metadata servers with a vote answer, {majority} are needed: nothing can be changed and no leader replaced"),
            format!("start {} again; only if their disks are lost for good, recover the metadata plane from what is left", list(&missing)),
        );
    } else if cluster.metadata_leader == 0 {
        found.add(
            Severity::Critical,
            "metadata-without-leader",
            vec!["metadata".to_owned()],
            "nobody is known to lead the metadata plane".to_owned(),
            "an election takes a second; if this stays, look at the logs of the nodes with the role metadata-server and at the network between them",
        );
    } else if !missing.is_empty() && there == majority {
        found.add(
            Severity::Warning,
            "metadata-at-risk",
            subjects(),
            format!("{there} of {total} metadata servers with a vote answer: one more failure, and nothing can be changed and no leader replaced"),
            format!("start {} again, or remove it and let another node have its vote", list(&missing)),
        );
    }
}

/// `N1, N2`.
fn list(nodes: &[u32]) -> String {
    let names: Vec<String> = nodes.iter().copied().map(subject).collect();
    names.join(", ")
}

/// `partition 3`, `partitions 1, 2`, `40 partitions`.
fn these(partitions: &[u32]) -> String {
    match partitions {
        [one] => format!("partition {one}"),
        few if few.len() <= NAMED_MAX => {
            let names: Vec<String> = few.iter().map(u32::to_string).collect();
            format!("partitions {}", names.join(", "))
        }
        many => format!("{} partitions", many.len()),
    }
}

fn partition_subjects(partitions: &[u32]) -> Vec<String> {
    partitions
        .iter()
        .map(|partition| format!("partition {partition}"))
        .collect()
}

fn verb<'a>(things: &[u32], one: &'a str, many: &'a str) -> &'a str {
    if things.len() == 1 { one } else { many }
}

/// How many copies there should be, of those that eligible nodes could hold.
struct Wanted {
    configured: usize,
    possible: usize,
}

fn wanted(cluster: &ClusterStatus) -> Wanted {
    let holds = |node: &&NodeEntry| {
        let has = |role: &str| node.roles.iter().any(|has| has == role);
        has("worker") && has("log-server") && node.state == "active"
    };
    let homes = cluster.nodes.iter().filter(holds).count();
    let configured = match cluster.replicas as usize {
        0 => REPLICAS_BY_DEFAULT.min(homes.max(1)),
        replicas => replicas,
    };
    Wanted {
        configured,
        possible: configured.min(homes),
    }
}

/// Copies that commit a record.
fn quorum(cluster: &ClusterStatus, entry: &PartitionEntry) -> usize {
    let replicas = entry.replicas.len();
    match cluster.write_quorum as usize {
        0 => replicas / 2 + 1,
        quorum => quorum.min(replicas),
    }
}

fn replicas_there(cluster: &ClusterStatus, entry: &PartitionEntry) -> usize {
    let there = entry.replicas.iter().filter(|id| is_there(cluster, **id));
    there.count()
}

/// A leader that was not deposed takes itself for one that serves, and cannot know that nothing commits until something
/// should.
pub(crate) fn mark_without_quorum(cluster: &mut ClusterStatus) {
    let stuck = cluster.partitions.iter().filter(|entry| {
        let is_placed = !entry.replicas.is_empty();
        is_placed && replicas_there(cluster, entry) < quorum(cluster, entry)
    });
    let stuck: BTreeSet<u32> = stuck.map(|entry| entry.partition).collect();
    let nodes = cluster.nodes.iter_mut();
    let statuses = nodes.filter_map(|node| node.status.as_mut());
    for replica in statuses.flat_map(|status| &mut status.replicas) {
        let is_leader = replica.role == "leader" && replica.state == "active";
        if is_leader && stuck.contains(&replica.partition) {
            "no-quorum".clone_into(&mut replica.state);
        }
    }
}

fn partitions(cluster: &ClusterStatus, found: &mut Found) {
    let wanted = wanted(cluster);
    let (mut unplaced, mut leaderless, mut taking_over) = (Vec::new(), Vec::new(), Vec::new());
    let (mut stuck, mut at_risk, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for partition in 0..cluster.partitions_count {
        let entry = cluster
            .partitions
            .iter()
            .find(|entry| entry.partition == partition);
        let Some(entry) = entry.filter(|entry| !entry.replicas.is_empty()) else {
            unplaced.push(partition);
            continue;
        };
        let (there, quorum) = (replicas_there(cluster, entry), quorum(cluster, entry));
        match led(cluster, entry) {
            Led::Serves => {}
            Led::TakesOver => taking_over.push(partition),
            Led::Nobody => leaderless.push(partition),
        }
        if there < quorum {
            stuck.push(partition);
        } else if there < entry.replicas.len() && there == quorum {
            at_risk.push(partition);
        } else if there < wanted.possible {
            few.push(partition);
        }
    }
    let mut tell = |severity, code: &str, partitions: &[u32], message: String, advice: &str| {
        if !partitions.is_empty() {
            found.add(
                severity,
                code,
                partition_subjects(partitions),
                message,
                advice,
            );
        }
    };
    tell(
        Severity::Critical,
        "partitions-without-quorum",
        &stuck,
        format!(
            "{} {} too few replicas that answer to commit anything",
            these(&stuck),
            verb(&stuck, "has", "have")
        ),
        "start the dead nodes again; their logs are needed",
    );
    // Without a quorum there is no leader either; once is enough.
    leaderless.retain(|partition| !stuck.contains(partition));
    taking_over.retain(|partition| !stuck.contains(partition));
    tell(
        Severity::Critical,
        "partitions-without-leader",
        &leaderless,
        format!(
            "{} {} no leader: requests for {} wait",
            these(&leaderless),
            verb(&leaderless, "has", "have"),
            verb(&leaderless, "it", "them")
        ),
        "a new leader takes over within a second; if this stays, look at the metadata plane above and at the logs of the nodes that hold replicas",
    );
    tell(
        Severity::Critical,
        "partitions-not-placed",
        &unplaced,
        format!(
            "{} {} placed nowhere yet",
            these(&unplaced),
            verb(&unplaced, "is", "are")
        ),
        "partitions are placed when a node with the roles worker and log-server is there",
    );
    tell(
        Severity::Warning,
        "partitions-taking-over",
        &taking_over,
        format!(
            "{} {} being taken over: requests for {} wait",
            these(&taking_over),
            verb(&taking_over, "is", "are"),
            verb(&taking_over, "it", "them")
        ),
        "this takes well under a second as a rule; if it stays, look at the log of the node that is to lead",
    );
    tell(
        Severity::Warning,
        "partitions-at-risk",
        &at_risk,
        format!(
            "{} {} just enough replicas to commit: one more failure stops {}",
            these(&at_risk),
            verb(&at_risk, "has", "have"),
            verb(&at_risk, "it", "them")
        ),
        "start the dead nodes again, or remove them so that their replicas are placed elsewhere",
    );
    tell(
        Severity::Warning,
        "partitions-under-replicated",
        &few,
        format!(
            "{} {} fewer than {} replicas that answer",
            these(&few),
            verb(&few, "has", "have"),
            wanted.possible
        ),
        "start the dead nodes again; replicas are added by themselves where nodes have room for them",
    );
    if wanted.possible < wanted.configured && 0 < wanted.possible {
        found.add(
            Severity::Warning,
            "too-few-nodes",
            vec!["cluster".to_owned()],
            format!(
                "{} replicas are configured, and {} nodes can hold one",
                wanted.configured, wanted.possible
            ),
            "add nodes with the roles worker and log-server, or configure fewer replicas",
        );
    }
}

enum Led {
    Serves,
    TakesOver,
    Nobody,
}

fn led(cluster: &ClusterStatus, entry: &PartitionEntry) -> Led {
    let leader = cluster
        .nodes
        .iter()
        .find(|node| node.node == entry.leader && answers(node));
    let Some(leader) = leader else {
        return Led::Nobody;
    };
    match replica(leader, entry.partition) {
        Some(replica) if replica.role == "leader" && replica.state == "active" => Led::Serves,
        _ => Led::TakesOver,
    }
}

fn replica(node: &NodeEntry, partition: u32) -> Option<&ReplicaStatus> {
    let replicas = &node.status.as_ref()?.replicas;
    replicas
        .iter()
        .find(|replica| replica.partition == partition)
}

fn replicas(cluster: &ClusterStatus, found: &mut Found) {
    for node in cluster.nodes.iter().filter(|node| answers(node)) {
        let held = node.status.iter().flat_map(|status| &status.replicas);
        let (mut behind, mut rebuilding) = (Vec::new(), Vec::new());
        for replica in held {
            match replica.state.as_str() {
                "stopped" => found.add(
                    Severity::Critical,
                    "replica-stopped",
                    vec![subject(node.node), format!("partition {}", replica.partition)],
                    format!("partition {} stopped on {}: {}", replica.partition, name(node), replica.problem),
                    "other replicas lead it as long as there are any; keep the node's log and data, and report this: a record that cannot be applied is a fault of the program",
                ),
                "rebuilding" => rebuilding.push(replica.partition),
                "catching-up" => behind.push(replica.partition),
                _ => {}
            }
        }
        if !rebuilding.is_empty() {
            found.add(
                Severity::Warning,
                "replicas-rebuilding",
                vec![subject(node.node)],
                format!(
                    "{} rebuilds {} from other replicas",
                    name(node),
                    these(&rebuilding)
                ),
                "wait; if it stays, look at the node's log for the reason",
            );
        }
        if !behind.is_empty() {
            found.add(
                Severity::Warning,
                "replicas-behind",
                vec![subject(node.node)],
                format!("{} is behind with {}", name(node), these(&behind)),
                "wait; if the lag in `abidectl partitions list --replicas` does not shrink, look at the disk and the CPU of the node",
            );
        }
    }
}

fn nodes(cluster: &ClusterStatus, found: &mut Found) {
    for node in &cluster.nodes {
        let (id, name) = (vec![subject(node.node)], name(node));
        if node.liveness == "dead" {
            found.add(
                Severity::Warning,
                "node-dead",
                id.clone(),
                format!("{name} is dead"),
                format!(
                    "start it again; if it will never come back, `abidectl nodes remove N{}`",
                    node.node
                ),
            );
        } else if node.status.is_none() {
            found.add(
                Severity::Warning,
                "node-unreachable",
                id.clone(),
                format!("{name} does not answer: {}", node.unreachable),
                "look whether its process runs and whether the nodes reach each other at their node ports",
            );
        }
        let status = node.status.as_ref().filter(|_| node.liveness != "dead");
        if let Some(status) = status {
            let unready = status.unready.as_deref().unwrap_or_default();
            // What is wrong with partitions is told of the partitions.
            let passing = matches!(status.state.as_str(), "starting-up" | "stopping");
            if passing {
                found.add(
                    Severity::Notice,
                    "node-not-ready",
                    id.clone(),
                    format!("{name} is not ready: {unready}"),
                    "wait",
                );
            }
        }
        if node.state == "draining" {
            let left = status.map_or(0, |status| status.replicas.len());
            let (message, advice) = match (status, left) {
                (Some(_), 0) => (
                    format!("{name} is drained"),
                    format!("stop it and `abidectl nodes remove N{}`", node.node),
                ),
                (Some(_), left) => (
                    format!("{name} is being drained, {left} replicas are left on it"),
                    "wait until none is left".to_owned(),
                ),
                (None, _) => (
                    format!("{name} is to be drained and does not answer"),
                    format!("start it again, or `abidectl nodes remove N{}`", node.node),
                ),
            };
            found.add(Severity::Notice, "node-draining", id, message, advice);
        }
    }
}

fn disks(cluster: &ClusterStatus, found: &mut Found) {
    for node in &cluster.nodes {
        let disk = node.status.as_ref().and_then(|status| status.disk.as_ref());
        let Some(disk) = disk else {
            continue;
        };
        let free = disk
            .free_bytes
            .map_or_else(|| "?".to_owned(), |free| (free >> 20).to_string());
        let needed = disk.free_bytes_min >> 20;
        if disk.is_full {
            found.add(
                Severity::Critical,
                "disk-full",
                vec![subject(node.node)],
                format!("{} refuses appends: {free} MiB are free, it needs {needed}", name(node)),
                "make room on its disk; it takes appends again by itself. `log-server.free-space-min` sets the limit",
            );
        } else if disk
            .free_bytes
            .is_some_and(|free| free < disk.free_bytes_min.saturating_mul(ROOM_FACTOR))
        {
            found.add(
                Severity::Warning,
                "disk-nearly-full",
                vec![subject(node.node)],
                format!(
                    "{} has {free} MiB free and refuses appends below {needed}",
                    name(node)
                ),
                "make room on its disk before it is full",
            );
        }
    }
}

/// Logs are not trimmed, and replicas that lost their state take long, where snapshots do not come.
fn snapshots(cluster: &ClusterStatus, found: &mut Found) {
    let (mut late, mut reasons) = (Vec::new(), BTreeSet::new());
    let (mut oldest, mut overdue) = (None, 0);
    for entry in &cluster.partitions {
        let leader = (cluster.nodes.iter())
            .find(|node| node.node == entry.leader && answers(node))
            .and_then(|leader| replica(leader, entry.partition));
        let Some(state) = leader.and_then(|leader| leader.snapshots.as_ref()) else {
            continue;
        };
        if state.overdue_ms <= state.overdue_ms_max {
            continue;
        }
        late.push(entry.partition);
        oldest = oldest.max(state.age_ms);
        overdue = overdue.max(state.overdue_ms);
        if !state.problem.is_empty() {
            reasons.insert(state.problem.as_str());
        }
    }
    if late.is_empty() {
        return;
    }
    let age = match oldest {
        Some(age) => format!("the newest one is {} old", minutes(age)),
        None => "there is none, or it is not known".to_owned(),
    };
    // They fail for one reason as a rule.
    let reason = reasons.first().map(|reason| format!(": {reason}"));
    found.add(
        Severity::Warning,
        "snapshots-overdue",
        partition_subjects(&late),
        format!(
            "a snapshot of {} has been due for {}; {age}{}",
            these(&late),
            minutes(overdue),
            reason.unwrap_or_default()
        ),
        "see to the store of `worker.snapshots.destination`: `abidectl snapshots list` says what is wrong with each partition, `abidectl snapshots create` tries again now",
    );
}

/// `40 seconds`, `3 minutes`, `2 hours`.
fn minutes(millis: u64) -> String {
    let seconds = millis / 1000;
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        _ => (seconds / 3600, "hour"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

fn versions(cluster: &ClusterStatus, found: &mut Found) {
    let statuses = cluster.nodes.iter().filter_map(|node| node.status.as_ref());
    let versions: BTreeSet<&str> = statuses.map(|status| status.version.as_str()).collect();
    if 1 < versions.len() {
        let versions: Vec<&str> = versions.into_iter().collect();
        found.add(
            Severity::Notice,
            "versions-mixed",
            vec!["cluster".to_owned()],
            format!("nodes run different versions: {}", versions.join(", ")),
            "finish the upgrade",
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
