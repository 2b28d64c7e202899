//! Programs under kills.
//!
//! Clients run programs one after the other and insist on answers, as [`crate::world`] says, while the
//! nodes of the cluster are broken one at a time. A program has one outcome whatever happens, so each
//! is compared with the model's: no step was lost, none was done twice, and each request has its one
//! result. At the end every request that was answered is made again under its key, and has to have the
//! same answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;

use crate::ledger::Ledger;
use crate::model;
use crate::world::{Outcome, Patience, World};
use crate::{generate, interpreter};

const NODES: usize = 3;
/// How long a program may take, with nodes coming and going.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one request may take before it is made again at another node.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);
/// Longer than silence is taken for death.
const PAUSED_FOR: Duration = Duration::from_secs(6);

/// What to do for how long.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of the programs, and of what is broken when.
    pub seed: u64,
    /// How long nodes are broken.
    pub duration: Duration,
    /// How many programs run at the same time.
    pub at_a_time: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Programs that were run to their end.
    pub programs: usize,
    /// Requests made again afterwards.
    pub repeated: usize,
    /// How nodes were broken: killed, paused, stopped.
    pub broken: [u64; 3],
    /// The longest that a program took.
    pub longest: Duration,
    /// The longest until a node served again.
    pub longest_return: Duration,
    /// What should not be.
    pub violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [killed, paused, stopped] = self.broken;
        writeln!(
            f,
            "{} programs as the model says, {} requests repeated; nodes killed {killed} times, \
             paused {paused}, stopped {stopped}; the longest program took {:?}, \
             the longest return of a node {:?}; {} violations",
            self.programs,
            self.repeated,
            self.longest,
            self.longest_return,
            self.violations.len()
        )?;
        self.violations
            .iter()
            .try_for_each(|violation| writeln!(f, "{violation}"))
    }
}

/// Runs the drill.
pub async fn run(plan: Plan) -> Report {
    let ledger = Ledger::default();
    let uri = interpreter::serve(ledger.clone())
        .await
        .expect("serve the interpreter");
    let mut cluster = Cluster::start(NODES, Options::default()).await;
    let mut world = World::new(
        "abide",
        (0..NODES).map(|node| cluster.ingress(node)).collect(),
        (0..NODES).map(|node| cluster.admin(node)).collect(),
        ledger,
        REQUEST_DEADLINE,
    );
    world.insists = true;
    world.register(&uri).await;

    let shared = Arc::new(Shared {
        world,
        stop: AtomicBool::new(false),
        next: AtomicU64::new(plan.seed),
        done: Mutex::default(),
    });
    let clients: Vec<_> = (0..plan.at_a_time)
        .map(|_| tokio::spawn(client(Arc::clone(&shared))))
        .collect();
    let mut report = Report::default();
    breakage(&mut cluster, plan, &mut report).await;
    shared.stop.store(true, Ordering::SeqCst);
    for client in clients {
        if let Err(error) = client.await {
            report.violations.push(format!("a client: {error}"));
        }
    }
    audit(&shared, &mut report).await;
    for node in 0..NODES {
        if cluster.output(node).contains("panicked at") {
            report.violations.push(format!("node {node} panicked"));
        }
    }
    if !report.violations.is_empty() {
        for node in 0..NODES {
            println!("--- the end of node {node}'s output");
            let output = cluster.output(node);
            let lines: Vec<&str> = output.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
    report
}

struct Shared {
    world: World,
    stop: AtomicBool,
    next: AtomicU64,
    done: Mutex<Vec<Done>>,
}

struct Done {
    seed: u64,
    took: Duration,
    outcome: Option<Outcome>,
}

async fn client(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::SeqCst) {
        let seed = shared.next.fetch_add(1, Ordering::SeqCst);
        let program = generate::program(seed);
        let from = Instant::now();
        let run = format!("k{seed}");
        let outcome = shared.world.run(&run, &program, Patience(PATIENCE)).await;
        shared.done.lock().await.push(Done {
            seed,
            took: from.elapsed(),
            outcome,
        });
    }
}

/// Breaks a node every few seconds, one at a time, until the time is over.
async fn breakage(cluster: &mut Cluster, plan: Plan, report: &mut Report) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let until = Instant::now() + plan.duration;
    while Instant::now() < until {
        let victim = random.random_range(0..NODES);
        let rest = Duration::from_millis(random.random_range(200..2_000));
        match random.random_range(0..4) {
            0 | 1 => {
                cluster.kill(victim);
                tokio::time::sleep(rest).await;
                cluster.start_node(victim);
                report.broken[0] += 1;
            }
            2 => {
                cluster.pause(victim);
                // Not every pause is long enough to be noticed.
                let pause = if random.random_bool(0.5) {
                    PAUSED_FOR
                } else {
                    rest
                };
                tokio::time::sleep(pause).await;
                cluster.resume(victim);
                report.broken[1] += 1;
            }
            _ => {
                cluster.terminate(victim).await;
                cluster.start_node(victim);
                report.broken[2] += 1;
            }
        }
        let from = Instant::now();
        cluster
            .wait_until_node_serves_within(victim, PATIENCE)
            .await;
        report.longest_return = report.longest_return.max(from.elapsed());
        tokio::time::sleep(rest).await;
    }
}

async fn audit(shared: &Shared, report: &mut Report) {
    let done = std::mem::take(&mut *shared.done.lock().await);
    for done in &done {
        report.longest = report.longest.max(done.took);
        let Done { seed, outcome, .. } = done;
        match outcome {
            None => report
                .violations
                .push(format!("seed {seed} did not end within {PATIENCE:?}")),
            Some(outcome) => {
                let expected = model::outcome(&generate::program(*seed)).ok();
                if Some(outcome) == expected.as_ref() {
                    report.programs += 1;
                } else {
                    report.violations.push(format!(
                        "seed {seed}: {outcome}\n    should be {}",
                        expected.unwrap_or_default()
                    ));
                }
            }
        }
    }
    // Everybody asks again: who was told something is told the same, and nothing is done again.
    for chunk in done.chunks(16) {
        let again = chunk.iter().map(|done| async {
            let outcome = done.outcome.as_ref()?;
            let program = generate::program(done.seed);
            let run = format!("k{}", done.seed);
            let patience = Patience(REQUEST_DEADLINE);
            let repeated = shared.world.run(&run, &program, patience).await;
            Some((done.seed, outcome, repeated))
        });
        for (seed, outcome, repeated) in join_all(again).await.into_iter().flatten() {
            report.repeated += 1;
            if repeated.as_ref() != Some(outcome) {
                report.violations.push(format!(
                    "seed {seed}, asked again: {}\n    was {outcome}",
                    repeated.unwrap_or_default()
                ));
            }
        }
    }
}
