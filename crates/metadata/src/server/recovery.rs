//! Going on with what one server holds, after most voters were lost.
//!
//! Raft has no way to do that, and should have none. An operator's order is noted durably in the directory of the
//! server that is to go on ([`order`]), and its next start carries it out before raft runs ([`carry_out`]): in one
//! write all that is in the log becomes the state, and behind it two entries of a higher term, a membership with this
//! server as its only voter and the documents' part of it; the log itself is purged. Raft then finds itself the leader
//! of one, with a snapshot. Servers that join get that and never the log of before: somewhere in it one of them was the
//! only voter, and would elect itself on its way through.
//!
//! From then on the cluster has another fingerprint, so that every call between what goes on and what was left behind
//! is refused, as it is between two clusters: old voters that come back cannot form a rival quorum with anybody who
//! went on. The server remembers the former fingerprints; who finds its own among them puts its directory aside and
//! joins anew ([`superseded_by`]). Such a server gets its old id back, which raft forbids otherwise: it has forgotten
//! nothing that counts, since no vote and no entry of before counts any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_types::{NodeId, Role};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EmptyNode, EntryPayload};
use prost::Message as _;
use rand::Rng as _;
use rocksdb::WriteBatch;

use super::addresses::AddressBook;
use super::announce::identify_at;
use super::codec::{log_id_from, log_id_to, vote_to};
use super::core::Core;
use super::members::to_node;
use super::storage::{Database, Effects, IDENTITY, Key, LogStore, State, write_whole};
use super::types::{LogId, Membership, StoredMembership, Vote};
use crate::documents::{ClusterDocument, Document as _, Nodes};
use crate::errors::{RecoveryError, StartError};
use crate::options::{MetadataOptions, NodeDescription};
use crate::transport::{Channels, host_and_port};

/// How long a start waits for others to say that they went on without this server. Who is gone refuses the connection
/// at once; this is for who is silent, or starts at the same time and waits as well. A later answer is heard by
/// [`super::announce`].
const OTHERS_ASKED_WITHIN: Duration = Duration::from_millis(150);

/// A place in the log: the leader's term and node, and the index. Higher ones hold more of what was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// The entry's index.
    pub index: u64,
}

impl LogPosition {
    fn of(id: LogId) -> Self {
        Self {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
            index: id.index,
        }
    }
}

/// What the directory of one server holds, whether or not there is a majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// Name of the node.
    pub name: String,
    /// The node, once it is a member.
    pub node: Option<NodeId>,
    /// The cluster; 0 before it is a member.
    pub fingerprint: u64,
    /// What the fingerprint was before earlier recoveries.
    pub former: Vec<u64>,
    /// The term that it voted in.
    pub term: u64,
    /// Its last log entry.
    pub last: LogPosition,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that its documents show.
    pub applied: u64,
    /// Who votes as far as it knows.
    pub voters: Vec<NodeId>,
    /// How many of them it takes; of the larger set while a change is under way.
    pub quorum: usize,
    /// Its documents and their versions.
    pub documents: Vec<(String, u64)>,
    /// Where it believes the other servers to be.
    pub servers: Vec<(NodeId, String)>,
}

/// What this server holds.
pub(crate) fn holdings(core: &Core) -> io::Result<Holdings> {
    let log = LogStore::new(Arc::clone(&core.database));
    let identity = core.identity();
    let last: LogPosition = log.last()?.map(LogPosition::of).unwrap_or_default();
    let committed = log.committed()?.map_or(0, |id| id.index);
    let (applied, mut membership, documents) = core.shared.read(|state| {
        let documents = state.documents.iter();
        (
            state.applied_index(),
            state.membership.membership().clone(),
            documents
                .map(|(key, stored)| (key.clone(), stored.version))
                .collect(),
        )
    });
    // A membership counts from the moment at which it is in the log.
    for entry in log.entries(applied + 1, u64::MAX)? {
        if let EntryPayload::Membership(newer) = entry.payload {
            membership = newer;
        }
    }
    let sets = membership.get_joint_config();
    let voters: BTreeSet<NodeId> = membership.voter_ids().map(to_node).collect();
    Ok(Holdings {
        name: core.description.name.clone(),
        node: core.node(),
        fingerprint: identity.fingerprint,
        former: identity.former,
        term: log.stored_vote()?.map_or(0, |vote| vote.leader_id.term),
        last,
        committed,
        applied,
        quorum: sets.iter().map(|set| set.len() / 2 + 1).max().unwrap_or(0),
        voters: voters.into_iter().collect(),
        documents,
        servers: core
            .addresses
            .all()
            .into_iter()
            .map(|(node, _, address)| (node, address))
            .collect(),
    })
}

/// Orders this server to be the only voter from its next start on; returns the cluster's next fingerprint. `last` is
/// what the operator was shown: with another log the order is refused, now or when it is to be carried out.
pub(crate) async fn order(core: &Core, last: LogPosition) -> Result<u64, RecoveryError> {
    let storage = |error: io::Error| RecoveryError::Storage(error.to_string());
    let mut identity = core.identity();
    if identity.node == 0 {
        return Err(RecoveryError::NoMember);
    }
    let log = LogStore::new(Arc::clone(&core.database));
    let held = log.last().map_err(storage)?;
    let position: LogPosition = held.map(LogPosition::of).unwrap_or_default();
    if position != last {
        return Err(RecoveryError::Moved {
            expected: last.index,
            actual: position.index,
        });
    }
    let fingerprint = rand::rng().random_range(1..=u64::MAX);
    identity.recovery = Some(pb::RecoveryOrder {
        last: held.as_ref().map(log_id_to),
        fingerprint,
    });
    core.become_member(identity)
        .await
        .map_err(|error| RecoveryError::Storage(error.to_string()))?;
    Ok(fingerprint)
}

/// Carries out what was ordered, in one write. Returns who the directory is from now on.
pub(crate) async fn carry_out(
    database: &Database,
    log: &LogStore,
    state: &State,
    mut identity: pb::IdentityRecord,
    order: pb::RecoveryOrder,
) -> io::Result<pb::IdentityRecord> {
    let ordered = (order.last.as_ref())
        .map(log_id_from)
        .transpose()
        .map_err(|error| database.corrupt(error))?;
    let last = log.last()?;
    if last != ordered {
        // A majority came back before this start: what it decided stands.
        tracing::error!(
            ?ordered,
            ?last,
            "the log went on after the recovery was ordered: it is not carried out"
        );
        database.put_durably(IDENTITY, &identity).await?;
        return Ok(identity);
    }
    let own = u64::from(identity.node);
    let leader = LeaderId {
        term: 1
            + (log.stored_vote()?)
                .map_or(0, |vote| vote.leader_id.term)
                .max(last.map_or(0, |last| last.leader_id.term)),
        node_id: own,
    };
    let next = last.map_or(0, |last| last.index + 1);
    let membership = Membership::new(
        vec![BTreeSet::from([own])],
        BTreeMap::from([(own, EmptyNode {})]),
    )
    .map_err(|error| database.corrupt(error))?;
    let documents = as_of_the_end(log, state, next)?;
    let transaction = changed_documents(&documents, identity.node, order.fingerprint)
        .map_err(|detail| database.corrupt(detail))?;
    let (joined, end) = (LogId::new(leader, next), LogId::new(leader, next + 1));
    let mut state = documents;
    state.membership = StoredMembership::new(Some(joined), membership);
    state.apply(end.index, &transaction, &mut Effects::default());
    state.applied = Some(end);
    let mut batch = WriteBatch::default();
    write_whole(&mut batch, &state);
    batch.delete_range(Key::ENTRY_RANGE.0.to_vec(), Key::ENTRY_RANGE.1.to_vec());
    // Raft makes a new one where entries are purged and there is none.
    batch.delete(Key::Snapshot.bytes());
    for key in [Key::Purged, Key::Committed] {
        batch.put(key.bytes(), log_id_to(&end).encode_to_vec());
    }
    let vote = Vote {
        leader_id: leader,
        committed: true,
    };
    batch.put(Key::Vote.bytes(), vote_to(&vote).encode_to_vec());
    identity.former.push(identity.fingerprint);
    identity.fingerprint = order.fingerprint;
    batch.put(IDENTITY.bytes(), identity.encode_to_vec());
    database.write_durably(batch).await?;
    tracing::warn!(
        node = identity.node,
        last = next.saturating_sub(1),
        fingerprint = format!("{:016x}", identity.fingerprint),
        "the cluster goes on with the metadata of this server alone"
    );
    Ok(identity)
}

/// The documents once every entry of the log is applied: all of them are going to be.
fn as_of_the_end(log: &LogStore, state: &State, next: u64) -> io::Result<State> {
    let mut state = state.clone();
    for entry in log.entries(state.applied_index() + 1, next)? {
        if let EntryPayload::Normal(command) = entry.payload {
            state.apply(entry.log_id.index, &command.0, &mut Effects::default());
        }
    }
    Ok(state)
}

/// The cluster's new fingerprint, and room for the servers that are left behind to come back with other directories.
/// What this version does not know of the documents stays in them.
fn changed_documents(
    state: &State,
    survivor: u32,
    fingerprint: u64,
) -> Result<pb::Transaction, String> {
    let read = |key: &str| -> Result<serde_json::Value, String> {
        let stored = state.documents.get(key);
        let stored = stored.ok_or_else(|| format!("there is no document '{key}'"))?;
        serde_json::from_slice(&stored.value).map_err(|error| format!("document '{key}': {error}"))
    };
    let mut cluster = read(ClusterDocument::KEY)?;
    cluster["fingerprint"] = format!("{fingerprint:016x}").into();
    let mut nodes = read(Nodes::KEY)?;
    let role = Role::MetadataServer.to_string();
    let entries = nodes["nodes"].as_object_mut().into_iter().flatten();
    for (id, entry) in entries {
        let serves = entry["roles"]
            .as_array()
            .is_some_and(|roles| roles.iter().any(|found| *found == role));
        if serves && *id != survivor.to_string() {
            entry["directory"] = format!("{:016x}", 0).into();
        }
    }
    let put = |key: &str, value: serde_json::Value| pb::Put {
        key: key.to_owned(),
        value: value.to_string().into_bytes().into(),
    };
    let id: [u8; 16] = rand::rng().random();
    Ok(pb::Transaction {
        id: id.to_vec().into(),
        preconditions: Vec::new(),
        puts: vec![put(ClusterDocument::KEY, cluster), put(Nodes::KEY, nodes)],
        deletes: Vec::new(),
    })
}

/// Whether a reply comes from a cluster that went on without who has `fingerprint`.
pub(crate) fn went_on(reply: &pb::IdentifyReply, fingerprint: u64) -> bool {
    fingerprint != 0 && reply.former.contains(&fingerprint)
}

/// Puts the directory aside if its cluster went on without it, as another server says; then it is to be opened anew,
/// and is empty.
///
/// Asked before raft starts: two servers that were given up and come back together could elect each other.
pub(crate) async fn put_aside_if_superseded(
    database: &Database,
    fingerprint: u64,
    addresses: &AddressBook,
    node: &NodeDescription,
    options: &MetadataOptions,
) -> Result<bool, StartError> {
    if fingerprint == 0 {
        return Ok(false);
    }
    let channels = Channels::new(options);
    let own = host_and_port(&node.address);
    let known = addresses.all();
    let known = known.iter().map(|(_, _, address)| address.as_str());
    let asked: BTreeSet<&str> = (options.addresses.iter())
        .map(|address| host_and_port(address))
        .chain(known)
        .filter(|address| *address != own)
        .collect();
    let asked = asked.into_iter().map(|address| {
        let identified = identify_at(
            &channels,
            address,
            0,
            pb::IdentifyRequest::default(),
            OTHERS_ASKED_WITHIN,
        );
        tokio::time::timeout(OTHERS_ASKED_WITHIN, identified)
    });
    let replies = futures::future::join_all(asked).await;
    let newer = replies
        .into_iter()
        .filter_map(|reply| reply.ok()?.ok())
        .find(|reply| went_on(reply, fingerprint));
    let Some(newer) = newer else {
        return Ok(false);
    };
    let directory = database.directory();
    let aside = aside_of(directory, fingerprint);
    database.close();
    std::fs::rename(directory, &aside).map_err(|error| StartError::Corrupt {
        directory: directory.to_owned(),
        detail: format!(
            "the cluster went on without it, and it cannot be moved to {}: {error}",
            aside.display()
        ),
    })?;
    tracing::warn!(
        cluster = format!("{:016x}", newer.fingerprint),
        aside = %aside.display(),
        "the cluster was recovered without this server's metadata; its files are put aside"
    );
    Ok(true)
}

fn aside_of(directory: &Path, fingerprint: u64) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".superseded-{fingerprint:016x}"));
    let mut aside = directory.with_file_name(&name);
    let mut count = 1;
    while aside.exists() {
        count += 1;
        let mut other = name.clone();
        other.push(format!("-{count}"));
        aside = directory.with_file_name(other);
    }
    aside
}

/// What to say when it turns out at run time that the cluster went on.
pub(crate) fn superseded_by(reply: &pb::IdentifyReply) -> String {
    format!(
        "the cluster was recovered without this node and has the fingerprint {:016x} now; \
         a start joins it anew",
        reply.fingerprint
    )
}
