//! What the partition's leader says to the invoker and hears from it.
//!
//! The leader takes a slot, hands over an [`Attempt`] and keeps its [`AttemptHandle`]. The attempt answers with
//! [`Effects`] in the order in which the endpoint produced them; the last one is terminal. The invoker keeps
//! nothing durable: what counts is what the leader commits.

use std::time::Duration;

use abide_schema::Retention;
use abide_service_protocol::{Failure, RawEntry};
use abide_types::{DeploymentId, InvocationId, InvocationTarget};
use bytes::Bytes;
use tokio::sync::mpsc;

pub use crate::trace::AttemptTrace;

/// Tells the attempts of one invocation apart; what a superseded attempt still says is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u64);

/// The deployment and protocol version to which an invocation stays bound from its first stored entry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedDeployment {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The service protocol version, 5 to 7.
    pub protocol: u16,
}

/// One attempt of one invocation.
#[derive(Debug)]
pub struct Attempt {
    /// The invocation.
    pub invocation: InvocationId,
    /// This attempt's number.
    pub attempt: AttemptId,
    /// What is invoked.
    pub target: InvocationTarget,
    /// The idempotency key with which it was created, if any.
    pub idempotency_key: Option<String>,
    /// Where it has to run; `None` until an entry is stored: the latest deployment is taken then.
    pub pinned: Option<PinnedDeployment>,
    /// All stored entries in order; the first is the Input.
    pub journal: Vec<RawEntry>,
    /// State entries to send with Start.
    pub state: Vec<(Bytes, Bytes)>,
    /// Whether `state` lacks entries.
    pub partial_state: bool,
    /// Failed attempts since an entry was last stored.
    pub retry_count: u32,
    /// Time since an entry was last stored.
    pub since_last_entry: Duration,
    /// The same in all attempts.
    pub random_seed: u64,
    /// What its concurrency is counted within, if it was called so.
    pub scope: Option<String>,
    /// What is counted within the scope.
    pub limit_key: Option<String>,
    /// Its place in a trace, if it has one.
    pub trace: Option<Box<AttemptTrace>>,
}

/// What the leader tells a running attempt.
#[derive(Debug)]
pub enum ToAttempt {
    /// A notification was stored at `index` of the journal. The attempt drops those below the journal that it was
    /// started with, and turns the completion of a run that it proposed with the ack flag into the ack.
    Notification {
        /// Index in the journal.
        index: u32,
        /// The stored entry.
        entry: RawEntry,
    },
    /// A command that asked for it is stored.
    CommandAck {
        /// Its index among the commands.
        command_index: u32,
    },
}

/// The leader's hold on a running attempt. Dropping it aborts the attempt (stream reset with CANCEL).
#[derive(Debug)]
pub struct AttemptHandle {
    /// Messages to the attempt. When it is full the leader gives the attempt up and starts another.
    pub sender: mpsc::Sender<ToAttempt>,
    /// Aborts on drop.
    pub guard: tokio_util::sync::DropGuard,
}

/// What one attempt did, in order; several at a time when several frames came together.
#[derive(Debug)]
pub struct Effects {
    /// The invocation.
    pub invocation: InvocationId,
    /// The attempt.
    pub attempt: AttemptId,
    /// Never empty. A terminal effect is the last that the attempt ever sends.
    pub effects: Vec<Effect>,
}

/// One thing that an attempt did.
#[derive(Debug)]
pub enum Effect {
    /// The invocation was not pinned and runs here now. Comes before the first `Command` or `RunProposal`.
    Pinned(PinnedDeployment),
    /// The endpoint sent a command. It was decoded and its preconditions hold.
    Command {
        /// As the endpoint sent it.
        entry: RawEntry,
        /// For Call and OneWayCall: the callee as registered now.
        callee: Option<ResolvedTarget>,
        /// Whether the endpoint asked for an ack.
        ack: bool,
    },
    /// The endpoint proposed the result of a run; already in the form of the RunCompletion notification.
    RunProposal {
        /// The notification to store.
        entry: RawEntry,
    },
    /// Terminal: the endpoint waits for this (encoded `abide_service_protocol::Await`).
    Suspended {
        /// What has to happen before the next attempt.
        awaiting: Bytes,
    },
    /// Terminal: the handler has ended; its Output came before.
    End,
    /// Terminal: the attempt failed.
    Failed(AttemptFailure),
}

impl Effect {
    /// Whether nothing of this attempt follows.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Suspended { .. } | Self::End | Self::Failed(_))
    }
}

/// The callee of a Call or OneWayCall, as the schema has it at the time of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// Service, key, handler and kinds.
    pub target: InvocationTarget,
    /// How long its result and journal are kept.
    pub retention: Retention,
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct AttemptFailure {
    /// Code and message as a caller would see them if the invocation ended with this, and the endpoint's stack
    /// trace.
    pub failure: Failure,
    /// The documented code, such as `RT0010`.
    pub code: Option<&'static str>,
    /// What the endpoint was doing, as it says: index, name and type of a command.
    pub related: RelatedCommand,
    /// The deployment that was tried, if it came so far.
    pub deployment: Option<DeploymentId>,
    /// When to try again.
    pub retry: Retry,
    /// Whether the failure counts in `retry_count_since_last_stored_entry`.
    pub bumps_retry_count: bool,
}

/// The command to which an endpoint's error relates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelatedCommand {
    /// Index among the commands, Input is 0.
    pub index: Option<u32>,
    /// The user-visible name.
    pub name: Option<String>,
    /// The command's type code.
    pub ty: Option<u16>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// As the retry policy says; uses up one attempt of it.
    Policy,
    /// After exactly this delay; uses up none.
    After(Duration),
    /// Not before an operator resumes it.
    Pause,
    /// Never: the failure is the invocation's result.
    Fail,
}
