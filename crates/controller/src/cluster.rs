//! The cluster as the planner sees it: values only, made by the driver from documents and liveness.

use std::collections::{BTreeMap, BTreeSet};

use abide_types::{Epoch, Generation, NodeId, NodeIncarnation, PartitionId};

/// Everything on which a plan depends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Copies of each partition; `None` goes by the size of the cluster: three, or as many as there are nodes.
    pub replicas: Option<usize>,
    /// How many partitions there are.
    pub partitions: u16,
    /// Members, dead ones included.
    pub nodes: BTreeMap<NodeId, Member>,
    /// The partition table. Partitions that are not in it were never placed.
    pub table: BTreeMap<PartitionId, Placement>,
    /// Replicas that have not caught up: they lead only when nobody else can.
    pub behind: BTreeSet<(PartitionId, NodeId)>,
    /// What may be moved for balance alone.
    pub budget: Budget,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its current start; what earlier ones led is orphaned.
    pub generation: Generation,
    /// `region.zone`, or empty.
    pub location: String,
    /// Whether it may hold replicas at all: it has the roles, and no operator drains or removes it.
    pub eligible: bool,
    /// Whether it is about to stop politely.
    pub leaving: bool,
    /// Whether it can be reached.
    pub health: Health,
}

/// What is known of a node's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It has been heard of for long enough to be given more work.
    Stable,
    /// It is there, but came only lately.
    Alive,
    /// Nothing was heard of it for a while: keeps what it has, gets nothing.
    Suspect,
    /// Gone: leads nothing, keeps its replicas for its return.
    Dead,
    /// Gone for so long that its replicas are placed elsewhere.
    Lost,
}

impl Health {
    /// The name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stable | Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead | Self::Lost => "dead",
        }
    }

    /// Whether the process answers.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Stable | Self::Alive)
    }

    /// Whether what it leads has to be led by another.
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::Dead | Self::Lost)
    }
}

/// Where one partition lives and who leads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Rises with every change.
    pub epoch: Epoch,
    /// Who leads in this epoch; `None` before the first election.
    pub leader: Option<NodeIncarnation>,
    /// Distinct nodes.
    pub replicas: Vec<NodeId>,
}

/// How much a plan may move without need, for balance alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Partitions whose leader may move.
    pub leaders: usize,
    /// Partitions of which a replica may move.
    pub replicas: usize,
}

impl Budget {
    /// Nothing moves without need.
    pub const NONE: Self = Self {
        leaders: 0,
        replicas: 0,
    };
    /// Everything moves that improves the balance.
    pub const UNLIMITED: Self = Self {
        leaders: usize::MAX,
        replicas: usize::MAX,
    };
}

impl Cluster {
    /// Whether `node` may be given a new replica.
    pub fn takes_replicas(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|member| member.eligible && !member.leaving && member.health.answers())
    }

    /// Whether `node` may keep the replicas that it has.
    pub fn keeps_replicas(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|member| member.eligible && member.health != Health::Lost)
    }

    /// Whether `leader` may stay in office.
    pub fn leads(&self, leader: NodeIncarnation) -> bool {
        self.nodes.get(&leader.node).is_some_and(|member| {
            member.generation == leader.generation
                && member.eligible
                && !member.leaving
                && !member.health.is_dead()
        })
    }

    /// How many replicas each partition should have now.
    pub fn replicas_wanted(&self) -> usize {
        let homes = self
            .nodes
            .keys()
            .filter(|node| self.keeps_replicas(**node))
            .count();
        self.replicas.unwrap_or(REPLICAS_BY_DEFAULT).min(homes)
    }
}

/// Copies of a partition where the configuration does not say.
const REPLICAS_BY_DEFAULT: usize = 3;
