//! Makes raft's membership follow the `nodes` document: servers listen first, then vote, and a removed one
//! leaves the voters first. Runs on the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use abide_types::{NodeId, Role};
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, EmptyNode};

use super::core::Core;
use super::types::Raft;
use crate::documents::{NodeState, Nodes};

/// A learner this close to the end of the log can vote without holding the others up.
const LAG_MAX: u64 = 64;
/// A change is tried again after this, if nothing else happened.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What a change of membership starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Members {
    /// One set, or two while a change is under way.
    pub(crate) voter_sets: Vec<BTreeSet<u64>>,
    pub(crate) learners: BTreeSet<u64>,
    /// Learners that are near the end of the log.
    pub(crate) caught_up: BTreeSet<u64>,
}

/// The next change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner(u64),
    SetVoters(BTreeSet<u64>),
    RemoveLearner(u64),
}

/// The next change to make, if any.
pub(crate) fn next_change(nodes: &Nodes, members: &Members, voters_max: usize) -> Option<Change> {
    let [voters] = members.voter_sets.as_slice() else {
        // A leader went away in the middle of a change: finish it.
        return members.voter_sets.last().cloned().map(Change::SetVoters);
    };
    let in_state = |state: NodeState| -> BTreeSet<u64> {
        nodes
            .with_role(Role::MetadataServer)
            .filter(|(_, entry)| entry.state == state)
            .map(|(node, _)| u64::from(node.0))
            .collect()
    };
    let (active, draining) = (in_state(NodeState::Active), in_state(NodeState::Draining));
    let mute: BTreeSet<u64> = nodes
        .with_role(Role::MetadataServer)
        .filter(|(_, entry)| entry.never_votes)
        .map(|(node, _)| u64::from(node.0))
        .collect();

    if let Some(new) = active
        .iter()
        .find(|node| !voters.contains(node) && !members.learners.contains(node))
    {
        return Some(Change::AddLearner(*new));
    }

    let may_vote: BTreeSet<u64> = active.difference(&mute).copied().collect();
    let staying: BTreeSet<u64> = voters.intersection(&may_vote).copied().collect();
    let candidates: Vec<u64> = members
        .caught_up
        .intersection(&may_vote)
        .filter(|node| !staying.contains(node))
        .copied()
        .collect();
    // Grow to odd numbers only: a second voter would add a disk to wait for and no failure to survive. But take
    // nobody's vote away for it.
    let room = voters_max.min(staying.len() + candidates.len());
    let odd = if room.is_multiple_of(2) {
        room.saturating_sub(1)
    } else {
        room
    };
    let wanted = odd.max(staying.len());
    let mut next = staying.clone();
    next.extend(candidates.iter().take(wanted - staying.len()));
    if next.is_empty() {
        // The last voter stays until there is another one, whatever the document says.
        next = voters.clone();
    }
    if next != *voters {
        return Some(Change::SetVoters(next));
    }

    members
        .learners
        .iter()
        .find(|node| !active.contains(node) && !draining.contains(node))
        .map(|node| Change::RemoveLearner(*node))
}

/// Keeps the membership as it should be while this server leads. Ends with raft.
pub(crate) async fn manage(core: Arc<Core>, raft: Raft) {
    let mut applied = core.shared.applied();
    let mut server = raft.server_metrics();
    let mut data = raft.data_metrics();
    loop {
        applied.borrow_and_update();
        let leads = core.is_leader();
        let mut waits_for_learners = false;
        if leads {
            let members = members(&raft);
            waits_for_learners = members.learners.len() > members.caught_up.len();
            let nodes = core.nodes();
            if let Some(change) = next_change(&nodes, &members, core.options.voters_max) {
                tracing::info!(?change, "change the metadata servers' membership");
                if make(&raft, change, core.options.request_timeout).await {
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY_AFTER) => continue,
                    ended = server.changed() => if ended.is_err() { return },
                }
                continue;
            }
        }
        tokio::select! {
            ended = applied.changed() => if ended.is_err() { return },
            ended = server.changed() => if ended.is_err() { return },
            ended = data.changed(), if waits_for_learners => if ended.is_err() { return },
        }
    }
}

/// The membership as the leader knows it.
pub(crate) fn members(raft: &Raft) -> Members {
    let stored = Arc::clone(&raft.server_metrics().borrow_watched().membership_config);
    let membership = stored.membership();
    let learners: BTreeSet<u64> = membership.learner_ids().collect();
    let data = raft.data_metrics().borrow_watched().clone();
    let last = data.last_log.map_or(0, |id| id.index);
    let matched = |node: &u64| -> Option<u64> {
        let matched = data.replication.as_ref()?.get(node)?.as_ref()?;
        Some(matched.index)
    };
    Members {
        voter_sets: membership.get_joint_config().clone(),
        caught_up: learners
            .iter()
            .filter(|node| matched(node).is_some_and(|matched| matched + LAG_MAX >= last))
            .copied()
            .collect(),
        learners,
    }
}

async fn make(raft: &Raft, change: Change, timeout: Duration) -> bool {
    let made = tokio::time::timeout(timeout, async {
        match change.clone() {
            Change::AddLearner(node) => raft.add_learner(node, EmptyNode {}, false).await,
            Change::SetVoters(voters) => {
                raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true)
                    .await
            }
            Change::RemoveLearner(node) => {
                let nodes = BTreeSet::from([node]);
                raft.change_membership(ChangeMembers::RemoveNodes(nodes), false)
                    .await
            }
        }
    })
    .await;
    match made {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(?change, %error, "the membership was not changed; it is tried again");
            false
        }
        Err(_) => {
            tracing::warn!(
                ?change,
                "no quorum for the membership change; it is tried again"
            );
            false
        }
    }
}

/// Voters in every set that counts now.
pub(crate) fn voters(raft: &Raft) -> BTreeSet<NodeId> {
    let stored = Arc::clone(&raft.server_metrics().borrow_watched().membership_config);
    stored.voter_ids().map(to_node).collect()
}

/// The node of a raft id.
pub(crate) fn to_node(id: u64) -> NodeId {
    NodeId(u32::try_from(id).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{NodeEntry, Supports};
    use abide_types::Generation;

    /// `states`: one letter per node from 1 on: `a`ctive, `m`ute, `d`raining, `r`emoved, `-` without the role.
    fn change(states: &str, voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Option<Change> {
        let mut nodes = Nodes::default();
        for (index, letter) in states.chars().enumerate() {
            let entry = NodeEntry {
                name: format!("n{index}"),
                generation: Generation(1),
                address: String::new(),
                ingress_address: None,
                admin_address: None,
                roles: if letter == '-' {
                    vec![Role::Worker]
                } else {
                    vec![Role::MetadataServer]
                },
                location: String::new(),
                state: match letter {
                    'd' => NodeState::Draining,
                    'r' => NodeState::Removed,
                    _ => NodeState::Active,
                },
                directory: 0,
                never_votes: letter == 'm',
                supports: Supports::default(),
            };
            nodes.nodes.insert(NodeId(index as u32 + 1), entry);
        }
        let members = Members {
            voter_sets: vec![voters.iter().copied().collect()],
            learners: learners.iter().copied().collect(),
            caught_up: caught_up.iter().copied().collect(),
        };
        next_change(&nodes, &members, 5)
    }

    fn voters(voters: &[u64]) -> Option<Change> {
        Some(Change::SetVoters(voters.iter().copied().collect()))
    }

    #[test]
    fn new_servers_listen_first() {
        assert_eq!(change("aa", &[1], &[], &[]), Some(Change::AddLearner(2)));
        assert_eq!(change("a-", &[1], &[], &[]), None);
    }

    #[test]
    fn voters_grow_to_odd_numbers_of_servers_that_have_caught_up() {
        assert_eq!(change("aa", &[1], &[2], &[2]), None);
        assert_eq!(change("aaa", &[1], &[2, 3], &[2]), None);
        assert_eq!(change("aaa", &[1], &[2, 3], &[2, 3]), voters(&[1, 2, 3]));
        assert_eq!(change("aaaa", &[1, 2, 3], &[4], &[4]), None);
        assert_eq!(
            change("aaaaaaa", &[1, 2, 3], &[4, 5, 6, 7], &[4, 5, 6, 7]),
            voters(&[1, 2, 3, 4, 5])
        );
    }

    #[test]
    fn a_draining_server_gives_its_vote_away_and_listens_on() {
        assert_eq!(change("daaa", &[1, 2, 3], &[4], &[4]), voters(&[2, 3, 4]));
        assert_eq!(change("daa", &[1, 2, 3], &[], &[]), voters(&[2, 3]));
        assert_eq!(change("daa", &[2, 3], &[1], &[1]), None);
        assert_eq!(change("d", &[1], &[], &[]), None);
    }

    #[test]
    fn a_server_without_a_vote_listens_on() {
        assert_eq!(change("maaa", &[1, 2, 3], &[4], &[4]), voters(&[2, 3, 4]));
        assert_eq!(change("ma", &[2], &[], &[]), Some(Change::AddLearner(1)));
        assert_eq!(change("maa", &[2, 3], &[1], &[1]), None);
        assert_eq!(change("m", &[1], &[], &[]), None);
    }

    #[test]
    fn a_removed_server_leaves_the_voters_then_the_members() {
        assert_eq!(change("raa", &[1, 2, 3], &[], &[]), voters(&[2, 3]));
        assert_eq!(
            change("raa", &[2, 3], &[1], &[]),
            Some(Change::RemoveLearner(1))
        );
        assert_eq!(change("r", &[1], &[], &[]), None);
        // One that lost the role leaves too.
        assert_eq!(
            change("-aa", &[2, 3], &[1], &[1]),
            Some(Change::RemoveLearner(1))
        );
    }

    #[test]
    fn two_voters_that_are_left_stay_and_are_completed() {
        assert_eq!(change("raa", &[2, 3], &[], &[]), None);
        assert_eq!(change("raaa", &[2, 3], &[4], &[4]), voters(&[2, 3, 4]));
    }

    #[test]
    fn a_change_that_was_interrupted_is_finished() {
        let members = Members {
            voter_sets: vec![BTreeSet::from([1]), BTreeSet::from([1, 2, 3])],
            learners: BTreeSet::new(),
            caught_up: BTreeSet::new(),
        };
        assert_eq!(
            next_change(&Nodes::default(), &members, 5),
            voters(&[1, 2, 3])
        );
    }
}
