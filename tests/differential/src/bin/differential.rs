//! Runs random programs on Abide and on a peer, and keeps those on which they differ.
//!
//! `scripts/differential` builds what this needs and says where it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use abide_test_cluster::{Cluster, Options};
use abide_test_differential::journal;
use abide_test_differential::ledger::Ledger;
use abide_test_differential::minimise::minimise;
use abide_test_differential::peer::Peer;
use abide_test_differential::program::Program;
use abide_test_differential::world::{Patience, World};
use abide_test_differential::{generate, interpreter, model};
use clap::Parser;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

/// Runs random programs on Abide and on a peer, and keeps those on which they differ.
#[derive(Parser)]
struct Arguments {
    /// The first program's seed; the others' follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many programs.
    #[arg(long, default_value_t = 100)]
    programs: u64,
    /// How many run at the same time.
    #[arg(long, default_value_t = 8)]
    at_a_time: usize,
    /// The peer's server. Without it, outcomes are compared with the model's alone.
    #[arg(long, env = "ABIDE_PEER_SERVER")]
    peer: Option<PathBuf>,
    /// Nodes of Abide.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// More lines of configuration for Abide.
    #[arg(long, default_value = "")]
    config: String,
    /// Where programs that differ are written.
    #[arg(long, default_value = "target/differential")]
    keep: PathBuf,
    /// Compares journals too.
    #[arg(long)]
    journals: bool,
    /// Runs the program of this file instead of random ones.
    #[arg(long)]
    program: Option<PathBuf>,
    /// How long a program may take.
    #[arg(long, default_value_t = 40)]
    patience_seconds: u64,
}

struct Comparison {
    abide: World,
    peer: Option<World>,
    patience: Patience,
    journals: bool,
}

/// What each made of a program.
#[derive(Debug, Clone, PartialEq)]
struct Outcomes {
    abide: Option<Value>,
    peer: Option<Value>,
    model: Option<Value>,
}

impl Outcomes {
    /// What Abide should have come to: the peer says, or the model where there is no peer.
    fn differ(&self) -> bool {
        self.abide != self.peer
    }

    /// Whether one of them had too little time, as on a machine that is busy.
    fn is_undecided(&self) -> bool {
        self.abide.is_none() || self.peer.is_none()
    }

    fn to_json(&self) -> Value {
        json!({ "abide": self.abide, "peer": self.peer, "model": self.model })
    }
}

impl Comparison {
    async fn run(&self, name: &str, program: &Program) -> Outcomes {
        let model = model::outcome(program).ok();
        let name_here = format!("a{name}");
        let abide = self.run_on(&self.abide, &name_here, program);
        let peer = async {
            match &self.peer {
                Some(peer) => self.run_on(peer, &format!("p{name}"), program).await,
                None => model.clone(),
            }
        };
        let (abide, peer) = futures::join!(abide, peer);
        Outcomes { abide, peer, model }
    }

    async fn run_on(&self, world: &World, run: &str, program: &Program) -> Option<Value> {
        let mut outcome = world.run(run, program, self.patience).await;
        if let (Some(outcome), true) = (&mut outcome, self.journals) {
            outcome["invocations"] = journal::of_run(world, run).await;
        }
        world.ledger().close(run);
        outcome
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ledger = Ledger::default();
    let uri = interpreter::serve(ledger.clone())
        .await
        .expect("serve the interpreter");
    let options = Options {
        config: arguments.config.clone(),
        ..Options::default()
    };
    let cluster = Cluster::start(arguments.nodes, options).await;
    let nodes = 0..arguments.nodes;
    let deadline = Duration::from_secs(arguments.patience_seconds);
    let abide = World::new(
        "abide",
        nodes.clone().map(|node| cluster.ingress(node)).collect(),
        nodes.map(|node| cluster.admin(node)).collect(),
        ledger.clone(),
        deadline,
    );
    abide.register(&uri).await;
    let mut peer_process = None;
    let mut peer = None;
    if let Some(program) = &arguments.peer {
        let process = Peer::start(program).await;
        let world = World::new(
            "peer",
            vec![process.ingress()],
            vec![process.admin()],
            ledger,
            deadline,
        );
        world.register(&uri).await;
        peer = Some(world);
        peer_process = Some(process);
    }
    let comparison = Comparison {
        abide,
        peer,
        patience: Patience(deadline),
        journals: arguments.journals && peer_process.is_some(),
    };
    let differences = match &arguments.program {
        Some(file) => replay(&comparison, file).await,
        None => explore(&comparison, &arguments).await,
    };
    drop((cluster, peer_process));
    match differences {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn replay(comparison: &Comparison, file: &Path) -> usize {
    let text = fs::read_to_string(file).expect("read the program");
    let mut kept: Value = serde_json::from_str(&text).expect("the program is JSON");
    let program = serde_json::from_value(kept["program"].take()).expect("it is a program");
    let outcomes = comparison.run("replayed", &program).await;
    println!("{:#}", outcomes.to_json());
    usize::from(outcomes.differ())
}

async fn explore(comparison: &Comparison, arguments: &Arguments) -> usize {
    let began = Instant::now();
    let last = arguments.seed + arguments.programs;
    let mut failed = Vec::new();
    let mut off_the_model = 0;
    let mut undecided = Vec::new();
    let mut done = 0;
    let mut outcomes = stream::iter(arguments.seed..last)
        .map(|seed| async move {
            let program = generate::program(seed);
            let outcomes = comparison.run(&seed.to_string(), &program).await;
            (seed, program, outcomes)
        })
        .buffer_unordered(arguments.at_a_time);
    while let Some((seed, program, outcomes)) = outcomes.next().await {
        done += 1;
        if outcomes.is_undecided() {
            println!("seed {seed}: took too long");
            undecided.push(seed);
        } else if outcomes.differ() {
            println!("seed {seed}: Abide and the peer differ");
            failed.push((seed, program, outcomes));
        } else if !comparison.journals && outcomes.abide != outcomes.model {
            println!("seed {seed}: both differ from the model");
            off_the_model += 1;
            keep(arguments, &format!("model-{seed}"), &program, &outcomes);
        }
    }
    drop(outcomes);
    // One at a time: a program that still does not end, does not end.
    for seed in undecided {
        let program = generate::program(seed);
        let outcomes = comparison.run(&format!("{seed}again"), &program).await;
        if outcomes.differ() || outcomes.is_undecided() {
            println!("seed {seed}: differs when it is run alone");
            failed.push((seed, program, outcomes));
        }
    }
    println!(
        "{done} programs in {:?}: {} differences, {off_the_model} that the model does not know",
        began.elapsed(),
        failed.len()
    );
    for (seed, program, outcomes) in &failed {
        keep(arguments, &format!("raw-{seed}"), program, outcomes);
    }
    for (seed, program, _) in failed.iter().take(5) {
        let mut serial = 0;
        let small = minimise(program.clone(), 150, async |candidate: &Program| {
            serial += 1;
            let name = format!("{seed}m{serial}");
            model::outcome(candidate).is_ok() && comparison.run(&name, candidate).await.differ()
        })
        .await;
        let outcomes = comparison.run(&format!("{seed}small"), &small).await;
        keep(arguments, &format!("seed-{seed}"), &small, &outcomes);
    }
    failed.len() + off_the_model
}

fn keep(arguments: &Arguments, name: &str, program: &Program, outcomes: &Outcomes) {
    fs::create_dir_all(&arguments.keep).expect("make the folder");
    let file = arguments.keep.join(format!("{name}.json"));
    let kept = json!({
        "program": program,
        "outcome": outcomes.peer,
        "was": outcomes.abide,
        "model": outcomes.model,
    });
    fs::write(&file, format!("{kept:#}\n")).expect("keep the program");
    println!("kept {}", file.display());
}
