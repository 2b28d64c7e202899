//! Messages between nodes and the connections that carry them.
//!
//! Two ways lead from node to node, both to the one *node port*: the [`Fabric`] for all that is on the way
//! of a request (records, acks, calls between partitions), and gRPC ([`proto`]) for what happens seldom.
//! [`sniff`] tells them apart. Start at [`Fabric::send`] and [`Fabric::call`].
//!
//! Not here: what the payloads mean (see the crates that register a [`Handler`]).

mod connection;
mod fabric;
mod frame;
mod inbound;
mod link;
mod outbox;
pub mod proto;
mod sniff;
mod status;

pub use fabric::{Fabric, FabricOptions, Handler, Identity, Peer, Reply, Service};
pub use frame::PREFACE;
pub use outbox::{CallError, SendError};
pub use sniff::{Rewound, Sniffed, sniff};
pub use status::PeerState;
