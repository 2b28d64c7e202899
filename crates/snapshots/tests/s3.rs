//! The same over a server that speaks like S3. `ABIDE_TEST_S3` is its URL; it has a bucket `abide` and takes any
//! credentials, as `moto_server` does: `pip install 'moto[server]'`, `moto_server -p 9000`, `aws s3 mb s3://abide`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use abide_snapshots::{
    Backups, ClusterId, Destination, KnownFiles, LocalFile, NewSnapshot, RepositoryError, Shelf,
    StoreSettings,
};
use abide_types::{Epoch, Lsn, PartitionId};
use tempfile::TempDir;

fn destination() -> Destination {
    let endpoint = std::env::var("ABIDE_TEST_S3").expect("ABIDE_TEST_S3 is the server's URL");
    let settings = StoreSettings {
        aws_region: Some("us-east-1".to_owned()),
        aws_endpoint_url: Some(endpoint),
        aws_access_key_id: Some("key".to_owned()),
        aws_secret_access_key: Some("secret".to_owned()),
        aws_allow_http: true,
        ..StoreSettings::default()
    };
    let run = TempDir::new().unwrap();
    let run = run
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    Destination::open(&format!("s3://abide/runs/{run}"), &settings).unwrap()
}

fn snapshot(dir: &Path, lsn: u64, epoch: u64, files: &[(&str, usize)]) -> NewSnapshot {
    let file = |(name, bytes): &(&str, usize)| {
        let path = dir.join(name);
        if !path.exists() {
            let content: Vec<u8> = (0..*bytes).map(|at| (at * 31 % 251) as u8).collect();
            fs::write(&path, content).unwrap();
        }
        LocalFile {
            name: (*name).to_owned(),
            path,
        }
    };
    NewSnapshot {
        lsn: Lsn(lsn),
        epoch: Epoch(epoch),
        node: 1,
        partitions: 4,
        created_at: lsn,
        files: files.iter().map(file).collect(),
    }
}

#[tokio::test]
#[ignore = "wants a server that speaks like S3: see the module"]
async fn snapshots_are_published_conditionally_shared_fetched_and_deleted() {
    let (dir, known) = (TempDir::new().unwrap(), Arc::<KnownFiles>::default());
    let destination = destination();
    let shelf = Shelf::new(&destination, ClusterId::new("test", 1), PartitionId(0));
    assert_eq!(shelf.pointer().await.unwrap(), None);
    // Larger than one part of an upload in parts.
    let files = [("large.sst", 20 << 20), ("small.sst", 100)];
    let first = snapshot(dir.path(), 10, 1, &files);
    let first = shelf.publish(first, &known, 1, true).await.unwrap();
    assert_eq!(first.sent_bytes, (20 << 20) + 100);
    let files = [("large.sst", 20 << 20), ("other.sst", 200)];
    let second = snapshot(dir.path(), 20, 2, &files);
    let second = shelf.publish(second, &known, 1, true).await.unwrap();
    assert_eq!(second.sent_bytes, 200);

    let to = TempDir::new().unwrap();
    shelf.fetch(&second.snapshot, to.path()).await.unwrap();
    for (name, _) in files {
        let (stored, fetched) = (
            fs::read(dir.path().join(name)),
            fs::read(to.path().join(name)),
        );
        assert!(stored.unwrap() == fetched.unwrap(), "{name} differs");
    }
    assert!(
        shelf.fetch(&first.snapshot, to.path()).await.is_err(),
        "the first is still there"
    );

    let late = snapshot(dir.path(), 15, 1, &[("small.sst", 100)]);
    let refused = shelf.publish(late, &known, 1, true).await.unwrap_err();
    assert!(
        matches!(refused, RepositoryError::Superseded { .. }),
        "{refused}"
    );

    let mut tasks = Vec::new();
    for lsn in 21..=26 {
        let (shelf, known) = (shelf.clone(), Arc::clone(&known));
        let new = snapshot(dir.path(), lsn, 2, &[("small.sst", 100)]);
        tasks.push(tokio::spawn(async move {
            shelf.publish(new, &known, 100, false).await.is_ok()
        }));
    }
    let mut published = 1;
    for task in tasks {
        published += usize::from(task.await.unwrap());
    }
    let pointer = shelf.pointer().await.unwrap().unwrap();
    assert_eq!(pointer.retained.len(), published);

    let backups = Backups::at(destination);
    let new = snapshot(dir.path(), 30, 2, &files);
    let cluster = ClusterId::new("test", 1);
    let stored = backups
        .store(&cluster, PartitionId(0), new, &known)
        .await
        .unwrap();
    assert_eq!(stored.1, (20 << 20) + 200);
    let new = snapshot(dir.path(), 31, 2, &files);
    let stored = backups
        .store(&cluster, PartitionId(0), new, &known)
        .await
        .unwrap();
    assert_eq!(stored.1, 0);
    let shelf = backups.shelf(&cluster, PartitionId(0));
    assert_eq!(shelf.verify(&stored.0).await.unwrap(), (20 << 20) + 200);
}
