//! What waits to be sent on a stream.

use std::collections::VecDeque;

use abide_service_protocol::{MessageType, RawEntry, frame};
use bytes::{Bytes, BytesMut};

/// From this length on a payload is passed on instead of copied behind others.
const COPY_MAX: usize = 16 * 1024;

/// Frames in order, joined so that few writes carry them.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    sealed: VecDeque<Bytes>,
    sealed_length: usize,
    open: BytesMut,
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sealed_length + self.open.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn put_message(&mut self, ty: MessageType, message: &impl prost::Message) {
        frame::put_message(ty, message, &mut self.open);
    }

    pub(crate) fn put_entry(&mut self, entry: RawEntry) {
        if entry.payload.len() < COPY_MAX {
            frame::put_entry(&entry, &mut self.open);
        } else {
            frame::put_entry_header(&entry, &mut self.open);
            self.seal();
            self.sealed_length += entry.payload.len();
            self.sealed.push_back(entry.payload);
        }
    }

    /// The next piece, of at most `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.sealed.is_empty() {
            self.seal();
        }
        let first = self.sealed.front_mut()?;
        let piece = if first.len() <= length {
            self.sealed.pop_front()?
        } else {
            first.split_to(length)
        };
        self.sealed_length -= piece.len();
        Some(piece)
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open).freeze();
            self.sealed_length += open.len();
            self.sealed.push_back(open);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_frames_in_order() {
        let entry = |length: usize, fill: u8| RawEntry {
            ty: 0x0400,
            payload: vec![fill; length].into(),
        };
        let entries = [entry(3, 1), entry(COPY_MAX, 2), entry(0, 3), entry(5, 4)];
        let mut expected = BytesMut::new();
        let mut outgoing = Outgoing::default();
        for entry in entries {
            frame::put_entry(&entry, &mut expected);
            outgoing.put_entry(entry);
        }
        assert_eq!(outgoing.len(), expected.len());
        let mut sent = Vec::new();
        while let Some(piece) = outgoing.take(1000) {
            assert!(!piece.is_empty() && piece.len() <= 1000);
            sent.extend_from_slice(&piece);
        }
        assert_eq!(sent, expected);
        assert!(outgoing.is_empty());
        assert_eq!(outgoing.len(), 0);
    }
}
