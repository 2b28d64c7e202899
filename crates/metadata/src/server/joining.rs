//! Who gets which id. Pure: the leader proposes what is decided here by compare-and-set.

use abide_rpc::proto::metadata as pb;
use abide_rpc::proto::metadata::join_refusal::Reason;
use abide_types::{Generation, NodeId, Role};

use crate::documents::{ClusterDocument, NodeEntry, NodeState, Nodes, Supports};

/// Longest name of a node.
const NAME_BYTES_MAX: usize = 255;

/// A registration to be committed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) nodes: Nodes,
    pub(crate) node: NodeId,
    pub(crate) generation: Generation,
}

/// Registers a start of a node in `nodes`, or says why not.
pub(crate) fn register(
    cluster: &ClusterDocument,
    nodes: &Nodes,
    request: &pb::JoinRequest,
) -> Result<Registration, pb::JoinRefusal> {
    if request.cluster_name != cluster.name {
        return Err(refusal(
            Reason::OtherCluster,
            None,
            format!(
                "node '{}' wants to join the cluster '{}', this is '{}'",
                request.name, request.cluster_name, cluster.name
            ),
        ));
    }
    let roles = check_description(request)?;
    let known = match request.node {
        0 => by_name(nodes, request)?,
        node => Some(by_id(nodes, NodeId(node), request)?),
    };
    let mut nodes = nodes.clone();
    let node = match known {
        Some(node) => node,
        None => {
            let node = NodeId(nodes.next_id);
            nodes.next_id = nodes
                .next_id
                .checked_add(1)
                .ok_or_else(|| refusal(Reason::Invalid, None, "there are no ids left".into()))?;
            node
        }
    };
    let before = nodes.nodes.get(&node);
    let generation = Generation(
        before
            .map_or(0, |entry| entry.generation.0)
            .saturating_add(1)
            .max(request.generation_min),
    );
    let entry = NodeEntry {
        name: request.name.clone(),
        generation,
        address: request.address.clone(),
        ingress_address: some(&request.ingress_address),
        admin_address: some(&request.admin_address),
        roles,
        location: request.location.clone(),
        state: before.map_or(NodeState::Active, |entry| entry.state),
        directory: request.directory,
        never_votes: before.is_some_and(|entry| entry.never_votes),
        // It says so itself once it has joined: another program may start on the same data.
        supports: Supports::default(),
    };
    nodes.nodes.insert(node, entry);
    Ok(Registration {
        nodes,
        node,
        generation,
    })
}

fn check_description(request: &pb::JoinRequest) -> Result<Vec<Role>, pb::JoinRefusal> {
    let invalid = |detail: String| refusal(Reason::Invalid, None, detail);
    if request.name.is_empty() || request.name.len() > NAME_BYTES_MAX {
        return Err(invalid(format!(
            "a node's name has 1 to {NAME_BYTES_MAX} bytes, not {}",
            request.name.len()
        )));
    }
    if request.address.is_empty() {
        return Err(invalid(format!(
            "node '{}' does not say at which address others reach it",
            request.name
        )));
    }
    request
        .roles
        .iter()
        .map(|role| role.parse::<Role>())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.to_string()))
}

/// The node that a data directory says it is.
fn by_id(
    nodes: &Nodes,
    node: NodeId,
    request: &pb::JoinRequest,
) -> Result<NodeId, pb::JoinRefusal> {
    let entry = nodes.nodes.get(&node).ok_or_else(|| {
        let detail = format!("{node} is not known in this cluster");
        refusal(Reason::Invalid, Some(node), detail)
    })?;
    if entry.state == NodeState::Removed {
        let detail = format!("{node} was removed");
        return Err(refusal(Reason::Removed, Some(node), detail));
    }
    match nodes.by_name(&request.name) {
        Some((other, _)) if other != node => Err(name_taken(other, request)),
        _ => Ok(node),
    }
}

/// The node of that name, if there is one and it may be this one.
fn by_name(nodes: &Nodes, request: &pb::JoinRequest) -> Result<Option<NodeId>, pb::JoinRefusal> {
    match nodes.by_name(&request.name) {
        None => Ok(None),
        // A metadata server that lost its directory must not come back under its id: it has forgotten whom it
        // voted for and which entries it promised to keep.
        Some((node, entry))
            if entry.directory != 0
                && request.directory != 0
                && entry.directory != request.directory =>
        {
            Err(name_taken(node, request))
        }
        Some((node, _)) => Ok(Some(node)),
    }
}

fn name_taken(node: NodeId, request: &pb::JoinRequest) -> pb::JoinRefusal {
    let detail = format!(
        "the name '{}' belongs to {node}, which has another data directory",
        request.name
    );
    refusal(Reason::NameTaken, Some(node), detail)
}

fn refusal(reason: Reason, node: Option<NodeId>, detail: String) -> pb::JoinRefusal {
    pb::JoinRefusal {
        reason: reason.into(),
        detail,
        node: node.map_or(0, |node| node.0),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn cluster() -> ClusterDocument {
        ClusterDocument {
            name: "test".into(),
            ..ClusterDocument::default()
        }
    }

    fn request(name: &str, node: u32, directory: u64) -> pb::JoinRequest {
        pb::JoinRequest {
            cluster_name: "test".into(),
            name: name.into(),
            address: "127.0.0.1:1".into(),
            roles: vec!["worker".into()],
            node,
            directory,
            ..pb::JoinRequest::default()
        }
    }

    fn join(nodes: &mut Nodes, request: &pb::JoinRequest) -> Result<(u32, u32), Reason> {
        match register(&cluster(), nodes, request) {
            Ok(done) => {
                *nodes = done.nodes;
                Ok((done.node.0, done.generation.0))
            }
            Err(refusal) => Err(refusal.reason()),
        }
    }

    #[test]
    fn the_same_name_is_the_same_node_with_a_higher_generation() {
        let mut nodes = Nodes::default();
        assert_eq!(join(&mut nodes, &request("a", 0, 0)), Ok((1, 1)));
        assert_eq!(join(&mut nodes, &request("b", 0, 0)), Ok((2, 1)));
        assert_eq!(join(&mut nodes, &request("a", 0, 0)), Ok((1, 2)));
        let mut later = request("a", 1, 0);
        later.generation_min = 9;
        assert_eq!(join(&mut nodes, &later), Ok((1, 9)));
    }

    #[test]
    fn another_data_directory_does_not_get_the_name() {
        let mut nodes = Nodes::default();
        assert_eq!(join(&mut nodes, &request("a", 0, 7)), Ok((1, 1)));
        assert_eq!(join(&mut nodes, &request("a", 0, 7)), Ok((1, 2)));
        assert_eq!(
            join(&mut nodes, &request("a", 0, 8)),
            Err(Reason::NameTaken)
        );
        nodes.nodes.get_mut(&NodeId(1)).unwrap().state = NodeState::Removed;
        assert_eq!(join(&mut nodes, &request("a", 0, 8)), Ok((2, 1)));
        assert_eq!(join(&mut nodes, &request("a", 1, 7)), Err(Reason::Removed));
    }

    #[test]
    fn nodes_of_other_clusters_and_odd_roles_are_refused() {
        let mut nodes = Nodes::default();
        let mut other = request("a", 0, 0);
        other.cluster_name = "prod".into();
        assert_eq!(join(&mut nodes, &other), Err(Reason::OtherCluster));
        let mut odd = request("a", 0, 0);
        odd.roles.push("king".into());
        assert_eq!(join(&mut nodes, &odd), Err(Reason::Invalid));
        assert_eq!(join(&mut nodes, &request("a", 5, 0)), Err(Reason::Invalid));
    }
}
