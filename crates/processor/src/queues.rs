//! Which invocations with a scope may start: queues by service, scope and limit key, and counters by level.
//!
//! Invocations that are invoked and have a scope wait here, the oldest of a queue first, until all levels they count
//! at (their scope, and each level of their limit key) have room under the rule book. Only a running attempt counts:
//! who backs off, is suspended or paused gives up its place and comes back in its turn. A new leader therefore has
//! nothing to restore but the queues: nothing runs when it begins. Queues take turns; one whose head has to wait for
//! a level stands aside with that level until it has room. Start at [`Queues::pop`].
//!
//! **Invariant:** a level that has room and queues aside has one of them among those whose turn comes.
//!
//! Invocations without a scope never come here.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use abide_schema::{Pattern, RuleBook};
use abide_types::{Flow, InvocationId, QueueId};
use tokio::time::Instant;

/// What the invocations of one queue have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) service: String,
    pub(crate) flow: Flow,
    /// Names of the levels, the deepest first: `scope/level1/level2`, `scope/level1`, `scope`.
    levels: Vec<String>,
}

impl Hash for Queue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Queue {
    pub(crate) fn new(service: String, flow: Flow) -> Self {
        let mut levels = Vec::with_capacity(3);
        let (first, second) = flow.levels();
        if let (Some(first), Some(second)) = (first, second) {
            levels.push(format!("{}/{first}/{second}", flow.scope));
        }
        if let Some(first) = first {
            levels.push(format!("{}/{first}", flow.scope));
        }
        levels.push(flow.scope.clone());
        Self {
            id: flow.queue(&service),
            service,
            flow,
            levels,
        }
    }
}

/// Where a queue stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Nobody waits in it, or an operator has paused it.
    Aside,
    /// Its turn comes.
    Turn,
    /// Its head waits for this level since then.
    Blocked(String, Instant),
}

#[derive(Debug)]
struct Waiting {
    /// By age: the incarnation is the record that created the invocation.
    entries: BTreeSet<(u64, InvocationId)>,
    place: Place,
}

/// One scope, or limit key in it.
#[derive(Debug, Default)]
struct Level {
    running: u32,
    limit: Option<(u32, Pattern)>,
    /// Queues whose head waits for this level.
    blocked: VecDeque<Arc<Queue>>,
}

impl Level {
    fn has_room(&self) -> bool {
        (self.limit.as_ref()).is_none_or(|(limit, _)| self.running < *limit)
    }
}

/// How one level stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LevelState {
    /// Scope and levels, joined by slashes.
    pub(crate) name: String,
    pub(crate) running: u32,
    pub(crate) limit: Option<(u32, Pattern)>,
    pub(crate) blocked: usize,
}

/// How one queue stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueState {
    pub(crate) queue: Arc<Queue>,
    pub(crate) waiting: usize,
    pub(crate) head: Option<InvocationId>,
    /// The level that the head waits for, its rule, and since when.
    pub(crate) blocked: Option<(String, Option<Pattern>, Instant)>,
}

/// The queues and counters of one partition.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    book: Arc<RuleBook>,
    queues: HashMap<Arc<Queue>, Waiting>,
    levels: HashMap<String, Level>,
    turns: VecDeque<Arc<Queue>>,
    paused: HashSet<QueueId>,
}

impl Queues {
    /// Whether a queue's turn comes.
    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Takes new rules, for what runs as well as for what waits. Nothing that runs is stopped.
    pub(crate) fn set_book(&mut self, book: Arc<RuleBook>) {
        self.book = book;
        for (name, level) in &mut self.levels {
            level.limit = limit(&self.book, name);
        }
        let names: Vec<String> = self.levels.keys().cloned().collect();
        for name in names {
            self.wake_all(&name);
        }
    }

    /// Pauses or resumes a queue: what runs goes on.
    pub(crate) fn pause(&mut self, id: QueueId, paused: bool) {
        if paused {
            self.paused.insert(id);
        } else if self.paused.remove(&id) {
            let queues: Vec<_> = (self.queues.keys().filter(|queue| queue.id == id))
                .cloned()
                .collect();
            for queue in queues {
                self.give_turn(&queue);
            }
        }
    }

    /// Puts an invocation into its queue.
    pub(crate) fn push(&mut self, queue: &Arc<Queue>, incarnation: u64, id: InvocationId) {
        let waiting = self.queues.entry(queue.clone()).or_insert_with(|| Waiting {
            entries: BTreeSet::new(),
            place: Place::Aside,
        });
        waiting.entries.insert((incarnation, id));
        self.give_turn(queue);
    }

    /// Takes an invocation out of its queue.
    pub(crate) fn remove(&mut self, queue: &Arc<Queue>, incarnation: u64, id: InvocationId) {
        if let Some(waiting) = self.queues.get_mut(queue) {
            waiting.entries.remove(&(incarnation, id));
            // An empty queue is dropped when its turn comes, or with the level it waits for.
            if waiting.entries.is_empty() && waiting.place == Place::Aside {
                self.queues.remove(queue);
            }
        }
    }

    /// The next invocation that may start; it counts as running from here on, until [`Self::release`]. Of a queue it is
    /// the first that `startable` lets pass.
    pub(crate) fn pop(
        &mut self,
        startable: impl Fn(&InvocationId) -> bool,
    ) -> Option<InvocationId> {
        let mut later = Vec::new();
        let mut found = None;
        while let Some(queue) = self.turns.pop_front() {
            let Some(waiting) = self.queues.get_mut(&queue) else {
                continue;
            };
            waiting.place = Place::Aside;
            if waiting.entries.is_empty() {
                self.queues.remove(&queue);
                self.pass_on(&queue);
                continue;
            }
            if self.paused.contains(&queue.id) {
                self.pass_on(&queue);
                continue;
            }
            if let Some(full) = self.full_level(&queue) {
                self.block(&queue, full);
                self.pass_on(&queue);
                continue;
            }
            let entry = waiting_of(&self.queues, &queue)
                .find(|(_, id)| startable(id))
                .copied();
            let Some(entry) = entry else {
                later.push(queue);
                continue;
            };
            for name in &queue.levels {
                self.level(name).running += 1;
            }
            if let Some(waiting) = self.queues.get_mut(&queue) {
                waiting.entries.remove(&entry);
            }
            self.give_turn(&queue);
            self.pass_on(&queue);
            found = Some(entry.1);
            break;
        }
        for queue in later {
            self.give_turn(&queue);
        }
        found
    }

    /// An attempt that [`Self::pop`] let start has ended.
    pub(crate) fn release(&mut self, queue: &Queue) {
        // The widest first: who waits for the scope would starve behind who waits for the same limit key.
        for name in queue.levels.iter().rev() {
            let Some(level) = self.levels.get_mut(name) else {
                continue;
            };
            level.running = level.running.saturating_sub(1);
            if level.running == 0 && level.blocked.is_empty() {
                self.levels.remove(name);
            } else {
                self.wake_one(name);
            }
        }
    }

    /// All levels at which something runs or waits.
    pub(crate) fn level_states(&self) -> impl Iterator<Item = LevelState> {
        self.levels.iter().map(|(name, level)| LevelState {
            name: name.clone(),
            running: level.running,
            limit: level.limit.clone(),
            blocked: level.blocked.len(),
        })
    }

    /// All queues in which something waits.
    pub(crate) fn queue_states(&self) -> impl Iterator<Item = QueueState> {
        self.queues.iter().map(|(queue, waiting)| QueueState {
            queue: queue.clone(),
            waiting: waiting.entries.len(),
            head: waiting.entries.first().map(|(_, id)| *id),
            blocked: match &waiting.place {
                Place::Blocked(level, since) => {
                    let rule = self.levels.get(level).and_then(|level| level.limit.clone());
                    Some((level.clone(), rule.map(|(_, pattern)| pattern), *since))
                }
                Place::Aside | Place::Turn => None,
            },
        })
    }

    /// The queues that operators have paused.
    pub(crate) fn paused(&self) -> impl Iterator<Item = &QueueId> {
        self.paused.iter()
    }

    fn level(&mut self, name: &str) -> &mut Level {
        if !self.levels.contains_key(name) {
            let level = Level {
                limit: limit(&self.book, name),
                ..Level::default()
            };
            self.levels.insert(name.to_owned(), level);
        }
        self.levels.get_mut(name).expect("it was put there")
    }

    /// The deepest level without room.
    fn full_level(&self, queue: &Queue) -> Option<String> {
        let full = |name: &&String| match self.levels.get(*name) {
            Some(level) => !level.has_room(),
            // Nothing runs there, and a limit is at least one.
            None => false,
        };
        queue.levels.iter().find(full).cloned()
    }

    fn give_turn(&mut self, queue: &Arc<Queue>) {
        if self.paused.contains(&queue.id) {
            return;
        }
        let Some(waiting) = self.queues.get_mut(queue) else {
            return;
        };
        if waiting.place != Place::Aside {
            return;
        }
        if waiting.entries.is_empty() {
            self.queues.remove(queue);
            return;
        }
        waiting.place = Place::Turn;
        self.turns.push_back(queue.clone());
    }

    fn block(&mut self, queue: &Arc<Queue>, name: String) {
        if let Some(waiting) = self.queues.get_mut(queue) {
            waiting.place = Place::Blocked(name.clone(), Instant::now());
            self.level(&name).blocked.push_back(queue.clone());
        }
    }

    /// Keeps the invariant after a queue had its turn: it may have been the one that a level with room had woken.
    fn pass_on(&mut self, queue: &Queue) {
        for name in queue.levels.iter().rev() {
            self.wake_one(name);
        }
    }

    fn wake_one(&mut self, name: &str) {
        let Some(level) = self.levels.get_mut(name) else {
            return;
        };
        if level.has_room()
            && let Some(queue) = level.blocked.pop_front()
        {
            self.unblock(&queue);
        }
    }

    fn wake_all(&mut self, name: &str) {
        let Some(level) = self.levels.get_mut(name) else {
            return;
        };
        for queue in std::mem::take(&mut level.blocked) {
            self.unblock(&queue);
        }
        if (self.levels.get(name)).is_some_and(|level| level.running == 0) {
            self.levels.remove(name);
        }
    }

    fn unblock(&mut self, queue: &Arc<Queue>) {
        if let Some(waiting) = self.queues.get_mut(queue) {
            waiting.place = Place::Turn;
            self.turns.push_back(queue.clone());
        }
    }
}

fn waiting_of<'a>(
    queues: &'a HashMap<Arc<Queue>, Waiting>,
    queue: &Arc<Queue>,
) -> impl Iterator<Item = &'a (u64, InvocationId)> {
    queues
        .get(queue)
        .into_iter()
        .flat_map(|waiting| &waiting.entries)
}

fn limit(book: &RuleBook, level: &str) -> Option<(u32, Pattern)> {
    let (limit, pattern) = book.limit(level)?;
    Some((limit.get(), pattern.clone()))
}

#[cfg(test)]
mod tests;
