//! The official command line against any node of a cluster, command by command.
//!
//! What it is to print stands in `cli/`. The same scenarios run against another server, such as the one that the command
//! line was made for, with `ABIDE_TEST_CLI_SERVER="admin-url ingress-url"`: a server without data, one test at a time.

#![allow(clippy::unwrap_used, reason = "tests")]

use abide_test_cluster::official_cli::{Door, Scenario};
use abide_test_cluster::{Cluster, Language, Options, Services};
use expect_test::{ExpectFile, expect_file};
use tokio::sync::Mutex;

/// Clusters share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn registration_settings_and_subscriptions() {
    let expected = expect_file!["../cli/registry.txt"];
    run(include_str!("../cli/registry.txt"), expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invocations_and_state() {
    let expected = expect_file!["../cli/invocations.txt"];
    run(include_str!("../cli/invocations.txt"), expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_queues() {
    let expected = expect_file!["../cli/limits.txt"];
    run(include_str!("../cli/limits.txt"), expected).await;
}

async fn run(script: &str, expected: ExpectFile) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let services = Services::start(Language::Rust).await;
    let home = tempfile::tempdir().unwrap();
    if let Ok(server) = std::env::var("ABIDE_TEST_CLI_SERVER") {
        let (admin, ingress) = server.split_once(' ').unwrap();
        let door = Door {
            admin: admin.to_owned(),
            ingress: ingress.to_owned(),
        };
        let mut scenario = Scenario::new(vec![door], home.path(), &services.uri());
        expected.assert_eq(&scenario.run(script).await);
        return;
    }
    let mut cluster = Cluster::start(3, Options::default()).await;
    let doors = (0..cluster.len()).map(|node| Door {
        admin: cluster.admin(node),
        ingress: cluster.ingress(node),
    });
    let mut scenario = Scenario::new(doors.collect(), home.path(), &services.uri());
    scenario.wait_until_registering().await;
    expected.assert_eq(&scenario.run(script).await);
    cluster.assert_healthy();
}
