use std::time::{Duration, Instant};

use abide_metadata::{CommitError, ServerState, Txn};
use abide_types::Generation;

use crate::cluster::{Node, addresses, leader_of, options, ports, soon, three, three_with, until};

const WAIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_shuts_down_hands_over_and_clients_carry_on() {
    let mut three = three().await;
    let leader = three.leader().await;
    let client = three.clients[(leader + 1) % 3].clone();
    client.commit(Txn::new().put("a", "1")).await.unwrap();
    let leaving = three.nodes.remove(leader);
    let began = Instant::now();
    leaving.shutdown().await;
    let version = soon("commit", client.commit(Txn::new().put("a", "2")))
        .await
        .unwrap();
    println!(
        "polite: committed {:?} after the shutdown began",
        began.elapsed()
    );
    for (index, client) in three.clients.iter().enumerate() {
        if index != leader {
            let view = client.view_at_least(version, WAIT).await.unwrap();
            assert_eq!(view.raw("a").unwrap().value.as_ref(), b"2");
        }
    }
    let next = leader_of(&three.nodes).await;
    assert!(three.nodes[next].server.is_leader());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_vanishes_is_replaced() {
    let mut three = three().await;
    let leader = three.leader().await;
    let client = three.clients[(leader + 1) % 3].clone();
    let gone = three.nodes.remove(leader);
    let began = Instant::now();
    gone.kill().await;
    soon("commit", client.commit(Txn::new().put("a", "2")))
        .await
        .unwrap();
    println!("silent: committed {:?} after the kill", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn followers_that_know_do_not_wait_for_the_lease() {
    // So long that only the word of the caller can be the cause.
    let mut three = three_with(|options| {
        options.election_timeout_min = Duration::from_secs(20);
        options.election_timeout_max = Duration::from_secs(40);
    })
    .await;
    let leader = three.leader().await;
    let client = three.clients[(leader + 1) % 3].clone();
    let gone = three.nodes.remove(leader);
    gone.kill().await;
    let began = Instant::now();
    // Both at once, as it is when both lose their connection.
    futures::future::join_all(
        three
            .nodes
            .iter()
            .map(|node| node.server.trigger_election()),
    )
    .await;
    let committed = tokio::time::timeout(
        Duration::from_secs(15),
        client.commit(Txn::new().put("a", "2")),
    );
    committed.await.unwrap().unwrap();
    println!("told: committed {:?} after the word", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_quorum_a_commit_fails_at_its_deadline_and_says_what_is_known() {
    let mut three = three_with(|options| options.request_timeout = Duration::from_secs(2)).await;
    let leader = three.leader().await;
    let client = three.clients[leader].clone();
    let keep = three.nodes.remove(leader);
    for node in three.nodes.drain(..) {
        node.kill().await;
    }
    let failed = soon("commit", client.commit(Txn::new().put("a", "1"))).await;
    assert!(
        matches!(
            failed,
            Err(CommitError::Unknown { .. } | CommitError::Unavailable { .. })
        ),
        "{failed:?}"
    );
    // What is known stays readable from the cache.
    assert_eq!(client.view().nodes.members().count(), 3);
    keep.kill().await;
    let failed = soon("commit", client.commit(Txn::new().put("a", "1"))).await;
    assert!(
        matches!(failed, Err(CommitError::Unavailable { .. })),
        "{failed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_restart_at_once_at_other_addresses() {
    let mut three = three().await;
    let version = three.clients[0]
        .commit(Txn::new().put("a", "1"))
        .await
        .unwrap();
    for client in &three.clients {
        client.view_at_least(version, WAIT).await.unwrap();
    }
    futures::future::join_all(three.nodes.drain(..).map(Node::kill)).await;
    three.clients.clear();

    let began = Instant::now();
    let ports = ports::<3>().await;
    let seeds = addresses(&ports);
    let starting = ports.into_iter().enumerate().map(|(index, port)| {
        let name = format!("n{}", index + 1);
        let directory = three.directories[index].path().to_owned();
        let options = options(&seeds);
        async move { Node::start(&name, &directory, port, options).await }
    });
    let nodes = futures::future::join_all(starting).await;
    let joined = futures::future::join_all(nodes.iter().map(Node::join)).await;
    println!("restart: all joined {:?} after it began", began.elapsed());
    for ((client, now), before) in joined.iter().zip(&three.joined) {
        assert_eq!(now.node, before.node);
        assert_eq!(now.fingerprint, before.fingerprint);
        assert!(now.generation >= Generation(2), "{now:?}");
        let read = soon("read", client.read("a")).await.unwrap().unwrap();
        assert_eq!((read.version, read.value.as_ref()), (version, &b"1"[..]));
    }
    let version = joined[1].0.commit(Txn::new().put("a", "2")).await.unwrap();
    for (client, _) in &joined {
        let view = client.view_at_least(version, WAIT).await.unwrap();
        for ((_, entry), address) in view.nodes.members().zip(&seeds) {
            let index: usize = entry.name[1..].parse().unwrap();
            assert_eq!(entry.address, seeds[index - 1], "not {address}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_away_catches_up() {
    let mut three = three().await;
    let leader = three.leader().await;
    let away = (leader + 1) % 3;
    let name = format!("n{}", away + 1);
    three.nodes.remove(away).kill().await;
    let client = three.clients[leader].clone();
    let mut version = 0;
    for number in 0..50 {
        version = client
            .commit(Txn::new().put("a", number.to_string()))
            .await
            .unwrap();
    }
    let mut ports = ports::<1>().await.into_iter();
    let port = ports.next().unwrap();
    let directory = three.directories[away].path();
    let back = Node::start(&name, directory, port, options(&three.addresses)).await;
    let (client, joined) = back.join().await;
    assert_eq!(joined.node, three.joined[away].node);
    let view = client.view_at_least(version, WAIT).await.unwrap();
    assert_eq!(view.raw("a").unwrap().value.as_ref(), b"49");
    until("following", &[back], |status| {
        status.state == ServerState::Follower && status.voters.len() == 3
    })
    .await;
}
