//! Figures for who changes something here: `cargo test --release -p abide-metadata -- --ignored figures --nocapture`.

use std::time::{Duration, Instant};

use abide_metadata::Txn;

use crate::cluster::three;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "measures and asserts nothing"]
async fn figures_of_commits_reads_and_idling() {
    let three = three().await;
    let leader = three.leader().await;
    for (place, client) in [
        ("leader", &three.clients[leader]),
        ("follower", &three.clients[(leader + 1) % 3]),
    ] {
        let mut commits = Vec::new();
        let mut reads = Vec::new();
        for number in 0..200 {
            let began = Instant::now();
            client
                .commit(Txn::new().put("a", number.to_string()))
                .await
                .unwrap();
            commits.push(began.elapsed());
            let began = Instant::now();
            client.read("a").await.unwrap();
            reads.push(began.elapsed());
        }
        commits.sort();
        reads.sort();
        println!(
            "at the {place}: commit median {:?}, 99th {:?}; read median {:?}, 99th {:?}",
            commits[100], commits[198], reads[100], reads[198]
        );
    }
    let before = cpu();
    let idle = Duration::from_secs(5);
    tokio::time::sleep(idle).await;
    println!(
        "three idle servers: {:.2} % of a core",
        (cpu() - before).as_secs_f64() / idle.as_secs_f64() * 100.0
    );
}

/// CPU time of this process; fields 14 and 15 of its stat, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
