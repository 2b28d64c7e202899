//! Leaving politely: what this node leads is led by others before it stops.

use std::sync::Arc;
use std::time::Duration;

use abide_log::LogChain;
use abide_metadata::{View, keys};
use abide_types::{Epoch, NodeIncarnation, PartitionId};
use tokio::time::{Instant, timeout_at};

use crate::cluster_handler;
use crate::facts::Member;

/// How often the wish to leave is repeated: the node that governs may have changed.
const REPEAT: Duration = Duration::from_millis(100);

/// Returns when nobody waits for this node any more, or at the deadline.
pub(crate) async fn hand_over(member: &Member, deadline: Instant) {
    let own = member.incarnation();
    let led = led_by(&member.metadata.view(), own).len();
    let started = Instant::now();
    let done = timeout_at(deadline, moved(member, own)).await;
    match done {
        Ok(true) => tracing::info!(led, took = ?started.elapsed(), "leadership handed over"),
        Ok(false) => tracing::info!(led, "nobody stays to take over"),
        Err(_) => {
            let left = led_by(&member.metadata.view(), own).len();
            tracing::warn!(led, left, "leadership was not handed over in time");
        }
    }
}

/// Whether others took over; `false` when there are none.
async fn moved(member: &Member, own: NodeIncarnation) -> bool {
    let mut views = member.metadata.watch();
    let led = led_by(&views.borrow_and_update(), own);
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let still_led = led_by(&view, own);
        let taken = |partition: &PartitionId| is_taken(&view, *partition);
        if still_led.is_empty() && led.iter().all(taken) {
            return true;
        }
        if !member.controller.others_stay(&view) {
            return false;
        }
        let nodes = view.nodes.members().map(|(node, _)| node);
        cluster_handler::tell(&member.fabric, nodes, cluster_handler::leaving());
        // A closed watch says that the metadata client is gone; the deadline ends the wait then.
        let _ = tokio::time::timeout(REPEAT, views.changed()).await;
    }
}

fn led_by(view: &View, own: NodeIncarnation) -> Vec<PartitionId> {
    let table = view.partition_table.partitions.iter();
    let led = table.filter(|(_, entry)| entry.leader == Some(own));
    led.map(|(partition, _)| *partition).collect()
}

/// Whether the next leader has a segment of its own: the log no longer hangs on this node's.
fn is_taken(view: &View, partition: PartitionId) -> bool {
    let granted = view
        .partition_table
        .partitions
        .get(&partition)
        .map_or(Epoch(0), |entry| entry.epoch);
    let chain = view
        .raw(&keys::log(partition))
        .and_then(|stored| LogChain::from_json(&stored.value).ok());
    chain.is_some_and(|chain| chain.epoch() >= granted)
}
