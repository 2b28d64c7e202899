//! Every table: its columns in the order in which `SELECT *` shows them, and where its rows come from.

mod cluster;
mod invocations;
mod journal;
mod objects;
mod queues;
mod registry;
mod vqueues;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;

use crate::source::Sources;

/// All tables by name.
pub(crate) type Tables = BTreeMap<&'static str, Arc<dyn TableProvider>>;

pub(crate) fn all(sources: &Sources) -> Tables {
    let mut tables = Tables::new();
    invocations::add(&mut tables, sources);
    journal::add(&mut tables, sources);
    objects::add(&mut tables, sources);
    registry::add(&mut tables, sources);
    queues::add(&mut tables, sources);
    vqueues::add(&mut tables, sources);
    cluster::add(&mut tables, sources);
    tables
}

/// The stored row is damaged; `what` says which.
fn damaged(what: &str) -> String {
    format!("a stored {what} cannot be read")
}
