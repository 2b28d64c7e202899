//! Nodes, epochs and log positions.

use std::fmt;
use std::str::FromStr;

/// Names a node of a cluster; given out once and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "N{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    /// Reads `N3` or `3`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix('N').unwrap_or(text).parse().map(Self)
    }
}

/// Counts the starts of a node; what an earlier generation says is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIncarnation {
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub generation: Generation,
}

impl fmt::Display for NodeIncarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.generation)
    }
}

/// Granted by the metadata plane; the higher one always wins. An epoch owns exactly one segment. 0 is before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that is granted after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("2^64 elections outlive the cluster"),
        )
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A position in one partition's log: dense across segments, from 1. A *tail* is the position of the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);
    /// The first record of a log, and the tail of an empty one.
    pub const FIRST: Self = Self(1);

    /// The position behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        self.advance(1)
    }

    /// The position `count` records further.
    #[must_use]
    pub fn advance(self, count: u64) -> Self {
        Self(
            self.0
                .checked_add(count)
                .expect("2^64 records outlive the disks"),
        )
    }

    /// The position before this one; [`Lsn::ZERO`] stays.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Records in `[self, tail)`; 0 when `tail` is not ahead.
    pub fn until(self, tail: Self) -> u64 {
        tail.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
