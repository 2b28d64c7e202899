//! The invoker of a node.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use abide_schema::Schema;
use futures::FutureExt as _;
use metrics::{Counter, Gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{Attempt, AttemptHandle, Effect, Effects};
use crate::attempt;
use crate::failure::Trouble;
use crate::identity::LOOK_INTERVAL;
use crate::options::InvokerOptions;
use crate::pool::Pool;

/// Runs attempts. Cheap to clone; all clones share connections, slots and memory.
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Arc<InvokerOptions>,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
    pub(crate) pool: Pool,
    pub(crate) memory: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    /// Looks for another key to sign with.
    _follow_identity: Option<AbortOnDropHandle<()>>,
    started: Counter,
    failed: Counter,
    running: Gauge,
}

impl Invoker {
    /// An invoker that resolves services by the schema of the moment.
    pub fn new(options: InvokerOptions, schema: watch::Receiver<Arc<Schema>>) -> Self {
        let options = Arc::new(options);
        Self {
            shared: Arc::new(Shared {
                slots: Arc::new(Semaphore::new(
                    options.concurrency_max.min(Semaphore::MAX_PERMITS),
                )),
                memory: Arc::new(Semaphore::new(attempt::memory_units(
                    options.memory_bytes_max,
                ))),
                pool: Pool::new(options.clone()),
                _follow_identity: (options.identity.clone()).map(|identity| {
                    AbortOnDropHandle::new(tokio::spawn(identity.follow(LOOK_INTERVAL)))
                }),
                options,
                schema,
                started: metrics::counter!("abide_invoker_attempts_started_total"),
                failed: metrics::counter!("abide_invoker_attempts_failed_total"),
                running: metrics::gauge!("abide_invoker_attempts_running"),
            }),
        }
    }

    /// One permit of these is needed for every attempt. Take it before the attempt's state is read.
    pub fn slots(&self) -> &Arc<Semaphore> {
        &self.shared.slots
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
            shared.started.increment(1);
            shared.running.increment(1.0);
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
            shared.running.decrement(1.0);
        });
        AttemptHandle { sender, guard }
    }
}

impl Shared {
    pub(crate) fn count_failure(&self) {
        self.failed.increment(1);
    }
}
