//! Whether this node serves: `GET /health/ready`.

use abide_metadata::ServerState;
use abide_types::Role;

use crate::facts::{Facts, Member, Phase};

/// Why requests should rather go to another node; `None` when this one serves.
///
/// A full disk is no reason: requests are still routed to leaders elsewhere, and where all disks are full, an answer
/// that says so is better than no node to ask.
pub(crate) fn why_not(facts: &Facts) -> Option<String> {
    let Some(member) = facts.member.get() else {
        return Some(format!("it has not joined a cluster: {}", facts.awaits()));
    };
    match facts.phase() {
        Phase::Starting => return Some("its roles are being started".to_owned()),
        Phase::Stopping => return Some("it is stopping".to_owned()),
        Phase::Alive => {}
    }
    if let Some(server) = facts.server.get() {
        match server.status().state {
            ServerState::Unprovisioned => {
                return Some("its metadata server belongs to no cluster".to_owned());
            }
            ServerState::Stopped => return Some("its metadata server has stopped".to_owned()),
            ServerState::Learner
            | ServerState::Follower
            | ServerState::Candidate
            | ServerState::Leader => {}
        }
    }
    match facts.config.roles.contains(&Role::Worker) {
        true => not_taken_over(member),
        false => None,
    }
}

/// The partitions that are this node's to lead and that it does not serve yet.
fn not_taken_over(member: &Member) -> Option<String> {
    let Some(processors) = member.processors.get() else {
        return Some("its partitions are being started".to_owned());
    };
    let own = member.incarnation();
    let view = member.metadata.view();
    let statuses = processors.statuses();
    let missing: Vec<String> = (view.partition_table.partitions.iter())
        .filter(|(_, entry)| entry.leader == Some(own))
        .filter(|(partition, entry)| {
            !statuses
                .get(partition)
                .is_some_and(|status| status.serves(entry.epoch))
        })
        .map(|(partition, _)| partition.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        let partitions = missing.join(", ");
        format!("it is to lead partitions that it has not taken over: {partitions}")
    })
}
