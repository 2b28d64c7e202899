//! Frames: an eight-byte header and a payload, one behind the other.
//!
//! ```text
//! u16 type code │ u16 flags, the top bit asks for an ack │ u32 length of the payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::entry::RawEntry;
use crate::message_type::MessageType;

/// Bytes of a header.
pub const HEADER_LENGTH: usize = 8;

/// The payload size from which on a frame is refused if nothing else is configured: 32 MiB and a little for
/// what surrounds a value of that size.
pub const DEFAULT_PAYLOAD_LENGTH_MAX: usize = 32 * 1024 * 1024 + 256 * 1024 - 1;

const REQUESTED_ACK: u16 = 0x8000;
/// How much is set aside at once for a payload that has only been announced.
const RESERVE_MAX: usize = 64 * 1024;

/// One frame as received. The payload is a slice of what arrived wherever it came in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type code, known or not.
    pub ty: u16,
    /// Whether the sender asks for an ack.
    pub requested_ack: bool,
    /// The message.
    pub payload: Bytes,
}

/// Why a stream of bytes is not one of frames. Nothing after it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A header announces more than is allowed.
    #[error("message of type {ty:#06x} has {length} bytes, the limit is {max}")]
    TooLong {
        /// Its type code.
        ty: u16,
        /// What the header says.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, after {received} bytes of it")]
    Truncated {
        /// How much of the frame there was.
        received: usize,
    },
}

/// Cuts a stream of bytes into frames as they arrive.
#[derive(Debug)]
pub struct FrameDecoder {
    payload_length_max: usize,
    /// The beginning of a frame whose end was not in the chunk that held it.
    partial: BytesMut,
    /// What is not yet looked at. Invariant: while `partial` is not empty, `chunk` follows it.
    chunk: Bytes,
}

impl FrameDecoder {
    /// A decoder that refuses payloads of more than `payload_length_max` bytes at their header.
    pub fn new(payload_length_max: usize) -> Self {
        Self {
            payload_length_max,
            partial: BytesMut::new(),
            chunk: Bytes::new(),
        }
    }

    /// Adds what arrived. Call [`Self::next_frame`] until it yields nothing before the next chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&self.chunk);
            self.chunk = chunk;
        }
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_empty() {
            return self.next_in_chunk();
        }
        self.fill_partial(HEADER_LENGTH);
        let Some(header) = self.header(&self.partial)? else {
            return Ok(None);
        };
        let whole = HEADER_LENGTH + header.length;
        self.fill_partial(whole);
        if self.partial.len() < whole {
            let missing = whole - self.partial.len();
            self.partial.reserve(missing.min(RESERVE_MAX));
            return Ok(None);
        }
        let mut payload = self.partial.split_to(whole);
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
        }
        payload.advance(HEADER_LENGTH);
        Ok(Some(header.frame(payload.freeze())))
    }

    /// Says that the stream has ended.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffered() {
            0 => Ok(()),
            received => Err(FrameError::Truncated { received }),
        }
    }

    /// How many bytes wait for the rest of their frame.
    pub fn buffered(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    fn next_in_chunk(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(header) = self.header(&self.chunk)? {
            let whole = HEADER_LENGTH + header.length;
            if self.chunk.len() >= whole {
                self.chunk.advance(HEADER_LENGTH);
                let payload = self.chunk.split_to(header.length);
                return Ok(Some(header.frame(payload)));
            }
            self.partial
                .reserve(whole.min(self.chunk.len() + RESERVE_MAX));
        }
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// Moves bytes over until the partial frame has `length` of them or no more are there.
    fn fill_partial(&mut self, length: usize) {
        let wanted = length.saturating_sub(self.partial.len());
        let available = wanted.min(self.chunk.len());
        self.partial
            .extend_from_slice(&self.chunk.split_to(available));
    }

    fn header(&self, mut bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        if bytes.len() < HEADER_LENGTH {
            return Ok(None);
        }
        let ty = bytes.get_u16();
        let flags = bytes.get_u16();
        let length = bytes.get_u32() as usize;
        if length > self.payload_length_max {
            return Err(FrameError::TooLong {
                ty,
                length,
                max: self.payload_length_max,
            });
        }
        Ok(Some(Header { ty, flags, length }))
    }
}

#[derive(Clone, Copy)]
struct Header {
    ty: u16,
    flags: u16,
    length: usize,
}

impl Header {
    fn frame(self, payload: Bytes) -> Frame {
        Frame {
            ty: self.ty,
            requested_ack: self.flags & REQUESTED_ACK != 0,
            payload,
        }
    }
}

/// `follows`: how many bytes will be appended behind it.
fn put_header(ty: u16, length: usize, follows: usize, out: &mut BytesMut) {
    let length = u32::try_from(length).expect("payloads are limited to far less than 4 GiB");
    out.reserve(HEADER_LENGTH + follows);
    out.put_u16(ty);
    out.put_u16(0);
    out.put_u32(length);
}

/// Appends a control message. The server sets no flags on what it sends.
pub fn put_message(ty: MessageType, message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    put_header(ty.code(), length, length, out);
    message
        .encode(out)
        .expect("BytesMut grows to what is written");
}

/// Appends a stored entry under the type code that it was stored with.
pub fn put_entry(entry: &RawEntry, out: &mut BytesMut) {
    put_header(entry.ty, entry.payload.len(), entry.payload.len(), out);
    out.put_slice(&entry.payload);
}

/// Appends the header of a stored entry, for a sender that passes the payload on by itself.
pub fn put_entry_header(entry: &RawEntry, out: &mut BytesMut) {
    put_header(entry.ty, entry.payload.len(), 0, out);
}

/// Bytes that [`put_entry`] appends.
pub fn entry_length(entry: &RawEntry) -> usize {
    HEADER_LENGTH + entry.payload.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(chunks: impl IntoIterator<Item = Bytes>, max: usize) -> (Vec<Frame>, FrameDecoder) {
        let mut decoder = FrameDecoder::new(max);
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        (frames, decoder)
    }

    #[test]
    fn the_limit_is_checked_before_the_payload_arrives() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(Bytes::from_static(&[4, 0, 0, 0, 0, 0, 0, 11]));
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong {
                ty: 0x0400,
                length: 11,
                max: 10
            })
        );
    }

    #[test]
    fn a_limit_of_32_mib_and_a_quarter_refuses_what_the_peer_refuses() {
        let mut decoder = FrameDecoder::new(DEFAULT_PAYLOAD_LENGTH_MAX);
        let mut header = vec![4, 0, 0, 0];
        header.extend(33_816_575_u32.to_be_bytes());
        decoder.push(Bytes::from(header));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.partial.capacity() < 1024 * 1024);
        let mut decoder = FrameDecoder::new(DEFAULT_PAYLOAD_LENGTH_MAX);
        let mut header = vec![4, 0, 0, 0];
        header.extend(33_816_576_u32.to_be_bytes());
        decoder.push(Bytes::from(header));
        assert!(decoder.next_frame().is_err());
    }

    #[test]
    fn a_frame_in_one_piece_is_not_copied() {
        let bytes = Bytes::from_static(&[4, 1, 0x80, 0, 0, 0, 0, 2, 7, 8]);
        let (frames, _) = frames([bytes.clone()], 100);
        assert!(frames[0].requested_ack);
        assert_eq!(frames[0].payload.as_ptr(), bytes[8..].as_ptr());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_says_so() {
        let (_, decoder) = frames([Bytes::from_static(&[4, 1, 0, 0, 0])], 100);
        assert_eq!(decoder.finish(), Err(FrameError::Truncated { received: 5 }));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            entries in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..60),
        ) {
            let entries: Vec<RawEntry> = entries
                .into_iter()
                .map(|(ty, payload)| RawEntry { ty, payload: payload.into() })
                .collect();
            let mut bytes = BytesMut::new();
            for entry in &entries {
                put_entry(entry, &mut bytes);
            }
            let mut bytes = bytes.freeze();
            let mut chunks = Vec::new();
            for cut in cuts {
                chunks.push(bytes.split_to(cut.min(bytes.len())));
            }
            chunks.push(bytes);
            let (decoded, decoder) = frames(chunks, 100);
            let decoded: Vec<RawEntry> = decoded
                .into_iter()
                .map(|frame| RawEntry { ty: frame.ty, payload: frame.payload })
                .collect();
            prop_assert_eq!(decoded, entries);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn no_bytes_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20)) {
            let mut decoder = FrameDecoder::new(1000);
            'chunks: for chunk in chunks {
                decoder.push(chunk.into());
                loop {
                    match decoder.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'chunks,
                    }
                }
            }
            let _ = decoder.finish();
        }
    }
}
