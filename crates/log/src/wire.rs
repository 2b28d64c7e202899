//! The byte form of what travels over the fabric (`log.proto`).
//!
//! A message is encoded once for all replicas that get the same. Records are verified as they come in, so
//! that bytes which changed on the way never reach a disk.

use std::sync::Arc;

use abide_rpc::proto::log as pb;
use abide_types::{Epoch, Lsn, PartitionId};
use bytes::Bytes;
use prost::Message as _;

use crate::message::{
    AppendOutcome, AppendReply, AppendRequest, FenceOutcome, FenceReply, FenceRequest, ReadOutcome,
    ReadReply, ReadRequest, Refusal, SegmentStatus, StorageId, TailReply,
};
use crate::record::{CorruptRecord, Record};

/// Why bytes from a peer are no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They do not parse.
    #[error("a log message does not parse")]
    Protobuf(#[from] prost::DecodeError),
    /// A field is missing or out of its range.
    #[error("a log message has no valid {0}")]
    Field(&'static str),
    /// A record did not survive the way.
    #[error(transparent)]
    Corrupt(#[from] CorruptRecord),
}

/// A message that no answer is awaited for.
#[derive(Debug)]
pub enum Incoming {
    /// For the log server.
    Append(AppendRequest),
    /// For the log server: a record of it is corrupt. To be answered with [`Refusal::Corrupt`].
    CorruptAppend {
        /// The log.
        partition: PartitionId,
        /// The epoch of the append.
        epoch: Epoch,
    },
    /// For the sequencers.
    Replies(Vec<AppendReply>),
}

/// A call to a log server.
#[derive(Debug)]
pub enum IncomingCall {
    /// Promise an epoch.
    Fence(FenceRequest),
    /// Read, and wait so many milliseconds for the first record.
    Read(ReadRequest, u32),
    /// Forget.
    Trim(PartitionId, Lsn),
    /// Tell the state of a log.
    Tail(PartitionId),
}

pub(crate) fn encode_append(request: &AppendRequest) -> Bytes {
    let records = &request.records;
    let append = pb::Append {
        partition: request.partition.0.into(),
        epoch: request.epoch.0,
        base: request.base.0,
        first: request.first.0,
        committed: request.committed.0,
        trimmed: request.trimmed.0,
        probe: request.probe,
        checksums: records.iter().map(Record::checksum).collect(),
        payloads: records
            .iter()
            .map(|record| record.payload().clone())
            .collect(),
    };
    encode(&pb::Message {
        body: Some(pb::message::Body::Append(append)),
    })
}

/// The byte form of a log server's answers to one node.
pub fn encode_replies(replies: &[AppendReply]) -> Bytes {
    let reply = |reply: &AppendReply| {
        use pb::append_reply::Outcome;
        pb::AppendReply {
            partition: reply.partition.0.into(),
            epoch: reply.epoch.0,
            storage: reply.storage.0,
            outcome: Some(match reply.outcome {
                AppendOutcome::Stored { tail } => Outcome::Stored(tail.0),
                AppendOutcome::Gap { tail } => Outcome::Gap(tail.0),
                AppendOutcome::Fenced { promised } => Outcome::Fenced(promised.0),
                AppendOutcome::Refused(refusal) => Outcome::Refused(match refusal {
                    Refusal::DiskFull => pb::Refusal::DiskFull.into(),
                    Refusal::Overloaded => pb::Refusal::Overloaded.into(),
                    Refusal::BaseConflict => pb::Refusal::BaseConflict.into(),
                    Refusal::Corrupt => pb::Refusal::Corrupt.into(),
                }),
            }),
        }
    };
    encode(&pb::Message {
        body: Some(pb::message::Body::Replies(pb::AppendReplies {
            replies: replies.iter().map(reply).collect(),
        })),
    })
}

/// Reads a message.
pub fn decode_message(bytes: Bytes) -> Result<Incoming, DecodeError> {
    match pb::Message::decode(bytes)?.body {
        None => Err(DecodeError::Field("body")),
        Some(pb::message::Body::Append(append)) => {
            let (partition, epoch) = (partition(append.partition)?, Epoch(append.epoch));
            let first = Lsn(append.first);
            match records(partition, epoch, first, &append.checksums, append.payloads) {
                Ok(records) => Ok(Incoming::Append(AppendRequest {
                    partition,
                    epoch,
                    base: Lsn(append.base),
                    first,
                    committed: Lsn(append.committed),
                    trimmed: Lsn(append.trimmed),
                    probe: append.probe,
                    records: Arc::from(records),
                })),
                Err(DecodeError::Corrupt(_)) => Ok(Incoming::CorruptAppend { partition, epoch }),
                Err(error) => Err(error),
            }
        }
        Some(pb::message::Body::Replies(replies)) => {
            let replies: Result<Vec<AppendReply>, DecodeError> =
                replies.replies.into_iter().map(append_reply).collect();
            Ok(Incoming::Replies(replies?))
        }
    }
}

fn append_reply(reply: pb::AppendReply) -> Result<AppendReply, DecodeError> {
    use pb::append_reply::Outcome;
    let outcome = match reply.outcome.ok_or(DecodeError::Field("outcome"))? {
        Outcome::Stored(tail) => AppendOutcome::Stored { tail: Lsn(tail) },
        Outcome::Gap(tail) => AppendOutcome::Gap { tail: Lsn(tail) },
        Outcome::Fenced(promised) => AppendOutcome::Fenced {
            promised: Epoch(promised),
        },
        Outcome::Refused(refusal) => AppendOutcome::Refused(match pb::Refusal::try_from(refusal) {
            Ok(pb::Refusal::DiskFull) => Refusal::DiskFull,
            Ok(pb::Refusal::Overloaded) => Refusal::Overloaded,
            Ok(pb::Refusal::BaseConflict) => Refusal::BaseConflict,
            Ok(pb::Refusal::Corrupt) => Refusal::Corrupt,
            Ok(pb::Refusal::Unspecified) | Err(_) => return Err(DecodeError::Field("refusal")),
        }),
    };
    Ok(AppendReply {
        partition: partition(reply.partition)?,
        epoch: Epoch(reply.epoch),
        storage: StorageId(reply.storage),
        outcome,
    })
}

fn partition(partition: u32) -> Result<PartitionId, DecodeError> {
    let partition = u16::try_from(partition).map_err(|_| DecodeError::Field("partition"))?;
    Ok(PartitionId(partition))
}

fn records(
    partition: PartitionId,
    epoch: Epoch,
    first: Lsn,
    checksums: &[u32],
    payloads: Vec<Bytes>,
) -> Result<Vec<Record>, DecodeError> {
    if checksums.len() != payloads.len() {
        return Err(DecodeError::Field("checksums"));
    }
    if first.0.checked_add(payloads.len() as u64).is_none() {
        return Err(DecodeError::Field("first"));
    }
    let numbered = (0..).map(|index| first.advance(index));
    let records = numbered.zip(checksums).zip(payloads);
    records
        .map(|((lsn, checksum), payload)| {
            Ok(Record::verified(partition, epoch, lsn, *checksum, payload)?)
        })
        .collect()
}

fn encode(message: &impl prost::Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

pub(crate) fn encode_fence(request: &FenceRequest) -> Bytes {
    call(pb::call::Body::Fence(pb::Fence {
        partition: request.partition.0.into(),
        epoch: request.epoch.0,
        segment: request.segment.0,
    }))
}

pub(crate) fn encode_read(request: &ReadRequest, wait_ms: u32) -> Bytes {
    call(pb::call::Body::Read(pb::Read {
        partition: request.partition.0.into(),
        epoch: request.epoch.0,
        from: request.from.0,
        end: request.end.map(|end| end.0),
        bytes_max: u32::try_from(request.bytes_max).unwrap_or(u32::MAX),
        wait_ms,
    }))
}

pub(crate) fn encode_trim(partition: PartitionId, trimmed: Lsn) -> Bytes {
    call(pb::call::Body::Trim(pb::Trim {
        partition: partition.0.into(),
        trimmed: trimmed.0,
    }))
}

pub(crate) fn encode_tail(partition: PartitionId) -> Bytes {
    call(pb::call::Body::Tail(pb::Tail {
        partition: partition.0.into(),
    }))
}

fn call(body: pb::call::Body) -> Bytes {
    encode(&pb::Call { body: Some(body) })
}

/// Reads a call.
pub fn decode_call(bytes: Bytes) -> Result<IncomingCall, DecodeError> {
    use pb::call::Body;
    Ok(
        match pb::Call::decode(bytes)?
            .body
            .ok_or(DecodeError::Field("body"))?
        {
            Body::Fence(fence) => IncomingCall::Fence(FenceRequest {
                partition: partition(fence.partition)?,
                epoch: Epoch(fence.epoch),
                segment: Epoch(fence.segment),
            }),
            Body::Read(read) => IncomingCall::Read(
                ReadRequest {
                    partition: partition(read.partition)?,
                    epoch: Epoch(read.epoch),
                    from: Lsn(read.from),
                    end: read.end.map(Lsn),
                    bytes_max: usize::try_from(read.bytes_max).unwrap_or(usize::MAX),
                },
                read.wait_ms,
            ),
            Body::Trim(trim) => IncomingCall::Trim(partition(trim.partition)?, Lsn(trim.trimmed)),
            Body::Tail(tail) => IncomingCall::Tail(partition(tail.partition)?),
        },
    )
}

fn answer(body: pb::answer::Body) -> Bytes {
    encode(&pb::Answer { body: Some(body) })
}

fn decode_answer(bytes: Bytes) -> Result<pb::answer::Body, DecodeError> {
    let body = pb::Answer::decode(bytes)?.body;
    body.ok_or(DecodeError::Field("body"))
}

/// The byte form of the answer to a fence.
pub fn encode_fence_reply(reply: &FenceReply) -> Bytes {
    let storage = reply.storage.0;
    answer(pb::answer::Body::Fence(match reply.outcome {
        FenceOutcome::Refused { promised } => pb::FenceAnswer {
            storage,
            refused: Some(promised.0),
            ..Default::default()
        },
        FenceOutcome::Promised {
            tail,
            committed,
            trimmed,
            newest,
        } => pb::FenceAnswer {
            storage,
            refused: None,
            tail: tail.map(|tail| tail.0),
            committed: committed.0,
            trimmed: trimmed.0,
            newest: newest.0,
        },
    }))
}

pub(crate) fn decode_fence_reply(bytes: Bytes) -> Result<FenceReply, DecodeError> {
    let pb::answer::Body::Fence(fence) = decode_answer(bytes)? else {
        return Err(DecodeError::Field("body"));
    };
    Ok(FenceReply {
        storage: StorageId(fence.storage),
        outcome: match fence.refused {
            Some(promised) => FenceOutcome::Refused {
                promised: Epoch(promised),
            },
            None => FenceOutcome::Promised {
                tail: fence.tail.map(Lsn),
                committed: Lsn(fence.committed),
                trimmed: Lsn(fence.trimmed),
                newest: Epoch(fence.newest),
            },
        },
    })
}

/// The byte form of the answer to a read that began at `from`.
pub fn encode_read_reply(from: Lsn, reply: &ReadReply) -> Bytes {
    use pb::read_answer::Outcome;
    let outcome = match &reply.outcome {
        ReadOutcome::Records {
            records,
            tail,
            committed,
        } => Outcome::Records(pb::Records {
            first: from.0,
            tail: tail.0,
            committed: committed.0,
            checksums: records.iter().map(Record::checksum).collect(),
            payloads: records
                .iter()
                .map(|record| record.payload().clone())
                .collect(),
        }),
        ReadOutcome::Trimmed { trimmed } => Outcome::Trimmed(trimmed.0),
        ReadOutcome::Corrupt { lsn } => Outcome::Corrupt(lsn.0),
        ReadOutcome::Unknown => Outcome::Unknown(true),
    };
    answer(pb::answer::Body::Read(pb::ReadAnswer {
        storage: reply.storage.0,
        outcome: Some(outcome),
    }))
}

pub(crate) fn decode_read_reply(
    request: &ReadRequest,
    bytes: Bytes,
) -> Result<ReadReply, DecodeError> {
    use pb::read_answer::Outcome;
    let pb::answer::Body::Read(read) = decode_answer(bytes)? else {
        return Err(DecodeError::Field("body"));
    };
    let outcome = match read.outcome.ok_or(DecodeError::Field("outcome"))? {
        Outcome::Records(found) => {
            if found.first != request.from.0 {
                return Err(DecodeError::Field("first"));
            }
            ReadOutcome::Records {
                records: records(
                    request.partition,
                    request.epoch,
                    request.from,
                    &found.checksums,
                    found.payloads,
                )?,
                tail: Lsn(found.tail),
                committed: Lsn(found.committed),
            }
        }
        Outcome::Trimmed(trimmed) => ReadOutcome::Trimmed {
            trimmed: Lsn(trimmed),
        },
        Outcome::Corrupt(lsn) => ReadOutcome::Corrupt { lsn: Lsn(lsn) },
        Outcome::Unknown(_) => ReadOutcome::Unknown,
    };
    Ok(ReadReply {
        storage: StorageId(read.storage),
        outcome,
    })
}

/// The byte form of the answer to a trim.
pub fn encode_trim_reply(trimmed: Lsn) -> Bytes {
    answer(pb::answer::Body::Trim(pb::TrimAnswer {
        trimmed: trimmed.0,
    }))
}

pub(crate) fn decode_trim_reply(bytes: Bytes) -> Result<Lsn, DecodeError> {
    match decode_answer(bytes)? {
        pb::answer::Body::Trim(trim) => Ok(Lsn(trim.trimmed)),
        _ => Err(DecodeError::Field("body")),
    }
}

/// The byte form of the state of a log.
pub fn encode_tail_reply(reply: &TailReply) -> Bytes {
    let segment = |segment: &SegmentStatus| pb::SegmentTail {
        epoch: segment.epoch.0,
        base: segment.base.0,
        tail: segment.tail.0,
        committed: segment.committed.0,
    };
    answer(pb::answer::Body::Tail(pb::TailAnswer {
        storage: reply.storage.0,
        promised: reply.promised.0,
        trimmed: reply.trimmed.0,
        segments: reply.segments.iter().map(segment).collect(),
    }))
}

pub(crate) fn decode_tail_reply(bytes: Bytes) -> Result<TailReply, DecodeError> {
    let pb::answer::Body::Tail(tail) = decode_answer(bytes)? else {
        return Err(DecodeError::Field("body"));
    };
    let segment = |segment: pb::SegmentTail| SegmentStatus {
        epoch: Epoch(segment.epoch),
        base: Lsn(segment.base),
        tail: Lsn(segment.tail),
        committed: Lsn(segment.committed),
    };
    Ok(TailReply {
        storage: StorageId(tail.storage),
        promised: Epoch(tail.promised),
        trimmed: Lsn(tail.trimmed),
        segments: tail.segments.into_iter().map(segment).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that are, up to a few changes, what peers send.
    fn near_messages() -> impl Strategy<Value = Bytes> {
        let partition = PartitionId(3);
        let records: Arc<[Record]> = (1..4)
            .map(|lsn| {
                Record::new(
                    partition,
                    Epoch(2),
                    Lsn(lsn),
                    Bytes::from_static(b"payload"),
                )
            })
            .collect();
        let append = AppendRequest {
            partition,
            epoch: Epoch(2),
            base: Lsn(1),
            first: Lsn(1),
            committed: Lsn(0),
            trimmed: Lsn(0),
            probe: false,
            records,
        };
        let replies = [AppendReply {
            partition,
            epoch: Epoch(2),
            storage: StorageId(9),
            outcome: AppendOutcome::Stored { tail: Lsn(4) },
        }];
        let messages = vec![
            encode_append(&append),
            encode_replies(&replies),
            encode_trim(partition, Lsn(3)),
            encode_tail(partition),
            Bytes::new(),
        ];
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        let tail = prop::collection::vec(any::<u8>(), 0..20);
        (prop::sample::select(messages), changes, tail).prop_map(|(message, changes, tail)| {
            let mut bytes = message.to_vec();
            for (at, value) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
            }
            bytes.extend(tail);
            bytes.into()
        })
    }

    proptest! {
        #[test]
        fn what_peers_send_never_panics(bytes in near_messages()) {
            let _ = decode_message(bytes.clone());
            let _ = decode_call(bytes.clone());
            let _ = decode_fence_reply(bytes.clone());
            let _ = decode_trim_reply(bytes.clone());
            let _ = decode_tail_reply(bytes.clone());
            let read = ReadRequest {
                partition: PartitionId(3),
                epoch: Epoch(2),
                from: Lsn(1),
                end: None,
                bytes_max: 1000,
            };
            let _ = decode_read_reply(&read, bytes);
        }

        #[test]
        fn a_record_that_comes_in_is_one_that_was_sent(bytes in near_messages()) {
            if let Ok(Incoming::Append(append)) = decode_message(bytes) {
                for record in append.records.iter() {
                    prop_assert_eq!(record.payload(), &Bytes::from_static(b"payload"));
                }
            }
        }
    }
}
