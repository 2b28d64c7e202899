//! `abidectl backup`.

use abide_rpc::proto::snapshots::{
    Backup, BackupProgress, CreateBackupRequest, DeleteBackupRequest, ListBackupsRequest,
    VerifyBackupRequest, backup_progress::Step,
};
use serde_json::{Value, json};
use tonic::Streaming;

use crate::cli::Cli;
use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::{json_lines, size, table, time};

pub(crate) async fn create(node: &Node, to: &str, json: bool) -> Result<String, Failure> {
    let request = CreateBackupRequest { url: to.to_owned() };
    let answer = node.snapshots().create_backup(request).await;
    let steps = answer.map_err(|status| node.failure(&status))?.into_inner();
    let (backup, held_micros) = follow(node, steps, "stored").await?;
    if json {
        let mut object = object(&backup);
        object["held_micros"] = json!(held_micros);
        return Ok(json_lines([object]));
    }
    Ok(format!(
        "backup {} of {} partitions, {}\n",
        backup.id,
        backup.partitions,
        size(backup.bytes)
    ))
}

/// Deletes a backup, after its id was typed.
pub(crate) async fn delete(node: &Node, at: &str, id: &str, cli: &Cli) -> Result<String, Failure> {
    let mut request = DeleteBackupRequest {
        url: at.to_owned(),
        id: id.to_owned(),
        dry_run: true,
    };
    let (backup, _) = send_delete(node, request.clone()).await?;
    let plan = format!(
        "Backup {} of cluster {} with {} partitions, {}, made at {}, is deleted, and what no other backup at {at} needs.",
        backup.id,
        backup.cluster,
        backup.partitions,
        size(backup.bytes),
        time(backup.created_at)
    );
    confirm(&[plan], &Answer::Word(id.to_owned()), cli.yes)?;
    request.dry_run = false;
    send_delete(node, request).await?;
    if cli.json {
        return Ok(json_lines([object(&backup)]));
    }
    Ok(format!("backup {id} is deleted\n"))
}

async fn send_delete(
    node: &Node,
    request: DeleteBackupRequest,
) -> Result<(Backup, Option<u64>), Failure> {
    let answer = node.snapshots().delete_backup(request).await;
    let steps = answer.map_err(|status| node.failure(&status))?.into_inner();
    follow(node, steps, "deleted").await
}

pub(crate) async fn list(node: &Node, at: &str, json: bool) -> Result<String, Failure> {
    let request = ListBackupsRequest { url: at.to_owned() };
    let answer = node.snapshots().list_backups(request).await;
    let found = answer
        .map_err(|status| node.failure(&status))?
        .into_inner()
        .backups;
    if json {
        return Ok(json_lines(found.iter().map(object)));
    }
    let header = [
        "BACKUP",
        "CREATED",
        "CLUSTER",
        "FINGERPRINT",
        "PARTITIONS",
        "SIZE",
    ];
    Ok(table(
        &header,
        found.into_iter().map(|backup| {
            vec![
                backup.id,
                time(backup.created_at),
                backup.cluster,
                backup.fingerprint,
                backup.partitions.to_string(),
                size(backup.bytes),
            ]
        }),
    ))
}

pub(crate) async fn verify(
    node: &Node,
    at: &str,
    id: Option<&str>,
    json: bool,
) -> Result<String, Failure> {
    let request = VerifyBackupRequest {
        url: at.to_owned(),
        id: id.unwrap_or_default().to_owned(),
    };
    let answer = node.snapshots().verify_backup(request).await;
    let steps = answer.map_err(|status| node.failure(&status))?.into_inner();
    let (backup, _) = follow(node, steps, "verified").await?;
    if json {
        return Ok(json_lines([object(&backup)]));
    }
    Ok(format!(
        "backup {} is whole: {} partitions, {}\n",
        backup.id,
        backup.partitions,
        size(backup.bytes)
    ))
}

/// Says on stderr how it goes; returns what came of it, and how long the partitions were held.
async fn follow(
    node: &Node,
    mut steps: Streaming<BackupProgress>,
    done: &str,
) -> Result<(Backup, Option<u64>), Failure> {
    let mut held = None;
    let mut partitions = 0;
    while let Some(step) = steps
        .message()
        .await
        .map_err(|status| node.failure(&status))?
    {
        match step.step {
            Some(Step::Doing(what)) => eprintln!("{what}"),
            Some(Step::HeldMicros(micros)) => {
                held = Some(micros);
                eprintln!("all partitions stood still for {} ms", micros / 1000);
            }
            Some(Step::Partition(partition)) => {
                partitions += 1;
                eprintln!("partition {partition} is {done}, {partitions} in all");
            }
            Some(Step::Done(backup)) => return Ok((backup, held)),
            Some(Step::Failed(reason)) => return Err(node.refused(reason)),
            None => {}
        }
    }
    Err(node.refused("the node stopped before it was done".to_owned()))
}

fn object(backup: &Backup) -> Value {
    json!({
        "id": backup.id,
        "cluster": backup.cluster,
        "fingerprint": backup.fingerprint,
        "partitions": backup.partitions,
        "created_at": time(backup.created_at),
        "bytes": backup.bytes,
        "version": backup.version,
    })
}
