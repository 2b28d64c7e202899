//! Every key and value that is stored, with its pinned number.
//!
//! A key is the number of its kind, then its fields in big endian, so that the records of one segment lie
//! together in order. Values are little endian. Numbers are never reused.

use abide_log::{Record, StorageId};
use abide_types::{Epoch, Lsn, PartitionId};
use bytes::{BufMut, Bytes};

/// Version of this layout. A directory with another one is refused.
pub(crate) const FORMAT: u32 = 1;

/// Bytes in front of a stored payload: checksum (4), commit (8).
pub(crate) const RECORD_HEAD: usize = 12;

/// A stored key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Key {
    /// `1` → storage id (8), format (4).
    Storage = 1,
    /// `2` → number of the last journal frame whose writes are in the database (8).
    Applied = 2,
    /// `3 partition(2)` → promised epoch (8).
    Promised(PartitionId) = 3,
    /// `4 partition(2) epoch(8)` → base of the segment (8).
    Segment(PartitionId, Epoch) = 4,
    /// `5 partition(2)` → trim point (8).
    Trimmed(PartitionId) = 5,
    /// `6 partition(2) epoch(8) lsn(8)` → checksum (4), commit heard with it (8), payload. The checksum is
    /// the record's own (CRC-32C over partition, epoch, LSN, payload) continued over the commit.
    Record(PartitionId, Epoch, Lsn) = 6,
}

/// The first byte of the keys of segments, records and so on.
pub(crate) mod kind {
    pub(crate) const PROMISED: u8 = 3;
    pub(crate) const SEGMENT: u8 = 4;
    pub(crate) const TRIMMED: u8 = 5;
    pub(crate) const RECORD: u8 = 6;
}

/// An encoded key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyBytes {
    bytes: [u8; 19],
    length: usize,
}

impl AsRef<[u8]> for KeyBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Key {
    pub(crate) fn encode(self) -> KeyBytes {
        let mut bytes = [0; 19];
        let mut rest = &mut bytes[..];
        match self {
            Self::Storage => rest.put_u8(1),
            Self::Applied => rest.put_u8(2),
            Self::Promised(partition) => {
                rest.put_u8(kind::PROMISED);
                rest.put_u16(partition.0);
            }
            Self::Segment(partition, epoch) => {
                rest.put_u8(kind::SEGMENT);
                rest.put_u16(partition.0);
                rest.put_u64(epoch.0);
            }
            Self::Trimmed(partition) => {
                rest.put_u8(kind::TRIMMED);
                rest.put_u16(partition.0);
            }
            Self::Record(partition, epoch, lsn) => {
                rest.put_u8(kind::RECORD);
                rest.put_u16(partition.0);
                rest.put_u64(epoch.0);
                rest.put_u64(lsn.0);
            }
        }
        let length = 19 - rest.len();
        KeyBytes { bytes, length }
    }

    /// Reads a key; `None` if it is none.
    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let partition = || Some(PartitionId(u16::from_be_bytes(*rest.first_chunk()?)));
        let number = |at: usize| Some(u64::from_be_bytes(*rest.get(at..)?.first_chunk()?));
        let key = match (*kind, rest.len()) {
            (1, 0) => Self::Storage,
            (2, 0) => Self::Applied,
            (kind::PROMISED, 2) => Self::Promised(partition()?),
            (kind::SEGMENT, 10) => Self::Segment(partition()?, Epoch(number(2)?)),
            (kind::TRIMMED, 2) => Self::Trimmed(partition()?),
            (kind::RECORD, 18) => Self::Record(partition()?, Epoch(number(2)?), Lsn(number(10)?)),
            _ => return None,
        };
        Some(key)
    }
}

/// The value of [`Key::Storage`].
pub(crate) fn storage_value(storage: StorageId) -> [u8; 12] {
    let mut value = [0; 12];
    value[..8].copy_from_slice(&storage.0.to_le_bytes());
    value[8..].copy_from_slice(&FORMAT.to_le_bytes());
    value
}

/// Reads the value of [`Key::Storage`]: the id and the format.
pub(crate) fn read_storage(value: &[u8]) -> Option<(StorageId, u32)> {
    let (id, format) = value.split_first_chunk()?;
    let format = u32::from_le_bytes(format.try_into().ok()?);
    Some((StorageId(u64::from_le_bytes(*id)), format))
}

/// Reads a value that is one number.
pub(crate) fn read_number(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

/// Appends the value of [`Key::Record`].
pub(crate) fn put_record(value: &mut Vec<u8>, record: &Record, committed: Lsn) {
    let committed = committed.0.to_le_bytes();
    value.put_u32_le(crc32c::crc32c_append(record.checksum(), &committed));
    value.put_slice(&committed);
    value.put_slice(record.payload());
}

/// Reads the value of [`Key::Record`]: the record and the commit heard with it. `None` if it is corrupt.
pub(crate) fn read_record(
    partition: PartitionId,
    epoch: Epoch,
    lsn: Lsn,
    value: &[u8],
) -> Option<(Record, Lsn)> {
    let (head, payload) = value.split_at_checked(RECORD_HEAD)?;
    let (checksum, committed) = head.split_first_chunk()?;
    let record = Record::new(partition, epoch, lsn, Bytes::copy_from_slice(payload));
    let fits = crc32c::crc32c_append(record.checksum(), committed) == u32::from_le_bytes(*checksum);
    let committed = Lsn(u64::from_le_bytes(committed.try_into().ok()?));
    fits.then_some((record, committed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use expect_test::expect;

    fn hex(bytes: impl AsRef<[u8]>) -> String {
        bytes
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[test]
    fn the_layout_is_pinned() {
        let (partition, epoch, lsn) = (PartitionId(0x0102), Epoch(0x0304), Lsn(0x0506));
        let record = Record::new(partition, epoch, lsn, "pay".into());
        let mut value = Vec::new();
        put_record(&mut value, &record, Lsn(0x0505));
        let keys = [
            Key::Storage,
            Key::Applied,
            Key::Promised(partition),
            Key::Segment(partition, epoch),
            Key::Trimmed(partition),
            Key::Record(partition, epoch, lsn),
        ];
        let mut lines: Vec<String> = keys.iter().map(|key| hex(key.encode())).collect();
        lines.push(hex(storage_value(StorageId(0x0708))));
        lines.push(hex(&value));
        expect![[r#"
            01
            02
            030102
            0401020000000000000304
            050102
            06010200000000000003040000000000000506
            080700000000000001000000
            "#]]
        .assert_eq(&(lines[..7].join("\n") + "\n"));
        assert_eq!(lines[7], "66efddb90505000000000000706179");
        for key in keys {
            assert_eq!(Key::decode(key.encode().as_ref()), Some(key));
        }
        assert_eq!(Key::decode(&[6, 0, 1]), None);
        assert_eq!(
            read_record(partition, epoch, lsn, &value).unwrap(),
            (record, Lsn(0x0505))
        );
        for index in 0..value.len() {
            let mut flipped = value.clone();
            flipped[index] ^= 1;
            assert_eq!(read_record(partition, epoch, lsn, &flipped), None);
        }
    }
}
