//! The admin HTTP API: register deployments, look at services, operate on invocations.
//!
//! Handlers turn requests into questions to the cluster (`cluster`), changes of the schema (`registry`) and
//! bodies (`bodies`); one function maps errors to statuses (`error`). The API's own description is in `openapi`, that
//! of a service is made in `service_openapi`. Start at [`Admin::router`].

mod app;
mod bodies;
mod cluster;
mod deployments;
mod error;
mod invocations;
mod kafka_clusters;
mod limits;
mod observe;
mod openapi;
mod query;
mod registry;
mod service_openapi;
mod services;
mod state;
mod subscriptions;
mod system;

pub use app::{Admin, AdminOptions, MetricsText};
pub use observe::{FilterChange, FilterState, Observer};
pub use query::{Sql, SqlError, SqlFormat, SqlRows};
