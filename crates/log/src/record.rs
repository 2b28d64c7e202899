//! A record and the checksum that travels with it.

use abide_types::{Epoch, Lsn, PartitionId};
use bytes::Bytes;

/// One entry of a log under one epoch.
///
/// Invariant: the checksum fits (partition, epoch, LSN, payload). Whoever holds a `Record` needs not check
/// it again; bytes from a disk or a peer become one only through [`Record::verified`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    epoch: Epoch,
    lsn: Lsn,
    checksum: u32,
    payload: Bytes,
}

/// A record whose checksum does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {lsn} of log {partition} under {epoch} is corrupt: its checksum does not fit")]
pub struct CorruptRecord {
    /// The log.
    pub partition: PartitionId,
    /// The epoch under which it was stored.
    pub epoch: Epoch,
    /// Its position.
    pub lsn: Lsn,
}

impl Record {
    /// A new record of `partition`.
    pub fn new(partition: PartitionId, epoch: Epoch, lsn: Lsn, payload: Bytes) -> Self {
        let checksum = checksum(partition, epoch, lsn, &payload);
        Self {
            epoch,
            lsn,
            checksum,
            payload,
        }
    }

    /// A record that was read from a disk or came from a peer.
    pub fn verified(
        partition: PartitionId,
        epoch: Epoch,
        lsn: Lsn,
        stored_checksum: u32,
        payload: Bytes,
    ) -> Result<Self, CorruptRecord> {
        let record = Self::new(partition, epoch, lsn, payload);
        if record.checksum != stored_checksum {
            return Err(CorruptRecord {
                partition,
                epoch,
                lsn,
            });
        }
        Ok(record)
    }

    /// The same record under another epoch, for handing a suffix over.
    #[must_use]
    pub fn under(&self, partition: PartitionId, epoch: Epoch) -> Self {
        Self::new(partition, epoch, self.lsn, self.payload.clone())
    }

    /// The epoch under which it is stored.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its position.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// CRC-32C over (partition, epoch, LSN, payload).
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// What the leader proposed.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Takes the payload out.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// What the record counts against limits of bytes: its payload and what goes with it.
    pub fn weight(&self) -> usize {
        self.payload.len() + 64
    }
}

fn checksum(partition: PartitionId, epoch: Epoch, lsn: Lsn, payload: &[u8]) -> u32 {
    let mut head = [0; 18];
    head[..2].copy_from_slice(&partition.0.to_be_bytes());
    head[2..10].copy_from_slice(&epoch.0.to_be_bytes());
    head[10..].copy_from_slice(&lsn.0.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_only_where_it_belongs() {
        let record = Record::new(PartitionId(3), Epoch(2), Lsn(7), "pay".into());
        let read = |partition, epoch, lsn, payload: &'static str| {
            Record::verified(
                PartitionId(partition),
                Epoch(epoch),
                Lsn(lsn),
                record.checksum(),
                payload.into(),
            )
        };
        assert_eq!(read(3, 2, 7, "pay").unwrap(), record);
        assert!(read(4, 2, 7, "pay").is_err());
        assert!(read(3, 3, 7, "pay").is_err());
        assert!(read(3, 2, 8, "pay").is_err());
        assert!(read(3, 2, 7, "pax").is_err());
        assert_eq!(
            record.under(PartitionId(3), Epoch(3)),
            Record::new(PartitionId(3), Epoch(3), Lsn(7), "pay".into())
        );
    }
}
