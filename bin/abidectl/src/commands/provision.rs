//! `abidectl provision`.

use abide_rpc::proto::metadata::ProvisionSpec;
use serde_json::json;

use crate::cli;
use crate::client::Node;
use crate::failure::Failure;
use crate::output::json_lines;

pub(crate) async fn form(
    node: &Node,
    settings: &cli::Provision,
    json: bool,
) -> Result<String, Failure> {
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

/// Zeroes leave the choice to the node.
fn spec(settings: &cli::Provision) -> ProvisionSpec {
    let write_quorum = settings.replication.map_or(0, u32::from);
    ProvisionSpec {
        cluster_name: String::new(),
        partitions: settings.num_partitions.map_or(0, u32::from),
        // With so many, as many may be lost as there are copies beyond the first.
        replicas: (2 * write_quorum).saturating_sub(1),
        write_quorum,
        fingerprint: 0,
    }
}
