//! Each command: what it asks, and what it makes of the answer.

mod backup;
mod compact;
mod completions;
mod config;
mod dump;
mod elsewhere;
mod health;
mod log_filter;
mod logs;
mod metadata;
mod metadata_server;
mod node_changes;
mod nodes;
mod partitions;
mod placement;
mod provision;
mod recover;
mod replication;
mod snapshots;
mod sql;
mod status;
mod top;
mod trim;

#[cfg(test)]
mod samples;

use abide_rpc::proto::operations::Reassign;
use abide_rpc::proto::operations::change_node::Change;

use crate::cli::{self, Cli, Command};
use crate::client::Node;
use crate::failure::Failure;

/// The text to print.
pub(crate) async fn run(cli: &Cli) -> Result<String, Failure> {
    let json = cli.json;
    if let Some(answer) = elsewhere::answer(&cli.command) {
        return Err(answer);
    }
    if let Command::Completions { shell } = &cli.command {
        return Ok(completions::script(*shell));
    }
    if let Command::Partitions(cli::Partitions::Of { what }) = &cli.command {
        // Nobody needs to be asked to find out that an id is none.
        let key = partitions::key_of(what)?;
        let cluster = Node::connect(&cli.target).await?.describe().await?;
        return Ok(partitions::of(&cluster, key, json));
    }
    let node = Node::connect(&cli.target).await?;
    match &cli.command {
        Command::Health => health::check(&node, json).await,
        Command::Status { extra } => status::show(&node.describe().await?, *extra, json),
        Command::Top(options) => top::run(&node, options, json).await,
        Command::Sql { query, jsonl } => sql::query(&node, query, json || *jsonl).await,
        Command::LogFilter(options) => log_filter::run(&node, options, json).await,
        Command::Nodes(command) => nodes(&node, command, cli).await,
        Command::Partitions(command) => partitions(&node, command, cli).await,
        Command::Logs(command) => logs(&node, command, cli).await,
        Command::Config(cli::Config::Get) => config::get(&node, json).await,
        Command::Config(cli::Config::Set(wanted)) => config::set(&node, wanted, cli).await,
        Command::Metadata(command) => metadata(&node, command, cli).await,
        Command::MetadataServer(command) => metadata_server(&node, command, cli).await,
        Command::Storage(cli::Storage::Compact(wanted)) => compact::run(&node, wanted, json).await,
        Command::Recover(command) => recover(&node, command, cli).await,
        Command::Snapshots(command) => snapshots(&node, command, cli).await,
        Command::Backup(command) => backup(&node, command, cli).await,
        // Was answered above.
        Command::Completions { shell } => Ok(completions::script(*shell)),
        Command::Provision(settings) => provision::form(&node, settings, cli.yes, json).await,
    }
}

async fn nodes(node: &Node, command: &cli::Nodes, cli: &Cli) -> Result<String, Failure> {
    use node_changes::Request;
    let (nodes, request) = match command {
        cli::Nodes::List { extra } => {
            return Ok(nodes::list(&node.describe().await?, *extra, cli.json));
        }
        cli::Nodes::Drain {
            nodes,
            force,
            following,
        } => {
            let request = Request {
                change: Change::Drain,
                force: *force,
                wait: following.limit(),
            };
            (nodes, request)
        }
        cli::Nodes::Undrain { nodes } => (nodes, Request::of(Change::Activate)),
        cli::Nodes::Remove { nodes, force } => {
            let request = Request {
                force: *force,
                ..Request::of(Change::Remove)
            };
            (nodes, request)
        }
        cli::Nodes::SetWorkerState(_) | cli::Nodes::SetStorageState(_) => {
            return Err(elsewhere::node_state());
        }
    };
    node_changes::run(node, nodes, request, cli).await
}

async fn partitions(node: &Node, command: &cli::Partitions, cli: &Cli) -> Result<String, Failure> {
    use cli::Partitions as P;
    match command {
        P::List { replicas, sort } => {
            let cluster = node.describe().await?;
            Ok(if *replicas {
                partitions::replicas(&cluster, *sort, cli.json)
            } else {
                partitions::list(&cluster, *sort, cli.json)
            })
        }
        P::Of { what } => {
            let key = partitions::key_of(what)?;
            Ok(partitions::of(&node.describe().await?, key, cli.json))
        }
        P::Move { which, to } => placement::move_leader(node, which.numbers(), to, cli).await,
        P::Leadership(command) => placement::leadership(node, command, cli).await,
        P::Placement(command) => placement::placement(node, command, cli).await,
    }
}

async fn logs(node: &Node, command: &cli::Logs, cli: &Cli) -> Result<String, Failure> {
    use cli::Logs as L;
    match command {
        L::List => Ok(logs::list(&node.logs(&[]).await?, cli.json)),
        L::Describe { partitions } => logs::describe(node, partitions, cli.json).await,
        L::FindTail { which } => logs::find_tail(node, &which.numbers(), cli.json).await,
        L::Reconfigure {
            which,
            replicas,
            leader,
        } => {
            let request = Reassign {
                partitions: which.numbers(),
                leader: leader.clone(),
                replicas: replicas.clone(),
                freeze: String::new(),
            };
            placement::reconfigure(node, request, cli).await
        }
        L::Seal { which } => {
            let request = Reassign {
                partitions: which.numbers(),
                ..Reassign::default()
            };
            placement::reconfigure(node, request, cli).await
        }
        L::Trim { which, to, force } => {
            trim::trim(node, &which.numbers(), to.unwrap_or(0), *force, cli).await
        }
        L::Dump(wanted) => dump::dump(node, wanted, cli.json).await,
    }
}

async fn metadata(node: &Node, command: &cli::Metadata, cli: &Cli) -> Result<String, Failure> {
    use cli::Metadata as M;
    match command {
        M::Get {
            key,
            key_flag,
            linearizable,
        } => {
            let key = key.as_ref().or(key_flag.as_ref());
            metadata::get(node, key, *linearizable, cli.json).await
        }
        M::Put { target, value } => metadata::put(node, target, value, cli).await,
        M::Patch { target, patch } => metadata::patch(node, target, patch, cli).await,
    }
}

async fn metadata_server(
    node: &Node,
    command: &cli::MetadataServer,
    cli: &Cli,
) -> Result<String, Failure> {
    use cli::MetadataServer as M;
    use node_changes::Request;
    match command {
        M::ListServers => Ok(metadata_server::list(&node.describe().await?, cli.json)),
        M::AddNode { nodes } => {
            node_changes::run(node, nodes, Request::of(Change::GiveVote), cli).await
        }
        M::RemoveNode { nodes } => {
            node_changes::run(node, nodes, Request::of(Change::TakeVote), cli).await
        }
    }
}

async fn snapshots(node: &Node, command: &cli::Snapshots, cli: &Cli) -> Result<String, Failure> {
    use cli::Snapshots as S;
    match command {
        S::List { partitions } => snapshots::list(node, partitions, cli.json).await,
        S::Create {
            partitions,
            min_lsn,
            trim_log,
        } => snapshots::create(node, partitions, *min_lsn, *trim_log, cli.json).await,
        S::Restore(_) => Err(elsewhere::snapshot_restore()),
    }
}

async fn backup(node: &Node, command: &cli::Backup, cli: &Cli) -> Result<String, Failure> {
    use cli::Backup as B;
    match command {
        B::Create { to } => backup::create(node, to, cli.json).await,
        B::List { at } => backup::list(node, at, cli.json).await,
        B::Verify { id, at } => backup::verify(node, at, id.as_deref(), cli.json).await,
        B::Delete { id, at } => backup::delete(node, at, id, cli).await,
        B::Restore {
            id,
            from,
            replication,
        } => {
            let restored = provision::Restored {
                url: from,
                id: id.as_deref(),
                replication: *replication,
            };
            provision::restore(node, &restored, cli.yes, cli.json).await
        }
    }
}

async fn recover(node: &Node, command: &cli::Recover, cli: &Cli) -> Result<String, Failure> {
    match command {
        cli::Recover::Metadata => recover::metadata(node, cli.json).await,
        cli::Recover::Logs { partitions } => recover::logs(node, partitions, cli.json).await,
    }
}
