//! Reads the committed records of a log across its segments.
//!
//! The chain says which segment holds a position and who has it. The local log server is asked first, then
//! the other replicas; a corrupt copy is passed over. Nothing that is not committed is ever returned: of an
//! open segment a log server gives out only what the segment's own leader said is committed, and a closed one
//! holds nothing else. Start at [`LogReader::read`].

use std::sync::Arc;
use std::time::Duration;

use abide_types::{Lsn, NodeId, PartitionId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::chain::{LogChain, Segment};
use crate::client::LogClient;
use crate::message::{ReadOutcome, ReadRequest};
use crate::record::Record;

/// Walks a log.
pub struct LogReader {
    client: Arc<LogClient>,
    partition: PartitionId,
    chains: watch::Receiver<Arc<LogChain>>,
    commits: Option<watch::Receiver<Lsn>>,
}

/// Why records cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They are forgotten: the reader needs a snapshot, and carries on from `first`.
    #[error("log {partition} begins at {first}")]
    Trimmed {
        /// The log.
        partition: PartitionId,
        /// The first record that can be read.
        first: Lsn,
    },
    /// No replica has an intact copy within reach now.
    #[error("no replica within reach has an intact copy of record {lsn} of log {partition}")]
    Unreachable {
        /// The log.
        partition: PartitionId,
        /// The record.
        lsn: Lsn,
    },
    /// The metadata plane is gone: this node is shutting down.
    #[error("the chain of log {partition} is not followed any more")]
    Gone {
        /// The log.
        partition: PartitionId,
    },
}

/// How long a remote log server holds a read of an open segment that has nothing new.
const REMOTE_WAIT: Duration = Duration::from_secs(5);
/// How long one read may take beyond that.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// A local log server that hears nothing for this long may be cut off: another one is asked.
const SILENCE: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

enum Fetched {
    Records(Vec<Record>),
    Trimmed(Lsn),
    /// They have nothing at that position.
    Nothing,
    /// Somebody did not answer or has a corrupt copy.
    Failed,
}

impl LogReader {
    /// A reader of `partition`; `chains` is [`crate::ChainStore::subscribe`].
    pub fn new(
        client: Arc<LogClient>,
        partition: PartitionId,
        chains: watch::Receiver<Arc<LogChain>>,
    ) -> Self {
        let commits = client.local().map(|local| local.subscribe(partition));
        Self {
            client,
            partition,
            chains,
            commits,
        }
    }

    /// Committed records from `from` on, at least one and about `bytes_max`; waits until there is one. May
    /// be cancelled.
    pub async fn read(&mut self, from: Lsn, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        let mut retry = RETRY_MIN;
        let mut silent = false;
        loop {
            let chain = self.chains.borrow_and_update().clone();
            if let Some(commits) = &mut self.commits {
                commits.borrow_and_update();
            }
            let Some(segment) = chain.segment_at(from) else {
                self.check_trimmed(&chain, from)?;
                self.wait(None).await?;
                continue;
            };
            let is_open = segment.end().is_none();
            let local = self.client.local().is_some();
            let follows =
                is_open && local && segment.nodes().any(|node| node == self.client.node());
            let sources = self.sources(segment, from);
            let fetched = if follows && !silent {
                // The leader's notices come to the local server; the others know nothing sooner.
                self.fetch(segment, from, bytes_max, &sources[..1], Duration::ZERO)
                    .await
            } else if is_open && !follows {
                let chains = &mut self.chains;
                let fetch = Self::fetch_from(
                    &self.client,
                    self.partition,
                    segment,
                    from,
                    bytes_max,
                    &sources,
                    REMOTE_WAIT,
                );
                tokio::select! {
                    fetched = fetch => fetched,
                    changed = chains.changed() => {
                        self.check_gone(changed.is_ok())?;
                        continue;
                    }
                }
            } else {
                self.fetch(segment, from, bytes_max, &sources, Duration::ZERO)
                    .await
            };
            match fetched {
                Fetched::Records(records) => return Ok(records),
                Fetched::Trimmed(first) => {
                    return Err(ReadError::Trimmed {
                        partition: self.partition,
                        first,
                    });
                }
                Fetched::Nothing if follows => {
                    // After a silence the others were asked once, and then the local one is waited for again.
                    silent = !self.wait(Some(SILENCE)).await? && !silent;
                }
                Fetched::Nothing if is_open => {}
                Fetched::Failed if follows && !silent => silent = true,
                Fetched::Nothing | Fetched::Failed => {
                    tracing::warn!(partition = %self.partition, lsn = %from, "no replica has the record, trying again");
                    self.wait(Some(retry)).await?;
                    retry = (retry * 2).min(RETRY_MAX);
                    silent = follows;
                }
            }
        }
    }

    /// Committed records of the closed segments of `chain` from `from` on: at least one, about `bytes_max`,
    /// and none from `end` on. For a leader that has to catch up before its own segment begins.
    pub async fn read_chain(
        client: &Arc<LogClient>,
        partition: PartitionId,
        chain: &LogChain,
        from: Lsn,
        end: Lsn,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let unreachable = ReadError::Unreachable {
            partition,
            lsn: from,
        };
        let Some(segment) = chain.segment_at(from) else {
            return Err(ReadError::Trimmed {
                partition,
                first: chain.first_lsn(),
            });
        };
        match Self::fetch_now(client, partition, segment, from, bytes_max).await {
            Fetched::Records(mut records) => {
                records.retain(|record| record.lsn() < end);
                Ok(records)
            }
            Fetched::Trimmed(first) => Err(ReadError::Trimmed { partition, first }),
            Fetched::Nothing | Fetched::Failed => Err(unreachable),
        }
    }

    /// Asks whoever may have records of a segment, and waits for none to come.
    async fn fetch_now(
        client: &Arc<LogClient>,
        partition: PartitionId,
        segment: &Segment,
        from: Lsn,
        bytes_max: usize,
    ) -> Fetched {
        let sources = order(client, segment, from);
        Self::fetch_from(
            client,
            partition,
            segment,
            from,
            bytes_max,
            &sources,
            Duration::ZERO,
        )
        .await
    }

    /// A page of the committed records of `chain` from `from` on, about `bytes_max`; empty at the end of the log. Waits
    /// for nothing: for looking into a log.
    ///
    /// # Errors
    /// The log does not begin before `from`, or nobody in reach has the record.
    pub async fn read_page(
        client: &Arc<LogClient>,
        partition: PartitionId,
        chain: &LogChain,
        from: Lsn,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let Some(segment) = chain.segment_at(from) else {
            let first = chain.first_lsn();
            // Nobody has written to a log without segments.
            return match chain.segments().is_empty() || first <= from {
                true => Ok(Vec::new()),
                false => Err(ReadError::Trimmed { partition, first }),
            };
        };
        match Self::fetch_now(client, partition, segment, from, bytes_max).await {
            Fetched::Records(records) => Ok(records),
            Fetched::Nothing if segment.end().is_none() => Ok(Vec::new()),
            Fetched::Trimmed(first) => Err(ReadError::Trimmed { partition, first }),
            Fetched::Nothing | Fetched::Failed => Err(ReadError::Unreachable {
                partition,
                lsn: from,
            }),
        }
    }

    /// Records of the own open segment for a replica that fell behind (see
    /// [`crate::Sequencer::poll_reads`]); the position that was asked for may be trimmed.
    pub async fn read_own(
        client: &Arc<LogClient>,
        partition: PartitionId,
        segment: &Segment,
        from: Lsn,
        end: Lsn,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let request = ReadRequest {
            partition,
            epoch: segment.epoch(),
            from,
            end: Some(end),
            bytes_max,
        };
        let sources = order(client, segment, from);
        match Self::ask(client, request, &sources, Duration::ZERO).await {
            Fetched::Records(records) => Ok(records),
            Fetched::Trimmed(first) => Err(ReadError::Trimmed { partition, first }),
            Fetched::Nothing | Fetched::Failed => Err(ReadError::Unreachable {
                partition,
                lsn: from,
            }),
        }
    }

    fn check_trimmed(&self, chain: &LogChain, from: Lsn) -> Result<(), ReadError> {
        if !chain.segments().is_empty() && from < chain.first_lsn() {
            return Err(ReadError::Trimmed {
                partition: self.partition,
                first: chain.first_lsn(),
            });
        }
        Ok(())
    }

    fn check_gone(&self, alive: bool) -> Result<(), ReadError> {
        match alive {
            true => Ok(()),
            false => Err(ReadError::Gone {
                partition: self.partition,
            }),
        }
    }

    fn sources(&self, segment: &Segment, from: Lsn) -> Vec<NodeId> {
        order(&self.client, segment, from)
    }

    /// Waits for a change of the chain or the commit, for `limit` at most. False when time was up.
    async fn wait(&mut self, limit: Option<Duration>) -> Result<bool, ReadError> {
        let limit = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let commits = self.commits.as_mut();
        let committed = async {
            match commits {
                Some(commits) => commits.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            alive = committed => alive.then_some(true),
            changed = self.chains.changed() => changed.is_ok().then_some(true),
            () = limit => Some(false),
        };
        self.check_gone(woken.is_some())?;
        Ok(woken == Some(true))
    }

    async fn fetch(
        &self,
        segment: &Segment,
        from: Lsn,
        bytes_max: usize,
        sources: &[NodeId],
        wait: Duration,
    ) -> Fetched {
        let (client, partition) = (&self.client, self.partition);
        Self::fetch_from(client, partition, segment, from, bytes_max, sources, wait).await
    }

    async fn fetch_from(
        client: &Arc<LogClient>,
        partition: PartitionId,
        segment: &Segment,
        from: Lsn,
        bytes_max: usize,
        sources: &[NodeId],
        wait: Duration,
    ) -> Fetched {
        let request = ReadRequest {
            partition,
            epoch: segment.epoch(),
            from,
            end: segment.end(),
            bytes_max,
        };
        Self::ask(client, request, sources, wait).await
    }

    /// Asks one source after the other until one has records.
    async fn ask(
        client: &Arc<LogClient>,
        request: ReadRequest,
        sources: &[NodeId],
        wait: Duration,
    ) -> Fetched {
        let (partition, from) = (request.partition, request.from);
        let mut failed = false;
        let mut forgotten: Option<Lsn> = None;
        for node in sources {
            match client.read(*node, request, wait, READ_DEADLINE).await {
                Ok(reply) => match reply.outcome {
                    ReadOutcome::Records { records, .. } => {
                        let records = joining(&request, records);
                        if !records.is_empty() {
                            return Fetched::Records(records);
                        }
                    }
                    ReadOutcome::Trimmed { trimmed } => {
                        forgotten = forgotten.max(Some(trimmed));
                    }
                    ReadOutcome::Corrupt { lsn } => {
                        failed = true;
                        tracing::error!(%partition, %node, %lsn, "corrupt record, another replica is asked");
                    }
                    ReadOutcome::Unknown => {}
                },
                Err(error) => {
                    failed = true;
                    tracing::debug!(%partition, %node, lsn = %from, %error, "record not read");
                }
            }
        }
        match forgotten {
            Some(first) => Fetched::Trimmed(first),
            None if failed => Fetched::Failed,
            None => Fetched::Nothing,
        }
    }
}

/// The replicas of a segment, the local one first, the others in turns.
fn order(client: &LogClient, segment: &Segment, from: Lsn) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = segment.nodes().collect();
    if !nodes.is_empty() {
        let turn = usize::try_from(from.0).unwrap_or(0) % nodes.len();
        nodes.rotate_left(turn);
    }
    let is_local = |node: &NodeId| client.local().is_some() && *node == client.node();
    nodes.sort_by_key(|node| !is_local(node));
    nodes
}

/// The records that are what was asked for: a peer is not believed blindly.
fn joining(request: &ReadRequest, mut records: Vec<Record>) -> Vec<Record> {
    let expected = |(index, record): &(usize, &Record)| {
        let lsn = request.from.advance(*index as u64);
        record.lsn() == lsn
            && record.epoch() == request.epoch
            && request.end.is_none_or(|end| lsn < end)
    };
    let fitting = records.iter().enumerate().take_while(expected).count();
    records.truncate(fitting);
    records
}
