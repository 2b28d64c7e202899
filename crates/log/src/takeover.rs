//! How leadership of a log passes on: the rules, without network.
//!
//! [`Takeover::wants`] says what is to be done next, the `on_…` methods take the outcomes in. The order is
//! fence, read the suffix, write it under the new epoch, publish. Start at [`Takeover::new`].
//!
//! Why it is safe: a fence quorum meets every write quorum of the last segment's voters, so that no older
//! epoch commits behind it and the highest tail among the answers covers all that was committed. The suffix
//! is on a write quorum of the new replicas before the chain names the new segment. A taker that dies before
//! that leaves records under an epoch that no chain names: nobody reads or counts them, and the next taker
//! fences the segment that the chain does name.
//!
//! An epoch is good for one attempt: a second one could find another suffix, and its records would mix with
//! those of the first. Who failed asks for a fresh epoch.

use std::collections::BTreeMap;

use abide_types::{Epoch, Lsn, NodeId, PartitionId};

use crate::chain::{ChainError, LogChain, Member, Segment};
use crate::message::{AppendReply, FenceOutcome, FenceReply};
use crate::quorum::fence_quorum;
use crate::record::Record;
use crate::sequencer::{Fenced, Sequencer, SequencerLimits};

/// One attempt of one epoch to take a log over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Takeover {
    partition: PartitionId,
    epoch: Epoch,
    chain: LogChain,
    version: u64,
    nodes: Vec<NodeId>,
    write_quorum: usize,
    limits: SequencerLimits,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Fencing {
        answers: BTreeMap<NodeId, Answer>,
        /// The chain was loaded again after a quorum had promised.
        confirmed: bool,
    },
    Reading(Suffix),
    Writing {
        base: Lsn,
        sequencer: Box<Sequencer>,
    },
    Done,
}

/// What a voter of the fenced segment promised and told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Answer {
    tail: Lsn,
    committed: Lsn,
    newest: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Suffix {
    base: Lsn,
    tail: Lsn,
    records: Vec<Record>,
    sources: Vec<NodeId>,
}

/// What a takeover wants to have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wants {
    /// These have not answered the fence; ask all of them, again and again.
    Fence {
        /// The epoch of the segment that is fenced off.
        segment: Epoch,
        /// Whom to ask.
        nodes: Vec<NodeId>,
    },
    /// Load the chain again: somebody may have published in the meantime. Then [`Takeover::on_reloaded`].
    Reload,
    /// Read `[from, end)` of the fenced segment from any of `sources` that has it intact. Then
    /// [`Takeover::on_records`].
    Read {
        /// The epoch of the fenced segment.
        segment: Epoch,
        /// The first record wanted.
        from: Lsn,
        /// The first record not wanted.
        end: Lsn,
        /// Whom to ask, the furthest first. All of them answer for the same writer.
        sources: Vec<NodeId>,
    },
    /// Send what [`Takeover::sequencer`] asks for and hand in the answers.
    Write,
    /// Replace the chain. Then [`Takeover::on_published`] or [`Takeover::on_conflict`].
    Publish {
        /// The version that it must have for that.
        expected: u64,
        /// The chain with the new segment.
        chain: LogChain,
    },
    /// Nothing: the sequencer was taken out.
    Nothing,
}

/// Why an attempt is over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A higher epoch came by: step down.
    #[error("log {partition} belongs to {winner}, which is not below {epoch}")]
    Deposed {
        /// The log.
        partition: PartitionId,
        /// The attempt's epoch.
        epoch: Epoch,
        /// The epoch that won.
        winner: Epoch,
    },
    /// A lower epoch published while this one was under way. Who still wants the log asks for a fresh epoch.
    #[error("log {partition} changed during the takeover by {epoch}; it takes a fresh epoch")]
    Overtaken {
        /// The log.
        partition: PartitionId,
        /// The attempt's epoch, which is used up.
        epoch: Epoch,
    },
    /// The replica set or quorum asked for makes no segment.
    #[error("the segment asked for cannot be")]
    Impossible(#[source] ChainError),
}

impl Takeover {
    /// Begins an attempt of `epoch` upon `chain`, which had `version` when it was read linearizably. The new
    /// segment goes to `nodes`.
    pub fn new(
        partition: PartitionId,
        epoch: Epoch,
        version: u64,
        chain: LogChain,
        nodes: Vec<NodeId>,
        write_quorum: usize,
        limits: SequencerLimits,
    ) -> Result<Self, Refused> {
        let members = nodes.iter().map(|node| Member {
            node: *node,
            storage: None,
        });
        Segment::open(epoch, Lsn::FIRST, members.collect(), write_quorum)
            .map_err(Refused::Impossible)?;
        let mut takeover = Self {
            partition,
            epoch,
            chain,
            version,
            nodes,
            write_quorum,
            limits,
            phase: Phase::Done,
        };
        takeover.begin()?;
        Ok(takeover)
    }

    /// The epoch of the attempt.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is to be done next. Asked again after every outcome.
    pub fn wants(&self) -> Wants {
        match &self.phase {
            Phase::Fencing { answers, .. } => match self.chain.last() {
                Some(last) if Self::stretch(last, answers).is_none() => {
                    let voters = last
                        .members()
                        .iter()
                        .filter(|member| member.storage.is_some());
                    let silent = voters.filter(|member| !answers.contains_key(&member.node));
                    Wants::Fence {
                        segment: last.epoch(),
                        nodes: silent.map(|member| member.node).collect(),
                    }
                }
                _ => Wants::Reload,
            },
            Phase::Reading(suffix) => Wants::Read {
                segment: self.chain.epoch(),
                from: suffix.next(),
                end: suffix.tail,
                sources: suffix.sources.clone(),
            },
            Phase::Writing { base, sequencer } if sequencer.is_safe_to_publish() => {
                match self.extended(*base, sequencer) {
                    Ok(chain) => Wants::Publish {
                        expected: self.version,
                        chain,
                    },
                    Err(_) => Wants::Nothing,
                }
            }
            Phase::Writing { .. } => Wants::Write,
            Phase::Done => Wants::Nothing,
        }
    }

    /// A log server's answer to the fence. Answers of another storage than the chain records do not count:
    /// that disk was wiped, and what its predecessor had acked is not in them.
    pub fn on_fenced(&mut self, from: NodeId, reply: FenceReply) -> Result<(), Refused> {
        let (promised_tail, committed, trimmed, newest) = match reply.outcome {
            FenceOutcome::Refused { promised } => return self.check_fenced(promised),
            FenceOutcome::Promised {
                tail,
                committed,
                trimmed,
                newest,
            } => (tail, committed, trimmed, newest),
        };
        let Some(last) = self.chain.last() else {
            return Ok(());
        };
        let counts = last.storage(from) == Some(reply.storage);
        let base = last.base();
        if let Phase::Fencing { answers, .. } = &mut self.phase
            && counts
        {
            let committed = committed.max(trimmed).max(base);
            // A voter that kept its disk and knows nothing of the segment never acked any of it.
            let tail = promised_tail.unwrap_or(base).max(trimmed).max(base);
            answers.insert(
                from,
                Answer {
                    tail,
                    committed,
                    newest,
                },
            );
            self.progress()?;
        }
        Ok(())
    }

    /// The chain as it is after a quorum promised. If somebody published meanwhile, the fence starts over on
    /// that segment; nothing was written so far, so the epoch is not used up.
    pub fn on_reloaded(&mut self, version: u64, chain: LogChain) -> Result<(), Refused> {
        if !matches!(self.phase, Phase::Fencing { .. }) {
            return Ok(());
        }
        let same = self.chain.same_end(&chain);
        self.version = version;
        self.chain = chain;
        if !same {
            return self.begin();
        }
        if let Phase::Fencing { confirmed, .. } = &mut self.phase {
            *confirmed = true;
        }
        self.progress()
    }

    /// Records of the fenced segment, verified, from where [`Wants::Read`] said. Those that do not join are
    /// ignored.
    pub fn on_records(&mut self, records: Vec<Record>) -> Result<(), Refused> {
        let fenced = self.chain.epoch();
        let Phase::Reading(suffix) = &mut self.phase else {
            return Ok(());
        };
        for record in records {
            if record.epoch() == fenced
                && record.lsn() == suffix.next()
                && record.lsn() < suffix.tail
            {
                suffix
                    .records
                    .push(record.under(self.partition, self.epoch));
            }
        }
        self.progress()
    }

    /// A source had trimmed the wanted position: everything below `trimmed` is committed, so that the new
    /// segment may begin there.
    pub fn on_trimmed(&mut self, trimmed: Lsn) -> Result<(), Refused> {
        if let Phase::Reading(suffix) = &mut self.phase {
            // The tail covers all that is committed; a trim point beyond it is not one of this segment.
            let trimmed = trimmed.min(suffix.tail);
            if suffix.base < trimmed {
                suffix.base = trimmed;
                suffix.records.retain(|record| trimmed <= record.lsn());
            }
        }
        self.progress()
    }

    /// The writer of the new segment, while there is one.
    pub fn sequencer(&mut self) -> Option<&mut Sequencer> {
        match &mut self.phase {
            Phase::Writing { sequencer, .. } => Some(sequencer),
            _ => None,
        }
    }

    /// A log server's answer to an append of the suffix.
    pub fn on_append_reply(&mut self, from: NodeId, reply: AppendReply) -> Result<(), Refused> {
        let Some(sequencer) = self.sequencer() else {
            return Ok(());
        };
        match sequencer.on_ack(from, reply) {
            Ok(_) => Ok(()),
            Err(Fenced { promised, .. }) => self.check_fenced(promised),
        }
    }

    /// The new chain is in the metadata plane: the suffix is committed. Returns the chain and the writer.
    pub fn on_published(&mut self) -> Option<(LogChain, Sequencer)> {
        let Wants::Publish { chain, .. } = self.wants() else {
            return None;
        };
        let Phase::Writing { mut sequencer, .. } = std::mem::replace(&mut self.phase, Phase::Done)
        else {
            return None;
        };
        sequencer.on_published();
        Some((chain, *sequencer))
    }

    /// The chain had another version than expected; here it is. Goes on if only its trimmed front changed,
    /// or if it turns out that this very attempt was published. Returns whether it was.
    pub fn on_conflict(&mut self, version: u64, chain: LogChain) -> Result<bool, Refused> {
        if chain.epoch() == self.epoch {
            return Ok(true);
        }
        if !self.chain.same_end(&chain) {
            self.check_fenced(chain.epoch())?;
            return Err(Refused::Overtaken {
                partition: self.partition,
                epoch: self.epoch,
            });
        }
        self.chain = chain;
        self.version = version;
        Ok(false)
    }

    fn begin(&mut self) -> Result<(), Refused> {
        let winner = self.chain.epoch();
        if self.epoch <= winner {
            return Err(Refused::Deposed {
                partition: self.partition,
                epoch: self.epoch,
                winner,
            });
        }
        self.phase = Phase::Fencing {
            answers: BTreeMap::new(),
            confirmed: false,
        };
        self.progress()
    }

    /// What the new segment takes over of `last`: `[highest commit, highest tail)`. `None` while too few have
    /// answered; also when they know of a commit that none of them holds, which happens only when a disk
    /// lost what it had acked: then the others are waited for.
    fn stretch(last: &Segment, answers: &BTreeMap<NodeId, Answer>) -> Option<(Lsn, Lsn)> {
        if answers.len() < fence_quorum(last.voters(), last.write_quorum()) {
            return None;
        }
        let base = answers.values().map(|answer| answer.committed).max()?;
        let tail = answers.values().map(|answer| answer.tail).max()?;
        (base <= tail).then_some((base, tail))
    }

    /// Passes from one phase to the next when its work is done.
    fn progress(&mut self) -> Result<(), Refused> {
        if let Phase::Fencing { answers, confirmed } = &self.phase {
            let stretch = match self.chain.last() {
                None => Some((Lsn::FIRST, Lsn::FIRST)),
                Some(last) => Self::stretch(last, answers),
            };
            let Some((base, tail)) = stretch else {
                return Ok(());
            };
            // A segment that the chain did not name when it was read: published since, or its taker died.
            let fenced = self.chain.epoch();
            if !confirmed && answers.values().any(|answer| fenced < answer.newest) {
                return Ok(());
            }
            let mut sources: Vec<(Lsn, NodeId)> = answers
                .iter()
                .map(|(node, answer)| (answer.tail, *node))
                .collect();
            sources.sort_unstable_by(|a, b| b.cmp(a));
            let mut sources: Vec<NodeId> = sources.into_iter().map(|(_, node)| node).collect();
            // The others may have a record that is corrupt on those that answered.
            let others = self.chain.last().into_iter().flat_map(Segment::nodes);
            let others: Vec<NodeId> = others.filter(|node| !sources.contains(node)).collect();
            sources.extend(others);
            self.phase = Phase::Reading(Suffix {
                base,
                tail,
                records: Vec::new(),
                sources,
            });
        }
        if let Phase::Reading(suffix) = &mut self.phase
            && suffix.next() == suffix.tail
        {
            let base = suffix.base;
            let records = std::mem::take(&mut suffix.records);
            let segment = self.segment(base, None)?;
            let sequencer = Sequencer::new(self.partition, &segment, records, self.limits);
            self.phase = Phase::Writing {
                base,
                sequencer: Box::new(sequencer),
            };
        }
        Ok(())
    }

    /// The new segment. Replicas that have not answered are recorded by the storage that the chain knows of
    /// them: should it be gone, their acks do not count.
    fn segment(&self, base: Lsn, members: Option<Vec<Member>>) -> Result<Segment, Refused> {
        let known = |node: &NodeId| Member {
            node: *node,
            storage: self.chain.known_storage(*node),
        };
        let members = members.unwrap_or_else(|| self.nodes.iter().map(known).collect());
        Segment::open(self.epoch, base, members, self.write_quorum).map_err(Refused::Impossible)
    }

    fn extended(&self, base: Lsn, sequencer: &Sequencer) -> Result<LogChain, Refused> {
        let segment = self.segment(base, Some(sequencer.members()))?;
        Ok(self.chain.extended(segment))
    }

    fn check_fenced(&self, promised: Epoch) -> Result<(), Refused> {
        if promised <= self.epoch {
            return Ok(());
        }
        Err(Refused::Deposed {
            partition: self.partition,
            epoch: self.epoch,
            winner: promised,
        })
    }
}

impl Suffix {
    fn next(&self) -> Lsn {
        self.base.advance(self.records.len() as u64)
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
