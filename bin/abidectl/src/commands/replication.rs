//! Replication in words.

use abide_rpc::proto::operations::Replication;
use abide_types::ReplicationWish;

/// Such as `3 replicas in at least 2 zones, of which 2 acknowledge a write`.
pub(crate) fn in_words(wish: ReplicationWish) -> String {
    let ReplicationWish {
        replicas,
        write_quorum,
        zones,
        regions,
    } = wish;
    let mut text = match replicas {
        0 => "three replicas where there are three nodes, else one".to_owned(),
        1 => "1 replica".to_owned(),
        replicas => format!("{replicas} replicas"),
    };
    let spread: Vec<String> = [(regions, "region"), (zones, "zone")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if !spread.is_empty() {
        text.push_str(&format!(" in at least {}", spread.join(" and ")));
    }
    let quorum = match write_quorum {
        0 => "a majority acknowledges".to_owned(),
        1 => "1 acknowledges".to_owned(),
        quorum => format!("{quorum} acknowledge"),
    };
    format!("{text}, of which {quorum} a write")
}

pub(crate) fn from_wire(replication: Replication) -> ReplicationWish {
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    ReplicationWish {
        replicas: small(replication.replicas),
        write_quorum: small(replication.write_quorum),
        zones: small(replication.zones),
        regions: small(replication.regions),
    }
}

pub(crate) fn to_wire(wish: ReplicationWish) -> Replication {
    Replication {
        replicas: wish.replicas.into(),
        write_quorum: wish.write_quorum.into(),
        zones: wish.zones.into(),
        regions: wish.regions.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn replication_reads_as_a_sentence() {
        let words = |text: &str| in_words(text.parse().unwrap());
        assert_eq!(words("2"), "3 replicas, of which 2 acknowledge a write");
        assert_eq!(words("1"), "1 replica, of which 1 acknowledges a write");
        assert_eq!(
            words("{region: 1, zone: 2, node: 3}"),
            "3 replicas in at least 1 region and 2 zones, of which a majority acknowledges a write"
        );
        assert_eq!(
            words("0"),
            "three replicas where there are three nodes, else one, of which a majority acknowledges a write"
        );
    }
}
