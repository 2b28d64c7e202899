//! Commands that operators of other clusters look for, and how the same is done here.

use crate::cli::{Command, Nodes, Snapshots};
use crate::failure::Failure;

/// The answer to a command that is none here. No node has to be asked for it.
pub(crate) fn answer(command: &Command) -> Option<Failure> {
    match command {
        Command::Snapshots(Snapshots::Restore(_)) => Some(snapshot_restore()),
        Command::Nodes(Nodes::SetWorkerState(_) | Nodes::SetStorageState(_)) => Some(node_state()),
        _ => None,
    }
}

pub(crate) fn snapshot_restore() -> Failure {
    Failure::Elsewhere {
        why: "no snapshot is restored by hand: a replica that is new, or whose store is lost, damaged or ends before \
              the log begins, takes the latest one by itself and then the log after it",
        instead: "to have a replica begin anew, stop its node, remove `partitions` from its data directory and start \
                  it; `abidectl backup restore` makes a new cluster as it was at one moment",
    }
}

pub(crate) fn node_state() -> Failure {
    Failure::Elsewhere {
        why: "nodes have one state for all their roles",
        instead: "`abidectl nodes drain` moves what a node has to others, `nodes undrain` gives it work again, \
                  `nodes remove` takes it out for good",
    }
}
