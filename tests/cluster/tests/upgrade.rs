//! A cluster is restarted node by node, and upgraded so from the program of the commit before, and nobody notices.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::path::PathBuf;

use abide_test_cluster::drill::{self, Ledger};
use abide_test_cluster::rolling::Users;
use abide_test_cluster::{Cluster, Options, beside_the_test};
use tokio::sync::Mutex;

/// Drills share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
const USERS_PER_INGRESS: usize = 4;

async fn start(mut cluster: Cluster) -> (Cluster, Users) {
    let uri = drill::serve(Ledger::default()).await.unwrap();
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.wait_until_serving().await;
    cluster.register(&uri).await;
    for node in 0..cluster.len() {
        for counter in ["call", "nap", "send", "delayed"] {
            let url = format!("{}/DrillCounter/{counter}/get", cluster.ingress(node));
            while !cluster.api().post_empty(&url).await.status.is_success() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    let ingresses = (0..cluster.len())
        .map(|node| cluster.ingress(node))
        .collect();
    let users = Users::start(ingresses, USERS_PER_INGRESS);
    users.wait_for_progress("the load begins").await;
    (cluster, users)
}

/// SIGTERM, and a start as whatever program the node is to run now.
async fn restart(cluster: &mut Cluster, users: &Users, node: usize, what: &str) {
    users.take_slowest();
    cluster.terminate(node).await;
    users.wait_for_progress("while a node is away").await;
    cluster.start_node(node);
    cluster.wait_until_node_serves(node).await;
    users.wait_for_progress("with the node back").await;
    println!(
        "{what}: the slowest request took {:?}, {} failed so far",
        users.take_slowest(),
        users.failures().len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut cluster, users) = start(Cluster::prepare(3, Options::default())).await;
    for node in 0..3 {
        restart(
            &mut cluster,
            &users,
            node,
            &format!("restart of node {}", node + 1),
        )
        .await;
    }
    users.stop_and_audit().await;
    cluster.assert_healthy();
}

/// `ABIDE_TEST_OLD_SERVER`: the server of the commit before, which `scripts/previous-server` builds.
fn old_server() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os("ABIDE_TEST_OLD_SERVER")?);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_and_one_step_back_fail_no_request() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(old) = old_server() else {
        println!(
            "skipped: ABIDE_TEST_OLD_SERVER names no server of another commit; see scripts/upgrade-test"
        );
        return;
    };
    let new = beside_the_test("abide-server");
    let mut cluster = Cluster::prepare(3, Options::default());
    for node in 0..3 {
        cluster.set_program(node, old.clone());
    }
    let (mut cluster, users) = start(cluster).await;
    let steps = [
        (0, &new, "upgrade of node 1"),
        (1, &new, "upgrade of node 2"),
        // Who finds something wrong half-way goes back.
        (1, &old, "node 2 goes back"),
        (1, &new, "upgrade of node 2"),
        (2, &new, "upgrade of node 3"),
    ];
    for (node, program, what) in steps {
        cluster.set_program(node, program.clone());
        restart(&mut cluster, &users, node, what).await;
    }
    users.stop_and_audit().await;
    cluster.assert_healthy();
}
