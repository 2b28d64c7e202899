//! What can be asked for.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Shows and forms Abide clusters. Any node's address will do.
#[derive(Debug, Parser)]
#[command(name = "abidectl", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Addresses of node ports; the first that answers is asked.
    #[arg(
        short = 's',
        long,
        value_name = "URL",
        env = "ABIDECTL_ADDRESS",
        value_delimiter = ',',
        default_value = "http://localhost:5122",
        global = true
    )]
    pub(crate) address: Vec<String>,
    /// How long to wait for a connection, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 3000, global = true)]
    connect_timeout: u64,
    /// How long to wait for an answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 13_000, global = true)]
    request_timeout: u64,
}

impl Target {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster and its nodes.
    Status,
    /// Ask one node whether it serves; 0 if so, 1 if not. For the health checks of containers.
    Health,
    /// Show nodes.
    #[command(subcommand)]
    Nodes(Nodes),
    /// Show partitions.
    #[command(subcommand)]
    Partitions(Partitions),
    /// Show the logs of partitions.
    #[command(subcommand)]
    Logs(Logs),
    /// Show what the metadata plane holds.
    #[command(subcommand)]
    Metadata(Metadata),
    /// Form a new cluster with the node that is asked as its first member.
    Provision(Provision),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// One row per node.
    #[command(alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Partitions {
    /// One row per partition.
    #[command(alias = "ls")]
    List {
        /// One row per replica instead.
        #[arg(long)]
        replicas: bool,
    },
    /// Which partition owns an invocation, or the key of an object or workflow, and who leads it.
    Of {
        /// An invocation id (`inv_...`), or a key.
        #[arg(value_name = "INVOCATION|KEY")]
        what: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Logs {
    /// One row per log.
    #[command(alias = "ls")]
    List,
    /// The segments of logs, and what each log server holds of them.
    Describe {
        /// The partitions whose logs to describe; all if none is given.
        #[arg(value_name = "PARTITION")]
        partitions: Vec<u16>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Metadata {
    /// Print a document; without a key, list the keys.
    Get {
        /// Such as `nodes`, `partition-table`, `log/0`, `schema`.
        key: Option<String>,
        /// The same as the argument.
        #[arg(short = 'k', long = "key", value_name = "KEY", conflicts_with = "key")]
        key_flag: Option<String>,
        /// Ask the leader of the metadata plane, not the cache of the node.
        #[arg(long)]
        linearizable: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// Partitions; the node's own setting if not given. Cannot be changed later.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) num_partitions: Option<u16>,
    /// Copies on disk that acknowledge a write; the node's own setting if not given.
    #[arg(short = 'r', long, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) replication: Option<u8>,
    /// Leave a cluster that is formed already as it is, and succeed.
    #[arg(long)]
    pub(crate) if_needed: bool,
    /// Ask nothing. Nothing is asked anyway; scripts may say so.
    #[arg(short = 'y', long)]
    yes: bool,
}
