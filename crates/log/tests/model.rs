//! The takeover protocol (docs/architecture.md, the log), checked exhaustively for a bounded space.
//!
//! The rules are the crate's own: [`Takeover`], [`Sequencer`], [`ReplicaLog`] and [`LogChain`] run unchanged
//! inside the model; only the network, the disks and the metadata plane are the model's. What is explored:
//!
//! - A leader in office and two rival takers. Every one of them may stop for ever at any point, which is a
//!   crash, and may go on after any of the others did anything, which is every delay.
//! - A request reaches a replica at any later time, repeatedly or never: a writer that knows nothing newer
//!   can always send what it sent before, so that requests need not be kept. Appends bring the next record
//!   (more at once are several in a row) without news of the commit; notices of the commit come or do not.
//! - Answers are heard at once. A later answer says no more: what was acked stays stored, and a segment does
//!   not change any more where it is fenced. A writer that heard later would act later, which it may anyway,
//!   and what it believes to be committed it believes here as soon as anybody could. A refusal or a promise
//!   whose answer is lost only keeps others from doing what they may leave undone.
//! - The answer to a compare-and-set may be lost: the writer then asks again.
//! - Replicas are alike: where all segments have the same three, they are numbered in the order in which
//!   they got the first record.
//! - A replica may restart, which forgets the commits that it heard of, and (in some of the spaces) may lose
//!   its disk, which forgets everything and takes a new storage id.
//! - When so many have that no takeover gets through, an operator may give the lost disks up. What is behind the
//!   longest that is left counts as never committed from the moment at which that is published.
//!
//! Each property has a mutation that breaks it, to show that the checker would see.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use abide_log::{
    Admission, AppendOutcome, AppendReply, FenceOutcome, FenceReply, LogChain, Member, Record,
    ReplicaLog, Salvage, Segment, Sequencer, SequencerLimits, StorageId, StoredSegment, Takeover,
    Wants, fence_quorum,
};
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use bytes::Bytes;
use stateright::{Checker, Model, Property};

/// A third of the check is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOG: PartitionId = PartitionId(0);
const WRITE_QUORUM: usize = 2;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// The fence counts one answer that nobody gave: *N−R* replicas suffice.
    FenceOneShort,
    /// The suffix counts one ack that nobody gave.
    PublishWithoutQuorum,
    /// A wiped disk answers with its old storage id.
    WipeUnnoticed,
    /// A restart forgets the promise.
    PromiseNotDurable,
    /// A taker reads what it wants to hand over from the wrong epoch, as if storage did not keep them apart.
    EpochsMixed,
}

/// A bounded space.
#[derive(Debug, Clone)]
struct Space {
    /// Replica sets of the segments of epochs 1, 2 and 3.
    sets: [Vec<usize>; 3],
    /// One or two.
    takers: usize,
    /// Records that each epoch may propose.
    proposals: [usize; 3],
    restarts: usize,
    wipes: usize,
    /// Orders of an operator to go on without lost disks.
    orders: usize,
    /// Replicas whose storage the first segment does not record.
    strangers: Vec<usize>,
    mutation: Mutation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// Shared between states: a step changes one replica and one writer.
    replicas: Vec<Arc<Replica>>,
    writers: Vec<Arc<Writer>>,
    chain: LogChain,
    version: u64,
    /// What somebody believed to be committed, by LSN: the epoch that proposed it.
    committed: BTreeMap<Lsn, u8>,
    /// What was committed and given up by order. Its deposed leader goes on believing it.
    given_up: BTreeMap<Lsn, u8>,
    restarts: usize,
    wipes: usize,
    orders: usize,
    violation: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replica {
    log: ReplicaLog,
    records: BTreeMap<(Epoch, Lsn), u8>,
    storage: StorageId,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Writer {
    epoch: Epoch,
    proposed: usize,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Taking(Box<Takeover>),
    Leading(Box<Sequencer>),
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Load(usize),
    FenceAt(usize, usize),
    Read(usize),
    Propose(usize),
    AppendAt(usize, usize),
    NoticeAt(usize, usize),
    Publish(usize),
    Enrol(usize),
    Restart(usize),
    Wipe(usize),
    Order,
}

fn node(replica: usize) -> NodeId {
    NodeId(replica as u32)
}

fn storage(replica: usize) -> StorageId {
    StorageId(100 + replica as u64)
}

fn value(record: &Record) -> u8 {
    record.payload()[0]
}

impl Writer {
    fn sequencer(&mut self) -> Option<&mut Sequencer> {
        match &mut self.phase {
            Phase::Taking(takeover) => takeover.sequencer(),
            Phase::Leading(sequencer) => Some(sequencer),
            Phase::Idle | Phase::Over => None,
        }
    }

    fn begun(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }
}

impl State {
    /// The writer of `epoch` takes the records for committed. A deposed one may find out late that a record
    /// of its has a quorum; by then the segment that deposed it must have it as well.
    fn believe(&mut self, epoch: Epoch, records: impl IntoIterator<Item = (Lsn, u8)>) {
        for (lsn, value) in records {
            if epoch < self.chain.epoch() && self.given_up.get(&lsn) == Some(&value) {
                continue;
            }
            if epoch < self.chain.epoch() && !self.committed.contains_key(&lsn) {
                self.violation = Some("a deposed leader commits something new");
            }
            if *self.committed.entry(lsn).or_insert(value) != value {
                self.violation = Some("two records are committed at one LSN");
            }
        }
    }

    /// Replicas of a segment that hold a record of it and keep it.
    fn copies(&self, segment: &Segment, lsn: Lsn) -> usize {
        let holds = |member: &&Member| {
            let replica = &self.replicas[member.node.0 as usize];
            replica.records.contains_key(&(segment.epoch(), lsn))
        };
        segment.members().iter().filter(holds).count()
    }
}

impl Space {
    fn fail(&self, outcome: Result<(), abide_log::Refused>, writer: &mut Writer) {
        if outcome.is_err() {
            writer.phase = Phase::Over;
        }
    }

    /// A writer's next record, or the news of its commit, reaches a replica, and the ack comes back.
    fn append(&self, state: &mut State, writer: usize, replica: usize, notice: bool) -> Option<()> {
        let epoch = state.writers[writer].epoch;
        if matches!(state.writers[writer].phase, Phase::Idle | Phase::Over) {
            return None;
        }
        let sequencer = Arc::make_mut(&mut state.writers[writer]).sequencer()?;
        let (base, next, committed) = (sequencer.base(), sequencer.next(), sequencer.committed());
        let target = &state.replicas[replica];
        let first = target.log.tail(epoch).unwrap_or(base);
        let from_memory = sequencer.record(first).map(value);
        // What is no longer in memory is read from another replica.
        let mut stored = state.replicas.iter();
        let from_others = stored.find_map(|other| other.records.get(&(epoch, first)).copied());
        let content = from_memory
            .or(from_others)
            .filter(|_| first < next && !notice);
        // Without a record a segment is opened only if it is empty.
        let opens = next == base && !target.log.segments().contains_key(&epoch);
        let news = notice && target.log.committed(epoch) < committed;
        if content.is_none() && !opens && !news {
            return None;
        }
        // The replicas are alike: they are numbered in the order in which the first record comes.
        let alike = self.wipes == 0 && self.strangers.is_empty();
        let alike = alike && self.sets.iter().all(|set| *set == three());
        if alike && writer == 0 && content.is_some() && 0 < replica {
            state.replicas[replica - 1].records.get(&(epoch, first))?;
        }
        let told = if notice { committed } else { base };
        let count = usize::from(content.is_some());
        let target = Arc::make_mut(&mut state.replicas[replica]);
        let Admission::Store { tail, .. } = target.log.append(epoch, base, first, count, told)
        else {
            return None;
        };
        if let Some(content) = content {
            target.records.insert((epoch, first), content);
        }
        let reply = AppendReply {
            partition: LOG,
            epoch,
            storage: target.storage,
            outcome: AppendOutcome::Stored { tail },
        };
        self.ack(state, writer, replica, reply);
        if self.mutation == Mutation::PublishWithoutQuorum {
            let mut others = self.sets[writer].iter().filter(|other| **other != replica);
            let other = *others.next()?;
            let storage = state.replicas[other].storage;
            self.ack(state, writer, other, AppendReply { storage, ..reply });
        }
        Some(())
    }

    fn ack(&self, state: &mut State, writer: usize, replica: usize, reply: AppendReply) {
        let found = Arc::make_mut(&mut state.writers[writer]);
        match &mut found.phase {
            Phase::Taking(takeover) => {
                let outcome = takeover.on_append_reply(node(replica), reply);
                self.fail(outcome, found);
            }
            Phase::Leading(sequencer) => {
                let held: Vec<(Lsn, u8)> = sequencer
                    .held()
                    .map(|record| (record.lsn(), value(record)))
                    .collect();
                match sequencer.on_ack(node(replica), reply) {
                    Ok(_) => {
                        let tail = sequencer.committed();
                        state.believe(
                            Epoch(writer as u64 + 1),
                            held.into_iter().filter(|(lsn, _)| *lsn < tail),
                        );
                    }
                    Err(_) => found.phase = Phase::Over,
                }
            }
            Phase::Idle | Phase::Over => {}
        }
    }

    fn publish(&self, state: &mut State, writer: usize) -> Option<()> {
        let Phase::Taking(takeover) = &mut Arc::make_mut(&mut state.writers[writer]).phase else {
            return None;
        };
        let Wants::Publish { expected, chain } = takeover.wants() else {
            return None;
        };
        let sequencer = takeover.sequencer().unwrap();
        let suffix: Vec<(Lsn, u8)> = sequencer
            .held()
            .map(|record| (record.lsn(), value(record)))
            .collect();
        if expected == state.version {
            // The answer is on its way, or lost: a second try meets the own chain.
            let epoch = Epoch(writer as u64 + 1);
            let given_up = chain.salvaged().last().filter(|mark| mark.epoch == epoch);
            if let Some(mark) = given_up {
                let lost = state.committed.split_off(&mark.at);
                state.given_up.extend(lost);
            }
            state.chain = chain;
            state.version += 1;
            state.believe(epoch, suffix);
            return Some(());
        }
        match takeover.on_conflict(state.version, state.chain.clone()) {
            Ok(true) => {
                let (_, sequencer) = takeover.on_published().unwrap();
                Arc::make_mut(&mut state.writers[writer]).phase =
                    Phase::Leading(Box::new(sequencer));
            }
            Ok(false) => {}
            Err(_) => Arc::make_mut(&mut state.writers[writer]).phase = Phase::Over,
        }
        Some(())
    }

    fn fence_at(&self, state: &mut State, writer: usize, replica: usize) -> Option<()> {
        let epoch = state.writers[writer].epoch;
        let Phase::Taking(takeover) = &state.writers[writer].phase else {
            return None;
        };
        let Wants::Fence { segment, nodes } = takeover.wants() else {
            return None;
        };
        if !nodes.contains(&node(replica)) {
            return None;
        }
        let target = Arc::make_mut(&mut state.replicas[replica]);
        let outcome = target.log.fence(epoch, segment);
        if let FenceOutcome::Refused { .. } = outcome {
            return None;
        }
        let storage = target.storage;
        self.fence_reply(state, writer, replica, FenceReply { storage, outcome });
        if self.mutation == Mutation::FenceOneShort {
            let silent = nodes.iter().find(|silent| **silent != node(replica))?.0 as usize;
            let forged = FenceReply {
                storage: state.replicas[silent].storage,
                outcome: FenceOutcome::Promised {
                    tail: None,
                    committed: Lsn::ZERO,
                    trimmed: Lsn::ZERO,
                    newest: Epoch(0),
                },
            };
            self.fence_reply(state, writer, silent, forged);
        }
        // What is read does not change any more, so that the time of reading does not matter.
        self.read(state, writer);
        Some(())
    }

    fn fence_reply(&self, state: &mut State, writer: usize, replica: usize, reply: FenceReply) {
        let (version, chain) = (state.version, state.chain.clone());
        let found = Arc::make_mut(&mut state.writers[writer]);
        let Phase::Taking(takeover) = &mut found.phase else {
            return;
        };
        let mut outcome = takeover.on_fenced(node(replica), reply);
        if outcome.is_ok() && takeover.wants() == Wants::Reload {
            outcome = takeover.on_reloaded(version, chain);
        }
        self.fail(outcome, found);
    }

    fn read(&self, state: &mut State, writer: usize) -> Option<()> {
        let Phase::Taking(takeover) = &mut Arc::make_mut(&mut state.writers[writer]).phase else {
            return None;
        };
        let Wants::Read {
            segment,
            from,
            end,
            sources,
        } = takeover.wants()
        else {
            return None;
        };
        let find = |lsn: Lsn| {
            let mut stored = sources
                .iter()
                .map(|source| &state.replicas[source.0 as usize].records);
            match self.mutation {
                Mutation::EpochsMixed => stored.find_map(|stored| {
                    let mut oldest_first = stored.iter();
                    oldest_first
                        .find(|((_, at), _)| *at == lsn)
                        .map(|(_, value)| value)
                }),
                _ => stored.find_map(|stored| stored.get(&(segment, lsn))),
            }
        };
        let mut records = Vec::new();
        let mut lsn = from;
        while let Some(value) = find(lsn).filter(|_| lsn < end) {
            records.push(Record::new(
                LOG,
                segment,
                lsn,
                Bytes::copy_from_slice(&[*value]),
            ));
            lsn = lsn.next();
        }
        if records.is_empty() {
            return None;
        }
        let outcome = takeover.on_records(records);
        self.fail(outcome, Arc::make_mut(&mut state.writers[writer]));
        Some(())
    }

    fn load(&self, state: &mut State, writer: usize) -> Option<()> {
        let (version, chain) = (state.version, state.chain.clone());
        let found = Arc::make_mut(&mut state.writers[writer]);
        if found.begun() {
            return None;
        }
        let nodes = self.sets[writer]
            .iter()
            .map(|replica| node(*replica))
            .collect();
        let limits = SequencerLimits::default();
        let begun = Takeover::new(
            LOG,
            found.epoch,
            version,
            chain,
            nodes,
            WRITE_QUORUM,
            limits,
        );
        found.phase = match begun {
            Ok(takeover) => Phase::Taking(Box::new(takeover)),
            Err(_) => Phase::Over,
        };
        Some(())
    }

    /// An operator gives up the disks that are lost, if a takeover cannot do without them.
    fn order(state: &mut State) -> Option<()> {
        let last = state.chain.last()?;
        let lost: Vec<(NodeId, StorageId)> = last
            .members()
            .iter()
            .filter_map(|member| Some((member.node, member.storage?)))
            .filter(|(node, storage)| state.replicas[node.0 as usize].storage != *storage)
            .collect();
        let present = last.voters() - lost.len();
        if fence_quorum(last.voters(), last.write_quorum()) <= present {
            return None;
        }
        let salvage = Salvage {
            segment: last.epoch(),
            lost,
            floor: Lsn::ZERO,
        };
        state.orders = state.orders.checked_sub(1)?;
        state.chain = state.chain.with_salvage(salvage)?;
        state.version += 1;
        Some(())
    }

    fn enrol(&self, state: &mut State, writer: usize) -> Option<()> {
        let found = Arc::make_mut(&mut state.writers[writer]);
        let Phase::Leading(sequencer) = &mut found.phase else {
            return None;
        };
        let (member, storage) = sequencer.enrollable()?;
        let Some(chain) = state.chain.enrolled(found.epoch, member, storage) else {
            found.phase = Phase::Over;
            return Some(());
        };
        state.version += 1;
        state.chain = chain;
        let held: Vec<(Lsn, u8)> = sequencer
            .held()
            .map(|record| (record.lsn(), value(record)))
            .collect();
        sequencer.on_enrolled(member, storage);
        let tail = sequencer.committed();
        state.believe(
            Epoch(writer as u64 + 1),
            held.into_iter().filter(|(lsn, _)| *lsn < tail),
        );
        Some(())
    }

    fn apply(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Load(writer) => self.load(state, writer),
            Action::FenceAt(writer, replica) => self.fence_at(state, writer, replica),
            Action::Read(writer) => self.read(state, writer),
            Action::Propose(writer) => {
                let found = Arc::make_mut(&mut state.writers[writer]);
                let Phase::Leading(sequencer) = &mut found.phase else {
                    return None;
                };
                if self.proposals[writer] <= found.proposed {
                    return None;
                }
                found.proposed += 1;
                sequencer.append(Bytes::copy_from_slice(&[writer as u8 + 1]));
                Some(())
            }
            Action::AppendAt(writer, replica) => self.append(state, writer, replica, false),
            Action::NoticeAt(writer, replica) => self.append(state, writer, replica, true),
            Action::Publish(writer) => self.publish(state, writer),
            Action::Enrol(writer) => self.enrol(state, writer),
            Action::Restart(replica) => {
                state.restarts = state.restarts.checked_sub(1)?;
                let log = &mut Arc::make_mut(&mut state.replicas[replica]).log;
                let forgetful = |(epoch, segment): (&Epoch, &StoredSegment)| {
                    let committed = Lsn::ZERO;
                    (
                        *epoch,
                        StoredSegment {
                            committed,
                            ..*segment
                        },
                    )
                };
                let segments = log.segments().iter().map(forgetful).collect();
                let promised = match self.mutation {
                    Mutation::PromiseNotDurable => Epoch(0),
                    _ => log.promised(),
                };
                *log = ReplicaLog::restored(promised, log.trim_point(), segments);
                Some(())
            }
            Action::Wipe(replica) => {
                state.wipes = state.wipes.checked_sub(1)?;
                let target = Arc::make_mut(&mut state.replicas[replica]);
                target.log = ReplicaLog::default();
                target.records.clear();
                if self.mutation != Mutation::WipeUnnoticed {
                    target.storage = StorageId(target.storage.0 + 100);
                }
                Some(())
            }
            Action::Order => Self::order(state),
        }
    }
}

impl Model for Space {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let members = self.sets[0].iter().map(|replica| Member {
            node: node(*replica),
            storage: (!self.strangers.contains(replica)).then(|| storage(*replica)),
        });
        let segment = Segment::open(Epoch(1), Lsn::FIRST, members.collect(), WRITE_QUORUM).unwrap();
        let mut sequencer = Sequencer::new(LOG, &segment, Vec::new(), SequencerLimits::default());
        let count = self.sets.iter().flatten().max().unwrap() + 1;
        let mut replicas: Vec<Replica> = (0..count)
            .map(|replica| Replica {
                log: ReplicaLog::default(),
                records: BTreeMap::new(),
                storage: storage(replica),
            })
            .collect();
        // The first leader's replicas have opened its segment, but for the strangers.
        for replica in &self.sets[0] {
            if self.strangers.contains(replica) {
                continue;
            }
            let target = &mut replicas[*replica];
            target
                .log
                .append(Epoch(1), Lsn::FIRST, Lsn::FIRST, 0, Lsn::FIRST);
            let reply = AppendReply {
                partition: LOG,
                epoch: Epoch(1),
                storage: target.storage,
                outcome: AppendOutcome::Stored { tail: Lsn::FIRST },
            };
            sequencer.on_ack(node(*replica), reply).unwrap();
        }
        sequencer.on_published();
        let writer = |epoch, phase| {
            Arc::new(Writer {
                epoch: Epoch(epoch),
                proposed: 0,
                phase,
            })
        };
        vec![State {
            replicas: replicas.into_iter().map(Arc::new).collect(),
            writers: vec![
                writer(1, Phase::Leading(Box::new(sequencer))),
                writer(2, Phase::Idle),
                writer(
                    3,
                    if self.takers == 2 {
                        Phase::Idle
                    } else {
                        Phase::Over
                    },
                ),
            ],
            chain: LogChain::default().extended(segment),
            version: 1,
            committed: BTreeMap::new(),
            given_up: BTreeMap::new(),
            restarts: self.restarts,
            wipes: self.wipes,
            orders: self.orders,
            violation: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_some() {
            return;
        }
        let replicas = 0..state.replicas.len();
        for writer in 0..state.writers.len() {
            match &state.writers[writer].phase {
                Phase::Idle => actions.push(Action::Load(writer)),
                Phase::Over => continue,
                Phase::Taking(takeover) => match takeover.wants() {
                    Wants::Fence { .. } => {
                        for replica in replicas.clone() {
                            actions.push(Action::FenceAt(writer, replica));
                        }
                    }
                    Wants::Read { .. } => actions.push(Action::Read(writer)),
                    Wants::Publish { .. } => actions.push(Action::Publish(writer)),
                    Wants::Write | Wants::Reload | Wants::Nothing => {}
                },
                Phase::Leading(_) => {
                    actions.push(Action::Propose(writer));
                    actions.push(Action::Enrol(writer));
                }
            }
            for replica in &self.sets[writer] {
                actions.push(Action::AppendAt(writer, *replica));
                actions.push(Action::NoticeAt(writer, *replica));
            }
        }
        if 0 < state.restarts {
            actions.extend(replicas.clone().map(Action::Restart));
        }
        if 0 < state.wipes {
            actions.extend(replicas.map(Action::Wipe));
        }
        if 0 < state.orders {
            actions.push(Action::Order);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.apply(&mut next, action)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no two records are committed at one LSN, and nothing new by the deposed",
                |_, state: &State| state.violation.is_none(),
            ),
            Property::always(
                "no committed record is lost",
                |space: &Self, state: &State| {
                    let lost_disks = space.wipes - state.wipes;
                    state.committed.iter().all(|(lsn, value)| {
                        let Some(segment) = state.chain.segment_at(*lsn) else {
                            return false;
                        };
                        let key = (segment.epoch(), *lsn);
                        let intact = segment.nodes().all(|node| {
                            let stored = state.replicas[node.0 as usize].records.get(&key);
                            stored.is_none_or(|stored| stored == value)
                        });
                        intact && WRITE_QUORUM <= state.copies(segment, *lsn) + lost_disks
                    })
                },
            ),
            Property::sometimes("every taker wins", |space: &Self, state: &State| {
                let second = space.proposals[1] == 0 || state.committed.values().any(|by| *by == 2);
                let led = |writer: usize| matches!(state.writers[writer].phase, Phase::Leading(_));
                second && led(1) && (led(2) || space.takers == 1)
            }),
        ]
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

fn check(name: &str, space: Space) {
    let started = Instant::now();
    let checker = space.clone().checker().threads(cores()).spawn_bfs().join();
    println!(
        "{name}: {} states ({} steps), depth {}, {:.1?}\n  {space:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed(),
    );
    checker.assert_properties();
}

/// The checker finds a counterexample when a rule is broken.
fn refute(mutation: Mutation, space: Space) {
    let space = Space { mutation, ..space };
    let started = Instant::now();
    let failures = stateright::HasDiscoveries::AnyFailures;
    let checker = space
        .checker()
        .threads(cores())
        .finish_when(failures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let mut failed = found
        .iter()
        .filter(|(property, _)| !property.contains("wins"));
    let (property, path) = failed.next().expect("the mutation breaks a property");
    println!(
        "{mutation:?}: not \"{property}\", found after {} states, {:.1?}:\n  {:?}",
        checker.unique_state_count(),
        started.elapsed(),
        path.clone().into_actions(),
    );
}

fn three() -> Vec<usize> {
    vec![0, 1, 2]
}

/// A leader and two takers of the same three replicas; the leader proposes `first`, the first taker
/// `second` records.
fn space(first: usize, second: usize) -> Space {
    Space {
        sets: [three(), three(), three()],
        takers: 2,
        proposals: [first, second, 0],
        restarts: 0,
        wipes: 0,
        orders: 0,
        strangers: Vec::new(),
        mutation: Mutation::None,
    }
}

#[test]
fn rival_takers_never_lose_or_fork_the_log() {
    check("two takers", space(1, 1));
}

#[test]
fn replicas_may_restart_at_any_time() {
    check(
        "one restart",
        Space {
            restarts: 1,
            ..space(1, 0)
        },
    );
    check(
        "two restarts, one taker",
        Space {
            restarts: 2,
            takers: 1,
            ..space(2, 1)
        },
    );
}

#[test]
fn one_lost_disk_loses_nothing() {
    check(
        "one lost disk, one taker",
        Space {
            wipes: 1,
            takers: 1,
            ..space(1, 1)
        },
    );
}

#[test]
fn what_is_left_after_two_lost_disks_is_kept() {
    check(
        "two lost disks, one taker",
        Space {
            wipes: 2,
            orders: 1,
            takers: 1,
            ..space(1, 0)
        },
    );
}

#[test]
fn replica_sets_may_change() {
    let sets = [three(), vec![1, 2, 3], vec![0, 2, 3]];
    check(
        "changing replicas",
        Space {
            sets: sets.clone(),
            takers: 1,
            ..space(1, 1)
        },
    );
}

#[test]
fn a_stranger_votes_once_it_is_enrolled() {
    check(
        "one stranger, one taker",
        Space {
            strangers: vec![2],
            takers: 1,
            ..space(2, 0)
        },
    );
}

#[test]
fn a_fence_needs_its_quorum() {
    refute(Mutation::FenceOneShort, space(1, 1));
}

#[test]
fn publishing_needs_the_suffix_on_a_quorum() {
    refute(Mutation::PublishWithoutQuorum, space(1, 1));
}

#[test]
fn a_promise_must_be_durable() {
    refute(
        Mutation::PromiseNotDurable,
        Space {
            restarts: 1,
            ..space(1, 1)
        },
    );
}

#[test]
fn a_wiped_disk_must_not_count() {
    refute(
        Mutation::WipeUnnoticed,
        Space {
            wipes: 1,
            ..space(1, 1)
        },
    );
}

#[test]
fn records_of_different_epochs_must_stay_apart() {
    refute(Mutation::EpochsMixed, space(1, 1));
}
