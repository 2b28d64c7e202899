//! Clusters of metadata servers in one process, over real connections.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod cluster;
mod failover;
mod figures;
mod membership;
mod provisioning;
mod recovery;
mod transactions;
