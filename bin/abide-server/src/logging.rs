//! Logs: warnings and errors to stderr, the rest to stdout.

use std::error::Error;
use std::io::{self, IsTerminal as _};

use abide_config::{Config, LogFormat};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt as _;

/// What is logged when this is set, whatever the configuration says.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// Logs too much unless it is asked for.
const RAFT: &str = "openraft";

/// Begins to log.
pub(crate) fn start(config: &Config) -> Result<(), Box<dyn Error>> {
    let from_environment = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|filter| !filter.is_empty());
    let (origin, text) = match &from_environment {
        Some(filter) => (FILTER_VARIABLE, filter),
        None => ("log-filter", &config.log_filter),
    };
    let filter = EnvFilter::try_new(text).map_err(|error| {
        format!("{origin}: '{text}' is not a filter such as warn,abide=info: {error}")
    })?;
    // Raft warns of every message that does not reach a dead peer, twenty times a second; what matters of that is
    // logged by us.
    let filter = if text.contains(RAFT) {
        filter
    } else {
        filter.add_directive(format!("{RAFT}=error").parse()?)
    };
    let colours = !config.log_disable_ansi_codes
        && io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let writer = io::stderr.with_max_level(Level::WARN).or_else(io::stdout);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    let started = match config.log_format {
        LogFormat::Pretty => subscriber
            .pretty()
            .with_file(false)
            .with_line_number(false)
            .try_init(),
        LogFormat::Compact => subscriber.compact().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("cannot start to log: {error}").into())
}
