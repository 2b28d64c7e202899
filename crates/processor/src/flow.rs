//! How the queues and counters of scopes stand on a partition's leader, as people ask for it.

use std::time::Duration;

use abide_rpc::proto::partition as wire;
use abide_types::{Flow, InvocationId, PartitionId, QueueId};
use bytes::Bytes;
use tokio::time::Instant;

use crate::queues::Queues;
use crate::wire::Malformed;

/// All that a leader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowState {
    /// The partition.
    pub partition: PartitionId,
    /// Scopes and limit keys at which something runs or waits.
    pub levels: Vec<LevelState>,
    /// Queues in which something waits.
    pub queues: Vec<QueueState>,
    /// Queues that operators have paused.
    pub paused: Vec<QueueId>,
}

/// One scope, or one limit key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelState {
    /// The scope, and behind slashes the levels of the limit key.
    pub name: String,
    /// Attempts that run.
    pub running: u32,
    /// How many may, and the pattern of the rule that says so.
    pub limit: Option<(u32, String)>,
    /// Queues whose head waits for this level.
    pub blocked: u32,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Its id.
    pub id: QueueId,
    /// The service.
    pub service: String,
    /// Scope and limit key.
    pub flow: Flow,
    /// Invocations that wait in it.
    pub waiting: u64,
    /// The first of them.
    pub head: Option<InvocationId>,
    /// What the head waits for.
    pub blocked: Option<Blocked>,
}

/// What holds a queue up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The level that is full, as [`LevelState::name`].
    pub level: String,
    /// The pattern of the rule.
    pub rule: Option<String>,
    /// For how long.
    pub since: Duration,
}

pub(crate) fn to_wire(queues: &Queues) -> wire::FlowState {
    let now = Instant::now();
    let levels = queues.level_states().map(|level| {
        let (limit, rule) = level.limit.unzip();
        wire::FlowLevel {
            name: level.name,
            running: level.running,
            limit,
            rule: rule.map(|rule| rule.to_string()),
            blocked: u32::try_from(level.blocked).unwrap_or(u32::MAX),
        }
    });
    let waiting = queues.queue_states().map(|state| wire::FlowQueue {
        service: state.queue.service.clone(),
        scope: state.queue.flow.scope.clone(),
        limit_key: state.queue.flow.limit_key.clone(),
        waiting: state.waiting as u64,
        head: (state.head).map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        blocked: state.blocked.map(|(level, rule, since)| wire::FlowBlocked {
            level,
            rule: rule.map(|rule| rule.to_string()),
            millis: crate::router::millis(now.saturating_duration_since(since)),
        }),
    });
    wire::FlowState {
        levels: levels.collect(),
        queues: waiting.collect(),
        paused: (queues.paused())
            .map(|id| Bytes::copy_from_slice(&id.to_bytes()))
            .collect(),
    }
}

impl FlowState {
    pub(crate) fn from_wire(
        partition: PartitionId,
        state: wire::FlowState,
    ) -> Result<Self, Malformed> {
        let levels = state.levels.into_iter().map(|level| LevelState {
            name: level.name,
            running: level.running,
            limit: level.limit.zip(level.rule),
            blocked: level.blocked,
        });
        let queues = state.queues.into_iter().map(|queue| {
            let flow = Flow {
                scope: queue.scope,
                limit_key: queue.limit_key,
            };
            QueueState {
                id: flow.queue(&queue.service),
                service: queue.service,
                flow,
                waiting: queue.waiting,
                head: InvocationId::from_bytes(&queue.head),
                blocked: queue.blocked.map(|blocked| Blocked {
                    level: blocked.level,
                    rule: blocked.rule,
                    since: Duration::from_millis(blocked.millis),
                }),
            }
        });
        let paused = (state.paused.iter())
            .map(|id| QueueId::from_bytes(id).ok_or(Malformed("queue id")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            partition,
            levels: levels.collect(),
            queues: queues.collect(),
            paused,
        })
    }
}
