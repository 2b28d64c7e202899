//! The wire protocol between the engine and SDK endpoints, without I/O.
//!
//! An endpoint says at discovery what it offers ([`manifest`]). An invocation is then a stream of frames
//! ([`frame`]) each way; the commands and notifications among them are the journal's entries and are stored
//! as they came ([`RawEntry`]). What an entry means is read from it when it is needed: [`Command`] for what the
//! endpoint asks, [`Notification`] for what it is told, [`Await`] for what it waits for.
//!
//! **Invariant:** no I/O, clock or randomness, and nothing that a peer sends makes this crate panic.

pub mod awaiting;
mod bounds;
pub mod codes;
pub mod entry;
pub mod failure;
pub mod frame;
pub mod manifest;
pub mod message_type;
pub mod notification;
pub mod scope;
pub mod version;

#[allow(missing_docs, reason = "generated; the .proto file says what is what")]
pub mod proto {
    //! The messages as they are on the wire.
    include!(concat!(env!("OUT_DIR"), "/abide.service_protocol.rs"));
}

pub use awaiting::{Await, AwaitError, Combinator};
pub use codes::{ErrorCode, invocation_code};
pub use entry::{
    AttachTarget, Call, Command, CommandError, OneWayCall, RawEntry, SignalId, SignalResult,
};
pub use failure::{Failure, Outcome};
pub use frame::{Frame, FrameDecoder, FrameError};
pub use message_type::{MessageClass, MessageType};
pub use notification::{Notification, NotificationError, NotificationId, NotificationResult};
pub use scope::ScopeError;
pub use version::ProtocolVersion;

/// Decodes a control message that an endpoint sent, within the bounds that keep small payloads from becoming
/// large messages.
pub fn decode_control<M: prost::Message + Default>(frame: &Frame) -> Result<M, String> {
    if let Some(ty) = MessageType::from_code(frame.ty) {
        bounds::check(ty, &frame.payload)?;
    }
    M::decode(frame.payload.clone()).map_err(|error| error.to_string())
}
