//! Puts the roles of one node together; alone knows signals and listeners.
//!
//! Start at [`Node::run`], then `start` for the order in which parts come up and `node` for the order in which they
//! go. What the node says of itself is in `facts`, `health` and `describe`.

mod cluster_handler;
mod cluster_service;
mod data_dir;
mod describe;
mod error;
mod facts;
mod flow_control;
mod hand_over;
mod health;
mod listeners;
mod measures;
mod membership;
mod node;
mod node_port;
mod operations;
mod operations_service;
mod options;
mod peers;
mod ports;
mod replicas;
mod schema_watch;
mod signals;
mod sql;
mod start;
mod stores;

pub use data_dir::DataDirError;
pub use error::{ExitReason, NodeError};
pub use listeners::SocketError;
pub use node::Node;
pub use ports::{BindError, Port};
