//! A leader trims its log because an operator asks for it: see [`crate::trimming::Bounds`] for how far.

use abide_rpc::proto::partition::{
    ArchiveReply, ReplicaDisk, TrimLog, TrimState, archive_reply::Kind as Answer,
};
use abide_state_machine::proto::{Purge, command::Kind as Command};
use abide_types::Lsn;
use tokio::time::Instant;

use crate::leader::{Leader, OnApplied};
use crate::partition::chain_of;
use crate::trimming::{Bounds, Follower};
use crate::waiters::Responder;
use crate::wire::Response;

impl Leader<'_> {
    /// Trims if that much may go, and says in any case how the log stands.
    pub(crate) fn trim_on_request(&mut self, asked: &TrimLog, responder: Responder) {
        let kind = self.trim(asked);
        responder.answer(Response::Archive(ArchiveReply { kind: Some(kind) }));
    }

    fn trim(&mut self, asked: &TrimLog) -> Answer {
        let disks = self.upkeep.disks(Instant::now());
        let bounds = self.bounds(&disks);
        let settled = bounds.settle(Lsn(asked.to), asked.force);
        let mut done = false;
        if let Some(last) = settled
            && !asked.dry_run
        {
            // Once the records are gone, this disk is the least that has their effects.
            if self.store.durable_applied() < last
                && let Err(error) = self.store.flush()
            {
                return Answer::Refused(chain_of(&error));
            }
            if let Some(trimmed) = self.upkeep.trim_to(last, 1, &self.sequencer) {
                tracing::warn!(partition = %self.partition, %trimmed, force = asked.force, "an operator had the log trimmed");
                self.sequencer.on_trimmed(trimmed);
                // Log servers hear of it with the next record; this one is empty and goes at once.
                self.propose(Command::Purge(Purge::default()), OnApplied::Nobody);
            }
            done = true;
        }
        Answer::Trim(self.trim_state(bounds, &disks, done))
    }

    fn bounds(&self, disks: &[(abide_types::NodeId, Follower)]) -> Bounds {
        let followers: Vec<Follower> = disks.iter().map(|(_, follower)| *follower).collect();
        Bounds::of(
            self.archiving.archived(),
            self.store.durable_applied(),
            &followers,
            self.store.applied(),
            self.sequencer.committed(),
        )
    }

    fn trim_state(
        &self,
        bounds: Bounds,
        disks: &[(abide_types::NodeId, Follower)],
        done: bool,
    ) -> TrimState {
        let own = ReplicaDisk {
            node: self.context.node.node.0,
            durable: self.store.durable_applied().0,
            in_reach: true,
        };
        let others = disks.iter().map(|(node, follower)| ReplicaDisk {
            node: node.0,
            durable: follower.durable.0,
            in_reach: follower.in_reach,
        });
        // Leaders before this one may have had more trimmed than the chain tells.
        let local = self.context.log.local();
        let stored = local.map_or(Lsn::ZERO, |local| local.tail(self.partition).trimmed);
        TrimState {
            first: self.upkeep.first().max(stored).0,
            safe: bounds.safe.0,
            possible: bounds.possible.0,
            archived: self.archiving.archived().unwrap_or_default().0,
            disks: std::iter::once(own).chain(others).collect(),
            done,
        }
    }
}
