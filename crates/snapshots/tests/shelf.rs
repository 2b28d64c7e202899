//! What a repository keeps, shares, deletes and refuses.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use abide_snapshots::{
    BackedUpPartition, BackupManifest, Backups, ClusterId, Destination, KnownFiles, LocalFile,
    NewSnapshot, RepositoryError, Shelf, StoreSettings,
};
use abide_types::{Epoch, Lsn, PartitionId};
use tempfile::TempDir;

struct World {
    place: TempDir,
    files: TempDir,
    known: Arc<KnownFiles>,
}

impl World {
    fn new() -> Self {
        Self {
            place: TempDir::new().unwrap(),
            files: TempDir::new().unwrap(),
            known: Arc::default(),
        }
    }

    fn destination(&self) -> Destination {
        let url = format!("file://{}/below", self.place.path().display());
        Destination::open(&url, &StoreSettings::default()).unwrap()
    }

    fn shelf(&self) -> Shelf {
        Shelf::new(&self.destination(), cluster(), PartitionId(3))
    }

    /// A snapshot of files named after their contents.
    fn snapshot(&self, lsn: u64, epoch: u64, contents: &[&str]) -> NewSnapshot {
        let file = |content: &&str| {
            let path = self.files.path().join(content);
            if !path.exists() {
                fs::write(&path, content.repeat(1000)).unwrap();
            }
            LocalFile {
                name: format!("{content}.sst"),
                path,
            }
        };
        NewSnapshot {
            lsn: Lsn(lsn),
            epoch: Epoch(epoch),
            node: 1,
            partitions: 4,
            created_at: 1000 + lsn,
            files: contents.iter().map(file).collect(),
        }
    }

    fn objects(&self) -> Vec<String> {
        let root = self.place.path().join("below");
        let mut found = Vec::new();
        collect(&root, &root, &mut found);
        found.sort();
        found
    }

    fn stored_files(&self) -> usize {
        self.objects()
            .iter()
            .filter(|name| name.contains("/files/"))
            .count()
    }
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

fn cluster() -> ClusterId {
    ClusterId::new("test", 0xabc)
}

#[tokio::test]
async fn only_files_that_are_new_are_sent_and_old_ones_go_with_the_last_snapshot_that_names_them() {
    let world = World::new();
    let shelf = world.shelf();
    assert_eq!(shelf.pointer().await.unwrap(), None);
    let first = world.snapshot(10, 1, &["a", "b"]);
    let first = shelf.publish(first, &world.known, 1, true).await.unwrap();
    assert_eq!((first.sent_bytes, first.snapshot.bytes), (2000, 2000));
    assert_eq!(first.archived, Lsn(10));

    let second = world.snapshot(20, 1, &["b", "c"]);
    let second = shelf.publish(second, &world.known, 1, true).await.unwrap();
    assert_eq!((second.sent_bytes, second.snapshot.bytes), (1000, 2000));
    assert_eq!(second.archived, Lsn(20));
    assert_eq!(world.stored_files(), 2, "{:?}", world.objects());
    let pointer = shelf.pointer().await.unwrap().unwrap();
    assert_eq!(pointer.retained, std::slice::from_ref(&second.snapshot));
    let name = "3/lsn_00000000000000000020-snap_";
    assert_eq!(
        world
            .objects()
            .iter()
            .filter(|object| object.starts_with(name))
            .count(),
        1
    );
    assert_eq!(
        world
            .objects()
            .iter()
            .filter(|object| object.contains("/lsn_"))
            .count(),
        1
    );

    let to = TempDir::new().unwrap();
    let fetched = shelf.fetch(&second.snapshot, to.path()).await.unwrap();
    assert_eq!((fetched.lsn, fetched.partitions), (20, 4));
    assert_eq!(
        fs::read_to_string(to.path().join("c.sst")).unwrap(),
        "c".repeat(1000)
    );
    assert_eq!(shelf.verify(&second.snapshot).await.unwrap(), 2000);
}

#[tokio::test]
async fn as_many_are_kept_as_are_wanted_and_the_oldest_says_what_is_archived() {
    let world = World::new();
    let shelf = world.shelf();
    let mut archived = Vec::new();
    for lsn in [10, 20, 30, 40] {
        let new = world.snapshot(lsn, 1, &["a"]);
        archived.push(
            shelf
                .publish(new, &world.known, 3, true)
                .await
                .unwrap()
                .archived
                .0,
        );
    }
    assert_eq!(archived, [10, 10, 10, 20]);
    let pointer = shelf.pointer().await.unwrap().unwrap();
    let kept: Vec<u64> = pointer.retained.iter().map(|kept| kept.lsn).collect();
    assert_eq!(kept, [20, 30, 40]);
}

#[tokio::test]
async fn without_cleanup_nothing_is_deleted() {
    let world = World::new();
    let shelf = world.shelf();
    for (lsn, content) in [(10, "a"), (20, "b")] {
        let new = world.snapshot(lsn, 1, &[content]);
        shelf.publish(new, &world.known, 1, false).await.unwrap();
    }
    assert_eq!(world.stored_files(), 2);
}

#[tokio::test]
async fn a_deposed_leader_publishes_nothing_and_deletes_nothing() {
    let world = World::new();
    let shelf = world.shelf();
    let new = world.snapshot(30, 7, &["a"]);
    shelf.publish(new, &world.known, 1, true).await.unwrap();
    let late = world.snapshot(20, 6, &["b"]);
    let refused = shelf
        .publish(late, &world.known, 1, true)
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            RepositoryError::Superseded {
                epoch: Epoch(7),
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(
        shelf
            .pointer()
            .await
            .unwrap()
            .unwrap()
            .latest()
            .unwrap()
            .lsn,
        30
    );
    // What a leader of a higher epoch has begun to write stays, whoever cleans up.
    let files = world.place.path().join("below/3/files");
    fs::write(files.join(format!("{:020}-beef", 9)), "later").unwrap();
    fs::write(files.join(format!("{:020}-beef", 5)), "earlier").unwrap();
    let new = world.snapshot(40, 8, &["a"]);
    shelf.publish(new, &world.known, 1, true).await.unwrap();
    let left: Vec<_> = world
        .objects()
        .into_iter()
        .filter(|name| name.ends_with("beef"))
        .collect();
    assert_eq!(left, [format!("3/files/{:020}-beef", 9)]);
}

#[tokio::test]
async fn of_many_who_publish_at_once_each_builds_on_the_one_before_or_not_at_all() {
    let world = World::new();
    let mut tasks = Vec::new();
    for lsn in 1..=8 {
        let (shelf, known) = (world.shelf(), Arc::clone(&world.known));
        let new = world.snapshot(lsn, 1, &["a"]);
        tasks.push(tokio::spawn(async move {
            shelf.publish(new, &known, 100, true).await.is_ok()
        }));
    }
    let mut published = 0;
    for task in tasks {
        published += usize::from(task.await.unwrap());
    }
    let pointer = world.shelf().pointer().await.unwrap().unwrap();
    assert!(published > 0);
    assert_eq!(pointer.retained.len(), published);
}

#[tokio::test]
async fn another_clusters_snapshots_are_refused() {
    let world = World::new();
    let new = world.snapshot(10, 1, &["a"]);
    world
        .shelf()
        .publish(new.clone(), &world.known, 1, true)
        .await
        .unwrap();
    let other = Shelf::new(
        &world.destination(),
        ClusterId::new("test", 0xdef),
        PartitionId(3),
    );
    for error in [
        other.pointer().await.unwrap_err(),
        other.publish(new, &world.known, 1, true).await.unwrap_err(),
    ] {
        let text = error.to_string();
        assert_eq!(
            text,
            "3/latest.json belongs to cluster 'test' (0000000000000abc), this is 'test' (0000000000000def)"
        );
    }
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let world = World::new();
    let shelf = world.shelf();
    let new = world.snapshot(10, 1, &["a"]);
    let saved = shelf
        .publish(new, &world.known, 1, true)
        .await
        .unwrap()
        .snapshot;
    let objects = world.objects();
    let file = objects
        .iter()
        .find(|name| name.contains("/files/"))
        .unwrap();
    let path = world.place.path().join("below").join(file);
    let whole = fs::read(&path).unwrap();
    let to = TempDir::new().unwrap();

    let mut flipped = whole.clone();
    flipped[500] ^= 1;
    fs::write(&path, flipped).unwrap();
    let error = shelf
        .fetch(&saved, to.path())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("{file} is damaged: its SHA-256 is")),
        "{error}"
    );
    fs::write(&path, &whole[..10]).unwrap();
    let error = shelf.verify(&saved).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{file} is damaged: it has 10 bytes instead of 1000")
    );
    fs::remove_file(&path).unwrap();
    let error = shelf.fetch(&saved, to.path()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Missing { .. }), "{error}");
    fs::write(&path, whole).unwrap();
    shelf.verify(&saved).await.unwrap();

    let metadata = objects
        .iter()
        .find(|name| name.ends_with("metadata.json"))
        .unwrap();
    let path = world.place.path().join("below").join(metadata);
    let text = fs::read_to_string(&path).unwrap().replace("a.sst", "../a");
    fs::write(&path, text).unwrap();
    let error = shelf.metadata(&saved).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
    // A snapshot that is of no use does not stand in the way of the next.
    let new = world.snapshot(20, 1, &["a"]);
    let next = shelf.publish(new, &world.known, 2, true).await.unwrap();
    assert_eq!(next.archived, Lsn(20));
    shelf.verify(&next.snapshot).await.unwrap();
}

/// Stores a backup of one partition but for its manifest, and returns that and what was sent.
async fn stored(
    world: &World,
    backups: &Backups,
    id: &str,
    lsn: u64,
    contents: &[&str],
) -> (BackupManifest, u64) {
    let new = world.snapshot(lsn, 1, contents);
    let stored = backups
        .store(&cluster(), PartitionId(0), new, &world.known)
        .await;
    let (snapshot, sent) = stored.unwrap();
    let manifest = BackupManifest {
        format: 1,
        id: id.to_owned(),
        cluster: cluster(),
        partitions: 1,
        version: "0".to_owned(),
        created_at: lsn,
        snapshots: vec![BackedUpPartition {
            partition: 0,
            snapshot,
        }],
        documents: Vec::new(),
    };
    (manifest, sent)
}

#[tokio::test]
async fn backups_share_files_and_are_there_with_their_manifest() {
    let world = World::new();
    let backups = Backups::at(world.destination());
    let mut ids = Vec::new();
    for (id, lsn, contents) in [("one", 10, ["a", "b"]), ("two", 20, ["b", "c"])] {
        let (manifest, sent) = stored(&world, &backups, id, lsn, &contents).await;
        assert_eq!(sent, if id == "one" { 2000 } else { 1000 });
        assert!(
            backups.get(Some(id)).await.is_err(),
            "there is no manifest yet"
        );
        backups.finish(&manifest).await.unwrap();
        assert_eq!(backups.get(None).await.unwrap(), manifest);
        assert!(
            backups.finish(&manifest).await.is_err(),
            "a backup never changes"
        );
        ids.push(manifest);
    }
    assert_eq!(backups.list().await.unwrap(), ids);
    for manifest in ids {
        let snapshot = &manifest.snapshots[0].snapshot;
        let shelf = backups.shelf(&manifest.cluster, PartitionId(0));
        assert_eq!(shelf.verify(snapshot).await.unwrap(), 2000);
    }
}

#[tokio::test]
async fn a_backup_goes_with_what_no_other_one_needs_and_not_while_one_is_made() {
    let world = World::new();
    let backups = Backups::at(world.destination());
    let mut manifests = Vec::new();
    for (id, lsn, contents) in [("one", 10, ["a", "b"]), ("two", 20, ["b", "c"])] {
        backups.begin(id, 1000).await.unwrap();
        let (manifest, _) = stored(&world, &backups, id, lsn, &contents).await;
        backups.finish(&manifest).await.unwrap();
        backups.end(id).await.unwrap();
        manifests.push(manifest);
    }
    // A third one is under way, and builds on what is there.
    backups.begin("three", 2000).await.unwrap();
    let refused = backups.delete("one", 32_000).await.unwrap_err();
    assert!(
        matches!(
            refused,
            RepositoryError::Busy {
                what: "making",
                seconds: 30,
                ..
            }
        ),
        "{refused}"
    );
    backups.end("three").await.unwrap();
    // Of one whose maker died a mark is left; it counts for a while.
    backups.begin("four", 2000).await.unwrap();
    assert!(backups.delete("one", 80_000_000).await.is_err());

    // The manifest, its snapshot's document and the file that is its own.
    assert_eq!(backups.delete("one", 100_000_000).await.unwrap(), 3);
    assert_eq!(backups.list().await.unwrap(), manifests[1..]);
    let shelf = backups.shelf(&cluster(), PartitionId(0));
    let kept = &manifests[1].snapshots[0].snapshot;
    assert_eq!(shelf.verify(kept).await.unwrap(), 2000);
    assert_eq!(world.stored_files(), 2, "{:?}", world.objects());

    assert_eq!(backups.delete("two", 100_000_000).await.unwrap(), 4);
    assert_eq!(world.stored_files(), 0, "{:?}", world.objects());
    assert!(matches!(
        backups.delete("two", 100_000_000).await,
        Err(RepositoryError::Missing { .. })
    ));
    for wrong in ["", "../one", "one/x", "."] {
        let refused = backups.delete(wrong, 1).await.unwrap_err();
        assert!(matches!(refused, RepositoryError::Id { .. }), "{refused}");
    }
    // Nothing is left but the mark of the one that died.
    assert_eq!(world.objects(), ["backup-marks/making-four.json"]);
}

#[tokio::test]
async fn nothing_of_a_backup_goes_while_what_stays_is_not_readable() {
    let world = World::new();
    let backups = Backups::at(world.destination());
    for (id, lsn) in [("one", 10), ("two", 20)] {
        let (manifest, _) = stored(&world, &backups, id, lsn, &["a"]).await;
        backups.finish(&manifest).await.unwrap();
    }
    let manifest = world.place.path().join("below/backups/two/manifest.json");
    fs::write(&manifest, "{}").unwrap();
    let before = world.objects();
    assert!(backups.delete("one", 1).await.is_err());
    assert_eq!(world.objects(), before);
}

#[test]
fn what_is_no_place_is_refused_with_what_would_be_right() {
    let refuse = |url: &str| {
        Destination::open(url, &StoreSettings::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse("bucket"),
        "'bucket' is not a place for snapshots: write file://, s3://, gs:// or az:// and a place"
    );
    assert_eq!(
        refuse("file://relative"),
        "'file://relative' is not a place for snapshots: write file:///DIRECTORY with an absolute path"
    );
    assert_eq!(
        refuse("s3://"),
        "'s3://' is not a place for snapshots: write s3://BUCKET/PREFIX"
    );
    assert_eq!(
        refuse("ftp://host/x"),
        "'ftp://host/x' is not a place for snapshots: 'ftp' is not file, s3, gs or az"
    );
}
