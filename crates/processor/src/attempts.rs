//! The invocations that are invoked: their attempts, what waits for a slot, and what backs off.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_invoker::api::{AttemptFailure, AttemptHandle, AttemptId};
use abide_state_machine::proto as state;
use abide_types::{DeploymentId, InvocationId, Timestamp};
use bytes::Bytes;
use tokio::time::Instant;

use crate::queues::{Queue, Queues};
use crate::scan::AttemptInfo;

/// One invoked invocation on its leader.
pub(crate) struct Running {
    pub(crate) incarnation: u64,
    pub(crate) phase: Phase,
    /// Attempts that the retry policy counts, since the invocation was last started or resumed.
    pub(crate) failures: u32,
    /// Failed attempts since an entry was stored.
    pub(crate) retry_count: u32,
    /// When an entry was last stored, or it was started.
    pub(crate) last_entry: Instant,
    /// Records with effects of an attempt that are proposed and not applied. The next attempt has to wait for
    /// them: it would not find them in the journal and do them again.
    pub(crate) unapplied: u32,
    pub(crate) last_failure: Option<AttemptFailure>,
    /// Attempts that were started.
    pub(crate) started: u64,
    /// When the last one was, and where it was sent, as far as that is known.
    pub(crate) last_start_at: Option<Timestamp>,
    pub(crate) deployment: Option<DeploymentId>,
    /// With a scope: where it waits for its turn.
    pub(crate) queue: Option<Arc<Queue>>,
    /// Whether it counts as running at its scope and limit key.
    counts: bool,
    /// The span of the running attempt; 0 if it has none.
    pub(crate) span: u64,
}

/// Where an invoked invocation stands.
pub(crate) enum Phase {
    /// Waits for a slot, in the queue.
    Ready,
    /// An attempt runs.
    Running {
        attempt: AttemptId,
        handle: AttemptHandle,
    },
    /// The next attempt starts then.
    BackingOff(Instant),
    /// Its end, suspension or pause is on its way through the log.
    Ending,
}

/// All of a partition's invoked invocations.
#[derive(Default)]
pub(crate) struct Attempts {
    running: HashMap<InvocationId, Running>,
    /// Those without a scope.
    ready: VecDeque<InvocationId>,
    /// Those with a scope.
    pub(crate) queues: Queues,
    scoped_first: bool,
    backing_off: BTreeSet<(Instant, InvocationId)>,
    next_attempt: u64,
}

impl Attempts {
    pub(crate) fn get(&self, id: &InvocationId) -> Option<&Running> {
        self.running.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &InvocationId) -> Option<&mut Running> {
        self.running.get_mut(id)
    }

    /// Whether it waits for its turn in its scope and was not attempted here. One that another leader has attempted
    /// may pass for one that never was, until its journal says more.
    pub(crate) fn waits(&self, id: &InvocationId) -> bool {
        self.running.get(id).is_some_and(|running| {
            running.queue.is_some() && running.started == 0 && matches!(running.phase, Phase::Ready)
        })
    }

    /// Puts an invocation into the queue, with a fresh budget of retries.
    pub(crate) fn start(
        &mut self,
        id: InvocationId,
        incarnation: u64,
        queue: Option<Arc<Queue>>,
        now: Instant,
    ) {
        let unapplied = self.running.remove(&id).map_or(0, |running| {
            let unapplied = running.unapplied;
            self.leave(id, running);
            unapplied
        });
        self.running.insert(
            id,
            Running {
                incarnation,
                phase: Phase::Ready,
                failures: 0,
                retry_count: 0,
                last_entry: now,
                unapplied,
                last_failure: None,
                started: 0,
                last_start_at: None,
                deployment: None,
                queue,
                counts: false,
                span: 0,
            },
        );
        self.enqueue(id);
    }

    fn leave(&mut self, id: InvocationId, running: Running) {
        if let Some(queue) = &running.queue {
            self.queues.remove(queue, running.incarnation, id);
            if running.counts {
                self.queues.release(queue);
            }
        }
        match running.phase {
            Phase::BackingOff(at) => drop(self.backing_off.remove(&(at, id))),
            // Dropping the handle of a running attempt aborts it.
            Phase::Ready | Phase::Running { .. } | Phase::Ending => {}
        }
    }

    /// What is known of an invocation, for queries.
    pub(crate) fn describe(&self, id: &InvocationId) -> Option<AttemptInfo> {
        let running = self.running.get(id)?;
        let next_retry_at = match running.phase {
            Phase::BackingOff(at) => {
                let wait = at.saturating_duration_since(Instant::now());
                Some(Timestamp::from_system(SystemTime::now()).plus(wait))
            }
            _ => None,
        };
        Some(AttemptInfo {
            in_flight: matches!(running.phase, Phase::Running { .. } | Phase::Ending),
            started: running.started,
            last_start_at: running.last_start_at,
            next_retry_at,
            deployment: running.deployment,
            failure: running.last_failure.as_ref().map(stored_failure),
            awaiting: Bytes::new(),
        })
    }

    /// Puts one that is ready where it waits for its turn.
    fn enqueue(&mut self, id: InvocationId) {
        match self.running.get(&id) {
            Some(Running {
                queue: Some(queue),
                incarnation,
                ..
            }) => self.queues.push(queue, *incarnation, id),
            _ => self.ready.push_back(id),
        }
    }

    /// Its attempt has ended: it does not count at its scope any more.
    fn release(&mut self, id: &InvocationId) {
        if let Some(running) = self.running.get_mut(id)
            && let Some(queue) = &running.queue
            && std::mem::take(&mut running.counts)
        {
            self.queues.release(queue);
        }
    }

    /// Forgets an invocation; aborts its attempt if one runs.
    pub(crate) fn remove(&mut self, id: &InvocationId) {
        if let Some(running) = self.running.remove(id) {
            self.leave(*id, running);
        }
    }

    /// The attempt that runs for `id`, if it is this one.
    pub(crate) fn of_attempt(
        &mut self,
        id: &InvocationId,
        attempt: AttemptId,
    ) -> Option<&mut Running> {
        self.running.get_mut(id).filter(
            |running| matches!(&running.phase, Phase::Running { attempt: current, .. } if *current == attempt),
        )
    }

    /// The attempt has said its last; its stream closes by itself.
    pub(crate) fn ended(&mut self, id: &InvocationId) {
        if let Some(running) = self.running.get_mut(id)
            && let Phase::Running { handle, .. } =
                std::mem::replace(&mut running.phase, Phase::Ending)
        {
            handle.guard.disarm();
        }
        self.release(id);
    }

    /// The next attempt starts after `delay`.
    pub(crate) fn back_off(&mut self, id: &InvocationId, delay: Duration, now: Instant) {
        if let Some(running) = self.running.get_mut(id) {
            let at = now + delay;
            running.phase = Phase::BackingOff(at);
            self.backing_off.insert((at, *id));
        }
        self.release(id);
    }

    /// Ends a back-off now, with a fresh budget.
    pub(crate) fn retry_now(&mut self, id: &InvocationId) {
        if let Some(running) = self.running.get_mut(id)
            && let Phase::BackingOff(at) = running.phase
        {
            running.failures = 0;
            running.phase = Phase::Ready;
            self.backing_off.remove(&(at, *id));
            self.enqueue(*id);
        }
    }

    /// Queues it again at once: its attempt could not keep up with what it was told.
    pub(crate) fn restart(&mut self, id: &InvocationId) {
        if let Some(running) = self.running.get_mut(id) {
            running.phase = Phase::Ready;
            self.release(id);
            self.enqueue(*id);
        }
    }

    /// When the next back-off ends.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.backing_off.first().map(|(at, _)| *at)
    }

    /// Queues those whose back-off has ended.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some((at, id)) = self.backing_off.first().copied()
            && at <= now
        {
            self.backing_off.pop_first();
            if let Some(running) = self.running.get_mut(&id) {
                running.phase = Phase::Ready;
                self.enqueue(id);
            }
        }
    }

    /// Whether something waits for a slot.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || self.queues.has_turns()
    }

    /// The next invocation that may start. One with effects on their way goes to the back of the queue.
    pub(crate) fn pop_ready(&mut self) -> Option<InvocationId> {
        if !self.queues.has_turns() {
            return self.pop_unscoped();
        }
        // Where slots are short, neither kind shall starve the other.
        self.scoped_first = !self.scoped_first;
        if self.scoped_first {
            self.pop_scoped().or_else(|| self.pop_unscoped())
        } else {
            self.pop_unscoped().or_else(|| self.pop_scoped())
        }
    }

    fn pop_scoped(&mut self) -> Option<InvocationId> {
        let running = &self.running;
        let id = self.queues.pop(|id| {
            (running.get(id)).is_some_and(|running| {
                matches!(running.phase, Phase::Ready) && running.unapplied == 0
            })
        })?;
        if let Some(running) = self.running.get_mut(&id) {
            running.counts = true;
        }
        Some(id)
    }

    fn pop_unscoped(&mut self) -> Option<InvocationId> {
        for _ in 0..self.ready.len() {
            let id = self.ready.pop_front()?;
            match self.running.get(&id) {
                Some(running) if !matches!(running.phase, Phase::Ready) => {}
                Some(running) if running.unapplied > 0 => self.ready.push_back(id),
                Some(_) => return Some(id),
                None => {}
            }
        }
        None
    }

    /// A number that no other attempt of this term has.
    pub(crate) fn next_attempt(&mut self) -> AttemptId {
        self.next_attempt += 1;
        AttemptId(self.next_attempt)
    }

    /// How many wait after a failure.
    pub(crate) fn backing_off(&self) -> usize {
        self.backing_off.len()
    }

    /// How many are invoked.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }
}

/// What is stored of a message and of a stack trace, at most: it is kept for people, who need its beginning.
const STORED_MESSAGE_BYTES_MAX: usize = 8 << 10;
const STORED_STACKTRACE_BYTES_MAX: usize = 16 << 10;

/// A failure as it is stored.
pub(crate) fn stored_failure(failure: &AttemptFailure) -> state::AttemptFailure {
    let related = &failure.related;
    let has_related = related.index.is_some() || related.name.is_some() || related.ty.is_some();
    let mut stored = state::Failure::from(failure.failure.clone());
    shorten(&mut stored.message, STORED_MESSAGE_BYTES_MAX);
    if let Some(stacktrace) = &mut stored.stacktrace {
        shorten(stacktrace, STORED_STACKTRACE_BYTES_MAX);
    }
    state::AttemptFailure {
        failure: Some(stored),
        documented_code: failure.code.unwrap_or_default().to_owned(),
        related_command: has_related.then(|| state::RelatedCommand {
            index: related.index,
            name: related.name.clone().unwrap_or_default(),
            ty: related.ty.map(Into::into),
        }),
    }
}

fn shorten(text: &mut String, bytes_max: usize) {
    if bytes_max < text.len() {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}
