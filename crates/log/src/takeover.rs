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
//! Where a fence quorum is lost for good, an operator orders to go on without it ([`crate::Salvage`]). Then all
//! voters that are not given up are waited for, and the longest of what they hold is kept as if it was committed.
//!
//! An epoch is good for one attempt: a second one could find another suffix, and its records would mix with
//! those of the first. Who failed asks for a fresh epoch.

use std::collections::BTreeMap;

use abide_types::{Epoch, Lsn, NodeId, PartitionId};

use crate::chain::{ChainError, LogChain, Member, Salvage, Segment};
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
    /// Where a log without segments begins.
    origin: Lsn,
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
        loss: Loss,
        sequencer: Box<Sequencer>,
    },
    Done,
}

/// What became of the records behind those that the taker hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loss {
    /// There were none that counted.
    Nothing,
    /// Some may have been committed; they were given up.
    From(Lsn),
    /// The same, and what is before is in partition stores only.
    AllBefore(Lsn),
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
    loss: Loss,
    records: Vec<Record>,
    sources: Vec<NodeId>,
}

/// What the new segment takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// The highest commit.
    base: Lsn,
    /// The highest tail.
    tail: Lsn,
    loss: Loss,
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
            origin: Lsn::FIRST,
            phase: Phase::Done,
        };
        takeover.begin()?;
        Ok(takeover)
    }

    /// The same attempt with another beginning of a log that has no segments: what lies before `origin` is in a
    /// snapshot. Of no effect where there are segments.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn beginning_at(mut self, origin: Lsn) -> Result<Self, Refused> {
        self.origin = origin.max(Lsn::FIRST);
        if self.chain.segments().is_empty() {
            self.begin()?;
        }
        Ok(self)
    }

    /// The epoch of the attempt.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is to be done next. Asked again after every outcome.
    pub fn wants(&self) -> Wants {
        match &self.phase {
            Phase::Fencing { answers, .. } => match self.chain.last() {
                Some(last) if self.stretch(last, answers).is_none() => {
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
            Phase::Writing {
                base,
                loss,
                sequencer,
            } if sequencer.is_safe_to_publish() => match self.extended(*base, *loss, sequencer) {
                Ok(chain) => Wants::Publish {
                    expected: self.version,
                    chain,
                },
                Err(_) => Wants::Nothing,
            },
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
    fn stretch(&self, last: &Segment, answers: &BTreeMap<NodeId, Answer>) -> Option<Stretch> {
        let committed = answers.values().map(|answer| answer.committed).max();
        let tail = answers.values().map(|answer| answer.tail).max();
        if fence_quorum(last.voters(), last.write_quorum()) <= answers.len()
            && let (Some(base), Some(tail)) = (committed, tail)
            && base <= tail
        {
            let loss = Loss::Nothing;
            return Some(Stretch { base, tail, loss });
        }
        let salvage = self.chain.salvage()?;
        let given_up = |member: &&Member| is_lost(salvage, member);
        let voters = last
            .members()
            .iter()
            .filter(|found| found.storage.is_some());
        let mut left = voters.filter(|member| !given_up(member));
        if !left.all(|member| answers.contains_key(&member.node)) {
            return None;
        }
        let tail = tail.unwrap_or(last.base());
        if tail < salvage.floor {
            return Some(Stretch {
                base: salvage.floor,
                tail: salvage.floor,
                loss: Loss::AllBefore(salvage.floor),
            });
        }
        Some(Stretch {
            base: committed.unwrap_or(last.base()).min(tail),
            tail,
            loss: Loss::From(tail),
        })
    }

    /// Passes from one phase to the next when its work is done.
    fn progress(&mut self) -> Result<(), Refused> {
        if let Phase::Fencing { answers, confirmed } = &self.phase {
            let stretch = match self.chain.last() {
                None => Some(Stretch {
                    base: self.origin,
                    tail: self.origin,
                    loss: Loss::Nothing,
                }),
                Some(last) => self.stretch(last, answers),
            };
            let Some(Stretch { base, tail, loss }) = stretch else {
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
                loss,
                records: Vec::new(),
                sources,
            });
        }
        if let Phase::Reading(suffix) = &mut self.phase
            && suffix.next() == suffix.tail
        {
            let (base, loss) = (suffix.base, suffix.loss);
            let records = std::mem::take(&mut suffix.records);
            let segment = self.segment(base, loss, None)?;
            let sequencer = Sequencer::new(self.partition, &segment, records, self.limits);
            self.phase = Phase::Writing {
                base,
                loss,
                sequencer: Box::new(sequencer),
            };
        }
        Ok(())
    }

    /// The new segment. Replicas that have not answered are recorded by the storage that the chain knows of
    /// them: should it be gone, their acks do not count. One that was given up begins as a stranger.
    fn segment(
        &self,
        base: Lsn,
        loss: Loss,
        members: Option<Vec<Member>>,
    ) -> Result<Segment, Refused> {
        let known = |node: &NodeId| {
            let known = Member {
                node: *node,
                storage: self.chain.known_storage(*node),
            };
            match self.chain.salvage() {
                Some(salvage) if loss != Loss::Nothing && is_lost(salvage, &known) => Member {
                    storage: None,
                    ..known
                },
                _ => known,
            }
        };
        let members = members.unwrap_or_else(|| self.nodes.iter().map(known).collect());
        Segment::open(self.epoch, base, members, self.write_quorum).map_err(Refused::Impossible)
    }

    fn extended(&self, base: Lsn, loss: Loss, sequencer: &Sequencer) -> Result<LogChain, Refused> {
        let segment = self.segment(base, loss, Some(sequencer.members()))?;
        Ok(match loss {
            Loss::Nothing => self.chain.extended(segment),
            Loss::From(at) => self.chain.salvaged_with(segment, at, false),
            Loss::AllBefore(at) => self.chain.salvaged_with(segment, at, true),
        })
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

/// Whether an operator gave this very disk up.
fn is_lost(salvage: &Salvage, member: &Member) -> bool {
    let lost = salvage.lost.iter();
    lost.copied()
        .any(|(node, storage)| node == member.node && Some(storage) == member.storage)
}

impl Suffix {
    fn next(&self) -> Lsn {
        self.base.advance(self.records.len() as u64)
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
