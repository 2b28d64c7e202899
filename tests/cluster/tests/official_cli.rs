//! The official command line against any node of a cluster, command by command.
//!
//! What it is to print stands in `cli/scenario.txt`. The same scenario runs against another server, such as the one
//! that the command line was made for, with `ABIDE_TEST_CLI_SERVER="admin-url ingress-url"`: a server without data.

#![allow(clippy::unwrap_used, reason = "tests")]

use abide_test_cluster::official_cli::{Door, Scenario};
use abide_test_cluster::{Cluster, Language, Options, Services};
use expect_test::expect_file;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_what_it_is_to_print() {
    let services = Services::start(Language::Rust).await;
    let home = tempfile::tempdir().unwrap();
    let script = include_str!("../cli/scenario.txt");
    let expected = expect_file!["../cli/scenario.txt"];
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
    expected.assert_eq(&scenario.run(script).await);
    cluster.assert_healthy();
}
