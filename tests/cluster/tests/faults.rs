//! Networks that are cut in every way, clocks that are wrong and a disk that is full, under steady load.
//!
//! What takes root, network namespaces, loop devices or libfaketime says so and passes where they are missing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abide_test_cluster::disk::SmallDisk;
use abide_test_cluster::under_load::{LONGER_THAN_THE_FAILURE_TIMEOUT, UnderLoad};
use abide_test_cluster::{Cluster, Network, Options};
use http::Method;
use tokio::sync::Mutex;

/// Drills share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
const WITHIN: Duration = Duration::from_secs(120);

/// Three nodes with addresses of their own; nothing where this machine does not let us.
fn network() -> Option<Arc<Network>> {
    match Network::try_new(3) {
        Ok(network) => Some(Arc::new(network)),
        Err(reason) => {
            println!("skipped, there are no network namespaces here: {reason}");
            None
        }
    }
}

async fn start(network: &Arc<Network>) -> UnderLoad {
    let options = Options {
        network: Some(Arc::clone(network)),
        ..Options::default()
    };
    UnderLoad::start(options).await
}

/// Cuts the network, has the load go on at the nodes that are `whole`, mends it, and sees that all is as before.
async fn cut_and_heal(
    load: &mut UnderLoad,
    network: &Network,
    what: &str,
    whole: &[usize],
    cut: impl FnOnce(&Network),
) {
    let broken: Vec<usize> = (0..3).filter(|node| !whole.contains(node)).collect();
    for node in &broken {
        load.clients.expect_down(*node);
    }
    cut(network);
    load.wait_for_progress(&format!("{what}, at first")).await;
    tokio::time::sleep(LONGER_THAN_THE_FAILURE_TIMEOUT).await;
    load.wait_for_progress(&format!("{what}, later")).await;
    network.heal();
    load.wait_until_converged().await;
    for node in &broken {
        load.clients.expect_up(*node);
    }
    load.wait_for_progress(&format!("{what}, healed")).await;
    load.print_longest_wait(what);
    load.cluster.assert_healthy();
}

fn others(node: usize) -> Vec<usize> {
    (0..3).filter(|other| *other != node).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_is_replaced_and_comes_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(network) = network() else { return };
    let mut load = start(&network).await;
    let victim = load.cluster.leader_of(load.partition).await.node;
    let what = "a leader is cut off";
    cut_and_heal(&mut load, &network, what, &others(victim), |network| {
        for other in others(victim) {
            network.cut_both_ways(victim, other);
        }
    })
    .await;
    let victim = load.cluster.metadata_leader().await;
    let what = "the metadata leader is cut off";
    cut_and_heal(&mut load, &network, what, &others(victim), |network| {
        for other in others(victim) {
            network.cut_both_ways(victim, other);
        }
    })
    .await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_heard_by_nobody_or_hears_nobody_is_replaced() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(network) = network() else { return };
    let mut load = start(&network).await;
    let victim = load.cluster.leader_of(load.partition).await.node;
    let what = "nobody hears a leader";
    cut_and_heal(&mut load, &network, what, &others(victim), |network| {
        for other in others(victim) {
            network.cut(victim, other);
        }
    })
    .await;
    let victim = load.cluster.leader_of(load.partition).await.node;
    let what = "a leader hears nobody";
    cut_and_heal(&mut load, &network, what, &others(victim), |network| {
        for other in others(victim) {
            network.cut(other, victim);
        }
    })
    .await;
    load.finish().await;
}

/// Two nodes see the third and not each other. Each has a majority on its side, so that leaders stay where the node
/// that governs sees them; clients of the two may not reach all leaders, those of the third do.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_see_the_third_only_tell_no_two_stories() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(network) = network() else { return };
    let mut load = start(&network).await;
    let governs = load.cluster.metadata_leader().await;
    for middle in [governs, (governs + 1) % 3] {
        let what = if middle == governs {
            "a bridge over the metadata leader"
        } else {
            "a bridge beside the metadata leader"
        };
        let sides = others(middle);
        cut_and_heal(&mut load, &network, what, &[middle], |network| {
            network.cut_both_ways(sides[0], sides[1]);
        })
        .await;
    }
    load.finish().await;
}

/// Preloaded into a process it lies about the time of day, and leaves the clock that only goes forward alone.
fn libfaketime() -> Option<PathBuf> {
    let lib = fs::read_dir("/usr/lib").ok()?;
    lib.filter_map(Result::ok)
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_wrong_break_nothing_and_timers_fire_once() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(library) = libfaketime() else {
        println!("skipped, libfaketime is not installed here");
        return;
    };
    let lies = |by: &str| {
        vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAKETIME".to_owned(), by.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ("DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]
    };
    let options = Options {
        environment: [(0, lies("+12s")), (2, lies("-12s"))].into(),
        ..Options::default()
    };
    let mut load = UnderLoad::start(options).await;
    let mut timers = 0;
    for node in [0, 1, 2] {
        for _ in 0..20 {
            let url = format!(
                "{}/DrillCounter/timer{timers}/add/send?delay=3s",
                load.cluster.ingress(node)
            );
            let key = format!("timer-{timers}");
            let headers = [("idempotency-key", key.as_str())];
            let sent = (load.cluster.api())
                .request(Method::POST, &url, &headers, "")
                .await;
            sent.unwrap().expect_success();
            timers += 1;
        }
        // Leaders move between clocks while timers wait.
        load.clients.expect_down(node);
        load.cluster.terminate(node).await;
        load.wait_for_progress("while a node is away").await;
        load.cluster.start_node(node);
        load.cluster.wait_until_node_serves(node).await;
        load.clients.expect_up(node);
        load.wait_for_progress("with the node back").await;
    }
    let deadline = Instant::now() + WITHIN;
    for timer in 0..timers {
        let url = format!("{}/DrillCounter/timer{timer}/get", load.cluster.ingress(1));
        while load.cluster.api().post_empty(&url).await.expect_success() == 0 {
            assert!(Instant::now() < deadline, "timer {timer} does not fire");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // Nobody fires one again: another leader, or a clock that goes past it a second time.
    load.kill_and_restart("kill -9 of a node with a wrong clock", &[0])
        .await;
    for timer in 0..timers {
        let url = format!("{}/DrillCounter/timer{timer}/get", load.cluster.ingress(1));
        let fired = load.cluster.api().post_empty(&url).await.expect_success();
        assert_eq!(fired, 1, "timer {timer}");
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_one_node_before_it_is_full_and_room_brings_it_back() {
    const VICTIM: usize = 2;
    const MIB: u64 = 1 << 20;
    let _turn = ONE_AT_A_TIME.lock().await;
    let options = Options {
        config: "log-server.free-space-min = \"128MiB\"".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::prepare(3, options);
    let disk = match SmallDisk::try_mount(&cluster.data(VICTIM), 1024 * MIB) {
        Ok(disk) => disk,
        Err(reason) => {
            println!("skipped, no disk can be mounted here: {reason}");
            return;
        }
    };
    let mut load = UnderLoad::of(cluster).await;
    disk.fill(64 * MIB).unwrap();
    wait_until_said(&load.cluster, VICTIM, "disk nearly full, appends refused").await;
    load.wait_for_progress("with a full disk").await;
    tokio::time::sleep(LONGER_THAN_THE_FAILURE_TIMEOUT).await;
    load.wait_for_progress("with a full disk, later").await;
    assert!(0 < disk.free().unwrap(), "it writes on to the end");
    let url = format!("http://{}/health", load.cluster.node_address(VICTIM));
    let health = load.cluster.api().get(&url).await.text();
    assert!(health.contains("DiskFull"), "{health}");
    load.print_longest_wait("a full disk");

    disk.make_room().unwrap();
    wait_until_said(&load.cluster, VICTIM, "disk has room again").await;
    load.wait_until_converged().await;
    // It counts again: with another node away there is no quorum without it.
    load.kill_and_restart("kill -9 of another node", &[0]).await;
    load.finish().await;
    drop(disk);
}

async fn wait_until_said(cluster: &Cluster, node: usize, what: &str) {
    let deadline = Instant::now() + WITHIN;
    while !cluster.output(node).contains(what) {
        assert!(
            Instant::now() < deadline,
            "node {node} does not say: {what}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
