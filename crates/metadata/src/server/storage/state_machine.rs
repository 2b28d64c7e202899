//! Applies committed entries, and makes and takes snapshots.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use abide_rpc::proto::metadata as pb;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use prost::Message as _;
use rocksdb::WriteBatch;

use super::database::Database;
use super::keys::{Key, number_of};
use super::state::{Effects, SharedState, State};
use crate::server::codec::{
    log_id_to, optional_log_id_from, stored_membership_from, stored_membership_to,
};
use crate::server::types::{LogId, Outcome, RaftTypes, Snapshot, SnapshotMeta, StoredMembership};
use crate::txn::Versioned;

/// The state machine. Clones share the state.
#[derive(Clone)]
pub(crate) struct StateMachine {
    database: Arc<Database>,
    shared: Arc<SharedState>,
}

impl StateMachine {
    pub(crate) fn new(database: Arc<Database>, shared: Arc<SharedState>) -> Self {
        Self { database, shared }
    }

    /// Reads the state from disk.
    pub(crate) fn load(database: &Database) -> io::Result<State> {
        let applied: pb::AppliedRecord = database.message(Key::Applied)?.unwrap_or_default();
        let malformed = |error| database.corrupt(error);
        let (from, to) = Key::DOCUMENT_RANGE;
        let mut documents = BTreeMap::new();
        for (key, value) in database.scan(&from, &to, usize::MAX)? {
            let name = std::str::from_utf8(&key[1..])
                .map_err(|_| database.corrupt("a document's key is not text"))?;
            let (version, value) = value
                .split_first_chunk()
                .ok_or_else(|| database.corrupt(format_args!("document '{name}' is cut off")))?;
            let stored = Versioned {
                version: u64::from_be_bytes(*version),
                value: Bytes::copy_from_slice(value),
            };
            documents.insert(name.to_owned(), stored);
        }
        let (from, to) = Key::RECENT_RANGE;
        let recent = database
            .scan(&from, &to, usize::MAX)?
            .into_iter()
            .map(|(key, id)| {
                let version = number_of(&key)
                    .ok_or_else(|| database.corrupt("a transaction's version is cut off"))?;
                Ok((version, Bytes::from(id)))
            })
            .collect::<io::Result<Vec<_>>>()?;
        // What cannot be read now could not be sent to a follower later.
        stored_snapshot(database)?;
        Ok(State::restored(
            documents,
            recent,
            optional_log_id_from(applied.last.as_ref()).map_err(malformed)?,
            stored_membership_from(applied.membership.as_ref()).map_err(malformed)?,
            applied.last_delete,
        ))
    }
}

fn applied_record(state: &State) -> pb::AppliedRecord {
    pb::AppliedRecord {
        last: state.applied.as_ref().map(log_id_to),
        membership: Some(stored_membership_to(&state.membership)),
        last_delete: state.last_delete,
    }
}

fn document_value(stored: &Versioned) -> Vec<u8> {
    let mut value = stored.version.to_be_bytes().to_vec();
    value.extend_from_slice(&stored.value);
    value
}

/// Puts a state in the place of the one that is stored.
pub(crate) fn write_whole(batch: &mut WriteBatch, state: &State) {
    for (from, to) in [Key::DOCUMENT_RANGE, Key::RECENT_RANGE] {
        batch.delete_range(from.to_vec(), to.to_vec());
    }
    for (key, stored) in &state.documents {
        batch.put(Key::Document(key).bytes(), document_value(stored));
    }
    for (version, id) in state.recent() {
        batch.put(Key::Recent(*version).bytes(), id);
    }
    batch.put(Key::Applied.bytes(), applied_record(state).encode_to_vec());
}

fn write_effects(batch: &mut WriteBatch, effects: Effects) {
    for key in &effects.deletes {
        batch.delete(Key::Document(key).bytes());
    }
    for (key, stored) in &effects.puts {
        batch.put(Key::Document(key).bytes(), document_value(stored));
    }
    for version in effects.forgotten {
        batch.delete(Key::Recent(version).bytes());
    }
    if let Some((version, id)) = effects.remembered {
        batch.put(Key::Recent(version).bytes(), id);
    }
}

impl RaftStateMachine<RaftTypes> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self
            .shared
            .read(|state| (state.applied, state.membership.clone())))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<RaftTypes>, io::Error>> + Unpin + OptionalSend,
    {
        let mut committed = Vec::new();
        while let Some(entry) = entries.try_next().await? {
            committed.push(entry);
        }
        let mut batch = WriteBatch::default();
        let mut replies = Vec::new();
        // No entry of the batch is visible before all are: readers see the state between raft's batches only.
        self.shared.write(|state| {
            for (entry, responder) in committed {
                let mut effects = Effects::default();
                let outcome = match entry.payload {
                    EntryPayload::Blank => Outcome::Nothing,
                    EntryPayload::Normal(command) => {
                        state.apply(entry.log_id.index, &command.0, &mut effects)
                    }
                    EntryPayload::Membership(membership) => {
                        state.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Outcome::Nothing
                    }
                };
                state.applied = Some(entry.log_id);
                write_effects(&mut batch, effects);
                if let Some(responder) = responder {
                    replies.push((responder, outcome));
                }
            }
            batch.put(Key::Applied.bytes(), applied_record(state).encode_to_vec());
        });
        // Not synced: the log has the entries, and the one write-ahead log keeps the order.
        self.database.write(batch)?;
        for (responder, outcome) in replies {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        image: Bytes,
    ) -> Result<(), io::Error> {
        let parts = read_image(&image).map_err(|error| self.database.corrupt(error))?;
        let state = State::restored(
            parts.documents,
            parts.recent,
            meta.last_log_id,
            meta.last_membership.clone(),
            parts.last_delete,
        );
        let mut batch = WriteBatch::default();
        write_whole(&mut batch, &state);
        batch.put(
            Key::Snapshot.bytes(),
            snapshot_record(meta, image).encode_to_vec(),
        );
        self.database.write_durably(batch).await?;
        self.shared.write(|shared| *shared = state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        stored_snapshot(&self.database)
    }
}

impl RaftSnapshotBuilder<RaftTypes> for StateMachine {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (meta, image) = self.shared.read(|state| {
            let meta = SnapshotMeta {
                last_log_id: state.applied,
                last_membership: state.membership.clone(),
            };
            (meta, write_image(state))
        });
        self.database
            .put_durably(Key::Snapshot, &snapshot_record(&meta, image.clone()))
            .await?;
        Ok(Snapshot {
            meta,
            snapshot: image,
        })
    }
}

fn snapshot_record(meta: &SnapshotMeta, image: Bytes) -> pb::SnapshotRecord {
    pb::SnapshotRecord {
        last: meta.last_log_id.as_ref().map(log_id_to),
        membership: Some(stored_membership_to(&meta.last_membership)),
        image,
    }
}

fn stored_snapshot(database: &Database) -> io::Result<Option<Snapshot>> {
    let Some(record) = database.message::<pb::SnapshotRecord>(Key::Snapshot)? else {
        return Ok(None);
    };
    let malformed = |error| database.corrupt(error);
    check_image(&record.image).map_err(|error| database.corrupt(error))?;
    Ok(Some(Snapshot {
        meta: SnapshotMeta {
            last_log_id: optional_log_id_from(record.last.as_ref()).map_err(malformed)?,
            last_membership: stored_membership_from(record.membership.as_ref())
                .map_err(malformed)?,
        },
        snapshot: record.image,
    }))
}

fn write_image(state: &State) -> Bytes {
    let image = pb::SnapshotImage {
        documents: state
            .documents
            .iter()
            .map(|(key, stored)| pb::Document {
                key: key.clone(),
                version: stored.version,
                value: stored.value.clone(),
            })
            .collect(),
        recent: state
            .recent()
            .map(|(version, id)| pb::RecentTransaction {
                id: id.clone(),
                version: *version,
            })
            .collect(),
        last_delete: state.last_delete,
    };
    Bytes::from(image.encode_to_vec())
}

struct ImageParts {
    documents: BTreeMap<String, Versioned>,
    recent: Vec<(u64, Bytes)>,
    last_delete: u64,
}

fn read_image(image: &Bytes) -> Result<ImageParts, prost::DecodeError> {
    let image = pb::SnapshotImage::decode(image.clone())?;
    Ok(ImageParts {
        documents: image
            .documents
            .into_iter()
            .map(|document| {
                let stored = Versioned {
                    version: document.version,
                    value: document.value,
                };
                (document.key, stored)
            })
            .collect(),
        recent: image
            .recent
            .into_iter()
            .map(|recent| (recent.version, recent.id))
            .collect(),
        last_delete: image.last_delete,
    })
}

/// Whether a snapshot that a peer sent can be installed.
pub(crate) fn check_image(image: &Bytes) -> Result<(), prost::DecodeError> {
    read_image(image).map(|_| ())
}
