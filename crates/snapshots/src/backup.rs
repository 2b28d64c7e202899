//! Backups of whole clusters.
//!
//! ```text
//! <root>/backups/<id>/manifest.json       written last: without it there is no backup
//! <root>/backup-data/<cluster>/<partition>/...   a shelf: files that backups share, and the snapshots of partitions
//! <root>/backup-marks/making-<id>.json    somebody makes a backup
//! <root>/backup-marks/deleting-<id>.json  somebody deletes one
//! ```
//!
//! Files are known by their contents alone, and who makes a backup does not send those that are there. So none may go
//! meanwhile: makers and deleters first leave their mark and then look for marks of the others, so that at least one of
//! two sees the other and gives way. A mark that its owner did not take away, because it died, counts for twice the
//! time that making or deleting may take.

use std::sync::Arc;
use std::time::Duration;

use abide_types::PartitionId;

use crate::destination::Destination;
use crate::documents::{BackupManifest, ClusterId, FORMAT, Mark, Retained, decode, encode};
use crate::error::RepositoryError;
use crate::files::KnownFiles;
use crate::shelf::{NewSnapshot, Shelf};

const BACKUPS: &str = "backups";
const DATA: &str = "backup-data";
const MANIFEST: &str = "manifest.json";
const MARKS: &str = "backup-marks";

/// How long making a backup may take, all its attempts together.
pub const MADE_WITHIN: Duration = Duration::from_secs(12 * 60 * 60);
/// How long deleting one may take; what is left then goes with the next one.
pub const DELETED_WITHIN: Duration = Duration::from_secs(60 * 60);

/// What somebody is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Making,
    Deleting,
}

impl At {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Making => "making-",
            Self::Deleting => "deleting-",
        }
    }

    const fn counts_for(self) -> Duration {
        let within = match self {
            Self::Making => MADE_WITHIN,
            Self::Deleting => DELETED_WITHIN,
        };
        within.saturating_mul(2)
    }
}

/// The backups at a destination.
#[derive(Debug, Clone)]
pub struct Backups {
    destination: Destination,
}

impl Backups {
    /// Those at `destination`.
    pub fn at(destination: Destination) -> Self {
        Self { destination }
    }

    /// The snapshots of one partition of `cluster`.
    pub fn shelf(&self, cluster: &ClusterId, partition: PartitionId) -> Shelf {
        let root = format!("{DATA}/{}", cluster.fingerprint);
        Shelf::below(&self.destination, cluster.clone(), partition, &root)
    }

    /// Says that a backup is being made, which has to be done before anything is stored for it. [`Self::end`] takes
    /// that back. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// One is being deleted; or what the store says.
    pub async fn begin(&self, id: &str, now: u64) -> Result<(), RepositoryError> {
        self.mark(At::Making, id, now, At::Deleting).await
    }

    /// The opposite of [`Self::begin`].
    ///
    /// # Errors
    /// What the store says; the mark then counts for a while.
    pub async fn end(&self, id: &str) -> Result<(), RepositoryError> {
        self.unmark(At::Making, id).await
    }

    async fn mark(&self, at: At, id: &str, now: u64, other: At) -> Result<(), RepositoryError> {
        let own = mark_path(at, checked(id)?);
        let mark = Mark {
            format: FORMAT,
            at: now,
        };
        self.destination.put(&own, encode(&mark)).await?;
        let busy = self.busy(other, now).await;
        let outcome = match busy {
            Ok(None) => return Ok(()),
            Ok(Some(since)) => RepositoryError::Busy {
                what: match other {
                    At::Making => "making",
                    At::Deleting => "deleting",
                },
                seconds: now.saturating_sub(since) / 1000,
                url: self.destination.url().to_owned(),
            },
            Err(error) => error,
        };
        self.unmark(at, id).await?;
        Err(outcome)
    }

    async fn unmark(&self, at: At, id: &str) -> Result<(), RepositoryError> {
        let own = mark_path(at, checked(id)?);
        self.destination.delete(vec![own]).await
    }

    /// Since when somebody is at something, if anybody is.
    async fn busy(&self, at: At, now: u64) -> Result<Option<u64>, RepositoryError> {
        let counts_for = u64::try_from(at.counts_for().as_millis()).unwrap_or(u64::MAX);
        let mut oldest = None;
        for found in self.destination.list(MARKS).await? {
            let name = found.rsplit('/').next().unwrap_or_default();
            if !name.starts_with(at.prefix()) {
                continue;
            }
            // One that is gone by now has ended.
            let Some(stored) = self.destination.document(&found).await? else {
                continue;
            };
            let mark: Mark = decode(&found, &stored.bytes)?;
            if now < mark.at.saturating_add(counts_for) {
                oldest = Some(oldest.unwrap_or(mark.at).min(mark.at));
            }
        }
        Ok(oldest)
    }

    /// Deletes a backup and what no other one of its cluster needs; returns how many objects that were.
    ///
    /// # Errors
    /// One is being made, or something is not readable: then nothing was deleted. Or what the store says: what is left
    /// goes with the next backup that is deleted.
    pub async fn delete(&self, id: &str, now: u64) -> Result<usize, RepositoryError> {
        self.mark(At::Deleting, id, now, At::Making).await?;
        let deleted = self.delete_marked(id).await;
        self.unmark(At::Deleting, id).await?;
        deleted
    }

    async fn delete_marked(&self, id: &str) -> Result<usize, RepositoryError> {
        let going = self.get(Some(id)).await?;
        let staying: Vec<BackupManifest> = self
            .list()
            .await?
            .into_iter()
            .filter(|other| other.id != going.id && other.cluster == going.cluster)
            .collect();
        self.destination.delete(vec![manifest_path(id)]).await?;
        let mut count = 1;
        for partition in 0..going.partitions {
            let kept: Vec<&Retained> = (staying.iter())
                .flat_map(|manifest| &manifest.snapshots)
                .filter(|found| found.partition == partition)
                .map(|found| &found.snapshot)
                .collect();
            let shelf = self.shelf(&going.cluster, PartitionId(partition));
            count += shelf.keep_only(&kept).await?;
        }
        Ok(count)
    }

    /// Stores one partition of a backup; returns what had to be sent, too.
    ///
    /// # Errors
    /// What the store says.
    pub async fn store(
        &self,
        cluster: &ClusterId,
        partition: PartitionId,
        new: NewSnapshot,
        known: &Arc<KnownFiles>,
    ) -> Result<(Retained, u64), RepositoryError> {
        let shelf = self.shelf(cluster, partition);
        let present = shelf.present().await?;
        shelf.store(new, known, &present, "").await
    }

    /// Writes the manifest, with which the backup is there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn finish(&self, manifest: &BackupManifest) -> Result<(), RepositoryError> {
        let path = manifest_path(checked(&manifest.id)?);
        match self
            .destination
            .replace(&path, encode(manifest), None)
            .await?
        {
            true => Ok(()),
            false => Err(RepositoryError::Malformed {
                path: path.to_string(),
                reason: "it is there already".to_owned(),
            }),
        }
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// What the store says, or the first manifest that is not readable.
    pub async fn list(&self) -> Result<Vec<BackupManifest>, RepositoryError> {
        let mut manifests = Vec::new();
        for found in self.destination.list(BACKUPS).await? {
            if found.ends_with(MANIFEST)
                && let Some(stored) = self.destination.document(&found).await?
            {
                manifests.push(decode::<BackupManifest>(&found, &stored.bytes)?);
            }
        }
        manifests.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(manifests)
    }

    /// One of them; the newest if none is named.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub async fn get(&self, id: Option<&str>) -> Result<BackupManifest, RepositoryError> {
        let missing = |path: &str| self.destination.missing(path);
        let manifest = match id {
            None => self.list().await?.pop().ok_or_else(|| missing("backup"))?,
            Some(id) => {
                let path = manifest_path(checked(id)?);
                let stored = self.destination.document(&path).await?;
                let stored = stored.ok_or_else(|| missing(&path))?;
                decode(&path, &stored.bytes)?
            }
        };
        let complete =
            (0..manifest.partitions).eq(manifest.snapshots.iter().map(|found| found.partition));
        if manifest.partitions == 0 || !complete {
            return Err(RepositoryError::Malformed {
                path: manifest.id,
                reason: "it has not one snapshot of each partition".to_owned(),
            });
        }
        Ok(manifest)
    }
}

fn manifest_path(id: &str) -> String {
    format!("{BACKUPS}/{id}/{MANIFEST}")
}

fn mark_path(at: At, id: &str) -> String {
    format!("{MARKS}/{}{id}.json", at.prefix())
}

/// An id as ours are: it becomes part of a path.
fn checked(id: &str) -> Result<&str, RepositoryError> {
    let fits = !id.is_empty() && id.chars().all(|letter| letter.is_ascii_alphanumeric());
    match fits {
        true => Ok(id),
        false => Err(RepositoryError::Id { id: id.to_owned() }),
    }
}
