//! The log service on the fabric: appends and calls go to the log server, answers to the sequencers.

use std::sync::Arc;
use std::time::Duration;

use abide_log::{
    AppendOutcome, AppendReply, Conduit, Incoming, IncomingCall, LocalLog as _, LogClient,
    ReadOutcome, ReadReply, ReadRequest, Refusal, decode_call, decode_message, encode_fence_reply,
    encode_read_reply, encode_replies, encode_tail_reply, encode_trim_reply,
};
use abide_rpc::{Handler, Reply};
use abide_types::{Lsn, NodeId};
use bytes::Bytes;

use crate::server::LogServer;

/// Both sides of the log on one node. Register it for [`abide_rpc::Service::Log`].
pub struct LogService {
    client: Arc<LogClient>,
    server: Option<Arc<LogServer>>,
}

/// No read is held longer, whatever the caller wishes.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl LogService {
    /// The service of a node; `server` is absent when it has not the role. Answers leave by `conduit`.
    pub fn new(
        client: Arc<LogClient>,
        server: Option<Arc<LogServer>>,
        conduit: Arc<dyn Conduit>,
    ) -> Arc<Self> {
        if let Some(server) = &server {
            server.answer_peers(Arc::new(move |node, replies| {
                // An answer that does not leave is like one that was lost: the sequencer asks again.
                if let Err(error) = conduit.send(node, encode_replies(replies)) {
                    tracing::debug!(%node, %error, "append not answered");
                }
            }));
        }
        Arc::new(Self { client, server })
    }

    /// Takes a message in. Does not block.
    pub fn message(&self, from: NodeId, payload: Bytes) {
        let incoming = match decode_message(payload) {
            Ok(incoming) => incoming,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(node = %from, error, "log message not understood");
                return;
            }
        };
        match (incoming, &self.server) {
            (Incoming::Replies(replies), _) => {
                for reply in replies {
                    self.client.deliver(from, reply);
                }
            }
            (Incoming::Append(request), Some(server)) => server.append_of(from, request),
            (Incoming::CorruptAppend { partition, epoch }, Some(server)) => {
                tracing::error!(%partition, node = %from, "records were damaged on the way");
                let reply = AppendReply {
                    partition,
                    epoch,
                    storage: server.storage(),
                    outcome: AppendOutcome::Refused(Refusal::Corrupt),
                };
                server.answer(from, reply);
            }
            (_, None) => tracing::debug!(node = %from, "append for a node without a log server"),
        }
    }

    /// Takes a call in and answers it with `reply`. Does not block.
    pub fn call(&self, payload: Bytes, reply: impl FnOnce(Result<Bytes, String>) + Send + 'static) {
        let Some(server) = &self.server else {
            return reply(Err("this node is no log server".to_owned()));
        };
        let call = match decode_call(payload) {
            Ok(call) => call,
            Err(error) => return reply(Err(error.to_string())),
        };
        match call {
            IncomingCall::Fence(request) => server.fence(
                request,
                Box::new(move |promise| reply(Ok(encode_fence_reply(&promise)))),
            ),
            IncomingCall::Trim(partition, trimmed) => server.trim(
                partition,
                trimmed,
                Box::new(move |point| reply(Ok(encode_trim_reply(point)))),
            ),
            IncomingCall::Tail(partition) => {
                reply(Ok(encode_tail_reply(&server.tail(partition))));
            }
            IncomingCall::Read(request, wait_ms) => {
                let wait = Duration::from_millis(wait_ms.into());
                let server = server.clone();
                tokio::spawn(async move {
                    let found = read(server, request, wait.min(WAIT_MAX)).await;
                    let answer = found.ok_or_else(|| "the log server is closing".to_owned());
                    reply(answer.map(|found| encode_read_reply(request.from, &found)));
                });
            }
        }
    }
}

/// Reads, and waits up to `wait` for the first record.
async fn read(server: Arc<LogServer>, request: ReadRequest, wait: Duration) -> Option<ReadReply> {
    let mut commits = server.subscribe(request.partition);
    let until = tokio::time::Instant::now() + wait;
    loop {
        let seen: Lsn = *commits.borrow_and_update();
        let reply = match server.read_cached(&request) {
            Some(reply) => reply,
            None => {
                let server = server.clone();
                let read = tokio::task::spawn_blocking(move || server.read(&request));
                read.await.ok()?
            }
        };
        let nothing =
            matches!(&reply.outcome, ReadOutcome::Records { records, .. } if records.is_empty());
        // What another segment has does not help: the caller has to look at the chain.
        let hopeless = request.from < seen;
        if !nothing || hopeless {
            return Some(reply);
        }
        match tokio::time::timeout_at(until, commits.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Some(reply),
        }
    }
}

impl Handler for LogService {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        self.message(from, payload);
    }

    fn on_call(&self, _from: NodeId, payload: Bytes, reply: Reply) {
        self.call(payload, move |answer| match answer {
            Ok(payload) => reply.send(payload),
            Err(reason) => reply.refuse(reason),
        });
    }
}
