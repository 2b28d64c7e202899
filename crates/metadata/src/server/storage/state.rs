//! The documents in memory, and what changed since when.

use std::collections::{BTreeMap, HashMap, VecDeque};

use abide_rpc::proto::metadata as pb;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::server::types::{LogId, Outcome, StoredMembership};
use crate::txn::Versioned;
use crate::view::Change;

/// Transactions that are remembered by id, so that a repetition takes effect once. A client repeats within
/// its deadline; so many do not pass in that time.
pub(crate) const RECENT_MAX: usize = 1024;

/// Deletions that are remembered one by one. A watcher that is further behind gets the whole state.
const DELETED_MAX: usize = 1024;

/// Everything that the applied entries came to. A pure function of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) documents: BTreeMap<String, Versioned>,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// The version of the last deletion.
    pub(crate) last_delete: u64,
    recent: VecDeque<(u64, Bytes)>,
    recent_by_id: HashMap<Bytes, u64>,
    /// Deletions above `deleted_floor`, by key.
    deleted: BTreeMap<String, u64>,
    /// Deletions up to here are not in `deleted`.
    deleted_floor: u64,
}

/// What one transaction changed, to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) puts: Vec<(String, Versioned)>,
    pub(crate) deletes: Vec<String>,
    pub(crate) remembered: Option<(u64, Bytes)>,
    /// Versions of transactions that are not remembered any more.
    pub(crate) forgotten: Vec<u64>,
}

impl State {
    /// The state with these parts, as read from disk or from a snapshot.
    pub(crate) fn restored(
        documents: BTreeMap<String, Versioned>,
        recent: impl IntoIterator<Item = (u64, Bytes)>,
        applied: Option<LogId>,
        membership: StoredMembership,
        last_delete: u64,
    ) -> Self {
        let recent: VecDeque<_> = recent.into_iter().collect();
        Self {
            documents,
            applied,
            membership,
            last_delete,
            recent_by_id: recent
                .iter()
                .map(|(version, id)| (id.clone(), *version))
                .collect(),
            recent,
            deleted: BTreeMap::new(),
            deleted_floor: last_delete,
        }
    }

    /// The index of the last applied entry.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    /// The version of a key; 0 if it is absent.
    pub(crate) fn version_of(&self, key: &str) -> u64 {
        self.documents.get(key).map_or(0, |stored| stored.version)
    }

    /// Transactions that are remembered, oldest first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = &(u64, Bytes)> {
        self.recent.iter()
    }

    /// Applies the transaction of the entry at `index`.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        transaction: &pb::Transaction,
        effects: &mut Effects,
    ) -> Outcome {
        if let Some(version) = self.recent_by_id.get(&transaction.id) {
            return Outcome::Committed(*version);
        }
        for precondition in &transaction.preconditions {
            let actual = self.version_of(&precondition.key);
            if actual != precondition.version {
                return Outcome::Conflict {
                    key: precondition.key.clone(),
                    expected: precondition.version,
                    actual,
                };
            }
        }
        for key in &transaction.deletes {
            if self.documents.remove(key).is_some() {
                self.last_delete = index;
                self.deleted.insert(key.clone(), index);
                effects.deletes.push(key.clone());
            }
        }
        for put in &transaction.puts {
            let stored = Versioned {
                version: index,
                value: put.value.clone(),
            };
            self.deleted.remove(&put.key);
            self.documents.insert(put.key.clone(), stored.clone());
            effects.puts.push((put.key.clone(), stored));
        }
        self.remember(index, transaction.id.clone(), effects);
        self.trim_deleted();
        Outcome::Committed(index)
    }

    fn remember(&mut self, version: u64, id: Bytes, effects: &mut Effects) {
        if id.is_empty() {
            return;
        }
        self.recent.push_back((version, id.clone()));
        self.recent_by_id.insert(id.clone(), version);
        effects.remembered = Some((version, id));
        while self.recent.len() > RECENT_MAX
            && let Some((version, id)) = self.recent.pop_front()
        {
            self.recent_by_id.remove(&id);
            effects.forgotten.push(version);
        }
    }

    fn trim_deleted(&mut self) {
        if self.deleted.len() > DELETED_MAX {
            self.deleted.clear();
            self.deleted_floor = self.last_delete;
        }
    }

    /// What a watcher that is complete up to `version` has to be told; `None` if nothing.
    pub(crate) fn changes_since(&self, version: u64) -> Option<Change> {
        let applied = self.applied_index();
        if applied <= version {
            return None;
        }
        let full = version == 0 || version < self.deleted_floor;
        let newer = |than: u64| full || than > version;
        let change = Change {
            version: applied,
            full,
            documents: self
                .documents
                .iter()
                .filter(|(_, stored)| newer(stored.version))
                .map(|(key, stored)| (key.clone(), stored.clone()))
                .collect(),
            deleted: self
                .deleted
                .iter()
                .filter(|(_, deleted)| !full && **deleted > version)
                .map(|(key, _)| key.clone())
                .collect(),
        };
        let empty = !full && change.documents.is_empty() && change.deleted.is_empty();
        (!empty).then_some(change)
    }
}

/// The state, read by many and written by the state machine.
pub(crate) struct SharedState {
    state: RwLock<State>,
    applied: watch::Sender<u64>,
}

impl SharedState {
    pub(crate) fn new(state: State) -> Self {
        let applied = watch::Sender::new(state.applied_index());
        Self {
            state: RwLock::new(state),
            applied,
        }
    }

    /// Reads the state. Hold it shortly, and not across an await.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.read())
    }

    /// Changes the state, and wakes watchers if it advanced.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, applied) = {
            let mut state = self.state.write();
            let result = change(&mut state);
            (result, state.applied_index())
        };
        self.applied.send_if_modified(|known| {
            let changed = *known != applied;
            *known = applied;
            changed
        });
        result
    }

    /// The index of the last applied entry, as it advances.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use openraft::impls::leader_id_adv::LeaderId;

    /// Applies `id: expectations -> writes` at the next index.
    fn apply(state: &mut State, id: &str, expect: &[(&str, u64)], writes: &[&str]) -> Outcome {
        let index = state.applied_index() + 1;
        let leader = LeaderId {
            term: 1,
            node_id: 1,
        };
        let transaction = pb::Transaction {
            id: Bytes::copy_from_slice(id.as_bytes()),
            preconditions: expect
                .iter()
                .map(|(key, version)| pb::Precondition {
                    key: (*key).into(),
                    version: *version,
                })
                .collect(),
            puts: writes
                .iter()
                .filter(|key| !key.starts_with('-'))
                .map(|key| pb::Put {
                    key: (*key).into(),
                    value: Bytes::from_static(b"{}"),
                })
                .collect(),
            deletes: writes
                .iter()
                .filter_map(|key| key.strip_prefix('-'))
                .map(Into::into)
                .collect(),
        };
        let outcome = state.apply(index, &transaction, &mut Effects::default());
        state.applied = Some(LogId::new(leader, index));
        outcome
    }

    #[test]
    fn a_transaction_takes_effect_as_a_whole_or_not_at_all() {
        let mut state = State::default();
        assert_eq!(
            apply(&mut state, "t1", &[("a", 0), ("b", 0)], &["a", "b"]),
            Outcome::Committed(1)
        );
        assert_eq!(
            apply(&mut state, "t2", &[("a", 1), ("b", 7)], &["a", "c"]),
            Outcome::Conflict {
                key: "b".into(),
                expected: 7,
                actual: 1
            }
        );
        assert_eq!(state.version_of("a"), 1);
        assert_eq!(state.version_of("c"), 0);
    }

    #[test]
    fn a_repeated_transaction_takes_effect_once() {
        let mut state = State::default();
        assert_eq!(
            apply(&mut state, "t1", &[("a", 0)], &["a"]),
            Outcome::Committed(1)
        );
        assert_eq!(
            apply(&mut state, "t1", &[("a", 0)], &["a"]),
            Outcome::Committed(1)
        );
        assert_eq!(state.version_of("a"), 1);
    }

    #[test]
    fn old_transactions_are_forgotten() {
        let mut state = State::default();
        for number in 0..RECENT_MAX + 5 {
            apply(&mut state, &format!("t{number}"), &[], &["a"]);
        }
        assert_eq!(state.recent().count(), RECENT_MAX);
        assert_eq!(state.recent().next().unwrap().0, 6);
    }

    #[test]
    fn watchers_are_told_what_changed_since() {
        let mut state = State::default();
        apply(&mut state, "t1", &[], &["a", "b"]);
        apply(&mut state, "t2", &[], &["c"]);
        apply(&mut state, "t3", &[], &["-b"]);
        let all = state.changes_since(0).unwrap();
        assert!(all.full);
        assert_eq!(all.documents.len(), 2);
        let change = state.changes_since(1).unwrap();
        assert_eq!((change.full, change.version), (false, 3));
        assert_eq!(change.documents[0].0, "c");
        assert_eq!(change.deleted, ["b"]);
        assert_eq!(state.changes_since(3), None);
        assert_eq!(state.changes_since(9), None);
    }

    #[test]
    fn a_deletion_that_is_not_remembered_costs_the_whole_state() {
        let mut state = State::default();
        apply(&mut state, "t1", &[], &["a", "b"]);
        apply(&mut state, "t2", &[], &["-b"]);
        apply(&mut state, "t3", &[], &["c"]);
        let restored = State::restored(
            state.documents.clone(),
            [],
            state.applied,
            StoredMembership::default(),
            state.last_delete,
        );
        assert!(restored.changes_since(1).unwrap().full);
        assert!(!restored.changes_since(2).unwrap().full);
    }
}
