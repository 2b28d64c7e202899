//! What can be asked of a server.

use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_rpc::proto::metadata::metadata_client::MetadataClient;
use abide_types::{Generation, NodeId};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::Joined;
use super::route::{Operation, Outcome};
use crate::server::Core;
use crate::transport::request;
use crate::txn::Versioned;

/// A reply whose outcome this version does not know.
const ODD_REPLY: &str = "the reply is not understood";

/// Commits a transaction.
pub(crate) struct Commit(pub(crate) pb::Transaction);

/// How a commit ended.
pub(crate) enum Committed {
    At(u64),
    Conflict(pb::Conflict),
    Invalid(String),
}

impl Operation for Commit {
    type Reply = pb::CommitReply;
    type Done = Committed;

    async fn local(&self, core: &Core) -> pb::CommitReply {
        core.commit(self.0.clone()).await
    }

    async fn remote(
        &self,
        mut client: MetadataClient<Channel>,
        fingerprint: u64,
        timeout: Duration,
    ) -> Result<Response<pb::CommitReply>, Status> {
        let message = pb::CommitRequest {
            transaction: Some(self.0.clone()),
        };
        client.commit(request(message, fingerprint, timeout)).await
    }

    fn outcome(&self, reply: pb::CommitReply) -> Outcome<Committed> {
        use pb::commit_reply::Outcome as Reply;
        match reply.outcome {
            Some(Reply::Committed(version)) => Outcome::Done(Committed::At(version)),
            Some(Reply::Conflict(conflict)) => Outcome::Done(Committed::Conflict(conflict)),
            Some(Reply::Invalid(detail)) => Outcome::Done(Committed::Invalid(detail)),
            Some(Reply::NotLeader(not_leader)) => Outcome::NotLeader(not_leader),
            Some(Reply::Undecided(_)) | None => Outcome::Undecided,
        }
    }
}

/// Reads a key linearizably.
pub(crate) struct Read<'a>(pub(crate) &'a str);

impl Operation for Read<'_> {
    type Reply = pb::ReadReply;
    type Done = Option<Versioned>;

    async fn local(&self, core: &Core) -> pb::ReadReply {
        core.read(self.0).await
    }

    async fn remote(
        &self,
        mut client: MetadataClient<Channel>,
        fingerprint: u64,
        timeout: Duration,
    ) -> Result<Response<pb::ReadReply>, Status> {
        let message = pb::ReadRequest {
            key: self.0.to_owned(),
        };
        client.read(request(message, fingerprint, timeout)).await
    }

    fn outcome(&self, reply: pb::ReadReply) -> Outcome<Option<Versioned>> {
        use pb::read_reply::Outcome as Reply;
        match reply.outcome {
            Some(Reply::Found(found)) => Outcome::Done(found.document.map(|document| Versioned {
                version: document.version,
                value: document.value,
            })),
            Some(Reply::NotLeader(not_leader)) => Outcome::NotLeader(not_leader),
            None => Outcome::NotYet(ODD_REPLY),
        }
    }
}

/// Registers a start of a node.
pub(crate) struct Join(pub(crate) pb::JoinRequest);

impl Operation for Join {
    type Reply = pb::JoinReply;
    type Done = Result<(Joined, u64), pb::JoinRefusal>;

    async fn local(&self, core: &Core) -> pb::JoinReply {
        core.register(&self.0).await
    }

    async fn remote(
        &self,
        mut client: MetadataClient<Channel>,
        fingerprint: u64,
        timeout: Duration,
    ) -> Result<Response<pb::JoinReply>, Status> {
        client
            .join(request(self.0.clone(), fingerprint, timeout))
            .await
    }

    fn outcome(&self, reply: pb::JoinReply) -> Outcome<Self::Done> {
        use pb::join_reply::Outcome as Reply;
        match reply.outcome {
            Some(Reply::Joined(reply)) => {
                let joined = Joined {
                    node: NodeId(reply.node),
                    generation: Generation(reply.generation),
                    fingerprint: reply.fingerprint,
                };
                Outcome::Done(Ok((joined, reply.version)))
            }
            Some(Reply::Refused(refusal)) => Outcome::Done(Err(refusal)),
            Some(Reply::NotLeader(not_leader)) => Outcome::NotLeader(not_leader),
            Some(Reply::NotProvisioned(_)) => {
                Outcome::NotYet("the cluster has not been provisioned")
            }
            None => Outcome::NotYet(ODD_REPLY),
        }
    }
}

/// Removes a node.
pub(crate) struct Remove(pub(crate) NodeId);

impl Operation for Remove {
    type Reply = pb::RemoveReply;
    type Done = Result<u64, String>;

    async fn local(&self, core: &Core) -> pb::RemoveReply {
        core.remove(self.0).await
    }

    async fn remote(
        &self,
        mut client: MetadataClient<Channel>,
        fingerprint: u64,
        timeout: Duration,
    ) -> Result<Response<pb::RemoveReply>, Status> {
        let message = pb::RemoveRequest { node: self.0.0 };
        client.remove(request(message, fingerprint, timeout)).await
    }

    fn outcome(&self, reply: pb::RemoveReply) -> Outcome<Self::Done> {
        use pb::remove_reply::Outcome as Reply;
        match reply.outcome {
            Some(Reply::Removed(version)) => Outcome::Done(Ok(version)),
            Some(Reply::Refused(detail)) => Outcome::Done(Err(detail)),
            Some(Reply::NotLeader(not_leader)) => Outcome::NotLeader(not_leader),
            None => Outcome::NotYet(ODD_REPLY),
        }
    }
}
