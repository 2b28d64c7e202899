//! What the front doors ask of partitions: the requests, their answers and why they may fail.

use std::time::Duration;

use abide_schema::Retention;
pub use abide_service_protocol::Outcome;
use abide_types::{
    DeploymentId, Flow, InvocationId, InvocationTarget, PartitionId, ServiceKind, SubscriptionId,
    Timestamp, TraceContext,
};
use bytes::Bytes;

/// A new invocation, or a repetition of one: the id decides.
#[derive(Debug, Clone)]
pub struct NewInvocation {
    /// Chosen by the front door before the first try and kept through all tries, so that a repetition after a
    /// change of leader joins the first.
    pub id: InvocationId,
    /// What is invoked, as the schema resolves it now.
    pub target: InvocationTarget,
    /// Where it counts, if it has a scope.
    pub flow: Option<Flow>,
    /// Headers for the handler, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub input: Bytes,
    /// The client's idempotency key.
    pub idempotency_key: Option<String>,
    /// Not before this time; `None` is now.
    pub execute_at: Option<Timestamp>,
    /// How long result and journal are kept.
    pub retention: Retention,
    /// The span of who asks, if it is traced.
    pub trace: Option<Box<TraceContext>>,
}

/// A finished invocation, as a waiting client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// Set when the answer comes from a retained completion: when that expires.
    pub expires_at: Option<Timestamp>,
    /// Service and handler, for the content type of the answer.
    pub target: InvocationTarget,
}

/// Whether a send created the invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// `false`: the same id was there before.
    pub new: bool,
    /// When it is due, for a delayed one.
    pub execute_at: Option<Timestamp>,
}

/// A message of an ordered source outside the cluster, such as a record of a Kafka topic, and the invocation that it is.
#[derive(Debug, Clone)]
pub struct Produced {
    /// Its place in the source; they rise.
    pub position: u64,
    /// The invocation.
    pub invocation: NewInvocation,
    /// `traceparent` and `tracestate` of the message, if it has them.
    pub trace: Option<(String, String)>,
}

/// Who produced a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Producer {
    /// Tells sources apart for good: a position that was taken from one is not taken again.
    pub id: Bytes,
    /// On behalf of which subscription.
    pub subscription: SubscriptionId,
}

/// What became of produced messages: all of them are durably accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ingested {
    /// How many of them created no invocation: the message was taken before, or its workflow run.
    pub known: u32,
}

/// The answer to an attach or output request.
#[derive(Debug, Clone, PartialEq)]
pub enum Attached {
    /// It has ended.
    Finished(Finished),
    /// It has not ended yet (output only).
    NotReady,
    /// No such invocation, or no longer.
    NotFound,
}

/// The answer to an operator's request on one invocation (admin reference, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operated {
    /// Done.
    Done,
    /// On its way: a running handler has been told.
    Appended,
    /// No such invocation.
    NotFound,
    /// It has ended already.
    AlreadyCompleted,
    /// It has not ended yet.
    NotCompleted,
    /// It is not in a state in which this can be done.
    WrongState,
    /// It runs: it cannot be given another deployment.
    CannotMove,
    /// The deployment is none with which it can go on.
    Unsuitable(Unsuitable),
}

/// Where an invocation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whither {
    /// Where it is bound.
    Keep,
    /// At the newest deployment of its service.
    Latest,
    /// At this one.
    Deployment(DeploymentId),
}

/// Why an invocation cannot go on at a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsuitable {
    /// There is none of that id that offers its service.
    Unknown,
    /// It speaks other versions of the service protocol.
    Protocol {
        /// The deployment.
        deployment: DeploymentId,
        /// What the invocation is bound to.
        bound: u32,
        /// The oldest version that the deployment speaks.
        min: u32,
        /// The newest one.
        max: u32,
    },
}

/// The answer to a restart (admin reference, section 8).
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
    /// Workflows cannot be restarted.
    Unsupported,
    /// Commands of the prefix have no completion, or the journal is not that long.
    Incomplete,
    /// The deployment is none with which it can go on.
    Unsuitable(Unsuitable),
}

/// A new state of an object or workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The service.
    pub service: String,
    /// Its kind: objects and workflows have state.
    pub service_kind: ServiceKind,
    /// Whose state it is.
    pub key: String,
    /// All that the key has afterwards.
    pub entries: Vec<(String, Bytes)>,
    /// Only if the state that is there has this version.
    pub version: Option<String>,
}

/// What can be done to one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Tell the handler to stop; one that has not started ends at once.
    Cancel,
    /// End at once, callees as well.
    Kill,
    /// Start again what is paused, backing off or suspended.
    Resume,
    /// Stop attempts until it is resumed.
    Pause,
    /// Forget a completed invocation.
    Purge,
    /// Forget the journal of a completed invocation.
    PurgeJournal,
}

/// Where an invocation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvocationStatus {
    /// Waits for its time.
    Scheduled,
    /// Waits for its key.
    Pending,
    /// May run, but waits for a slot.
    Ready,
    /// An attempt runs.
    Running,
    /// An attempt failed; the next one waits.
    BackingOff,
    /// Waits for a completion or signal.
    Suspended,
    /// Waits for an operator.
    Paused,
    /// Has ended.
    Completed,
}

impl InvocationStatus {
    /// The name in listings and SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::BackingOff => "backing-off",
            Self::Suspended => "suspended",
            Self::Paused => "paused",
            Self::Completed => "completed",
        }
    }
}

/// One invocation in a listing.
#[derive(Debug, Clone)]
pub struct InvocationInfo {
    /// Its id.
    pub id: InvocationId,
    /// The partition that owns it.
    pub partition: PartitionId,
    /// What is invoked.
    pub target: InvocationTarget,
    /// Where it stands.
    pub status: InvocationStatus,
    /// The key under which it was made idempotent.
    pub idempotency_key: Option<String>,
    /// The invocation that called it.
    pub invoked_by: Option<InvocationId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its record last changed.
    pub modified_at: Timestamp,
    /// When it is due, if scheduled.
    pub execute_at: Option<Timestamp>,
    /// Where it is pinned.
    pub deployment: Option<DeploymentId>,
    /// Entries in its journal.
    pub journal_length: u32,
    /// Failed attempts since the last stored entry; known on the leader only.
    pub retry_count: u32,
    /// The last failure of an attempt: code, message, documented code.
    pub last_failure: Option<(u16, String, Option<String>)>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// Which invocations a listing wants. Empty fields do not filter.
#[derive(Debug, Clone, Default)]
pub struct InvocationFilter {
    /// Of this service.
    pub service: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// In this status.
    pub status: Option<InvocationStatus>,
    /// At most so many over all partitions; 0 stands for 1000.
    pub limit: usize,
}

/// Why a request got no answer from its partition.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RouteError {
    /// Not done: no leader was found in time.
    #[error("partition {partition} has no leader that answers after {waited:?}")]
    NoLeader {
        /// The partition.
        partition: PartitionId,
        /// How long was waited.
        waited: Duration,
    },
    /// Not done: the leader has too much to do.
    #[error("partition {partition} is overloaded")]
    Overloaded {
        /// The partition.
        partition: PartitionId,
    },
    /// The partition cannot go on; an operator has to look.
    #[error("partition {partition} stopped: {reason}")]
    Stopped {
        /// The partition.
        partition: PartitionId,
        /// What it said.
        reason: String,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}
