//! The keys of the store: every table in one place, with pinned numbers.
//!
//! A key is the table's number, then big-endian fields, so that rows sort in the order in which they are
//! scanned. Strings inside a key carry their length in front (u32), which keeps prefixes apart.

use abide_types::{InvocationId, Lsn, PartitionId, PartitionKey, QueueId, Timestamp};
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;

use crate::proto;

/// The tables. Numbers are durable: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// `id(24)` → `Invocation`.
    Invocation = 1,
    /// `id(24) index(4)` → `JournalEntry`.
    Journal = 2,
    /// `id(24)` → empty: the invocations that are invoked, for a new leader to start.
    Invoked = 3,
    /// `key service state-key` → value.
    State = 4,
    /// `key service` → id(24) of the invocation that holds the object.
    Lock = 5,
    /// `key service lsn(8) index(4)` → id(24): who waits for the object; or 24 zeros and a `MutateState` that
    /// waits there.
    Inbox = 6,
    /// `key service name` → `Promise`.
    Promise = 7,
    /// `due(8) kind(1) id(24) completion(4)` → `Timer`.
    Timer = 8,
    /// `partition(2) lsn(8) index(4)` → `Message`.
    Outbox = 9,
    /// `partition(2)` → lsn(8) index(4): the last message taken from that partition.
    Inbound = 10,
    /// `id(24) number(4)` → `JournalEvent`.
    Event = 11,
    /// `producer` → position(8): the last one taken from that producer.
    Producer = 12,
    /// `queue(24)` → empty: the queues that are paused.
    Queue = 13,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TimerKind {
    /// Completes a Sleep.
    Sleep = 0,
    /// Starts a scheduled invocation.
    Start = 1,
}

/// A timer's key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    /// When it fires.
    pub due: Timestamp,
    /// What it does.
    pub kind: TimerKind,
    /// For whom.
    pub invocation: InvocationId,
    /// The Sleep's completion.
    pub completion_id: u32,
}

fn start(table: Table, capacity: usize) -> BytesMut {
    let mut key = BytesMut::with_capacity(1 + capacity);
    key.put_u8(table as u8);
    key
}

fn put_text(key: &mut BytesMut, text: &str) {
    key.put_u32(text.len() as u32);
    key.put_slice(text.as_bytes());
}

/// The first key of `table`.
pub fn table_start(table: Table) -> Bytes {
    start(table, 0).freeze()
}

/// The key behind the last of `table`.
pub fn table_end(table: Table) -> Bytes {
    Bytes::copy_from_slice(&[table as u8 + 1])
}

/// The first key that does not start with `prefix`. Prefixes begin with a table number, so there is one.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    Bytes::from(end)
}

fn with_id(table: Table, id: &InvocationId, extra: usize) -> BytesMut {
    let mut key = start(table, InvocationId::LENGTH + extra);
    key.put_slice(&id.to_bytes());
    key
}

/// Key of [`Table::Invocation`].
pub fn invocation(id: &InvocationId) -> Bytes {
    with_id(Table::Invocation, id, 0).freeze()
}

/// Reads a key of [`Table::Invocation`] or [`Table::Invoked`].
pub fn parse_invocation(key: &[u8]) -> Option<InvocationId> {
    InvocationId::from_bytes(key.get(1..)?)
}

/// Key of [`Table::Journal`].
pub fn journal(id: &InvocationId, index: u32) -> Bytes {
    let mut key = with_id(Table::Journal, id, 4);
    key.put_u32(index);
    key.freeze()
}

/// Key of [`Table::Event`].
pub fn event(id: &InvocationId, number: u32) -> Bytes {
    let mut key = with_id(Table::Event, id, 4);
    key.put_u32(number);
    key.freeze()
}

/// Prefix of an invocation's rows in [`Table::Event`].
pub fn events_of(id: &InvocationId) -> Bytes {
    with_id(Table::Event, id, 0).freeze()
}

/// Reads a key of [`Table::Journal`] or [`Table::Event`].
pub fn parse_journal(key: &[u8]) -> Option<(InvocationId, u32)> {
    let (id, index) = key.get(1..)?.split_at_checked(InvocationId::LENGTH)?;
    let index = u32::from_be_bytes(index.try_into().ok()?);
    Some((InvocationId::from_bytes(id)?, index))
}

/// Key of [`Table::Queue`].
pub fn queue(id: &QueueId) -> Bytes {
    let mut key = start(Table::Queue, QueueId::LENGTH);
    key.put_slice(&id.to_bytes());
    key.freeze()
}

/// Reads a key of [`Table::Queue`].
pub fn parse_queue(key: &[u8]) -> Option<QueueId> {
    QueueId::from_bytes(key.strip_prefix(&[Table::Queue as u8])?)
}

/// How the rows of objects and workflows name their service: those of a scope have rows of their own, under
/// `scope/service`. Neither part can hold a slash.
pub fn service_in<'a>(flow: Option<&proto::Flow>, service: &'a str) -> Cow<'a, str> {
    match flow {
        None => Cow::Borrowed(service),
        Some(flow) => Cow::Owned(format!("{}/{service}", flow.scope)),
    }
}

/// Takes apart what [`service_in`] put together: the scope, if there is one, and the service.
pub fn scope_and_service(service: &str) -> (Option<&str>, &str) {
    match service.split_once('/') {
        Some((scope, service)) => (Some(scope), service),
        None => (None, service),
    }
}

/// Key of [`Table::Invoked`].
pub fn invoked(id: &InvocationId) -> Bytes {
    with_id(Table::Invoked, id, 0).freeze()
}

fn with_object(table: Table, service: &str, object_key: &str, extra: usize) -> BytesMut {
    let mut key = start(table, 8 + service.len() + object_key.len() + extra);
    put_text(&mut key, object_key);
    put_text(&mut key, service);
    key
}

/// A key of [`Table::State`], [`Table::Lock`], [`Table::Inbox`] or [`Table::Promise`], taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectKey<'a> {
    /// Key of the object or workflow.
    pub key: &'a str,
    /// Its service.
    pub service: &'a str,
    /// What comes behind: the name of the state entry or promise, the place in the inbox.
    pub rest: &'a [u8],
}

/// Reads a key that begins with an object.
pub fn parse_object(key: &[u8]) -> Option<ObjectKey<'_>> {
    let (object_key, rest) = take_text(key.get(1..)?)?;
    let (service, rest) = take_text(rest)?;
    Some(ObjectKey {
        key: object_key,
        service,
        rest,
    })
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Prefix of the rows of all objects with that key, whatever their services, in a table whose keys begin with one.
pub fn objects_of(table: Table, object_key: &str) -> Bytes {
    let mut prefix = start(table, 4 + object_key.len());
    put_text(&mut prefix, object_key);
    prefix.freeze()
}

/// Prefix of an object's rows in a table whose keys begin with one.
pub fn object_of(table: Table, service: &str, object_key: &str) -> Bytes {
    with_object(table, service, object_key, 0).freeze()
}

/// Prefix of an invocation's rows in a table whose keys begin with its id.
pub fn rows_of(table: Table, id: &InvocationId) -> Bytes {
    with_id(table, id, 0).freeze()
}

/// Prefix of the rows of one partition key in a table whose keys begin with ids.
pub fn ids_of(table: Table, partition_key: PartitionKey) -> Bytes {
    let mut prefix = start(table, 8);
    prefix.put_u64(partition_key.0);
    prefix.freeze()
}

/// Prefix of an object's rows in [`Table::State`].
pub fn state_of(service: &str, object_key: &str) -> Bytes {
    with_object(Table::State, service, object_key, 0).freeze()
}

/// Key of [`Table::State`].
pub fn state(service: &str, object_key: &str, name: &[u8]) -> Bytes {
    let mut key = with_object(Table::State, service, object_key, name.len());
    key.put_slice(name);
    key.freeze()
}

/// Key of [`Table::Lock`].
pub fn lock(service: &str, object_key: &str) -> Bytes {
    with_object(Table::Lock, service, object_key, 0).freeze()
}

/// Prefix of an object's rows in [`Table::Inbox`].
pub fn inbox_of(service: &str, object_key: &str) -> Bytes {
    with_object(Table::Inbox, service, object_key, 0).freeze()
}

/// Key of [`Table::Inbox`].
pub fn inbox(service: &str, object_key: &str, lsn: Lsn, index: u32) -> Bytes {
    let mut key = with_object(Table::Inbox, service, object_key, 12);
    key.put_u64(lsn.0);
    key.put_u32(index);
    key.freeze()
}

/// Key of [`Table::Promise`].
pub fn promise(service: &str, workflow_key: &str, name: &str) -> Bytes {
    let mut key = with_object(Table::Promise, service, workflow_key, name.len());
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// Prefix of a workflow's rows in [`Table::Promise`].
pub fn promises_of(service: &str, workflow_key: &str) -> Bytes {
    with_object(Table::Promise, service, workflow_key, 0).freeze()
}

/// Key of [`Table::Timer`].
pub fn timer(timer: &TimerKey) -> Bytes {
    let mut key = start(Table::Timer, 8 + 1 + InvocationId::LENGTH + 4);
    key.put_u64(timer.due.0);
    key.put_u8(timer.kind as u8);
    key.put_slice(&timer.invocation.to_bytes());
    key.put_u32(timer.completion_id);
    key.freeze()
}

/// Reads a key of [`Table::Timer`].
pub fn parse_timer(key: &[u8]) -> Option<TimerKey> {
    let rest = key.strip_prefix(&[Table::Timer as u8])?;
    let (due, rest) = rest.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let (id, completion) = rest.split_at_checked(InvocationId::LENGTH)?;
    Some(TimerKey {
        due: Timestamp(u64::from_be_bytes(*due)),
        kind: match kind {
            0 => TimerKind::Sleep,
            1 => TimerKind::Start,
            _ => return None,
        },
        invocation: InvocationId::from_bytes(id)?,
        completion_id: u32::from_be_bytes(completion.try_into().ok()?),
    })
}

/// Key of [`Table::Outbox`].
pub fn outbox(to: PartitionId, lsn: Lsn, index: u32) -> Bytes {
    let mut key = start(Table::Outbox, 14);
    key.put_u16(to.0);
    key.put_u64(lsn.0);
    key.put_u32(index);
    key.freeze()
}

/// Reads a key of [`Table::Outbox`].
pub fn parse_outbox(key: &[u8]) -> Option<(PartitionId, Lsn, u32)> {
    let rest = key.strip_prefix(&[Table::Outbox as u8])?;
    let (to, rest) = rest.split_first_chunk::<2>()?;
    let (lsn, index) = rest.split_first_chunk::<8>()?;
    Some((
        PartitionId(u16::from_be_bytes(*to)),
        Lsn(u64::from_be_bytes(*lsn)),
        u32::from_be_bytes(index.try_into().ok()?),
    ))
}

/// Key of [`Table::Inbound`].
pub fn inbound(from: PartitionId) -> Bytes {
    let mut key = start(Table::Inbound, 2);
    key.put_u16(from.0);
    key.freeze()
}

/// Key of [`Table::Producer`].
pub fn producer(id: &[u8]) -> Bytes {
    let mut key = start(Table::Producer, id.len());
    key.put_slice(id);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_pinned_bytes() {
        let id = InvocationId::new(PartitionKey(1), [2; 16]);
        assert_eq!(
            journal(&id, 3)[..],
            [&[2, 0, 0, 0, 0, 0, 0, 0, 1][..], &[2; 16], &[0, 0, 0, 3]].concat()
        );
        assert_eq!(state("S", "k", b"n")[..], *b"\x04\0\0\0\x01k\0\0\0\x01Sn");
        let key = TimerKey {
            due: Timestamp(5),
            kind: TimerKind::Start,
            invocation: id,
            completion_id: 9,
        };
        assert_eq!(parse_timer(&timer(&key)), Some(key));
        assert_eq!(parse_journal(&journal(&id, 3)), Some((id, 3)));
        let object = ObjectKey {
            key: "k",
            service: "S",
            rest: b"n",
        };
        assert_eq!(parse_object(&state("S", "k", b"n")), Some(object));
        assert_eq!(
            ids_of(Table::Journal, PartitionKey(1))[..],
            journal(&id, 3)[..9]
        );
        let out = outbox(PartitionId(7), Lsn(8), 9);
        assert_eq!(parse_outbox(&out), Some((PartitionId(7), Lsn(8), 9)));
        assert_eq!(prefix_end(&[3, 255, 255])[..], [4]);
    }

    #[test]
    fn no_key_panics_the_parsers() {
        for length in 0..60 {
            let key = vec![Table::Timer as u8; length];
            let _ = (
                parse_timer(&key),
                parse_outbox(&key),
                parse_invocation(&key),
                parse_journal(&key),
                parse_object(&key),
            );
        }
    }
}
