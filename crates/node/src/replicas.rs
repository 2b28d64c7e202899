//! How this node's replicas fare, in the words of listings, and the notice of those that lag.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use abide_controller::ReplicaReport;
use abide_log::{LocalLog, LogChain};
use abide_metadata::{View, keys};
use abide_processor::{PartitionRole, PartitionStatus, Processors, SnapshotHealth};
use abide_rpc::proto::cluster::{ReplicaStatus, SnapshotState};
use abide_types::{Lsn, PartitionId, Role};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cluster_handler;
use crate::facts::{Facts, Member};

/// How often replicas are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A replica with more records before it than this has not caught up.
const LAG_RECORDS_MAX: u64 = 2000;
/// One with fewer is so close that others may go for it. More than what is under way at any moment.
const LAG_RECORDS_SETTLED: u64 = 200;

/// What was told is told again after so many looks: a notice may be lost.
const REPEATED_AFTER: u32 = 20;

/// Tells who governs how replicas fare: when that changes, when a connection comes, and now and then.
pub(crate) async fn report(facts: Arc<Facts>, stop: CancellationToken) {
    let Some(member) = facts.member.get() else {
        return;
    };
    let mut peers = member.fabric.peers();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = ReplicaReport::default();
    let mut looks = 0;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => false,
            changed = peers.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
        };
        let report = observe(&facts, member);
        looks += 1;
        if report == told && !connected && looks < REPEATED_AFTER {
            continue;
        }
        looks = 0;
        let view = member.metadata.view();
        let servers = view
            .nodes
            .with_role(Role::MetadataServer)
            .map(|(node, _)| node);
        cluster_handler::tell(&member.fabric, servers, cluster_handler::replicas(&report));
        told = report;
    }
}

fn observe(facts: &Facts, member: &Member) -> ReplicaReport {
    let view = member.metadata.view();
    let mut report = ReplicaReport::default();
    for status in statuses(facts) {
        let Ok(id) = u16::try_from(status.partition) else {
            continue;
        };
        let partition = PartitionId(id);
        if matches!(&*status.state, "catching-up" | "rebuilding" | "stopped") {
            report.behind.insert(partition);
        } else if has_caught_up(&view, member, partition, &status) {
            report.caught_up.insert(partition);
        }
    }
    report
}

/// Whether this replica could stand in for the others: it follows the epoch that was granted last, its log server is
/// a voter of that epoch's segment and has heard of commits in it, and what was committed is applied.
fn has_caught_up(
    view: &View,
    member: &Member,
    partition: PartitionId,
    status: &ReplicaStatus,
) -> bool {
    let granted = view.partition_table.partitions.get(&partition);
    let chain = view
        .raw(&keys::log(partition))
        .and_then(|stored| LogChain::from_json(&stored.value).ok());
    let (Some(granted), Some(chain), Some(server)) = (granted, chain, &member.log_server) else {
        return false;
    };
    let Some(open) = chain.last() else {
        return false;
    };
    let committed = *LocalLog::subscribe(&**server, partition).borrow();
    granted.epoch == open.epoch()
        && status.epoch == open.epoch().0
        && open.storage(member.joined.node).is_some()
        && open.base() < committed
        && committed.0.saturating_sub(status.applied + 1) <= LAG_RECORDS_SETTLED
}

/// This node's replicas.
pub(crate) fn statuses(facts: &Facts) -> Vec<ReplicaStatus> {
    let Some(member) = facts.member.get() else {
        return Vec::new();
    };
    let statuses = member
        .processors
        .get()
        .map(|processors: &Arc<Processors>| processors.statuses());
    let statuses: BTreeMap<PartitionId, PartitionStatus> = statuses.unwrap_or_default();
    let server = member.log_server.as_deref();
    let of = |(partition, status): (PartitionId, PartitionStatus)| {
        let committed = server.map(|server| *LocalLog::subscribe(server, partition).borrow());
        row(partition, status, committed)
    };
    statuses.into_iter().map(of).collect()
}

/// `committed` is the tail of what this node's log server knows to be committed.
fn row(partition: PartitionId, status: PartitionStatus, committed: Option<Lsn>) -> ReplicaStatus {
    let known = committed.unwrap_or(Lsn::ZERO);
    let tail = match status.role {
        PartitionRole::Leader => status.tail,
        _ => known.max(status.applied.next()),
    };
    let lag = status.applied.next().until(tail);
    let (role, state) = match status.role {
        PartitionRole::Leader => ("leader", "active"),
        PartitionRole::TakingOver => ("leader", "taking-over"),
        PartitionRole::Follower if lag > LAG_RECORDS_MAX => ("follower", "catching-up"),
        PartitionRole::Follower => ("follower", "active"),
        PartitionRole::Rebuilding => ("follower", "rebuilding"),
        PartitionRole::Stopped => ("follower", "stopped"),
    };
    ReplicaStatus {
        partition: partition.0.into(),
        role: role.to_owned(),
        state: state.to_owned(),
        epoch: status.epoch.0,
        applied: status.applied.0,
        durable: status.durable.0,
        archived: status.archived.0,
        snapshots: status.snapshots.map(snapshots),
        tail: tail.0,
        problem: status.stopped.unwrap_or_default(),
    }
}

fn snapshots(health: SnapshotHealth) -> SnapshotState {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    SnapshotState {
        age_ms: health.age.map(millis),
        overdue_ms: millis(health.overdue),
        overdue_ms_max: millis(health.overdue_max),
        problem: health.problem.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_processor::PartitionLoad;
    use abide_types::Epoch;

    fn status(role: PartitionRole, applied: u64, tail: u64) -> PartitionStatus {
        PartitionStatus {
            role,
            epoch: Epoch(3),
            applied: Lsn(applied),
            durable: Lsn::ZERO,
            archived: Lsn::ZERO,
            snapshots: None,
            tail: Lsn(tail),
            invoked: 0,
            stopped: None,
            load: PartitionLoad::default(),
            said_at: tokio::time::Instant::now(),
        }
    }

    #[test]
    fn a_follower_lags_by_what_its_log_server_has_heard() {
        let row = |applied, committed| {
            let status = status(PartitionRole::Follower, applied, 0);
            let row = row(PartitionId(0), status, Some(Lsn(committed)));
            (row.state, row.tail)
        };
        assert_eq!(row(10, 11), ("active".to_owned(), 11));
        assert_eq!(row(10, 5000), ("catching-up".to_owned(), 5000));
        assert_eq!(row(10, 1), ("active".to_owned(), 11));
    }

    #[test]
    fn a_leader_knows_its_own_tail() {
        let row = row(
            PartitionId(0),
            status(PartitionRole::Leader, 10, 14),
            Some(Lsn(11)),
        );
        assert_eq!(
            (row.role.as_str(), row.state.as_str(), row.tail),
            ("leader", "active", 14)
        );
    }
}
