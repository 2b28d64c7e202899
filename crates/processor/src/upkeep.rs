//! What a leader does beside its commands: feeds log servers that are far behind, makes new ones voters, and
//! trims what every replica has durably applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use abide_log::{
    CatchUp, ChainStore as _, Enrolment, LogChain, LogReader, ReadError, Record, Sequencer, enrol,
};
use abide_partition_store::PartitionStore;
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::partition::{Context, PartitionError};
use crate::shedding;

/// How often trimming is considered.
const INTERVAL: Duration = Duration::from_secs(5);
/// Trimming fewer records is not worth its writes.
const TRIM_RECORDS_MIN: u64 = 1000;
/// Bytes read at once for a log server that is behind.
const FEED_BYTES: usize = 1 << 20;

/// Outcome of something that ran beside the leader.
pub(crate) enum Outcome {
    Fed(NodeId, Result<Vec<Record>, ReadError>),
    Enrolled(NodeId, abide_log::StorageId, Enrolment),
    Trimmed,
}

pub(crate) struct Upkeep {
    context: Arc<Context>,
    partition: PartitionId,
    epoch: Epoch,
    replicas: Vec<NodeId>,
    /// What survives a crash on each follower.
    durable: BTreeMap<NodeId, Lsn>,
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
            durable: BTreeMap::new(),
            tasks: JoinSet::new(),
            enrolling: false,
            next_run: now + INTERVAL,
        }
    }

    pub(crate) fn set_replicas(&mut self, replicas: Vec<NodeId>) {
        self.replicas = replicas;
    }

    pub(crate) fn progress(&mut self, node: NodeId, durable: Lsn) {
        self.durable.insert(node, durable);
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
                let read = tokio::time::timeout(INTERVAL, reader.read(from, FEED_BYTES)).await;
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

    /// Considers trimming, when it is time; returns the new trim point.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        store: &mut PartitionStore,
        sequencer: &Sequencer,
    ) -> Result<Option<Lsn>, PartitionError> {
        if now < self.next_run {
            return Ok(None);
        }
        self.next_run = now + INTERVAL;
        let shed = shedding::wanted(&self.context, self.partition);
        if shed.is_some_and(|end| store.durable_applied().next() < end) {
            store.flush().map_err(PartitionError::Store)?;
        }
        Ok(self.trim_point(store, sequencer, shed))
    }

    fn trim_point(
        &mut self,
        store: &PartitionStore,
        sequencer: &Sequencer,
        shed: Option<Lsn>,
    ) -> Option<Lsn> {
        let own = self.context.node.node;
        let slowest = (self.replicas.iter())
            .map(|node| {
                if *node == own {
                    store.durable_applied()
                } else {
                    self.durable.get(node).copied().unwrap_or(Lsn::ZERO)
                }
            })
            .min()?;
        let trimmed = slowest.next().min(sequencer.committed());
        // It is wanted for as long as the chain has the segment: a chain that was not shortened is tried again.
        let sheds = shed.is_some_and(|end| end <= trimmed);
        if self.trimmed.until(trimmed) < TRIM_RECORDS_MIN && !sheds {
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
        }
        Ok(())
    }
}
