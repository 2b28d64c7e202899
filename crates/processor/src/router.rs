//! Brings a request to the leader of its partition, wherever that is now, and carries it on to the next leader.

use std::sync::Arc;
use std::time::Duration;

use abide_metadata::View;
use abide_rpc::proto::partition::{ArchiveReply, ArchiveRequest, archive_reply};
use abide_rpc::{CallError, Fabric, Service};
use abide_service_protocol::{NotificationId, NotificationResult, RawEntry};
use abide_state_machine::proto as state;
use abide_types::{
    InvocationId, NodeId, PartitionId, PartitionKey, QueueId, ServiceKind, partition_of,
};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::api::{
    Accepted, Attached, Finished, Ingested, InvocationFilter, InvocationInfo, NewInvocation,
    Operated, Operation, Outcome, Produced, Producer, Restarted, RouteError, StateChange, Whither,
};
use crate::directory::Directory;
use crate::flow::FlowState;
use crate::metrics::{RouteMetrics, Routed};
use crate::scan::{ScanError, ScanPage, ScanRequest};
use crate::wire::{Request, Response, Restart};

/// How long a leader keeps a waiting request before it says `Pending`. Bounds what a vanished client costs.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// A leader that has not answered by then is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// Pause before the first and the longest pause between tries that failed.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Invocations that a listing shows unless it says otherwise.
const LIST_DEFAULT: usize = 1000;

/// The way to every partition of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    fabric: Arc<Fabric>,
    view: watch::Receiver<Arc<View>>,
    local: Arc<Directory>,
    /// A request that has found no leader for so long is given back.
    give_up_after: Duration,
    metrics: RouteMetrics,
}

impl Router {
    pub(crate) fn new(
        node: NodeId,
        fabric: Arc<Fabric>,
        view: watch::Receiver<Arc<View>>,
        local: Arc<Directory>,
        give_up_after: Duration,
        partitions: u16,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                fabric,
                view,
                local,
                give_up_after,
                metrics: RouteMetrics::new(partitions),
            }),
        }
    }

    fn partitions(&self) -> u16 {
        let view = self.inner.view.borrow();
        view.cluster
            .as_ref()
            .map_or(1, |cluster| cluster.partitions)
    }

    /// The partition that owns `id`.
    pub fn partition_of(&self, id: &InvocationId) -> PartitionId {
        partition_of(id.partition_key(), self.partitions())
    }

    /// Creates the invocation, or joins it if its id is known, and waits for its end however long that takes.
    /// Leaders may change meanwhile.
    pub async fn call(&self, invocation: NewInvocation) -> Result<Finished, RouteError> {
        let id = invocation.id;
        let partition = self.partition_of(&id);
        let target = invocation.target.clone();
        let request = Request::Invoke {
            invoke: into_command(invocation),
            wait: true,
        };
        let mut response = self.ask(partition, request).await?;
        loop {
            response = match response {
                Response::Finished(finished) => return Ok(finished),
                Response::Pending => self.ask(partition, Request::Attach(id)).await?,
                // It ended and was forgotten between two looks: its result is gone.
                Response::NotFound => {
                    return Ok(Finished {
                        outcome: Outcome::Failure(abide_service_protocol::Failure::new(
                            410,
                            "the result is no longer retained",
                        )),
                        expires_at: None,
                        target,
                    });
                }
                other => return Err(unexpected(partition, &other)),
            };
        }
    }

    /// Creates the invocation and returns when it is durably accepted.
    pub async fn send(&self, invocation: NewInvocation) -> Result<Accepted, RouteError> {
        let partition = self.partition_of(&invocation.id);
        let request = Request::Invoke {
            invoke: into_command(invocation),
            wait: false,
        };
        match self.ask(partition, request).await? {
            Response::Accepted(accepted) => Ok(accepted),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Creates the invocations of messages that one producer sends to one partition, and returns when all are durably
    /// accepted. A message is taken once, however often it is sent: what is not above the last position taken from
    /// this producer is a repetition. So the caller sends in the order of the positions, and the next ones only when
    /// these are accepted; after an error it sends the same ones again, or leaves it to whoever reads the source next.
    pub async fn ingest(
        &self,
        partition: PartitionId,
        producer: &Producer,
        messages: Vec<Produced>,
    ) -> Result<Ingested, RouteError> {
        let subscription = producer.subscription.to_string();
        let invoke = |message: Produced| state::Invoke {
            producer: Some(Box::new(state::Producer {
                id: producer.id.clone(),
                position: message.position,
                subscription: subscription.clone(),
            })),
            trace: message.trace.map(|(traceparent, tracestate)| {
                Box::new(state::TraceContext {
                    traceparent,
                    tracestate,
                    linked: String::new(),
                })
            }),
            ..into_command(message.invocation)
        };
        let request = Request::Ingest(messages.into_iter().map(invoke).collect());
        match self.ask(partition, request).await? {
            Response::Ingested(ingested) => Ok(ingested),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Waits for the end of an invocation.
    pub async fn attach(&self, id: InvocationId) -> Result<Attached, RouteError> {
        let partition = self.partition_of(&id);
        loop {
            match self.ask(partition, Request::Attach(id)).await? {
                Response::Finished(finished) => return Ok(Attached::Finished(finished)),
                Response::NotFound => return Ok(Attached::NotFound),
                Response::Pending => {}
                other => return Err(unexpected(partition, &other)),
            }
        }
    }

    /// The result of an invocation, if it has ended.
    pub async fn output(&self, id: InvocationId) -> Result<Attached, RouteError> {
        let partition = self.partition_of(&id);
        match self.ask(partition, Request::Output(id)).await? {
            Response::Finished(finished) => Ok(Attached::Finished(finished)),
            Response::NotReady => Ok(Attached::NotReady),
            Response::NotFound => Ok(Attached::NotFound),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Delivers a signal (an awakeable is one) to an invocation; returns when it is durably accepted. An unknown
    /// or completed invocation takes no notice.
    pub async fn signal(
        &self,
        id: InvocationId,
        signal: NotificationId,
        outcome: Outcome,
    ) -> Result<(), RouteError> {
        use state::signal::Signal;
        let partition = self.partition_of(&id);
        let signal = match signal {
            NotificationId::Signal(index) => Signal::Index(index),
            NotificationId::NamedSignal(name) => Signal::Name(name),
            // Completions are not signals; nobody outside can deliver one.
            NotificationId::Completion(_) => return Ok(()),
        };
        let outcome = match NotificationResult::from(outcome.clone()) {
            NotificationResult::Void => None,
            _ => Some(abide_state_machine::outcome_to_stored(outcome)),
        };
        let request = Request::Signal(state::Signal {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            signal: Some(signal),
            outcome,
            // Kept through the tries: the state machine drops a repetition.
            request_id: Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes()),
        });
        match self.ask(partition, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Pauses or resumes a queue of invocations with a scope; returns when that is durable. Nothing that runs is
    /// stopped.
    pub async fn pause_queue(&self, queue: QueueId, paused: bool) -> Result<(), RouteError> {
        let partition = partition_of(queue.partition_key, self.partitions());
        let request = Request::PauseQueue(state::PauseQueue {
            id: Bytes::copy_from_slice(&queue.to_bytes()),
            paused,
        });
        match self.ask(partition, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// How queues and counters of scopes stand, in all partitions.
    pub async fn flow(&self) -> Result<Vec<FlowState>, RouteError> {
        let partitions = (0..self.partitions()).map(PartitionId);
        let asked =
            partitions.map(
                async |partition| match self.ask(partition, Request::Flow).await? {
                    Response::Flow(state) => {
                        FlowState::from_wire(partition, state).map_err(|error| {
                            RouteError::Stopped {
                                partition,
                                reason: error.to_string(),
                            }
                        })
                    }
                    other => Err(unexpected(partition, &other)),
                },
            );
        futures::future::try_join_all(asked).await
    }

    /// Asks a partition's leader about snapshots, or for its part of a backup.
    ///
    /// # Errors
    /// There is no leader within `within`, or it does not know the question.
    pub async fn archive(
        &self,
        partition: PartitionId,
        request: ArchiveRequest,
        within: Duration,
    ) -> Result<archive_reply::Kind, RouteError> {
        let request = Request::Archive(request);
        let asked = self.ask_for(partition, request, within);
        let answer = tokio::time::timeout(within, asked).await;
        match answer.unwrap_or(Err(RouteError::NoLeader {
            partition,
            waited: within,
        }))? {
            Response::Archive(ArchiveReply { kind: Some(kind) }) => Ok(kind),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Does what an operator asks of one invocation.
    pub async fn operate(
        &self,
        id: InvocationId,
        operation: Operation,
    ) -> Result<Operated, RouteError> {
        let partition = self.partition_of(&id);
        let operation = match operation {
            Operation::Cancel => state::Operation::Cancel,
            Operation::Kill => state::Operation::Kill,
            Operation::Resume => state::Operation::Resume,
            Operation::Pause => state::Operation::Pause,
            Operation::Purge => state::Operation::Purge,
            Operation::PurgeJournal => state::Operation::PurgeJournal,
        };
        let request = Request::Operate(state::Operate {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            operation: operation as i32,
            ..Default::default()
        });
        match self.ask(partition, request).await? {
            Response::Operated(operated) => Ok(operated),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Lets an invocation run again, maybe at another deployment.
    pub async fn resume(&self, id: InvocationId, whither: Whither) -> Result<Operated, RouteError> {
        let partition = self.partition_of(&id);
        match self.ask(partition, Request::Resume(id, whither)).await? {
            Response::Operated(operated) => Ok(operated),
            Response::Unsuitable(why) => Ok(Operated::Unsuitable(why)),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Starts an invocation like one that has ended, with the entries of its journal up to `from`. Returns the id of
    /// the new one, which is in the same partition, and whether it is there.
    pub async fn restart_as_new(
        &self,
        id: InvocationId,
        from: u32,
        whither: Whither,
    ) -> Result<(InvocationId, Restarted), RouteError> {
        let partition = self.partition_of(&id);
        let uuid = ulid::Ulid::generate().0.to_be_bytes();
        let new_id = InvocationId::new(id.partition_key(), uuid);
        let request = Request::Restart(Restart {
            id,
            new_id,
            from,
            whither,
        });
        match self.ask(partition, request).await? {
            Response::Restarted(restarted) => Ok((new_id, restarted)),
            Response::Unsuitable(why) => Ok((new_id, Restarted::Unsuitable(why))),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Replaces the state of a key; returns when the change is durably accepted. It takes effect when nothing holds
    /// the key. A leader that dies between accepting and answering may make it two changes to the same state.
    pub async fn mutate_state(&self, change: StateChange) -> Result<(), RouteError> {
        let key = PartitionKey::of_key(&change.key);
        let partition = partition_of(key, self.partitions());
        let request = Request::MutateState(state::MutateState {
            service: change.service,
            key: change.key,
            scope: None,
            entries: change
                .entries
                .into_iter()
                .map(|(key, value)| state::StateEntry { key, value })
                .collect(),
            version: change.version,
            service_kind: match change.service_kind {
                ServiceKind::Service => state::ServiceKind::Service,
                ServiceKind::VirtualObject => state::ServiceKind::VirtualObject,
                ServiceKind::Workflow => state::ServiceKind::Workflow,
            } as i32,
        });
        match self.ask(partition, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// One invocation.
    pub async fn get(&self, id: InvocationId) -> Result<Option<InvocationInfo>, RouteError> {
        let partition = self.partition_of(&id);
        match self.ask(partition, Request::Get(id)).await? {
            Response::Infos(mut infos) => Ok(infos.pop()),
            Response::NotFound => Ok(None),
            other => Err(unexpected(partition, &other)),
        }
    }

    /// Invocations of all partitions.
    pub async fn list(&self, filter: InvocationFilter) -> Result<Vec<InvocationInfo>, RouteError> {
        let limit = match filter.limit {
            0 => LIST_DEFAULT,
            limit => limit,
        };
        let mut found = Vec::new();
        for partition in (0..self.partitions()).map(PartitionId) {
            if found.len() >= limit {
                break;
            }
            let filter = InvocationFilter {
                limit: limit - found.len(),
                ..filter.clone()
            };
            match self.ask(partition, Request::List(filter)).await? {
                Response::Infos(infos) => found.extend(infos),
                other => return Err(unexpected(partition, &other)),
            }
        }
        Ok(found)
    }

    /// Partitions of the cluster.
    pub fn partition_count(&self) -> u16 {
        self.partitions()
    }

    /// One page of a partition's rows, as its leader has them. It is given up when no leader answers for
    /// as long as `within`.
    pub async fn scan(
        &self,
        partition: PartitionId,
        request: ScanRequest,
        within: Duration,
    ) -> Result<ScanPage, ScanError> {
        let answer = self.ask_for(partition, Request::Scan(request), within);
        match answer.await? {
            Response::Scanned(page) => Ok(page),
            Response::Unreadable(reason) => Err(ScanError::Unreadable { partition, reason }),
            other => Err(unexpected(partition, &other).into()),
        }
    }

    /// Asks until a leader answers. Every request is such that a repetition joins the first.
    async fn ask(&self, partition: PartitionId, request: Request) -> Result<Response, RouteError> {
        self.ask_for(partition, request, self.inner.give_up_after)
            .await
    }

    async fn ask_for(
        &self,
        partition: PartitionId,
        request: Request,
        give_up_after: Duration,
    ) -> Result<Response, RouteError> {
        let start = Instant::now();
        let mut view = self.inner.view.clone();
        let mut pause = RETRY_AFTER.0;
        loop {
            let leader = {
                let view = view.borrow_and_update();
                (view.partition_table.partitions.get(&partition))
                    .and_then(|entry| entry.leader)
                    .map(|leader| leader.node)
            };
            let response = match leader {
                Some(node) if node == self.inner.node => {
                    self.ask_here(partition, request.clone()).await
                }
                Some(node) => self.ask_there(node, partition, request.clone()).await,
                None => None,
            };
            let how = Routed::of(response.as_ref());
            self.inner.metrics.ended(partition, how);
            let refusal = match response {
                Some(Response::NotLeader) | None => None,
                Some(Response::Overloaded) => Some(RouteError::Overloaded { partition }),
                // A partition that stops hands its leadership over if anybody can take it.
                Some(Response::Stopped(reason)) => Some(RouteError::Stopped { partition, reason }),
                Some(response) => return Ok(response),
            };
            let waited = start.elapsed();
            if waited >= give_up_after {
                return Err(refusal.unwrap_or(RouteError::NoLeader { partition, waited }));
            }
            // The next leader is announced by the metadata; one that is not ready yet is asked again soon.
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return Err(RouteError::ShuttingDown);
                },
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_AFTER.1),
            }
        }
    }

    async fn ask_here(&self, partition: PartitionId, request: Request) -> Option<Response> {
        let (sender, receiver) = oneshot::channel();
        self.inner
            .local
            .ask(partition, request, crate::waiters::Responder::Local(sender));
        receiver.await.ok()
    }

    async fn ask_there(
        &self,
        node: NodeId,
        partition: PartitionId,
        request: Request,
    ) -> Option<Response> {
        let payload = request.encode(partition);
        match self
            .inner
            .fabric
            .call(node, Service::Partition, payload, ANSWER_WITHIN)
            .await
        {
            Ok(answer) => Response::decode(answer, partition)
                .inspect_err(
                    |error| tracing::warn!(%node, %partition, %error, "answer not understood"),
                )
                .ok(),
            Err(CallError::Full) => Some(Response::Overloaded),
            Err(_) => None,
        }
    }
}

impl Routed {
    fn of(response: Option<&Response>) -> Self {
        match response {
            None => Self::NoLeader,
            Some(Response::NotLeader) => Self::NotLeader,
            Some(Response::Overloaded) => Self::Overloaded,
            Some(Response::Stopped(_)) => Self::Stopped,
            Some(_) => Self::Answered,
        }
    }
}

fn unexpected(partition: PartitionId, response: &Response) -> RouteError {
    RouteError::Stopped {
        partition,
        reason: format!("unexpected answer {response:?}"),
    }
}

fn into_command(invocation: NewInvocation) -> state::Invoke {
    state::Invoke {
        id: Bytes::copy_from_slice(&invocation.id.to_bytes()),
        target: Some(state::Target::from(&invocation.target)),
        input: RawEntry::input(invocation.headers, invocation.input).payload,
        idempotency_key: invocation.idempotency_key,
        execute_at: invocation.execute_at.map_or(0, |at| at.0),
        completion_retention_ms: millis(invocation.retention.completion),
        journal_retention_ms: millis(invocation.retention.journal),
        sink: None,
        invoked_by: Bytes::new(),
        request_id: Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes()),
        flow: invocation.flow.map(|flow| Box::new(flow.into())),
        trace: (invocation.trace).map(|trace| Box::new(trace.as_ref().into())),
        ..Default::default()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
