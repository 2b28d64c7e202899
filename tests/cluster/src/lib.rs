//! Starts real clusters of real processes for tests.
//!
//! A [`Cluster`] is a set of `abide-server` processes on free ports, with their data in a folder
//! that lives as long as the cluster. Tests break it (kill, pause, restart) and talk to it as users
//! do, over HTTP with [`Api`]. [`Services`] are endpoints in other processes, made with the official
//! SDKs; [`scripted`] is an endpoint that says exactly the bytes a test wants said.
//!
//! The server is taken from where cargo put it: build the workspace before these tests run, as
//! `cargo test --workspace` does not build binaries of other packages. `ABIDE_TEST_SERVER` and
//! `ABIDE_TEST_CTL` name other builds. What a node printed is shown when its test fails.

mod api;
mod binaries;
mod cluster;
pub mod disk;
pub mod drill;
mod network;
pub mod official_cli;
mod ports;
mod process;
pub mod recovery;
pub mod requests;
pub mod rolling;
pub mod scripted;
mod services;
pub mod under_load;

pub use api::{Answer, Api};
pub use binaries::beside_the_test;
pub use cluster::{Cluster, Leader, Options, ToolOutput};
pub use network::Network;
pub use ports::free_port;
pub use process::Process;
pub use services::{Language, Services};
