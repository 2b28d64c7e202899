//! Backs the whole cluster up at one moment.
//!
//! Any node does it: it holds every partition, has each make its cut, lets them go, and waits for the files. What that
//! means for consistency is in `abide_processor`'s `leader_archive`. A partition that changes its leader meanwhile
//! spoils the attempt, and all begin again.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_metadata::keys;
use abide_processor::{Archive, Router};
use abide_rpc::proto::partition::{
    ArchiveRequest, Cut, Hold, archive_reply::Kind as Answer, archive_request::Kind as Ask,
};
use abide_rpc::proto::snapshots::{Backup, BackupProgress, backup_progress::Step};
use abide_snapshots::{
    BackedUpDocument, BackedUpPartition, BackupManifest, Backups, ClusterId, MADE_WITHIN,
    RepositoryError, Retained,
};
use abide_types::{PartitionId, Timestamp};
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::facts::Member;

/// How long a leader may take to stand still or to make its cut.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Partitions that nobody lets go, go on after this.
const LEASE: Duration = Duration::from_secs(12);
/// Attempts before it is given up.
const ATTEMPTS_MAX: u32 = 5;
/// Pause between attempts.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often partitions are asked whether their files are stored.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// What is taken along of the metadata plane: what people have set up, and nothing of nodes and placement.
const DOCUMENTS: [&str; 3] = [keys::CLUSTER, keys::SCHEMA, keys::LIMITS];

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("the cluster's settings are not known to this node yet")]
    NoCluster,
    #[error("partition {partition}: {reason}")]
    Partition {
        partition: PartitionId,
        reason: String,
    },
    #[error("the document '{key}' cannot be read: {reason}")]
    Document { key: String, reason: String },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("it was not made within {0:?}")]
    TimedOut(Duration),
    #[error("nobody waits for it any more")]
    Abandoned,
}

/// Who is told how it goes.
pub(crate) type Progress = mpsc::Sender<Result<BackupProgress, tonic::Status>>;

pub(crate) async fn tell(progress: &Progress, step: Step) -> Result<(), BackupError> {
    let told = progress.send(Ok(BackupProgress { step: Some(step) })).await;
    told.map_err(|_| BackupError::Abandoned)
}

// Boxed: the futures below are so deep that the compiler gives up on one that holds them.
type Attempt<'a> = Pin<Box<dyn Future<Output = Result<BackupManifest, BackupError>> + Send + 'a>>;
type Reading<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<BackedUpDocument>, BackupError>> + Send + 'a>>;

/// Backs the cluster up to `url`.
pub(crate) async fn back_up(
    member: &Member,
    router: &Router,
    archive: &Arc<Archive>,
    url: &str,
    progress: &Progress,
) -> Result<BackupManifest, BackupError> {
    let backups = Backups::at(archive.destination(url)?);
    let id = ulid::Ulid::generate().to_string();
    let now = Timestamp::from_system(SystemTime::now());
    backups.begin(&id, now.0).await?;
    let making: Attempt<'_> = Box::pin(attempts(member, router, &backups, (&id, url), progress));
    let made = tokio::time::timeout(MADE_WITHIN, making).await;
    if let Err(error) = backups.end(&id).await {
        tracing::warn!(id, %error, "the mark of a backup stays; for a while none can be deleted there");
    }
    made.unwrap_or(Err(BackupError::TimedOut(MADE_WITHIN)))
}

async fn attempts(
    member: &Member,
    router: &Router,
    backups: &Backups,
    (id, url): (&str, &str),
    progress: &Progress,
) -> Result<BackupManifest, BackupError> {
    let mut attempt = 1;
    loop {
        let outcome: Attempt<'_> =
            Box::pin(one_attempt(member, router, backups, (id, url), progress));
        match outcome.await {
            Err(error @ BackupError::Partition { .. }) if attempt < ATTEMPTS_MAX => {
                tracing::warn!(%error, attempt, "the backup begins again");
                tell(progress, Step::Doing(format!("beginning again: {error}"))).await?;
                attempt += 1;
                sleep(AGAIN_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

async fn one_attempt(
    member: &Member,
    router: &Router,
    backups: &Backups,
    (id, url): (&str, &str),
    progress: &Progress,
) -> Result<BackupManifest, BackupError> {
    let view = member.metadata.view();
    let cluster = view.cluster.as_ref().ok_or(BackupError::NoCluster)?;
    let cluster_id = ClusterId::new(&cluster.name, cluster.fingerprint);
    let partitions: Vec<_> = (0..cluster.partitions).map(PartitionId).collect();
    let hold: u64 = rand::random();
    let begun = Instant::now();
    let created_at = Timestamp::from_system(SystemTime::now());
    let cuts = cuts(router, &partitions, hold, url).await;
    // Whatever came of it.
    let release = partitions
        .iter()
        .map(|partition| router.archive(*partition, request(Ask::Release(hold)), ANSWER_WITHIN));
    join_all(release).await;
    let held = begun.elapsed();
    let cuts = cuts?;
    tracing::info!(
        ?held,
        partitions = partitions.len(),
        "all partitions stood still for a backup"
    );
    tell(
        progress,
        Step::HeldMicros(u64::try_from(held.as_micros()).unwrap_or(u64::MAX)),
    )
    .await?;
    // After the cuts, so that nothing that the partitions refer to is missing.
    let reading: Reading<'_> = Box::pin(documents(member));
    let documents = reading.await?;
    let snapshots = stored(router, cuts, progress).await?;
    let manifest = BackupManifest {
        format: 1,
        id: id.to_owned(),
        cluster: cluster_id,
        partitions: cluster.partitions,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: created_at.0,
        snapshots,
        documents,
    };
    backups.finish(&manifest).await?;
    Ok(manifest)
}

fn request(kind: Ask) -> ArchiveRequest {
    ArchiveRequest { kind: Some(kind) }
}

fn failed(partition: PartitionId, reason: impl ToString) -> BackupError {
    BackupError::Partition {
        partition,
        reason: reason.to_string(),
    }
}

/// Holds all, and when all stand still has each make its cut; the tickets of those.
async fn cuts(
    router: &Router,
    partitions: &[PartitionId],
    id: u64,
    url: &str,
) -> Result<BTreeMap<PartitionId, u64>, BackupError> {
    let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
    let held = partitions.iter().map(async |partition| {
        let hold = request(Ask::Hold(Hold { id, lease_ms }));
        match router.archive(*partition, hold, ANSWER_WITHIN).await {
            Ok(Answer::Held(_)) => Ok(()),
            Ok(Answer::Refused(reason)) => Err(failed(*partition, reason)),
            Ok(other) => Err(failed(*partition, format!("unexpected answer {other:?}"))),
            Err(error) => Err(failed(*partition, error)),
        }
    });
    for outcome in join_all(held).await {
        outcome?;
    }
    let cut = partitions.iter().map(async |partition| {
        let url = url.to_owned();
        let cut = request(Ask::Cut(Cut { id, url }));
        match router.archive(*partition, cut, ANSWER_WITHIN).await {
            Ok(Answer::Begun(begun)) => Ok((*partition, begun.ticket)),
            Ok(Answer::Refused(reason)) => Err(failed(*partition, reason)),
            Ok(other) => Err(failed(*partition, format!("unexpected answer {other:?}"))),
            Err(error) => Err(failed(*partition, error)),
        }
    });
    join_all(cut).await.into_iter().collect()
}

/// Waits until the files of all cuts are stored.
async fn stored(
    router: &Router,
    mut waiting: BTreeMap<PartitionId, u64>,
    progress: &Progress,
) -> Result<Vec<BackedUpPartition>, BackupError> {
    let mut snapshots = Vec::new();
    loop {
        let asked = waiting.iter().map(async |(partition, ticket)| {
            let ask = request(Ask::Ticket(*ticket));
            (
                *partition,
                router.archive(*partition, ask, ANSWER_WITHIN).await,
            )
        });
        for (partition, answer) in join_all(asked).await {
            match answer.map_err(|error| failed(partition, error))? {
                Answer::Running(_) => {}
                Answer::Done(json) => {
                    let snapshot: Retained =
                        serde_json::from_slice(&json).map_err(|error| failed(partition, error))?;
                    waiting.remove(&partition);
                    let partition = partition.0;
                    snapshots.push(BackedUpPartition {
                        partition,
                        snapshot,
                    });
                    tell(progress, Step::Partition(partition.into())).await?;
                }
                Answer::Failed(reason) => return Err(failed(partition, reason)),
                other => return Err(failed(partition, format!("unexpected answer {other:?}"))),
            }
        }
        if waiting.is_empty() {
            snapshots.sort_by_key(|found| found.partition);
            return Ok(snapshots);
        }
        sleep(ASK_INTERVAL).await;
    }
}

async fn documents(member: &Member) -> Result<Vec<BackedUpDocument>, BackupError> {
    let mut documents = Vec::new();
    for key in DOCUMENTS {
        let wrong = |reason: String| BackupError::Document {
            key: key.to_owned(),
            reason,
        };
        let stored = member
            .metadata
            .read(key)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        if let Some(stored) = stored {
            let value = String::from_utf8(stored.value.to_vec())
                .map_err(|error| wrong(error.to_string()))?;
            documents.push(BackedUpDocument {
                key: key.to_owned(),
                value,
            });
        }
    }
    Ok(documents)
}

/// A manifest as tools are told of it.
pub(crate) fn summary(manifest: &BackupManifest) -> Backup {
    Backup {
        id: manifest.id.clone(),
        cluster: manifest.cluster.name.clone(),
        fingerprint: manifest.cluster.fingerprint.clone(),
        partitions: manifest.partitions.into(),
        created_at: manifest.created_at,
        bytes: manifest
            .snapshots
            .iter()
            .map(|found| found.snapshot.bytes)
            .sum(),
        version: manifest.version.clone(),
    }
}
