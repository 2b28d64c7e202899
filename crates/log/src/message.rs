//! What sequencers, takers and readers say to log servers, and what those answer.

use std::fmt;
use std::sync::Arc;

use abide_types::{Epoch, Lsn, PartitionId};

use crate::record::Record;

/// Identity of one log server's directory, minted at random when it is created. A wiped disk has another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(pub u64);

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Records of one epoch for one replica; without records a notice of the commit, or a probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AppendRequest {
    /// The log.
    pub partition: PartitionId,
    /// The epoch of the segment.
    pub epoch: Epoch,
    /// The first LSN of the segment.
    pub base: Lsn,
    /// The LSN of the first record.
    pub first: Lsn,
    /// Every record below is committed.
    pub committed: Lsn,
    /// Every record below is needed no more.
    pub trimmed: Lsn,
    /// Whether an answer is wanted though there is no record.
    pub probe: bool,
    /// Dense from `first`, all under `epoch`. Shared between the replicas.
    pub records: Arc<[Record]>,
}

impl AppendRequest {
    /// What the request counts against limits of bytes.
    pub fn weight(&self) -> usize {
        64 + self.records.iter().map(Record::weight).sum::<usize>()
    }
}

/// A log server's answer to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppendReply {
    /// The log.
    pub partition: PartitionId,
    /// The epoch of the append.
    pub epoch: Epoch,
    /// Who answers.
    pub storage: StorageId,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// Everything of the segment below `tail` is on disk.
    Stored {
        /// The local tail.
        tail: Lsn,
    },
    /// The records do not join what is stored; nothing was done.
    Gap {
        /// The local tail, on disk.
        tail: Lsn,
    },
    /// A higher epoch was promised; nothing was done.
    Fenced {
        /// The promised epoch.
        promised: Epoch,
    },
    /// Nothing was done; it may go through later.
    Refused(Refusal),
}

/// Why a log server did not take an append now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its disk is nearly full.
    DiskFull,
    /// Too much waits for its disk.
    Overloaded,
    /// It knows another base for the same epoch: somebody used an epoch for two takeovers.
    BaseConflict,
    /// A record did not survive the way to it.
    Corrupt,
}

/// Promise not to take appends of epochs below `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceRequest {
    /// The log.
    pub partition: PartitionId,
    /// The taker's epoch.
    pub epoch: Epoch,
    /// The epoch of the chain's last segment, the one that is fenced off.
    pub segment: Epoch,
}

/// A log server's answer to a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceReply {
    /// Who answers.
    pub storage: StorageId,
    /// What it promised.
    pub outcome: FenceOutcome,
}

/// What a log server promised a taker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FenceOutcome {
    /// Durably: no append below the taker's epoch from here on.
    Promised {
        /// Tail in the fenced segment; `None` when nothing of it was ever stored here.
        tail: Option<Lsn>,
        /// Everything below is committed, as far as is known here; [`Lsn::ZERO`] when nothing is.
        committed: Lsn,
        /// Everything below was committed and is forgotten.
        trimmed: Lsn,
        /// The highest epoch below the taker's of which a segment is stored here, published or not.
        newest: Epoch,
    },
    /// A higher epoch came by.
    Refused {
        /// That epoch.
        promised: Epoch,
    },
}

/// Records wanted from one log server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// The log.
    pub partition: PartitionId,
    /// The segment's epoch.
    pub epoch: Epoch,
    /// The first LSN wanted.
    pub from: Lsn,
    /// The first LSN not wanted, by somebody who knows that everything below is committed or who has fenced
    /// the segment. `None` means: what the server itself knows to be committed.
    pub end: Option<Lsn>,
    /// Bytes after which to stop; at least one record is returned if there is one.
    pub bytes_max: usize,
}

/// A log server's answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReply {
    /// Who answers.
    pub storage: StorageId,
    /// What it has.
    pub outcome: ReadOutcome,
}

/// What a log server has of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Dense from where the request began; empty when there is nothing yet.
    Records {
        /// The records.
        records: Vec<Record>,
        /// The tail of the segment here.
        tail: Lsn,
        /// What is known here to be committed in the segment.
        committed: Lsn,
    },
    /// The position was trimmed; everything from `trimmed` on may be asked for.
    Trimmed {
        /// The trim point.
        trimmed: Lsn,
    },
    /// The record does not fit its checksum.
    Corrupt {
        /// Its position.
        lsn: Lsn,
    },
    /// Nothing of the segment was ever stored here.
    Unknown,
}

/// What a log server knows of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailReply {
    /// Who answers.
    pub storage: StorageId,
    /// The promised epoch.
    pub promised: Epoch,
    /// The trim point.
    pub trimmed: Lsn,
    /// Its segments, by epoch; some of them may never have been published.
    pub segments: Vec<SegmentStatus>,
}

/// What a log server has of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentStatus {
    /// The segment's epoch.
    pub epoch: Epoch,
    /// Its first LSN.
    pub base: Lsn,
    /// The local tail.
    pub tail: Lsn,
    /// What was heard to be committed.
    pub committed: Lsn,
}
