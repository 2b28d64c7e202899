//! One log server: what it refuses, what survives a restart, what it says of damage.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use abide_log::{
    AppendReply, AppendRequest, FenceRequest, LocalLog as _, ReadOutcome, ReadRequest, Record,
};
use abide_log_server::{LogServer, LogServerOptions};
use abide_types::{Epoch, Lsn, PartitionId};
use expect_test::expect;

const LOG: PartitionId = PartitionId(1);

fn options() -> LogServerOptions {
    LogServerOptions {
        memory_bytes: 8 << 20,
        journal_file_bytes: 64 << 10,
        fatal: Arc::new(|error| panic!("fatal: {error}")),
        ..Default::default()
    }
}

fn open(directory: &Path) -> Arc<LogServer> {
    LogServer::open(directory, options()).unwrap()
}

fn records(partition: PartitionId, epoch: u64, first: u64, count: u64) -> Arc<[Record]> {
    let record = |lsn| {
        let payload = format!("{epoch}/{lsn}").into_bytes().into();
        Record::new(partition, Epoch(epoch), Lsn(lsn), payload)
    };
    (first..first + count).map(record).collect()
}

fn request(epoch: u64, base: u64, first: u64, count: u64, committed: u64) -> AppendRequest {
    AppendRequest {
        partition: LOG,
        epoch: Epoch(epoch),
        base: Lsn(base),
        first: Lsn(first),
        committed: Lsn(committed),
        trimmed: Lsn::ZERO,
        probe: true,
        records: records(LOG, epoch, first, count),
    }
}

fn send(server: &LogServer, request: AppendRequest) -> AppendReply {
    let (reply, answer) = channel();
    server.append(
        request,
        Box::new(move |outcome| reply.send(outcome).unwrap()),
    );
    answer.recv().unwrap()
}

fn append(
    server: &LogServer,
    epoch: u64,
    base: u64,
    first: u64,
    count: u64,
    committed: u64,
) -> String {
    let reply = send(server, request(epoch, base, first, count, committed));
    format!("{:?}", reply.outcome)
}

fn fence(server: &LogServer, epoch: u64, segment: u64) -> String {
    let (reply, answer) = channel();
    let fence = FenceRequest {
        partition: LOG,
        epoch: Epoch(epoch),
        segment: Epoch(segment),
    };
    server.fence(fence, Box::new(move |outcome| reply.send(outcome).unwrap()));
    format!("{:?}", answer.recv().unwrap().outcome)
}

fn trim(server: &LogServer, trimmed: u64) -> u64 {
    let (reply, answer) = channel();
    server.trim(
        LOG,
        Lsn(trimmed),
        Box::new(move |point| reply.send(point).unwrap()),
    );
    answer.recv().unwrap().0
}

fn read(server: &LogServer, epoch: u64, from: u64, end: Option<u64>) -> String {
    let reply = server.read(&ReadRequest {
        partition: LOG,
        epoch: Epoch(epoch),
        from: Lsn(from),
        end: end.map(Lsn),
        bytes_max: 1 << 20,
    });
    match reply.outcome {
        ReadOutcome::Records { records, .. } => {
            let payloads = records
                .iter()
                .map(|record| String::from_utf8(record.payload().to_vec()).unwrap());
            payloads.collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn appends_join_or_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    let out = [
        append(&server, 2, 5, 5, 2, 5),
        append(&server, 2, 5, 8, 1, 5),
        append(&server, 2, 5, 6, 2, 6),
        fence(&server, 4, 2),
        append(&server, 2, 5, 8, 1, 5),
        fence(&server, 3, 2),
        append(&server, 5, 6, 6, 1, 6),
        append(&server, 4, 6, 6, 1, 6),
    ];
    expect![[r#"
        Stored { tail: Lsn(7) }
        Gap { tail: Lsn(7) }
        Stored { tail: Lsn(8) }
        Promised { tail: Some(Lsn(8)), committed: Lsn(6), trimmed: Lsn(0), newest: Epoch(2) }
        Fenced { promised: Epoch(4) }
        Refused { promised: Epoch(4) }
        Stored { tail: Lsn(7) }
        Fenced { promised: Epoch(5) }"#]]
    .assert_eq(&out.join("\n"));
}

#[test]
fn promises_tails_and_commits_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    let storage = server.storage();
    append(&server, 1, 1, 1, 5, 4);
    fence(&server, 7, 1);
    drop(server);
    let server = open(directory.path());
    assert_eq!(server.storage(), storage);
    expect![
        "Promised { tail: Some(Lsn(6)), committed: Lsn(4), trimmed: Lsn(0), newest: Epoch(1) }"
    ]
    .assert_eq(&fence(&server, 8, 1));
    expect!["Fenced { promised: Epoch(8) }"].assert_eq(&append(&server, 7, 6, 6, 1, 4));
    assert_eq!(read(&server, 1, 1, None), "1/1 1/2 1/3");
    assert_eq!(read(&server, 1, 2, Some(99)), "1/2 1/3 1/4 1/5");
    assert_eq!(*server.subscribe(LOG).borrow(), Lsn(4));
}

#[test]
fn only_what_its_own_leader_committed_is_given_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    // The old leader's record 3 was never committed; the new one wrote another.
    append(&server, 1, 1, 1, 3, 3);
    append(&server, 2, 3, 3, 4, 3);
    append(&server, 2, 3, 7, 0, 6);
    assert_eq!(read(&server, 1, 1, None), "1/1 1/2");
    assert_eq!(read(&server, 1, 3, None), "");
    assert_eq!(read(&server, 2, 3, None), "2/3 2/4 2/5");
    assert_eq!(read(&server, 9, 3, None), "Unknown");
}

#[test]
fn commits_are_heard_without_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    let mut commits = server.subscribe(LOG);
    append(&server, 1, 1, 1, 3, 1);
    let mut notice = request(1, 1, 4, 0, 3);
    notice.probe = false;
    server.append(notice, Box::new(|_| panic!("a notice is not answered")));
    assert!(commits.has_changed().unwrap());
    assert_eq!(*commits.borrow_and_update(), Lsn(3));
    // A commit beyond what is stored here is not readable here.
    append(&server, 1, 1, 4, 0, 9);
    assert_eq!(*commits.borrow_and_update(), Lsn(4));
    // A deposed leader's notice is refused, so that it hears of its end.
    fence(&server, 2, 1);
    let mut notice = request(1, 1, 4, 0, 4);
    notice.probe = false;
    expect!["Fenced { promised: Epoch(2) }"]
        .assert_eq(&format!("{:?}", send(&server, notice).outcome));
}

#[test]
fn trimming_forgets_and_lets_stragglers_jump() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    append(&server, 1, 1, 1, 9, 9);
    assert_eq!(trim(&server, 5), 5);
    assert_eq!(trim(&server, 3), 5);
    assert_eq!(read(&server, 1, 4, None), "Trimmed { trimmed: Lsn(5) }");
    assert_eq!(read(&server, 1, 5, None), "1/5 1/6 1/7 1/8");
    // The leader tells of a trim point beyond what this replica has.
    let mut ahead = request(1, 1, 20, 2, 20);
    ahead.trimmed = Lsn(20);
    expect!["Stored { tail: Lsn(22) }"].assert_eq(&format!("{:?}", send(&server, ahead).outcome));
    drop(server);
    let server = open(directory.path());
    assert_eq!(read(&server, 1, 19, None), "Trimmed { trimmed: Lsn(20) }");
    assert_eq!(read(&server, 1, 20, Some(99)), "1/20 1/21");
    fence(&server, 2, 1);
    trim(&server, 22);
    drop(server);
    let server = open(directory.path());
    assert!(
        server.tail(LOG).segments.is_empty(),
        "nothing is left of it"
    );
    expect!["Promised { tail: None, committed: Lsn(22), trimmed: Lsn(22), newest: Epoch(0) }"]
        .assert_eq(&fence(&server, 3, 1));
}

#[test]
fn many_logs_share_commits_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    let (reply, answers) = channel();
    let payload = bytes::Bytes::from(vec![7; 1000]);
    for lsn in 1..=40 {
        for log in 0..24 {
            let partition = PartitionId(log);
            let record = Record::new(partition, Epoch(1), Lsn(lsn), payload.clone());
            let request = AppendRequest {
                partition,
                committed: Lsn(lsn),
                records: Arc::new([record]),
                ..request(1, 1, lsn, 0, lsn)
            };
            let reply = reply.clone();
            server.append(
                request,
                Box::new(move |outcome| reply.send(outcome).unwrap()),
            );
        }
    }
    for _ in 0..40 * 24 {
        answers.recv().unwrap();
    }
    drop(server);
    let server = open(directory.path());
    for log in 0..24 {
        let tail = server.tail(PartitionId(log));
        assert_eq!(tail.segments[0].tail, Lsn(41));
        assert_eq!(tail.segments[0].committed, Lsn(40));
    }
    let reply = server.read(&ReadRequest {
        partition: PartitionId(23),
        epoch: Epoch(1),
        from: Lsn(1),
        end: None,
        bytes_max: 1 << 20,
    });
    let ReadOutcome::Records { records, .. } = reply.outcome else {
        panic!("{reply:?}");
    };
    assert_eq!(records.len(), 39);
    assert!(records.iter().all(|record| *record.payload() == payload));
}

#[test]
fn a_full_disk_takes_no_appends_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(0));
    let told = free.clone();
    let server = LogServer::open(
        directory.path(),
        LogServerOptions {
            free_bytes_min: 1000,
            free_space: Arc::new(move |_| Ok(told.load(Ordering::Relaxed))),
            ..options()
        },
    )
    .unwrap();
    assert_eq!(append(&server, 1, 1, 1, 1, 1), "Refused(DiskFull)");
    assert!(server.status().is_full);
    // Promises need next to no room, and a taker must not be held up.
    assert!(fence(&server, 1, 0).starts_with("Promised"));
    free.store(2000, Ordering::Relaxed);
    // The disk is looked at once a second.
    let stored =
        (0..10_000_000).any(|_| append(&server, 1, 1, 1, 1, 1) == "Stored { tail: Lsn(2) }");
    assert!(stored);
    assert!(!server.status().is_full);
}

/// The key of a record as `keys.rs` pins it.
fn key(epoch: u64, lsn: u64) -> Vec<u8> {
    let mut key = vec![6, 0, 1];
    key.extend(epoch.to_be_bytes());
    key.extend(lsn.to_be_bytes());
    key
}

#[test]
fn a_corrupt_record_is_told_by_its_lsn() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    append(&server, 1, 1, 1, 5, 6);
    drop(server);
    {
        let db = rocksdb::DB::open_default(directory.path().join("db")).unwrap();
        // What was stored last is still in the journal: put the flipped value over it where that ends.
        drop(db);
        drop(open(directory.path()));
        let db = rocksdb::DB::open_default(directory.path().join("db")).unwrap();
        let value = db.get(key(1, 3)).unwrap();
        if let Some(mut value) = value {
            *value.last_mut().unwrap() ^= 1;
            db.put(key(1, 3), value).unwrap();
            db.flush().unwrap();
        }
    }
    let server = open(directory.path());
    assert_eq!(read(&server, 1, 1, None), "1/1 1/2");
    assert_eq!(read(&server, 1, 3, None), "Corrupt { lsn: Lsn(3) }");
    assert_eq!(read(&server, 1, 4, None), "1/4 1/5");
}

#[test]
fn damaged_files_are_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let server = open(directory.path());
    for lsn in 1..200 {
        append(&server, 1, 1, lsn, 1, lsn);
    }
    drop(server);
    // Everything into table files.
    let db = rocksdb::DB::open_default(directory.path().join("db")).unwrap();
    db.put(key(1, 500), b"x").unwrap();
    db.delete(key(1, 500)).unwrap();
    db.flush().unwrap();
    drop(db);
    let files = |folder: &str, end: &str| {
        let entries = std::fs::read_dir(directory.path().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let found: Vec<_> = paths
            .filter(|path| path.to_str().unwrap().ends_with(end))
            .collect();
        assert!(!found.is_empty());
        found
    };
    let error = || {
        let error = LogServer::open(directory.path(), options()).err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        (error.to_string(), source)
    };
    let table = files("db", ".sst").remove(0);
    let intact = std::fs::read(&table).unwrap();
    std::fs::write(&table, &intact[..intact.len() / 2]).unwrap();
    let (what, source) = error();
    assert!(what.contains("move the directory away"), "{what}");
    assert!(
        source.contains(table.file_name().unwrap().to_str().unwrap()),
        "{source}"
    );
    std::fs::write(&table, &intact).unwrap();
    let journal = files("journal", ".journal").remove(0);
    let intact = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &intact[..intact.len() / 2]).unwrap();
    let (what, source) = error();
    assert!(what.contains("move the log directory away"), "{what}");
    assert!(source.contains(journal.to_str().unwrap()), "{source}");
    std::fs::write(&journal, &intact).unwrap();
    drop(open(directory.path()));
}
