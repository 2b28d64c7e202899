//! The snapshots of one partition.
//!
//! ```text
//! <root>/<partition>/latest.json                                  the pointer
//! <root>/<partition>/lsn_<20 digits>-snap_<id>/metadata.json      which files it is made of
//! <root>/<partition>/files/<epoch>-<sha256>                       what snapshots share
//! ```
//!
//! Why concurrent leaders do no harm: a snapshot builds on files that the pointer's snapshots name, and is published
//! only over the pointer that it was built on. A leader deletes, after it published, what no kept snapshot names and
//! what was written under epochs up to its own; so what a later leader has begun to write stays, and an earlier one
//! finds the pointer changed and publishes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abide_types::{Epoch, Lsn, PartitionId};

use crate::destination::{Destination, Version};
use crate::documents::{
    ClusterId, FORMAT, Pointer, Retained, SnapshotFile, SnapshotMetadata, decode, encode, sha256,
};
use crate::error::RepositoryError;
use crate::files::{self, KnownFiles};

const POINTER: &str = "latest.json";
const METADATA: &str = "metadata.json";
const FILES: &str = "files";

/// The snapshots of one partition at a destination.
#[derive(Debug, Clone)]
pub struct Shelf {
    destination: Destination,
    cluster: ClusterId,
    partition: PartitionId,
    root: String,
}

/// A file that is to be part of a snapshot.
#[derive(Debug, Clone)]
pub struct LocalFile {
    /// Its name in the snapshot.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// A snapshot that was exported and is to be stored.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// The last record that it shows.
    pub lsn: Lsn,
    /// The leader that took it.
    pub epoch: Epoch,
    /// The node that it runs on.
    pub node: u32,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// When, in milliseconds since 1970.
    pub created_at: u64,
    /// What it consists of.
    pub files: Vec<LocalFile>,
}

/// A snapshot that was stored.
#[derive(Debug, Clone)]
pub struct Saved {
    /// As pointers and manifests name it.
    pub snapshot: Retained,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
    /// The oldest that is kept.
    pub archived: Lsn,
}

/// The pointer and what its replacement needs.
struct Read {
    pointer: Option<Pointer>,
    version: Option<Version>,
}

impl Shelf {
    /// Snapshots that replicas of `cluster` start from.
    pub fn new(destination: &Destination, cluster: ClusterId, partition: PartitionId) -> Self {
        Self::below(destination, cluster, partition, "")
    }

    pub(crate) fn below(
        destination: &Destination,
        cluster: ClusterId,
        partition: PartitionId,
        root: &str,
    ) -> Self {
        Self {
            destination: destination.clone(),
            cluster,
            partition,
            root: match root {
                "" => partition.to_string(),
                root => format!("{root}/{partition}"),
            },
        }
    }

    fn path(&self, parts: &[&str]) -> String {
        let mut all = vec![self.root.as_str()];
        all.extend(parts);
        all.join("/")
    }

    /// What is kept; `None` before the first snapshot.
    ///
    /// # Errors
    /// The store does not answer, or what is there belongs to another cluster.
    pub async fn pointer(&self) -> Result<Option<Pointer>, RepositoryError> {
        self.read().await.map(|read| read.pointer)
    }

    async fn read(&self) -> Result<Read, RepositoryError> {
        let path = self.path(&[POINTER]);
        let Some(stored) = self.destination.document(&path).await? else {
            return Ok(Read {
                pointer: None,
                version: None,
            });
        };
        let pointer: Pointer = decode(&path, &stored.bytes)?;
        self.check_owner(&path, &pointer.cluster, pointer.partition)?;
        Ok(Read {
            pointer: Some(pointer),
            version: Some(stored.version),
        })
    }

    fn check_owner(
        &self,
        path: &str,
        cluster: &ClusterId,
        partition: u16,
    ) -> Result<(), RepositoryError> {
        if *cluster != self.cluster {
            return Err(RepositoryError::OtherCluster {
                path: path.to_string(),
                found: cluster.to_string(),
                own: self.cluster.to_string(),
            });
        }
        if partition != self.partition.0 {
            return Err(RepositoryError::Malformed {
                path: path.to_string(),
                reason: format!("it is of partition {partition}, not of {}", self.partition),
            });
        }
        Ok(())
    }

    /// Stores a snapshot and makes it the newest; keeps `num_retained`, and with `cleanup` deletes what no kept one
    /// needs.
    ///
    /// # Errors
    /// Nothing was published, except when only the cleaning up failed, which is logged.
    pub async fn publish(
        &self,
        new: NewSnapshot,
        known: &Arc<KnownFiles>,
        num_retained: usize,
        cleanup: bool,
    ) -> Result<Saved, RepositoryError> {
        let path = self.path(&[POINTER]);
        let Read { pointer, version } = self.read().await?;
        let epoch = new.epoch;
        if let Some(pointer) = &pointer
            && epoch.0 < pointer.epoch
        {
            return Err(RepositoryError::Superseded {
                path: path.to_string(),
                epoch: Epoch(pointer.epoch),
            });
        }
        let mut retained = pointer.map_or_else(Vec::new, |pointer| pointer.retained);
        // A log that was lost and begun anew would run below what is stored; the newest is what counts.
        let mut present = BTreeMap::new();
        let mut kept = Vec::new();
        for snapshot in retained.drain(..) {
            match self.metadata(&snapshot).await {
                Ok(metadata) => {
                    present.extend(
                        metadata
                            .files
                            .into_iter()
                            .map(|file| (file.sha256, file.key)),
                    );
                    kept.push(snapshot);
                }
                Err(
                    error @ (RepositoryError::Missing { .. }
                    | RepositoryError::Damaged { .. }
                    | RepositoryError::Malformed { .. }),
                ) => {
                    tracing::warn!(partition = %self.partition, %error, "a snapshot that is of no use is forgotten");
                }
                Err(error) => return Err(error),
            }
        }
        let prefix = format!("{:020}-", epoch.0);
        let (snapshot, sent_bytes) = self.store(new, known, &present, &prefix).await?;
        kept.push(snapshot.clone());
        let surplus = kept.len().saturating_sub(num_retained.max(1));
        kept.drain(..surplus);
        let pointer = Pointer {
            format: FORMAT,
            cluster: self.cluster.clone(),
            partition: self.partition.0,
            epoch: epoch.0,
            retained: kept,
        };
        if !self
            .destination
            .replace(&path, encode(&pointer), version)
            .await?
        {
            return Err(RepositoryError::Superseded {
                path: path.to_string(),
                epoch,
            });
        }
        if cleanup && let Err(error) = self.clean_up(&pointer).await {
            tracing::warn!(partition = %self.partition, %error, "old snapshots were not all deleted, next time");
        }
        Ok(Saved {
            archived: Lsn(pointer.archived().map_or(snapshot.lsn, |oldest| oldest.lsn)),
            snapshot,
            sent_bytes,
        })
    }

    /// Stores files that are not there, and the document that names them. Returns what was sent, too.
    pub(crate) async fn store(
        &self,
        new: NewSnapshot,
        known: &Arc<KnownFiles>,
        present: &BTreeMap<String, String>,
        prefix: &str,
    ) -> Result<(Retained, u64), RepositoryError> {
        let (mut files, mut bytes, mut sent) = (Vec::new(), 0, 0);
        for file in &new.files {
            let (known, path) = (Arc::clone(known), file.path.clone());
            let hashed = tokio::task::spawn_blocking(move || known.of(&path)).await;
            let (sha256, length) = hashed.unwrap_or_else(|error| {
                Err(RepositoryError::Io {
                    doing: "read",
                    path: file.path.clone(),
                    source: std::io::Error::other(error),
                })
            })?;
            bytes += length;
            let key = match present.get(&sha256) {
                Some(key) => key.clone(),
                None => {
                    let key = format!("{prefix}{sha256}");
                    self.destination
                        .upload(&file.path, &self.path(&[FILES, &key]))
                        .await?;
                    sent += length;
                    key
                }
            };
            files.push(SnapshotFile {
                name: file.name.clone(),
                bytes: length,
                sha256,
                key,
            });
        }
        let id = ulid::Ulid::generate().to_string();
        let folder = format!("lsn_{:020}-snap_{id}", new.lsn.0);
        let metadata = SnapshotMetadata {
            format: FORMAT,
            cluster: self.cluster.clone(),
            partition: self.partition.0,
            partitions: new.partitions,
            id: id.clone(),
            lsn: new.lsn.0,
            epoch: new.epoch.0,
            node: new.node,
            created_at: new.created_at,
            files,
        };
        let document = encode(&metadata);
        let metadata_sha256 = sha256(&document);
        self.destination
            .put(&self.path(&[&folder, METADATA]), document)
            .await?;
        let snapshot = Retained {
            id,
            lsn: new.lsn.0,
            folder,
            created_at: new.created_at,
            bytes,
            metadata_sha256,
        };
        Ok((snapshot, sent))
    }

    /// What a snapshot is made of.
    ///
    /// # Errors
    /// It is gone or not what was stored.
    pub async fn metadata(&self, snapshot: &Retained) -> Result<SnapshotMetadata, RepositoryError> {
        let path = self.path(&[&snapshot.folder, METADATA]);
        let Some(stored) = self.destination.document(&path).await? else {
            return Err(self.destination.missing(&path));
        };
        let found = sha256(&stored.bytes);
        if found != snapshot.metadata_sha256 {
            return Err(RepositoryError::Damaged {
                path: path.to_string(),
                problem: format!(
                    "its SHA-256 is {found} instead of {}",
                    snapshot.metadata_sha256
                ),
            });
        }
        let metadata: SnapshotMetadata = decode(&path, &stored.bytes)?;
        self.check_owner(&path, &metadata.cluster, metadata.partition)?;
        let plain = |file: &SnapshotFile| {
            let is_plain =
                |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
            is_plain(&file.name) && is_plain(&file.key)
        };
        if metadata.lsn != snapshot.lsn || !metadata.files.iter().all(plain) {
            return Err(RepositoryError::Malformed {
                path: path.to_string(),
                reason: "it is not of this snapshot or names files outside of it".to_owned(),
            });
        }
        Ok(metadata)
    }

    /// Fetches all files of a snapshot into `to`, which must be there and empty.
    ///
    /// # Errors
    /// Something is missing or not what was stored; what was fetched is of no use then.
    pub async fn fetch(
        &self,
        snapshot: &Retained,
        to: &Path,
    ) -> Result<SnapshotMetadata, RepositoryError> {
        let metadata = self.metadata(snapshot).await?;
        for file in &metadata.files {
            let from = self.path(&[FILES, &file.key]);
            let to = to.join(&file.name);
            files::download(&self.destination, &from, &to, file.bytes, &file.sha256).await?;
        }
        Ok(metadata)
    }

    /// Reads all files of a snapshot and compares them with what was stored; returns how many bytes they have.
    ///
    /// # Errors
    /// The first that is missing or differs.
    pub async fn verify(&self, snapshot: &Retained) -> Result<u64, RepositoryError> {
        let metadata = self.metadata(snapshot).await?;
        for file in &metadata.files {
            let object = self.path(&[FILES, &file.key]);
            files::verify(&self.destination, &object, file.bytes, &file.sha256).await?;
        }
        Ok(metadata.files.iter().map(|file| file.bytes).sum())
    }

    /// The files that are stored, by their contents. For shelves from which nothing is ever deleted.
    pub(crate) async fn present(&self) -> Result<BTreeMap<String, String>, RepositoryError> {
        let listed = self.destination.list(&self.path(&[FILES])).await?;
        let names = listed.iter().filter_map(|found| found.rsplit('/').next());
        Ok(names
            .map(|name| (name.to_owned(), name.to_owned()))
            .collect())
    }

    /// Deletes everything that `kept` do not name; returns how many objects those were. For shelves whose users stand
    /// still.
    ///
    /// # Errors
    /// What is kept cannot be read, and nothing was deleted; or what the store says.
    pub(crate) async fn keep_only(&self, kept: &[&Retained]) -> Result<usize, RepositoryError> {
        let mut needed = BTreeSet::new();
        for snapshot in kept {
            needed.insert(self.path(&[&snapshot.folder, METADATA]));
            for file in self.metadata(snapshot).await?.files {
                needed.insert(self.path(&[FILES, &file.key]));
            }
        }
        let found = self.destination.list(&self.path(&[])).await?;
        let surplus: Vec<String> = found
            .into_iter()
            .filter(|found| !needed.contains(found))
            .collect();
        let count = surplus.len();
        if count > 0 {
            self.destination.delete(surplus).await?;
        }
        Ok(count)
    }

    async fn clean_up(&self, pointer: &Pointer) -> Result<(), RepositoryError> {
        let mut keys = BTreeSet::new();
        for snapshot in &pointer.retained {
            let metadata = self.metadata(snapshot).await?;
            keys.extend(metadata.files.into_iter().map(|file| file.key));
        }
        let folders: BTreeSet<&str> = pointer
            .retained
            .iter()
            .map(|kept| kept.folder.as_str())
            .collect();
        let newest = pointer.latest().map_or(0, |latest| latest.lsn);
        let mut surplus = Vec::new();
        let own = format!("{}/", self.root);
        for found in self.destination.list(&self.path(&[])).await? {
            let names: Vec<&str> = found
                .strip_prefix(&own)
                .unwrap_or_default()
                .split('/')
                .collect();
            let delete = match names[..] {
                [FILES, key] => {
                    let epoch = key.split('-').next().and_then(|epoch| epoch.parse().ok());
                    epoch.is_some_and(|epoch: u64| epoch <= pointer.epoch) && !keys.contains(key)
                }
                // One that a later leader has stored and not published yet is further.
                [folder, METADATA] => {
                    lsn_of(folder).is_some_and(|lsn| lsn <= newest) && !folders.contains(folder)
                }
                _ => false,
            };
            if delete {
                surplus.push(found.clone());
            }
        }
        if surplus.is_empty() {
            return Ok(());
        }
        tracing::debug!(partition = %self.partition, objects = surplus.len(), "deleting old snapshots");
        self.destination.delete(surplus).await
    }
}

fn lsn_of(folder: &str) -> Option<u64> {
    let (lsn, _) = folder.strip_prefix("lsn_")?.split_once("-snap_")?;
    lsn.parse().ok()
}
