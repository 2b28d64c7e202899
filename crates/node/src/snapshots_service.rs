//! The gRPC service for snapshots and backups.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abide_metadata::{ClusterDocument, Document as _, Versioned, keys};
use abide_processor::{Archive, Origin, Processors, Router};
use abide_rpc::proto::partition::{
    ArchiveRequest, Empty, TakeSnapshot, archive_reply::Kind as Answer,
    archive_request::Kind as Ask,
};
use abide_rpc::proto::snapshots::snapshots_server::Snapshots;
use abide_rpc::proto::snapshots::{
    Backup, BackupProgress, CreateBackupRequest, CreateSnapshots, DeleteBackupRequest, Document,
    ListBackupsReply, ListBackupsRequest, ListSnapshots, ListSnapshotsReply, PartitionSnapshots,
    PlanRestoreReply, PlanRestoreRequest, Snapshot, SnapshotOutcome, VerifyBackupRequest,
    backup_progress::Step, snapshot_outcome::Outcome,
};
use abide_snapshots::{BackupManifest, Backups, DELETED_WITHIN, RepositoryError, Retained};
use abide_types::{PartitionId, Timestamp};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::backup::{self, Progress};
use crate::facts::{Awaits, Facts, Member};
use crate::start::chain;

/// How long a leader may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// How often a leader is asked whether its snapshot is stored.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a leader may be busy with another snapshot before one that was asked for begins.
const BEGUN_WITHIN: Duration = Duration::from_secs(10 * 60);
/// What is said before a backup goes from which the cluster was made that is asked.
const BORN_OF_IT: &str = "this cluster was made from it: a replica that loses its state before there is a snapshot, with no other replica in reach, could not be filled any more";
/// Steps that wait for a tool to take them.
const STEPS_MAX: usize = 16;

/// Answers from what leaders say, and from the stores themselves.
pub(crate) struct SnapshotsService {
    pub(crate) facts: Arc<Facts>,
    pub(crate) archive: Arc<Archive>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl SnapshotsService {
    fn router(&self) -> Result<Router, Status> {
        let processors = self.member()?.processors.get();
        let router = processors.map(|processors: &Arc<Processors>| processors.router());
        router.ok_or_else(|| Status::unavailable("the node is starting"))
    }

    fn member(&self) -> Result<&Member, Status> {
        let member = self.facts.member.get();
        member.ok_or_else(|| match self.facts.awaits() {
            Awaits::Cluster => Status::failed_precondition(Awaits::Cluster.to_string()),
            other => Status::unavailable(other.to_string()),
        })
    }

    /// Those that were named, or all.
    fn partitions(&self, named: &[u32]) -> Result<Vec<PartitionId>, Status> {
        let view = self.member()?.metadata.view();
        let count = view
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.partitions);
        if named.is_empty() {
            return Ok((0..count).map(PartitionId).collect());
        }
        let known = |partition: &u32| {
            let found = u16::try_from(*partition)
                .ok()
                .filter(|found| *found < count);
            let found = found.map(PartitionId);
            found.ok_or_else(|| {
                Status::not_found(format!(
                    "there is no partition {partition}; there are {count}"
                ))
            })
        };
        named.iter().map(known).collect()
    }

    fn backups(&self, url: &str) -> Result<Backups, Status> {
        let destination = self
            .archive
            .destination(url)
            .map_err(|error| refused(&error))?;
        Ok(Backups::at(destination))
    }

    /// Whether this cluster was made from a backup: a replica that has lost its state may want it.
    fn is_made_from(&self, manifest: &BackupManifest) -> bool {
        let Some(member) = self.facts.member.get() else {
            return false;
        };
        let view = member.metadata.view();
        manifest.snapshots.iter().any(|found| {
            let stored = view.raw(&keys::origin(PartitionId(found.partition)));
            let origin = stored.and_then(|stored| {
                // One that is not understood was reported where it is needed.
                serde_json::from_slice::<Origin>(&stored.value).ok()
            });
            origin.is_some_and(|origin| origin.snapshot.id == found.snapshot.id)
        })
    }

    async fn manifest(&self, url: &str, id: &str) -> Result<BackupManifest, Status> {
        let found = self.backups(url)?.get((!id.is_empty()).then_some(id)).await;
        found.map_err(|error| refused(&error))
    }
}

fn refused(error: &RepositoryError) -> Status {
    let message = chain(error);
    match error {
        RepositoryError::Url { .. } | RepositoryError::Id { .. } => {
            Status::invalid_argument(message)
        }
        RepositoryError::Busy { .. } => Status::aborted(message),
        RepositoryError::Missing { .. } => Status::not_found(message),
        RepositoryError::Store { .. } | RepositoryError::Io { .. } => Status::unknown(message),
        _ => Status::data_loss(message),
    }
}

fn snapshot(found: &Retained) -> Snapshot {
    Snapshot {
        id: found.id.clone(),
        lsn: found.lsn,
        created_at: found.created_at,
        bytes: found.bytes,
        folder: found.folder.clone(),
    }
}

fn ask(kind: Ask) -> ArchiveRequest {
    ArchiveRequest { kind: Some(kind) }
}

/// Has one partition's leader take a snapshot, and waits until it is stored.
async fn take(
    router: &Router,
    partition: PartitionId,
    take: TakeSnapshot,
) -> Result<Retained, String> {
    let begun = router
        .archive(partition, ask(Ask::Take(take)), BEGUN_WITHIN)
        .await;
    let ticket = match begun.map_err(|error| error.to_string())? {
        Answer::Begun(begun) => begun.ticket,
        Answer::Refused(reason) => return Err(reason),
        other => return Err(format!("unexpected answer {other:?}")),
    };
    loop {
        let stands = router
            .archive(partition, ask(Ask::Ticket(ticket)), ANSWER_WITHIN)
            .await;
        match stands.map_err(|error| error.to_string())? {
            Answer::Running(_) => tokio::time::sleep(ASK_INTERVAL).await,
            Answer::Done(json) => {
                return serde_json::from_slice(&json).map_err(|error| error.to_string());
            }
            Answer::Failed(reason) => return Err(reason),
            other => return Err(format!("unexpected answer {other:?}")),
        }
    }
}

async fn describe(router: &Router, partition: PartitionId) -> (String, PartitionSnapshots) {
    let mut found = PartitionSnapshots {
        partition: partition.0.into(),
        ..PartitionSnapshots::default()
    };
    let mut destination = String::new();
    match router
        .archive(partition, ask(Ask::Describe(Empty {})), ANSWER_WITHIN)
        .await
    {
        Ok(Answer::Status(status)) => {
            destination = status.destination;
            found.problem = status.problem;
            match serde_json::from_slice::<Vec<Retained>>(&status.retained) {
                Ok(retained) => found.snapshots = retained.iter().map(snapshot).collect(),
                Err(error) => found.problem = error.to_string(),
            }
        }
        Ok(other) => found.problem = format!("unexpected answer {other:?}"),
        Err(error) => found.problem = error.to_string(),
    }
    (destination, found)
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    type CreateStream = Answers<SnapshotOutcome>;
    type CreateBackupStream = Answers<BackupProgress>;
    type VerifyBackupStream = Answers<BackupProgress>;
    type DeleteBackupStream = Answers<BackupProgress>;

    async fn create(
        &self,
        request: Request<CreateSnapshots>,
    ) -> Result<Response<Self::CreateStream>, Status> {
        let request = request.into_inner();
        let partitions = self.partitions(&request.partitions)?;
        let router = self.router()?;
        let (sender, receiver) = mpsc::channel(STEPS_MAX);
        for partition in partitions {
            let (router, sender) = (router.clone(), sender.clone());
            let wanted = TakeSnapshot {
                min_lsn: request.min_lsn,
                trim: request.trim,
            };
            tokio::spawn(async move {
                let taken = take(&router, partition, wanted).await;
                let outcome = SnapshotOutcome {
                    partition: partition.0.into(),
                    outcome: Some(match taken {
                        Ok(stored) => Outcome::Stored(snapshot(&stored)),
                        Err(reason) => Outcome::Failed(reason),
                    }),
                };
                // A tool that has gone does not want to know.
                let _ = sender.send(Ok(outcome)).await;
            });
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list(
        &self,
        request: Request<ListSnapshots>,
    ) -> Result<Response<ListSnapshotsReply>, Status> {
        let partitions = self.partitions(&request.into_inner().partitions)?;
        let router = self.router()?;
        let asked = partitions
            .into_iter()
            .map(|partition| describe(&router, partition));
        let (destinations, partitions): (Vec<_>, Vec<_>) =
            futures::future::join_all(asked).await.into_iter().unzip();
        let destination = destinations.into_iter().find(|url| !url.is_empty());
        Ok(Response::new(ListSnapshotsReply {
            destination: destination.unwrap_or_default(),
            partitions,
        }))
    }

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let url = request.into_inner().url;
        self.member()?;
        let router = self.router()?;
        self.backups(&url)?;
        let (facts, archive) = (Arc::clone(&self.facts), Arc::clone(&self.archive));
        Ok(follow(|progress| {
            Box::pin(async move {
                let member = facts.member.get().ok_or("the node has no cluster")?;
                let manifest = backup::back_up(member, &router, &archive, &url, &progress).await;
                let manifest = manifest.map_err(|error| chain(&error))?;
                Ok(backup::summary(&manifest))
            })
        }))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsReply>, Status> {
        let found = self.backups(&request.into_inner().url)?.list().await;
        let found = found.map_err(|error| refused(&error))?;
        Ok(Response::new(ListBackupsReply {
            backups: found.iter().map(backup::summary).collect(),
        }))
    }

    async fn verify_backup(
        &self,
        request: Request<VerifyBackupRequest>,
    ) -> Result<Response<Self::VerifyBackupStream>, Status> {
        let VerifyBackupRequest { url, id } = request.into_inner();
        let manifest = self.manifest(&url, &id).await?;
        let backups = self.backups(&url)?;
        Ok(follow(|progress| {
            Box::pin(async move {
                for found in &manifest.snapshots {
                    let shelf = backups.shelf(&manifest.cluster, PartitionId(found.partition));
                    let verified = shelf.verify(&found.snapshot).await;
                    verified.map_err(|error| chain(&error))?;
                    let told =
                        backup::tell(&progress, Step::Partition(found.partition.into())).await;
                    told.map_err(|error| error.to_string())?;
                }
                Ok(backup::summary(&manifest))
            })
        }))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<Self::DeleteBackupStream>, Status> {
        let DeleteBackupRequest { url, id, dry_run } = request.into_inner();
        if id.is_empty() {
            return Err(Status::invalid_argument(
                "the request does not say which backup",
            ));
        }
        let manifest = self.manifest(&url, &id).await?;
        let backups = self.backups(&url)?;
        let born_of_it = self.is_made_from(&manifest);
        Ok(follow(move |progress| {
            Box::pin(async move {
                let doing = async |what: String| {
                    let told = backup::tell(&progress, Step::Doing(what)).await;
                    told.map_err(|error| error.to_string())
                };
                if born_of_it {
                    doing(BORN_OF_IT.to_owned()).await?;
                }
                if !dry_run {
                    tracing::warn!(id, url, "an operator deletes a backup");
                    let now = Timestamp::from_system(SystemTime::now());
                    let deleting = tokio::time::timeout(DELETED_WITHIN, backups.delete(&id, now.0));
                    let deleted = deleting
                        .await
                        .map_err(|_| format!("not all was deleted within {DELETED_WITHIN:?}"))?
                        .map_err(|error| chain(&error))?;
                    doing(format!("{deleted} objects are deleted")).await?;
                }
                Ok(backup::summary(&manifest))
            })
        }))
    }

    async fn plan_restore(
        &self,
        request: Request<PlanRestoreRequest>,
    ) -> Result<Response<PlanRestoreReply>, Status> {
        let PlanRestoreRequest { url, id } = request.into_inner();
        let manifest = self.manifest(&url, &id).await?;
        let mut reply = PlanRestoreReply {
            backup: Some(backup::summary(&manifest)),
            ..PlanRestoreReply::default()
        };
        for document in &manifest.documents {
            let value = bytes::Bytes::from(document.value.clone());
            if document.key == keys::CLUSTER {
                let stored = Versioned { version: 0, value };
                let cluster = ClusterDocument::from_versioned(&stored);
                let cluster = cluster.map_err(|error| Status::data_loss(chain(&error)))?;
                reply.replicas = cluster.replication.replicas.into();
                reply.write_quorum = cluster.replication.write_quorum.into();
            } else {
                let key = document.key.clone();
                reply.documents.push(Document { key, value });
            }
        }
        for found in manifest.snapshots {
            let origin = Origin {
                url: url.clone(),
                cluster: manifest.cluster.clone(),
                partitions: manifest.partitions,
                snapshot: found.snapshot,
            };
            let value =
                serde_json::to_vec(&origin).map_err(|error| Status::internal(error.to_string()))?;
            reply.documents.push(Document {
                key: keys::origin(PartitionId(found.partition)),
                value: value.into(),
            });
        }
        Ok(Response::new(reply))
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Backup, String>> + Send>>;

/// Runs something in a task of its own, and tells how it goes and how it ends.
fn follow(run: impl FnOnce(Progress) -> Running) -> Response<Answers<BackupProgress>> {
    let (progress, receiver) = mpsc::channel(STEPS_MAX);
    let running = run(progress.clone());
    tokio::spawn(async move {
        let step = match running.await {
            Ok(backup) => Step::Done(backup),
            Err(reason) => Step::Failed(reason),
        };
        // A tool that has gone does not want to know.
        let _ = backup::tell(&progress, step).await;
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}
