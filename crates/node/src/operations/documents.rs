//! Writing documents of the metadata plane by hand, for what no command covers.

use abide_log::LogChain;
use abide_metadata::{
    ClusterDocument, Document, Metadata, Nodes, PartitionRules, PartitionTable, Txn, Versioned,
    keys,
};
use abide_rpc::proto::operations::{PutDocument, PutDocumentReply};

use super::{OperationError, commit};

/// Writes a document, if it is at the version that is expected and nodes would understand it.
pub(crate) async fn put(
    metadata: &Metadata,
    request: PutDocument,
) -> Result<PutDocumentReply, OperationError> {
    if request.key.is_empty() {
        return Err(OperationError::Missing("the key of the document"));
    }
    let stored = commit::read(metadata, &request.key).await?;
    let actual = stored.as_ref().map_or(0, |stored| stored.version);
    let conflict = |actual| OperationError::Version {
        key: request.key.clone(),
        expected: request.expected_version,
        actual,
    };
    if !request.any_version && actual != request.expected_version {
        return Err(conflict(actual));
    }
    let new = Versioned {
        version: actual,
        value: request.value.clone(),
    };
    check(&request.key, stored.as_ref(), &new)?;
    if request.dry_run {
        return Ok(PutDocumentReply { version: actual });
    }
    let txn = Txn::new()
        .expect(&request.key, actual)
        .put(&request.key, request.value.clone());
    if !commit::commit(metadata, txn).await? {
        return Err(OperationError::Contended);
    }
    let stored = commit::read(metadata, &request.key).await?;
    Ok(PutDocumentReply {
        version: stored.map_or(0, |stored| stored.version),
    })
}

/// Whether nodes would go by what is to be written.
fn check(key: &str, before: Option<&Versioned>, new: &Versioned) -> Result<(), OperationError> {
    let not_understood = |detail: String| OperationError::NotUnderstood {
        key: key.to_owned(),
        detail,
    };
    if key.starts_with("log/") {
        LogChain::from_json(&new.value)
            .map_err(|error| not_understood(crate::start::chain(&error)))?;
        return Ok(());
    }
    match key {
        keys::CLUSTER => {
            let after: ClusterDocument = parse(new)?;
            let before: ClusterDocument = before.map(parse).transpose()?.unwrap_or_default();
            for (changed, what) in [
                (after.name != before.name, "the name"),
                (after.fingerprint != before.fingerprint, "the fingerprint"),
                (
                    after.partitions != before.partitions,
                    "the number of partitions",
                ),
            ] {
                if changed {
                    return Err(OperationError::Fixed { what });
                }
            }
        }
        keys::NODES => drop(parse::<Nodes>(new)?),
        keys::PARTITION_TABLE => drop(parse::<PartitionTable>(new)?),
        keys::PARTITION_RULES => drop(parse::<PartitionRules>(new)?),
        _ => {
            serde_json::from_slice::<serde_json::Value>(&new.value)
                .map_err(|error| not_understood(error.to_string()))?;
        }
    }
    Ok(())
}

fn parse<D: Document>(stored: &Versioned) -> Result<D, OperationError> {
    D::from_versioned(stored).map_err(|error| OperationError::NotUnderstood {
        key: D::KEY.to_owned(),
        detail: error.source.to_string(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn checked(key: &str, before: &str, after: &str) -> Result<(), String> {
        let stored = |text: &str| Versioned {
            version: 4,
            value: text.to_owned().into(),
        };
        check(key, Some(&stored(before)), &stored(after)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_nodes_would_not_understand_is_refused() {
        assert!(checked("nodes", "{}", r#"{"next_id":4,"nodes":{}}"#).is_ok());
        assert!(
            checked("nodes", "{}", r#"{"nodes":{}}"#)
                .unwrap_err()
                .contains("next_id")
        );
        assert!(checked("log/3", "{}", r#"{"segments":[]}"#).is_ok());
        assert!(checked("log/3", "{}", "[]").unwrap_err().contains("log/3"));
        assert!(checked("schema", "{}", "{").is_err());
    }

    #[test]
    fn what_a_cluster_is_stays() {
        let document = |name: &str, partitions: u16| {
            format!(
                r#"{{"name":"{name}","fingerprint":"00000000000000ab","partitions":{partitions},"replication":{{"replicas":3,"write_quorum":2}}}}"#
            )
        };
        let before = document("a", 4);
        assert!(checked("cluster", &before, &before).is_ok());
        assert_eq!(
            checked("cluster", &before, &document("a", 8)).unwrap_err(),
            "the number of partitions of a cluster cannot be changed"
        );
        assert!(checked("cluster", &before, &document("b", 4)).is_err());
    }
}
