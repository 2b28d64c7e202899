//! One server goes on with what it holds; nobody who was left behind can do it harm.

use std::path::Path;
use std::time::Duration;

use abide_metadata::{LogPosition, RecoveryError, ServerFailure, Txn};
use tempfile::TempDir;

use crate::cluster::{Node, Three, options, port, ports, soon, three, until};

const WAIT: Duration = Duration::from_secs(30);

/// Orders the recovery at the third server and ends it; returns the fingerprint to come.
async fn order_at_the_third(three: &mut Three) -> u64 {
    let third = three.nodes.pop().unwrap();
    let last = third.server.holdings().unwrap().last;
    let fingerprint = third.server.order_recovery(last).await.unwrap();
    third.kill().await;
    fingerprint
}

/// Starts the third again on its directory, alone.
async fn start_the_third(three: &Three) -> Node {
    start("n3", three.directories[2].path(), &three.addresses).await
}

async fn start(name: &str, directory: &Path, others: &[String]) -> Node {
    Node::start(name, directory, port().await, options(others)).await
}

async fn lose_two(three: &mut Three) {
    for node in three.nodes.drain(..2) {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_survivor_goes_on_with_all_it_held_and_takes_new_servers() {
    let mut three = three().await;
    let version = soon("commit", three.clients[0].commit(Txn::new().put("a", "1")))
        .await
        .unwrap();
    three.clients[2].view_at_least(version, WAIT).await.unwrap();
    let before = three.joined[2];
    lose_two(&mut three).await;

    let fingerprint = order_at_the_third(&mut three).await;
    let survivor = start_the_third(&three).await;
    let (client, joined) = survivor.join().await;
    assert_eq!(joined.node, before.node);
    assert_eq!(joined.fingerprint, fingerprint);
    assert_ne!(joined.fingerprint, before.fingerprint);
    let stored = soon("read", client.read("a")).await.unwrap().unwrap();
    assert_eq!(
        (stored.value.as_ref(), stored.version),
        (&b"1"[..], version)
    );
    assert_eq!(
        client.view().cluster.as_ref().unwrap().fingerprint,
        fingerprint
    );
    soon("commit", client.commit(Txn::new().put("a", "2")))
        .await
        .unwrap();

    // The lost ones come with empty directories, under their names and with their ids.
    let addresses = [survivor.address.clone()];
    let mut nodes = vec![survivor];
    for index in 0..2 {
        let directory = TempDir::new().unwrap();
        let name = format!("n{}", index + 1);
        let node = start(&name, directory.path(), &addresses).await;
        let (_, again) = node.join().await;
        assert_eq!(again.node, three.joined[index].node);
        nodes.push(node);
        three.directories.push(directory);
    }
    until("three voters", &nodes, |status| {
        status.voters.len() == 3 && !status.changing
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_that_were_given_up_join_anew_and_are_no_rivals() {
    let mut three = three().await;
    lose_two(&mut three).await;
    let fingerprint = order_at_the_third(&mut three).await;
    // The two were not lost after all, and are a majority. What only they hold was given up.
    let two: Vec<Node> = {
        let [first, second] = ports::<2>().await;
        let addresses = [first.address.clone(), second.address.clone()];
        let directories = &three.directories;
        vec![
            Node::start("n1", directories[0].path(), first, options(&addresses)).await,
            Node::start("n2", directories[1].path(), second, options(&addresses)).await,
        ]
    };
    let (client, _) = two[0].join().await;
    soon("commit", client.commit(Txn::new().put("rival", "1")))
        .await
        .unwrap();

    let survivor = start_the_third(&three).await;
    let (client, _) = survivor.join().await;
    let survivors = [survivor.address.clone()];
    for node in two {
        node.kill().await;
    }
    let mut nodes = vec![survivor];
    for index in 0..2 {
        let name = format!("n{}", index + 1);
        let directory = three.directories[index].path();
        let node = start(&name, directory, &survivors).await;
        let (_, joined) = node.join().await;
        assert_eq!(joined.node, three.joined[index].node);
        assert_eq!(joined.fingerprint, fingerprint);
        nodes.push(node);
        let aside = directory.with_file_name(format!(
            "{}.superseded-{:016x}",
            directory.file_name().unwrap().to_string_lossy(),
            three.joined[index].fingerprint
        ));
        assert!(aside.exists(), "{} is not kept", aside.display());
        std::fs::remove_dir_all(aside).unwrap();
    }
    until("three voters", &nodes, |status| {
        status.voters.len() == 3 && !status.changing
    })
    .await;
    assert_eq!(soon("read", client.read("rival")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_runs_beside_a_recovered_cluster_notices_and_ends() {
    let mut three = three().await;
    let first = three.nodes.remove(0);
    three.nodes.remove(0).kill().await;
    let third = three.nodes.pop().unwrap();
    let last = third.server.holdings().unwrap().last;
    third.server.order_recovery(last).await.unwrap();
    third.kill().await;
    let [port] = ports::<1>().await;
    let address = port.address.clone();
    let directory = three.directories[2].path();
    let survivor = Node::start("n3", directory, port, options(&three.addresses)).await;
    survivor.join().await;
    // As the fabric would tell.
    let node = three.joined[2];
    let generation = abide_types::Generation(node.generation.0 + 1);
    first.server.learn_address(node.node, generation, &address);
    let mut failure = first.server.failure();
    let failed = soon("the end", failure.wait_for(Option::is_some)).await;
    let Some(ServerFailure::Superseded(said)) = failed.unwrap().clone() else {
        panic!("it failed for another reason");
    };
    assert!(said.contains("recovered without this node"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_that_time_has_overtaken_is_not_carried_out() {
    let mut three = three().await;
    let third = three.nodes.pop().unwrap();
    let wrong = LogPosition {
        index: 1,
        ..LogPosition::default()
    };
    let refused = third.server.order_recovery(wrong).await;
    assert!(
        matches!(refused, Err(RecoveryError::Moved { .. })),
        "{refused:?}"
    );

    let last = third.server.holdings().unwrap().last;
    third.server.order_recovery(last).await.unwrap();
    // The majority was there after all.
    let version = soon("commit", three.clients[0].commit(Txn::new().put("a", "1")))
        .await
        .unwrap();
    three.clients[2].view_at_least(version, WAIT).await.unwrap();
    third.kill().await;
    let third = start("n3", three.directories[2].path(), &three.addresses).await;
    let (_, joined) = third.join().await;
    assert_eq!(joined.fingerprint, three.joined[2].fingerprint);
    three.nodes.push(third);
    until("three voters", &three.nodes, |status| {
        status.voters.len() == 3
    })
    .await;
}
