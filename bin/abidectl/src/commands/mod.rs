//! Each command: what it asks, and what it makes of the answer.

mod health;
mod logs;
mod metadata;
mod nodes;
mod partitions;
mod provision;
mod status;

#[cfg(test)]
mod samples;

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
    Ok(match &cli.command {
        Command::Health => health::check(&node, json).await?,
        Command::Status => status::show(&node.describe().await?, json),
        Command::Nodes(cli::Nodes::List) => nodes::list(&node.describe().await?, json),
        Command::Partitions(cli::Partitions::List { replicas: false }) => {
            partitions::list(&node.describe().await?, json)
        }
        Command::Partitions(_) => partitions::replicas(&node.describe().await?, json),
        Command::Logs(cli::Logs::List) => logs::list(&node.logs(&[]).await?, json),
        Command::Logs(cli::Logs::Describe { partitions }) => {
            logs::describe(&node, partitions, json).await?
        }
        Command::Metadata(cli::Metadata::Get {
            key,
            key_flag,
            linearizable,
        }) => {
            metadata::get(
                &node,
                key.as_ref().or(key_flag.as_ref()),
                *linearizable,
                json,
            )
            .await?
        }
        Command::Provision(settings) => provision::form(&node, settings, json).await?,
    })
}
