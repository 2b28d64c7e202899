//! The same over servers that speak like S3 and like Azure's blob store, as the test starts them. What Google's
//! would need, conditional writes and uploads in parts in its XML interface, its known emulators do not have.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::{env, fs};

use abide_snapshots::{
    BackedUpPartition, BackupManifest, Backups, ClusterId, Destination, KnownFiles, LocalFile,
    NewSnapshot, RepositoryError, Shelf, StoreSettings,
};
use abide_types::{Epoch, Lsn, PartitionId};
use tempfile::TempDir;

/// A store's server, started by `stores/store.py`; it ends when this is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(kind: &str) -> Server {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores");
        let python = here.join(".venv/bin/python");
        assert!(
            python.exists(),
            "{} is missing: run scripts/bootstrap --tests",
            python.display()
        );
        let mut process = Command::new(python)
            .arg(here.join("store.py"))
            .arg(kind)
            // It ends when this is closed, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let url = url.trim().to_owned();
        assert!(url.starts_with("http://"), "no server of {kind}");
        Server { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn s3() {
    let server = Server::start("s3");
    let settings = StoreSettings {
        aws_region: Some("us-east-1".to_owned()),
        aws_endpoint_url: Some(server.url.clone()),
        aws_access_key_id: Some("key".to_owned()),
        aws_secret_access_key: Some("secret".to_owned()),
        aws_allow_http: true,
        ..StoreSettings::default()
    };
    check(Destination::open("s3://abide/some/where", &settings).unwrap()).await;
}

/// What this store needs to know comes from the environment alone, so this is done by a process of its own.
#[tokio::test]
async fn azure() {
    let server = Server::start("azure");
    let done = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "azure_by_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("AZURE_STORAGE_USE_EMULATOR", "true")
        .env("AZURITE_BLOB_STORAGE_URL", &server.url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test]
#[ignore = "a part of the test `azure`, which gives it its environment"]
async fn azure_by_environment() {
    check(Destination::open("az://abide/some/where", &StoreSettings::default()).unwrap()).await;
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

/// Snapshots and backups are published conditionally, share their files, are read again and deleted.
async fn check(destination: Destination) {
    let (dir, known) = (TempDir::new().unwrap(), Arc::<KnownFiles>::default());
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
    backups.begin("first", 1000).await.unwrap();
    let busy = backups.delete("first", 1000).await.unwrap_err();
    assert!(matches!(busy, RepositoryError::Busy { .. }), "{busy}");
    let files = [("large.sst", 20 << 20), ("other.sst", 200)];
    let sent = back_up(&backups, "first", snapshot(dir.path(), 30, 2, &files)).await;
    assert_eq!(sent, (20 << 20) + 200);
    let files = [("large.sst", 20 << 20), ("small.sst", 100)];
    let sent = back_up(&backups, "second", snapshot(dir.path(), 31, 2, &files)).await;
    assert_eq!(sent, 100, "the large one is there");
    backups.end("first").await.unwrap();

    // Its manifest, the snapshot's description, and the file that no other one needs.
    assert_eq!(backups.delete("first", 1000).await.unwrap(), 3);
    let left = backups.list().await.unwrap();
    let [second] = &left[..] else {
        panic!("{left:?}");
    };
    assert_eq!(second.id, "second");
    let shelf = backups.shelf(&second.cluster, PartitionId(0));
    let verified = shelf.verify(&second.snapshots[0].snapshot).await.unwrap();
    assert_eq!(verified, (20 << 20) + 100);
}

/// Stores a backup of a cluster with one partition; the bytes that had to be sent.
async fn back_up(backups: &Backups, id: &str, new: NewSnapshot) -> u64 {
    let cluster = ClusterId::new("test", 1);
    let created_at = new.created_at;
    let known = Arc::default();
    let stored = backups.store(&cluster, PartitionId(0), new, &known);
    let (snapshot, sent) = stored.await.unwrap();
    let manifest = BackupManifest {
        format: 1,
        id: id.to_owned(),
        cluster,
        partitions: 1,
        version: "0".to_owned(),
        created_at,
        snapshots: vec![BackedUpPartition {
            partition: 0,
            snapshot,
        }],
        documents: Vec::new(),
    };
    backups.finish(&manifest).await.unwrap();
    sent
}
