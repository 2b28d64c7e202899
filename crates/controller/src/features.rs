//! What may be switched on: a version or feature is in force only when every member's program knows it.
//!
//! It never goes back, since logs and stores hold what was written under it. So a program that does not know what is
//! in force cannot join any more, and a member that did not say what it can counts as the oldest.

use abide_metadata::{ClusterDocument, Nodes};

/// The cluster's document with what is due switched on; `None` if nothing is.
pub(crate) fn due(cluster: &ClusterDocument, nodes: &Nodes) -> Option<ClusterDocument> {
    let oldest = nodes
        .members()
        .map(|(_, entry)| entry.supports.state_machine.max(1))
        .min()?;
    let mut members = nodes.members();
    let (_, first) = members.next()?;
    let mut known = first.supports.features.clone();
    for (_, entry) in members {
        known.retain(|feature| entry.supports.features.contains(feature));
    }
    let mut next = cluster.clone();
    if cluster.state_machine_in_force() < oldest {
        next.state_machine = oldest;
    }
    next.features.extend(known);
    (next != *cluster).then_some(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use abide_metadata::{NodeEntry, NodeState, Supports};
    use abide_types::{Generation, NodeId};

    use super::*;

    /// Members that know so much: a version of the state machine, and features by letters.
    fn members(known: &[(u32, &str)]) -> Nodes {
        let mut nodes = Nodes::default();
        for (id, (state_machine, features)) in (1..).zip(known) {
            let entry = NodeEntry {
                name: format!("n{id}"),
                generation: Generation(1),
                address: String::new(),
                ingress_address: None,
                admin_address: None,
                roles: Vec::new(),
                location: String::new(),
                state: NodeState::Active,
                directory: 0,
                never_votes: false,
                supports: Supports {
                    program: String::new(),
                    state_machine: *state_machine,
                    features: features.chars().map(String::from).collect(),
                },
            };
            nodes.nodes.insert(NodeId(id), entry);
        }
        nodes
    }

    fn switched(known: &[(u32, &str)]) -> Option<(u32, String)> {
        let next = due(&ClusterDocument::default(), &members(known))?;
        let features: Vec<&str> = next.features.iter().map(String::as_str).collect();
        Some((next.state_machine_in_force(), features.concat()))
    }

    #[test]
    fn what_all_members_know_is_switched_on() {
        assert_eq!(switched(&[(1, ""), (1, "")]), None);
        assert_eq!(switched(&[(3, "ab"), (2, "bc")]), Some((2, "b".to_owned())));
        assert_eq!(switched(&[(3, "ab"), (3, "c")]), Some((3, String::new())));
    }

    #[test]
    fn who_did_not_say_counts_as_the_oldest_until_it_is_removed() {
        assert_eq!(switched(&[(3, "a"), (0, "")]), None);
        let mut nodes = members(&[(3, "a"), (0, "")]);
        nodes.nodes.get_mut(&NodeId(2)).unwrap().state = NodeState::Removed;
        let next = due(&ClusterDocument::default(), &nodes).unwrap();
        assert_eq!(next.state_machine, 3);
    }

    #[test]
    fn nothing_is_switched_off() {
        let cluster = ClusterDocument {
            state_machine: 4,
            features: ["a".to_owned()].into(),
            ..ClusterDocument::default()
        };
        assert_eq!(due(&cluster, &members(&[(3, "")])), None);
    }
}
