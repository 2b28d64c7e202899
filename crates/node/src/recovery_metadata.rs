//! What the metadata servers hold when most of them are lost, and which of them should go on.

use std::collections::BTreeSet;
use std::time::Duration;

use abide_metadata::{Holdings, LogPosition, NodeDescription};
use abide_rpc::proto::recovery::recovery_client::RecoveryClient;
use abide_rpc::proto::recovery::{
    DocumentVersion, LogPosition as Position, MetadataHolding, MetadataSurvey, SurveyMetadata,
};
use abide_types::Role;
use tonic::transport::{Channel, Endpoint};

use crate::facts::Facts;
use crate::options;

/// How long a server may take to say what it holds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// What this node's server holds; `None` if it runs none.
pub(crate) fn own(facts: &Facts) -> Option<MetadataHolding> {
    let NodeDescription { name, address, .. } = options::description(&facts.config, &facts.bound);
    let holding = match facts.server.get()?.holdings() {
        Ok(holdings) => holding_of(holdings, address),
        Err(error) => MetadataHolding {
            name,
            address,
            unreachable: error.to_string(),
            ..MetadataHolding::default()
        },
    };
    Some(holding)
}

/// What every server holds that is known here.
pub(crate) async fn survey(facts: &Facts) -> MetadataSurvey {
    let own_address = options::description(&facts.config, &facts.bound).address;
    let own = own(facts);
    let asked = addresses(facts)
        .into_iter()
        .filter(|address| *address != own_address)
        .map(|address| async move { ask(&address).await });
    let mut servers: Vec<MetadataHolding> = own.into_iter().collect();
    for answer in futures::future::join_all(asked).await {
        // One server may be known by several addresses; nodes that run none say nothing.
        let known = |found: &MetadataHolding| answer.node != 0 && found.node == answer.node;
        let says_nothing = answer.name.is_empty() && answer.unreachable.is_empty();
        if !says_nothing && !servers.iter().any(known) {
            servers.push(answer);
        }
    }
    servers.sort_by_key(|server| (server.node == 0, server.node));
    let best = best(&servers);
    MetadataSurvey {
        quorum: best.is_some_and(|best| has_quorum(best, &servers)),
        best: best.map_or(0, |best| best.node),
        servers,
    }
}

/// Where servers may be: as configured, as the documents say and as this node's server believes.
fn addresses(facts: &Facts) -> BTreeSet<String> {
    let bare = |address: &str| {
        let rest = address.strip_prefix("http://").unwrap_or(address);
        rest.trim_end_matches('/').to_owned()
    };
    let mut addresses: BTreeSet<String> = (facts.config.metadata_client.addresses.iter())
        .map(|address| bare(address))
        .collect();
    if let Some(member) = facts.member.get() {
        let view = member.metadata.view();
        let servers = view.nodes.with_role(Role::MetadataServer);
        addresses.extend(servers.map(|(_, entry)| bare(&entry.address)));
    }
    if let Some(Ok(holdings)) = facts.server.get().map(|server| server.holdings()) {
        addresses.extend(holdings.servers.iter().map(|(_, address)| bare(address)));
    }
    addresses
}

async fn ask(address: &str) -> MetadataHolding {
    let unreachable = |reason: String| MetadataHolding {
        address: address.to_owned(),
        unreachable: reason,
        ..MetadataHolding::default()
    };
    let mut client = match client(address).await {
        Ok(client) => client,
        Err(reason) => return unreachable(reason),
    };
    match client.metadata(SurveyMetadata { local: true }).await {
        Ok(survey) => {
            let mut servers = survey.into_inner().servers.into_iter();
            servers.next().unwrap_or_default()
        }
        Err(status) => unreachable(status.message().to_owned()),
    }
}

/// A connection to the recovery service of another node.
pub(crate) async fn client(address: &str) -> Result<RecoveryClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("'{address}' is no address: {error}"))?
        .connect_timeout(ANSWERS_WITHIN)
        .timeout(ANSWERS_WITHIN);
    let connecting = tokio::time::timeout(ANSWERS_WITHIN, endpoint.connect()).await;
    let channel = connecting
        .map_err(|_| format!("no connection within {ANSWERS_WITHIN:?}"))?
        .map_err(|error| crate::start::chain(&error))?;
    Ok(RecoveryClient::new(channel))
}

fn holding_of(holdings: Holdings, address: String) -> MetadataHolding {
    MetadataHolding {
        node: holdings.node.map_or(0, |node| node.0),
        name: holdings.name,
        address,
        unreachable: String::new(),
        fingerprint: holdings.fingerprint,
        former: holdings.former,
        term: holdings.term,
        last: Some(Position {
            term: holdings.last.term,
            node: holdings.last.node,
            index: holdings.last.index,
        }),
        committed: holdings.committed,
        applied: holdings.applied,
        voters: holdings.voters.iter().map(|voter| voter.0).collect(),
        quorum: u32::try_from(holdings.quorum).unwrap_or(u32::MAX),
        documents: holdings
            .documents
            .into_iter()
            .map(|(key, version)| DocumentVersion { key, version })
            .collect(),
    }
}

/// The end of a server's log.
pub(crate) fn position(last: Option<&Position>) -> LogPosition {
    last.map_or_else(LogPosition::default, |last| LogPosition {
        term: last.term,
        node: last.node,
        index: last.index,
    })
}

/// Who holds most of what was committed: the highest end of the log, as in an election. Who was left behind by an
/// earlier recovery is not asked.
fn best(servers: &[MetadataHolding]) -> Option<&MetadataHolding> {
    let left_behind = |found: &MetadataHolding| {
        let fingerprint = found.fingerprint;
        servers
            .iter()
            .any(|other| other.former.contains(&fingerprint))
    };
    servers
        .iter()
        .filter(|found| found.node != 0 && found.fingerprint != 0 && !left_behind(found))
        // Of those that are alike the first, so that all nodes say the same.
        .rev()
        .max_by_key(|found| position(found.last.as_ref()))
}

/// Whether so many voters answer that they elect a leader, as the one with the newest membership has it.
fn has_quorum(best: &MetadataHolding, servers: &[MetadataHolding]) -> bool {
    let votes = |found: &&MetadataHolding| {
        found.fingerprint == best.fingerprint && best.voters.contains(&found.node)
    };
    let answering = servers.iter().filter(votes).count();
    0 < best.quorum && best.quorum as usize <= answering
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(node: u32, fingerprint: u64, term: u64, index: u64) -> MetadataHolding {
        MetadataHolding {
            node,
            fingerprint,
            last: Some(Position {
                term,
                node: 1,
                index,
            }),
            voters: vec![1, 2, 3],
            quorum: 2,
            ..MetadataHolding::default()
        }
    }

    fn judge(servers: &[MetadataHolding]) -> (u32, bool) {
        best(servers).map_or((0, false), |best| (best.node, has_quorum(best, servers)))
    }

    #[test]
    fn the_one_with_the_highest_end_goes_on() {
        assert_eq!(judge(&[]), (0, false));
        assert_eq!(judge(&[holding(3, 7, 2, 9)]), (3, false));
        // A higher term beats a longer log.
        let learner = MetadataHolding {
            voters: vec![1, 2, 3],
            ..holding(4, 7, 3, 8)
        };
        assert_eq!(judge(&[holding(3, 7, 2, 9), learner]), (4, false));
    }

    #[test]
    fn a_majority_that_answers_needs_no_help() {
        assert_eq!(
            judge(&[holding(1, 7, 2, 9), holding(3, 7, 2, 9)]),
            (1, true)
        );
        // One of another cluster, and one with an empty disk, are nobody.
        let empty = MetadataHolding::default();
        assert_eq!(
            judge(&[holding(1, 8, 1, 1), holding(3, 7, 2, 9), empty]),
            (3, false)
        );
    }

    #[test]
    fn who_was_left_behind_is_not_asked() {
        let went_on = MetadataHolding {
            former: vec![7],
            voters: vec![3],
            quorum: 1,
            ..holding(3, 8, 1, 5)
        };
        let old = [holding(1, 7, 9, 99), holding(2, 7, 9, 99), went_on];
        assert_eq!(judge(&old), (3, true));
    }
}
