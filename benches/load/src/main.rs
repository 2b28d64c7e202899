//! Loads an ingress and prints what came of it as one line of JSON.
//!
//! Closed loop: `--in-flight N` calls are under way at any time, and a latency is the time of one
//! call. Open loop: `--rate R` calls a second are due at fixed times whatever became of the others,
//! and a latency counts from when the call was due, so that a stall shows in every call that it held
//! up (no coordinated omission). With `--pid`, the server's CPU seconds, peak memory and written
//! bytes are taken from `/proc` over the same time.
//!
//! The handlers are those of `abide-bench-endpoint`.

mod process;
mod report;
mod run;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Parser};

use crate::run::Load;
use crate::workload::Workload;

/// Loads an ingress and prints one line of JSON.
#[derive(Parser)]
#[command(group(ArgGroup::new("mode").required(true).args(["in_flight", "rate"])))]
struct Arguments {
    /// Base URLs of the ingresses, used in turn.
    #[arg(long = "url", required = true)]
    urls: Vec<String>,
    /// What each call does.
    #[arg(long, value_enum)]
    workload: Workload,
    /// Closed loop: how many calls are under way at any time.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Open loop: how many calls are due a second.
    #[arg(long)]
    rate: Option<f64>,
    /// How long calls are counted, in seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// How long calls are made before they are counted, in seconds.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// When a call is given up, in seconds.
    #[arg(long, default_value_t = 30.0)]
    deadline: f64,
    /// How long the sleep workload sleeps, in milliseconds.
    #[arg(long, default_value_t = 100)]
    sleep_ms: u64,
    /// Server processes to measure.
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// A label for the line.
    #[arg(long, default_value = "")]
    label: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let load = Load {
        urls: arguments.urls,
        workload: arguments.workload,
        sleep_ms: arguments.sleep_ms,
        in_flight: arguments.in_flight,
        rate: arguments.rate,
        warmup: Duration::from_secs_f64(arguments.warmup),
        duration: Duration::from_secs_f64(arguments.duration),
        deadline: Duration::from_secs_f64(arguments.deadline),
        pids: arguments.pids,
    };
    match run::run(&load).await {
        Ok(outcome) => {
            println!("{}", report::line(&arguments.label, &load, &outcome));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
