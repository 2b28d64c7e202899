//! Logs: warnings and errors to stderr, the rest to stdout.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _};

use abide_config::{Config, LogFormat};
use abide_node::LogFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::writer::MakeWriterExt as _;
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

/// What is logged when this is set, whatever the configuration says.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// Logs too much unless it is asked for.
const RAFT: &str = "openraft";

/// Begins to log, and gives the way to another filter.
pub(crate) fn start(config: &Config) -> Result<LogFilter, Box<dyn Error>> {
    let from_environment = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|filter| !filter.is_empty());
    let (origin, text) = match &from_environment {
        Some(filter) => (FILTER_VARIABLE, filter),
        None => ("log-filter", &config.log_filter),
    };
    let filter = filter(text).map_err(|error| format!("{origin}: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let colours = !config.log_disable_ansi_codes
        && io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let writer = io::stderr.with_max_level(Level::WARN).or_else(io::stdout);
    let layer = tracing_subscriber::fmt::layer::<Registry>()
        .with_writer(writer)
        .with_ansi(colours);
    let layer = match config.log_format {
        LogFormat::Pretty => layer
            .pretty()
            .with_file(false)
            .with_line_number(false)
            .boxed(),
        LogFormat::Compact => layer.compact().boxed(),
        LogFormat::Json => {
            let inner = format().json().flatten_event(true);
            let layer = layer.json().event_format(OfNode::new(config, inner));
            layer.boxed()
        }
    };
    let started = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    started.map_err(|error| format!("cannot start to log: {error}"))?;
    let apply = move |text: &str| {
        let filter = self::filter(text)?;
        handle.reload(filter).map_err(|error| error.to_string())
    };
    Ok(LogFilter::new(text.clone(), Box::new(apply)))
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |error: &dyn fmt::Display| {
        format!("'{text}' is not a filter such as warn,abide=info: {error}")
    };
    // An empty one would log errors only, which nobody who leaves it out means.
    if text.trim().is_empty() {
        return Err(wrong(&"it is empty"));
    }
    let filter = EnvFilter::try_new(text).map_err(|error| wrong(&error))?;
    // Raft warns of every message that does not reach a dead peer, twenty times a second; what matters of that is
    // logged by us.
    match text.contains(RAFT) {
        true => Ok(filter),
        false => {
            let quiet = format!("{RAFT}=error").parse();
            Ok(filter.add_directive(quiet.map_err(|error| wrong(&error))?))
        }
    }
}

/// JSON lines that say first of which node they are: where logs of many are gathered, nothing else does.
struct OfNode<F> {
    inner: F,
    /// `{"cluster_name":"c","node_name":"n",`
    head: String,
}

impl<F> OfNode<F> {
    fn new(config: &Config, inner: F) -> Self {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (cluster, node) = (text(&config.cluster_name), text(&config.node_name));
        Self {
            inner,
            head: format!("{{\"cluster_name\":{cluster},\"node_name\":{node},"),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for OfNode<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').ok_or(fmt::Error)?;
        writer.write_str(&self.head)?;
        writer.write_str(rest)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn filters_are_refused_with_what_is_wrong() {
        for wrong in ["", "  ", "abide=loud", "a=b=c"] {
            let error = filter(wrong).unwrap_err();
            assert!(
                error.contains("is not a filter such as warn,abide=info"),
                "{error}"
            );
        }
    }

    #[test]
    fn raft_is_quiet_unless_it_is_asked_for() {
        assert!(
            filter("info")
                .unwrap()
                .to_string()
                .contains("openraft=error")
        );
        assert!(
            !filter("openraft=debug")
                .unwrap()
                .to_string()
                .contains("openraft=error")
        );
    }
}
