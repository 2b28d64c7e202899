//! This node's own entry among the members: it says what the program can do, and ends the node when it is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use abide_metadata::{NodeState, Nodes, Supports, View};
use abide_processor::STATE_MACHINE_VERSION;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::NodeError;
use crate::facts::{Facts, Member};
use crate::node::Fatal;
use crate::operations;

/// Pause before the entry is written again after that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Features of the cluster that this program knows, by name.
const FEATURES: [&str; 0] = [];

/// Follows the entry until the node stops.
pub(crate) async fn follow(facts: Arc<Facts>, fatal: Fatal, stop: CancellationToken) {
    let Some(member) = facts.member.get() else {
        return;
    };
    let mut views = member.metadata.watch();
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        if let Some(end) = misfit(&view, member) {
            // A second failure finds the first one's report waiting.
            let _ = fatal.try_send(end);
            return;
        }
        let failed = is_silent(&view, member) && !announce(member).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(RETRY_AFTER), if failed => {}
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

/// Why this process cannot be a member.
fn misfit(view: &View, member: &Member) -> Option<NodeError> {
    let node = member.joined.node;
    let entry = view.nodes.nodes.get(&node)?;
    if entry.state == NodeState::Removed {
        return Some(NodeError::Removed { node });
    }
    let cluster = view.cluster.as_ref()?;
    let wanted = cluster.state_machine_in_force();
    if STATE_MACHINE_VERSION < wanted {
        return Some(NodeError::TooOld {
            what: format!(
                "version {wanted} of the state machine, and it knows {STATE_MACHINE_VERSION}"
            ),
        });
    }
    let unknown = cluster
        .features
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()))?;
    Some(NodeError::TooOld {
        what: format!("the feature '{unknown}', and it does not know it"),
    })
}

/// Whether the entry does not say what this program can do: nodes of earlier versions leave that out when they
/// register a start, and whenever they write the document for another reason.
fn is_silent(view: &View, member: &Member) -> bool {
    let entry = view.nodes.nodes.get(&member.joined.node);
    entry.is_some_and(|entry| {
        entry.generation == member.joined.generation && entry.supports != supports()
    })
}

fn supports() -> Supports {
    Supports {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        state_machine: STATE_MACHINE_VERSION,
        features: FEATURES
            .iter()
            .map(|feature| (*feature).to_owned())
            .collect::<BTreeSet<_>>(),
    }
}

async fn announce(member: &Member) -> bool {
    let incarnation = member.incarnation();
    let written = operations::change_document(&member.metadata, |nodes: &mut Nodes| {
        let Some(entry) = nodes.nodes.get_mut(&incarnation.node) else {
            return Ok(false);
        };
        let ours = entry.generation == incarnation.generation;
        let changes = ours && entry.supports != supports();
        if changes {
            entry.supports = supports();
        }
        Ok(changes)
    })
    .await;
    written
        .inspect_err(
            |error| tracing::debug!(%error, "not said what this program can do, trying again"),
        )
        .is_ok()
}
