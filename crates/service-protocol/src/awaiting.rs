//! What a suspended handler waits for, and whether it has come.
//!
//! Up to version 6 that is a set of which any member wakes; since version 7 it is a tree. The set is written as a
//! tree of one node, so that only one form is stored. Trees come from endpoints and may be nested as deep as
//! they like: everything here walks them without recursion.

use bytes::Bytes;
use prost::Message;

use crate::notification::NotificationId;
use crate::proto;

/// How deep a tree may be nested if nothing else is configured.
pub const DEFAULT_DEPTH_MAX: usize = 1000;

/// How long a tree's wire form may be. A decoded tree takes up to some thirty times as much.
pub const LENGTH_MAX: usize = 1024 * 1024;

/// When a node of the tree is completed, and with what outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combinator {
    /// One that this version does not know: any child completes it, the outcome is open.
    Unknown,
    /// The first completed child.
    FirstCompleted,
    /// All children completed, whatever their outcomes.
    AllCompleted,
    /// The first success, or the failure of all.
    FirstSucceededOrAllFailed,
    /// The first failure, or the success of all.
    AllSucceededOrFirstFailed,
}

impl Combinator {
    fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::FirstCompleted,
            2 => Self::AllCompleted,
            3 => Self::FirstSucceededOrAllFailed,
            4 => Self::AllSucceededOrFirstFailed,
            _ => Self::Unknown,
        }
    }
}

/// Why something is no await tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AwaitError {
    /// It cannot be read.
    #[error("await tree cannot be decoded: {0}")]
    Malformed(String),
    /// It is nested deeper than allowed.
    #[error("await tree is nested deeper than {0}")]
    TooDeep(usize),
    /// It is longer than [`LENGTH_MAX`].
    #[error("await tree has {0} bytes, the limit is {LENGTH_MAX}")]
    TooLong(usize),
    /// It names nothing to wait for.
    #[error("waits for nothing")]
    Empty,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    combinator: Combinator,
    /// Index of the node that this one is a child of; smaller than its own. The root's is its own.
    parent: usize,
    leaves: Vec<NotificationId>,
}

/// What a handler waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Await {
    bytes: Bytes,
    /// Parents before children; the root is the first. Never empty.
    nodes: Vec<Node>,
}

/// What is known of a node or leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Success,
    Failure,
    /// Completed, but only the endpoint can say how.
    Undecided,
}

/// The states of a node's children, counted.
#[derive(Clone, Copy, Default)]
struct Tally {
    pending: usize,
    success: usize,
    failure: usize,
    undecided: usize,
}

impl Tally {
    fn add(&mut self, state: State) {
        match state {
            State::Pending => self.pending += 1,
            State::Success => self.success += 1,
            State::Failure => self.failure += 1,
            State::Undecided => self.undecided += 1,
        }
    }

    fn state(self, combinator: Combinator) -> State {
        let completed = self.success + self.failure + self.undecided;
        match combinator {
            Combinator::Unknown if completed > 0 => State::Undecided,
            Combinator::Unknown => State::Pending,
            Combinator::FirstCompleted => match (self.success, self.failure, self.undecided) {
                (0, 0, 0) => State::Pending,
                (_, 0, 0) => State::Success,
                (0, _, 0) => State::Failure,
                // Which of them was the first is not known here. Waking too early is safe, too late hangs.
                _ => State::Undecided,
            },
            Combinator::AllCompleted if self.pending == 0 => State::Success,
            Combinator::AllCompleted => State::Pending,
            Combinator::FirstSucceededOrAllFailed => {
                self.first_or_all(self.success, State::Success, State::Failure)
            }
            Combinator::AllSucceededOrFirstFailed => {
                self.first_or_all(self.failure, State::Failure, State::Success)
            }
        }
    }

    fn first_or_all(self, first: usize, on_first: State, on_all: State) -> State {
        if first > 0 {
            on_first
        } else if self.undecided > 0 {
            State::Undecided
        } else if self.pending == 0 {
            on_all
        } else {
            State::Pending
        }
    }
}

impl Await {
    /// Reads a stored tree. Its depth was judged before it was stored.
    pub fn decode(bytes: Bytes) -> Result<Self, AwaitError> {
        Self::decode_within(bytes, LENGTH_MAX)
    }

    /// Reads field 4 of a suspension of version 7, nested no deeper than `depth_max`.
    pub fn decode_within(bytes: Bytes, depth_max: usize) -> Result<Self, AwaitError> {
        if bytes.len() > LENGTH_MAX {
            return Err(AwaitError::TooLong(bytes.len()));
        }
        let mut nodes: Vec<Node> = Vec::new();
        // (what to read, parent, depth). Reading in any order keeps parents before their children.
        let mut unread = vec![(bytes.clone(), 0, 1)];
        let mut has_leaf = false;
        while let Some((bytes, parent, depth)) = unread.pop() {
            if depth > depth_max {
                return Err(AwaitError::TooDeep(depth_max));
            }
            let future = proto::Future::decode(bytes)
                .map_err(|error| AwaitError::Malformed(error.to_string()))?;
            let index = nodes.len();
            unread.extend(
                future
                    .nested_futures
                    .into_iter()
                    .map(|nested| (nested, index, depth + 1)),
            );
            let leaves: Vec<_> = (future.waiting_completions.into_iter())
                .map(NotificationId::Completion)
                .chain(
                    future
                        .waiting_signals
                        .into_iter()
                        .map(NotificationId::Signal),
                )
                .chain((future.waiting_named_signals.into_iter()).map(NotificationId::NamedSignal))
                .collect();
            has_leaf |= !leaves.is_empty();
            nodes.push(Node {
                combinator: Combinator::from_wire(future.combinator_type),
                parent,
                leaves,
            });
        }
        if has_leaf {
            Ok(Self { bytes, nodes })
        } else {
            Err(AwaitError::Empty)
        }
    }

    /// The set that a suspension up to version 6 names; any member wakes.
    pub fn any_of(ids: impl IntoIterator<Item = NotificationId>) -> Result<Self, AwaitError> {
        let mut future = proto::Future::default();
        for id in ids {
            match id {
                NotificationId::Completion(id) => future.waiting_completions.push(id),
                NotificationId::Signal(index) => future.waiting_signals.push(index),
                NotificationId::NamedSignal(name) => future.waiting_named_signals.push(name),
            }
        }
        Self::decode(future.encode_to_vec().into())
    }

    /// The form in which it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The form in which it is stored.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// All that it names, in no particular order, with repetitions.
    pub fn leaves(&self) -> impl Iterator<Item = &NotificationId> {
        self.nodes.iter().flat_map(|node| &node.leaves)
    }

    /// Whether the handler has to be woken. `lookup` says of a notification whether it is in the journal, and if
    /// so whether it is a failure.
    pub fn is_satisfied(
        &self,
        mut lookup: impl FnMut(&NotificationId) -> Option<IsFailure>,
    ) -> bool {
        let mut tallies = vec![Tally::default(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            for leaf in &node.leaves {
                tallies[index].add(match lookup(leaf) {
                    None => State::Pending,
                    Some(IsFailure(false)) => State::Success,
                    Some(IsFailure(true)) => State::Failure,
                });
            }
            let state = tallies[index].state(node.combinator);
            if index == 0 {
                return state != State::Pending;
            }
            tallies[node.parent].add(state);
        }
        unreachable!("there is a root")
    }
}

/// Whether a notification holds a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsFailure(pub bool);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tree as text: `first(all(1 2) s1)`, with `any`, `first`, `all`, `success`, `failure` as combinators.
    fn tree(text: &str) -> proto::Future {
        let mut stack = vec![proto::Future::default()];
        for word in text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .split_whitespace()
        {
            match word {
                "(" => {}
                ")" => {
                    let done = stack.pop().unwrap();
                    let parent = stack.last_mut().unwrap();
                    parent.nested_futures.push(done.encode_to_vec().into());
                }
                "any" | "first" | "all" | "success" | "failure" => stack.push(proto::Future {
                    combinator_type: match word {
                        "any" => 0,
                        "first" => 1,
                        "all" => 2,
                        "success" => 3,
                        _ => 4,
                    },
                    ..Default::default()
                }),
                leaf => {
                    let node = stack.last_mut().unwrap();
                    match leaf.strip_prefix('s') {
                        Some(signal) => node.waiting_signals.push(signal.parse().unwrap()),
                        None => node.waiting_completions.push(leaf.parse().unwrap()),
                    }
                }
            }
        }
        let top = stack.pop().unwrap();
        proto::Future::decode(top.nested_futures[0].clone()).unwrap()
    }

    /// `done` lists completion ids, failed ones with a minus.
    fn wakes(text: &str, done: &[i64]) -> bool {
        let awaiting = Await::decode(tree(text).encode_to_vec().into()).unwrap();
        awaiting.is_satisfied(|id| match id {
            NotificationId::Completion(id) => {
                let id = i64::from(*id);
                if done.contains(&id) {
                    Some(IsFailure(false))
                } else {
                    done.contains(&-id).then_some(IsFailure(true))
                }
            }
            NotificationId::Signal(1) => done.contains(&1001).then_some(IsFailure(false)),
            _ => None,
        })
    }

    #[test]
    fn each_combinator_wakes_when_it_should() {
        for (text, done, expected) in [
            ("first(1 2)", &[][..], false),
            ("first(1 2)", &[2], true),
            ("first(1 2)", &[-2], true),
            ("any(1 2)", &[1], true),
            ("any(1 2)", &[], false),
            ("all(1 2)", &[1], false),
            ("all(1 2)", &[1, -2], true),
            ("success(1 2)", &[-1], false),
            ("success(1 2)", &[-1, -2], true),
            ("success(1 2)", &[2], true),
            ("failure(1 2)", &[1], false),
            ("failure(1 2)", &[1, 2], true),
            ("failure(1 2)", &[-1], true),
            // A child whose outcome only the endpoint knows.
            ("failure(any(1) 2)", &[1], true),
            ("success(any(1) 2)", &[1], true),
            ("all(any(1) 2)", &[1], false),
            ("failure(first(1 3) 2)", &[1, -3], true),
            ("failure(first(1 3) 2)", &[1], false),
        ] {
            assert_eq!(wakes(text, done), expected, "{text} {done:?}");
        }
    }

    #[test]
    fn the_nested_example_of_the_reference_wakes_as_there() {
        let bytes = [
            0x12, 0x01, 0x01, 0x22, 0x0d, 0x0a, 0x01, 0x01, 0x22, 0x06, 0x0a, 0x02, 0x02, 0x03,
            0x28, 0x01, 0x28, 0x04, 0x28, 0x01,
        ];
        let expected = tree("first(s1 failure(1 first(2 3)))").encode_to_vec();
        assert_eq!(bytes.as_slice(), expected);
        let text = "first(s1 failure(1 first(2 3)))";
        assert!(!wakes(text, &[2]));
        assert!(wakes(text, &[1, 2]));
        assert!(wakes(text, &[-3]));
        assert!(wakes(text, &[1001]));
    }

    #[test]
    fn a_set_wakes_with_any_member_and_is_stored_like_a_tree() {
        let awaiting = Await::any_of([
            NotificationId::Completion(2),
            NotificationId::Signal(1),
            NotificationId::NamedSignal("go".into()),
        ])
        .unwrap();
        assert!(!awaiting.is_satisfied(|_| None));
        let again = Await::decode(awaiting.bytes().clone()).unwrap();
        assert_eq!(again, awaiting);
        for leaf in again.leaves() {
            assert!(again.is_satisfied(|id| (id == leaf).then_some(IsFailure(true))));
        }
    }

    fn nested(depth: usize) -> Bytes {
        let mut future = proto::Future {
            waiting_completions: vec![1],
            combinator_type: 1,
            ..Default::default()
        };
        for _ in 1..depth {
            future = proto::Future {
                nested_futures: vec![future.encode_to_vec().into()],
                combinator_type: 1,
                ..Default::default()
            };
        }
        future.encode_to_vec().into()
    }

    #[test]
    fn a_tree_may_be_deep_but_not_too_deep() {
        let awaiting = Await::decode_within(nested(DEFAULT_DEPTH_MAX), DEFAULT_DEPTH_MAX).unwrap();
        assert!(awaiting.is_satisfied(|_| Some(IsFailure(false))));
        assert!(!awaiting.is_satisfied(|_| None));
        assert_eq!(
            Await::decode_within(nested(DEFAULT_DEPTH_MAX + 1), DEFAULT_DEPTH_MAX),
            Err(AwaitError::TooDeep(DEFAULT_DEPTH_MAX))
        );
    }

    #[test]
    fn waiting_for_nothing_is_refused() {
        assert_eq!(Await::decode(Bytes::new()), Err(AwaitError::Empty));
        assert_eq!(Await::any_of([]), Err(AwaitError::Empty));
        let nested = tree("first(all() all())").encode_to_vec();
        assert_eq!(Await::decode(nested.into()), Err(AwaitError::Empty));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(awaiting) = Await::decode(bytes.into()) {
                let _ = awaiting.is_satisfied(|_| None);
                prop_assert!(awaiting.is_satisfied(|_| Some(IsFailure(false))));
            }
        }
    }
}
