//! The cluster as the planner sees it: values only, made by the driver from documents and liveness.

use std::collections::{BTreeMap, BTreeSet};

use abide_types::{Epoch, Generation, NodeId, NodeIncarnation, PartitionId};

/// Everything on which a plan depends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Copies of each partition; `None` goes by the size of the cluster: three, or as many as there are nodes.
    pub replicas: Option<usize>,
    /// Copies on disk that commit a record; `None` is a majority of the replicas.
    pub write_quorum: Option<usize>,
    /// Over how many zones and regions the replicas of a partition have to be spread, as far as there are nodes in
    /// so many.
    pub spread: Spread,
    /// How many partitions there are.
    pub partitions: u16,
    /// Members, dead ones included.
    pub nodes: BTreeMap<NodeId, Member>,
    /// The partition table. Partitions that are not in it were never placed.
    pub table: BTreeMap<PartitionId, Placement>,
    /// Replicas that have not caught up: they lead only when nobody else can.
    pub behind: BTreeSet<(PartitionId, NodeId)>,
    /// Replicas of which it was heard that they have all there is. What is in neither set did not say so far: it
    /// may lead if need be, but nobody gives a copy up for it.
    pub caught_up: BTreeSet<(PartitionId, NodeId)>,
    /// What operators want.
    pub rules: BTreeMap<PartitionId, Rule>,
    /// What may be moved for balance alone.
    pub budget: Budget,
}

/// Over how many places replicas are spread at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// Zones.
    pub zones: usize,
    /// Regions.
    pub regions: usize,
}

/// What operators want of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who leads whenever it can.
    pub pinned: Option<NodeId>,
    /// The leader stays for as long as it can lead, however unbalanced that is.
    pub leadership_frozen: bool,
    /// The replica set stays, whatever becomes of its nodes.
    pub placement_frozen: bool,
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
    /// Who of them stays when all of these have caught up; empty when all stay.
    pub next: Vec<NodeId>,
    /// Copies that commit a record; 0 in placements of earlier versions, which did not say.
    pub write_quorum: usize,
}

impl Placement {
    /// The replicas that it is to have in the end.
    pub fn goal(&self) -> &[NodeId] {
        if self.next.is_empty() {
            &self.replicas
        } else {
            &self.next
        }
    }
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

    /// Whether `node` is a replica of `partition` in the table and has all that the others have.
    pub fn is_settled(&self, partition: PartitionId, node: NodeId) -> bool {
        let placed = self
            .table
            .get(&partition)
            .is_some_and(|placement| placement.replicas.contains(&node));
        let answers = self
            .nodes
            .get(&node)
            .is_some_and(|member| member.health.answers());
        placed
            && answers
            && self.caught_up.contains(&(partition, node))
            && !self.behind.contains(&(partition, node))
    }

    /// What operators want of `partition`.
    pub fn rule(&self, partition: PartitionId) -> Rule {
        self.rules.get(&partition).copied().unwrap_or_default()
    }

    /// The write quorum of a segment with so many replicas.
    pub fn quorum_of(&self, replicas: usize) -> usize {
        let quorum = match self.write_quorum {
            Some(configured) => configured.min(replicas),
            None => replicas / 2 + 1,
        };
        quorum.max(1)
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
