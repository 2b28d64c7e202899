//! `abidectl provision`.

use abide_rpc::proto::metadata::ProvisionSpec;
use serde_json::json;

use crate::cli;
use crate::client::Node;
use crate::commands::replication;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::json_lines;

pub(crate) async fn form(
    node: &Node,
    settings: &cli::Provision,
    yes: bool,
    json: bool,
) -> Result<String, Failure> {
    confirm(&plan(node.address(), settings), &Answer::Yes, yes)?;
    let fingerprint = match node.provision(spec(settings)).await {
        Err(Failure::AlreadyProvisioned { fingerprint }) if settings.if_needed => {
            return Ok(said("was provisioned before", fingerprint, json));
        }
        formed => formed?,
    };
    Ok(said("provisioned", fingerprint, json))
}

fn said(what: &str, fingerprint: u64, json: bool) -> String {
    if json {
        return json_lines([json!({ "fingerprint": format!("{fingerprint:016x}") })]);
    }
    format!("{what}, the cluster's fingerprint is {fingerprint:016x}\n")
}

fn plan(address: &str, settings: &cli::Provision) -> Vec<String> {
    let own = "as the node's configuration says";
    let partitions = settings
        .num_partitions
        .map_or_else(|| own.to_owned(), |count| count.to_string());
    let replication = settings
        .replication
        .map_or_else(|| own.to_owned(), replication::in_words);
    vec![
        format!("A new cluster is formed with the node at {address} as its first member."),
        format!("  partitions:  {partitions}; fixed from then on"),
        format!("  replication: {replication}"),
    ]
}

/// Zeroes leave the choice to the node.
fn spec(settings: &cli::Provision) -> ProvisionSpec {
    let replication = settings.replication.unwrap_or_default();
    ProvisionSpec {
        cluster_name: String::new(),
        partitions: settings.num_partitions.map_or(0, u32::from),
        replicas: replication.replicas.into(),
        write_quorum: replication.write_quorum.into(),
        zones: replication.zones.into(),
        regions: replication.regions.into(),
        fingerprint: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_plan_says_what_cannot_be_changed_later() {
        let settings = cli::Provision {
            num_partitions: Some(12),
            replication: "2".parse().ok(),
            if_needed: false,
        };
        expect![[r#"
            A new cluster is formed with the node at http://n1:5122 as its first member.
              partitions:  12; fixed from then on
              replication: 3 replicas, of which 2 acknowledge a write"#]]
        .assert_eq(&plan("http://n1:5122", &settings).join("\n"));
    }
}
