//! SQL over what the cluster knows: tables over the partitions, the registry and the cluster itself.
//!
//! [`QueryEngine`] takes a text and gives JSON or Arrow. Tables over partitions ([`tables`]) read pages of rows from
//! their leaders through [`Partitions`], and only from those that the filters leave ([`lookup`]); the rest is kept in
//! memory and read from it. A query runs on threads of its own, in bounded memory and time.
//!
//! **Invariant:** nothing here writes, and nobody outside names a type of the SQL engine below.

mod column;
mod engine;
mod error;
mod functions;
mod json;
mod lookup;
mod output;
mod provider;
mod source;
mod tables;

pub use engine::{QueryEngine, QueryOptions};
pub use error::QueryError;
pub use output::{Answer, Format};
pub use source::{Cluster, FlowControl, Nothing, Partitions, Routed, Rule, Sources, UserLimit};
