//! Versions of the protocol.

use std::fmt;

/// A version that the engine speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum ProtocolVersion {
    /// Commands and notifications in one immutable journal.
    V5 = 5,
    /// Adds the random seed and metadata of failures.
    V6 = 6,
    /// Adds await trees, acks of runs and the behavior of errors.
    V7 = 7,
}

impl ProtocolVersion {
    /// The oldest that is spoken.
    pub const MIN: Self = Self::V5;
    /// The newest that is spoken.
    pub const MAX: Self = Self::V7;

    /// The version of a number, if it is spoken.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            5 => Some(Self::V5),
            6 => Some(Self::V6),
            7 => Some(Self::V7),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The newest version that an endpoint which takes `min..=max` has in common with the engine.
    pub fn choose(min: u32, max: u32) -> Option<Self> {
        let newest = max.min(u32::from(Self::MAX.number()));
        let version = Self::from_number(u16::try_from(newest).ok()?)?;
        (u32::from(version.number()) >= min).then_some(version)
    }

    /// The media type of its invocation streams.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::V5 => "application/vnd.restate.invocation.v5",
            Self::V6 => "application/vnd.restate.invocation.v6",
            Self::V7 => "application/vnd.restate.invocation.v7",
        }
    }

    /// Whether failures may carry metadata.
    pub const fn has_failure_metadata(self) -> bool {
        !matches!(self, Self::V5)
    }

    /// Whether suspensions carry a tree and acks of runs are known.
    pub const fn has_await_trees(self) -> bool {
        matches!(self, Self::V7)
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        use ProtocolVersion as V;
        assert_eq!(V::choose(5, 7), Some(V::V7));
        assert_eq!(V::choose(5, 6), Some(V::V6));
        assert_eq!(V::choose(1, 5), Some(V::V5));
        assert_eq!(V::choose(7, 99), Some(V::V7));
        assert_eq!(V::choose(1, 4), None);
        assert_eq!(V::choose(8, 9), None);
        assert_eq!(V::choose(0, 0), None);
    }
}
