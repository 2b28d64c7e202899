//! Each command: what it asks, and what it makes of the answer.

mod config;
mod health;
mod logs;
mod metadata;
mod metadata_server;
mod node_changes;
mod nodes;
mod partitions;
mod placement;
mod provision;
mod replication;
mod status;

#[cfg(test)]
mod samples;

use std::time::Duration;

use abide_rpc::proto::operations::Reassign;
use abide_rpc::proto::operations::change_node::Change;

use crate::cli::{self, Cli, Command};
use crate::client::Node;
use crate::failure::Failure;

/// The text to print.
pub(crate) async fn run(cli: &Cli) -> Result<String, Failure> {
    let json = cli.json;
    if let Command::Partitions(cli::Partitions::Of { what }) = &cli.command {
        // Nobody needs to be asked to find out that an id is none.
        let key = partitions::key_of(what)?;
        let cluster = Node::connect(&cli.target).await?.describe().await?;
        return Ok(partitions::of(&cluster, key, json));
    }
    let node = Node::connect(&cli.target).await?;
    match &cli.command {
        Command::Health => health::check(&node, json).await,
        Command::Status => Ok(status::show(&node.describe().await?, json)),
        Command::Nodes(command) => nodes(&node, command, cli).await,
        Command::Partitions(command) => partitions(&node, command, cli).await,
        Command::Logs(command) => logs(&node, command, cli).await,
        Command::Config(cli::Config::Get) => config::get(&node, json).await,
        Command::Config(cli::Config::Set(wanted)) => config::set(&node, wanted, cli).await,
        Command::Metadata(command) => metadata(&node, command, cli).await,
        Command::MetadataServer(command) => metadata_server(&node, command, cli).await,
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
            wait,
            wait_timeout,
        } => {
            let request = Request {
                change: Change::Drain,
                force: *force,
                wait: wait.then(|| Duration::from_secs(*wait_timeout)),
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
