//! Makes a partition's store anew: it is damaged, lost, or ends before the log begins.
//!
//! The rows come from the latest snapshot if that reaches to where the log begins, else from another replica, the leader
//! rather than a follower, and then the log is applied from there on.
//! Nobody is served meanwhile, and leadership goes to another replica that is in reach. The store does not pass for a
//! state before its last row is in (see [`PartitionStore::load`]), so that every failure means to begin again, with the
//! next replica. Start at [`Partition::rebuild`]; what answers is in [`crate::transfer`].

use std::convert::Infallible;
use std::time::Duration;

use abide_log::ReadError;
use abide_metadata::{PartitionEntry, PartitionTable, Txn, keys};
use abide_partition_store::{PartitionStore, is_corruption};
use abide_rpc::proto::partition::{
    FetchState, Request, StateAnswer, StatePiece, request, state_answer,
};
use abide_rpc::{CallError, Service};
use abide_state_machine::{ApplyError, StoreError};
use abide_types::{Epoch, Lsn, NodeId, NodeIncarnation, PartitionId};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::directory::{Event, Order};
use crate::partition::{Context, Partition, PartitionError, PartitionRole, chain_of};
use crate::transfer::rows_of;
use crate::wire::{Malformed, Response};

/// How long a replica may take for one piece.
const PIECE_WITHIN: Duration = Duration::from_secs(10);
/// A piece that does not come is asked for so many times.
const TRIES: usize = 3;
/// Pause before the replicas are asked again, at first and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A replica that cannot be rebuilt is reported this often.
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// A store that is damaged so often is on a disk that should not be used.
const DAMAGES_MAX: u32 = 3;

/// Why a store is made anew.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// The log begins after what is applied.
    Trimmed {
        /// The first record of the log.
        first: Lsn,
    },
    /// The files are not what was written.
    Damaged(String),
    /// Records are applied that a recovery of the log gave up.
    Superseded {
        /// The first of them.
        at: Lsn,
    },
}

impl Cause {
    /// What making the store anew would help against.
    pub(crate) fn of(error: &PartitionError) -> Option<Self> {
        let store = match error {
            PartitionError::Read(ReadError::Trimmed { first, .. }) => {
                return Some(Self::Trimmed { first: *first });
            }
            PartitionError::Superseded { at, .. } => return Some(Self::Superseded { at: *at }),
            PartitionError::Apply(ApplyError::Store { source, .. }) => source,
            PartitionError::Store(source) => source,
            _ => return None,
        };
        is_corruption(store).then(|| Self::Damaged(chain_of(error)))
    }

    fn first(&self) -> Lsn {
        match self {
            Self::Trimmed { first } => *first,
            Self::Damaged(_) | Self::Superseded { .. } => Lsn::ZERO,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trimmed { first } => {
                write!(f, "the log begins at {first}, after what is applied here")
            }
            Self::Damaged(reason) => f.write_str(reason),
            Self::Superseded { at } => write!(
                f,
                "the log was recovered without what is applied here from {at} on"
            ),
        }
    }
}

/// Why a replica did not give its state.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("it does not answer")]
    Call(#[source] CallError),
    #[error("it says: {0}")]
    Unavailable(String),
    #[error("its answer makes no sense")]
    Malformed(#[from] Malformed),
    #[error("this node's store failed")]
    Store(#[source] StoreError),
}

impl Partition {
    /// Goes on after a failure that making the store anew helps against.
    pub(crate) async fn recover(&mut self, cause: &Cause) -> Result<(), PartitionError> {
        let partition = self.partition;
        if let Cause::Damaged(_) = cause {
            self.damages += 1;
            if DAMAGES_MAX < self.damages {
                return Err(PartitionError::DamagedAgain(DAMAGES_MAX));
            }
            tracing::error!(%partition, reason = %cause, "the partition store is damaged; it is rebuilt");
        } else {
            tracing::warn!(%partition, reason = %cause, "the partition store is rebuilt");
        }
        self.hand_leadership_over().await;
        let reason = format!("being rebuilt: {cause}");
        self.context.report(partition, |status| {
            status.role = PartitionRole::Rebuilding;
            status.applied = Lsn::ZERO;
            status.durable = Lsn::ZERO;
            status.stopped = Some(reason);
        });
        let rebuilt = self.rebuild(cause).await;
        if let Err(PartitionError::Store(error)) = &rebuilt
            && is_corruption(error)
        {
            // RocksDB has stopped all writes of all partitions. Only a process that opens other files gets on.
            let reason = chain_of(error);
            if let Err(error) = self.store.condemn_all(&reason) {
                tracing::error!(%partition, error = %chain_of(&error), "the damage is not noted for the next start");
            }
            (self.context.fatal)(reason);
        }
        rebuilt?;
        let applied = self.store.applied();
        self.context.report(partition, |status| {
            status.role = PartitionRole::Follower;
            status.applied = applied;
            status.stopped = None;
        });
        Ok(())
    }

    /// Takes the state of another replica. With a store that is of no use and no replica in reach the log is replayed
    /// instead, and if it does not reach back so far, that is the next failure.
    pub(crate) async fn rebuild(&mut self, cause: &Cause) -> Result<(), PartitionError> {
        let partition = self.partition;
        let mut pause = RETRY_AFTER.0;
        let mut complain_at = Instant::now();
        self.store.clear().map_err(PartitionError::Store)?;
        // The leader must not trim what this replica needs next.
        self.tell_progress(self.assignment().as_ref());
        loop {
            let mut failures = Vec::new();
            if self.restore_latest(cause.first(), &mut failures).await? {
                return Ok(());
            }
            let sources = self.sources();
            for node in &sources {
                let Self {
                    context,
                    store,
                    events,
                    orders,
                    ..
                } = self;
                let fetched = tokio::select! {
                    fetched = fetch(context, partition, *node, cause.first(), store) => fetched,
                    never = turn_away(events, orders) => match never {},
                };
                match fetched {
                    Ok(Fetched { applied, rows }) => {
                        context.metrics.rebuilt();
                        tracing::info!(%partition, %applied, rows, from = %node, "partition store rebuilt from another replica");
                        return Ok(());
                    }
                    Err(FetchError::Store(error)) => return Err(PartitionError::Store(error)),
                    Err(error) => {
                        tracing::debug!(%partition, from = %node, error = %chain_of(&error), "no state from there");
                        failures.push(format!("{node}: {}", chain_of(&error)));
                        self.store.clear().map_err(PartitionError::Store)?;
                    }
                }
            }
            if !matches!(cause, Cause::Trimmed { .. }) {
                tracing::warn!(%partition, ?failures, "no other replica gives its state, the log is replayed");
                return self.store.begin_empty().map_err(PartitionError::Store);
            }
            if sources.is_empty() && failures.is_empty() {
                return Err(PartitionError::Lost {
                    first: cause.first(),
                });
            }
            if complain_at <= Instant::now() {
                complain_at = Instant::now() + COMPLAIN_INTERVAL;
                tracing::warn!(%partition, ?failures, "no snapshot or other replica gives its state, trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                never = turn_away(&mut self.events, &mut self.orders) => match never {},
            }
            pause = (pause * 2).min(RETRY_AFTER.1);
        }
    }

    /// The other replicas, the leader first.
    fn sources(&self) -> Vec<NodeId> {
        let own = self.context.node.node;
        let Some(assignment) = self.assignment() else {
            return Vec::new();
        };
        let leader = assignment.leader.map(|leader| leader.node);
        let mut sources: Vec<_> = (assignment.replicas.into_iter())
            .filter(|node| *node != own)
            .collect();
        sources.sort_by_key(|node| Some(*node) != leader);
        sources
    }

    /// If this node is to lead, has another replica lead that is in reach: the next one in the order of the
    /// replicas, so that all have their turn if several have lost their stores.
    pub(crate) async fn hand_leadership_over(&self) {
        let own = self.context.node;
        let Some(assignment) = self.assignment() else {
            return;
        };
        if assignment.leader != Some(own) {
            return;
        }
        let view = self.context.metadata.view();
        let peers = self.context.fabric.peers().borrow().clone();
        let replicas = &assignment.replicas;
        let place = replicas.iter().position(|node| *node == own.node);
        let start = place.map_or(0, |place| place + 1);
        let successor = (replicas.iter().cycle().skip(start).take(replicas.len()))
            .filter(|node| **node != own.node)
            .filter(|node| peers.get(node).is_some_and(|peer| peer.connected))
            .find_map(|node| {
                let entry = view.nodes.nodes.get(node)?;
                Some(NodeIncarnation {
                    node: *node,
                    generation: entry.generation,
                })
            });
        if let Some(successor) = successor {
            tracing::info!(partition = %self.partition, to = %successor, "leadership is handed over");
            let change = |entry: &mut PartitionEntry| entry.leader = Some(successor);
            self.ask_for_epoch(assignment.epoch, change).await;
        }
    }

    /// Asks the metadata plane for another epoch: the one that was granted is used up. `change` says for whom.
    pub(crate) async fn ask_for_epoch(
        &self,
        used: Epoch,
        change: impl FnOnce(&mut PartitionEntry),
    ) {
        let Ok(Some(stored)) = self.context.metadata.read(keys::PARTITION_TABLE).await else {
            return;
        };
        let Ok(mut table) = <PartitionTable as abide_metadata::Document>::from_versioned(&stored)
        else {
            return;
        };
        let Some(entry) = table.partitions.get_mut(&self.partition) else {
            return;
        };
        if entry.epoch != used || entry.leader != Some(self.context.node) {
            return;
        }
        entry.epoch = entry.epoch.next();
        change(entry);
        let txn = Txn::new().replace(&table);
        if let Err(error) = self.context.metadata.commit(txn).await {
            tracing::debug!(partition = %self.partition, %error, "no fresh epoch, trying again");
        }
    }
}

/// Answers who asks for a leader, until the node stops.
async fn turn_away(
    events: &mut mpsc::Receiver<Event>,
    orders: &mut mpsc::Receiver<Order>,
) -> Infallible {
    loop {
        tokio::select! {
            Some(event) = events.recv() => {
                if let Event::Ask(_, responder) = event {
                    responder.answer(Response::NotLeader);
                }
            }
            Some((_, responder)) = orders.recv() => responder.answer(Response::NotLeader),
            else => return std::future::pending().await,
        }
    }
}

struct Fetched {
    applied: Lsn,
    rows: usize,
}

/// Fills the store, which is empty, with the state that `node` has.
async fn fetch(
    context: &Context,
    partition: PartitionId,
    node: NodeId,
    first: Lsn,
    store: &mut PartitionStore,
) -> Result<Fetched, FetchError> {
    let mut ask = FetchState {
        transfer: 0,
        first: first.0,
        after: Bytes::new(),
    };
    let mut applied = None;
    let mut count = 0;
    loop {
        let piece = fetch_piece(context, partition, node, &ask).await?;
        let expected = *applied.get_or_insert(piece.applied);
        let begins = ask.transfer == 0;
        if piece.applied != expected || !begins && piece.transfer != ask.transfer {
            return Err(Malformed("piece of a state: it is of another transfer").into());
        }
        let rows = rows_of(&piece, &ask.after)?;
        count += rows.len();
        let slices = rows.iter().map(|(key, value)| (&key[..], &value[..]));
        store.load(slices).map_err(FetchError::Store)?;
        if piece.done {
            let applied = Lsn(expected);
            if applied.next() < first {
                return Err(Malformed("state: it ends before the log begins").into());
            }
            store.set_history(Epoch(piece.history));
            store.finish_load(applied).map_err(FetchError::Store)?;
            return Ok(Fetched {
                applied,
                rows: count,
            });
        }
        ask.transfer = piece.transfer;
        if let Some((key, _)) = rows.last() {
            ask.after = Bytes::copy_from_slice(key);
        }
    }
}

async fn fetch_piece(
    context: &Context,
    partition: PartitionId,
    node: NodeId,
    ask: &FetchState,
) -> Result<StatePiece, FetchError> {
    let request = Request {
        partition: partition.0.into(),
        kind: Some(request::Kind::FetchState(ask.clone())),
    };
    let payload = Bytes::from(request.encode_to_vec());
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        let call = (context.fabric).call(node, Service::Partition, payload.clone(), PIECE_WITHIN);
        match call.await {
            Ok(answer) => break answer,
            Err(CallError::TimedOut | CallError::Full) if tries < TRIES => {
                tokio::time::sleep(RETRY_AFTER.0).await;
            }
            Err(error) => return Err(FetchError::Call(error)),
        }
    };
    match StateAnswer::decode(answer).map(|answer| answer.kind) {
        Ok(Some(state_answer::Kind::Piece(piece))) => Ok(piece),
        Ok(Some(state_answer::Kind::Unavailable(reason))) => Err(FetchError::Unavailable(reason)),
        Ok(None) | Err(_) => Err(Malformed("answer").into()),
    }
}
