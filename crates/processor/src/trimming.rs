//! Up to where a log may be forgotten: the rules, without I/O.
//!
//! Two things can stand in for records: a replica that has them on disk in their effects, and a snapshot. Which of
//! them are asked for is [`DurabilityMode`]; [`point`] says what that comes to, and [`Delay`] waits with it where a
//! replica that is away may still want them.

use std::collections::VecDeque;
use std::time::Duration;

use abide_types::Lsn;
use tokio::time::Instant;

/// What must stand in for records before they are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurabilityMode {
    /// A snapshot, and the disk of every replica that is in reach. One that is away does not hold trimming up: when
    /// it comes back it starts from the snapshot.
    Balanced,
    /// The disks of all replicas.
    ReplicaSetOnly,
    /// A snapshot.
    SnapshotOnly,
    /// A snapshot and the disks of all replicas.
    SnapshotAndReplicaSet,
    /// Nothing does: logs grow for ever.
    None,
}

impl DurabilityMode {
    /// Whether a replica may find that the log was trimmed past it.
    fn leaves_behind(self) -> bool {
        matches!(self, Self::Balanced | Self::SnapshotOnly)
    }
}

/// How far a replica other than the leader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Follower {
    pub durable: Lsn,
    /// Whether it has said so lately.
    pub in_reach: bool,
}

/// The last record that may be forgotten; `None` for nothing.
pub(crate) fn point(
    mode: DurabilityMode,
    archived: Option<Lsn>,
    own: Lsn,
    followers: &[Follower],
) -> Option<Lsn> {
    let all = followers
        .iter()
        .map(|follower| follower.durable)
        .fold(own, Lsn::min);
    let in_reach = followers.iter().filter(|follower| follower.in_reach);
    let in_reach = in_reach
        .map(|follower| follower.durable)
        .fold(own, Lsn::min);
    match mode {
        DurabilityMode::Balanced => archived.map(|archived| archived.min(in_reach)),
        DurabilityMode::ReplicaSetOnly => Some(all),
        DurabilityMode::SnapshotOnly => archived,
        DurabilityMode::SnapshotAndReplicaSet => archived.map(|archived| archived.min(all)),
        DurabilityMode::None => None,
    }
}

/// How far an operator may have a log trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The last record that nobody can come to miss: snapshots show it, or every replica has its effects on disk.
    pub safe: Lsn,
    /// The last one that is committed and applied. Beyond, nothing but the log has the record.
    pub possible: Lsn,
}

impl Bounds {
    /// `committed` is a tail, `applied` a record.
    pub fn of(
        archived: Option<Lsn>,
        own: Lsn,
        followers: &[Follower],
        applied: Lsn,
        committed: Lsn,
    ) -> Self {
        let possible = applied.min(committed.previous());
        let everywhere = point(DurabilityMode::ReplicaSetOnly, None, own, followers);
        let safe = everywhere.max(archived).unwrap_or(Lsn::ZERO).min(possible);
        Self { safe, possible }
    }

    /// The last record that goes: `to`, or whatever is safe if that is zero. `None` if less may go.
    pub fn settle(self, to: Lsn, force: bool) -> Option<Lsn> {
        let limit = if force { self.possible } else { self.safe };
        match to {
            Lsn::ZERO => Some(self.safe),
            to => (to <= limit).then_some(to),
        }
    }
}

/// Points that were reached and wait for their time.
#[derive(Debug, Default)]
pub(crate) struct Delay {
    reached: VecDeque<(Instant, Lsn)>,
}

/// Points that wait at a time: closer ones are passed over.
const WAITING_MAX: u32 = 64;

impl Delay {
    /// Takes in a point and returns the last one whose time has come.
    pub fn pass(&mut self, mode: DurabilityMode, delay: Duration, now: Instant, point: Lsn) -> Lsn {
        if !mode.leaves_behind() || delay.is_zero() {
            self.reached.clear();
            return point;
        }
        let room = self
            .reached
            .back()
            .is_none_or(|(at, last)| *at + delay / WAITING_MAX <= now && *last < point);
        if room {
            self.reached.push_back((now, point));
        }
        let mut passed = Lsn::ZERO;
        while let Some((at, reached)) = self.reached.front().copied()
            && at + delay <= now
        {
            passed = reached;
            self.reached.pop_front();
        }
        // A point can fall back: what was reached once and is no more must not be trimmed to.
        passed.min(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(durable: u64, in_reach: bool) -> Follower {
        Follower {
            durable: Lsn(durable),
            in_reach,
        }
    }

    #[test]
    fn each_mode_waits_for_what_it_says() {
        let followers = [follower(70, true), follower(10, false)];
        let of = |mode, archived: Option<u64>| {
            point(mode, archived.map(Lsn), Lsn(90), &followers).map(|lsn| lsn.0)
        };
        assert_eq!(of(DurabilityMode::Balanced, Some(80)), Some(70));
        assert_eq!(of(DurabilityMode::Balanced, Some(50)), Some(50));
        assert_eq!(of(DurabilityMode::Balanced, None), None);
        assert_eq!(of(DurabilityMode::ReplicaSetOnly, Some(80)), Some(10));
        assert_eq!(of(DurabilityMode::ReplicaSetOnly, None), Some(10));
        assert_eq!(of(DurabilityMode::SnapshotOnly, Some(80)), Some(80));
        assert_eq!(of(DurabilityMode::SnapshotOnly, None), None);
        assert_eq!(
            of(DurabilityMode::SnapshotAndReplicaSet, Some(80)),
            Some(10)
        );
        assert_eq!(of(DurabilityMode::SnapshotAndReplicaSet, None), None);
        assert_eq!(of(DurabilityMode::None, Some(80)), None);
    }

    #[test]
    fn an_operator_trims_what_snapshots_or_all_disks_have_and_more_only_by_force() {
        let followers = [follower(70, true), follower(10, false)];
        let of = |archived: Option<u64>, applied, committed| {
            let archived = archived.map(Lsn);
            Bounds::of(archived, Lsn(90), &followers, Lsn(applied), Lsn(committed))
        };
        let bounds = of(Some(50), 100, 121);
        assert_eq!((bounds.safe, bounds.possible), (Lsn(50), Lsn(100)));
        assert_eq!(of(None, 100, 121).safe, Lsn(10));
        assert_eq!(of(Some(5), 100, 8).safe, Lsn(7));
        assert_eq!(of(None, 100, 0).possible, Lsn::ZERO);

        let settled = |to, force| bounds.settle(Lsn(to), force).map(|lsn| lsn.0);
        assert_eq!(settled(0, false), Some(50));
        assert_eq!(settled(0, true), Some(50));
        assert_eq!(settled(50, false), Some(50));
        assert_eq!(settled(51, false), None);
        assert_eq!(settled(100, true), Some(100));
        assert_eq!(settled(u64::MAX, true), None);
    }

    #[test]
    fn a_replica_that_is_alone_goes_by_its_own_disk() {
        assert_eq!(
            point(DurabilityMode::ReplicaSetOnly, None, Lsn(5), &[]),
            Some(Lsn(5))
        );
        assert_eq!(
            point(DurabilityMode::Balanced, Some(Lsn(9)), Lsn(5), &[]),
            Some(Lsn(5))
        );
    }

    #[test]
    fn a_point_waits_for_its_time_only_where_somebody_may_be_left_behind() {
        let (start, delay) = (Instant::now(), Duration::from_secs(60));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waiting = Delay::default();
        let mut pass = |mode, seconds, lsn| waiting.pass(mode, delay, at(seconds), Lsn(lsn)).0;
        assert_eq!(pass(DurabilityMode::Balanced, 0, 10), 0);
        assert_eq!(pass(DurabilityMode::Balanced, 30, 20), 0);
        assert_eq!(pass(DurabilityMode::Balanced, 60, 30), 10);
        assert_eq!(pass(DurabilityMode::Balanced, 90, 40), 20);
        // A follower came back that has less.
        assert_eq!(pass(DurabilityMode::Balanced, 130, 15), 15);
        assert_eq!(pass(DurabilityMode::ReplicaSetOnly, 131, 50), 50);
    }

    #[test]
    fn few_points_wait_however_often_it_is_asked() {
        let (start, delay) = (Instant::now(), Duration::from_secs(64));
        let mut waiting = Delay::default();
        for step in 0..10_000_u32 {
            let now = start + Duration::from_millis(10) * step;
            waiting.pass(DurabilityMode::SnapshotOnly, delay, now, Lsn(step.into()));
        }
        assert!(waiting.reached.len() <= WAITING_MAX as usize + 1);
    }
}
