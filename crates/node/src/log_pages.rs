//! Pages of a log for `abidectl logs dump`: bounded in records and bytes, and read from whichever log server has them.

use std::time::Duration;

use abide_log::{LogChain, LogReader, ReadError, Record};
use abide_metadata::keys;
use abide_processor::describe;
use abide_rpc::proto::observe::{LogPage, LogRecord, ReadLog};
use abide_types::{Lsn, PartitionId};
use tonic::Status;

use crate::facts::Member;
use crate::start::chain as chain_of;

/// Payload bytes of one page; a single larger record makes a page of its own.
const PAGE_BYTES: usize = 1 << 20;
/// Records of one page.
const PAGE_RECORDS_MAX: u32 = 1000;
/// No log comes so far, and sums stay below what a position can be.
const FROM_MAX: u64 = u64::MAX / 2;
/// How long log servers may take for a page: less than a tool waits.
const READ_WITHIN: Duration = Duration::from_secs(8);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("partition {partition} does not exist, there are {partitions}")]
    NoPartition { partition: u32, partitions: u16 },
    #[error("the chain of log {partition} is not understood")]
    Chain {
        partition: PartitionId,
        source: abide_log::ChainError,
    },
    #[error("the log servers took longer than {READ_WITHIN:?}")]
    TimedOut,
    #[error(transparent)]
    Read(ReadError),
}

impl From<PageError> for Status {
    fn from(error: PageError) -> Self {
        let message = chain_of(&error);
        match error {
            PageError::NoPartition { .. } => Self::not_found(message),
            PageError::Read(ReadError::Trimmed { .. }) => Self::out_of_range(message),
            PageError::Chain { .. } => Self::data_loss(message),
            PageError::TimedOut | PageError::Read(_) => Self::unavailable(message),
        }
    }
}

/// Reads one page.
pub(crate) async fn read(member: &Member, asked: &ReadLog) -> Result<LogPage, PageError> {
    let view = member.metadata.view();
    let partitions = (view.cluster.as_ref()).map_or(0, |cluster| cluster.partitions);
    let partition = u16::try_from(asked.partition)
        .ok()
        .filter(|partition| *partition < partitions)
        .map(PartitionId)
        .ok_or(PageError::NoPartition {
            partition: asked.partition,
            partitions,
        })?;
    // A log to which nobody has written has no chain.
    let chain = match view.raw(&keys::log(partition)) {
        Some(stored) => LogChain::from_json(&stored.value)
            .map_err(|source| PageError::Chain { partition, source })?,
        None => LogChain::default(),
    };
    let records_max = asked.records_max.clamp(1, PAGE_RECORDS_MAX) as usize;
    let end = if asked.end == 0 { u64::MAX } else { asked.end };
    let mut from = match asked.from {
        0 => chain.first_lsn(),
        from => Lsn(from.min(FROM_MAX)),
    };
    let mut records = Vec::new();
    if from.0 < end {
        records = page(member, partition, &chain, &mut from, asked.from == 0).await?;
    }
    records.truncate(records_max);
    records.retain(|record| record.lsn().0 < end);
    let next = records.last().map(|record| record.lsn().next().0);
    Ok(LogPage {
        records: records.into_iter().map(told).collect(),
        next: next.filter(|next| *next < end).unwrap_or(0),
    })
}

/// Records from `from` on. Log servers may have forgotten more than the chain tells: whoever wants the first there is,
/// is told by them where that is.
async fn page(
    member: &Member,
    partition: PartitionId,
    chain: &LogChain,
    from: &mut Lsn,
    the_first: bool,
) -> Result<Vec<Record>, PageError> {
    let reading = async {
        match LogReader::read_page(&member.log, partition, chain, *from, PAGE_BYTES).await {
            Err(ReadError::Trimmed { first, .. }) if the_first && *from < first => {
                *from = first;
                LogReader::read_page(&member.log, partition, chain, first, PAGE_BYTES).await
            }
            outcome => outcome,
        }
    };
    let read = tokio::time::timeout(READ_WITHIN, reading).await;
    read.map_err(|_| PageError::TimedOut)?
        .map_err(PageError::Read)
}

fn told(record: Record) -> LogRecord {
    let (lsn, epoch) = (record.lsn(), record.epoch().0);
    let payload = record.into_payload();
    let mut told = LogRecord {
        lsn: lsn.0,
        epoch,
        bytes: payload.len() as u64,
        commands: "[]".to_owned(),
        ..LogRecord::default()
    };
    match describe::batch(lsn, payload) {
        Ok(described) => {
            told.at = described.at.0;
            told.commands = serde_json::Value::Array(described.commands).to_string();
        }
        Err(error) => told.problem = chain_of(&error),
    }
    told
}
