//! What can be asked for.

use std::time::Duration;

use abide_types::ReplicationWish;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::select;

/// Shows, forms and changes Abide clusters. Any node's address will do.
#[derive(Debug, Parser)]
#[command(name = "abidectl", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) style: Style,
    /// Print one JSON object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Change things without asking.
    #[arg(short = 'y', long, global = true)]
    pub(crate) yes: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask.
#[derive(Debug, Clone, Args)]
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
    /// Another node, with the same patience.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self {
            address: vec![address.to_owned()],
            ..self.clone()
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout)
    }
}

/// How things are shown to people.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Style {
    /// How tables are drawn.
    #[arg(long, value_enum, value_name = "STYLE", default_value_t = TableStyle::Compact, global = true)]
    pub(crate) table_style: TableStyle,
    /// How times are written: how long ago, or when.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = TimeFormat::Human, global = true)]
    pub(crate) time_format: TimeFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableStyle {
    Compact,
    Borders,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeFormat {
    Human,
    Iso8601,
    Rfc2822,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Look once, which takes one interval, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Between two looks, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub(crate) interval: u64,
}

#[derive(Debug, Args)]
pub(crate) struct LogFilter {
    /// Nodes (`N1` or `1`), comma separated; all if none is given.
    #[arg(long, value_name = "NODES", value_delimiter = ',', value_parser = node_id, global = true)]
    pub(crate) node: Vec<u32>,
    #[command(subcommand)]
    pub(crate) command: Option<LogFilterCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogFilterCommand {
    /// Show what is logged.
    Show,
    /// Log by this filter from now on.
    Set {
        /// In the syntax of RUST_LOG, such as `info,abide_processor=debug`.
        filter: String,
    },
    /// Log as configured again.
    Reset,
}

/// `N2`, `n2` or `2`.
fn node_id(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix(['N', 'n']).unwrap_or(text);
    match digits.parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err("a node is N1, N2, ...".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether the cluster is well, and what to do if not; then the exit code is 1.
    Status {
        /// With all partitions and replicas.
        #[arg(long)]
        extra: bool,
    },
    /// Show what the nodes do, over and over.
    Top(Top),
    /// Run a query over invocations, journals, state, the registry and the cluster.
    Sql {
        /// Such as `select * from nodes`.
        query: String,
        /// The same as `--json`.
        #[arg(long)]
        jsonl: bool,
    },
    /// Show what nodes log, or have them log something else until their next start.
    LogFilter(LogFilter),
    /// Ask one node whether it serves; 0 if so, 1 if not. For the health checks of containers.
    Health,
    /// Show, drain and remove nodes.
    #[command(subcommand)]
    Nodes(Nodes),
    /// Show partitions, and say who leads and who keeps them.
    #[command(subcommand)]
    Partitions(Partitions),
    /// Show the logs of partitions, look into them, trim them, and begin new segments.
    #[command(subcommand)]
    Logs(Logs),
    /// Show and change how the cluster replicates.
    #[command(subcommand)]
    Config(Config),
    /// Show and change what the metadata plane holds.
    #[command(subcommand)]
    Metadata(Metadata),
    /// Show who keeps the metadata, and who of them votes.
    #[command(subcommand)]
    MetadataServer(MetadataServer),
    /// Snapshots of partitions, from which replicas start.
    #[command(subcommand)]
    Snapshots(Snapshots),
    /// Backups of the whole cluster, from which a new one can be made.
    #[command(subcommand)]
    Backup(Backup),
    /// Look after the databases of the nodes.
    #[command(subcommand)]
    Storage(Storage),
    /// Go on when more was lost than replication covers.
    #[command(subcommand)]
    Recover(Recover),
    /// Print what has a shell complete these commands.
    Completions {
        /// Whose script.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Form a new cluster with the node that is asked as its first member.
    Provision(Provision),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// One row per node.
    #[command(alias = "ls")]
    List {
        /// Location, program, features and metadata version too.
        #[arg(long)]
        extra: bool,
    },
    /// Move what nodes have to others: leaders, replicas, log segments and the vote of the metadata plane.
    Drain {
        #[command(flatten)]
        nodes: NodeNames,
        /// Go on where the cluster then has fewer copies than a write takes.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        following: Following,
    },
    /// Give draining nodes work again.
    #[command(alias = "activate")]
    Undrain {
        #[command(flatten)]
        nodes: NodeNames,
    },
    /// Take nodes out of the cluster for good.
    Remove {
        #[command(flatten)]
        nodes: NodeNames,
        /// Remove a dead node although copies get fewer for a while. Never where records would be lost.
        #[arg(long)]
        force: bool,
    },
    /// Say what is done here instead.
    #[command(hide = true)]
    SetWorkerState(Elsewhere),
    /// Say what is done here instead.
    #[command(hide = true)]
    SetStorageState(Elsewhere),
}

/// Whether a command ends when what it asked for is done.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Following {
    /// Follow it until it is done, and say what it waits for.
    #[arg(long)]
    wait: bool,
    /// Follow it for so long at most, 3600 unless given; what is not done by then makes the exit code 1. With it, `--wait` need not be said.
    #[arg(long, visible_alias = "timeout", value_name = "SECONDS")]
    wait_timeout: Option<u64>,
}

impl Following {
    /// For how long, if at all.
    pub(crate) fn limit(self) -> Option<Duration> {
        match (self.wait, self.wait_timeout) {
            (_, Some(seconds)) => Some(Duration::from_secs(seconds)),
            (true, None) => Some(Duration::from_secs(3600)),
            (false, None) => None,
        }
    }
}

/// Which nodes a command is about.
#[derive(Debug, Args)]
pub(crate) struct NodeNames {
    /// Ids (`N1`, `1`) or names.
    #[arg(
        value_name = "NODE",
        value_delimiter = ',',
        required_unless_present = "nodes_flag"
    )]
    nodes: Vec<String>,
    /// The same as the argument.
    #[arg(
        long = "nodes",
        value_name = "NODE",
        value_delimiter = ',',
        conflicts_with = "nodes"
    )]
    nodes_flag: Vec<String>,
}

impl NodeNames {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        self.nodes.iter().chain(&self.nodes_flag)
    }
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By partition.
    Partition,
    /// By node: the leader's, or each replica's.
    Node,
    /// What is not active comes first.
    Active,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Partitions {
    /// One row per partition.
    #[command(alias = "ls")]
    List {
        /// One row per replica instead.
        #[arg(long)]
        replicas: bool,
        /// The order of the rows.
        #[arg(long, value_enum, default_value_t = Sort::Partition)]
        sort: Sort,
    },
    /// Which partition owns an invocation, or the key of an object or workflow, and who leads it.
    Of {
        /// An invocation id (`inv_...`), or a key.
        #[arg(value_name = "INVOCATION|KEY")]
        what: String,
    },
    /// Have another replica lead. It stays until balance or a failure moves it on; `leadership pin` keeps it there.
    Move {
        #[command(flatten)]
        which: SomePartitions,
        /// The new leader: an id (`N1`, `1`) or a name.
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Who leads, and who is to.
    #[command(subcommand)]
    Leadership(Leadership),
    /// Which nodes keep replicas.
    #[command(subcommand)]
    Placement(Placement),
}

/// Partitions that have to be named.
#[derive(Debug, Args)]
pub(crate) struct SomePartitions {
    /// Such as `0`, `1-4` or `0,2-3`.
    #[arg(value_name = "PARTITIONS", value_delimiter = ',', required = true)]
    partitions: Vec<select::Partitions>,
}

impl SomePartitions {
    pub(crate) fn numbers(&self) -> Vec<u32> {
        select::numbers(&self.partitions)
    }
}

/// Partitions that may be named.
#[derive(Debug, Args)]
pub(crate) struct AnyPartitions {
    /// Such as `0`, `1-4` or `0,2-3`; all if none is given.
    #[arg(value_name = "PARTITIONS", value_delimiter = ',')]
    partitions: Vec<select::Partitions>,
}

impl AnyPartitions {
    pub(crate) fn numbers(&self) -> Vec<u32> {
        select::numbers(&self.partitions)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Leadership {
    /// Who leads, who is pinned, what is frozen.
    Show {
        #[command(flatten)]
        which: AnyPartitions,
    },
    /// Have a replica lead whenever it can.
    Pin {
        #[command(flatten)]
        which: SomePartitions,
        /// An id (`N1`, `1`) or a name.
        #[arg(long, value_name = "NODE")]
        node: String,
    },
    /// The opposite of `pin`.
    Unpin {
        #[command(flatten)]
        which: SomePartitions,
    },
    /// Leave the leader where it is for as long as it can lead. A failure still moves it.
    Freeze {
        #[command(flatten)]
        which: SomePartitions,
        /// Why, for whoever looks later.
        #[arg(long)]
        reason: String,
    },
    /// The opposite of `freeze`.
    Unfreeze {
        #[command(flatten)]
        which: SomePartitions,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Placement {
    /// The replicas now and next, and whether they are left as they are.
    Show {
        #[command(flatten)]
        which: AnyPartitions,
    },
    /// Move replicas. Without `--freeze`, balance and failures may move them on later.
    Set {
        #[command(flatten)]
        which: SomePartitions,
        /// The nodes that are to keep replicas: ids (`N1`, `1`) or names.
        #[arg(long, value_name = "NODE", value_delimiter = ',', required = true)]
        replicas: Vec<String>,
        /// Leave them there, for this reason.
        #[arg(
            long,
            value_name = "REASON",
            default_value = "",
            hide_default_value = true
        )]
        freeze: String,
    },
    /// Leave the replicas where they are, whatever becomes of their nodes.
    Freeze {
        #[command(flatten)]
        which: SomePartitions,
        /// Why, for whoever looks later.
        #[arg(long)]
        reason: String,
    },
    /// The opposite of `freeze`.
    Unfreeze {
        #[command(flatten)]
        which: SomePartitions,
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
    /// Where each log ends.
    FindTail {
        #[command(flatten)]
        which: AnyPartitions,
    },
    /// Begin a new segment, under a fresh epoch, where need be on other nodes or with another leader.
    Reconfigure {
        #[command(flatten)]
        which: SomePartitions,
        /// The nodes that are to keep the log and the partition; those that do now if not given.
        #[arg(
            long,
            visible_alias = "nodeset",
            value_name = "NODE",
            value_delimiter = ','
        )]
        replicas: Vec<String>,
        /// Who is to lead; who does now if not given.
        #[arg(
            long,
            visible_alias = "sequencer",
            value_name = "NODE",
            default_value = "",
            hide_default_value = true
        )]
        leader: String,
    },
    /// Close the open segment. The leader goes on in a new one.
    Seal {
        #[command(flatten)]
        which: SomePartitions,
    },
    /// Forget records that snapshots show or that every replica has in its state on disk.
    Trim {
        #[command(flatten)]
        which: SomePartitions,
        /// The last record to go; as far as nobody can miss them if not given.
        #[arg(short = 't', long, visible_alias = "trim-point", value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
        /// Also what no snapshot shows and not every replica has on disk: says who alone has it then.
        #[arg(long, requires = "to")]
        force: bool,
    },
    /// Print the committed records of a log, without what users sent.
    Dump(Dump),
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// The partition whose log it is.
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u16,
    /// The first record; the first that there is if not given.
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    /// The last record; the last that is committed if not given.
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// How many records at most.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// How the cluster replicates, and what stands in the way of it.
    Get,
    /// Change it. What has to move then moves by itself, with everything going on.
    Set(SetConfig),
}

#[derive(Debug, Args)]
pub(crate) struct SetConfig {
    /// A number, for so many disks that acknowledge a write (of 2n - 1 replicas), or `{zone: 2, node: 3}` for three
    /// replicas in at least two zones.
    #[arg(short = 'r', long, value_name = "REPLICATION")]
    pub(crate) replication: Option<ReplicationWish>,
    /// Copies of everything.
    #[arg(long, value_name = "COUNT")]
    pub(crate) replicas: Option<u8>,
    /// Disks that acknowledge a write; 0 is a majority of the replicas.
    #[arg(long, value_name = "COUNT")]
    pub(crate) write_quorum: Option<u8>,
    /// Zones in which the replicas are at least.
    #[arg(long, value_name = "COUNT")]
    pub(crate) zones: Option<u8>,
    /// Regions in which the replicas are at least.
    #[arg(long, value_name = "COUNT")]
    pub(crate) regions: Option<u8>,
    /// Check, show the difference, and change nothing.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) following: Following,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recover {
    /// Most metadata servers are lost: show what the others hold, and have the one with most go on alone.
    ///
    /// What has to be typed is asked for in any case, with --yes too.
    Metadata,
    /// Too many replicas of logs are lost: show what is left, and have their partitions go on with that.
    ///
    /// What has to be typed is asked for in any case, with --yes too.
    Logs {
        /// The partitions; all that cannot go on by themselves if none is given.
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
    /// Write a document by hand, for what no command covers.
    Put {
        #[command(flatten)]
        target: Document,
        /// The new value, as JSON; `-` reads it from the standard input.
        #[arg(long, value_name = "JSON")]
        value: String,
    },
    /// Change a document by a JSON patch (RFC 6902).
    Patch {
        #[command(flatten)]
        target: Document,
        /// The operations, as a JSON list; `-` reads them from the standard input.
        #[arg(short = 'p', long, value_name = "JSON")]
        patch: String,
    },
}

/// The document that is changed.
#[derive(Debug, Args)]
pub(crate) struct Document {
    /// Such as `nodes`, `partition-table`, `log/0`, `schema`.
    #[arg(short = 'k', long)]
    pub(crate) key: String,
    /// The version that it must be at, 0 for none; the one that is shown if not given.
    #[arg(long)]
    pub(crate) version: Option<u64>,
    /// Check, show the difference, and change nothing.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetadataServer {
    /// One row per metadata server.
    #[command(aliases = ["ls", "list"])]
    ListServers,
    /// Let servers vote again.
    AddNode {
        #[command(flatten)]
        nodes: NodeNames,
    },
    /// Have servers keep the metadata without a vote.
    RemoveNode {
        #[command(flatten)]
        nodes: NodeNames,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshots {
    /// One row per snapshot that is kept.
    #[command(alias = "ls")]
    List {
        /// The partitions; all if none is given.
        #[arg(value_name = "PARTITION")]
        partitions: Vec<u16>,
    },
    /// Take snapshots now, and wait until they are stored.
    #[command(alias = "create-snapshot")]
    Create {
        /// The partitions; all if none is given.
        #[arg(value_name = "PARTITION")]
        partitions: Vec<u16>,
        /// A snapshot that shows this record will do. Without it new ones are taken.
        #[arg(long, value_name = "LSN", default_value_t = 0)]
        min_lsn: u64,
        /// Then trim the logs below them, as far as every replica in reach has the records on disk.
        #[arg(long)]
        trim_log: bool,
    },
    /// Say how a replica gets its state from a snapshot: by itself.
    Restore(Elsewhere),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Storage {
    /// Rewrite databases into as few files as can be, so that what was deleted gives its room on the disk back at once.
    Compact(Compact),
}

#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// Nodes (`N1` or `1`), comma separated; all if none is given.
    #[arg(short = 'n', long, value_name = "NODES", value_delimiter = ',', value_parser = node_id)]
    pub(crate) node: Vec<u32>,
    /// Databases, comma separated; all if none is given.
    #[arg(
        short = 'd',
        long,
        value_enum,
        value_name = "DATABASES",
        value_delimiter = ','
    )]
    pub(crate) database: Vec<Database>,
    /// How long to wait for the end; it goes on behind it.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// The state of the partitions.
    Partitions,
    /// The replicas of the logs.
    Log,
    /// The metadata plane.
    Metadata,
}

/// Of a command that others have and that is done in another way here: whatever it was given.
#[derive(Debug, Args)]
pub(crate) struct Elsewhere {
    /// Is not read.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Back the whole cluster up as it is at one moment.
    Create {
        /// Where to: `s3://bucket/prefix`, `gs://...`, `az://...` or `file:///directory`. The nodes go there, not this
        /// program.
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// One row per backup.
    #[command(alias = "ls")]
    List {
        /// Where they are.
        #[arg(long, value_name = "URL")]
        at: String,
    },
    /// Read a backup and compare it with what was stored.
    Verify {
        /// The newest if none is given.
        #[arg(value_name = "BACKUP")]
        id: Option<String>,
        /// Where it is.
        #[arg(long, value_name = "URL")]
        at: String,
    },
    /// Delete a backup, and the files that no other one needs.
    Delete {
        /// Its id, as `backup list` shows it.
        #[arg(value_name = "BACKUP")]
        id: String,
        /// Where it is.
        #[arg(long, value_name = "URL")]
        at: String,
    },
    /// Form a new cluster from a backup, with the node that is asked as its first member.
    Restore {
        /// The newest if none is given.
        #[arg(value_name = "BACKUP")]
        id: Option<String>,
        /// Where it is.
        #[arg(long, value_name = "URL")]
        from: String,
        /// How much is kept, like `2` or `{zone: 2, node: 3}`; as the backup has it if not given.
        #[arg(short = 'r', long, value_name = "REPLICATION")]
        replication: Option<ReplicationWish>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// Begin with a backup; the number of partitions is that of the backup.
    #[arg(long, value_name = "URL", conflicts_with = "num_partitions")]
    pub(crate) from_backup: Option<String>,
    /// Which one; the newest if none is given.
    #[arg(long, value_name = "BACKUP", requires = "from_backup")]
    pub(crate) backup: Option<String>,
    /// Partitions; the node's own setting if not given. Cannot be changed later.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) num_partitions: Option<u16>,
    /// A number, for so many disks that acknowledge a write (of 2n - 1 replicas), or `{zone: 2, node: 3}` for three
    /// replicas in at least two zones; the node's own setting if not given.
    #[arg(short = 'r', long, value_name = "REPLICATION", visible_aliases = ["log-replication", "partition-replication"])]
    pub(crate) replication: Option<ReplicationWish>,
    /// Leave a cluster that is formed already as it is, and succeed.
    #[arg(long)]
    pub(crate) if_needed: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The page of all commands.
    const PAGE: &str = include_str!("../../../docs/abidectl.md");

    /// Full names of the commands that do something, without those that are hidden.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        for sub in visible {
            let path = format!("{path}{}", sub.get_name());
            match sub.has_subcommands() {
                true => leaves(sub, &format!("{path} "), found),
                false => found.push(path),
            }
        }
    }

    #[test]
    fn every_command_is_on_the_page() {
        Cli::command().debug_assert();
        let mut commands = Vec::new();
        leaves(&Cli::command(), "", &mut commands);
        assert!(commands.len() > 30, "{commands:?}");
        for command in commands {
            let alone = format!("`{command}`");
            let with_arguments = format!("`{command} ");
            assert!(
                PAGE.contains(&alone) || PAGE.contains(&with_arguments),
                "docs/abidectl.md does not have {command}"
            );
        }
    }
}
