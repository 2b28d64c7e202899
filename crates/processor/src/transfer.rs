//! Gives the state of partitions to replicas that have lost theirs.
//!
//! A transfer is a thread with a view of the partition, which answers calls for one piece after the other. The
//! partition's own task, which may lead, has no part in it. A transfer ends with its last piece, when nobody asks for a
//! while, or when the same node begins another one of the same partition. Start at [`Transfers::serve`]; what asks is
//! in [`crate::rebuild`].

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use abide_partition_store::{PartitionReader, View};
use abide_rpc::Reply;
use abide_rpc::proto::partition::{FetchState, StateAnswer, StatePiece, state_answer::Kind};
use abide_state_machine::StoreError;
use abide_types::{Lsn, NodeId, PartitionId};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message as _;

use crate::partition::chain_of;
use crate::wire::Malformed;

/// Transfers at a time: each keeps RocksDB from forgetting what is overwritten, and takes disk and network from the
/// requests.
const TRANSFERS_MAX: usize = 2;
/// A transfer that nobody asks to go on is ended.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bytes of one piece, about; a single row may be larger.
const PIECE_BYTES: usize = 1 << 20;
/// Behind the last key.
const END: &[u8] = &[u8::MAX; 64];

/// The transfers from this node.
pub(crate) struct Transfers {
    running: Mutex<Running>,
}

struct Running {
    next: u64,
    transfers: HashMap<u64, Transfer>,
}

struct Transfer {
    to: NodeId,
    partition: PartitionId,
    asks: SyncSender<Ask>,
}

struct Ask {
    after: Bytes,
    reply: Reply,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            running: Mutex::new(Running {
                // A peer that asks for a transfer from before this node's start must not meet another one.
                next: rand::random::<u64>() >> 1,
                transfers: HashMap::new(),
            }),
        }
    }
}

impl Transfers {
    /// Begins a transfer or goes on with one.
    pub(crate) fn serve(
        self: &Arc<Self>,
        to: NodeId,
        partition: PartitionId,
        reader: &PartitionReader,
        fetch: FetchState,
        reply: Reply,
    ) {
        let asks = match fetch.transfer {
            0 => self.begin(to, partition, reader, Lsn(fetch.first)),
            transfer => self.running(transfer, to, partition),
        };
        let ask = Ask {
            after: fetch.after,
            reply,
        };
        match asks {
            Ok(asks) => {
                if let Err(error) = asks.try_send(ask) {
                    use std::sync::mpsc::TrySendError::{Disconnected, Full};
                    let (Full(ask) | Disconnected(ask)) = error;
                    ask.reply.send(unavailable("the transfer has ended"));
                }
            }
            Err(reason) => ask.reply.send(unavailable(reason)),
        }
    }

    /// Ends all of them.
    pub(crate) fn end_all(&self) {
        self.running.lock().transfers.clear();
    }

    fn running(
        &self,
        transfer: u64,
        to: NodeId,
        partition: PartitionId,
    ) -> Result<SyncSender<Ask>, &'static str> {
        let running = self.running.lock();
        (running.transfers.get(&transfer))
            .filter(|transfer| (transfer.to, transfer.partition) == (to, partition))
            .map(|transfer| transfer.asks.clone())
            .ok_or("no such transfer")
    }

    fn begin(
        self: &Arc<Self>,
        to: NodeId,
        partition: PartitionId,
        reader: &PartitionReader,
        first: Lsn,
    ) -> Result<SyncSender<Ask>, &'static str> {
        let mut running = self.running.lock();
        // Who begins anew has given the one before up.
        (running.transfers)
            .retain(|_, transfer| (transfer.to, transfer.partition) != (to, partition));
        if TRANSFERS_MAX <= running.transfers.len() {
            return Err("as many transfers as are allowed are under way");
        }
        running.next += 1;
        let id = running.next;
        let (sender, asks) = sync_channel(1);
        let (transfers, reader) = (Arc::clone(self), reader.clone());
        let give = move || {
            give(&reader, id, first, &asks);
            transfers.running.lock().transfers.remove(&id);
        };
        (thread::Builder::new().name("transfer".to_owned()))
            .spawn(give)
            .map_err(|_| "no thread for a transfer")?;
        let asks = sender.clone();
        (running.transfers).insert(
            id,
            Transfer {
                to,
                partition,
                asks: sender,
            },
        );
        tracing::info!(%partition, %to, "gives the state of a partition to another replica");
        Ok(asks)
    }
}

/// Answers until the last piece is out or nobody asks any more.
fn give(reader: &PartitionReader, transfer: u64, first: Lsn, asks: &Receiver<Ask>) {
    let view = reader.view();
    while let Ok(ask) = asks.recv_timeout(IDLE_MAX) {
        let piece = match &view {
            Ok(view) if view.applied().next() < first => {
                let applied = view.applied();
                let reason = format!("applied up to {applied} only, and the log begins at {first}");
                return ask.reply.send(unavailable(reason));
            }
            Ok(view) => piece(view, transfer, &ask.after),
            Err(error) => return ask.reply.send(unavailable(chain_of(error))),
        };
        match piece {
            Ok(piece) => {
                let done = piece.done;
                ask.reply.send(answer(Kind::Piece(piece)));
                if done {
                    return;
                }
            }
            Err(error) => {
                let reason = chain_of(&error);
                tracing::error!(
                    reason,
                    "the state of a partition cannot be given to another replica"
                );
                return ask.reply.send(unavailable(reason));
            }
        }
    }
}

fn piece(view: &View<'_>, transfer: u64, after: &Bytes) -> Result<StatePiece, StoreError> {
    let mut from = after.to_vec();
    // The first key behind it.
    from.push(0);
    let mut rows = BytesMut::new();
    let mut done = true;
    view.scan(&from, END, &mut |key, value| {
        if PIECE_BYTES <= rows.len() {
            done = false;
            return ControlFlow::Break(());
        }
        put_row(&mut rows, key, value);
        ControlFlow::Continue(())
    })?;
    let mut piece = StatePiece {
        transfer,
        applied: view.applied().0,
        rows: rows.freeze(),
        done,
        checksum: 0,
        history: view.history().0,
    };
    piece.checksum = checksum(&piece);
    Ok(piece)
}

/// Keys and values are those of records, which are far below four GiB.
fn put_row(rows: &mut BytesMut, key: &[u8], value: &[u8]) {
    rows.put_u32(key.len() as u32);
    rows.put_u32(value.len() as u32);
    rows.put_slice(key);
    rows.put_slice(value);
}

fn checksum(piece: &StatePiece) -> u32 {
    let mut head = [0; 17];
    head[..8].copy_from_slice(&piece.transfer.to_be_bytes());
    head[8..16].copy_from_slice(&piece.applied.to_be_bytes());
    head[16] = piece.done.into();
    let mut sum = crc32c::crc32c(&head);
    if piece.history != 0 {
        sum = crc32c::crc32c_append(sum, &piece.history.to_be_bytes());
    }
    crc32c::crc32c_append(sum, &piece.rows)
}

/// The rows of a piece that comes after the key `after`.
pub(crate) fn rows_of(piece: &StatePiece, after: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    if piece.checksum != checksum(piece) {
        return Err(Malformed("piece of a state: its checksum is wrong"));
    }
    let mut rest = piece.rows.clone();
    let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
    while !rest.is_empty() {
        let row = take_row(&mut rest).ok_or(Malformed("row"))?;
        let last = rows.last().map_or(after, |(key, _)| key);
        if row.0.as_ref() <= last || row.0.first() == Some(&0) {
            return Err(Malformed("row: its key is out of order"));
        }
        rows.push(row);
    }
    if rows.is_empty() && !piece.done {
        return Err(Malformed("piece of a state: it is empty"));
    }
    Ok(rows)
}

fn take_row(rest: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let key = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    let value = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    if rest.len() < key.checked_add(value)? {
        return None;
    }
    Some((rest.split_to(key), rest.split_to(value)))
}

/// The answer of a replica that does not give its state.
pub(crate) fn unavailable(reason: impl Into<String>) -> Bytes {
    answer(Kind::Unavailable(reason.into()))
}

fn answer(kind: Kind) -> Bytes {
    StateAnswer { kind: Some(kind) }.encode_to_vec().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use abide_partition_store::{PartitionStore, PartitionStores, StoreOptions};

    const P: PartitionId = PartitionId(3);

    fn piece_of(rows: &[(&str, &str)], done: bool) -> StatePiece {
        let mut bytes = BytesMut::new();
        for (key, value) in rows {
            put_row(&mut bytes, key.as_bytes(), value.as_bytes());
        }
        let mut piece = StatePiece {
            transfer: 1,
            applied: 9,
            rows: bytes.freeze(),
            done,
            checksum: 0,
            history: 0,
        };
        piece.checksum = checksum(&piece);
        piece
    }

    fn store(dir: &std::path::Path) -> PartitionStore {
        let stores = PartitionStores::open(dir, StoreOptions::default()).unwrap();
        stores.partition(P).unwrap()
    }

    #[test]
    fn what_does_not_follow_or_was_changed_on_the_way_is_refused() {
        let good = piece_of(&[("b", "1"), ("c", "2")], false);
        assert_eq!(rows_of(&good, b"a").unwrap().len(), 2);
        assert!(rows_of(&good, b"b").is_err());
        let flipped = StatePiece {
            applied: 8,
            ..good.clone()
        };
        assert!(rows_of(&flipped, b"a").is_err());
        assert!(rows_of(&piece_of(&[("c", ""), ("b", "")], true), b"").is_err());
        assert!(rows_of(&piece_of(&[], false), b"").is_err());
        assert!(rows_of(&piece_of(&[], true), b"").unwrap().is_empty());
        assert!(rows_of(&piece_of(&[("\0", "own table")], true), b"").is_err());
        let mut short = good;
        short.rows.truncate(short.rows.len() - 1);
        short.checksum = checksum(&short);
        assert!(rows_of(&short, b"a").is_err());
    }

    #[test]
    fn pieces_carry_every_row_of_one_moment() {
        let dir = tempfile::tempdir().unwrap();
        let mut from = store(dir.path());
        for number in 0..3000_u32 {
            from.put(format!("k{number:05}").into_bytes(), vec![7; 1000]);
        }
        from.set_applied(Lsn(5));
        from.spill().unwrap();
        from.put(&b"k00007"[..], &b"new"[..]);
        from.delete(&b"k00008"[..]);
        from.set_applied(Lsn(6));
        let reader = from.reader();
        let view = reader.view().unwrap();
        // What comes later is not in it.
        from.put(&b"k00009"[..], &b"later"[..]);
        from.set_applied(Lsn(7));

        let dir = tempfile::tempdir().unwrap();
        let mut to = store(dir.path());
        to.clear().unwrap();
        let mut after = Bytes::new();
        let mut pieces = 0;
        loop {
            let piece = piece(&view, 1, &after).unwrap();
            assert_eq!(piece.applied, 6);
            let rows = rows_of(&piece, &after).unwrap();
            to.load(rows.iter().map(|(key, value)| (&key[..], &value[..])))
                .unwrap();
            pieces += 1;
            if piece.done {
                break;
            }
            after = rows.last().unwrap().0.clone();
        }
        to.finish_load(Lsn(6)).unwrap();
        assert_eq!(pieces, 3);
        assert_eq!(to.applied(), Lsn(6));
        assert_eq!(to.get(b"k00007").unwrap().unwrap(), &b"new"[..]);
        assert_eq!(to.get(b"k00008").unwrap(), None);
        assert_eq!(to.get(b"k00009").unwrap().unwrap(), vec![7; 1000]);
        let mut count = 0;
        to.scan(b"", END, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(count, 2999);
    }
}
