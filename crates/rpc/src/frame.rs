//! The bytes on a fabric connection.
//!
//! After the [`PREFACE`] both ends speak in frames: payload length (u32), kind (u8), service (u8),
//! correlation (u64), payload; integers are big endian. The first frame either way is a hello. In an error
//! frame the service byte tells refused from dropped.

use abide_types::{Generation, NodeId};

/// The first bytes of a fabric connection; no HTTP request starts with them.
pub const PREFACE: &[u8; 8] = b"ABIDEFB1";

/// Rises when frames or the hello change in a way that an older node misreads.
pub(crate) const PROTOCOL_VERSION: u16 = 1;

/// What a frame is for. The numbers are pinned.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message = 1,
    Call = 2,
    Reply = 3,
    Error = 4,
    Ping = 5,
    Pong = 6,
    Hello = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Call,
            3 => Self::Reply,
            4 => Self::Error,
            5 => Self::Ping,
            6 => Self::Pong,
            7 => Self::Hello,
            _ => return None,
        })
    }
}

/// Service byte of an error frame: the call was not carried out.
pub(crate) const ERROR_REFUSED: u8 = 0;
/// Service byte of an error frame: the handler gave the call up; what it did before is unknown.
pub(crate) const ERROR_DROPPED: u8 = 1;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub length: u32,
    pub kind: Kind,
    pub service: u8,
    pub correlation: u64,
}

impl Header {
    pub const LENGTH: usize = 14;

    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.service;
        bytes[6..].copy_from_slice(&self.correlation.to_be_bytes());
        bytes
    }

    /// `None` for a kind that does not exist.
    pub fn decode(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let [l0, l1, l2, l3, kind, service, correlation @ ..] = *bytes;
        Some(Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            kind: Kind::from_byte(kind)?,
            service,
            correlation: u64::from_be_bytes(correlation),
        })
    }
}

/// How two nodes introduce themselves. Bytes behind the known ones are left to later versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub version: u16,
    pub fingerprint: u64,
    pub node: NodeId,
    pub generation: Generation,
}

impl Hello {
    const LENGTH: usize = 18;
    /// No hello and no rejection is longer; before they are through, nothing longer is read.
    pub const LENGTH_MAX: usize = 1024;

    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..2].copy_from_slice(&self.version.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.fingerprint.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[14..].copy_from_slice(&self.generation.0.to_be_bytes());
        bytes
    }

    /// `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (generation, _) = rest.split_first_chunk()?;
        Some(Self {
            version: u16::from_be_bytes(*version),
            fingerprint: u64::from_be_bytes(*fingerprint),
            node: NodeId(u32::from_be_bytes(*node)),
            generation: Generation(u32::from_be_bytes(*generation)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_pinned() {
        let header = Header {
            length: 0x0102_0304,
            kind: Kind::Call,
            service: 3,
            correlation: 0x1112_1314_1516_1718,
        };
        let bytes = header.encode();
        assert_eq!(
            bytes,
            [
                1, 2, 3, 4, 2, 3, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
            ]
        );
        assert_eq!(Header::decode(&bytes), Some(header));
        let hello = Hello {
            version: 1,
            fingerprint: 2,
            node: NodeId(3),
            generation: Generation(4),
        };
        let bytes = hello.encode();
        assert_eq!(
            bytes,
            [0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]
        );
        assert_eq!(Hello::decode(&bytes), Some(hello));
    }

    #[test]
    fn an_unknown_kind_and_a_short_hello_are_refused() {
        let mut bytes = [0; Header::LENGTH];
        bytes[4] = 8;
        assert_eq!(Header::decode(&bytes), None);
        assert_eq!(Hello::decode(&[0; 17]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_header_as_written_or_none(bytes in proptest::array::uniform14(proptest::num::u8::ANY)) {
            if let Some(header) = Header::decode(&bytes) {
                proptest::prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_a_hello_as_written_or_none(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            match Hello::decode(&bytes) {
                Some(hello) => proptest::prop_assert!(bytes.starts_with(&hello.encode())),
                None => proptest::prop_assert!(bytes.len() < Hello::LENGTH),
            }
        }
    }
}
