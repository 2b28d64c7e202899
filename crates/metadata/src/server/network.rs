//! How raft reaches its peers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_types::NodeId;
use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tonic::Status;

use super::addresses::AddressBook;
use super::codec::{
    Malformed, entry_to, log_id_to, optional_log_id_from, stored_membership_to, vote_from, vote_to,
};
use super::types::{RaftTypes, Snapshot, Vote};
use crate::transport::{Channels, meant_for, request};

type RpcError = RPCError<RaftTypes>;

/// Bytes of a snapshot in one message.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;

/// Makes clients for peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) addresses: Arc<AddressBook>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) fingerprint: u64,
    /// How long an append with entries may take: raft's own limit is a heartbeat, and a disk may need longer
    /// for a sync. Sending the same entries again would not make it faster.
    pub(crate) append_timeout: Duration,
}

impl RaftNetworkFactory<RaftTypes> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> PeerClient {
        PeerClient {
            // Ids are given out as 32 bits; another one is not in any address book.
            target: NodeId(u32::try_from(target).unwrap_or(u32::MAX)),
            network: self.clone(),
        }
    }
}

/// Calls one peer.
pub(crate) struct PeerClient {
    target: NodeId,
    network: Network,
}

impl PeerClient {
    fn address(&self) -> Result<String, RpcError> {
        self.network
            .addresses
            .get(self.target)
            .ok_or_else(|| unreachable_peer(format!("the address of {} is not known", self.target)))
    }

    /// Calls the peer; an error drops the connection unless it is the peer's answer.
    async fn call<Q, R, F, Fut>(
        &self,
        message: Q,
        timeout: Duration,
        call: F,
    ) -> Result<R, RpcError>
    where
        F: FnOnce(pb::raft_client::RaftClient<tonic::transport::Channel>, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let address = self.address()?;
        let answer = tokio::time::timeout(timeout, async {
            let client = self
                .network
                .channels
                .raft(&address)
                .await
                .map_err(unreachable_peer)?;
            let request = request(message, self.network.fingerprint, timeout);
            call(client, meant_for(request, self.target))
                .await
                .map_err(|status| {
                    self.network.channels.forget_if_broken(&address, &status);
                    unreachable_peer(format!(
                        "{} at {address}: {}: {}",
                        self.target,
                        status.code(),
                        status.message()
                    ))
                })
        })
        .await;
        match answer {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(RPCError::Network(NetworkError::from_string(format!(
                "{} at {address} did not answer within {timeout:?}",
                self.target
            )))),
        }
    }
}

fn unreachable_peer(detail: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(detail))
}

fn malformed(error: Malformed) -> RpcError {
    unreachable_peer(error)
}

pub(crate) fn vote_request_to(rpc: &VoteRequest<RaftTypes>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(log_id_to),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn vote_reply_from(reply: &pb::VoteReply) -> Result<VoteResponse<RaftTypes>, RpcError> {
    Ok(VoteResponse::new(
        vote_from(reply.vote.as_ref()).map_err(malformed)?,
        optional_log_id_from(reply.last.as_ref()).map_err(malformed)?,
        reply.granted,
    ))
}

impl RaftNetworkV2<RaftTypes> for PeerClient {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftTypes>, RpcError> {
        use pb::append_reply::Outcome;
        let timeout = if rpc.entries.is_empty() {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(self.network.append_timeout)
        };
        let message = pb::AppendRequest {
            vote: Some(vote_to(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(log_id_to),
            entries: rpc.entries.iter().map(entry_to).collect(),
            committed: rpc.leader_commit.as_ref().map(log_id_to),
        };
        let reply: pb::AppendReply = self
            .call(message, timeout, |mut client, request| async move {
                client.append(request).await
            })
            .await?;
        Ok(match reply.outcome {
            Some(Outcome::Done(_)) => AppendEntriesResponse::Success,
            Some(Outcome::Partial(partial)) => AppendEntriesResponse::PartialSuccess(
                optional_log_id_from(partial.up_to.as_ref()).map_err(malformed)?,
            ),
            Some(Outcome::Mismatch(_)) if rpc.prev_log_id.is_some() => {
                AppendEntriesResponse::Conflict
            }
            Some(Outcome::HigherVote(vote)) => {
                AppendEntriesResponse::HigherVote(vote_from(Some(&vote)).map_err(malformed)?)
            }
            Some(Outcome::Mismatch(_)) | None => {
                return Err(malformed(Malformed("reply to an append")));
            }
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RpcError> {
        let reply = self
            .call(
                vote_request_to(&rpc),
                option.hard_ttl(),
                |mut client, request| async move { client.vote(request).await },
            )
            .await?;
        vote_reply_from(&reply)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftTypes>, RpcError> {
        let reply = self
            .call(
                vote_request_to(&rpc),
                option.hard_ttl(),
                |mut client, request| async move { client.pre_vote(request).await },
            )
            .await?;
        vote_reply_from(&reply)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        let header = pb::SnapshotHeader {
            vote: Some(vote_to(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(log_id_to),
            membership: Some(stored_membership_to(&snapshot.meta.last_membership)),
            length: snapshot.snapshot.len() as u64,
        };
        let image = snapshot.snapshot;
        let parts = (0..image.len().max(1))
            .step_by(SNAPSHOT_PART_BYTES)
            .map(move |from| pb::SnapshotPart {
                header: (from == 0).then(|| header.clone()),
                data: image.slice(from..image.len().min(from + SNAPSHOT_PART_BYTES)),
            });
        let sent = self.call(
            tokio_stream::iter(parts),
            option.hard_ttl(),
            |mut client, request| async move { client.snapshot(request).await },
        );
        let reply: pb::SnapshotReply = tokio::select! {
            reply = sent => reply?,
            closed = cancel => return Err(closed.into()),
        };
        let vote = vote_from(reply.vote.as_ref()).map_err(malformed)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<RaftTypes>, RpcError> {
        let message = pb::TransferRequest {
            from: Some(vote_to(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(log_id_to),
        };
        let reply: pb::TransferReply = self
            .call(
                message,
                option.hard_ttl(),
                |mut client, request| async move { client.transfer(request).await },
            )
            .await?;
        if reply.refused.is_empty() {
            return Ok(Ok(()));
        }
        // Why exactly makes no difference to the one who asked; it is in the peer's log.
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: req.last_log_id().copied(),
            actual: None,
        }))
    }
}
