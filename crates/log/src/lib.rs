//! The replicated log of a partition: one epoch, one segment, one writer.
//!
//! A [`LogChain`] lists the segments of a log. The leader's [`Sequencer`] assigns LSNs, streams records to
//! every replica and commits what a write quorum holds. [`take_over`] fences the last segment, hands its
//! uncommitted suffix over to a new one and publishes that by compare-and-set. A [`LogReader`] walks the
//! chain. Start at [`take_over`].
//!
//! The rules are pure and take messages in: [`Sequencer`], [`Takeover`] and [`ReplicaLog`] (what a log
//! server must do) know neither tokio nor a network; `tests/model.rs` checks them exhaustively. I/O is in
//! the client, the reader and the driver of the takeover.
//!
//! # Why a wiped disk cannot lose records silently
//!
//! A log server mints a random [`StorageId`] when it creates its directory and puts it into every reply. The
//! chain records the storage of each replica of a segment. Those whose storage is recorded are the segment's
//! *voters*: only their acks count toward a commit and only their answers toward a fence, out of as many as
//! there are voters. A replica with a wiped disk answers with another storage and is therefore nobody. A
//! voter that kept its disk and knows nothing of the segment never acked anything in it, so its empty tail is
//! the truth. A replica that was out of reach when the segment began and had never been met has no recorded
//! storage: it is streamed to, and [`enrol`] makes it a voter once it holds everything that is committed.

mod chain;
mod client;
mod driver;
mod message;
mod quorum;
mod reader;
mod record;
mod replica;
mod sequencer;
mod takeover;
mod wire;

pub use chain::{ChainError, LogChain, Member, Salvage, Salvaged, Segment};
pub use client::{
    Answer, BoxFuture, CallError, Conduit, LocalLog, LogClient, Mailbox, ReplyCallback,
};
pub use driver::{
    ChainStore, ChainStoreError, Enrolment, TakeOverError, TakeOverRequest, Taken, enrol, take_over,
};
pub use message::{
    AppendOutcome, AppendReply, AppendRequest, FenceOutcome, FenceReply, FenceRequest, ReadOutcome,
    ReadReply, ReadRequest, Refusal, SegmentStatus, StorageId, TailReply,
};
pub use quorum::{fence_quorum, quorum_tail};
pub use reader::{LogReader, ReadError};
pub use record::{CorruptRecord, Record};
pub use replica::{Admission, ReplicaLog, StoredSegment};
pub use sequencer::{CatchUp, Fenced, Sequencer, SequencerLimits};
pub use takeover::{Refused, Takeover, Wants};
pub use wire::{
    DecodeError, Incoming, IncomingCall, decode_call, decode_message, encode_fence_reply,
    encode_read_reply, encode_replies, encode_tail_reply, encode_trim_reply,
};
