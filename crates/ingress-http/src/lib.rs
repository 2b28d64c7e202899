//! The HTTP front door: any node serves any request, whichever node leads its partition.
//!
//! A request becomes a `plan` by pure functions of its head, its body and the schema; the plan is carried out
//! by the router of the partitions; what comes back becomes an `answer`, again by pure functions. Start at
//! [`Ingress::serve`] and, for one request, at `handle::Door::answer`.
//!
//! **Invariant:** nothing is kept for a request outside its future: a client that goes away frees everything.

mod answer;
mod body;
mod cors;
mod error;
#[cfg(test)]
mod fixture;
mod forward;
mod handle;
mod listen;
mod metrics;
mod options;
mod partitions;
mod path;
mod patience;
mod plan;
mod query;
mod serve;
mod trace;
mod unread;

pub use listen::Listen;
pub use options::IngressOptions;
pub use serve::Ingress;
