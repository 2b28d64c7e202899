//! One committed record in, effects out. Start at [`StateMachine::apply`].
//!
//! Every replica runs this on the same records and must come to the same rows: there is no clock, no randomness,
//! no I/O but the store. Apply is total: a command that makes no sense in the present state changes nothing, since
//! one replica cannot refuse what a quorum has committed. Not here: what single commands do (see [`crate::lifecycle`],
//! [`crate::journal`], [`crate::journal_commands`], [`crate::operations`]).

use std::collections::VecDeque;

use abide_types::{InvocationId, Lsn, PartitionId, Timestamp, partition_of};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::action::{Action, OutboxPosition, Reply};
use crate::keys;
use crate::proto::{self, command::Kind};
use crate::store::{Store, StoreError};

/// The behaviour that this build computes. A leader announcement with a higher one stops the partition. A leader sends
/// what a version has brought once it has announced that version, which it does when all nodes know it.
pub const VERSION: u32 = 2;

/// Since then commands may say that an invocation waits for its first turn in its scope (`waits`).
pub const WAITS_SINCE: u32 = 2;

/// Why a record could not be applied. The partition stops there; others carry on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The payload of the record is not a batch of commands.
    #[error("record {lsn} does not decode")]
    Decode {
        /// The record.
        lsn: Lsn,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// The store failed.
    #[error("record {lsn} cannot be applied")]
    Store {
        /// The record.
        lsn: Lsn,
        /// What the store said.
        source: StoreError,
    },
    /// The cluster's leader computes what this build does not know.
    #[error(
        "record {lsn} asks for state machine version {wanted}; this build knows {VERSION}: upgrade the node"
    )]
    Version {
        /// The record.
        lsn: Lsn,
        /// The version in force.
        wanted: u32,
    },
}

/// What a record led to.
#[derive(Debug, Default)]
pub struct Applied {
    /// For the leader, in order.
    pub actions: Vec<Action>,
    /// One for each command of the record.
    pub replies: Vec<Reply>,
}

/// The state machine of one partition. Holds nothing but its place: all state is in the store.
#[derive(Debug, Clone, Copy)]
pub struct StateMachine {
    partition: PartitionId,
    partitions: u16,
}

impl StateMachine {
    /// For `partition` of `partitions`.
    pub const fn new(partition: PartitionId, partitions: u16) -> Self {
        Self {
            partition,
            partitions,
        }
    }

    /// Reads a record's payload.
    pub fn decode(lsn: Lsn, payload: Bytes) -> Result<proto::Batch, ApplyError> {
        proto::Batch::decode(payload).map_err(|source| ApplyError::Decode { lsn, source })
    }

    /// Applies one committed record to `store`.
    pub fn apply(
        &self,
        store: &mut dyn Store,
        lsn: Lsn,
        batch: proto::Batch,
    ) -> Result<Applied, ApplyError> {
        let mut transaction = Transaction {
            machine: *self,
            store,
            lsn,
            at: Timestamp(batch.at),
            next_index: 0,
            span: 0,
            actions: Vec::with_capacity(batch.commands.len() * 2),
            local: VecDeque::new(),
        };
        let mut replies = Vec::with_capacity(batch.commands.len());
        for command in batch.commands {
            if let Some(Kind::AnnounceLeader(announce)) = &command.kind
                && announce.state_machine_version > VERSION
            {
                return Err(ApplyError::Version {
                    lsn,
                    wanted: announce.state_machine_version,
                });
            }
            let reply = transaction
                .command(command)
                .and_then(|reply| transaction.deliver_local().map(|()| reply))
                .map_err(|source| ApplyError::Store { lsn, source })?;
            replies.push(reply);
        }
        Ok(Applied {
            actions: transaction.actions,
            replies,
        })
    }
}

/// The application of one record.
pub(crate) struct Transaction<'a> {
    machine: StateMachine,
    pub(crate) store: &'a mut dyn Store,
    pub(crate) lsn: Lsn,
    pub(crate) at: Timestamp,
    next_index: u32,
    /// The span of the attempt whose effects are being applied; 0 if it has none.
    pub(crate) span: u64,
    pub(crate) actions: Vec<Action>,
    /// Messages for this partition; delivered after the command that made them, so that no command sees another
    /// one's half.
    local: VecDeque<proto::Message>,
}

impl Transaction<'_> {
    fn command(&mut self, command: proto::Command) -> Result<Reply, StoreError> {
        match command.kind {
            Some(Kind::Invoke(invoke)) => return self.invoke(invoke),
            Some(Kind::Operate(operate)) => return self.operate(operate),
            Some(Kind::RestartAsNew(restart)) => return self.restart_as_new(&restart),
            Some(Kind::AttemptEffects(effects)) => self.attempt_effects(effects)?,
            Some(Kind::FireTimer(fire)) => self.fire_timer(&fire.key)?,
            Some(Kind::Signal(signal)) => self.signal(signal)?,
            Some(Kind::Delivery(delivery)) => self.delivery(delivery)?,
            Some(Kind::OutboxAcked(acked)) => self.outbox_acked(&acked),
            Some(Kind::Pause(pause)) => self.pause_by(pause)?,
            Some(Kind::Fail(fail)) => self.fail_by(fail)?,
            Some(Kind::Purge(purge)) => self.purge_expired(&purge)?,
            Some(Kind::MutateState(mutation)) => self.mutate_state(mutation)?,
            Some(Kind::RecordEvent(record)) => self.record_event(record)?,
            Some(Kind::PauseQueue(pause)) => self.pause_queue(&pause),
            // The announcement marks the place in the log; it changes no row.
            Some(Kind::AnnounceLeader(_)) | None => {}
        }
        Ok(Reply::None)
    }

    /// A number that no other call of this partition has given or will give.
    pub(crate) fn unique(&mut self) -> (Lsn, u32) {
        let index = self.next_index;
        self.next_index += 1;
        (self.lsn, index)
    }

    /// Sends `message` to the partition that owns `to`: at once if it is this one, else through the outbox.
    pub(crate) fn send(&mut self, to: &InvocationId, message: proto::message::Kind) {
        let message = proto::Message {
            kind: Some(message),
        };
        let partition = partition_of(to.partition_key(), self.machine.partitions);
        if partition == self.machine.partition {
            self.local.push_back(message);
            return;
        }
        let (lsn, index) = self.unique();
        self.store.put(
            keys::outbox(partition, lsn, index),
            message.encode_to_vec().into(),
        );
        self.actions.push(Action::Send {
            to: partition,
            position: OutboxPosition { lsn: lsn.0, index },
            message,
        });
    }

    fn deliver_local(&mut self) -> Result<(), StoreError> {
        while let Some(message) = self.local.pop_front() {
            self.message(message)?;
        }
        Ok(())
    }

    fn message(&mut self, message: proto::Message) -> Result<(), StoreError> {
        use proto::message::Kind;
        match message.kind {
            Some(Kind::Invoke(invoke)) => self.invoke(invoke).map(drop),
            Some(Kind::Signal(signal)) => self.signal(signal),
            Some(Kind::Response(response)) => self.response(response),
            Some(Kind::Attach(attach)) => self.attach(attach),
            Some(Kind::Operate(operate)) => self.operate(operate).map(drop),
            None => Ok(()),
        }
    }

    /// A message of another partition: taken once, however often it comes.
    fn delivery(&mut self, delivery: proto::Delivery) -> Result<(), StoreError> {
        let Ok(from) = u16::try_from(delivery.from_partition) else {
            return Ok(());
        };
        let from = PartitionId(from);
        let position = OutboxPosition::from(delivery.position.unwrap_or_default());
        let key = keys::inbound(from);
        let last = self
            .store
            .get(&key)?
            .and_then(|value| read_position(&value));
        if last.is_none_or(|last| last < position) {
            let mut value = BytesMut::with_capacity(12);
            value.put_u64(position.lsn);
            value.put_u32(position.index);
            self.store.put(key, value.freeze());
            if let Some(message) = delivery.message {
                self.message(message)?;
            }
        }
        self.actions
            .push(Action::AckDelivery { to: from, position });
        Ok(())
    }

    fn outbox_acked(&mut self, acked: &proto::OutboxAcked) {
        let Ok(to) = u16::try_from(acked.to_partition) else {
            return;
        };
        for position in &acked.positions {
            self.store.delete(keys::outbox(
                PartitionId(to),
                Lsn(position.lsn),
                position.index,
            ));
        }
    }
}

fn read_position(mut value: &[u8]) -> Option<OutboxPosition> {
    Some(OutboxPosition {
        lsn: value.try_get_u64().ok()?,
        index: value.try_get_u32().ok()?,
    })
}

impl From<proto::OutboxPosition> for OutboxPosition {
    fn from(position: proto::OutboxPosition) -> Self {
        Self {
            lsn: position.lsn,
            index: position.index,
        }
    }
}

impl From<OutboxPosition> for proto::OutboxPosition {
    fn from(position: OutboxPosition) -> Self {
        Self {
            lsn: position.lsn,
            index: position.index,
        }
    }
}
