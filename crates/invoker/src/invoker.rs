//! The invoker of a node.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use abide_schema::Schema;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{Attempt, AttemptHandle, Effect, Effects};
use crate::attempt;
use crate::failure::Trouble;
use crate::identity::LOOK_INTERVAL;
use crate::metrics::Metrics;
use crate::options::InvokerOptions;
use crate::pool::Pool;

/// Runs attempts. Cheap to clone; all clones share connections, slots and memory.
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
}

/// What an invoker uses of what it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvokerLoad {
    /// Attempts that may run at a time.
    pub slots: usize,
    /// Attempts that run.
    pub slots_used: usize,
    /// Bytes of messages that may be half received.
    pub memory_bytes: usize,
    /// Bytes of messages that are.
    pub memory_bytes_used: usize,
    /// Open HTTP/2 connections to deployments.
    pub connections: usize,
    /// Streams on them.
    pub streams: usize,
}

pub(crate) struct Shared {
    pub(crate) options: Arc<InvokerOptions>,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
    pub(crate) pool: Pool,
    pub(crate) memory: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    /// Looks for another key to sign with.
    _follow_identity: Option<AbortOnDropHandle<()>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Invoker {
    /// An invoker that resolves services by the schema of the moment.
    pub fn new(options: InvokerOptions, schema: watch::Receiver<Arc<Schema>>) -> Self {
        let options = Arc::new(options);
        let metrics = Arc::new(Metrics::new(options.concurrency_max));
        Self {
            shared: Arc::new(Shared {
                slots: Arc::new(Semaphore::new(
                    options.concurrency_max.min(Semaphore::MAX_PERMITS),
                )),
                memory: Arc::new(Semaphore::new(attempt::memory_units(
                    options.memory_bytes_max,
                ))),
                pool: Pool::new(options.clone(), metrics.clone()),
                _follow_identity: (options.identity.clone()).map(|identity| {
                    AbortOnDropHandle::new(tokio::spawn(identity.follow(LOOK_INTERVAL)))
                }),
                options,
                schema,
                metrics,
            }),
        }
    }

    /// One permit of these is needed for every attempt. Take it before the attempt's state is read.
    pub fn slots(&self) -> &Arc<Semaphore> {
        &self.shared.slots
    }

    /// What is in use of what is limited.
    pub fn load(&self) -> InvokerLoad {
        let shared = &self.shared;
        let options = &shared.options;
        let memory_free = shared.memory.available_permits();
        let memory = attempt::memory_units(options.memory_bytes_max);
        let (connections, streams) = shared.pool.counts();
        InvokerLoad {
            slots: options.concurrency_max,
            slots_used: (options.concurrency_max).saturating_sub(shared.slots.available_permits()),
            memory_bytes: options.memory_bytes_max,
            memory_bytes_used: memory.saturating_sub(memory_free) * attempt::MEMORY_UNIT,
            connections,
            streams,
        }
    }

    /// What can be set.
    pub fn options(&self) -> &InvokerOptions {
        &self.shared.options
    }

    /// Starts an attempt. It gives `slot` back as soon as it has sent its last effect. An attempt that is aborted,
    /// or for whose effects nobody listens any more, sends none.
    pub fn start(
        &self,
        slot: OwnedSemaphorePermit,
        attempt: Attempt,
        effects: mpsc::Sender<Effects>,
    ) -> AttemptHandle {
        let (sender, messages) = mpsc::channel(self.shared.options.messages_max.max(1));
        let token = CancellationToken::new();
        let guard = token.clone().drop_guard();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            shared.metrics.started();
            let (invocation, number) = (attempt.invocation, attempt.attempt);
            let run = attempt::run(&shared, slot, attempt, effects.clone(), messages, token);
            // A leader that waited for an attempt which died of a bug would wait for ever.
            if AssertUnwindSafe(run).catch_unwind().await.is_err() {
                tracing::error!(invocation = %invocation, "an attempt panicked");
                let trouble = Trouble::internal("the attempt ended by a fault of the server");
                let effect = Effect::Failed(trouble.into_attempt_failure(None));
                let effects_of_panic = Effects {
                    invocation,
                    attempt: number,
                    effects: vec![effect],
                };
                let _ = effects.send(effects_of_panic).await;
            }
            shared.metrics.ended(begun.elapsed());
        });
        AttemptHandle { sender, guard }
    }
}

impl Shared {
    pub(crate) fn count_failure(&self) {
        self.metrics.failed();
    }
}
