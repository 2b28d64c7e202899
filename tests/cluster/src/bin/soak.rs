//! Steady load on three nodes with snapshots and trimming on: disk and memory must level off.
//!
//! Prints a line every few seconds, and fails when a counter is wrong, a node ends, or disk or memory still grow in the
//! last third of the time. Start it with `scripts/soak`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::drill::{self, Ledger};
use abide_test_cluster::{Api, Cluster, Options};
use tempfile::TempDir;

const NODES: usize = 3;
/// How much larger the last third's mean may be than the middle third's, and what is noise in any case.
const GROWTH_MAX: f64 = 1.25;
const NOISE_BYTES: f64 = (64 << 20) as f64;

struct Settings {
    length: Duration,
    rate: u64,
    seed: u64,
    every: Duration,
    partitions: u16,
}

impl Settings {
    fn parse() -> Result<Self, String> {
        let mut settings = Self {
            length: Duration::from_secs(600),
            rate: 200,
            seed: 1,
            every: Duration::from_secs(10),
            partitions: 6,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or(format!("{flag} wants a value"))?;
            let number: f64 = value
                .parse()
                .map_err(|_| format!("{flag} {value}: not a number"))?;
            match flag.as_str() {
                "--minutes" => settings.length = Duration::from_secs_f64(number * 60.0),
                "--rate" => settings.rate = number.max(1.0) as u64,
                "--seed" => settings.seed = number as u64,
                "--every" => settings.every = Duration::from_secs_f64(number.max(1.0)),
                "--partitions" => settings.partitions = number.max(1.0) as u16,
                _ => return Err(format!("{flag} is not known")),
            }
        }
        Ok(settings)
    }

    fn config(&self, place: &Path) -> String {
        format!(
            "default-num-partitions = {}\n\
             default-idempotency-retention = \"1m\"\n\
             default-journal-retention = \"30s\"\n\
             worker.cleanup-interval = \"5s\"\n\
             worker.storage.flush-interval = \"10s\"\n\
             worker.snapshots.destination = \"file://{}\"\n\
             worker.snapshots.snapshot-interval = \"20s\"\n\
             worker.trim-delay-interval = \"30s\"\n\
             worker.trim-check-interval = \"1s\"\n\
             worker.trim-num-records-min = 100\n\
             log-server.free-space-min = \"64MiB\"",
            self.partitions,
            place.display()
        )
    }
}

/// Disk and memory of everything at one time, in bytes.
#[derive(Clone, Copy, Default)]
struct Sample {
    log: f64,
    stores: f64,
    metadata: f64,
    snapshots: f64,
    memory: f64,
}

impl Sample {
    fn take(cluster: &Cluster, place: &Path) -> Self {
        let mut sample = Self {
            snapshots: size(place),
            ..Self::default()
        };
        for node in 0..NODES {
            let data = cluster.data(node);
            sample.log += size(&data.join("log"));
            sample.stores += size(&data.join("partitions")) + size(&data.join("exports"));
            sample.metadata += size(&data.join("metadata"));
            sample.memory += cluster.id(node).map_or(0.0, resident);
        }
        sample
    }

    fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("log", self.log),
            ("stores", self.stores),
            ("metadata", self.metadata),
            ("snapshots", self.snapshots),
            ("memory", self.memory),
        ]
    }
}

/// Bytes on disk below a folder. Files come and go meanwhile.
fn size(path: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(path) else {
        return 0.0;
    };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.blocks() as f64 * 512.0,
        Err(_) => 0.0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

fn resident(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
}

/// Objects that clients count on: many, so that rows come and go all over the store.
const COUNTERS: u64 = 997;
const CLIENTS: u64 = 32;

async fn client(load: Arc<Load>, ingress: String, number: u64, settings: Arc<Settings>) {
    let api = Api::new(Duration::from_secs(30));
    let pause = Duration::from_secs_f64(CLIENTS as f64 / settings.rate as f64);
    let mut next = Instant::now();
    let mut random = settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    while !load.stop.load(Ordering::Relaxed) {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let target = format!("{ingress}/DrillCounter/s{}/add", (random >> 33) % COUNTERS);
        let answer = api.request(http::Method::POST, &target, &[], "").await;
        match answer {
            Ok(answer) if answer.status.is_success() => load.done.fetch_add(1, Ordering::Relaxed),
            _ => load.failed.fetch_add(1, Ordering::Relaxed),
        };
        next += pause;
        tokio::time::sleep_until(next.into()).await;
        // Behind by a lot, it does not catch up with a burst.
        next = next.max(Instant::now() - pause);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match Settings::parse() {
        Ok(settings) => Arc::new(settings),
        Err(problem) => {
            eprintln!(
                "soak: {problem}\nusage: soak [--minutes 10] [--rate 200] [--seed 1] [--every 10] [--partitions 6]"
            );
            return ExitCode::from(2);
        }
    };
    match soak(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            eprintln!("soak: {problems}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(settings: Arc<Settings>) -> Result<(), String> {
    let place = TempDir::new().map_err(|error| error.to_string())?;
    let uri = drill::serve(Ledger::default())
        .await
        .map_err(|error| error.to_string())?;
    let options = Options {
        config: settings.config(place.path()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(NODES, options).await;
    cluster.register(&uri).await;
    let load = Arc::<Load>::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let ingress = cluster.ingress(number as usize % NODES);
            tokio::spawn(client(
                Arc::clone(&load),
                ingress,
                number,
                Arc::clone(&settings),
            ))
        })
        .collect();
    println!(
        "{:>6} {:>9} {:>6} {:>7} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "s", "calls", "failed", "calls/s", "log", "stores", "metadata", "snapshots", "memory"
    );
    let (begun, mut samples, mut before) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < settings.length {
        tokio::time::sleep(settings.every).await;
        for node in 0..NODES {
            if !cluster.is_running(node) {
                return Err(format!("node {node} ended"));
            }
        }
        let sample = Sample::take(&cluster, place.path());
        samples.push(sample);
        let (done, failed) = (
            load.done.load(Ordering::Relaxed),
            load.failed.load(Ordering::Relaxed),
        );
        let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
        println!(
            "{:>6} {done:>9} {failed:>6} {:>7.0} {:>8} {:>8} {:>8} {:>9} {:>8}",
            begun.elapsed().as_secs(),
            (done - before) as f64 / settings.every.as_secs_f64(),
            mib(sample.log),
            mib(sample.stores),
            mib(sample.metadata),
            mib(sample.snapshots),
            mib(sample.memory)
        );
        before = done;
    }
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.map_err(|error| error.to_string())?;
    }
    cluster.assert_healthy();
    let mut problems = growth(&samples);
    problems.extend(audit(&cluster, &load).await);
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n      ")),
    }
}

/// What is larger in the last third than in the middle one.
fn growth(samples: &[Sample]) -> Vec<String> {
    let third = samples.len() / 3;
    if third == 0 {
        return vec!["too short to tell whether anything grows".to_owned()];
    }
    let mean = |samples: &[Sample], of: usize| {
        samples
            .iter()
            .map(|sample| sample.named()[of].1)
            .sum::<f64>()
            / samples.len() as f64
    };
    let mut problems = Vec::new();
    for (of, (name, _)) in Sample::default().named().into_iter().enumerate() {
        let middle = mean(&samples[third..2 * third], of);
        let last = mean(&samples[samples.len() - third..], of);
        let mib = f64::from(1 << 20);
        println!(
            "{name}: {:.1} MiB in the middle third, {:.1} MiB in the last",
            middle / mib,
            last / mib
        );
        if middle * GROWTH_MAX < last && NOISE_BYTES < last - middle {
            problems.push(format!("{name} grows"));
        }
    }
    problems
}

/// Counters show every call that was answered, and at most those that failed besides.
async fn audit(cluster: &Cluster, load: &Load) -> Option<String> {
    let mut sum = 0;
    for counter in 0..COUNTERS {
        let target = format!("{}/DrillCounter/s{counter}/get", cluster.ingress(0));
        let answer = cluster.api().post_empty(&target).await.expect_success();
        sum += answer.as_u64().unwrap_or(0);
    }
    let (done, failed) = (
        load.done.load(Ordering::Relaxed),
        load.failed.load(Ordering::Relaxed),
    );
    println!("{done} calls answered, {failed} failed, the counters show {sum}");
    (sum < done || done + failed < sum).then(|| format!("the counters show {sum}"))
}
