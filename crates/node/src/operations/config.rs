//! The cluster's replication: what it is, what stands in its way, and changes of it.

use std::collections::BTreeSet;

use abide_metadata::{ClusterDocument, Metadata, PartitionTable, Replication, Txn};
use abide_rpc::proto::operations::{self as wire, ClusterConfig, SetConfig, SetConfigReply};
use abide_types::PartitionId;

use super::picture::Picture;
use super::{OperationError, commit};

/// More copies of everything serve nobody.
const REPLICAS_MAX: u32 = 17;
/// How often a change is made anew because another came between.
const TRIES_MAX: usize = 8;

/// The configuration, and how far the cluster is from it.
pub(crate) fn show(picture: &Picture) -> ClusterConfig {
    describe(picture, &picture.cluster)
}

fn describe(picture: &Picture, document: &ClusterDocument) -> ClusterConfig {
    ClusterConfig {
        cluster_name: document.name.clone(),
        partitions: document.partitions.into(),
        replication: Some(to_wire(document.replication)),
        state_machine: document.state_machine_in_force(),
        features: document.features.iter().cloned().collect(),
        unreconciled: unreconciled(picture, document.replication),
        problems: problems(picture, document.replication),
        version: document.version,
    }
}

/// Changes the configuration, after the checks; or says what that would come to.
pub(crate) async fn change(
    picture: &Picture,
    metadata: &Metadata,
    request: &SetConfig,
) -> Result<SetConfigReply, OperationError> {
    let wanted = request
        .replication
        .as_ref()
        .ok_or(OperationError::Missing("what is to be changed"))?;
    let wanted = from_wire(wanted)?;
    check(picture, wanted)?;
    let before = ClusterDocument::clone(&picture.cluster);
    let mut after = before.clone();
    after.replication = wanted;
    if !request.dry_run {
        after = replace(metadata, wanted, request.expected_version).await?;
    }
    Ok(SetConfigReply {
        before: Some(describe(picture, &before)),
        after: Some(describe(picture, &after)),
        notes: notes(before.replication, wanted),
    })
}

async fn replace(
    metadata: &Metadata,
    wanted: Replication,
    expected: u64,
) -> Result<ClusterDocument, OperationError> {
    for _ in 0..TRIES_MAX {
        let mut document: ClusterDocument = commit::load(metadata).await?;
        if expected != 0 && document.version != expected {
            return Err(OperationError::Version {
                key: "cluster".to_owned(),
                expected,
                actual: document.version,
            });
        }
        if document.replication == wanted {
            return Ok(document);
        }
        let mut table: PartitionTable = commit::load(metadata).await?;
        // Epochs of earlier versions go by the configuration. From now on they say what they went by.
        for entry in table.partitions.values_mut() {
            let quorum = entry.quorum(document.replication);
            entry.write_quorum = u8::try_from(quorum).unwrap_or(u8::MAX);
        }
        document.replication = wanted;
        let txn = Txn::new().replace(&document).replace(&table);
        if commit::commit(metadata, txn).await? {
            return commit::load(metadata).await;
        }
    }
    Err(OperationError::Contended)
}

fn check(picture: &Picture, wanted: Replication) -> Result<(), OperationError> {
    let homes = picture.homes().count();
    let quorum = u32::from(wanted.write_quorum);
    if usize::from(wanted.write_quorum) > homes {
        let nodes = homes;
        return Err(OperationError::QuorumOutOfReach { nodes, quorum });
    }
    Ok(())
}

fn from_wire(wanted: &wire::Replication) -> Result<Replication, OperationError> {
    let invalid = |field, value, rule: String| Err(OperationError::Invalid { field, value, rule });
    let &wire::Replication {
        replicas,
        write_quorum,
        zones,
        regions,
    } = wanted;
    if replicas > REPLICAS_MAX {
        let rule = format!("at most {REPLICAS_MAX} are possible");
        return invalid("the number of replicas", replicas, rule);
    }
    if replicas > 0 && write_quorum > replicas {
        let rule = format!("of {replicas} replicas no more can acknowledge");
        return invalid("the write quorum", write_quorum, rule);
    }
    if replicas == 0 && write_quorum > 0 {
        return invalid(
            "the write quorum",
            write_quorum,
            "and the number of replicas is not given".into(),
        );
    }
    let count = replicas.max(3);
    if zones > count {
        let rule = format!("{count} replicas cannot be in more zones than that");
        return invalid("the number of zones", zones, rule);
    }
    if regions > count {
        let rule = format!("{count} replicas cannot be in more regions than that");
        return invalid("the number of regions", regions, rule);
    }
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    Ok(Replication {
        replicas: small(replicas),
        write_quorum: small(write_quorum),
        zones: small(zones),
        regions: small(regions),
    })
}

fn to_wire(replication: Replication) -> wire::Replication {
    wire::Replication {
        replicas: replication.replicas.into(),
        write_quorum: replication.write_quorum.into(),
        zones: replication.zones.into(),
        regions: replication.regions.into(),
    }
}

/// Replicas that each partition can have.
fn reachable(picture: &Picture, replication: Replication) -> (usize, usize) {
    let homes = picture.homes().count();
    let wanted = match usize::from(replication.replicas) {
        0 => 3,
        replicas => replicas,
    };
    (wanted, wanted.min(homes))
}

fn unreconciled(picture: &Picture, replication: Replication) -> Vec<u32> {
    let (_, count) = reachable(picture, replication);
    let quorum = replication.quorum_of(count);
    let partitions = (0..picture.cluster.partitions).map(PartitionId);
    let open = partitions.filter(|partition| {
        let Some(entry) = picture.table.partitions.get(partition) else {
            return true;
        };
        let settled = entry.next.is_empty()
            && entry.replicas.len() == count
            && entry.quorum(replication) == quorum;
        !settled || spread_problem(picture, replication, entry.replicas.iter().copied()).is_some()
    });
    open.map(|partition| partition.0.into()).collect()
}

/// What the replicas of a partition lack in spread.
fn spread_problem(
    picture: &Picture,
    replication: Replication,
    replicas: impl Iterator<Item = abide_types::NodeId> + Clone,
) -> Option<&'static str> {
    let places = |place: fn(&str) -> &str| {
        let located = replicas.clone().filter_map(|node| {
            let location = picture.nodes.get(node)?.location.as_str();
            (!location.is_empty()).then(|| place(location))
        });
        located.collect::<BTreeSet<_>>().len()
    };
    if places(region) < usize::from(replication.regions) {
        return Some("regions");
    }
    (places(zone) < usize::from(replication.zones)).then_some("zones")
}

fn problems(picture: &Picture, replication: Replication) -> Vec<String> {
    let mut problems = Vec::new();
    let (wanted, count) = reachable(picture, replication);
    if replication.replicas > 0 && count < wanted {
        problems.push(format!(
            "{count} nodes can hold replicas: each partition has {count} instead of {wanted}. Start more nodes with the roles worker and log-server."
        ));
    }
    let places = |place: fn(&str) -> &str| {
        let located = picture
            .homes()
            .map(|(_, entry)| entry.location.as_str())
            .filter(|location| !location.is_empty());
        located.map(place).collect::<BTreeSet<_>>().len()
    };
    let spreads = [
        ("regions", usize::from(replication.regions), places(region)),
        ("zones", usize::from(replication.zones), places(zone)),
    ];
    for (what, wanted, there) in spreads {
        if there < wanted {
            problems.push(format!(
                "replicas should be in {wanted} {what}, and there are nodes in {there}. Set `location` of nodes to region.zone, or start nodes elsewhere."
            ));
        }
    }
    problems
}

fn notes(before: Replication, after: Replication) -> Vec<String> {
    let mut notes = Vec::new();
    if before == after {
        return notes;
    }
    if after.replicas > before.replicas {
        notes.push("New replicas are made while everything goes on; `abidectl config get` shows how far that is.".to_owned());
    }
    if after.replicas < before.replicas && after.replicas > 0 {
        notes.push(
            "Replicas beyond that are given up, each when the others have all it has.".to_owned(),
        );
    }
    if after.write_quorum == 1 {
        notes.push(
            "With a write quorum of 1 a lost disk loses what it alone had acknowledged.".to_owned(),
        );
    }
    notes
}

fn region(location: &str) -> &str {
    location.split('.').next().unwrap_or_default()
}

fn zone(location: &str) -> &str {
    location
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parsed(numbers: [u32; 4]) -> Result<Replication, String> {
        let [replicas, write_quorum, zones, regions] = numbers;
        from_wire(&wire::Replication {
            replicas,
            write_quorum,
            zones,
            regions,
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_rule() {
        assert!(parsed([3, 2, 2, 0]).is_ok());
        assert!(parsed([0, 0, 0, 0]).is_ok());
        assert_eq!(
            parsed([18, 2, 0, 0]).unwrap_err(),
            "the number of replicas is 18, at most 17 are possible"
        );
        assert_eq!(
            parsed([3, 4, 0, 0]).unwrap_err(),
            "the write quorum is 4, of 3 replicas no more can acknowledge"
        );
        assert_eq!(
            parsed([3, 2, 4, 0]).unwrap_err(),
            "the number of zones is 4, 3 replicas cannot be in more zones than that"
        );
    }
}
