//! Openraft's types to and from the messages that are sent and stored.

use std::collections::{BTreeMap, BTreeSet};

use abide_rpc::proto::metadata as pb;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EmptyNode, EntryPayload};

use super::types::{Command, Entry, LogId, Membership, StoredMembership, Vote};

/// A message that lacks a part or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn log_id_to(id: &LogId) -> pb::LogId {
    pb::LogId {
        leader: Some(pb::LeaderId {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
        }),
        index: id.index,
    }
}

pub(crate) fn log_id_from(id: &pb::LogId) -> Result<LogId, Malformed> {
    Ok(LogId::new(
        leader_from(id.leader, "log id without its leader")?,
        id.index,
    ))
}

pub(crate) fn optional_log_id_from(id: Option<&pb::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(log_id_from).transpose()
}

fn leader_from(
    leader: Option<pb::LeaderId>,
    what: &'static str,
) -> Result<LeaderId<u64, u64>, Malformed> {
    leader
        .map(|leader| LeaderId {
            term: leader.term,
            node_id: leader.node,
        })
        .ok_or(Malformed(what))
}

pub(crate) fn vote_to(vote: &Vote) -> pb::Vote {
    pb::Vote {
        leader: Some(pb::LeaderId {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
        }),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from(vote: Option<&pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("message without a vote"))?;
    Ok(Vote {
        leader_id: leader_from(vote.leader, "vote without its node")?,
        committed: vote.committed,
    })
}

pub(crate) fn membership_to(membership: &Membership) -> pb::Membership {
    pb::Membership {
        voter_sets: membership
            .get_joint_config()
            .iter()
            .map(|set| pb::VoterSet {
                nodes: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership.nodes().map(|(node, _)| *node).collect(),
    }
}

pub(crate) fn membership_from(membership: &pb::Membership) -> Result<Membership, Malformed> {
    let voter_sets: Vec<BTreeSet<u64>> = membership
        .voter_sets
        .iter()
        .map(|set| set.nodes.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, EmptyNode> = membership
        .nodes
        .iter()
        .map(|node| (*node, EmptyNode {}))
        .collect();
    if voter_sets.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voter_sets, nodes).map_err(|_| Malformed("membership"))
}

pub(crate) fn stored_membership_to(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to),
        membership: Some(membership_to(stored.membership())),
    }
}

pub(crate) fn stored_membership_from(
    stored: Option<&pb::StoredMembership>,
) -> Result<StoredMembership, Malformed> {
    let Some(stored) = stored else {
        return Ok(StoredMembership::default());
    };
    let membership = match &stored.membership {
        Some(membership) => membership_from(membership)?,
        None => Membership::default(),
    };
    Ok(StoredMembership::new(
        optional_log_id_from(stored.log_id.as_ref())?,
        membership,
    ))
}

pub(crate) fn entry_to(entry: &Entry) -> pb::Entry {
    pb::Entry {
        log_id: Some(log_id_to(&entry.log_id)),
        payload: match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(command) => {
                Some(pb::entry::Payload::Transaction(command.0.clone()))
            }
            EntryPayload::Membership(membership) => {
                Some(pb::entry::Payload::Membership(membership_to(membership)))
            }
        },
    }
}

pub(crate) fn entry_from(entry: pb::Entry) -> Result<Entry, Malformed> {
    let log_id = entry
        .log_id
        .as_ref()
        .ok_or(Malformed("entry without its log id"))?;
    Ok(Entry {
        log_id: log_id_from(log_id)?,
        payload: match entry.payload {
            None => EntryPayload::Blank,
            Some(pb::entry::Payload::Transaction(transaction)) => {
                EntryPayload::Normal(Command(transaction))
            }
            Some(pb::entry::Payload::Membership(membership)) => {
                EntryPayload::Membership(membership_from(&membership)?)
            }
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn entries_read_back() {
        let id = LogId::new(
            LeaderId {
                term: 3,
                node_id: 2,
            },
            7,
        );
        let transaction = pb::Transaction {
            id: Bytes::from_static(&[7; 16]),
            preconditions: vec![pb::Precondition {
                key: "a".into(),
                version: 1,
            }],
            puts: vec![pb::Put {
                key: "a".into(),
                value: Bytes::from_static(b"{}"),
            }],
            deletes: vec!["b".into()],
        };
        let joint = Membership::new(
            vec![BTreeSet::from([1]), BTreeSet::from([1, 2, 3])],
            (1..=4)
                .map(|node| (node, EmptyNode {}))
                .collect::<BTreeMap<_, _>>(),
        )
        .unwrap();
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Command(transaction)),
            EntryPayload::Membership(joint),
        ] {
            let entry = Entry {
                log_id: id,
                payload,
            };
            let back = entry_from(entry_to(&entry)).unwrap();
            assert_eq!((back.log_id, back.payload), (entry.log_id, entry.payload));
        }
    }

    #[test]
    fn messages_without_their_parts_are_refused() {
        assert_eq!(
            vote_from(None).unwrap_err().to_string(),
            "malformed message without a vote"
        );
        assert!(entry_from(pb::Entry::default()).is_err());
        assert!(log_id_from(&pb::LogId::default()).is_err());
        let lacks_node = pb::Membership {
            voter_sets: vec![pb::VoterSet { nodes: vec![1, 2] }],
            nodes: vec![1],
        };
        assert!(membership_from(&lacks_node).is_err());
    }
}
