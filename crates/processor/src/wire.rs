//! Requests to a partition's leader and its answers, as values and as they cross to another node.

use abide_rpc::proto::partition as wire;
use abide_state_machine::proto as state;
use abide_types::{DeploymentId, InvocationId, InvocationTarget, PartitionId, Timestamp};
use bytes::Bytes;
use prost::Message as _;

use crate::api::{
    Accepted, Finished, Ingested, InvocationFilter, InvocationInfo, InvocationStatus, Operated,
    Restarted, Unsuitable, Whither,
};
use crate::scan::{ScanPage, ScanRequest};

/// What is asked of a partition's leader.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Create or join an invocation; with `wait`, answer with its result.
    Invoke { invoke: state::Invoke, wait: bool },
    /// Create invocations of one producer, in order; answer when the last one is applied.
    Ingest(Vec<state::Invoke>),
    /// Answer when the invocation has ended.
    Attach(InvocationId),
    /// Answer with the result if there is one.
    Output(InvocationId),
    /// Deliver a signal.
    Signal(state::Signal),
    /// Do what an operator asks.
    Operate(state::Operate),
    /// Let an invocation run again, here or there.
    Resume(InvocationId, Whither),
    /// Start over with the input of an invocation, or with more of its journal.
    Restart(Restart),
    /// Replace the state of a key.
    MutateState(state::MutateState),
    /// Pause or resume a queue.
    PauseQueue(state::PauseQueue),
    /// How queues and counters of scopes stand.
    Flow,
    /// About snapshots and backups. Past the queue of all else: see `directory`.
    Archive(wire::ArchiveRequest),
    /// Describe one invocation.
    Get(InvocationId),
    /// Describe many.
    List(InvocationFilter),
    /// Give rows. Not for the partition's task: see `scan`.
    Scan(ScanRequest),
}

/// A restart, as it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Restart {
    pub(crate) id: InvocationId,
    pub(crate) new_id: InvocationId,
    pub(crate) from: u32,
    pub(crate) whither: Whither,
}

/// What the leader answers.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    /// Not done: ask the leader.
    NotLeader,
    /// Not done: too much waits.
    Overloaded,
    /// Not done, nor will it be before an operator has looked.
    Stopped(String),
    Accepted(Accepted),
    Ingested(Ingested),
    Finished(Finished),
    NotReady,
    NotFound,
    /// Still running: attach again.
    Pending,
    Done,
    Operated(Operated),
    Restarted(Restarted),
    Unsuitable(Unsuitable),
    Infos(Vec<InvocationInfo>),
    Scanned(ScanPage),
    /// The rows cannot be read, and why.
    Unreadable(String),
    Flow(wire::FlowState),
    Archive(wire::ArchiveReply),
}

/// A message that does not decode into what it should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub &'static str);

impl Request {
    pub(crate) fn encode(self, partition: PartitionId) -> Bytes {
        use wire::request::Kind;
        let id = |id: InvocationId| Bytes::copy_from_slice(&id.to_bytes());
        let kind = match self {
            Self::Invoke { invoke, wait } => Kind::Invoke(wire::Invoke {
                invoke: invoke.encode_to_vec().into(),
                wait,
            }),
            Self::Ingest(invokes) => Kind::Ingest(wire::Ingest {
                invokes: invokes
                    .iter()
                    .map(|invoke| invoke.encode_to_vec().into())
                    .collect(),
            }),
            Self::Attach(invocation) => Kind::Attach(id(invocation)),
            Self::Output(invocation) => Kind::Output(id(invocation)),
            Self::Signal(signal) => Kind::Signal(signal.encode_to_vec().into()),
            Self::Operate(operate) => Kind::Operate(operate.encode_to_vec().into()),
            Self::Resume(invocation, whither) => Kind::Resume(wire::Resume {
                id: id(invocation),
                whither: Some(whither_to_wire(whither)),
            }),
            Self::Restart(restart) => Kind::Restart(wire::Restart {
                id: id(restart.id),
                new_id: id(restart.new_id),
                from: restart.from,
                whither: Some(whither_to_wire(restart.whither)),
            }),
            Self::MutateState(change) => Kind::MutateState(change.encode_to_vec().into()),
            Self::PauseQueue(pause) => Kind::PauseQueue(pause.encode_to_vec().into()),
            Self::Flow => Kind::Flow(wire::Empty {}),
            Self::Archive(request) => Kind::Archive(request),
            Self::Get(invocation) => Kind::Get(id(invocation)),
            Self::List(filter) => Kind::List(wire::List {
                service: filter.service,
                key: filter.key,
                status: filter.status.map(status_to_wire),
                limit: filter.limit as u64,
            }),
            Self::Scan(scan) => Kind::Scan(scan.into_wire()),
        };
        wire::Request {
            partition: partition.0.into(),
            kind: Some(kind),
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn from_wire(request: wire::Request) -> Result<(PartitionId, Self), Malformed> {
        use wire::request::Kind;
        let partition =
            PartitionId(u16::try_from(request.partition).map_err(|_| Malformed("partition"))?);
        let id = |bytes: Bytes| InvocationId::from_bytes(&bytes).ok_or(Malformed("invocation id"));
        let request = match request.kind.ok_or(Malformed("request"))? {
            Kind::Invoke(invoke) => Self::Invoke {
                invoke: state::Invoke::decode(invoke.invoke).map_err(|_| Malformed("invoke"))?,
                wait: invoke.wait,
            },
            Kind::Ingest(ingest) => {
                let invokes = ingest.invokes.into_iter().map(state::Invoke::decode);
                let invokes = invokes.collect::<Result<_, _>>();
                Self::Ingest(invokes.map_err(|_| Malformed("invoke"))?)
            }
            Kind::Attach(bytes) => Self::Attach(id(bytes)?),
            Kind::Output(bytes) => Self::Output(id(bytes)?),
            Kind::Signal(bytes) => {
                Self::Signal(state::Signal::decode(bytes).map_err(|_| Malformed("signal"))?)
            }
            Kind::Operate(bytes) => {
                Self::Operate(state::Operate::decode(bytes).map_err(|_| Malformed("operation"))?)
            }
            Kind::Resume(resume) => {
                Self::Resume(id(resume.id)?, whither_from_wire(resume.whither)?)
            }
            Kind::Restart(restart) => Self::Restart(Restart {
                id: id(restart.id)?,
                new_id: id(restart.new_id)?,
                from: restart.from,
                whither: whither_from_wire(restart.whither)?,
            }),
            Kind::MutateState(bytes) => Self::MutateState(
                state::MutateState::decode(bytes).map_err(|_| Malformed("change of state"))?,
            ),
            Kind::PauseQueue(bytes) => {
                Self::PauseQueue(state::PauseQueue::decode(bytes).map_err(|_| Malformed("queue"))?)
            }
            Kind::Flow(_) => Self::Flow,
            Kind::Archive(request) => Self::Archive(request),
            Kind::Get(bytes) => Self::Get(id(bytes)?),
            Kind::List(list) => Self::List(InvocationFilter {
                service: list.service,
                key: list.key,
                status: match list.status {
                    Some(status) => Some(status_from_wire(status).ok_or(Malformed("status"))?),
                    None => None,
                },
                limit: usize::try_from(list.limit).unwrap_or(usize::MAX),
            }),
            Kind::Scan(scan) => Self::Scan(ScanRequest::from_wire(scan)?),
            // Not for leaders: see `transfer`.
            Kind::FetchState(_) => return Err(Malformed("request")),
        };
        Ok((partition, request))
    }
}

impl Response {
    pub(crate) fn encode(self) -> Bytes {
        use wire::response::Kind;
        let empty = wire::Empty {};
        let kind = match self {
            Self::NotLeader => Kind::NotLeader(empty),
            Self::Overloaded => Kind::Overloaded(empty),
            Self::Stopped(reason) => Kind::Stopped(reason),
            Self::Accepted(accepted) => Kind::Accepted(wire::Accepted {
                new: accepted.new,
                execute_at: accepted.execute_at.map_or(0, |at| at.0),
            }),
            Self::Ingested(ingested) => Kind::Ingested(wire::Ingested {
                known: ingested.known,
            }),
            Self::Finished(finished) => Kind::Finished(wire::Finished {
                outcome: abide_state_machine::outcome_to_stored(finished.outcome)
                    .encode_to_vec()
                    .into(),
                expires_at: finished.expires_at.map_or(0, |at| at.0),
                target: state::Target::from(&finished.target).encode_to_vec().into(),
            }),
            Self::NotReady => Kind::NotReady(empty),
            Self::NotFound => Kind::NotFound(empty),
            Self::Pending => Kind::Pending(empty),
            Self::Done => Kind::Done(empty),
            Self::Operated(Operated::Unsuitable(why))
            | Self::Restarted(Restarted::Unsuitable(why))
            | Self::Unsuitable(why) => Kind::Unsuitable(unsuitable_to_wire(why)),
            Self::Operated(operated) => Kind::Operated(place_in(&OPERATED, operated)),
            Self::Restarted(restarted) => Kind::Restarted(place_in(&RESTARTED, restarted)),
            Self::Flow(flow) => Kind::Flow(flow),
            Self::Archive(reply) => Kind::Archive(reply),
            Self::Infos(infos) => Kind::Infos(wire::Infos {
                infos: infos.into_iter().map(info_to_wire).collect(),
            }),
            Self::Scanned(page) => Kind::Scanned(page.into_wire()),
            Self::Unreadable(reason) => Kind::Unreadable(reason),
        };
        wire::Response { kind: Some(kind) }.encode_to_vec().into()
    }

    pub(crate) fn decode(payload: Bytes, partition: PartitionId) -> Result<Self, Malformed> {
        use wire::response::Kind;
        let response = wire::Response::decode(payload).map_err(|_| Malformed("response"))?;
        Ok(match response.kind.ok_or(Malformed("response"))? {
            Kind::NotLeader(_) => Self::NotLeader,
            Kind::Overloaded(_) => Self::Overloaded,
            Kind::Stopped(reason) => Self::Stopped(reason),
            Kind::Accepted(accepted) => Self::Accepted(Accepted {
                new: accepted.new,
                execute_at: some_time(accepted.execute_at),
            }),
            Kind::Ingested(ingested) => Self::Ingested(Ingested {
                known: ingested.known,
            }),
            Kind::Finished(finished) => {
                let outcome =
                    state::Outcome::decode(finished.outcome).map_err(|_| Malformed("outcome"))?;
                let target =
                    state::Target::decode(finished.target).map_err(|_| Malformed("target"))?;
                Self::Finished(Finished {
                    outcome: abide_state_machine::outcome_from_stored(outcome),
                    expires_at: some_time(finished.expires_at),
                    target: InvocationTarget::from(&target),
                })
            }
            Kind::NotReady(_) => Self::NotReady,
            Kind::NotFound(_) => Self::NotFound,
            Kind::Pending(_) => Self::Pending,
            Kind::Done(_) => Self::Done,
            Kind::Operated(operated) => {
                Self::Operated(in_place(&OPERATED, operated).ok_or(Malformed("answer"))?)
            }
            Kind::Restarted(restarted) => {
                Self::Restarted(in_place(&RESTARTED, restarted).ok_or(Malformed("answer"))?)
            }
            Kind::Unsuitable(why) => Self::Unsuitable(unsuitable_from_wire(&why)?),
            Kind::Flow(flow) => Self::Flow(flow),
            Kind::Archive(reply) => Self::Archive(reply),
            Kind::Infos(infos) => Self::Infos(
                infos
                    .infos
                    .into_iter()
                    .map(|info| info_from_wire(info, partition))
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Scanned(page) => Self::Scanned(ScanPage::from_wire(page)?),
            Kind::Unreadable(reason) => Self::Unreadable(reason),
        })
    }
}

fn some_time(millis: u64) -> Option<Timestamp> {
    (millis > 0).then_some(Timestamp(millis))
}

const STATUSES: [InvocationStatus; 8] = [
    InvocationStatus::Scheduled,
    InvocationStatus::Pending,
    InvocationStatus::Ready,
    InvocationStatus::Running,
    InvocationStatus::BackingOff,
    InvocationStatus::Suspended,
    InvocationStatus::Paused,
    InvocationStatus::Completed,
];

fn status_to_wire(status: InvocationStatus) -> u32 {
    status as u32
}

fn status_from_wire(status: u32) -> Option<InvocationStatus> {
    STATUSES.get(status as usize).copied()
}

const OPERATED: [Operated; 7] = [
    Operated::Done,
    Operated::Appended,
    Operated::NotFound,
    Operated::AlreadyCompleted,
    Operated::NotCompleted,
    Operated::WrongState,
    Operated::CannotMove,
];

const RESTARTED: [Restarted; 7] = [
    Restarted::Done,
    Restarted::NotFound,
    Restarted::StillRunning,
    Restarted::NotStarted,
    Restarted::NoInput,
    Restarted::Unsupported,
    Restarted::Incomplete,
];

fn place_in<T: PartialEq>(table: &[T], answer: T) -> u32 {
    let place = table.iter().position(|known| *known == answer);
    place
        .and_then(|place| u32::try_from(place).ok())
        .unwrap_or(u32::MAX)
}

fn in_place<T: Copy>(table: &[T], place: u32) -> Option<T> {
    table.get(place as usize).copied()
}

fn whither_to_wire(whither: Whither) -> wire::Whither {
    wire::Whither {
        latest: whither == Whither::Latest,
        deployment: match whither {
            Whither::Deployment(id) => Bytes::copy_from_slice(&id.0.to_be_bytes()),
            Whither::Keep | Whither::Latest => Bytes::new(),
        },
    }
}

fn whither_from_wire(whither: Option<wire::Whither>) -> Result<Whither, Malformed> {
    let whither = whither.unwrap_or_default();
    Ok(match (whither.latest, whither.deployment.is_empty()) {
        (true, _) => Whither::Latest,
        (false, true) => Whither::Keep,
        (false, false) => Whither::Deployment(deployment_id(&whither.deployment)?),
    })
}

fn deployment_id(bytes: &Bytes) -> Result<DeploymentId, Malformed> {
    let bytes = bytes
        .as_ref()
        .try_into()
        .map_err(|_| Malformed("deployment"))?;
    Ok(DeploymentId(u128::from_be_bytes(bytes)))
}

fn unsuitable_to_wire(why: Unsuitable) -> wire::Unsuitable {
    match why {
        Unsuitable::Unknown => wire::Unsuitable::default(),
        Unsuitable::Protocol {
            deployment,
            bound,
            min,
            max,
        } => wire::Unsuitable {
            deployment: Bytes::copy_from_slice(&deployment.0.to_be_bytes()),
            bound,
            min,
            max,
        },
    }
}

fn unsuitable_from_wire(why: &wire::Unsuitable) -> Result<Unsuitable, Malformed> {
    if why.deployment.is_empty() {
        return Ok(Unsuitable::Unknown);
    }
    Ok(Unsuitable::Protocol {
        deployment: deployment_id(&why.deployment)?,
        bound: why.bound,
        min: why.min,
        max: why.max,
    })
}

fn info_to_wire(info: InvocationInfo) -> wire::Info {
    let invocation = state::Invocation {
        target: Some(state::Target::from(&info.target)),
        created_at: info.created_at.0,
        modified_at: info.modified_at.0,
        execute_at: info.execute_at.map_or(0, |at| at.0),
        idempotency_key: info.idempotency_key,
        invoked_by: info
            .invoked_by
            .map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        pinned: info.deployment.map(|deployment| state::Pinned {
            deployment: Bytes::copy_from_slice(&deployment.0.to_be_bytes()),
            protocol: 0,
        }),
        journal_length: info.journal_length,
        outcome: info.outcome.map(abide_state_machine::outcome_to_stored),
        ..Default::default()
    };
    wire::Info {
        id: Bytes::copy_from_slice(&info.id.to_bytes()),
        invocation: invocation.encode_to_vec().into(),
        status: status_to_wire(info.status),
        retry_count: info.retry_count,
        last_failure: info
            .last_failure
            .map(|(code, message, documented_code)| wire::LastFailure {
                code: code.into(),
                message,
                documented_code,
            }),
    }
}

fn info_from_wire(info: wire::Info, partition: PartitionId) -> Result<InvocationInfo, Malformed> {
    let invocation =
        state::Invocation::decode(info.invocation).map_err(|_| Malformed("invocation"))?;
    let id = InvocationId::from_bytes(&info.id).ok_or(Malformed("invocation id"))?;
    let status = status_from_wire(info.status).ok_or(Malformed("status"))?;
    Ok(InvocationInfo {
        retry_count: info.retry_count,
        last_failure: info.last_failure.map(|failure| {
            (
                u16::try_from(failure.code).unwrap_or(500),
                failure.message,
                failure.documented_code,
            )
        }),
        ..describe(id, partition, status, &invocation)
    })
}

/// An invocation's row as a listing shows it.
pub(crate) fn describe(
    id: InvocationId,
    partition: PartitionId,
    status: InvocationStatus,
    invocation: &state::Invocation,
) -> InvocationInfo {
    let target = invocation.target.clone().unwrap_or_default();
    InvocationInfo {
        id,
        partition,
        target: InvocationTarget::from(&target),
        status,
        idempotency_key: invocation.idempotency_key.clone(),
        invoked_by: InvocationId::from_bytes(&invocation.invoked_by),
        created_at: Timestamp(invocation.created_at),
        modified_at: Timestamp(invocation.modified_at),
        execute_at: some_time(invocation.execute_at),
        deployment: invocation.pinned.as_ref().and_then(deployment_of),
        journal_length: invocation.journal_length,
        retry_count: 0,
        last_failure: None,
        outcome: invocation
            .outcome
            .clone()
            .map(abide_state_machine::outcome_from_stored),
    }
}

/// The deployment of a pin; `None` if its id is not sixteen bytes.
pub(crate) fn deployment_of(pinned: &state::Pinned) -> Option<abide_types::DeploymentId> {
    let bytes: [u8; 16] = pinned.deployment.as_ref().try_into().ok()?;
    Some(abide_types::DeploymentId(u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that often parse: a tag of each kind, then anything.
    fn near_messages() -> impl Strategy<Value = Bytes> {
        let part = (1u8..20, 0usize..24, prop::collection::vec(any::<u8>(), 24));
        prop::collection::vec(part, 0..4).prop_map(|parts| {
            let mut bytes = Vec::new();
            for (field, length, value) in parts {
                if field < 16 {
                    bytes.extend([field << 3 | 2, length as u8]);
                } else {
                    bytes.extend([field << 3 & 0x7f | 0x82, 1, length as u8]);
                }
                bytes.extend(&value[..length]);
            }
            bytes.into()
        })
    }

    proptest! {
        #[test]
        fn what_other_nodes_ask_and_answer_never_panics(bytes in near_messages()) {
            if let Ok(request) = wire::Request::decode(bytes.clone()) {
                let _ = Request::from_wire(request);
            }
            let _ = Response::decode(bytes, PartitionId(1));
        }
    }
}
