//! The gRPC services of a server.

use std::pin::Pin;
use std::sync::Arc;

use abide_rpc::proto::metadata as pb;
use abide_types::{Generation, NodeId, ReplicationWish};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::codec::{
    Malformed, entry_from, log_id_to, optional_log_id_from, stored_membership_from, vote_from,
    vote_to,
};
use super::core::Core;
use super::storage::check_image;
use super::types::{Raft, RaftTypes, Snapshot, SnapshotMeta};
use super::{ServerState, ServerStatus};
use crate::documents::keys;
use crate::errors::ProvisionError;
use crate::options::ProvisionSettings;
use crate::transport::{Fingerprint, check_fingerprint, check_target};
use crate::view::Change;

/// Changes that wait for a slow watcher; what comes later is coalesced.
const WATCH_QUEUE: usize = 2;

/// Answers calls to one server.
#[derive(Clone)]
pub(crate) struct Service {
    core: Arc<Core>,
}

/// The services of a server.
pub(crate) fn routes(core: Arc<Core>) -> Routes {
    let bytes_max = core.options.message_bytes_max;
    let service = Arc::new(Service { core });
    let raft = pb::raft_server::RaftServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max);
    let metadata = pb::metadata_server::MetadataServer::from_arc(service)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max);
    Routes::new(raft).add_service(metadata)
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft does not answer: {error}"))
}

#[allow(
    clippy::result_large_err,
    reason = "tonic's handlers answer with a Status"
)]
impl Service {
    fn check<T>(&self, request: &Request<T>, fingerprint: Fingerprint) -> Result<(), Status> {
        check_fingerprint(request, self.core.fingerprint(), fingerprint)
    }

    /// Raft, for a call that is meant for this cluster.
    fn raft<T>(&self, request: &Request<T>) -> Result<Raft, Status> {
        self.check(request, Fingerprint::Required)?;
        check_target(request, self.core.node())?;
        self.core
            .raft()
            .ok_or_else(|| Status::unavailable("raft does not run here"))
    }
}

fn vote_request_from(request: &pb::VoteRequest) -> Result<VoteRequest<RaftTypes>, Malformed> {
    let mut message = VoteRequest::new(
        vote_from(request.vote.as_ref())?,
        optional_log_id_from(request.last.as_ref())?,
    );
    message.leadership_transfer = request.leadership_transfer;
    Ok(message)
}

fn vote_reply_to(reply: &VoteResponse<RaftTypes>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id_to),
    }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for Service {
    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        use pb::append_reply::{Done, Mismatch, Outcome, Partial};
        let raft = self.raft(&request)?;
        let request = request.into_inner();
        let message = AppendEntriesRequest {
            vote: vote_from(request.vote.as_ref()).map_err(malformed)?,
            prev_log_id: optional_log_id_from(request.previous.as_ref()).map_err(malformed)?,
            entries: request
                .entries
                .into_iter()
                .map(entry_from)
                .collect::<Result<_, _>>()
                .map_err(malformed)?,
            leader_commit: optional_log_id_from(request.committed.as_ref()).map_err(malformed)?,
        };
        let outcome = match raft.append_entries(message).await.map_err(stopped)? {
            AppendEntriesResponse::Success => Outcome::Done(Done {}),
            AppendEntriesResponse::PartialSuccess(up_to) => Outcome::Partial(Partial {
                up_to: up_to.as_ref().map(log_id_to),
            }),
            AppendEntriesResponse::Conflict => Outcome::Mismatch(Mismatch {}),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote_to(&vote)),
        };
        Ok(Response::new(pb::AppendReply {
            outcome: Some(outcome),
        }))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let raft = self.raft(&request)?;
        let message = vote_request_from(request.get_ref()).map_err(malformed)?;
        let reply = raft.vote(message).await.map_err(stopped)?;
        Ok(Response::new(vote_reply_to(&reply)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let raft = self.raft(&request)?;
        let message = vote_request_from(request.get_ref()).map_err(malformed)?;
        let reply = raft.pre_vote(message).await.map_err(stopped)?;
        Ok(Response::new(vote_reply_to(&reply)))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, Status> {
        let raft = self.raft(&request)?;
        let request = request.into_inner();
        let message = TransferLeaderRequest::new(
            vote_from(request.from.as_ref()).map_err(malformed)?,
            request.to,
            optional_log_id_from(request.last.as_ref()).map_err(malformed)?,
        );
        let reply = raft
            .handle_transfer_leader(message)
            .await
            .map_err(stopped)?;
        Ok(Response::new(pb::TransferReply {
            refused: reply
                .err()
                .map_or_else(String::new, |error| error.to_string()),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let raft = self.raft(&request)?;
        let (header, image) =
            receive_snapshot(request.into_inner(), self.core.options.message_bytes_max).await?;
        check_image(&image).map_err(|error| {
            Status::invalid_argument(format!("the snapshot does not decode: {error}"))
        })?;
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: optional_log_id_from(header.last.as_ref()).map_err(malformed)?,
                last_membership: stored_membership_from(header.membership.as_ref())
                    .map_err(malformed)?,
            },
            snapshot: image,
        };
        let vote = vote_from(header.vote.as_ref()).map_err(malformed)?;
        let reply = raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new(pb::SnapshotReply {
            vote: Some(vote_to(&reply.vote)),
        }))
    }
}

async fn receive_snapshot(
    mut parts: Streaming<pb::SnapshotPart>,
    bytes_max: usize,
) -> Result<(pb::SnapshotHeader, Bytes), Status> {
    let first = parts
        .message()
        .await?
        .ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
    let header = first
        .header
        .ok_or_else(|| Status::invalid_argument("a snapshot stream without its header"))?;
    let length = usize::try_from(header.length)
        .ok()
        .filter(|length| *length <= bytes_max)
        .ok_or_else(|| {
            Status::resource_exhausted(format!(
                "a snapshot of {} bytes, more than {bytes_max}",
                header.length
            ))
        })?;
    let mut image = BytesMut::from(first.data.as_ref());
    while let Some(part) = parts.message().await? {
        image.extend_from_slice(&part.data);
        if image.len() > length {
            break;
        }
    }
    if image.len() != length {
        return Err(Status::data_loss(format!(
            "a snapshot of {} bytes was announced with {length}",
            image.len()
        )));
    }
    Ok((header, image.freeze()))
}

#[tonic::async_trait]
impl pb::metadata_server::Metadata for Service {
    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyReply>, Status> {
        self.check(&request, Fingerprint::Optional)?;
        let core = &self.core;
        if let Some(from) = &request.get_ref().from {
            // What it says changes where raft sends to: only members may.
            self.check(&request, Fingerprint::Required)?;
            core.addresses.learn(
                NodeId(from.node),
                Generation(from.generation),
                &from.address,
            );
        }
        let identity = core.identity();
        Ok(Response::new(pb::IdentifyReply {
            name: core.description.name.clone(),
            node: identity.node,
            fingerprint: identity.fingerprint,
            servers: core
                .addresses
                .all()
                .into_iter()
                .map(|(node, generation, address)| pb::ServerAddress {
                    node: node.0,
                    generation: generation.0,
                    address,
                })
                .collect(),
            leader: core.leader.borrow().map_or(0, |node| node.0),
            former: identity.former,
            member_removed: core.is_removed(NodeId(request.get_ref().member)),
        }))
    }

    async fn provision(
        &self,
        request: Request<pb::ProvisionRequest>,
    ) -> Result<Response<pb::ProvisionReply>, Status> {
        use pb::provision_reply::Outcome;
        self.check(&request, Fingerprint::Optional)?;
        let mut spec = request.into_inner().spec.unwrap_or_default();
        let documents = std::mem::take(&mut spec.documents);
        let settings = check_documents(&documents).and_then(|()| settings_from(&self.core, &spec));
        let outcome = match settings {
            Err(detail) => Outcome::Invalid(detail),
            Ok(settings) => {
                // In a task of its own: a caller that goes away must not leave it half done.
                let core = Arc::clone(&self.core);
                let provisioned =
                    tokio::spawn(async move { core.provision(settings, documents).await });
                match provisioned.await.map_err(stopped)? {
                    Ok(fingerprint) => Outcome::Provisioned(fingerprint),
                    Err(ProvisionError::AlreadyProvisioned { fingerprint }) => {
                        Outcome::AlreadyProvisioned(fingerprint)
                    }
                    Err(ProvisionError::Invalid(detail)) => Outcome::Invalid(detail),
                    Err(error) => return Err(Status::unavailable(error.to_string())),
                }
            }
        };
        Ok(Response::new(pb::ProvisionReply {
            outcome: Some(outcome),
        }))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, Status> {
        self.check(&request, Fingerprint::Optional)?;
        Ok(Response::new(self.core.register(request.get_ref()).await))
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<pb::ReadReply>, Status> {
        self.check(&request, Fingerprint::Required)?;
        Ok(Response::new(self.core.read(&request.get_ref().key).await))
    }

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitReply>, Status> {
        self.check(&request, Fingerprint::Required)?;
        let transaction = request
            .into_inner()
            .transaction
            .ok_or_else(|| Status::invalid_argument("a commit without its transaction"))?;
        Ok(Response::new(self.core.commit(transaction).await))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchReply, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.raft(&request)?;
        let (queue, changes) = mpsc::channel(WATCH_QUEUE);
        let core = Arc::clone(&self.core);
        let from = request.get_ref().from_version;
        self.core.spawn(async move {
            feed(&core, from, &queue).await;
        });
        let stream = ReceiverStream::new(changes).map(|change| Ok(reply_of(change)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        self.check(&request, Fingerprint::Optional)?;
        Ok(Response::new(status_to(&self.core.status())))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveRequest>,
    ) -> Result<Response<pb::RemoveReply>, Status> {
        self.check(&request, Fingerprint::Required)?;
        let node = NodeId(request.get_ref().node);
        Ok(Response::new(self.core.remove(node).await))
    }
}

/// Sends changes to one watcher until it goes away.
async fn feed(core: &Core, from: u64, queue: &mpsc::Sender<Change>) {
    let mut version = from;
    let mut applied = core.shared.applied();
    loop {
        applied.borrow_and_update();
        if let Some(change) = core.shared.read(|state| state.changes_since(version)) {
            version = change.version;
            if queue.send(change).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = queue.closed() => return,
            ended = applied.changed() => if ended.is_err() { return },
        }
    }
}

fn reply_of(change: Change) -> pb::WatchReply {
    pb::WatchReply {
        version: change.version,
        full: change.full,
        documents: change
            .documents
            .into_iter()
            .map(|(key, stored)| pb::Document {
                key,
                version: stored.version,
                value: stored.value,
            })
            .collect(),
        deleted: change.deleted,
    }
}

/// What a cluster may begin with: not what provisioning and the cluster itself write.
fn check_documents(documents: &[pb::FirstDocument]) -> Result<(), String> {
    let own = |key: &str| {
        [keys::CLUSTER, keys::NODES, keys::PARTITION_TABLE].contains(&key)
            || key.starts_with("log/")
    };
    match documents.iter().find(|document| own(&document.key)) {
        Some(document) => Err(format!(
            "a cluster does not begin with a document '{}'",
            document.key
        )),
        None => Ok(()),
    }
}

/// The settings to provision with: what the caller says, and this server's own for the rest.
fn settings_from(core: &Core, spec: &pb::ProvisionSpec) -> Result<ProvisionSettings, String> {
    let own = core
        .options
        .auto_provision
        .unwrap_or(core.options.provision_defaults);
    let name = &core.description.cluster_name;
    if !spec.cluster_name.is_empty() && spec.cluster_name != *name {
        return Err(format!(
            "this node is configured for the cluster '{name}', not '{}'",
            spec.cluster_name
        ));
    }
    let small = |what: &str, number: u32| {
        u8::try_from(number).map_err(|_| format!("{number} {what}; at most 255"))
    };
    let settings = ProvisionSettings {
        partitions: match spec.partitions {
            0 => own.partitions,
            partitions => u16::try_from(partitions)
                .map_err(|_| format!("{partitions} partitions; at most {}", u16::MAX))?,
        },
        replication: match spec {
            pb::ProvisionSpec {
                replicas: 0,
                write_quorum: 0,
                ..
            } => own.replication,
            spec => ReplicationWish {
                replicas: small("replicas", spec.replicas)?,
                write_quorum: small("copies as write quorum", spec.write_quorum)?,
                zones: small("zones", spec.zones)?,
                regions: small("regions", spec.regions)?,
            },
        },
    };
    settings.validate().map(|()| settings)
}

fn status_to(status: &ServerStatus) -> pb::StatusReply {
    use pb::status_reply::State;
    let state = match status.state {
        ServerState::Unprovisioned => State::Unprovisioned,
        ServerState::Learner => State::Learner,
        ServerState::Follower => State::Follower,
        ServerState::Candidate => State::Candidate,
        ServerState::Leader => State::Leader,
        ServerState::Stopped => State::Stopped,
    };
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    pb::StatusReply {
        name: status.name.clone(),
        node: status.node.map_or(0, |node| node.0),
        state: state.into(),
        term: status.term,
        leader: status.leader.map_or(0, |node| node.0),
        last_log: status.last_log,
        applied: status.applied,
        snapshot: status.snapshot,
        purged: status.purged,
        voters: ids(&status.voters),
        learners: ids(&status.learners),
        changing: status.changing,
    }
}

/// The status that a server sent.
pub(crate) fn status_from(reply: &pb::StatusReply) -> ServerStatus {
    use pb::status_reply::State;
    let node = |id: u32| (id != 0).then_some(NodeId(id));
    ServerStatus {
        name: reply.name.clone(),
        node: node(reply.node),
        state: match reply.state() {
            State::Unprovisioned => ServerState::Unprovisioned,
            State::Learner => ServerState::Learner,
            State::Follower => ServerState::Follower,
            State::Candidate => ServerState::Candidate,
            State::Leader => ServerState::Leader,
            State::Stopped => ServerState::Stopped,
        },
        term: reply.term,
        leader: node(reply.leader),
        last_log: reply.last_log,
        applied: reply.applied,
        snapshot: reply.snapshot,
        purged: reply.purged,
        voters: reply.voters.iter().copied().map(NodeId).collect(),
        learners: reply.learners.iter().copied().map(NodeId).collect(),
        changing: reply.changing,
    }
}
