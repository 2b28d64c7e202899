//! Keeps the fabric's peers as the metadata plane has the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_metadata::{Metadata, Nodes};
use abide_rpc::{Fabric, Peer};
use abide_types::NodeId;
use tokio_util::sync::CancellationToken;

/// Follows the nodes document until it is stopped.
pub(crate) async fn follow(metadata: Metadata, fabric: Arc<Fabric>, stop: CancellationToken) {
    let mut views = metadata.watch();
    let mut seen = None;
    loop {
        let nodes = Arc::clone(&views.borrow_and_update().nodes);
        if seen != Some(nodes.version) {
            seen = Some(nodes.version);
            fabric.set_peers(peers(&nodes));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

fn peers(nodes: &Nodes) -> BTreeMap<NodeId, Peer> {
    let peer = |entry: &abide_metadata::NodeEntry| Peer {
        address: entry.address.clone(),
        generation: entry.generation,
    };
    nodes
        .members()
        .map(|(node, entry)| (node, peer(entry)))
        .collect()
}
