//! What a leader does beside its commands: feeds log servers that are far behind, makes new ones voters, and
//! trims what nobody needs any more: see [`crate::trimming`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use abide_log::{
    CatchUp, ChainStore as _, Enrolment, LogChain, LogReader, ReadError, Record, Sequencer, enrol,
};
use abide_partition_store::PartitionStore;
use abide_snapshots::{Pointer, Retained, Saved};
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::archive::ArchiveError;
use crate::leader::Leader;
use crate::partition::{Context, PartitionError};
use crate::shedding;
use crate::trimming::{self, Delay, DurabilityMode, Follower};

/// How long a read for a log server that is behind may take.
const FEED_WITHIN: Duration = Duration::from_secs(5);
/// A follower that has said nothing for so long is away, though its node may be there: it says how far it is every few
/// seconds.
const AWAY_AFTER: Duration = Duration::from_secs(30);
/// Bytes read at once for a log server that is behind.
const FEED_BYTES: usize = 1 << 20;

/// Outcome of something that ran beside the leader.
pub(crate) enum Outcome {
    Fed(NodeId, Result<Vec<Record>, ReadError>),
    Enrolled(NodeId, abide_log::StorageId, Enrolment),
    Trimmed,
    Pointer(Result<Option<Pointer>, ArchiveError>),
    Saved(u64, Result<Saved, ArchiveError>),
    BackedUp(u64, Result<(Retained, u64), ArchiveError>),
}

pub(crate) struct Upkeep {
    context: Arc<Context>,
    partition: PartitionId,
    epoch: Epoch,
    replicas: Vec<NodeId>,
    /// When this leader, or the last change of its replicas, began.
    since: Instant,
    /// What survives a crash on each follower, and when it said so.
    durable: BTreeMap<NodeId, (Lsn, Instant)>,
    delay: Delay,
    trimmed: Lsn,
    tasks: JoinSet<Outcome>,
    enrolling: bool,
    next_run: Instant,
}

impl Upkeep {
    pub(crate) fn new(
        context: &Arc<Context>,
        partition: PartitionId,
        epoch: Epoch,
        chain: &LogChain,
        now: Instant,
    ) -> Self {
        Self {
            context: context.clone(),
            partition,
            epoch,
            trimmed: chain.first_lsn(),
            replicas: Vec::new(),
            since: now,
            durable: BTreeMap::new(),
            delay: Delay::default(),
            tasks: JoinSet::new(),
            enrolling: false,
            next_run: now + context.archive.options.check_interval,
        }
    }

    pub(crate) fn set_replicas(&mut self, replicas: Vec<NodeId>) {
        if self.replicas != replicas {
            self.since = Instant::now();
        }
        self.replicas = replicas;
    }

    pub(crate) fn progress(&mut self, node: NodeId, durable: Lsn) {
        self.durable.insert(node, (durable, Instant::now()));
    }

    pub(crate) fn next_run(&self) -> Instant {
        self.next_run
    }

    /// The next outcome; `None` when nothing runs.
    pub(crate) async fn next_outcome(&mut self) -> Option<Outcome> {
        // A task that panicked is lost; what it was for is found missing again by the next tick.
        self.tasks.join_next().await.and_then(Result::ok)
    }

    /// Reads for log servers that fell behind the sequencer's memory.
    pub(crate) fn feed_laggards(&mut self, sequencer: &mut Sequencer) {
        let mut wanted = Vec::new();
        sequencer.poll_reads(&mut wanted);
        for CatchUp { node, from, end } in wanted {
            let (context, partition) = (self.context.clone(), self.partition);
            self.tasks.spawn(async move {
                // Everything below the window is committed, so that the reader may hand it out.
                let chains = context.chains.subscribe(partition);
                let mut reader = LogReader::new(context.log.clone(), partition, chains);
                let read = tokio::time::timeout(FEED_WITHIN, reader.read(from, FEED_BYTES)).await;
                let records = read.unwrap_or(Err(ReadError::Unreachable {
                    partition,
                    lsn: from,
                }));
                Outcome::Fed(
                    node,
                    records.map(|records| {
                        (records.into_iter())
                            .filter(|record| record.lsn() < end)
                            .collect()
                    }),
                )
            });
        }
        if !self.enrolling
            && let Some((node, storage)) = sequencer.enrollable()
        {
            self.enrolling = true;
            let (context, partition, epoch) = (self.context.clone(), self.partition, self.epoch);
            self.tasks.spawn(async move {
                let outcome = enrol(&*context.chains, partition, epoch, node, storage).await;
                Outcome::Enrolled(node, storage, outcome)
            });
        }
    }

    /// Runs something beside the leader, until it is done or the leader leads no more.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = Outcome> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Whether it is time to consider trimming and snapshots.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_run <= now
    }

    /// Considers trimming; returns the new trim point.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        store: &mut PartitionStore,
        sequencer: &Sequencer,
        archived: Option<Lsn>,
    ) -> Result<Option<Lsn>, PartitionError> {
        let context = Arc::clone(&self.context);
        let options = &context.archive.options;
        let mode = options.durability;
        self.next_run = now + options.check_interval;
        let shed = match mode {
            DurabilityMode::None => None,
            _ => shedding::wanted(&context, self.partition),
        };
        if shed.is_some_and(|end| store.durable_applied().next() < end) {
            store.flush().map_err(PartitionError::Store)?;
        }
        let followers = self.followers(now);
        let point = trimming::point(mode, archived, store.durable_applied(), &followers)
            .map(|point| self.delay.pass(mode, options.trim_delay, now, point));
        if let Some(end) = shed
            && self.is_everywhere(end, store, &followers)
            && end <= sequencer.committed()
        {
            return Ok(Some(self.shed(end, point, sequencer)));
        }
        Ok(point.and_then(|point| self.trim_to(point, options.trim_records_min, sequencer)))
    }

    /// Whether every replica has all below `end` on its disk.
    fn is_everywhere(&self, end: Lsn, store: &PartitionStore, followers: &[Follower]) -> bool {
        let mode = DurabilityMode::ReplicaSetOnly;
        trimming::point(mode, None, store.durable_applied(), followers)
            .is_some_and(|point| end <= point.next())
    }

    /// Trims at least up to `end`, whatever snapshots there are: a node that was drained waits for it. It is wanted for
    /// as long as the chain has the segment, so that a chain that was not shortened is tried again.
    fn shed(&mut self, end: Lsn, point: Option<Lsn>, sequencer: &Sequencer) -> Lsn {
        let trimmed = point
            .map_or(end, |point| end.max(point.next()))
            .min(sequencer.committed())
            .max(self.trimmed);
        self.trimmed = trimmed;
        self.trim(trimmed);
        trimmed
    }

    /// Trims what a snapshot shows and every replica in reach has on disk, as an operator wants it now.
    pub(crate) fn trim_now(
        &mut self,
        now: Instant,
        store: &PartitionStore,
        sequencer: &Sequencer,
        archived: Option<Lsn>,
    ) -> Option<Lsn> {
        let mode = DurabilityMode::Balanced;
        let point = trimming::point(
            mode,
            archived,
            store.durable_applied(),
            &self.followers(now),
        )?;
        self.trim_to(point, 1, sequencer)
    }

    /// Where the log begins, as far as this leader has had it trimmed.
    pub(crate) fn first(&self) -> Lsn {
        self.trimmed
    }

    fn followers(&self, now: Instant) -> Vec<Follower> {
        self.disks(now)
            .into_iter()
            .map(|(_, follower)| follower)
            .collect()
    }

    /// How far every other replica is.
    pub(crate) fn disks(&self, now: Instant) -> Vec<(NodeId, Follower)> {
        let own = self.context.node.node;
        let peers = self.context.fabric.peers();
        let peers = peers.borrow();
        let connected = |node: &NodeId| peers.get(node).is_some_and(|peer| peer.connected);
        let others = self.replicas.iter().filter(|node| **node != own);
        let disks = others.map(|node| {
            let follower = match self.durable.get(node) {
                Some((durable, at)) => Follower {
                    durable: *durable,
                    in_reach: connected(node) && now < *at + AWAY_AFTER,
                },
                // One that has just been placed says so within moments; until then it counts as there.
                None => Follower {
                    durable: Lsn::ZERO,
                    in_reach: connected(node) && now < self.since + AWAY_AFTER,
                },
            };
            (*node, follower)
        });
        disks.collect()
    }

    pub(crate) fn trim_to(
        &mut self,
        point: Lsn,
        records_min: u64,
        sequencer: &Sequencer,
    ) -> Option<Lsn> {
        let trimmed = point.next().min(sequencer.committed());
        if self.trimmed.until(trimmed) < records_min.max(1) {
            return None;
        }
        self.trimmed = trimmed;
        self.trim(trimmed);
        Some(trimmed)
    }

    fn trim(&mut self, trimmed: Lsn) {
        let (context, partition, epoch) = (self.context.clone(), self.partition, self.epoch);
        self.tasks.spawn(async move {
            // The log servers forget first: a chain that says more than they have would send readers astray.
            let chain = match context.chains.load(partition).await {
                Ok((version, chain)) if chain.epoch() == epoch => Some((version, chain)),
                _ => None,
            };
            if let Some((version, chain)) = chain {
                let shorter = chain.trimmed(trimmed);
                if shorter.segments().len() < chain.segments().len()
                    && let Err(error) = context.chains.publish(partition, version, &shorter).await
                {
                    tracing::debug!(%partition, %error, "chain not shortened, next time");
                }
            }
            Outcome::Trimmed
        });
    }
}

impl Leader<'_> {
    pub(crate) fn on_progress(
        &mut self,
        node: NodeId,
        progress: &abide_rpc::proto::partition::Progress,
    ) {
        self.upkeep_mut().progress(node, Lsn(progress.durable));
    }

    pub(crate) fn on_upkeep(&mut self, outcome: Outcome) -> Result<(), PartitionError> {
        match outcome {
            Outcome::Fed(node, Ok(records)) => self.sequencer.on_read(node, records),
            Outcome::Fed(_, Err(ReadError::Trimmed { first, .. })) => {
                self.sequencer.on_trimmed(first)
            }
            Outcome::Fed(node, Err(error)) => {
                tracing::warn!(partition = %self.partition, %node, %error, "cannot feed a log server");
                self.sequencer.on_read_failed(node);
            }
            Outcome::Enrolled(node, storage, outcome) => {
                self.upkeep_mut().enrolling = false;
                if matches!(outcome, Enrolment::Enrolled) {
                    self.sequencer.on_enrolled(node, storage);
                }
            }
            Outcome::Trimmed => {}
            Outcome::Pointer(pointer) => self.on_pointer(pointer),
            Outcome::Saved(ticket, saved) => self.on_saved(ticket, saved),
            Outcome::BackedUp(ticket, stored) => self.on_backed_up(ticket, stored),
        }
        Ok(())
    }
}
