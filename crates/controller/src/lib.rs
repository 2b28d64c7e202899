//! Liveness in, placement and leadership out.
//!
//! [`plan()`] decides what has to change in the partition table; it is a pure function of a [`Cluster`]. The
//! [`Controller`] feeds it on the node that leads the metadata plane and commits what it says. Not here: the taking
//! over itself, which the elected node does by the log's rules when it sees its name in the table.

mod cluster;
mod driver;
mod features;
mod leadership;
mod liveness;
mod picture;
mod plan;
mod replicas;
mod step;

pub use cluster::{Budget, Cluster, Health, Member, Placement, Rule, Spread};
pub use driver::{Controller, ControllerOptions, ControllerParts};
pub use liveness::{Contact, Detector, LivenessOptions};
pub use picture::ReplicaReport;
pub use plan::plan;
