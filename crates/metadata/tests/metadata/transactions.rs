use abide_metadata::{
    CommitError, Document as _, Metadata, MetadataError, PartitionEntry, PartitionTable, Txn, keys,
};
use abide_types::{Epoch, PartitionId, Role};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{describe, options, soon, three};

const WAIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_is_seen_by_every_reader_and_every_view() {
    let three = three().await;
    let version = three.clients[1]
        .commit(Txn::new().expect("schema", 0).put("schema", "{}"))
        .await
        .unwrap();
    for client in &three.clients {
        let read = soon("read", client.read("schema")).await.unwrap().unwrap();
        assert_eq!((read.version, read.value.as_ref()), (version, &b"{}"[..]));
        let view = client.view_at_least(version, WAIT).await.unwrap();
        assert_eq!(view.raw("schema"), Some(&read));
    }
    assert_eq!(three.clients[2].read("nothing").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_expect_the_same_version_one_wins() {
    let three = three().await;
    let first = three.clients[0]
        .commit(Txn::new().expect("a", 0).put("a", "1"))
        .await
        .unwrap();
    let rivals = three.clients.iter().enumerate().map(|(index, client)| {
        let txn = Txn::new().expect("a", first).put("a", index.to_string());
        client.commit(txn)
    });
    let results = soon("commits", futures::future::join_all(rivals)).await;
    let won: Vec<u64> = results
        .iter()
        .filter_map(|r| r.as_ref().ok())
        .copied()
        .collect();
    assert_eq!(won.len(), 1, "{results:?}");
    for lost in results.iter().filter_map(|result| result.as_ref().err()) {
        let CommitError::Conflict {
            key,
            expected,
            actual,
        } = lost
        else {
            panic!("{lost}");
        };
        assert_eq!((key.as_str(), *expected, *actual), ("a", first, won[0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_keys_change_together_or_not_at_all() {
    let three = three().await;
    let client = &three.clients[2];
    let mut table = PartitionTable::default();
    for partition in 0..24 {
        let entry = PartitionEntry {
            epoch: Epoch(1),
            ..PartitionEntry::default()
        };
        table.partitions.insert(PartitionId(partition), entry);
    }
    let both = Txn::new()
        .replace(&table)
        .put(keys::log(PartitionId(0)), "[]");
    let version = client.commit(both).await.unwrap();
    let view = client.view_at_least(version, WAIT).await.unwrap();
    assert_eq!(view.partition_table.version, version);
    assert_eq!(view.partition_table.partitions.len(), 24);
    assert_eq!(view.raw("log/0").unwrap().version, version);

    // The table is not absent any more: neither write may show.
    let stale = Txn::new()
        .replace(&table)
        .put(keys::log(PartitionId(1)), "[]");
    assert!(matches!(
        client.commit(stale).await,
        Err(CommitError::Conflict { expected: 0, .. })
    ));
    assert_eq!(client.read("log/1").await.unwrap(), None);
    let read = client.read(PartitionTable::KEY).await.unwrap().unwrap();
    assert_eq!(read.version, version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn malformed_transactions_are_refused() {
    let three = three().await;
    for txn in [
        Txn::new().put("", "1"),
        Txn::new().put("a", "1").put("a", "2"),
        Txn::new().put("a", "1").delete("a"),
        Txn::new().put("k".repeat(2000), "1"),
        Txn::new().put("big", vec![0; 20 << 20]),
    ] {
        let refused = three.clients[0].commit(txn).await;
        assert!(
            matches!(refused, Err(CommitError::Refused { .. })),
            "{refused:?}"
        );
    }
    // A large one that is allowed gets to everybody.
    let large = Txn::new().put("large", vec![b'1'; 8 << 20]);
    let version = three.clients[0].commit(large).await.unwrap();
    for client in &three.clients {
        let view = client.view_at_least(version, WAIT).await.unwrap();
        assert_eq!(view.raw("large").unwrap().value.len(), 8 << 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_without_a_server_watches_and_resumes_elsewhere() {
    let mut three = three().await;
    let worker = describe("w1", "127.0.0.1:9", &[Role::Worker]);
    let (client, joined) = soon("joining", Metadata::join(options(&three.addresses), worker))
        .await
        .unwrap();
    assert_eq!(joined.node.0, 4);
    assert_eq!(joined.fingerprint, three.joined[0].fingerprint);
    let version = client
        .commit(Txn::new().put("a", "1").put("b", "1"))
        .await
        .unwrap();
    client.view_at_least(version, WAIT).await.unwrap();

    // The stream is from one of the three; whichever it is, the next ones carry on where it ended.
    for round in 0..2 {
        let seen = Arc::clone(&client.view());
        let leaving = three.nodes.remove(0);
        if round == 0 {
            leaving.shutdown().await;
            let change = Txn::new().put("a", "2").delete("b");
            let version = soon("commit", client.commit(change)).await.unwrap();
            let view = client.view_at_least(version, WAIT).await.unwrap();
            assert!(view.version > seen.version);
            assert_eq!(view.raw("a").unwrap().value.as_ref(), b"2");
            assert_eq!(view.raw("b"), None);
            assert!(Arc::ptr_eq(&view.nodes, &seen.nodes), "parsed once");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tools_connect_without_joining() {
    let three = three().await;
    let client = soon("connect", Metadata::connect(options(&three.addresses)))
        .await
        .unwrap();
    let version = client.commit(Txn::new().put("a", "1")).await.unwrap();
    let view = client.view_at_least(version, WAIT).await.unwrap();
    assert_eq!(view.nodes.members().count(), 3);
    let servers = soon("statuses", client.servers()).await;
    let leaders: Vec<_> = servers
        .iter()
        .map(|(_, status)| status.as_ref().unwrap().leader)
        .collect();
    assert_eq!(leaders.len(), 3);
    assert!(leaders.iter().all(|leader| *leader == leaders[0]));

    let nobody = Metadata::connect(options(&["127.0.0.1:1".into()])).await;
    assert!(matches!(nobody, Err(MetadataError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_lose_no_update() {
    let three = three().await;
    let count = |client: Metadata| async move {
        for _ in 0..20 {
            loop {
                let read = client.read("count").await.unwrap();
                let version = read.as_ref().map_or(0, |read| read.version);
                let value: u64 = read.map_or(0, |read| {
                    std::str::from_utf8(&read.value).unwrap().parse().unwrap()
                });
                let next = Txn::new()
                    .expect("count", version)
                    .put("count", (value + 1).to_string());
                match client.commit(next).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let writers = three.clients.iter().cloned().map(count);
    soon("counting", futures::future::join_all(writers)).await;
    let read = three.clients[0].read("count").await.unwrap().unwrap();
    assert_eq!(read.value.as_ref(), b"60");
}
