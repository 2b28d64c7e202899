//! The task of one partition on one node: follows the log, and leads when the partition table says so.
//!
//! Start at [`Partition::run`]. The store belongs to this task in either role; a change of role hands it over, so
//! that there is never more than one writer.

use std::sync::Arc;
use std::time::Duration;

use abide_invoker::Invoker;
use abide_log::{
    ChainStore as _, LogChain, LogClient, LogReader, ReadError, Record, Refused, Salvaged,
    Sequencer, TakeOverError, TakeOverRequest, Taken, take_over,
};
use abide_metadata::Metadata;
use abide_partition_store::PartitionStore;
use abide_rpc::proto::partition as wire;
use abide_rpc::{Fabric, Service};
use abide_schema::Schema;
use abide_state_machine::{ApplyError, StateMachine, StoreError};
use abide_telemetry::Tracer;
use abide_types::{Epoch, Lsn, NodeId, NodeIncarnation, PartitionId, Timestamp};
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::chains::Chains;
use crate::directory::{Directory, Event, Order};
use crate::leader::Leader;
use crate::leader_archive::SnapshotHealth;
use crate::metrics::Metrics;
use crate::rebuild::Cause;
use crate::shedding;
use crate::wire::Response;

/// Bytes of the log that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Followers apply what has gathered in this time together: it costs them nothing but freshness, and they catch
/// up before they lead.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);
/// How often a follower looks whether a full disk has room again.
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a follower says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before a takeover that failed is tried again.
const TAKE_OVER_AFTER: Duration = Duration::from_millis(100);

/// At the end of a node a store is not flushed for fewer records: the next start replays them in no time, while the
/// files of many partitions take seconds.
const REPLAYED_MAX: u64 = 200;

/// Limits and intervals of partitions.
#[derive(Debug, Clone)]
pub struct ProcessorOptions {
    /// Bytes of state that go with the start of an attempt; what is beyond is fetched on demand.
    pub eager_state_bytes_max: usize,
    /// Whether any state goes with it.
    pub eager_state: bool,
    /// Timers that are kept in memory; later ones stay in the store until their turn is near.
    pub timers_in_memory_max: usize,
    /// How often completed invocations are looked through for expired ones.
    pub cleanup_interval: Duration,
    /// How long a request looks for a leader before it is given back.
    pub give_up_after: Duration,
    /// Takes the spans of invocations.
    pub tracer: Tracer,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            eager_state_bytes_max: 1 << 20,
            eager_state: true,
            timers_in_memory_max: 10_000,
            cleanup_interval: Duration::from_secs(3600),
            give_up_after: Duration::from_secs(30),
            tracer: Tracer::off(),
        }
    }
}

/// Ends the node, for the reason that is given.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// Tells whether a node's disk is nearly full.
pub type DiskFull = Arc<dyn Fn() -> bool + Send + Sync>;

/// What all partitions of a node share.
pub(crate) struct Context {
    pub(crate) node: NodeIncarnation,
    pub(crate) partitions: u16,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) metadata: Metadata,
    pub(crate) chains: Arc<Chains>,
    pub(crate) log: Arc<LogClient>,
    pub(crate) invoker: Arc<Invoker>,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) options: ProcessorOptions,
    pub(crate) archive: Arc<Archive>,
    pub(crate) disk_full: DiskFull,
    /// Ends the node.
    pub(crate) fatal: Fatal,
    pub(crate) metrics: Metrics,
    pub(crate) statuses: Mutex<BTreeMap<PartitionId, PartitionStatus>>,
}

/// How a partition fares on this node.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// What it does here.
    pub role: PartitionRole,
    /// The epoch that it leads or follows.
    pub epoch: Epoch,
    /// The last record that is applied.
    pub applied: Lsn,
    /// The last record whose effects survive a crash of this node without the log.
    pub durable: Lsn,
    /// On a leader: the last record that every kept snapshot shows; zero for none.
    pub archived: Lsn,
    /// On a leader whose snapshots are taken by time or by records: how they fare.
    pub snapshots: Option<SnapshotHealth>,
    /// On a leader: the position of the next record.
    pub tail: Lsn,
    /// On a leader: invocations that are invoked.
    pub invoked: usize,
    /// Why it stopped or is being rebuilt, if so.
    pub stopped: Option<String>,
    /// What waits in it.
    pub load: PartitionLoad,
    /// When any of this was last said.
    pub said_at: Instant,
}

impl PartitionStatus {
    /// Whether this node leads the partition under that epoch, or a later one, and serves.
    pub fn serves(&self, epoch: Epoch) -> bool {
        self.role == PartitionRole::Leader && epoch <= self.epoch
    }
}

/// What waits in a partition; mostly on its leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionLoad {
    /// Requests and posts that its task has not taken.
    pub events: usize,
    /// Messages of attempts that its task has not taken.
    pub effects: usize,
    /// Commands that are not in a record yet.
    pub proposals: usize,
    /// Bytes of them, about.
    pub proposals_bytes: usize,
    /// Records that are not committed.
    pub records: usize,
    /// Bytes of them.
    pub records_bytes: u64,
    /// Invocations whose next attempt is delayed after a failure.
    pub backing_off: usize,
    /// Timers in memory.
    pub timers: usize,
    /// Messages to other partitions that are not acked.
    pub outbox: usize,
    /// Of those, the ones that are on their way.
    pub outbox_sent: usize,
}

/// The most that may wait in one partition.
impl PartitionLoad {
    /// Of requests and posts.
    pub const EVENTS_MAX: usize = crate::processors::EVENTS_MAX;
    /// Of messages of attempts.
    pub const EFFECTS_MAX: usize = crate::leader::EFFECTS_MAX;
    /// Of commands.
    pub const PROPOSALS_MAX: usize = crate::leader::PROPOSALS_MAX;
    /// Of bytes of commands.
    pub const PROPOSALS_BYTES_MAX: usize = crate::leader::PROPOSALS_BYTES_MAX;
    /// Of records.
    pub const RECORDS_MAX: usize = crate::leader::RECORDS_IN_FLIGHT_MAX;
}

/// What a partition does on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionRole {
    /// Applies the log.
    Follower,
    /// Is about to lead.
    TakingOver,
    /// Leads.
    Leader,
    /// Its store was of no use and is filled with the state of another replica.
    Rebuilding,
    /// Cannot go on; an operator has to look.
    Stopped,
}

/// Why a partition stopped on this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartitionError {
    #[error("a record cannot be applied")]
    Apply(#[source] ApplyError),
    #[error("the partition store failed")]
    Store(#[source] StoreError),
    #[error("the log cannot be read")]
    Read(#[source] ReadError),
    #[error("the partition store was rebuilt {0} times and is damaged again: look at the disk")]
    DamagedAgain(u32),
    #[error(
        "the partition store ends before record {first}, where the log begins, and there is no other replica"
    )]
    Lost { first: Lsn },
    #[error(
        "the log was recovered by {epoch} with records up to {at}, and others are applied from there on"
    )]
    Superseded { epoch: Epoch, at: Lsn },
}

impl Context {
    pub(crate) fn report(&self, partition: PartitionId, change: impl FnOnce(&mut PartitionStatus)) {
        let mut statuses = self.statuses.lock();
        let status = statuses
            .entry(partition)
            .or_insert_with(|| PartitionStatus {
                role: PartitionRole::Follower,
                epoch: Epoch::default(),
                applied: Lsn::ZERO,
                durable: Lsn::ZERO,
                archived: Lsn::ZERO,
                snapshots: None,
                tail: Lsn::ZERO,
                invoked: 0,
                stopped: None,
                load: PartitionLoad::default(),
                said_at: Instant::now(),
            });
        status.said_at = Instant::now();
        change(status);
    }

    pub(crate) fn set_active(&self, partition: PartitionId, epoch: Epoch, sequencer: &Sequencer) {
        self.report(partition, |status| {
            status.role = PartitionRole::Leader;
            status.epoch = epoch;
            status.tail = sequencer.next();
        });
    }
}

/// What the partition table says of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) epoch: Epoch,
    pub(crate) leader: Option<NodeIncarnation>,
    pub(crate) replicas: Vec<NodeId>,
    write_quorum: usize,
}

/// One partition on this node.
pub(crate) struct Partition {
    pub(crate) context: Arc<Context>,
    pub(crate) partition: PartitionId,
    pub(crate) store: PartitionStore,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) stop: CancellationToken,
    /// How often the store was damaged.
    pub(crate) damages: u32,
}

impl Partition {
    /// Runs until the node stops or the partition is no longer placed here. A failure stops this partition only.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let partition = self.partition;
        let context = self.context.clone();
        let end = tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = self.serve() => end,
        };
        if let Err(error) = end {
            let reason = chain_of(&error);
            tracing::error!(%partition, reason, "the partition stopped; other partitions carry on");
            context.metrics.stopped(partition);
            context.report(partition, |status| {
                status.role = PartitionRole::Stopped;
                status.stopped = Some(reason.clone());
            });
            self.hand_leadership_over().await;
            self.refuse(&reason).await;
        }
        let unflushed = self.store.durable_applied().until(self.store.applied());
        if REPLAYED_MAX < unflushed
            && let Err(error) = self.store.flush()
        {
            tracing::error!(%partition, error = %chain_of(&error), "the partition store was not flushed");
        }
    }

    async fn refuse(&mut self, reason: &str) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some((_, responder)) = self.orders.recv() => {
                    responder.answer(Response::Stopped(reason.to_owned()));
                }
                event = self.events.recv() => match event {
                    Some(Event::Ask(_, responder)) => responder.answer(Response::Stopped(reason.to_owned())),
                    Some(Event::Attempts(question)) => {
                        let _ = question.answer.send(Err(Response::Stopped(reason.to_owned())));
                    }
                    Some(_) => {}
                    None => return,
                },
            }
        }
    }

    async fn serve(&mut self) -> Result<(), PartitionError> {
        let mut led = Epoch::default();
        self.begin_from_origin().await?;
        loop {
            let assignment = self.assignment();
            let end = match assignment {
                Some(assignment)
                    if assignment.leader == Some(self.context.node) && assignment.epoch > led =>
                {
                    led = assignment.epoch;
                    self.lead(&assignment).await
                }
                other => self.follow(other, led).await,
            };
            if let Err(error) = end {
                match Cause::of(&error) {
                    Some(cause) => self.recover(&cause).await?,
                    None => return Err(error),
                }
            }
        }
    }

    pub(crate) fn assignment(&self) -> Option<Assignment> {
        let view = self.context.metadata.view();
        let entry = view.partition_table.partitions.get(&self.partition)?;
        let cluster = view.cluster.as_ref()?;
        Some(Assignment {
            epoch: entry.epoch,
            leader: entry.leader,
            replicas: entry.replicas.clone(),
            write_quorum: entry.quorum(cluster.replication),
        })
    }

    /// Takes the log over and leads until a higher epoch is granted.
    async fn lead(&mut self, assignment: &Assignment) -> Result<(), PartitionError> {
        let (partition, epoch) = (self.partition, assignment.epoch);
        let applied = self.store.applied();
        self.context.report(partition, |status| {
            status.role = PartitionRole::TakingOver;
            status.epoch = epoch;
            status.applied = applied;
        });
        let mut request = TakeOverRequest::new(
            partition,
            epoch,
            assignment.replicas.clone(),
            assignment.write_quorum,
        );
        if let Some(origin) = self.origin() {
            request.origin = Lsn(origin.snapshot.lsn).next();
        }
        let mut views = self.context.metadata.watch();
        let reassigned = async {
            let epoch_of = |view: &abide_metadata::View| {
                (view.partition_table.partitions.get(&partition)).map(|entry| entry.epoch)
            };
            // An error means that the node stops.
            let _ = views
                .wait_for(|view| epoch_of(view).is_some_and(|now| now > epoch))
                .await;
        };
        let begun = Instant::now();
        let taken = tokio::select! {
            taken = take_over(&self.context.log, &*self.context.chains, request) => taken,
            () = reassigned => return Ok(()),
        };
        match taken {
            Ok(taken) => self.lead_on(epoch, taken, begun).await,
            Err(
                error @ (TakeOverError::Refused(Refused::Overtaken { .. })
                | TakeOverError::TimedOut { .. }
                | TakeOverError::EpochUsed { .. }),
            ) => {
                self.context.metrics.took_over(begun.elapsed(), false);
                tracing::warn!(%partition, %epoch, error = %chain_of(&error), "takeover failed, asking for a fresh epoch");
                tokio::time::sleep(TAKE_OVER_AFTER).await;
                self.ask_for_epoch(epoch, |_| ()).await;
                Ok(())
            }
            Err(error) => {
                self.context.metrics.took_over(begun.elapsed(), false);
                tracing::info!(%partition, %epoch, error = %chain_of(&error), "takeover given up");
                Ok(())
            }
        }
    }

    /// `begun` is when the takeover was.
    async fn lead_on(
        &mut self,
        epoch: Epoch,
        taken: Taken,
        begun: Instant,
    ) -> Result<(), PartitionError> {
        let Taken {
            chain,
            sequencer,
            suffix,
            tail,
            mailbox,
        } = taken;
        if let Err(error) = self.catch_up(&chain, suffix, tail).await {
            self.context.log.unregister(self.partition);
            return Err(error);
        }
        let step_down = Leader::new(
            &self.context,
            self.partition,
            epoch,
            &mut self.store,
            sequencer,
            &chain,
            &mailbox,
            &mut self.events,
            &mut self.orders,
            begun,
        )
        .run()
        .await;
        self.context.log.unregister(self.partition);
        self.context.report(self.partition, |status| {
            status.role = PartitionRole::Follower;
            status.invoked = 0;
            status.archived = Lsn::ZERO;
            status.snapshots = None;
            status.load = PartitionLoad::default();
        });
        (self.context.metrics).snapshot_age(self.partition, Duration::ZERO);
        (self.context.metrics).snapshot_overdue(self.partition, Duration::ZERO);
        let step_down = step_down?;
        tracing::info!(partition = %self.partition, %epoch, ?step_down, "leads no more");
        Ok(())
    }

    /// Applies everything below `tail`.
    async fn catch_up(
        &mut self,
        chain: &LogChain,
        suffix: Vec<Record>,
        tail: Lsn,
    ) -> Result<(), PartitionError> {
        self.check_history(chain)?;
        let base = suffix.first().map_or(tail, Record::lsn);
        while self.store.applied().next() < base {
            let from = self.store.applied().next();
            let read = LogReader::read_chain(
                &self.context.log,
                self.partition,
                chain,
                from,
                base,
                READ_BYTES,
            )
            .await;
            match read {
                Ok(records) => self.apply(records)?,
                Err(ReadError::Unreachable { lsn, .. }) => {
                    tracing::warn!(partition = %self.partition, %lsn, "no replica in reach has a record, trying again");
                    tokio::time::sleep(TAKE_OVER_AFTER).await;
                }
                Err(error) => return Err(PartitionError::Read(error)),
            }
        }
        self.apply(suffix)
    }

    /// Whether records that the log was recovered without are among those that are applied here; then they must go.
    /// Otherwise notes that what is applied from now on goes by the last recovery; returns whether that is news.
    fn check_history(&mut self, chain: &LogChain) -> Result<bool, PartitionError> {
        let known = self.store.history();
        let Some(newest) = chain.salvaged().last().filter(|mark| known < mark.epoch) else {
            return Ok(false);
        };
        if let Some(mark) = superseded(chain, known, self.store.applied()) {
            let (epoch, at) = (mark.epoch, mark.at);
            return Err(PartitionError::Superseded { epoch, at });
        }
        self.store.set_history(newest.epoch);
        Ok(true)
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<(), PartitionError> {
        let machine = StateMachine::new(self.partition, self.context.partitions);
        for record in records {
            let lsn = record.lsn();
            if lsn <= self.store.applied() {
                continue;
            }
            let batch =
                StateMachine::decode(lsn, record.into_payload()).map_err(PartitionError::Apply)?;
            self.context.metrics.read(Timestamp(batch.at));
            machine
                .apply(&mut self.store, lsn, batch)
                .map_err(PartitionError::Apply)?;
            self.store.set_applied(lsn);
        }
        self.store.maintain().map_err(PartitionError::Store)
    }

    /// Applies the log until the assignment changes.
    async fn follow(
        &mut self,
        assignment: Option<Assignment>,
        led: Epoch,
    ) -> Result<(), PartitionError> {
        let partition = self.partition;
        let epoch = assignment.as_ref().map(|assignment| assignment.epoch);
        let (applied, durable) = (self.store.applied(), self.store.durable_applied());
        self.context.report(partition, |status| {
            status.role = PartitionRole::Follower;
            status.epoch = epoch.unwrap_or_default();
            status.applied = applied;
            status.durable = durable;
        });
        let chains = self.context.chains.subscribe(partition);
        let mut newest = chains.clone();
        let mut reader = LogReader::new(self.context.log.clone(), partition, chains);
        let mut views = self.context.metadata.watch();
        let mut progress_at = Instant::now() + PROGRESS_INTERVAL;
        let mut read_after = Instant::now();
        // Who failed to take over with the present epoch asks again until it has another.
        let mut ask_again = (assignment.as_ref())
            .filter(|assignment| {
                assignment.leader == Some(self.context.node) && assignment.epoch == led
            })
            .map(|_| Instant::now() + Duration::from_secs(1));
        loop {
            views.mark_unchanged();
            if self.assignment() != assignment {
                return Ok(());
            }
            let chain = newest.borrow_and_update().clone();
            self.check_history(&chain)?;
            let from = self.store.applied().next();
            let read = async {
                tokio::time::sleep_until(read_after).await;
                // What is applied takes room as well, and the log keeps what waits.
                while (self.context.disk_full)() {
                    tokio::time::sleep(FULL_INTERVAL).await;
                }
                reader.read(from, READ_BYTES).await
            };
            let wake_at = ask_again.map_or(progress_at, |at| at.min(progress_at));
            tokio::select! {
                biased;
                changed = views.changed() => if changed.is_err() {
                    // The cache has ended: the node stops.
                    self.stop.cancelled().await;
                },
                event = self.events.recv() => match event {
                    Some(Event::Ask(_, responder)) => responder.answer(Response::NotLeader),
                    Some(_) => {}
                    None => self.stop.cancelled().await,
                },
                Some((_, responder)) = self.orders.recv() => responder.answer(Response::NotLeader),
                changed = newest.changed() => if changed.is_err() {
                    self.stop.cancelled().await;
                },
                records = read => match records {
                    Ok(records) => {
                        // They may have been read from what the log was recovered without, a moment before.
                        let chain = newest.borrow().clone();
                        if self.check_history(&chain)? {
                            continue;
                        }
                        self.apply(records)?;
                        read_after = Instant::now() + FOLLOW_INTERVAL;
                    }
                    Err(ReadError::Gone { .. }) => self.stop.cancelled().await,
                    Err(ReadError::Unreachable { .. }) => read_after = Instant::now() + TAKE_OVER_AFTER,
                    Err(error) => return Err(PartitionError::Read(error)),
                },
                () = tokio::time::sleep_until(wake_at) => {
                    let now = Instant::now();
                    if ask_again.is_some_and(|at| at <= now) {
                        self.ask_for_epoch(led, |_| ()).await;
                        ask_again = Some(now + Duration::from_secs(1));
                    }
                    if progress_at <= now {
                        progress_at = now + PROGRESS_INTERVAL;
                        self.store.maintain().map_err(PartitionError::Store)?;
                        self.flush_if_shed()?;
                        self.tell_progress(assignment.as_ref());
                    }
                }
            }
            let (applied, durable) = (self.store.applied(), self.store.durable_applied());
            self.context.report(partition, |status| {
                status.applied = applied;
                status.durable = durable;
            });
        }
    }

    /// Makes durable what stands in the way of letting go of nodes that left the replica set.
    fn flush_if_shed(&mut self) -> Result<(), PartitionError> {
        let wanted = shedding::wanted(&self.context, self.partition);
        if wanted.is_some_and(|end| self.store.durable_applied().next() < end) {
            self.store.flush().map_err(PartitionError::Store)?;
        }
        Ok(())
    }

    pub(crate) fn tell_progress(&self, assignment: Option<&Assignment>) {
        let Some(leader) = assignment.and_then(|assignment| assignment.leader) else {
            return;
        };
        let progress = wire::Progress {
            partition: self.partition.0.into(),
            applied: self.store.applied().0,
            durable: self.store.durable_applied().0,
        };
        let post = wire::Post {
            kind: Some(wire::post::Kind::Progress(progress)),
        };
        // Lost ones are made good by the next.
        let _ =
            self.context
                .fabric
                .send(leader.node, Service::Partition, post.encode_to_vec().into());
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The recovery that went on without records which a state of that history shows, if there is one.
pub(crate) fn superseded(chain: &LogChain, history: Epoch, applied: Lsn) -> Option<&Salvaged> {
    let mut news = chain.salvaged().iter().filter(|mark| history < mark.epoch);
    news.find(|mark| mark.at <= applied)
}
