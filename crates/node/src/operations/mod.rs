//! What operators change: the checks, and the commits to the metadata plane.
//!
//! [`crate::operations_service`] takes the requests in. Checks are functions of a [`Picture`], so that they can be
//! tested without a cluster; [`commit`] makes changes by compare-and-set and tries again when somebody came between.

mod commit;
mod config;
mod documents;
mod error;
mod logs;
mod nodes;
mod partitions;
mod picture;
mod waits;

pub(crate) use commit::change as change_document;
pub(crate) use config::{change as change_config, show as show_config};
pub(crate) use documents::put;
pub(crate) use error::OperationError;
pub(crate) use logs::trim;
pub(crate) use nodes::{change as change_node, holdings};
pub(crate) use partitions::{change_rules, reassign, rules};
pub(crate) use picture::Picture;
