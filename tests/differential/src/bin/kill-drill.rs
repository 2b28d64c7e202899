//! Random programs on three nodes, of which one is killed, paused or stopped every few seconds.
//!
//! `scripts/kill-drill` builds what this needs and says where it is.

use std::process::ExitCode;
use std::time::Duration;

use abide_test_differential::drill::{self, Plan};
use clap::Parser;

/// Runs random programs while nodes are killed, and compares what came of them with the model.
#[derive(Parser)]
struct Arguments {
    /// How long nodes are broken.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The seed of the programs and of what is broken when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many programs run at the same time.
    #[arg(long, default_value_t = 6)]
    at_a_time: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = drill::run(Plan {
        seed: arguments.seed,
        duration: Duration::from_secs_f64(arguments.minutes * 60.0),
        at_a_time: arguments.at_a_time,
    })
    .await;
    println!("{report}");
    match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
