//! `abidectl provision`.

use abide_rpc::proto::metadata::{FirstDocument, ProvisionSpec};
use abide_rpc::proto::operations::Replication;
use abide_rpc::proto::snapshots::PlanRestoreRequest;
use abide_types::ReplicationWish;
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
    if let Some(url) = &settings.from_backup {
        let restored = Restored {
            url,
            id: settings.backup.as_deref(),
            replication: settings.replication,
        };
        return restore(node, &restored, yes, json).await;
    }
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

/// The backup that a cluster begins with.
pub(crate) struct Restored<'a> {
    pub(crate) url: &'a str,
    /// The newest if it is not given.
    pub(crate) id: Option<&'a str>,
    /// As the backup has it if not given.
    pub(crate) replication: Option<ReplicationWish>,
}

/// Forms a cluster that begins with a backup.
pub(crate) async fn restore(
    node: &Node,
    from: &Restored<'_>,
    yes: bool,
    json: bool,
) -> Result<String, Failure> {
    let request = PlanRestoreRequest {
        url: from.url.to_owned(),
        id: from.id.unwrap_or_default().to_owned(),
    };
    let plan = node.snapshots().plan_restore(request).await;
    let plan = plan.map_err(|status| node.failure(&status))?.into_inner();
    let backup = plan.backup.unwrap_or_default();
    let replication = from.replication.map_or_else(
        || Replication {
            replicas: plan.replicas,
            write_quorum: plan.write_quorum,
            ..Replication::default()
        },
        replication::to_wire,
    );
    let steps = vec![
        format!(
            "A new cluster is formed with the node at {} as its first member.",
            node.address()
        ),
        format!("  state:       that of backup {}", backup.id),
        format!("  partitions:  {}; fixed from then on", backup.partitions),
        format!(
            "  replication: {}",
            replication::in_words(replication::from_wire(replication))
        ),
    ];
    confirm(&steps, &Answer::Yes, yes)?;
    let document = |document: abide_rpc::proto::snapshots::Document| FirstDocument {
        key: document.key,
        value: document.value,
    };
    let spec = ProvisionSpec {
        cluster_name: String::new(),
        partitions: backup.partitions,
        replicas: replication.replicas,
        write_quorum: replication.write_quorum,
        zones: replication.zones,
        regions: replication.regions,
        fingerprint: 0,
        documents: plan.documents.into_iter().map(document).collect(),
    };
    let fingerprint = node.provision(spec).await?;
    if json {
        return Ok(json_lines([json!({
            "fingerprint": format!("{fingerprint:016x}"),
            "backup": backup.id,
            "partitions": backup.partitions,
        })]));
    }
    Ok(format!(
        "provisioned from backup {}, the cluster's fingerprint is {fingerprint:016x}\n\
         its partitions serve when they have fetched their state; `abidectl partitions list --replicas` shows it\n",
        backup.id
    ))
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
        documents: Vec::new(),
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
            from_backup: None,
            backup: None,
        };
        expect![[r#"
            A new cluster is formed with the node at http://n1:5122 as its first member.
              partitions:  12; fixed from then on
              replication: 3 replicas, of which 2 acknowledge a write"#]]
        .assert_eq(&plan("http://n1:5122", &settings).join("\n"));
    }
}
