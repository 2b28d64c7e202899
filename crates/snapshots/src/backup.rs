//! Backups of whole clusters.
//!
//! ```text
//! <root>/backups/<id>/manifest.json       written last: without it there is no backup
//! <root>/backup-data/<partition>/...      a shelf: files that all backups share, and the snapshots of partitions
//! ```
//!
//! Nothing is ever deleted here, so that files are known by their contents alone.

use std::sync::Arc;

use abide_types::PartitionId;

use crate::destination::Destination;
use crate::documents::{BackupManifest, ClusterId, Retained, decode, encode};
use crate::error::RepositoryError;
use crate::files::KnownFiles;
use crate::shelf::{NewSnapshot, Shelf};

const BACKUPS: &str = "backups";
const DATA: &str = "backup-data";
const MANIFEST: &str = "manifest.json";

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
        let path = format!("{BACKUPS}/{}/{MANIFEST}", manifest.id);
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
                let path = format!("{BACKUPS}/{id}/{MANIFEST}");
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
