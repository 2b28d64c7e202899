//! The operators' command line: asks any node about the cluster, and changes it through any node.

mod cli;
mod client;
mod commands;
mod confirm;
mod failure;
mod json_patch;
mod observe;
mod output;
mod select;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::failure::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    output::use_style(cli.style);
    let text = commands::run(cli).await?;
    output::print(&text)
}
