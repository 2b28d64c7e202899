//! `abidectl logs list` and `abidectl logs describe`.

use std::fmt::Write as _;

use abide_rpc::proto::cluster::{ChainSegment, LogEntry, LogReplica, SegmentStatus};
use serde_json::{Value, json};

use crate::client::Node;
use crate::failure::Failure;
use crate::output::{json_lines, node, nodes, or_dash, table};

pub(crate) fn list(logs: &[LogEntry], json: bool) -> String {
    if json {
        return json_lines(logs.iter().map(object));
    }
    let header = [
        "LOG",
        "SEGMENTS",
        "EPOCH",
        "BASE",
        "TAIL",
        "COMMITTED",
        "TRIMMED",
        "QUORUM",
        "REPLICAS",
    ];
    table(&header, logs.iter().map(row))
}

pub(crate) async fn describe(
    node: &Node,
    partitions: &[u16],
    json: bool,
) -> Result<String, Failure> {
    let logs = node.logs(partitions).await?;
    let known = |partition: &u16| {
        logs.iter()
            .any(|log| log.partition == u32::from(*partition))
    };
    if let Some(missing) = partitions.iter().find(|partition| !known(partition)) {
        let count = node.describe().await?.partitions_count;
        return Err(Failure::NoPartition {
            partition: *missing,
            count,
        });
    }
    if json {
        return Ok(json_lines(logs.iter().map(object)));
    }
    let texts: Vec<String> = logs.iter().map(description).collect();
    Ok(texts.join("\n"))
}

/// Where each log ends, as far as its servers say.
pub(crate) async fn find_tail(node: &Node, wanted: &[u32], json: bool) -> Result<String, Failure> {
    let partitions: Vec<u16> = wanted
        .iter()
        .filter_map(|partition| u16::try_from(*partition).ok())
        .collect();
    let logs = node.logs(&partitions).await?;
    let missing = partitions.iter().find(|partition| {
        !logs
            .iter()
            .any(|log| log.partition == u32::from(**partition))
    });
    if let Some(missing) = missing {
        let count = node.describe().await?.partitions_count;
        return Err(Failure::NoPartition {
            partition: *missing,
            count,
        });
    }
    Ok(tails(&logs, json))
}

fn tails(logs: &[LogEntry], json: bool) -> String {
    let rows = logs.iter().map(|log| {
        let open = log.segments.last();
        (log, open.map(|segment| segment.epoch))
    });
    if json {
        return json_lines(rows.map(|(log, epoch)| {
            json!({
                "log": log.partition,
                "segment": epoch,
                "state": epoch.map(|_| "open"),
                "tail": tail(log),
                "committed": committed(log),
            })
        }));
    }
    let header = ["LOG", "SEGMENT", "STATE", "TAIL", "COMMITTED"];
    table(
        &header,
        rows.map(|(log, epoch)| {
            vec![
                log.partition.to_string(),
                or_dash(epoch),
                or_dash(epoch.map(|_| "open")),
                or_dash(tail(log)),
                or_dash(committed(log)),
            ]
        }),
    )
}

fn row(log: &LogEntry) -> Vec<String> {
    let open = log.segments.last();
    vec![
        log.partition.to_string(),
        log.segments.len().to_string(),
        or_dash(open.map(|segment| segment.epoch)),
        or_dash(open.map(|segment| segment.base)),
        or_dash(tail(log)),
        or_dash(committed(log)),
        or_dash(trimmed(log)),
        or_dash(open.map(|segment| segment.write_quorum)),
        open.map_or_else(|| "-".to_owned(), |segment| nodes(&segment.replicas)),
    ]
}

fn description(log: &LogEntry) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "log {}, chain version {}", log.partition, log.version);
    let header = ["EPOCH", "BASE", "END", "QUORUM", "REPLICAS"];
    text.push_str(&table(&header, log.segments.iter().map(segment_row)));
    text.push('\n');
    let header = [
        "NODE",
        "PROMISED",
        "TRIMMED",
        "EPOCH",
        "BASE",
        "TAIL",
        "COMMITTED",
    ];
    text.push_str(&table(&header, log.replicas.iter().flat_map(replica_rows)));
    text
}

fn segment_row(segment: &ChainSegment) -> Vec<String> {
    vec![
        segment.epoch.to_string(),
        segment.base.to_string(),
        segment
            .end
            .map_or_else(|| "open".to_owned(), |end| end.to_string()),
        segment.write_quorum.to_string(),
        nodes(&segment.replicas),
    ]
}

fn replica_rows(replica: &LogReplica) -> Vec<Vec<String>> {
    let Some(status) = &replica.status else {
        let why = if replica.unreachable.is_empty() {
            "empty"
        } else {
            "unreachable"
        };
        return vec![vec![node(replica.node), why.to_owned()]];
    };
    let row = |segment: Option<&SegmentStatus>| {
        vec![
            node(replica.node),
            status.promised.to_string(),
            status.trimmed.to_string(),
            or_dash(segment.map(|segment| segment.epoch)),
            or_dash(segment.map(|segment| segment.base)),
            or_dash(segment.map(|segment| segment.tail)),
            or_dash(segment.map(|segment| segment.committed)),
        ]
    };
    if status.segments.is_empty() {
        return vec![row(None)];
    }
    status
        .segments
        .iter()
        .map(|segment| row(Some(segment)))
        .collect()
}

fn object(log: &LogEntry) -> Value {
    let names = |ids: &[u32]| ids.iter().map(|id| node(*id)).collect::<Vec<String>>();
    let segments: Vec<Value> = log
        .segments
        .iter()
        .map(|segment| {
            json!({
                "epoch": segment.epoch,
                "base": segment.base,
                "end": segment.end,
                "replicas": names(&segment.replicas),
                "write_quorum": segment.write_quorum,
            })
        })
        .collect();
    let replicas: Vec<Value> = log.replicas.iter().map(replica_object).collect();
    json!({
        "log": log.partition,
        "version": log.version,
        "tail": tail(log),
        "committed": committed(log),
        "trimmed": trimmed(log),
        "segments": segments,
        "replicas": replicas,
    })
}

fn replica_object(replica: &LogReplica) -> Value {
    let status = replica.status.as_ref();
    let segments: Option<Vec<Value>> = status.map(|status| {
        let segments = status.segments.iter();
        segments
            .map(|segment| {
                json!({
                    "epoch": segment.epoch,
                    "base": segment.base,
                    "tail": segment.tail,
                    "committed": segment.committed,
                })
            })
            .collect()
    });
    json!({
        "node": node(replica.node),
        "promised": status.map(|status| status.promised),
        "trimmed": status.map(|status| status.trimmed),
        "segments": segments,
        "unreachable": (!replica.unreachable.is_empty()).then_some(&replica.unreachable),
    })
}

fn of_segments(log: &LogEntry, value: impl Fn(&SegmentStatus) -> u64) -> Option<u64> {
    let held = log
        .replicas
        .iter()
        .filter_map(|replica| replica.status.as_ref());
    held.flat_map(|status| &status.segments).map(value).max()
}

/// The furthest of what the log servers hold.
fn tail(log: &LogEntry) -> Option<u64> {
    of_segments(log, |segment| segment.tail)
}

fn committed(log: &LogEntry) -> Option<u64> {
    of_segments(log, |segment| segment.committed)
}

fn trimmed(log: &LogEntry) -> Option<u64> {
    let held = log
        .replicas
        .iter()
        .filter_map(|replica| replica.status.as_ref());
    held.map(|status| status.trimmed).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    #[test]
    fn the_list_has_a_row_per_log() {
        expect![[r#"
            LOG  SEGMENTS  EPOCH  BASE  TAIL  COMMITTED  TRIMMED  QUORUM  REPLICAS
            0    2         7      150   184   183        10       2       N1 N2 N3
        "#]]
        .assert_eq(&list(&[samples::log()], false));
    }

    #[test]
    fn a_description_shows_the_chain_and_its_replicas() {
        expect![[r#"
            log 0, chain version 33
            EPOCH  BASE  END   QUORUM  REPLICAS
            3      1     150   2       N1 N2 N3
            7      150   open  2       N1 N2 N3

            NODE  PROMISED     TRIMMED  EPOCH  BASE  TAIL  COMMITTED
            N1    7            10       7      150   184   183
            N2    7            10       7      150   184   180
            N3    unreachable
        "#]]
        .assert_eq(&description(&samples::log()));
    }

    #[test]
    fn programs_get_an_object_per_log() {
        expect![[r#"
            {"committed":183,"log":0,"replicas":[{"node":"N1","promised":7,"segments":[{"base":150,"committed":183,"epoch":7,"tail":184}],"trimmed":10,"unreachable":null},{"node":"N2","promised":7,"segments":[{"base":150,"committed":180,"epoch":7,"tail":184}],"trimmed":10,"unreachable":null},{"node":"N3","promised":null,"segments":null,"trimmed":null,"unreachable":"the node is not connected"}],"segments":[{"base":1,"end":150,"epoch":3,"replicas":["N1","N2","N3"],"write_quorum":2},{"base":150,"end":null,"epoch":7,"replicas":["N1","N2","N3"],"write_quorum":2}],"tail":184,"trimmed":10,"version":33}
        "#]]
        .assert_eq(&list(&[samples::log()], true));
    }
}
