//! Runs partitions: leader and follower loops, timers, outbox, and the routing of requests to leaders.
//!
//! [`Processors`] starts a task for every partition that the partition table places on this node. It follows the log,
//! and leads when an epoch is granted to this node: takes the log over, applies what the leader before left, and then
//! runs the loop of `leader`. [`Router`] brings requests to leaders, here or elsewhere. Start at `leader` for what
//! happens to a request.
//!
//! **Invariant:** one task owns a partition's store; nothing is acted upon or answered before its record is committed
//! and applied.

pub mod api;
mod archive;
mod attempts;
mod chains;
mod cleaner;
pub mod describe;
mod directory;
pub mod flow;
mod leader;
mod leader_actions;
mod leader_archive;
mod leader_moves;
mod leader_requests;
mod leader_trim;
mod metrics;
mod outbox;
mod partition;
mod processors;
mod queues;
mod rebuild;
mod router;
pub mod scan;
mod shedding;
mod timers;
mod traces;
mod transfer;
mod trimming;
mod upkeep;
mod waiters;
mod wire;

/// The version of the state machine that this program computes.
pub use abide_state_machine::VERSION as STATE_MACHINE_VERSION;
pub use archive::{Archive, ArchiveOptions, Origin};
pub use chains::Chains;
pub use leader_archive::SnapshotHealth;
pub use partition::{
    DiskFull, Fatal, PartitionLoad, PartitionRole, PartitionStatus, ProcessorOptions,
};
pub use processors::{Dependencies, Processors};
pub use router::Router;
pub use trimming::DurabilityMode;
