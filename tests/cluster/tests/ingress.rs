//! The ingress answers each of a few hundred requests, good and bad, with the status, headers and body that
//! clients of the ecosystem know.
//!
//! `ABIDE_TEST_OTHER_INGRESS=host:port cargo test --test ingress -- --ignored` prints what another server answers
//! to the same requests, with the services of `services/typescript/ingress.js` registered there.

#![allow(clippy::unwrap_used, reason = "tests")]

use abide_test_cluster::{Cluster, Language, Options, Services, requests};

const REQUESTS: &str = include_str!("../requests/ingress.txt");

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_as_clients_expect() {
    let services = Services::start(Language::Ingress).await;
    let options = Options {
        config: "networking.message-size-limit = \"1 MiB\"".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start(1, options).await;
    cluster.register(&services.uri()).await;

    let ingress = cluster.ingress(0);
    let address = ingress.strip_prefix("http://").unwrap();
    let transcript = requests::transcript(REQUESTS, address).await;
    expect_test::expect_file!["../requests/ingress.answers.txt"].assert_eq(&transcript);
    cluster.assert_healthy();
}

#[tokio::test]
#[ignore = "prints the answers of a server that runs already"]
async fn what_another_server_answers() {
    let address = std::env::var("ABIDE_TEST_OTHER_INGRESS").unwrap();
    println!("{}", requests::transcript(REQUESTS, &address).await);
}
