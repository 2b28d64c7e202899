//! Carries a takeover out: asks the log servers, reads, writes, publishes. The rules are in
//! [`crate::Takeover`]. Start at [`take_over`].

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout_at};

use crate::chain::LogChain;
use crate::client::{BoxFuture, LogClient, Mailbox};
use crate::message::{FenceRequest, ReadOutcome, ReadRequest, StorageId};
use crate::record::Record;
use crate::sequencer::{Sequencer, SequencerLimits};
use crate::takeover::{Refused, Takeover, Wants};

/// Where the chains of all logs are kept: the metadata plane.
pub trait ChainStore: Send + Sync + 'static {
    /// The chain and its version, read linearizably; version 0 and an empty chain when there is none.
    fn load(
        &self,
        partition: PartitionId,
    ) -> BoxFuture<'_, Result<(u64, LogChain), ChainStoreError>>;

    /// Replaces the chain if its version is `expected`; returns the new version.
    fn publish<'a>(
        &'a self,
        partition: PartitionId,
        expected: u64,
        chain: &'a LogChain,
    ) -> BoxFuture<'a, Result<u64, ChainStoreError>>;

    /// The chain as the node's cache has it, for readers.
    fn subscribe(&self, partition: PartitionId) -> watch::Receiver<Arc<LogChain>>;
}

/// Why the metadata plane did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainStoreError {
    /// Not done: the version is another one.
    #[error("the log chain has another version")]
    Conflict,
    /// Unknown or not done: ask again.
    #[error("the metadata plane does not answer")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// A takeover that is wanted.
#[derive(Debug, Clone)]
pub struct TakeOverRequest {
    /// The log.
    pub partition: PartitionId,
    /// A fresh epoch, granted to this node and used for this call only.
    pub epoch: Epoch,
    /// The replicas of the new segment.
    pub nodes: Vec<NodeId>,
    /// How many of them commit a record.
    pub write_quorum: usize,
    /// What the sequencer may have under way.
    pub limits: SequencerLimits,
    /// How long one call to a log server may take.
    pub call_timeout: Duration,
    /// How long the whole may take.
    pub deadline: Duration,
    /// Where a log that nobody led yet begins. Behind the first LSN in a cluster that was made from a backup.
    pub origin: Lsn,
}

impl TakeOverRequest {
    /// A request with the usual limits.
    pub fn new(
        partition: PartitionId,
        epoch: Epoch,
        nodes: Vec<NodeId>,
        write_quorum: usize,
    ) -> Self {
        Self {
            partition,
            epoch,
            nodes,
            write_quorum,
            limits: SequencerLimits::default(),
            call_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            origin: Lsn::FIRST,
        }
    }
}

/// A log that was taken over.
pub struct Taken {
    /// The chain as it was published, ending in the own segment.
    pub chain: LogChain,
    /// Writes the own segment. It has committed everything below [`Self::tail`].
    pub sequencer: Sequencer,
    /// The committed records that the own segment begins with, `[base, tail)`. Those before `base` are read
    /// with [`crate::LogReader::read_chain`].
    pub suffix: Vec<Record>,
    /// Everything below is committed and is to be applied before the leader acts.
    pub tail: Lsn,
    /// Receives the answers for the sequencer. Whoever registers another callback empties it afterwards.
    pub mailbox: Arc<Mailbox>,
}

/// Why a log was not taken over. The epoch is used up in every case.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It belongs to another epoch, or changed meanwhile.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// This node used the epoch, or a higher one, for a takeover before.
    #[error("{epoch} was used for log {partition} before; it takes a fresh epoch")]
    EpochUsed {
        /// The log.
        partition: PartitionId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Unknown: too few log servers or no metadata majority answered in time. If the segment was published
    /// all the same, the next epoch finds it in the chain.
    #[error("log {partition} was not taken over by {epoch} in time while it wanted {wanted}")]
    TimedOut {
        /// The log.
        partition: PartitionId,
        /// The epoch.
        epoch: Epoch,
        /// What could not be had.
        wanted: &'static str,
    },
}

/// How long to wait before asking again somebody who did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// How often to look after appends that got lost.
const TICK: Duration = Duration::from_millis(50);
/// How long a segment waits for a replica that was never met, so that it begins as a voter.
const STRANGERS_WAIT: Duration = Duration::from_millis(50);
/// Bytes of one read of the suffix.
const READ_BYTES: usize = 4 << 20;

/// Takes a log over: fences the last segment, writes its uncommitted suffix under the new epoch and publishes
/// the new segment. When it returns, everything below [`Taken::tail`] is committed.
pub async fn take_over(
    client: &Arc<LogClient>,
    store: &dyn ChainStore,
    request: TakeOverRequest,
) -> Result<Taken, TakeOverError> {
    let (partition, epoch) = (request.partition, request.epoch);
    if !client.attempt(partition, epoch) {
        return Err(TakeOverError::EpochUsed { partition, epoch });
    }
    let mut wanted = "the log chain";
    let until = Instant::now() + request.deadline;
    let drive = Drive {
        client,
        store,
        request: &request,
        wanted: &mut wanted,
    };
    match timeout_at(until, drive.run()).await {
        Ok(outcome) => outcome,
        Err(_) => {
            client.unregister(partition);
            Err(TakeOverError::TimedOut {
                partition,
                epoch,
                wanted,
            })
        }
    }
}

struct Drive<'a> {
    client: &'a Arc<LogClient>,
    store: &'a dyn ChainStore,
    request: &'a TakeOverRequest,
    wanted: &'a mut &'static str,
}

impl Drive<'_> {
    async fn run(self) -> Result<Taken, TakeOverError> {
        let request = self.request;
        let (version, chain) = self.load().await;
        let mut takeover = Takeover::new(
            request.partition,
            request.epoch,
            version,
            chain,
            request.nodes.clone(),
            request.write_quorum,
            request.limits,
        )?
        .beginning_at(request.origin)?;
        let mailbox = Mailbox::new();
        loop {
            match takeover.wants() {
                Wants::Fence { segment, .. } => {
                    *self.wanted = "answers to its fence";
                    self.fence(&mut takeover, segment).await?;
                }
                Wants::Reload => {
                    *self.wanted = "the log chain";
                    let (version, chain) = self.load().await;
                    takeover.on_reloaded(version, chain)?;
                }
                Wants::Read {
                    segment,
                    from,
                    end,
                    sources,
                } => {
                    *self.wanted = "an intact copy of the suffix";
                    let read = ReadRequest {
                        partition: request.partition,
                        epoch: segment,
                        from,
                        end: Some(end),
                        bytes_max: READ_BYTES,
                    };
                    self.read(&mut takeover, read, &sources).await?;
                }
                Wants::Write => {
                    *self.wanted = "a write quorum for the suffix";
                    self.client.register(request.partition, mailbox.callback());
                    self.write(&mut takeover, &mailbox).await?;
                }
                Wants::Publish { expected, chain } => {
                    *self.wanted = "the metadata plane to publish";
                    return self.publish(takeover, expected, chain, mailbox).await;
                }
                Wants::Nothing => {
                    // Only a takeover that was published wants nothing, and that one has returned.
                    return Err(TakeOverError::TimedOut {
                        partition: request.partition,
                        epoch: request.epoch,
                        wanted: "nothing",
                    });
                }
            }
        }
    }

    async fn load(&self) -> (u64, LogChain) {
        loop {
            match self.store.load(self.request.partition).await {
                Ok(loaded) => return loaded,
                Err(error) => {
                    tracing::debug!(partition = %self.request.partition, %error, "chain not loaded");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn fence(&self, takeover: &mut Takeover, segment: Epoch) -> Result<(), Refused> {
        let fence = FenceRequest {
            partition: self.request.partition,
            epoch: self.request.epoch,
            segment,
        };
        let deadline = self.request.call_timeout;
        let mut calls = JoinSet::new();
        let ask = |calls: &mut JoinSet<_>, node: NodeId, after: Duration| {
            let client = self.client.clone();
            calls.spawn(async move {
                if !after.is_zero() {
                    sleep(after).await;
                }
                (node, client.fence(node, fence, deadline).await)
            });
        };
        if let Wants::Fence { nodes, .. } = takeover.wants() {
            for node in nodes {
                ask(&mut calls, node, Duration::ZERO);
            }
        }
        while let Some(call) = calls.join_next().await {
            let Ok((node, answer)) = call else {
                continue;
            };
            match answer {
                Ok(reply) => takeover.on_fenced(node, reply)?,
                Err(error) => {
                    tracing::debug!(partition = %fence.partition, %node, %error, "fence not answered");
                }
            }
            match takeover.wants() {
                Wants::Fence {
                    segment: same,
                    nodes,
                } if same == segment => {
                    if nodes.contains(&node) {
                        ask(&mut calls, node, RETRY_AFTER);
                    }
                }
                _ => return Ok(()),
            }
        }
        // All have answered and it is not enough: the deadline decides.
        sleep(RETRY_AFTER).await;
        Ok(())
    }

    async fn read(
        &self,
        takeover: &mut Takeover,
        read: ReadRequest,
        sources: &[NodeId],
    ) -> Result<(), Refused> {
        let deadline = self.request.call_timeout;
        for node in sources {
            let partition = read.partition;
            match self
                .client
                .read(*node, read, Duration::ZERO, deadline)
                .await
            {
                Ok(reply) => match reply.outcome {
                    ReadOutcome::Records { records, .. } if !records.is_empty() => {
                        return takeover.on_records(records);
                    }
                    ReadOutcome::Trimmed { trimmed } => return takeover.on_trimmed(trimmed),
                    ReadOutcome::Corrupt { lsn } => {
                        tracing::error!(%partition, %node, %lsn, "corrupt record, another replica is asked");
                    }
                    ReadOutcome::Records { .. } | ReadOutcome::Unknown => {}
                },
                Err(error) => {
                    tracing::debug!(%partition, %node, %error, "suffix not read");
                }
            }
        }
        sleep(RETRY_AFTER).await;
        Ok(())
    }

    async fn write(&self, takeover: &mut Takeover, mailbox: &Arc<Mailbox>) -> Result<(), Refused> {
        let mut ticks = interval(TICK);
        ticks.reset();
        let mut out = Vec::new();
        let mut replies = Vec::new();
        let mut strangers_until: Option<Instant> = None;
        loop {
            let Some(sequencer) = takeover.sequencer() else {
                return Ok(());
            };
            self.client.send(sequencer, &mut out);
            if sequencer.is_safe_to_publish() {
                let until = *strangers_until.get_or_insert(Instant::now() + STRANGERS_WAIT);
                if !has_strangers(sequencer) || until <= Instant::now() {
                    return Ok(());
                }
            }
            let wake = strangers_until.unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                () = mailbox.take(&mut replies) => {
                    for (node, reply) in replies.drain(..) {
                        takeover.on_append_reply(node, reply)?;
                    }
                }
                _ = ticks.tick() => {
                    // Nobody tells a taker of connections: it tries.
                    let down: Vec<NodeId> = sequencer.replicas().filter(|found| !found.1).map(|found| found.0).collect();
                    for node in down {
                        sequencer.on_connected(node);
                    }
                    sequencer.tick();
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn publish(
        &self,
        mut takeover: Takeover,
        mut expected: u64,
        mut chain: LogChain,
        mailbox: Arc<Mailbox>,
    ) -> Result<Taken, TakeOverError> {
        let partition = self.request.partition;
        loop {
            match self.store.publish(partition, expected, &chain).await {
                Ok(_) => break,
                Err(error) => {
                    // Even a conflict may be the trace of an own write whose answer got lost.
                    tracing::debug!(%partition, %error, "chain not published");
                    let (version, now) = self.load().await;
                    if takeover.on_conflict(version, now)? {
                        break;
                    }
                    if let ChainStoreError::Unavailable(_) = error {
                        sleep(RETRY_AFTER).await;
                    }
                }
            }
            if let Wants::Publish {
                expected: version,
                chain: wanted,
            } = takeover.wants()
            {
                (expected, chain) = (version, wanted);
            }
        }
        let suffix = takeover
            .sequencer()
            .map(|writer| writer.held().cloned().collect());
        let Some((chain, sequencer)) = takeover.on_published() else {
            return Err(TakeOverError::TimedOut {
                partition,
                epoch: self.request.epoch,
                wanted: "nothing",
            });
        };
        tracing::info!(
            %partition, epoch = %sequencer.epoch(), base = %sequencer.base(), tail = %sequencer.next(),
            "log taken over"
        );
        Ok(Taken {
            chain,
            suffix: suffix.unwrap_or_default(),
            tail: sequencer.committed(),
            sequencer,
            mailbox,
        })
    }
}

/// Whether a connected replica is unknown by its storage: it would begin without a vote.
fn has_strangers(sequencer: &Sequencer) -> bool {
    let members = sequencer.members();
    let mut connected = sequencer.replicas().filter(|found| found.1);
    connected.any(|(node, ..)| {
        let mut same = members.iter().filter(|member| member.node == node);
        same.any(|member| member.storage.is_none())
    })
}

/// What became of making a replica a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// The chain records its storage: tell [`Sequencer::on_enrolled`].
    Enrolled,
    /// The segment is not the chain's last any more: step down.
    Deposed,
    /// The chain changed or the metadata plane did not answer; it may be tried again.
    Later,
}

/// Records the storage of a replica of the open segment, for [`Sequencer::enrollable`]. From there on its
/// acks count toward commits and its answer is wanted by a fence.
pub async fn enrol(
    store: &dyn ChainStore,
    partition: PartitionId,
    epoch: Epoch,
    node: NodeId,
    storage: StorageId,
) -> Enrolment {
    let Ok((version, chain)) = store.load(partition).await else {
        return Enrolment::Later;
    };
    if chain.epoch() != epoch {
        return Enrolment::Deposed;
    }
    let Some(enrolled) = chain.enrolled(epoch, node, storage) else {
        return Enrolment::Later;
    };
    if enrolled == chain {
        return Enrolment::Enrolled;
    }
    match store.publish(partition, version, &enrolled).await {
        Ok(_) => Enrolment::Enrolled,
        Err(_) => Enrolment::Later,
    }
}
