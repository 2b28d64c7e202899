//! Openraft's own tests of a store, and what a store must do with damage.

use std::sync::Arc;

use openraft::StorageError;
use openraft::storage::RaftLogStorage as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader as _, RaftSnapshotBuilder as _};
use rocksdb::DB;
use tempfile::TempDir;

use super::keys::Key;
use super::state::State;
use super::*;
use crate::errors::StartError;
use crate::server::types::{RaftTypes, Vote};

struct Builder;

impl StoreBuilder<RaftTypes, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<RaftTypes>> {
        let directory = TempDir::new().unwrap();
        let (log, state_machine) = open(directory.path());
        Ok((directory, log, state_machine))
    }
}

fn open(directory: &std::path::Path) -> (LogStore, StateMachine) {
    let database = Arc::new(Database::open(directory).unwrap());
    let state = StateMachine::load(&database).unwrap();
    let shared = Arc::new(SharedState::new(state));
    (
        LogStore::new(Arc::clone(&database)),
        StateMachine::new(database, shared),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_passes_the_conformance_suite() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn votes_and_snapshots_are_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let vote = Vote::new_committed(7, 2);
    {
        let (mut log, mut state_machine) = open(directory.path());
        log.save_vote(&vote).await.unwrap();
        state_machine.build_snapshot().await.unwrap();
    }
    let (mut log, mut state_machine) = open(directory.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let snapshot = openraft::storage::RaftStateMachine::get_current_snapshot(&mut state_machine)
        .await
        .unwrap();
    assert!(snapshot.is_some());
}

/// What opening says about a store in which `key` holds `value`.
fn error_with(key: Key<'_>, value: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    drop(Database::open(directory.path()).unwrap());
    let db = DB::open_default(directory.path()).unwrap();
    db.put(key.bytes(), value).unwrap();
    drop(db);
    let read = || -> Result<(), StartError> {
        let database = Arc::new(Database::open(directory.path())?);
        let unreadable = |error: std::io::Error| database.start_error(&error);
        database.identity().map_err(unreadable)?;
        LogStore::new(Arc::clone(&database))
            .check()
            .map_err(unreadable)?;
        StateMachine::load(&database)
            .map(|_: State| ())
            .map_err(unreadable)
    };
    let text = read().unwrap_err().to_string();
    let name = directory.path().display().to_string();
    assert!(text.contains(&name), "{text} does not name {name}");
    text
}

#[test]
fn garbage_is_an_error_that_names_the_directory() {
    let garbage = [0xff; 9];
    for key in [
        Key::Format,
        Key::Identity,
        Key::Vote,
        Key::Committed,
        Key::Purged,
        Key::Applied,
        Key::Snapshot,
        Key::Entry(3),
    ] {
        assert!(error_with(key, &garbage).contains("corrupt"));
    }
    assert!(error_with(Key::Document("nodes"), b"short").contains("'nodes' is cut off"));
    // It decodes, but lacks what it must have.
    assert!(error_with(Key::Vote, b"").contains("malformed"));
    assert!(error_with(Key::Entry(3), b"").contains("malformed"));
}

#[test]
fn a_store_of_another_version_is_refused() {
    let text = error_with(Key::Format, b"abide metadata 2");
    assert!(text.contains("abide metadata 2"), "{text}");
}
