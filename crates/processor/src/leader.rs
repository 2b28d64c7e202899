//! The leader of a partition: takes in what waits, makes records of it, applies what is committed and acts.
//!
//! One task owns everything here. Nothing is acted upon, answered or sent before the record that says so is committed
//! and applied. Start at [`Leader::run`]. What single requests and actions do is in [`crate::leader_requests`] and
//! [`crate::leader_actions`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use abide_invoker::api::Effects;
use abide_log::{AppendRequest, Fenced, LogChain, Mailbox, Sequencer};
use abide_partition_store::PartitionStore;
use abide_state_machine::proto::{self as state, command::Kind};
use abide_state_machine::{ApplyError, StateMachine, VERSION, WAITS_SINCE};
use abide_types::{Epoch, InvocationId, InvocationTarget, Lsn, NodeId, PartitionId, Timestamp};
use bytes::Bytes;
use futures::future::OptionFuture;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::cleaner::Cleaner;
use crate::directory::{Event, Order};
use crate::leader_archive::Archiving;
use crate::metrics::Appended;
use crate::outbox::{Inbound, Outbox};
use crate::partition::{Context, PartitionError, PartitionLoad};
use crate::timers::Timers;
use crate::upkeep::Upkeep;
use crate::waiters::{Responder, Waiters};
use crate::wire::{Request, Response};

/// Records that are proposed and not committed. Few: while they are under way the next record fills up, and one
/// fsync serves more commands.
pub(crate) const RECORDS_IN_FLIGHT_MAX: usize = 3;
/// Commands of one record.
const RECORD_COMMANDS_MAX: usize = 1024;
/// Bytes of one record, about; one command may be larger.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// When so much waits to be proposed, nothing more is taken in.
pub(crate) const PROPOSALS_MAX: usize = 4096;
pub(crate) const PROPOSALS_BYTES_MAX: usize = 32 << 20;
/// What attempts have done and the leader has not taken in, in messages.
pub(crate) const EFFECTS_MAX: usize = 1024;
/// Timers that fire in one round.
const TIMERS_A_ROUND_MAX: usize = 256;
/// How long followers wait for news of a commit when no further record carries it.
const COMMIT_NEWS_AFTER: Duration = Duration::from_millis(2);
/// How often lost messages to log servers are looked for while something is missing.
const LOG_TICK: Duration = Duration::from_millis(200);

/// Who has to hear of a command when it is applied.
pub(crate) enum OnApplied {
    Nobody,
    /// The asker of an invocation.
    Invoke {
        id: InvocationId,
        target: Box<InvocationTarget>,
        wait: bool,
        responder: Responder,
    },
    /// A message of a producer; the last one of a request answers for all.
    Ingest {
        /// How many of the request created nothing.
        known: Arc<AtomicU32>,
        responder: Option<Responder>,
    },
    /// An asker who only wants to know that it is done.
    Done(Responder),
    /// An operator.
    Operate(Responder),
    /// A reader who was told nothing yet, lest this leader is deposed: it looks again now.
    Read(Box<Request>, Responder),
    /// An attempt of this invocation: its effects are in the journal now.
    Effects(InvocationId),
}

struct InFlight {
    lsn: Lsn,
    batch: state::Batch,
    on_applied: Vec<OnApplied>,
    appended_at: Instant,
    appended: Appended,
}

/// Why a leader stopped leading.
#[derive(Debug)]
pub(crate) enum StepDown {
    /// A higher epoch exists.
    Deposed,
    /// The partition table names another leader or epoch, or the node goes down.
    Reassigned,
}

/// The leader of one partition for one epoch.
pub(crate) struct Leader<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: Epoch,
    machine: StateMachine,
    pub(crate) store: &'a mut PartitionStore,
    pub(crate) sequencer: Sequencer,
    mailbox: &'a Mailbox,
    events: &'a mut mpsc::Receiver<Event>,
    orders: &'a mut mpsc::Receiver<Order>,
    pub(crate) archiving: Archiving,
    effects: mpsc::Receiver<Effects>,
    pub(crate) effects_sender: mpsc::Sender<Effects>,
    proposals: VecDeque<(state::Command, OnApplied)>,
    proposals_bytes: usize,
    in_flight: VecDeque<InFlight>,
    /// Set when the announcement of this leader is applied; before, it only applies.
    active: bool,
    pub(crate) attempts: Attempts,
    pub(crate) timers: Timers,
    pub(crate) outbox: Outbox,
    pub(crate) inbound: Inbound,
    pub(crate) waiters: Waiters,
    /// Acks of other partitions' messages, to be sent after the round.
    pub(crate) acks: BTreeMap<PartitionId, crate::leader_actions::Acks>,
    /// Leaders of other partitions as of the last look, to notice changes.
    leaders: BTreeMap<PartitionId, Option<NodeId>>,
    table_version: u64,
    view_version: u64,
    /// The version of the state machine that was announced; 0 before.
    behaviour: u32,
    /// Of the document with the rules in force.
    pub(crate) rules_version: u64,
    cleaner: Cleaner,
    pub(crate) upkeep: Upkeep,
    committed_at: Option<Instant>,
    /// When the takeover began.
    begun: Instant,
    log_scratch: Vec<(NodeId, AppendRequest)>,
    next_tick: Instant,
    last_at: Timestamp,
}

type SlotFuture = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

impl<'a> Leader<'a> {
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of a partition's task, handed over once"
    )]
    pub(crate) fn new(
        context: &'a Arc<Context>,
        partition: PartitionId,
        epoch: Epoch,
        store: &'a mut PartitionStore,
        sequencer: Sequencer,
        chain: &LogChain,
        mailbox: &'a Mailbox,
        events: &'a mut mpsc::Receiver<Event>,
        orders: &'a mut mpsc::Receiver<Order>,
        begun: Instant,
    ) -> Self {
        let (effects_sender, effects) = mpsc::channel(EFFECTS_MAX);
        let now = Instant::now();
        Self {
            machine: StateMachine::new(partition, context.partitions),
            upkeep: Upkeep::new(context, partition, epoch, chain, now),
            cleaner: Cleaner::new(context.options.cleanup_interval, now),
            context,
            partition,
            epoch,
            store,
            sequencer,
            mailbox,
            events,
            orders,
            archiving: Archiving::new(now),
            effects,
            effects_sender,
            proposals: VecDeque::new(),
            proposals_bytes: 0,
            in_flight: VecDeque::new(),
            active: false,
            attempts: Attempts::default(),
            timers: Timers::default(),
            outbox: Outbox::default(),
            inbound: Inbound::default(),
            waiters: Waiters::default(),
            acks: BTreeMap::new(),
            leaders: BTreeMap::new(),
            table_version: 0,
            view_version: 0,
            behaviour: 0,
            rules_version: 0,
            committed_at: None,
            begun,
            log_scratch: Vec::new(),
            next_tick: now + LOG_TICK,
            last_at: Timestamp(0),
        }
    }

    /// Leads until it must not any more.
    pub(crate) async fn run(mut self) -> Result<StepDown, PartitionError> {
        let view = self.context.metadata.view();
        self.announce(&view);
        let end = self.rounds().await;
        self.give_up();
        end
    }

    async fn rounds(&mut self) -> Result<StepDown, PartitionError> {
        let mut view = self.context.metadata.watch();
        let mut peers = self.context.fabric.peers();
        let mut connected = BTreeMap::new();
        let mut slot: Option<SlotFuture> = None;
        let mut replies = Vec::new();
        loop {
            if self.is_reassigned(&view.borrow_and_update()) {
                return Ok(StepDown::Reassigned);
            }
            self.follow_connections(&peers.borrow_and_update(), &mut connected);
            if self.take_log_replies(&mut replies).is_err() {
                return Ok(StepDown::Deposed);
            }
            self.apply_committed()?;
            if self.active {
                self.fire_timers()?;
                self.attempts.wake(Instant::now());
                slot = self.start_ready(slot)?;
                self.send_outbox();
                self.clean_up()?;
                self.settle_hold(Instant::now());
            }
            self.upkeep()?;
            self.propose_waiting();
            self.send_log();

            let wake_at = self.next_wake();
            let room = self.has_room() && self.active;
            tokio::select! {
                biased;
                () = self.mailbox.take(&mut replies) => {}
                changed = view.changed() => if changed.is_err() {
                    return Ok(StepDown::Reassigned);
                },
                Ok(()) = peers.changed() => {}
                Some((request, responder)) = self.orders.recv(), if self.active => {
                    self.on_order(request, responder);
                }
                Some(effects) = self.effects.recv(), if room => {
                    self.on_effects(effects);
                    while self.has_room() && let Ok(effects) = self.effects.try_recv() {
                        self.on_effects(effects);
                    }
                }
                Some(event) = self.events.recv(), if room => {
                    self.on_event(event)?;
                    while self.has_room() && let Ok(event) = self.events.try_recv() {
                        self.on_event(event)?;
                    }
                }
                Some(permit) = OptionFuture::from(slot.as_mut()), if slot.is_some() => {
                    slot = None;
                    if let Some(permit) = permit {
                        self.begin_next(permit)?;
                    }
                }
                Some(outcome) = self.upkeep.next_outcome() => self.on_upkeep(outcome)?,
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Says which behaviour is computed from here on: not what this program could, for followers may be older, until
    /// all of them are not. What only a later behaviour knows is held back till then; see [`Leader::waits`].
    fn announce(&mut self, view: &abide_metadata::View) {
        let in_force =
            (view.cluster.as_ref()).map_or(1, |cluster| cluster.state_machine_in_force());
        let in_force = in_force.min(VERSION);
        if in_force <= self.behaviour {
            return;
        }
        self.behaviour = in_force;
        self.propose(
            Kind::AnnounceLeader(state::AnnounceLeader {
                epoch: self.epoch.0,
                node: self.context.node.node.0,
                generation: self.context.node.generation.0,
                state_machine_version: in_force,
            }),
            OnApplied::Nobody,
        );
    }

    /// Whether an invocation waits for its first turn in its scope, as commands may say since version 2.
    pub(crate) fn waits(&self, id: &InvocationId) -> bool {
        WAITS_SINCE <= self.behaviour && self.attempts.waits(id)
    }

    fn is_reassigned(&mut self, view: &abide_metadata::View) -> bool {
        if view.version == self.view_version {
            return false;
        }
        self.view_version = view.version;
        self.announce(view);
        self.follow_rules(view);
        let table = &view.partition_table;
        if table.version == self.table_version {
            return false;
        }
        self.table_version = table.version;
        for to in self.outbox.destinations().collect::<Vec<_>>() {
            let leader = (table.partitions.get(&to))
                .and_then(|entry| entry.leader)
                .map(|leader| leader.node);
            if self.leaders.insert(to, leader) != Some(leader) {
                self.outbox.resend(to);
            }
        }
        let Some(entry) = table.partitions.get(&self.partition) else {
            return false;
        };
        self.upkeep.set_replicas(entry.replicas.clone());
        entry.epoch > self.epoch
    }

    fn follow_connections(
        &mut self,
        peers: &BTreeMap<NodeId, abide_rpc::PeerState>,
        connected: &mut BTreeMap<NodeId, bool>,
    ) {
        for (node, peer) in peers {
            let before = connected.insert(*node, peer.connected);
            match (before, peer.connected) {
                (Some(true), false) => self.sequencer.on_disconnected(*node),
                (Some(false), true) => self.sequencer.on_connected(*node),
                _ => {}
            }
        }
    }

    fn take_log_replies(
        &mut self,
        replies: &mut Vec<(NodeId, abide_log::AppendReply)>,
    ) -> Result<(), Fenced> {
        self.mailbox.try_take(replies);
        for (from, reply) in replies.drain(..) {
            if self.sequencer.on_ack(from, reply)? {
                self.committed_at = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Whether every record that was proposed is applied.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn upkeep_mut(&mut self) -> &mut Upkeep {
        &mut self.upkeep
    }

    /// Queues a command for the next record.
    pub(crate) fn propose(&mut self, kind: Kind, on_applied: OnApplied) {
        self.proposals_bytes += weight(&kind);
        self.proposals
            .push_back((state::Command { kind: Some(kind) }, on_applied));
    }

    fn has_room(&self) -> bool {
        self.proposals.len() < PROPOSALS_MAX && self.proposals_bytes < PROPOSALS_BYTES_MAX
    }

    /// Makes records of what waits.
    fn propose_waiting(&mut self) {
        // While a backup holds this partition, its state stands still.
        if self.archiving.holds() {
            return;
        }
        while !self.proposals.is_empty() && self.in_flight.len() < RECORDS_IN_FLIGHT_MAX {
            let mut commands = Vec::with_capacity(self.proposals.len().min(RECORD_COMMANDS_MAX));
            let mut on_applied = Vec::with_capacity(commands.capacity());
            let mut bytes = 0;
            while commands.len() < RECORD_COMMANDS_MAX
                && bytes < RECORD_BYTES_MAX
                && let Some((command, hears)) = self.proposals.pop_front()
            {
                bytes += command.kind.as_ref().map_or(0, weight);
                commands.push(command);
                on_applied.push(hears);
            }
            self.proposals_bytes = self.proposals_bytes.saturating_sub(bytes);
            // A clock that is set back must not take timers' rows out of the order in which they were written.
            self.last_at = self.last_at.max(Timestamp::from_system(SystemTime::now()));
            let batch = state::Batch {
                at: self.last_at.0,
                commands,
            };
            let payload = Bytes::from(batch.encode_to_vec());
            let appended = Appended {
                commands: batch.commands.len(),
                bytes: payload.len(),
            };
            let lsn = self.sequencer.append(payload);
            self.in_flight.push_back(InFlight {
                appended_at: Instant::now(),
                appended,
                lsn,
                batch,
                on_applied,
            });
        }
    }

    /// Sends what the sequencer has for the log servers.
    fn send_log(&mut self) {
        self.context
            .log
            .send(&mut self.sequencer, &mut self.log_scratch);
        let now = Instant::now();
        if self.in_flight.is_empty()
            && self.sequencer.owes_commit()
            && self
                .committed_at
                .is_none_or(|since| since + COMMIT_NEWS_AFTER <= now)
        {
            self.context
                .log
                .send_commit(&mut self.sequencer, &mut self.log_scratch);
        }
        self.upkeep.feed_laggards(&mut self.sequencer);
    }

    fn apply_committed(&mut self) -> Result<(), PartitionError> {
        while let Some(first) = self.in_flight.front()
            && first.lsn < self.sequencer.committed()
            && let Some(record) = self.in_flight.pop_front()
        {
            let lsn = record.lsn;
            let begun = Instant::now();
            let waited = begun.saturating_duration_since(record.appended_at);
            self.context.metrics.committed(waited, &record.appended);
            let applied = self
                .machine
                .apply(self.store, lsn, record.batch)
                .map_err(PartitionError::Apply)?;
            self.store.set_applied(lsn);
            self.context.metrics.took_to_apply(begun.elapsed());
            for (reply, hears) in applied.replies.into_iter().zip(record.on_applied) {
                self.answer(reply, hears)?;
            }
            if self.active {
                for action in applied.actions {
                    self.context.metrics.acts(self.partition, &action);
                    self.act(action);
                }
            } else {
                // The first record of this epoch is the announcement.
                self.activate()?;
            }
            self.context.metrics.applied(self.partition, lsn);
        }
        self.store.maintain().map_err(PartitionError::Store)
    }

    /// Takes up what the leader before left: running invocations, timers, messages.
    fn activate(&mut self) -> Result<(), PartitionError> {
        self.active = true;
        self.timers = Timers::load(self.store, self.context.options.timers_in_memory_max)
            .map_err(PartitionError::Store)?;
        self.outbox = Outbox::load(self.store).map_err(PartitionError::Store)?;
        self.load_queues()?;
        self.load_invoked()?;
        self.context
            .set_active(self.partition, self.epoch, &self.sequencer);
        let took = self.begun.elapsed();
        self.context.metrics.took_over(took, true);
        tracing::info!(partition = %self.partition, epoch = %self.epoch, ?took, applied = %self.store.applied(),
            invoked = self.attempts.len(), "leads");
        Ok(())
    }

    fn fire_timers(&mut self) -> Result<(), PartitionError> {
        let now = Timestamp::from_system(SystemTime::now());
        for _ in 0..TIMERS_A_ROUND_MAX {
            if !self.has_room() {
                break;
            }
            let due = self
                .timers
                .pop_due(now, self.store)
                .map_err(PartitionError::Store)?;
            let Some(key) = due else { break };
            self.context.metrics.timer_fired();
            self.propose(Kind::FireTimer(state::FireTimer { key }), OnApplied::Nobody);
        }
        Ok(())
    }

    /// Starts what is ready as far as there are slots; else waits for one.
    fn start_ready(
        &mut self,
        waiting: Option<SlotFuture>,
    ) -> Result<Option<SlotFuture>, PartitionError> {
        if waiting.is_some() {
            return Ok(waiting);
        }
        while self.attempts.has_ready() {
            let slots = self.context.invoker.slots();
            let Ok(permit) = slots.clone().try_acquire_owned() else {
                let slots = slots.clone();
                return Ok(Some(Box::pin(
                    async move { slots.acquire_owned().await.ok() },
                )));
            };
            if !self.begin_next(permit)? {
                break;
            }
        }
        Ok(None)
    }

    fn clean_up(&mut self) -> Result<(), PartitionError> {
        let now = Timestamp::from_system(SystemTime::now());
        let expired = self
            .cleaner
            .poll(self.store, now, Instant::now())
            .map_err(PartitionError::Store)?;
        if !expired.is_empty() {
            self.propose(Kind::Purge(state::Purge { expired }), OnApplied::Nobody);
        }
        Ok(())
    }

    fn upkeep(&mut self) -> Result<(), PartitionError> {
        let now = Instant::now();
        if self.next_tick <= now {
            self.next_tick = now + LOG_TICK;
            self.sequencer.tick();
        }
        self.outbox.resend_lost(now);
        self.waiters.expire(now);
        if self.active && self.upkeep.is_due(now) {
            self.look_after_snapshots(now);
            let archived = self.archiving.archived();
            let trimmed = self
                .upkeep
                .poll(now, self.store, &self.sequencer, archived)?;
            if let Some(trimmed) = trimmed {
                self.sequencer.on_trimmed(trimmed);
            }
        }
        let load = self.load();
        let snapshots = self.snapshot_health(now);
        self.context.report(self.partition, |status| {
            status.load = load;
            status.applied = self.store.applied();
            status.durable = self.store.durable_applied();
            status.archived = self.archiving.archived().unwrap_or_default();
            status.snapshots = snapshots;
            status.tail = self.sequencer.next();
            status.invoked = self.attempts.len();
        });
        Ok(())
    }

    fn load(&self) -> PartitionLoad {
        let (outbox, outbox_sent) = self.outbox.counts();
        PartitionLoad {
            events: self.events.len(),
            effects: self.effects.len(),
            proposals: self.proposals.len(),
            proposals_bytes: self.proposals_bytes,
            records: self.in_flight.len(),
            records_bytes: self.sequencer.uncommitted_bytes(),
            backing_off: self.attempts.backing_off(),
            timers: self.timers.len(),
            outbox,
            outbox_sent,
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let timer = self.timers.next_due().map(|due| {
            let wall = Timestamp::from_system(SystemTime::now());
            // Rounded up: a wake-up that comes a moment early finds nothing due.
            now + due.since(wall) + Duration::from_micros(500)
        });
        let commit_news = self
            .committed_at
            .filter(|_| self.in_flight.is_empty() && self.sequencer.owes_commit())
            .map(|since| since + COMMIT_NEWS_AFTER);
        let tick = (!self.sequencer.is_settled()).then_some(self.next_tick);
        [
            timer.filter(|_| self.active),
            commit_news,
            tick,
            self.attempts.next_retry(),
            self.outbox.next_resend(),
            self.waiters.next_expiry(),
            self.archiving.hold_ends(),
            Some(self.cleaner.next_run()),
            Some(self.upkeep.next_run()).filter(|_| self.active),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + LOG_TICK)
        .max(now)
    }

    /// Sends everybody who waits to the next leader. Attempts are aborted by dropping them.
    fn give_up(&mut self) {
        self.waiters.dismiss();
        let proposed = self
            .in_flight
            .drain(..)
            .flat_map(|record| record.on_applied);
        let waiting = self.proposals.drain(..).map(|(_, hears)| hears);
        for hears in proposed.chain(waiting) {
            match hears {
                OnApplied::Invoke { responder, .. }
                | OnApplied::Done(responder)
                | OnApplied::Operate(responder)
                | OnApplied::Read(_, responder) => responder.answer(Response::NotLeader),
                OnApplied::Ingest { responder, .. } => {
                    if let Some(responder) = responder {
                        responder.answer(Response::NotLeader);
                    }
                }
                OnApplied::Nobody | OnApplied::Effects(_) => {}
            }
        }
    }
}

/// About how many bytes a command adds to a record.
fn weight(kind: &Kind) -> usize {
    const SMALL: usize = 64;
    SMALL
        + match kind {
            Kind::Invoke(invoke) => invoke.input.len(),
            Kind::AttemptEffects(effects) => effects
                .effects
                .iter()
                .map(|effect| match &effect.kind {
                    Some(
                        state::attempt_effect::Kind::Command(entry)
                        | state::attempt_effect::Kind::RunProposal(entry),
                    ) => SMALL + entry.payload.len(),
                    _ => SMALL,
                })
                .sum(),
            Kind::Delivery(delivery) => delivery
                .message
                .as_ref()
                .map_or(0, |message| message.encoded_len()),
            Kind::Signal(signal) => signal.encoded_len(),
            Kind::MutateState(mutation) => mutation.encoded_len(),
            Kind::RecordEvent(record) => record.encoded_len(),
            Kind::Pause(pause) => pause.encoded_len(),
            Kind::Operate(operate) => operate.encoded_len(),
            _ => 0,
        }
}

impl From<ApplyError> for PartitionError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error)
    }
}
