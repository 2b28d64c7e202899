//! The words that every crate shares: ids, keys, positions, epochs and times. Values that do nothing.
//!
//! Start at [`InvocationId`] for what clients see and at [`Lsn`] for what the log counts. Nothing here
//! fails but the parsers, waits or logs.

mod codec;
mod flow;
mod ids;
mod partitioning;
mod position;
mod replication;
mod role;
mod target;
mod time;
mod trace;

pub use codec::IdError;
pub use flow::{Flow, LimitKeyError, NameError, check_name, parse_limit_key};
pub use ids::{
    AwakeableId, DeploymentId, InvocationId, LegacyAwakeableId, QueueId, SubscriptionId,
};
pub use partitioning::{PartitionId, PartitionKey, partition_of, partition_range};
pub use position::{Epoch, Generation, Lsn, NodeId, NodeIncarnation};
pub use replication::{ReplicationParseError, ReplicationWish};
pub use role::{Role, RoleError};
pub use target::{HandlerKind, InvocationTarget, ServiceKind};
pub use time::Timestamp;
pub use trace::TraceContext;
