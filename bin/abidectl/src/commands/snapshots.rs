//! `abidectl snapshots`.

use abide_rpc::proto::snapshots::{
    CreateSnapshots, ListSnapshots, ListSnapshotsReply, SnapshotOutcome, snapshot_outcome::Outcome,
};
use serde_json::json;

use crate::client::Node;
use crate::failure::Failure;
use crate::output::{json_lines, or_dash, size, table, time};

pub(crate) async fn list(node: &Node, partitions: &[u16], json: bool) -> Result<String, Failure> {
    let partitions = partitions.iter().copied().map(u32::from).collect();
    let answer = node.snapshots().list(ListSnapshots { partitions }).await;
    let found = answer.map_err(|status| node.failure(&status))?.into_inner();
    Ok(show(&found, json))
}

fn show(found: &ListSnapshotsReply, json: bool) -> String {
    if json {
        return json_lines(found.partitions.iter().map(|partition| {
            let snapshots = partition.snapshots.iter().map(|snapshot| {
                json!({
                    "id": snapshot.id,
                    "lsn": snapshot.lsn,
                    "created_at": time(snapshot.created_at),
                    "bytes": snapshot.bytes,
                    "folder": snapshot.folder,
                })
            });
            json!({
                "partition": partition.partition,
                "destination": found.destination,
                "snapshots": snapshots.collect::<Vec<_>>(),
                "problem": (!partition.problem.is_empty()).then_some(&partition.problem),
            })
        }));
    }
    let header = ["PARTITION", "LSN", "CREATED", "SIZE", "SNAPSHOT", "PROBLEM"];
    let rows = found.partitions.iter().flat_map(|partition| {
        let problem = or_dash((!partition.problem.is_empty()).then_some(&partition.problem));
        let number = partition.partition.to_string();
        let mut rows: Vec<_> = (partition.snapshots.iter())
            .map(|snapshot| {
                vec![
                    number.clone(),
                    snapshot.lsn.to_string(),
                    time(snapshot.created_at),
                    size(snapshot.bytes),
                    snapshot.id.clone(),
                    problem.clone(),
                ]
            })
            .collect();
        if rows.is_empty() {
            let dash = || "-".to_owned();
            rows.push(vec![number, dash(), dash(), dash(), dash(), problem]);
        }
        rows
    });
    table(&header, rows)
}

pub(crate) async fn create(
    node: &Node,
    partitions: &[u16],
    min_lsn: u64,
    trim: bool,
    json: bool,
) -> Result<String, Failure> {
    let request = CreateSnapshots {
        partitions: partitions.iter().copied().map(u32::from).collect(),
        min_lsn,
        trim,
    };
    let answer = node.snapshots().create(request).await;
    let mut answers = answer.map_err(|status| node.failure(&status))?.into_inner();
    let mut outcomes = Vec::new();
    while let Some(outcome) = answers
        .message()
        .await
        .map_err(|status| node.failure(&status))?
    {
        if let (Some(Outcome::Failed(reason)), false) = (&outcome.outcome, json) {
            eprintln!("partition {}: {reason}", outcome.partition);
        }
        outcomes.push(outcome);
    }
    outcomes.sort_by_key(|outcome| outcome.partition);
    let is_stored =
        |outcome: &&SnapshotOutcome| matches!(outcome.outcome, Some(Outcome::Stored(_)));
    let failed = outcomes.len() - outcomes.iter().filter(is_stored).count();
    let text = outcomes_text(&outcomes, json);
    if failed > 0 {
        // What was done is told all the same.
        crate::output::print(&text)?;
        return Err(node.refused(format!(
            "{failed} of {} snapshots were not taken",
            outcomes.len()
        )));
    }
    Ok(text)
}

fn outcomes_text(outcomes: &[SnapshotOutcome], json: bool) -> String {
    if json {
        return json_lines(outcomes.iter().map(|outcome| match &outcome.outcome {
            Some(Outcome::Stored(snapshot)) => json!({
                "partition": outcome.partition,
                "id": snapshot.id,
                "lsn": snapshot.lsn,
                "bytes": snapshot.bytes,
            }),
            Some(Outcome::Failed(reason)) => {
                json!({ "partition": outcome.partition, "failed": reason })
            }
            None => json!({ "partition": outcome.partition, "failed": "not known" }),
        }));
    }
    let stored = outcomes
        .iter()
        .filter_map(|outcome| match &outcome.outcome {
            Some(Outcome::Stored(snapshot)) => Some(vec![
                outcome.partition.to_string(),
                snapshot.lsn.to_string(),
                size(snapshot.bytes),
                snapshot.id.clone(),
            ]),
            _ => None,
        });
    table(&["PARTITION", "LSN", "SIZE", "SNAPSHOT"], stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_rpc::proto::snapshots::{PartitionSnapshots, Snapshot};
    use expect_test::expect;

    fn sample() -> ListSnapshotsReply {
        let snapshot = Snapshot {
            id: "01ABC".to_owned(),
            lsn: 4711,
            created_at: 951_782_400_000,
            bytes: 3 << 20,
            folder: "lsn_00000000000000004711-snap_01ABC".to_owned(),
        };
        ListSnapshotsReply {
            destination: "s3://bucket/prefix".to_owned(),
            partitions: vec![
                PartitionSnapshots {
                    partition: 0,
                    snapshots: vec![snapshot],
                    problem: String::new(),
                },
                PartitionSnapshots {
                    partition: 1,
                    snapshots: Vec::new(),
                    problem: "access denied".to_owned(),
                },
            ],
        }
    }

    #[test]
    fn every_partition_has_a_row_and_problems_are_told() {
        expect![[r#"
            PARTITION  LSN   CREATED               SIZE     SNAPSHOT  PROBLEM
            0          4711  2000-02-29T00:00:00Z  3.0 MiB  01ABC     -
            1          -     -                     -        -         access denied
        "#]]
        .assert_eq(&show(&sample(), false));
    }

    #[test]
    fn programs_get_an_object_per_partition() {
        expect![[r#"
            {"destination":"s3://bucket/prefix","partition":0,"problem":null,"snapshots":[{"bytes":3145728,"created_at":"2000-02-29T00:00:00Z","folder":"lsn_00000000000000004711-snap_01ABC","id":"01ABC","lsn":4711}]}
            {"destination":"s3://bucket/prefix","partition":1,"problem":"access denied","snapshots":[]}
        "#]]
        .assert_eq(&show(&sample(), true));
    }
}
