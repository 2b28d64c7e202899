//! Raft's log and vote.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use abide_rpc::proto::metadata as pb;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use prost::Message as _;
use rocksdb::WriteBatch;

use super::database::{Database, Row};
use super::keys::{Key, number_of};
use crate::server::codec::{entry_from, entry_to, log_id_from, log_id_to, vote_from, vote_to};
use crate::server::types::{Entry, LogId, RaftTypes, Vote};

/// What is sent to a follower in one message stops growing at so many bytes.
const MESSAGE_BYTES: usize = 1 << 20;

/// The log. Clones read the same one.
#[derive(Clone)]
pub(crate) struct LogStore {
    database: Arc<Database>,
}

impl LogStore {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// Reads everything once, so that damage shows at the start and not in the middle of an election.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.stored_vote()?;
        self.stored_log_id(Key::Committed)?;
        let purged = self.stored_log_id(Key::Purged)?;
        let entries = self.entries(0, u64::MAX)?;
        if let (Some(purged), Some(first)) = (purged, entries.first())
            && first.log_id.index != purged.index + 1
        {
            return Err(self.database.corrupt(format_args!(
                "the log was purged up to {} and begins at {}",
                purged.index, first.log_id.index
            )));
        }
        Ok(())
    }

    /// The vote, wherever there is one.
    pub(crate) fn stored_vote(&self) -> io::Result<Option<Vote>> {
        self.database
            .message::<pb::Vote>(Key::Vote)?
            .map(|vote| vote_from(Some(&vote)).map_err(|error| self.database.corrupt(error)))
            .transpose()
    }

    fn stored_log_id(&self, key: Key<'_>) -> io::Result<Option<LogId>> {
        self.database
            .message::<pb::LogId>(key)?
            .map(|id| log_id_from(&id).map_err(|error| self.database.corrupt(error)))
            .transpose()
    }

    fn entry(&self, row: &Row) -> io::Result<Entry> {
        let corrupt = |detail: String| {
            self.database
                .corrupt(format_args!("log entry {:?}: {detail}", number_of(&row.0)))
        };
        let entry = pb::Entry::decode(row.1.as_ref())
            .map_err(|error| corrupt(error.to_string()))
            .and_then(|entry| entry_from(entry).map_err(|error| corrupt(error.to_string())))?;
        if number_of(&row.0) != Some(entry.log_id.index) {
            return Err(corrupt(format!("it says it is {}", entry.log_id.index)));
        }
        Ok(entry)
    }

    /// The last entry, or the last that was purged.
    pub(crate) fn last(&self) -> io::Result<Option<LogId>> {
        let (from, to) = Key::ENTRY_RANGE;
        match self.database.last(&from, &to)? {
            Some(row) => Ok(Some(self.entry(&row)?.log_id)),
            None => self.stored_log_id(Key::Purged),
        }
    }

    /// The last entry that is known to be committed.
    pub(crate) fn committed(&self) -> io::Result<Option<LogId>> {
        self.stored_log_id(Key::Committed)
    }

    /// Entries from `from` up to `to`, which is not among them.
    pub(crate) fn entries(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        self.entries_up_to(from, to, usize::MAX)
    }

    /// Entries from `from` up to `to`, which is not among them, until they have `bytes`. A hole is an error.
    fn entries_up_to(&self, from: u64, to: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows = self
            .database
            .scan(&Key::Entry(from).bytes(), &Key::Entry(to).bytes(), bytes)?;
        let entries = rows
            .iter()
            .map(|row| self.entry(row))
            .collect::<io::Result<Vec<_>>>()?;
        for pair in entries.windows(2) {
            if pair[0].log_id.index + 1 != pair[1].log_id.index {
                return Err(self.database.corrupt(format_args!(
                    "log entries between {} and {} are missing",
                    pair[0].log_id, pair[1].log_id
                )));
            }
        }
        Ok(entries)
    }
}

impl RaftLogReader<RaftTypes> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries_up_to(start, end, MESSAGE_BYTES)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.stored_vote()
    }
}

impl RaftLogStorage<RaftTypes> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, io::Error> {
        let last_purged_log_id = self.stored_log_id(Key::Purged)?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: self.last()?,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.database.put_durably(Key::Vote, &vote_to(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = WriteBatch::default();
        match committed {
            Some(id) => batch.put(Key::Committed.bytes(), log_id_to(&id).encode_to_vec()),
            None => batch.delete(Key::Committed.bytes()),
        }
        self.database.write(batch)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.committed()
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<RaftTypes>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::default();
        for entry in entries {
            batch.put(
                Key::Entry(entry.log_id.index).bytes(),
                entry_to(&entry).encode_to_vec(),
            );
        }
        // Readable from here on; only the sync is left to the other thread.
        self.database.write(batch)?;
        self.database
            .flush(Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let mut batch = WriteBatch::default();
        batch.delete_range(Key::Entry(from).bytes(), Key::ENTRY_RANGE.1.to_vec());
        self.database.write(batch)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut batch = WriteBatch::default();
        batch.put(Key::Purged.bytes(), log_id_to(&log_id).encode_to_vec());
        batch.delete_range(
            Key::ENTRY_RANGE.0.to_vec(),
            Key::Entry(log_id.index + 1).bytes(),
        );
        self.database.write(batch)
    }
}
