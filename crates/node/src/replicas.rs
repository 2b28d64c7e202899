//! How this node's replicas fare, in the words of listings, and the notice of those that lag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use abide_log::LocalLog;
use abide_processor::{PartitionRole, PartitionStatus, Processors};
use abide_rpc::proto::cluster::ReplicaStatus;
use abide_types::{Lsn, PartitionId, Role};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cluster_handler;
use crate::facts::Facts;

/// How often replicas are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A replica with more records before it than this has not caught up.
const LAG_RECORDS_MAX: u64 = 2000;

/// Tells who governs which replicas lag: when that changes, and when a connection comes.
pub(crate) async fn report(facts: Arc<Facts>, stop: CancellationToken) {
    let Some(member) = facts.member.get() else {
        return;
    };
    let mut peers = member.fabric.peers();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeSet::new();
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => false,
            changed = peers.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
        };
        let behind = behind(&facts);
        let repeat = connected && !behind.is_empty();
        if behind == told && !repeat {
            continue;
        }
        let view = member.metadata.view();
        let servers = view
            .nodes
            .with_role(Role::MetadataServer)
            .map(|(node, _)| node);
        cluster_handler::tell(&member.fabric, servers, cluster_handler::behind(&behind));
        told = behind;
    }
}

fn behind(facts: &Facts) -> BTreeSet<PartitionId> {
    let late =
        |status: &ReplicaStatus| matches!(&*status.state, "catching-up" | "rebuilding" | "stopped");
    statuses(facts)
        .iter()
        .filter(|status| late(status))
        .filter_map(|status| u16::try_from(status.partition).ok().map(PartitionId))
        .collect()
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
        tail: tail.0,
        problem: status.stopped.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_types::Epoch;

    fn status(role: PartitionRole, applied: u64, tail: u64) -> PartitionStatus {
        PartitionStatus {
            role,
            epoch: Epoch(3),
            applied: Lsn(applied),
            durable: Lsn::ZERO,
            tail: Lsn(tail),
            invoked: 0,
            stopped: None,
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
