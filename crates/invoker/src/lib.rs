//! Drives one attempt of an invocation against its deployment.
//!
//! [`Invoker::start`] takes an [`api::Attempt`] and runs it in one task: it takes a stream of a pooled connection
//! (`pool`), sends Start and the journal, and turns what the endpoint sends into [`api::Effects`]. What a frame means
//! and whether it is allowed is decided in `session`, which does no I/O; `attempt` does the I/O and keeps the time.
//!
//! **Invariant:** nothing that an endpoint sends reaches a leader undecoded or unchecked, and the memory that
//! it can make this node use is bounded.

pub mod api;

mod attempt;
mod deployment;
mod discovery;
mod exchange;
mod failure;
mod head;
mod http1;
mod identity;
mod invoker;
mod metrics;
mod options;
mod outgoing;
mod pool;
mod prompt;
mod proxy;
mod serdes;
mod session;
mod tls;
mod trace;

pub use deployment::AddressError;
pub use discovery::{DiscoverError, DiscoverRequest, DiscoveredEndpoint};
pub use identity::{Identity, IdentityError};
pub use invoker::{Invoker, InvokerLoad};
pub use options::InvokerOptions;
pub use proxy::{Proxy, ProxyError};
pub use serdes::{SerdesError, SerdesOperation, SerdesRequest};
