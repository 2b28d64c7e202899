//! One node of an Abide cluster.

mod arguments;
mod logging;

use std::error::Error;
use std::process::ExitCode;

use abide_config::Config;
use abide_node::LogFilter;
use clap::Parser as _;

use crate::arguments::Arguments;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The node could not do its work.
const FAILED: u8 = 1;
/// What it was told makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match arguments.config() {
        Ok(config) => config,
        Err(error) => {
            complain(&*error);
            return ExitCode::from(MISUSED);
        }
    };
    if arguments.dump_config {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    let log_filter = match logging::start(&config) {
        Ok(log_filter) => log_filter,
        Err(error) => {
            complain(&*error);
            return ExitCode::from(MISUSED);
        }
    };
    for name in arguments::ignored_variables() {
        tracing::warn!(name, "environment variable names no setting and is ignored");
    }
    match run(config, log_filter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Once: as a log line, or where those are turned off, as it is.
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("{}", chain(&*error));
            } else {
                complain(&*error);
            }
            ExitCode::from(FAILED)
        }
    }
}

fn run(config: Config, log_filter: LogFilter) -> Result<(), Box<dyn Error>> {
    // Whoever makes an HTTP client needs it; a second call would find the first one's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.default_thread_pool_size {
        runtime.worker_threads(threads.get());
    }
    let runtime = runtime.enable_all().build()?;
    let reason = runtime.block_on(abide_node::Node::run(config, log_filter));
    // What still runs then is of no use to anybody; a blocked thread must not hold up the end.
    runtime.shutdown_background();
    let reason = reason?;
    tracing::info!(%reason, "ended");
    Ok(())
}

fn complain(error: &dyn Error) {
    eprintln!("error: {}", chain(error));
}

/// The error with its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    text
}
