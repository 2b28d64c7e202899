//! The leader's part in snapshots and backups.
//!
//! Snapshots are taken by time and by records ([`Leader::look_after_snapshots`]) or on request. A backup first holds
//! every partition: a leader that is held proposes nothing, and says so when everything it had proposed is applied.
//! When all have said so, each is asked for its cut: the state that it stands at. Since no hold had ended when the last
//! one had begun, there was one moment at which all stood still, and the cuts are the states of that moment. So a
//! message between partitions is in its sender's outbox, or applied at its receiver, or both, and then the receiver
//! knows it; and whatever a client was told before is in, wherever it happened. A hold ends with its lease, with its
//! leader, and when all have their cuts, which takes no flush: the files come to be afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_rpc::proto::partition::{
    ArchiveReply, ArchiveRequest, ArchiveStatus, Begun, Empty, archive_reply::Kind as Answer,
    archive_request::Kind as Ask,
};
use abide_snapshots::{Pointer, Retained};
use abide_state_machine::proto::{Purge, command::Kind as Command};
use abide_types::{Lsn, Timestamp};
use tokio::time::Instant;

use crate::archive::{self, About, ArchiveError};
use crate::leader::{Leader, OnApplied};
use crate::partition::chain_of;
use crate::upkeep::Outcome;
use crate::waiters::Responder;
use crate::wire::Response;

/// A hold that nobody ends, ends after this time at the latest.
const LEASE_MAX: Duration = Duration::from_secs(30);
/// Pause after a snapshot or a look at the repository that failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// A snapshot may be due for so long where none is taken by time: the second try may have gone wrong.
const OVERDUE_MIN: Duration = Duration::from_secs(60);
/// Tickets that are remembered.
const TICKETS_MAX: usize = 64;

/// What a leader knows of its snapshots and has under way.
pub(crate) struct Archiving {
    /// `None` until the repository was read.
    retained: Option<Vec<Retained>>,
    looking: bool,
    /// The snapshot that is being taken.
    taking: Option<u64>,
    /// Whether the log is to be trimmed when it is there.
    trim: bool,
    not_before: Instant,
    led_since: Timestamp,
    /// Since when a snapshot is due, or the repository could not be read.
    due_since: Option<Instant>,
    problem: Option<String>,
    tickets: BTreeMap<u64, Ticket>,
    hold: Option<Hold>,
}

/// How the snapshots of a partition fare that are taken by time or by records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHealth {
    /// Of the newest one, as far as there is one and it is known.
    pub age: Option<Duration>,
    /// For how long one has been due.
    pub overdue: Duration,
    /// One that is due for longer should be there.
    pub overdue_max: Duration,
    /// Why the last one was not taken, or the repository not read.
    pub problem: Option<String>,
}

enum Ticket {
    Running,
    Done(Retained),
    Failed(String),
}

struct Hold {
    id: u64,
    until: Instant,
    /// Who is told when the partition stands still.
    waiting: Vec<Responder>,
    /// Ticket and LSN of the cut, when it was made.
    cut: Option<(u64, Lsn)>,
}

impl Archiving {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            retained: None,
            looking: false,
            taking: None,
            trim: false,
            not_before: now,
            led_since: Timestamp::from_system(SystemTime::now()),
            due_since: None,
            problem: None,
            tickets: BTreeMap::new(),
            hold: None,
        }
    }

    /// The last record that every snapshot which is kept shows.
    pub(crate) fn archived(&self) -> Option<Lsn> {
        let oldest = self.retained.as_ref()?.first()?;
        Some(Lsn(oldest.lsn))
    }

    fn newest(&self) -> Option<&Retained> {
        self.retained.as_ref()?.last()
    }

    fn overdue(&self, now: Instant) -> Duration {
        self.due_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(crate) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    pub(crate) fn hold_ends(&self) -> Option<Instant> {
        self.hold.as_ref().map(|hold| hold.until)
    }

    fn note(&mut self, ticket: u64, state: Ticket) {
        self.tickets.insert(ticket, state);
        while TICKETS_MAX < self.tickets.len() {
            self.tickets.pop_first();
        }
    }
}

fn answer(responder: Responder, kind: Answer) {
    responder.answer(Response::Archive(ArchiveReply { kind: Some(kind) }));
}

impl Leader<'_> {
    pub(crate) fn on_order(&mut self, request: ArchiveRequest, responder: Responder) {
        match request.kind {
            Some(Ask::Take(take)) => self.take_on_request(&take, responder),
            Some(Ask::Hold(hold)) => {
                let lease = Duration::from_millis(hold.lease_ms.into()).min(LEASE_MAX);
                self.hold(hold.id, lease, responder);
            }
            Some(Ask::Cut(cut)) => self.cut(cut.id, cut.url, responder),
            Some(Ask::Release(id)) => {
                if self
                    .archiving
                    .hold
                    .as_ref()
                    .is_some_and(|hold| hold.id == id)
                {
                    self.end_hold("it was ended");
                }
                answer(responder, Answer::Released(Empty {}));
            }
            Some(Ask::Ticket(ticket)) => {
                let stands = match self.archiving.tickets.get(&ticket) {
                    Some(Ticket::Running) => Answer::Running(Empty {}),
                    Some(Ticket::Done(snapshot)) => Answer::Done(to_json(snapshot)),
                    Some(Ticket::Failed(reason)) => Answer::Failed(reason.clone()),
                    None => Answer::Failed("the leader changed meanwhile".to_owned()),
                };
                answer(responder, stands);
            }
            Some(Ask::Trim(trim)) => self.trim_on_request(&trim, responder),
            Some(Ask::Describe(_)) => {
                let known = &self.archiving.retained;
                let status = ArchiveStatus {
                    destination: self.context.archive.url().unwrap_or_default().to_owned(),
                    retained: to_json(known.as_deref().unwrap_or_default()),
                    known: known.is_some(),
                    problem: self.archiving.problem.clone().unwrap_or_default(),
                };
                answer(responder, Answer::Status(status));
            }
            None => answer(
                responder,
                Answer::Refused("the question is not known here".to_owned()),
            ),
        }
    }

    /// Takes a snapshot if it is time, and finds out what there is.
    pub(crate) fn look_after_snapshots(&mut self, now: Instant) {
        let context = Arc::clone(self.context);
        let Some(shelf) = context
            .archive
            .shelf(&context.metadata.view(), self.partition)
        else {
            return;
        };
        let wall = Timestamp::from_system(SystemTime::now());
        let due = self.is_snapshot_due(wall);
        match due {
            true => _ = self.archiving.due_since.get_or_insert(now),
            false => self.archiving.due_since = None,
        }
        (context.metrics).snapshot_overdue(self.partition, self.archiving.overdue(now));
        if self.archiving.retained.is_none() {
            if !self.archiving.looking && self.archiving.not_before <= now {
                self.archiving.looking = true;
                self.upkeep_mut()
                    .spawn(async move { Outcome::Pointer(archive::pointer(&shelf).await) });
            }
            return;
        }
        if let Some(newest) = self.archiving.newest() {
            let age = wall.since(Timestamp(newest.created_at));
            context.metrics.snapshot_age(self.partition, age);
        }
        if due && self.archiving.taking.is_none() && self.archiving.not_before <= now {
            self.take_snapshot();
        }
    }

    /// How snapshots fare; `None` where none are taken but on request.
    pub(crate) fn snapshot_health(&self, now: Instant) -> Option<SnapshotHealth> {
        let archive = &self.context.archive;
        let options = &archive.options;
        if archive.url().is_none() || (options.interval.is_none() && options.records.is_none()) {
            return None;
        }
        let wall = Timestamp::from_system(SystemTime::now());
        let newest = self.archiving.newest();
        Some(SnapshotHealth {
            age: newest.map(|newest| wall.since(Timestamp(newest.created_at))),
            overdue: self.archiving.overdue(now),
            overdue_max: options.interval.unwrap_or_default().max(OVERDUE_MIN),
            problem: self.archiving.problem.clone(),
        })
    }

    fn is_snapshot_due(&self, wall: Timestamp) -> bool {
        let options = &self.context.archive.options;
        if self.archiving.retained.is_none() {
            // Whether one is due nobody can tell who cannot read the repository.
            let wanted = options.interval.is_some() || options.records.is_some();
            return wanted && self.archiving.problem.is_some();
        }
        let newest = self.archiving.newest();
        let shown = newest.map_or(0, |newest| newest.lsn);
        let fresh = self.store.applied().0.saturating_sub(shown);
        let since = newest.map_or(self.archiving.led_since, |newest| {
            Timestamp(newest.created_at)
        });
        let by_time = options
            .interval
            .map(|interval| interval <= wall.since(since));
        let by_records = options.records.map(|records| records <= fresh);
        // Of a partition in which nothing happens, the last one is good for ever.
        0 < fresh
            && (by_time.is_some() || by_records.is_some())
            && by_time.unwrap_or(true)
            && by_records.unwrap_or(true)
    }

    /// Begins a snapshot; `None` if too many other partitions are at it.
    fn take_snapshot(&mut self) -> Option<(u64, Lsn)> {
        let context = Arc::clone(self.context);
        let shelf = context
            .archive
            .shelf(&context.metadata.view(), self.partition)?;
        let room = context.archive.try_room()?;
        let ticket = context.archive.ticket();
        let (lsn, exporting) = match context.archive.begin_export(self.store, ticket) {
            Ok(begun) => begun,
            // Whether the store can go on is for its maintenance to say: a full disk gets room again.
            Err(error) => {
                self.on_archive_failure(&ArchiveError::Store(error), "no snapshot was begun");
                return None;
            }
        };
        self.archiving.taking = Some(ticket);
        self.archiving.note(ticket, Ticket::Running);
        let about = self.about();
        self.upkeep_mut().spawn(async move {
            let saved = async {
                let (export, _staged) = exporting.done().await?;
                context.archive.publish(shelf, &export, about).await
            };
            let saved = saved.await;
            drop(room);
            Outcome::Saved(ticket, saved)
        });
        Some((ticket, lsn))
    }

    fn about(&self) -> About {
        About {
            epoch: self.epoch,
            node: self.context.node.node.0,
            partitions: self.context.partitions,
        }
    }

    fn take_on_request(
        &mut self,
        take: &abide_rpc::proto::partition::TakeSnapshot,
        responder: Responder,
    ) {
        if self.context.archive.url().is_none() {
            let reason = "no `worker.snapshots.destination` is configured".to_owned();
            answer(responder, Answer::Refused(reason));
            return;
        }
        if self.store.applied().0 < take.min_lsn {
            let reason = format!("the partition has applied {} only", self.store.applied());
            answer(responder, Answer::Refused(reason));
            return;
        }
        let epoch = self.epoch.0;
        if 0 < take.min_lsn
            && let Some(newest) = self.archiving.newest()
            && take.min_lsn <= newest.lsn
        {
            let (newest, ticket) = (newest.clone(), self.context.archive.ticket());
            let lsn = newest.lsn;
            self.archiving.note(ticket, Ticket::Done(newest));
            if take.trim {
                self.trim_to_snapshot();
            }
            answer(responder, Answer::Begun(Begun { ticket, lsn, epoch }));
            return;
        }
        // One that is under way may be from before what the asker did last.
        let begun = match self.archiving.taking {
            Some(_) => None,
            None => self.take_snapshot(),
        };
        match begun {
            Some((ticket, lsn)) => {
                self.archiving.trim |= take.trim;
                let lsn = lsn.0;
                answer(responder, Answer::Begun(Begun { ticket, lsn, epoch }));
            }
            // Whoever asks comes again.
            None => responder.answer(Response::Overloaded),
        }
    }

    fn trim_to_snapshot(&mut self) {
        let archived = self.archiving.archived();
        let (store, sequencer) = (&*self.store, &self.sequencer);
        if let Some(trimmed) = self
            .upkeep
            .trim_now(Instant::now(), store, sequencer, archived)
        {
            self.sequencer.on_trimmed(trimmed);
            // Log servers hear of it with the next record; this one is empty and goes at once.
            self.propose(Command::Purge(Purge::default()), OnApplied::Nobody);
        }
    }

    pub(crate) fn on_pointer(&mut self, pointer: Result<Option<Pointer>, ArchiveError>) {
        self.archiving.looking = false;
        match pointer {
            Ok(pointer) => {
                let applied = self.store.applied().0;
                let mut retained = pointer.map_or_else(Vec::new, |pointer| pointer.retained);
                let before = retained.len();
                // Of records that this log never had: its data was lost and begun anew under the same fingerprint.
                retained.retain(|snapshot| snapshot.lsn <= applied);
                if retained.len() < before {
                    tracing::error!(partition = %self.partition, applied, "the repository has snapshots of records that this log does not have; they do not count");
                }
                self.archiving.retained = Some(retained);
                self.archiving.problem = None;
            }
            Err(error) => self.on_archive_failure(&error, "the snapshots are not known"),
        }
    }

    fn on_archive_failure(&mut self, error: &ArchiveError, what: &'static str) {
        let reason = chain_of(error);
        tracing::warn!(partition = %self.partition, reason, "{what}");
        metrics::counter!("abide_partition_snapshot_failures_total").increment(1);
        self.archiving.not_before = Instant::now() + RETRY_AFTER;
        self.archiving.problem = Some(reason);
    }

    pub(crate) fn on_saved(
        &mut self,
        ticket: u64,
        saved: Result<abide_snapshots::Saved, ArchiveError>,
    ) {
        self.archiving.taking = None;
        match saved {
            Ok(saved) => {
                metrics::counter!("abide_partition_snapshots_total").increment(1);
                metrics::counter!("abide_partition_snapshot_sent_bytes_total")
                    .increment(saved.sent_bytes);
                tracing::info!(partition = %self.partition, lsn = saved.snapshot.lsn, bytes = saved.snapshot.bytes,
                    sent = saved.sent_bytes, "snapshot stored");
                let kept_max = self.context.archive.options.num_retained.max(1);
                let retained = self.archiving.retained.get_or_insert_default();
                retained.retain(|kept| saved.archived.0 <= kept.lsn);
                retained.push(saved.snapshot.clone());
                // Where nothing happened in between, those that went show the same record as those that stay.
                let surplus = retained.len().saturating_sub(kept_max);
                retained.drain(..surplus);
                self.archiving.problem = None;
                self.archiving.due_since = None;
                self.archiving.note(ticket, Ticket::Done(saved.snapshot));
                if std::mem::take(&mut self.archiving.trim) {
                    self.trim_to_snapshot();
                }
            }
            Err(error) => {
                self.archiving
                    .note(ticket, Ticket::Failed(chain_of(&error)));
                self.archiving.trim = false;
                self.on_archive_failure(&error, "the snapshot was not taken");
            }
        }
    }

    pub(crate) fn on_backed_up(
        &mut self,
        ticket: u64,
        stored: Result<(Retained, u64), ArchiveError>,
    ) {
        let state = match stored {
            Ok((snapshot, sent)) => {
                tracing::info!(partition = %self.partition, lsn = snapshot.lsn, sent, "stored for a backup");
                Ticket::Done(snapshot)
            }
            Err(error) => {
                let reason = chain_of(&error);
                tracing::warn!(partition = %self.partition, reason, "not stored for a backup");
                Ticket::Failed(reason)
            }
        };
        self.archiving.note(ticket, state);
    }

    fn hold(&mut self, id: u64, lease: Duration, responder: Responder) {
        let until = Instant::now() + lease;
        match &mut self.archiving.hold {
            Some(hold) if hold.id != id => {
                let reason = "another backup holds the partition".to_owned();
                answer(responder, Answer::Refused(reason));
            }
            // A question that was repeated; the lease runs from the first.
            Some(hold) => hold.waiting.push(responder),
            None => {
                self.archiving.hold = Some(Hold {
                    id,
                    until,
                    waiting: vec![responder],
                    cut: None,
                });
            }
        }
    }

    /// Says that the partition stands still when it does, and ends a hold whose time is up.
    pub(crate) fn settle_hold(&mut self, now: Instant) {
        let (quiet, epoch) = (self.is_quiet(), self.epoch.0);
        let Some(hold) = &mut self.archiving.hold else {
            return;
        };
        if hold.until <= now {
            tracing::warn!(partition = %self.partition, "a backup has held the partition for too long");
            self.end_hold("its time was up");
        } else if quiet {
            for responder in hold.waiting.drain(..) {
                answer(responder, Answer::Held(epoch));
            }
        }
    }

    fn end_hold(&mut self, why: &str) {
        if let Some(hold) = self.archiving.hold.take() {
            for responder in hold.waiting {
                answer(
                    responder,
                    Answer::Refused(format!("the hold is over: {why}")),
                );
            }
        }
    }

    /// Fixes the state of a hold, and has it stored when its files are there.
    fn cut(&mut self, id: u64, url: String, responder: Responder) {
        let epoch = self.epoch.0;
        self.settle_hold(Instant::now());
        let standing = self.is_quiet();
        let ticket = match &self.archiving.hold {
            Some(hold) if hold.id == id && standing => match hold.cut {
                Some((ticket, lsn)) => {
                    let lsn = lsn.0;
                    answer(responder, Answer::Begun(Begun { ticket, lsn, epoch }));
                    return;
                }
                None => self.context.archive.ticket(),
            },
            _ => {
                let reason = "the partition is not held for this backup any more".to_owned();
                answer(responder, Answer::Refused(reason));
                return;
            }
        };
        let context = Arc::clone(self.context);
        let Some(cluster) = archive::cluster_id(&context.metadata.view()) else {
            answer(
                responder,
                Answer::Refused("the node has no cluster".to_owned()),
            );
            return;
        };
        let (lsn, exporting) = match context.archive.begin_export(self.store, ticket) {
            Ok(begun) => begun,
            Err(error) => {
                answer(responder, Answer::Refused(chain_of(&error)));
                return;
            }
        };
        if let Some(hold) = &mut self.archiving.hold {
            hold.cut = Some((ticket, lsn));
        }
        self.archiving.note(ticket, Ticket::Running);
        let (about, partition) = (self.about(), self.partition);
        self.upkeep_mut().spawn(async move {
            let stored = async {
                let (export, _staged) = exporting.done().await?;
                let _room = context.archive.room().await;
                (context.archive)
                    .back_up(&url, &cluster, partition, &export, about)
                    .await
            };
            Outcome::BackedUp(ticket, stored.await)
        });
        let lsn = lsn.0;
        answer(responder, Answer::Begun(Begun { ticket, lsn, epoch }));
    }
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("plain fields always have a JSON form")
        .into()
}
