//! Every key of the database, with pinned numbers.

/// The layout of one key. The first byte is the variant's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// 1. Value: [`FORMAT`].
    Format,
    /// 2. Value: `IdentityRecord`.
    Identity,
    /// 3. Value: `Vote`.
    Vote,
    /// 4. Value: `LogId` of the last entry known to be committed.
    Committed,
    /// 5. Value: `LogId` of the last entry that was purged.
    Purged,
    /// 6. Value: `AppliedRecord`.
    Applied,
    /// 7. Value: `SnapshotRecord`.
    Snapshot,
    /// 8, then the version (8 bytes, big endian). Value: the 16-byte id of the transaction with that version.
    Recent(u64),
    /// 16, then the index (8 bytes, big endian). Value: `Entry`.
    Entry(u64),
    /// 17, then the document's key. Value: version (8 bytes, big endian), then the document.
    Document(&'a str),
}

/// The form of everything under the other keys.
pub(crate) const FORMAT: &[u8] = b"abide metadata 1";

impl Key<'_> {
    const RECENT: u8 = 8;
    const ENTRY: u8 = 16;
    const DOCUMENT: u8 = 17;

    /// Where recent transactions begin and end.
    pub(crate) const RECENT_RANGE: ([u8; 1], [u8; 1]) = ([Self::RECENT], [Self::RECENT + 1]);
    /// Where entries begin and end.
    pub(crate) const ENTRY_RANGE: ([u8; 1], [u8; 1]) = ([Self::ENTRY], [Self::ENTRY + 1]);
    /// Where documents begin and end.
    pub(crate) const DOCUMENT_RANGE: ([u8; 1], [u8; 1]) = ([Self::DOCUMENT], [Self::DOCUMENT + 1]);

    /// The bytes of the key.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let numbered = |prefix: u8, number: u64| {
            let mut bytes = vec![prefix];
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes
        };
        match self {
            Self::Format => vec![1],
            Self::Identity => vec![2],
            Self::Vote => vec![3],
            Self::Committed => vec![4],
            Self::Purged => vec![5],
            Self::Applied => vec![6],
            Self::Snapshot => vec![7],
            Self::Recent(version) => numbered(Self::RECENT, *version),
            Self::Entry(index) => numbered(Self::ENTRY, *index),
            Self::Document(key) => {
                let mut bytes = vec![Self::DOCUMENT];
                bytes.extend_from_slice(key.as_bytes());
                bytes
            }
        }
    }
}

/// The number in a [`Key::Recent`] or [`Key::Entry`].
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    key.get(1..)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_these_bytes_for_ever() {
        let golden: [(Key<'_>, &[u8]); 10] = [
            (Key::Format, &[1]),
            (Key::Identity, &[2]),
            (Key::Vote, &[3]),
            (Key::Committed, &[4]),
            (Key::Purged, &[5]),
            (Key::Applied, &[6]),
            (Key::Snapshot, &[7]),
            (Key::Recent(258), &[8, 0, 0, 0, 0, 0, 0, 1, 2]),
            (Key::Entry(258), &[16, 0, 0, 0, 0, 0, 0, 1, 2]),
            (Key::Document("log/1"), b"\x11log/1"),
        ];
        for (key, bytes) in golden {
            assert_eq!(key.bytes(), bytes, "{key:?}");
        }
        assert_eq!(number_of(&Key::Entry(258).bytes()), Some(258));
        assert_eq!(number_of(&[16, 1]), None);
    }
}
