//! What openraft is told about our types.

use std::fmt;

use abide_rpc::proto::metadata as pb;
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The one type that parameterises openraft.
#[allow(
    deprecated,
    reason = "the runtime's other path is a crate that openraft brings along and we do not name"
)]
mod declaration {
    openraft::declare_raft_types!(
        /// Our types in openraft's terms. Nodes carry no address: addresses change at restarts and are
        /// looked up by id (see `addresses`).
        pub(crate) RaftTypes:
            D = super::Command,
            R = super::Outcome,
            NodeId = u64,
            Node = openraft::EmptyNode,
    );
}
pub(crate) use declaration::RaftTypes;

pub(crate) type LogId = openraft::alias::LogIdOf<RaftTypes>;
pub(crate) type Vote = openraft::alias::VoteOf<RaftTypes>;
pub(crate) type Entry = openraft::alias::EntryOf<RaftTypes>;
pub(crate) type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<RaftTypes>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<RaftTypes>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<RaftTypes, bytes::Bytes>;
pub(crate) type Raft = openraft::Raft<RaftTypes, super::storage::StateMachine>;

/// What a log entry asks of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command(pub(crate) pb::Transaction);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "transaction of {} puts and {} deletes",
            self.0.puts.len(),
            self.0.deletes.len()
        )
    }
}

// openraft demands serde of it, and uses it only where it writes entries itself, which it never does here.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0.encode_to_vec())
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        pb::Transaction::decode(bytes.as_slice())
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// What applying an entry came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The entry was not a transaction.
    Nothing,
    /// The written keys have this version.
    Committed(u64),
    /// A precondition did not hold.
    Conflict {
        key: String,
        expected: u64,
        actual: u64,
    },
}
