//! Puts the roles of one node together; alone knows signals and listeners.
//!
//! Start at [`Node::run`], then `start` for the order in which parts come up and `node` for the order in which they
//! go. What the node says of itself is in `facts`, `health` and `describe`.

mod backup;
pub mod catalogue;
mod cluster_handler;
mod cluster_service;
mod compactions;
mod data_dir;
mod describe;
mod error;
mod facts;
mod flow_control;
mod hand_over;
mod health;
mod listeners;
mod load;
mod log_filter;
mod log_pages;
mod measures;
mod membership;
mod node;
mod node_port;
mod observe_service;
mod observer;
mod operations;
mod operations_service;
mod options;
mod peers;
mod ports;
mod problems;
mod process;
mod ready;
mod recovery_logs;
mod recovery_metadata;
mod recovery_service;
mod replicas;
mod schema_watch;
mod signals;
mod snapshots_service;
mod sql;
mod start;
mod stats;
mod stores;

pub use data_dir::DataDirError;
pub use error::{ExitReason, NodeError};
pub use listeners::SocketError;
pub use log_filter::{ApplyFilter, LogFilter};
pub use node::Node;
pub use ports::{BindError, Port};
