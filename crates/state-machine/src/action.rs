//! What the state machine asks of the leader after a record is applied. Followers drop it.

use abide_service_protocol::RawEntry;
use abide_types::{Flow, InvocationId, InvocationTarget, PartitionId, QueueId, Timestamp};
use bytes::Bytes;

use crate::proto;

/// Position of a message in an outbox: the record that made it and the place within. Later is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPosition {
    /// The record.
    pub lsn: u64,
    /// The place within.
    pub index: u32,
}

/// What the invocations that wait together have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The service.
    pub service: String,
    /// Scope and limit key.
    pub flow: Flow,
}

/// One thing to do. Doing it twice is harmless: each names what it is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// An invocation with a trace has come to be.
    Created {
        /// The invocation.
        id: InvocationId,
        /// What it is.
        target: InvocationTarget,
        /// When.
        at: Timestamp,
        /// Its trace.
        trace: Box<proto::TraceContext>,
    },
    /// Start an attempt of the invocation.
    Start {
        /// The invocation.
        id: InvocationId,
        /// Its incarnation; effects carry it back.
        incarnation: u64,
        /// With a scope: where it waits for its turn.
        queue: Option<Box<Queue>>,
    },
    /// A queue starts nothing from here on, or goes on.
    PauseQueue {
        /// The queue.
        queue: QueueId,
        /// Whether it is paused.
        paused: bool,
    },
    /// A notification was stored for a running invocation: pass it on.
    Notify {
        /// The invocation.
        id: InvocationId,
        /// Index in the journal.
        index: u32,
        /// The entry.
        entry: RawEntry,
    },
    /// A command that asked for it is stored.
    CommandAck {
        /// The invocation.
        id: InvocationId,
        /// Index among the commands.
        command_index: u32,
    },
    /// The invocation runs no more for now: forget its attempt, abort it if it is under way.
    Stop {
        /// The invocation.
        id: InvocationId,
    },
    /// If the invocation backs off, try again now with a fresh budget.
    RetryNow {
        /// The invocation.
        id: InvocationId,
    },
    /// The invocation has ended: answer who waits, forget its attempt.
    Completed {
        /// The invocation.
        id: InvocationId,
        /// What it was.
        target: InvocationTarget,
        /// How it ended.
        outcome: proto::Outcome,
        /// Its trace, if it has one.
        trace: Option<Box<proto::TraceContext>>,
    },
    /// A timer row was written.
    ArmTimer {
        /// Its key.
        key: Bytes,
        /// When it is due.
        due: Timestamp,
    },
    /// A timer row was removed before it fired.
    DisarmTimer {
        /// Its key.
        key: Bytes,
        /// When it was due.
        due: Timestamp,
    },
    /// A message was put into the outbox.
    Send {
        /// The receiving partition.
        to: PartitionId,
        /// Its position.
        position: OutboxPosition,
        /// The message.
        message: proto::Message,
    },
    /// A message of another partition is stored here: let it go there.
    AckDelivery {
        /// The sending partition.
        to: PartitionId,
        /// The message's position in its outbox.
        position: OutboxPosition,
    },
}

/// The answer to the proposer of one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing to say.
    None,
    /// To an `Invoke`.
    Invoked(Invoked),
    /// To an `Operate`.
    Operated(Operated),
    /// To a `RestartAsNew`.
    Restarted(Restarted),
}

/// What became of an `Invoke`.
#[derive(Debug, Clone, PartialEq)]
pub struct Invoked {
    /// Created by this request, or by an earlier try of the same request.
    pub new: bool,
    /// When it is due, if delayed.
    pub execute_at: Option<Timestamp>,
    /// Set if it had ended before.
    pub finished: Option<Finished>,
}

/// A retained completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How it ended.
    pub outcome: proto::Outcome,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// What became of an `Operate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operated {
    /// Done.
    Done,
    /// The handler has been told.
    Appended,
    /// No such invocation.
    NotFound,
    /// It has ended already.
    AlreadyCompleted,
    /// It has not ended yet.
    NotCompleted,
    /// It is in a state in which this cannot be done.
    WrongState,
    /// It runs, or is bound to no deployment yet: it cannot be given another one.
    CannotMove,
}

/// What became of a `RestartAsNew`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// The new invocation is there.
    Done,
    /// No such invocation.
    NotFound,
    /// It has not ended yet.
    StillRunning,
    /// It has not even begun.
    NotStarted,
    /// Its journal is no longer there.
    NoInput,
    /// Workflows cannot be restarted, nor can the journal of one that is bound to no deployment be copied.
    Unsupported,
    /// Commands of the prefix have no completion, or the journal is not that long.
    Incomplete,
}
