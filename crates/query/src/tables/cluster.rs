//! The cluster itself: `nodes`, `partitions`, `partition_state`, `log_segments`, `log_replicas`, `config`.
//!
//! What a node says of itself is asked of it when the query runs; of one that does not answer those columns are null.

use std::sync::Arc;

use abide_rpc::proto::cluster::{
    ChainSegment, ClusterStatus, LogReplica, NodeEntry, PartitionEntry, ReplicaStatus,
};
use abide_types::{PartitionId, partition_range};
use futures::future::BoxFuture;

use crate::column::{Cell, Column, Ty};
use crate::provider::{AllRows, LocalTable};
use crate::source::Sources;
use crate::tables::Tables;

struct Node {
    node: NodeEntry,
    metadata_version: u64,
}

struct Partition {
    entry: PartitionEntry,
    count: u16,
    metadata_version: u64,
}

struct Replica {
    node: u32,
    generation: u32,
    replica: ReplicaStatus,
}

struct Segment {
    log: u32,
    segment: ChainSegment,
}

struct LogHolder {
    log: u32,
    holder: LogReplica,
}

struct Setting {
    node: String,
    start: String,
    key: String,
    value: String,
}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let nodes = rows(|sources| async move {
        let status = sources.cluster.describe().await?;
        let metadata_version = status.metadata_version;
        let node = |node| Node {
            node,
            metadata_version,
        };
        Ok(status.nodes.into_iter().map(node).collect())
    });
    let nodes = LocalTable::new(node_columns(), nodes, sources.clone());
    tables.insert("nodes", Arc::new(nodes));

    let partitions = rows(|sources| async move {
        let status = sources.cluster.describe().await?;
        let count = u16::try_from(status.partitions_count).unwrap_or(u16::MAX);
        let partition = |entry| Partition {
            entry,
            count,
            metadata_version: status.metadata_version,
        };
        Ok(status.partitions.into_iter().map(partition).collect())
    });
    let partitions = LocalTable::new(partition_columns(), partitions, sources.clone());
    tables.insert("partitions", Arc::new(partitions));

    let replicas = rows(|sources| async move { Ok(replicas(sources.cluster.describe().await?)) });
    let replicas = LocalTable::new(replica_columns(), replicas, sources.clone());
    tables.insert("partition_state", Arc::new(replicas));

    let segments = rows(|sources| async move {
        let logs = sources.cluster.logs().await?;
        let segments = logs.into_iter().flat_map(|log| {
            let segment = move |segment| Segment {
                log: log.partition,
                segment,
            };
            log.segments.into_iter().map(segment)
        });
        Ok(segments.collect())
    });
    let segments = LocalTable::new(segment_columns(), segments, sources.clone());
    tables.insert("log_segments", Arc::new(segments));

    let holders = rows(|sources| async move {
        let logs = sources.cluster.logs().await?;
        let holders = logs.into_iter().flat_map(|log| {
            let holder = move |holder| LogHolder {
                log: log.partition,
                holder,
            };
            log.replicas.into_iter().map(holder)
        });
        Ok(holders.collect())
    });
    let holders = LocalTable::new(holder_columns(), holders, sources.clone());
    tables.insert("log_replicas", Arc::new(holders));

    let settings = rows(|sources| async move {
        let status = sources.cluster.describe().await?;
        let here = status.nodes.iter().find(|node| node.node == status.node);
        let generation = here.map_or(0, |node| node.generation);
        let setting = |(key, value)| Setting {
            node: plain(status.node),
            start: exact(status.node, generation),
            key,
            value,
        };
        Ok(sources.cluster.config().into_iter().map(setting).collect())
    });
    let settings = LocalTable::new(setting_columns(), settings, sources.clone());
    tables.insert("config", Arc::new(settings));
}

fn rows<R, F>(give: impl Fn(Sources) -> F + Send + Sync + 'static) -> AllRows<R>
where
    F: Future<Output = Result<Vec<R>, String>> + Send + 'static,
{
    Box::new(move |sources| Box::pin(give(sources)) as BoxFuture<'static, _>)
}

fn replicas(status: ClusterStatus) -> Vec<Replica> {
    let of_node = |node: NodeEntry| {
        let (id, generation) = (node.node, node.generation);
        let replicas = node
            .status
            .map(|status| status.replicas)
            .unwrap_or_default();
        replicas.into_iter().map(move |replica| Replica {
            node: id,
            generation,
            replica,
        })
    };
    status.nodes.into_iter().flat_map(of_node).collect()
}

fn plain(node: u32) -> String {
    format!("N{node}")
}

fn exact(node: u32, generation: u32) -> String {
    format!("N{node}:{generation}")
}

fn has_role(node: &Node, role: &str) -> Cell<'static> {
    node.node.roles.iter().any(|has| has == role).into()
}

fn not_empty(text: &String) -> Option<&String> {
    (!text.is_empty()).then_some(text)
}

fn node_columns() -> Vec<Column<Node>> {
    vec![
        Column::new("plain_node_id", Ty::Text, |row| plain(row.node.node).into()),
        Column::new("gen_node_id", Ty::Text, |row| {
            exact(row.node.node, row.node.generation).into()
        }),
        Column::new("state", Ty::Text, |row| (&row.node.liveness).into()),
        Column::new("name", Ty::Text, |row| (&row.node.name).into()),
        Column::new("address", Ty::Text, |row| (&row.node.address).into()),
        // Tools are served on the same port.
        Column::new("ctrl_address", Ty::Text, |row| (&row.node.address).into()),
        Column::new("location", Ty::Text, |row| {
            not_empty(&row.node.location).into()
        }),
        Column::new("has_admin_role", Ty::Bool, |row| has_role(row, "admin")),
        Column::new("has_worker_role", Ty::Bool, |row| has_role(row, "worker")),
        Column::new("has_metadata_server_role", Ty::Bool, |row| {
            has_role(row, "metadata-server")
        }),
        Column::new("has_log_server_role", Ty::Bool, |row| {
            has_role(row, "log-server")
        }),
        Column::new("has_ingress_role", Ty::Bool, |row| {
            has_role(row, "http-ingress")
        }),
        Column::new("storage_state", Ty::Text, |row| (&row.node.state).into()),
        Column::new("worker_state", Ty::Text, |row| (&row.node.state).into()),
        Column::new("metadata_server_state", Ty::Text, |row| {
            let status = row.node.status.as_ref();
            status
                .and_then(|status| status.metadata_server.as_ref())
                .map(|server| &server.state)
                .into()
        }),
        Column::new("nodes_configuration_version", Ty::U64, |row| {
            row.metadata_version.into()
        }),
        Column::new("binary_version", Ty::Text, |row| {
            row.node
                .status
                .as_ref()
                .map(|status| &status.version)
                .into()
        }),
        Column::new("unreachable", Ty::Text, |row| {
            not_empty(&row.node.unreachable).into()
        }),
    ]
}

fn range(row: &Partition) -> Option<std::ops::RangeInclusive<abide_types::PartitionKey>> {
    let partition = PartitionId(u16::try_from(row.entry.partition).ok()?);
    Some(partition_range(partition, row.count))
}

fn nodes(ids: &[u32]) -> Cell<'static> {
    ids.iter().map(|id| plain(*id)).collect::<Vec<_>>().into()
}

fn partition_columns() -> Vec<Column<Partition>> {
    vec![
        Column::new("partition_id", Ty::U32, |row| row.entry.partition.into()),
        Column::new("start_key", Ty::U64, |row| {
            range(row).map(|range| range.start().0).into()
        }),
        Column::new("end_key", Ty::U64, |row| {
            range(row).map(|range| range.end().0).into()
        }),
        Column::new("log_id", Ty::U32, |row| row.entry.partition.into()),
        Column::new("leader_gen_node_id", Ty::Text, |row| {
            let leader = (row.entry.leader, row.entry.leader_generation);
            (leader.0 > 0).then(|| exact(leader.0, leader.1)).into()
        }),
        Column::new("leader_plain_node_id", Ty::Text, |row| {
            (row.entry.leader > 0)
                .then(|| plain(row.entry.leader))
                .into()
        }),
        Column::new("leader_epoch", Ty::U64, |row| row.entry.epoch.into()),
        Column::new("current_replica_set", Ty::Texts, |row| {
            nodes(&row.entry.replicas)
        }),
        Column::new("partition_table_version", Ty::U64, |row| {
            row.metadata_version.into()
        }),
    ]
}

fn replica_columns() -> Vec<Column<Replica>> {
    vec![
        Column::new("partition_id", Ty::U32, |row| row.replica.partition.into()),
        Column::new("plain_node_id", Ty::Text, |row| plain(row.node).into()),
        Column::new("gen_node_id", Ty::Text, |row| {
            exact(row.node, row.generation).into()
        }),
        Column::new("effective_mode", Ty::Text, |row| (&row.replica.role).into()),
        Column::new("replay_status", Ty::Text, |row| (&row.replica.state).into()),
        Column::new("leader_epoch", Ty::U64, |row| row.replica.epoch.into()),
        Column::new("applied_log_lsn", Ty::U64, |row| row.replica.applied.into()),
        Column::new("durable_log_lsn", Ty::U64, |row| row.replica.durable.into()),
        // Only leaders know it.
        Column::new("archived_log_lsn", Ty::U64, |row| {
            (row.replica.archived > 0)
                .then_some(row.replica.archived)
                .into()
        }),
        Column::new("target_tail_lsn", Ty::U64, |row| row.replica.tail.into()),
        Column::new("broken_reason", Ty::Text, |row| {
            not_empty(&row.replica.problem).into()
        }),
    ]
}

fn segment_columns() -> Vec<Column<Segment>> {
    vec![
        Column::new("log_id", Ty::U32, |row| row.log.into()),
        Column::new("epoch", Ty::U64, |row| row.segment.epoch.into()),
        Column::new("base_lsn", Ty::U64, |row| row.segment.base.into()),
        // Of the open one it is not known.
        Column::new("end_lsn", Ty::U64, |row| row.segment.end.into()),
        Column::new("replica_set", Ty::Texts, |row| nodes(&row.segment.replicas)),
        Column::new("write_quorum", Ty::U32, |row| {
            row.segment.write_quorum.into()
        }),
    ]
}

fn holder_columns() -> Vec<Column<LogHolder>> {
    vec![
        Column::new("log_id", Ty::U32, |row| row.log.into()),
        Column::new("plain_node_id", Ty::Text, |row| {
            plain(row.holder.node).into()
        }),
        Column::new("promised_epoch", Ty::U64, |row| {
            row.holder
                .status
                .as_ref()
                .map(|status| status.promised)
                .into()
        }),
        Column::new("trimmed_lsn", Ty::U64, |row| {
            row.holder
                .status
                .as_ref()
                .map(|status| status.trimmed)
                .into()
        }),
        Column::new("tail_lsn", Ty::U64, |row| {
            let status = row.holder.status.as_ref();
            status
                .and_then(|status| status.segments.last())
                .map(|segment| segment.tail)
                .into()
        }),
        Column::new("committed_lsn", Ty::U64, |row| {
            let status = row.holder.status.as_ref();
            status
                .and_then(|status| status.segments.last())
                .map(|segment| segment.committed)
                .into()
        }),
        Column::new("unreachable", Ty::Text, |row| {
            not_empty(&row.holder.unreachable).into()
        }),
    ]
}

fn setting_columns() -> Vec<Column<Setting>> {
    vec![
        Column::new("plain_node_id", Ty::Text, |row| (&row.node).into()),
        Column::new("gen_node_id", Ty::Text, |row| (&row.start).into()),
        Column::new("key", Ty::Text, |row| (&row.key).into()),
        Column::new("value", Ty::Text, |row| (&row.value).into()),
    ]
}
