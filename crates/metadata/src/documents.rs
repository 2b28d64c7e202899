//! The documents whose form this crate knows. Others (`schema`, `log/<partition>`, …) belong to the crates
//! that write them and pass through as bytes.

use std::collections::{BTreeMap, BTreeSet};

use abide_types::{Epoch, Generation, NodeId, NodeIncarnation, PartitionId, Role, partition_of};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::errors::DocumentError;
use crate::json;
use crate::txn::Versioned;

/// The keys that have a meaning.
pub mod keys {
    use abide_types::PartitionId;

    /// [`ClusterDocument`](super::ClusterDocument).
    pub const CLUSTER: &str = "cluster";
    /// [`Nodes`](super::Nodes).
    pub const NODES: &str = "nodes";
    /// [`PartitionTable`](super::PartitionTable).
    pub const PARTITION_TABLE: &str = "partition-table";
    /// [`PartitionRules`](super::PartitionRules).
    pub const PARTITION_RULES: &str = "partition-rules";
    /// Deployments and services.
    pub const SCHEMA: &str = "schema";
    /// How many invocations of a scope may run at a time.
    pub const LIMITS: &str = "limits";

    /// The snapshot that a partition begins with, in a cluster that was made from a backup.
    pub fn origin(partition: PartitionId) -> String {
        format!("origin/{partition}")
    }

    /// The log chain of a partition.
    pub fn log(partition: PartitionId) -> String {
        format!("log/{partition}")
    }
}

/// A JSON document under a fixed key.
pub trait Document: Serialize + DeserializeOwned + Default {
    /// Where it is stored.
    const KEY: &'static str;

    /// The version it was read at; 0 if it was not stored.
    fn version(&self) -> u64;

    /// Notes the version it was read at.
    fn set_version(&mut self, version: u64);

    /// The bytes to store.
    fn to_bytes(&self) -> Bytes {
        // Serialising fails on maps without text keys and on failing writers; neither occurs here.
        Bytes::from(serde_json::to_vec(self).expect("a document of plain fields serialises"))
    }

    /// Reads what was stored.
    fn from_versioned(stored: &Versioned) -> Result<Self, DocumentError> {
        let mut document: Self =
            serde_json::from_slice(&stored.value).map_err(|source| DocumentError {
                key: Self::KEY.to_owned(),
                version: stored.version,
                source,
            })?;
        document.set_version(stored.version);
        Ok(document)
    }
}

macro_rules! document {
    ($name:ident, $key:expr) => {
        impl Document for $name {
            const KEY: &'static str = $key;

            fn version(&self) -> u64 {
                self.version
            }

            fn set_version(&mut self, version: u64) {
                self.version = version;
            }
        }
    };
}

/// What holds for the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterDocument {
    /// The version it was read at.
    #[serde(skip)]
    pub version: u64,
    /// The cluster's name; fixed when it is provisioned.
    pub name: String,
    /// Random; tells this cluster from every other one. Never 0.
    #[serde(with = "json::hex")]
    pub fingerprint: u64,
    /// How many partitions there are; fixed when the cluster is provisioned.
    pub partitions: u16,
    /// How logs and partitions are replicated.
    pub replication: Replication,
    /// The state machine's version that leaders propose in; 0 is 1. It never goes back: stores hold what it wrote.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state_machine: u32,
    /// Features that are on, by name. A feature that was switched on stays on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// What later versions keep here: it outlives a change by this one.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
document!(ClusterDocument, keys::CLUSTER);

impl ClusterDocument {
    /// The state machine's version that leaders propose in.
    pub fn state_machine_in_force(&self) -> u32 {
        self.state_machine.max(1)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Copies of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replication {
    /// Replicas of every segment; 0 means three where there are three nodes, else one.
    pub replicas: u8,
    /// Copies on disk that commit a record; 0 means a majority.
    pub write_quorum: u8,
    /// Over how many zones, at least, the replicas of a partition are spread; 0 demands nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zones: u8,
    /// The same for regions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub regions: u8,
}

impl Replication {
    /// Replicas and write quorum in a cluster of `nodes` log servers.
    pub fn effective(self, nodes: usize) -> (u8, u8) {
        let replicas = match self.replicas {
            0 if nodes >= 3 => 3,
            0 => 1,
            replicas => replicas,
        };
        let write_quorum = match self.write_quorum {
            0 => replicas / 2 + 1,
            quorum => quorum.min(replicas),
        };
        (replicas, write_quorum)
    }

    /// The write quorum of a segment with so many replicas: what is configured, as far as there are replicas for it.
    pub fn quorum_of(self, replicas: usize) -> usize {
        let quorum = match usize::from(self.write_quorum) {
            0 => replicas / 2 + 1,
            configured => configured.min(replicas),
        };
        quorum.max(1)
    }
}

/// Every node that ever joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// The version it was read at.
    #[serde(skip)]
    pub version: u64,
    /// The id that the next new node gets. Ids are never used again.
    pub next_id: u32,
    /// The nodes. Removed ones stay, so that their ids are known to be used.
    #[serde(with = "json::by_number")]
    pub nodes: BTreeMap<NodeId, NodeEntry>,
}
document!(Nodes, keys::NODES);

impl Default for Nodes {
    fn default() -> Self {
        Self {
            version: 0,
            next_id: 1,
            nodes: BTreeMap::new(),
        }
    }
}

impl Nodes {
    /// The node, if it exists and was not removed.
    pub fn get(&self, node: NodeId) -> Option<&NodeEntry> {
        self.nodes
            .get(&node)
            .filter(|entry| entry.state != NodeState::Removed)
    }

    /// Nodes that were not removed, in order of their ids.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeEntry)> {
        self.nodes
            .iter()
            .filter(|(_, entry)| entry.state != NodeState::Removed)
            .map(|(node, entry)| (*node, entry))
    }

    /// Nodes with a role that were not removed.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = (NodeId, &NodeEntry)> {
        self.members()
            .filter(move |(_, entry)| entry.roles.contains(&role))
    }

    /// The node of that name that was not removed.
    pub fn by_name(&self, name: &str) -> Option<(NodeId, &NodeEntry)> {
        self.members().find(|(_, entry)| entry.name == name)
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name; of the nodes that were not removed, each has another one.
    pub name: String,
    /// Its latest start.
    #[serde(with = "json::number")]
    pub generation: Generation,
    /// `host:port` of the node port.
    pub address: String,
    /// Where clients reach its ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_address: Option<String>,
    /// Where operators reach its admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_address: Option<String>,
    /// What it does.
    #[serde(with = "json::roles")]
    pub roles: Vec<Role>,
    /// `region` or `region.zone`; empty if nobody said.
    #[serde(default)]
    pub location: String,
    /// Whether it is to be used.
    #[serde(default)]
    pub state: NodeState,
    /// The random number of its data directory; 0 if it keeps none. A directory that was lost shows by this.
    #[serde(with = "json::hex", default)]
    pub directory: u64,
    /// Set for a metadata server that is to keep the metadata without a vote.
    #[serde(default, skip_serializing_if = "is_default")]
    pub never_votes: bool,
    /// What its program can do; empty while it did not say, as older ones never do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub supports: Supports,
}

/// What the program of a node can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Supports {
    /// Its version.
    #[serde(default)]
    pub program: String,
    /// The highest version of the state machine that it computes; 0 is 1.
    #[serde(default)]
    pub state_machine: u32,
    /// Features of the cluster that it knows, by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
}

impl NodeEntry {
    /// Its latest run.
    pub fn incarnation(&self, node: NodeId) -> NodeIncarnation {
        NodeIncarnation {
            node,
            generation: self.generation,
        }
    }
}

/// Whether a node is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Gets work.
    #[default]
    Active,
    /// Gives its work away, and its vote too while there are other voters.
    Draining,
    /// Gone for good.
    Removed,
}

/// Who leads and who follows each partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionTable {
    /// The version it was read at.
    #[serde(skip)]
    pub version: u64,
    /// Every partition.
    #[serde(with = "json::by_number")]
    pub partitions: BTreeMap<PartitionId, PartitionEntry>,
}
document!(PartitionTable, keys::PARTITION_TABLE);

impl PartitionTable {
    /// The partition that owns `key`, and its entry if it has been placed.
    pub fn of_key(
        &self,
        key: abide_types::PartitionKey,
        count: u16,
    ) -> (PartitionId, Option<&PartitionEntry>) {
        let partition = partition_of(key, count);
        (partition, self.partitions.get(&partition))
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// The epoch granted last.
    #[serde(with = "json::number")]
    pub epoch: Epoch,
    /// Whom it was granted to.
    #[serde(with = "json::incarnation", default)]
    pub leader: Option<NodeIncarnation>,
    /// Nodes that keep the partition's store.
    #[serde(with = "json::numbers", default)]
    pub replicas: Vec<NodeId>,
    /// Who of them stays, while others are there only until these have caught up. Empty: all stay.
    #[serde(with = "json::numbers", default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NodeId>,
    /// Copies on disk that commit a record of this epoch; 0 goes by the cluster's replication.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_quorum: u8,
}

impl PartitionEntry {
    /// The write quorum of its epoch's segment.
    pub fn quorum(&self, replication: Replication) -> usize {
        let replicas = self.replicas.len();
        match usize::from(self.write_quorum) {
            0 => replication.quorum_of(replicas),
            quorum => quorum.min(replicas).max(1),
        }
    }
}

/// What operators want of partitions. A document of its own: the partition table changes with every failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionRules {
    /// The version it was read at.
    #[serde(skip)]
    pub version: u64,
    /// Partitions that something is wanted of.
    #[serde(with = "json::by_number")]
    pub partitions: BTreeMap<PartitionId, PartitionRule>,
}
document!(PartitionRules, keys::PARTITION_RULES);

/// What is wanted of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionRule {
    /// Who is to lead whenever it can.
    #[serde(
        with = "json::optional_number",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub pinned: Option<NodeId>,
    /// Why the leader is not to be moved as long as it can lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leadership_frozen: Option<String>,
    /// Why the replica set is not to be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_frozen: Option<String>,
    /// What later versions keep here: it outlives a change by this one.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl PartitionRule {
    /// Whether it demands nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn documents_have_this_form_in_json() {
        let mut nodes = Nodes::default();
        nodes.nodes.insert(
            NodeId(1),
            NodeEntry {
                name: "n1".into(),
                generation: Generation(3),
                address: "127.0.0.1:7101".into(),
                ingress_address: None,
                admin_address: Some("127.0.0.1:7103".into()),
                roles: vec![Role::MetadataServer, Role::Worker],
                location: String::new(),
                state: NodeState::Draining,
                directory: 0xabc,
                never_votes: false,
                supports: Supports::default(),
            },
        );
        let text = r#"{"next_id":1,"nodes":{"1":{"name":"n1","generation":3,"address":"127.0.0.1:7101","admin_address":"127.0.0.1:7103","roles":["metadata-server","worker"],"location":"","state":"draining","directory":"0000000000000abc"}}}"#;
        assert_eq!(nodes.to_bytes(), text);

        let mut table = PartitionTable::default();
        table.partitions.insert(
            PartitionId(7),
            PartitionEntry {
                epoch: Epoch(4),
                leader: Some(NodeIncarnation {
                    node: NodeId(2),
                    generation: Generation(1),
                }),
                replicas: vec![NodeId(1), NodeId(2)],
                ..PartitionEntry::default()
            },
        );
        let text = r#"{"partitions":{"7":{"epoch":4,"leader":{"node":2,"generation":1},"replicas":[1,2]}}}"#;
        assert_eq!(table.to_bytes(), text);
        let stored = Versioned {
            version: 9,
            value: table.to_bytes(),
        };
        table.version = 9;
        assert_eq!(PartitionTable::from_versioned(&stored).unwrap(), table);
    }

    #[test]
    fn rubbish_is_an_error_that_names_the_key() {
        let stored = Versioned {
            version: 5,
            value: Bytes::from_static(b"{\"next_id\":1,\"nodes\":{\"x\":{}}}"),
        };
        let error = Nodes::from_versioned(&stored).unwrap_err();
        assert_eq!(error.to_string(), "document 'nodes' at version 5");
    }

    #[test]
    fn replication_defaults_follow_the_number_of_nodes() {
        assert_eq!(Replication::default().effective(1), (1, 1));
        assert_eq!(Replication::default().effective(3), (3, 2));
        let five = Replication {
            replicas: 5,
            ..Replication::default()
        };
        assert_eq!(five.effective(5), (5, 3));
    }

    #[test]
    fn what_a_later_version_wrote_outlives_a_change() {
        let text = r#"{"name":"a","fingerprint":"00000000000000ab","partitions":4,"replication":{"replicas":3,"write_quorum":2},"colour":"red"}"#;
        let stored = Versioned {
            version: 3,
            value: Bytes::from(text),
        };
        let cluster = ClusterDocument::from_versioned(&stored).unwrap();
        assert_eq!(cluster.state_machine_in_force(), 1);
        assert_eq!(cluster.to_bytes(), text);
    }

    #[test]
    fn rules_have_this_form_in_json() {
        let text = r#"{"partitions":{"3":{"pinned":2,"placement_frozen":"audit","tint":1}}}"#;
        let stored = Versioned {
            version: 3,
            value: Bytes::from(text),
        };
        let rules = PartitionRules::from_versioned(&stored).unwrap();
        let rule = &rules.partitions[&PartitionId(3)];
        assert_eq!(rule.pinned, Some(NodeId(2)));
        assert!(!rule.is_empty());
        assert_eq!(rules.to_bytes(), text);
    }
}
