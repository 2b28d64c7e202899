//! What is known of the peers' connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abide_types::Generation;

/// A peer as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// The generation that answered last, or the one that metadata names.
    pub generation: Generation,
    /// Whether messages can be sent.
    pub connected: bool,
    /// When the peer was last heard of, as of this entry's last change; see `Fabric::last_heard`.
    pub last_heard: Option<Instant>,
    /// Whether the peer's port refused the last attempt: its process is gone, not merely slow.
    pub refused: bool,
    /// Why there is no connection, if an attempt to make one failed.
    pub problem: Option<Arc<str>>,
}

/// Every peer's state, replaced as a whole.
pub(crate) type PeerStates = Arc<BTreeMap<abide_types::NodeId, PeerState>>;

/// When a node was last heard of, over any connection.
pub(crate) struct Heard {
    origin: Instant,
    /// Nanoseconds since `origin`; 0 is never.
    nanos: AtomicU64,
}

impl Heard {
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            nanos: AtomicU64::new(0),
        }
    }

    pub fn now(&self) {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos.max(1), Ordering::Relaxed);
    }

    pub fn last(&self) -> Option<Instant> {
        match self.nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.origin + Duration::from_nanos(nanos)),
        }
    }
}
