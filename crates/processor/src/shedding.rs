//! Letting go of nodes that left a replica set: the log's old segments are on them until they are trimmed.
//!
//! Where such a segment is left, replicas flush what they have applied of it, however little that is, and the leader
//! trims it then. So a node that is drained ends up with nothing that anybody needs, also where there is no traffic.

use abide_log::LogChain;
use abide_metadata::keys;
use abide_types::{Lsn, NodeId, PartitionId};

use crate::partition::Context;

/// Where the last closed segment ends that is on a node outside of the replica set; what lies below should be trimmed
/// as soon as every replica has it.
pub(crate) fn wanted(context: &Context, partition: PartitionId) -> Option<Lsn> {
    let view = context.metadata.view();
    let entry = view.partition_table.partitions.get(&partition)?;
    let stored = view.raw(&keys::log(partition))?;
    // A chain that does not parse was reported where it is followed.
    let chain = LogChain::from_json(&stored.value).ok()?;
    abandoned(&chain, &entry.replicas)
}

fn abandoned(chain: &LogChain, replicas: &[NodeId]) -> Option<Lsn> {
    let left = |node: NodeId| !replicas.contains(&node);
    (chain.segments().iter().rev())
        .filter_map(|segment| Some((segment.end()?, segment)))
        .find(|(_, segment)| segment.nodes().any(left))
        .map(|(end, _)| end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use abide_log::{Member, Segment};
    use abide_types::Epoch;

    use super::*;

    fn segment(epoch: u64, base: u64, nodes: &[u32]) -> Segment {
        let member = |node: &u32| Member {
            node: NodeId(*node),
            storage: None,
        };
        let members = nodes.iter().map(member).collect();
        Segment::open(Epoch(epoch), Lsn(base), members, 1).unwrap()
    }

    #[test]
    fn only_closed_segments_on_nodes_that_left_are_shed() {
        let nodes = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        let chain = LogChain::default()
            .extended(segment(1, 1, &[1, 2]))
            .extended(segment(2, 10, &[2, 3]))
            .extended(segment(3, 20, &[2, 3, 4]));
        assert_eq!(abandoned(&chain, &nodes(&[1, 2, 3, 4])), None);
        assert_eq!(abandoned(&chain, &nodes(&[2, 3, 4])), Some(Lsn(10)));
        assert_eq!(abandoned(&chain, &nodes(&[2, 4])), Some(Lsn(20)));
        assert_eq!(abandoned(&chain.trimmed(Lsn(10)), &nodes(&[2, 3, 4])), None);
    }
}
