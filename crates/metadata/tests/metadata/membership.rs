use std::time::Duration;

use abide_metadata::{JoinError, NodeState, RemoveError, ServerFailure, Txn};
use abide_types::NodeId;
use tempfile::TempDir;

use crate::cluster::{Node, options, port, soon, three, three_with, until};

const WAIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fresh_node_is_fed_by_a_snapshot_when_the_log_is_gone() {
    let adjust = |options: &mut abide_metadata::MetadataOptions| {
        options.snapshot_every = 50;
        options.entries_kept = 5;
    };
    let mut three = three_with(adjust).await;
    let client = three.clients[0].clone();
    let mut version = 0;
    for number in 0..120 {
        version = client
            .commit(Txn::new().put(format!("key/{}", number % 10), number.to_string()))
            .await
            .unwrap();
    }
    until("compaction", &three.nodes, |status| {
        status.snapshot >= 50 && status.purged >= 40
    })
    .await;

    let directory = TempDir::new().unwrap();
    let mut settings = options(&three.addresses);
    adjust(&mut settings);
    let fresh = Node::start("n4", directory.path(), port().await, settings).await;
    let (client, joined) = fresh.join().await;
    assert_eq!(joined.node, NodeId(4));
    let view = client.view_at_least(version, WAIT).await.unwrap();
    assert_eq!(view.raw("key/9").unwrap().value.as_ref(), b"119");
    assert_eq!(
        view.keys().filter(|key| key.starts_with("key/")).count(),
        10
    );
    let status = fresh.server.status();
    assert!(status.snapshot >= 50, "{status:?}");
    assert!(status.purged >= 40, "{status:?}");
    // Four servers: the fourth listens.
    three.nodes.push(fresh);
    until("a learner", &three.nodes, |status| {
        status.voters.len() == 3 && status.learners == [NodeId(4)]
    })
    .await;

    // All of it is there after a restart from snapshot and log.
    let fresh = three.nodes.pop().unwrap();
    fresh.shutdown().await;
    let back = Node::start(
        "n4",
        directory.path(),
        port().await,
        options(&three.addresses),
    )
    .await;
    let (client, _) = back.join().await;
    let view = client.view_at_least(version, WAIT).await.unwrap();
    assert_eq!(view.raw("key/9").unwrap().value.as_ref(), b"119");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_node_leaves_the_voters_first_and_does_not_come_back() {
    let mut three = three().await;
    let leader = three.leader().await;
    // Removing the leader is the hardest case: it has to commit that it does not vote any more.
    let removed = three.joined[leader].node;
    let client = three.clients[(leader + 1) % 3].clone();
    soon("removal", client.remove_node(removed)).await.unwrap();
    let gone = three.nodes.remove(leader);
    until("two voters", &three.nodes, |status| {
        status.voters.len() == 2 && status.learners.is_empty()
    })
    .await;
    let view = client.view();
    let entry = view.nodes.nodes.get(&removed).unwrap();
    assert_eq!(entry.state, NodeState::Removed);
    // Nobody replicates to it any more, perhaps not even that it was removed: it asks.
    let mut failure = gone.server.failure();
    let told = soon(
        "the end of who was removed",
        failure.wait_for(Option::is_some),
    )
    .await;
    let removal = ServerFailure::Removed { node: removed };
    assert_eq!(*told.unwrap(), Some(removal));
    gone.shutdown().await;

    let name = format!("n{}", leader + 1);
    let directory = three.directories[leader].path();
    let seeds = three.addresses.clone();
    let back = Node::start(&name, directory, port().await, options(&seeds)).await;
    let refused = soon("join", back.server.join()).await;
    assert!(matches!(refused, Err(JoinError::Removed { node }) if node == removed));
    back.shutdown().await;

    // The name is free for a new directory, which gets a new id and the vote.
    let directory = TempDir::new().unwrap();
    let fresh = Node::start(&name, directory.path(), port().await, options(&seeds)).await;
    let (_, joined) = fresh.join().await;
    assert_eq!(joined.node, NodeId(4));
    three.nodes.push(fresh);
    until("three voters", &three.nodes, |status| {
        status.voters.len() == 3 && status.voters.contains(&NodeId(4))
    })
    .await;
    let unknown = client.remove_node(NodeId(77)).await;
    assert!(matches!(unknown, Err(RemoveError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_draining_server_listens_and_votes_again_when_it_is_active() {
    let three = three().await;
    let leader = three.leader().await;
    let draining = (leader + 1) % 3;
    let node = three.joined[draining].node;
    let client = three.clients[leader].clone();
    for (state, voters) in [(NodeState::Draining, 2), (NodeState::Active, 3)] {
        let mut nodes = (*client.view().nodes).clone();
        nodes.nodes.get_mut(&node).unwrap().state = state;
        let version = client.commit(Txn::new().replace(&nodes)).await.unwrap();
        client.view_at_least(version, WAIT).await.unwrap();
        until("the voters", &three.nodes, |status| {
            status.voters.len() == voters
        })
        .await;
    }
}
