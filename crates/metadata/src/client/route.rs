//! Finds the server that can do what is asked: the one in this process, the leader that another named, or
//! whoever is known, one after the other.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_rpc::proto::metadata::metadata_client::MetadataClient;
use abide_types::Role;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::options::MetadataOptions;
use crate::server::Core;
use crate::transport::{Channels, host_and_port};
use crate::view::View;

/// Hints that are followed without a pause. Two servers that name each other must not be asked in a circle.
const HINTS_MAX: u32 = 3;

/// What a client knows of the way to the servers.
pub(crate) struct Route {
    pub(crate) options: MetadataOptions,
    pub(crate) channels: Arc<Channels>,
    pub(crate) fingerprint: u64,
    pub(crate) local: Option<Arc<Core>>,
    pub(crate) view: watch::Sender<Arc<View>>,
    /// Why this client is of no use any more.
    pub(crate) superseded: watch::Sender<Option<String>>,
    leader: Mutex<Option<String>>,
}

/// Something that is asked of a server.
pub(crate) trait Operation: Sync {
    type Reply: Send;
    type Done: Send;

    /// Asks the server in this process.
    fn local(&self, core: &Core) -> impl Future<Output = Self::Reply> + Send;

    /// Asks another server.
    fn remote(
        &self,
        client: MetadataClient<Channel>,
        fingerprint: u64,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;

    /// What the reply means.
    fn outcome(&self, reply: Self::Reply) -> Outcome<Self::Done>;
}

/// What a server's reply means for the search.
pub(crate) enum Outcome<T> {
    Done(T),
    /// Not done; somebody else can.
    NotLeader(pb::NotLeader),
    /// Not done; later perhaps.
    NotYet(&'static str),
    /// It may have been done.
    Undecided,
}

/// Why an operation has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    NotDone(String),
    Unknown(String),
    Refused { address: String, detail: String },
}

/// What one attempt at one server came to.
enum Attempt<T> {
    Done(T),
    Elsewhere(pb::NotLeader),
    NotYet(String),
    NotSent(String),
    Unknown(String),
    Refused(String),
}

#[derive(Clone, PartialEq, Eq)]
enum Target {
    Local,
    Remote(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("the server in this process"),
            Self::Remote(address) => f.write_str(address),
        }
    }
}

/// What is known while an operation is tried.
#[derive(Default)]
struct Trail {
    maybe_done: bool,
    hints: u32,
    hint: Option<Target>,
    refused: Option<(Target, String)>,
    last: String,
}

impl Route {
    pub(crate) fn new(
        options: MetadataOptions,
        channels: Arc<Channels>,
        fingerprint: u64,
        local: Option<Arc<Core>>,
    ) -> Self {
        Self {
            options,
            channels,
            fingerprint,
            local,
            view: watch::Sender::new(Arc::default()),
            superseded: watch::Sender::new(None),
            leader: Mutex::new(None),
        }
    }

    /// Addresses of servers: those that are known from the documents, then the configured ones.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let view = self.view.borrow().clone();
        let mut addresses = Vec::new();
        let known = view
            .nodes
            .with_role(Role::MetadataServer)
            .map(|(_, entry)| entry.address.as_str());
        let own = self
            .local
            .as_ref()
            .map(|core| host_and_port(&core.description.address).to_owned());
        let configured = self.options.addresses.iter().map(String::as_str);
        for address in known.chain(configured).map(host_and_port) {
            let is_own = own.as_deref() == Some(address);
            if !is_own && !addresses.iter().any(|known| known == address) {
                addresses.push(address.to_owned());
            }
        }
        addresses
    }

    /// Whom to ask in one round.
    fn round(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        if let Some(leader) = self.leader.lock().clone() {
            targets.push(Target::Remote(leader));
        }
        if let Some(core) = &self.local {
            // The server in this process costs nothing to ask, and mostly knows who leads.
            let at = if core.is_leader() { 0 } else { targets.len() };
            targets.insert(at, Target::Local);
        }
        for address in self.addresses() {
            let target = Target::Remote(address);
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    /// Tries an operation until it is done, refused, or the time is over.
    pub(crate) async fn call<O: Operation>(
        &self,
        operation: &O,
        timeout: Duration,
    ) -> Result<O::Done, CallError> {
        let deadline = Instant::now() + timeout;
        let mut pause = self.options.retry_pause_min;
        let mut trail = Trail {
            last: "no server is known".into(),
            ..Trail::default()
        };
        loop {
            if let Some(done) = self.try_round(operation, deadline, &mut trail).await? {
                return Ok(done);
            }
            if deadline.saturating_duration_since(Instant::now()) <= pause {
                return Err(if trail.maybe_done {
                    CallError::Unknown(trail.last)
                } else {
                    CallError::NotDone(trail.last)
                });
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(self.options.retry_pause_max);
        }
    }

    /// Asks everybody once, and whom they name.
    async fn try_round<O: Operation>(
        &self,
        operation: &O,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Option<O::Done>, CallError> {
        let mut targets = self.round().into_iter();
        trail.hints = 0;
        trail.refused = None;
        let mut somebody_answered = false;
        while let Some(target) = trail.hint.take().or_else(|| targets.next()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let timeout = left.min(self.options.attempt_timeout);
            let attempt = self.attempt(operation, &target, timeout).await;
            let failed = |detail: &str| format!("{target}: {detail}");
            match attempt {
                Attempt::Done(done) => {
                    self.remember(&target);
                    return Ok(Some(done));
                }
                Attempt::Elsewhere(not_leader) => {
                    somebody_answered = true;
                    self.forget(&target);
                    trail.last = failed(&match not_leader.leader {
                        0 => "nobody is known to lead".into(),
                        node => format!("N{node} leads, at '{}'", not_leader.address),
                    });
                    self.follow(not_leader, &target, trail);
                }
                Attempt::NotYet(detail) => {
                    somebody_answered = true;
                    trail.last = failed(&detail);
                }
                Attempt::NotSent(detail) => {
                    self.forget(&target);
                    trail.last = failed(&detail);
                }
                Attempt::Unknown(detail) => {
                    self.forget(&target);
                    trail.maybe_done = true;
                    trail.last = failed(&detail);
                }
                Attempt::Refused(detail) => {
                    self.forget(&target);
                    trail.last = failed(&detail);
                    trail.refused = Some((target, detail));
                }
            }
        }
        // One address may have gone to another cluster. If nobody else is there, that is the answer.
        match trail.refused.take() {
            Some((target, detail)) if !somebody_answered && !trail.maybe_done => {
                Err(CallError::Refused {
                    address: target.to_string(),
                    detail,
                })
            }
            _ => Ok(None),
        }
    }

    fn follow(&self, not_leader: pb::NotLeader, from: &Target, trail: &mut Trail) {
        if not_leader.address.is_empty() || trail.hints >= HINTS_MAX {
            return;
        }
        let own = self
            .local
            .as_ref()
            .and_then(|core| core.node())
            .map(|node| node.0);
        let hint = if own == Some(not_leader.leader) {
            Target::Local
        } else {
            Target::Remote(host_and_port(&not_leader.address).to_owned())
        };
        if hint != *from {
            trail.hints += 1;
            trail.hint = Some(hint);
        }
    }

    fn remember(&self, target: &Target) {
        *self.leader.lock() = match target {
            Target::Local => None,
            Target::Remote(address) => Some(address.clone()),
        };
    }

    fn forget(&self, target: &Target) {
        let mut leader = self.leader.lock();
        if let (Target::Remote(address), Some(known)) = (target, leader.as_ref())
            && address == known
        {
            *leader = None;
        }
    }

    async fn attempt<O: Operation>(
        &self,
        operation: &O,
        target: &Target,
        timeout: Duration,
    ) -> Attempt<O::Done> {
        let reply = match target {
            Target::Local => match &self.local {
                Some(core) => tokio::time::timeout(timeout, operation.local(core))
                    .await
                    .map_err(|_| Attempt::Unknown(format!("no answer within {timeout:?}"))),
                None => Err(Attempt::NotSent("there is none".into())),
            },
            Target::Remote(address) => self.attempt_remote(operation, address, timeout).await,
        };
        match reply.map(|reply| operation.outcome(reply)) {
            Ok(Outcome::Done(done)) => Attempt::Done(done),
            Ok(Outcome::NotLeader(not_leader)) => Attempt::Elsewhere(not_leader),
            Ok(Outcome::NotYet(detail)) => Attempt::NotYet(detail.into()),
            Ok(Outcome::Undecided) => Attempt::Unknown("the outcome is not known there".into()),
            Err(attempt) => attempt,
        }
    }

    async fn attempt_remote<O: Operation>(
        &self,
        operation: &O,
        address: &str,
        timeout: Duration,
    ) -> Result<O::Reply, Attempt<O::Done>> {
        let deadline = Instant::now() + timeout;
        let client = match tokio::time::timeout(timeout, self.channels.metadata(address)).await {
            Ok(Ok(client)) => client,
            Ok(Err(detail)) => return Err(Attempt::NotSent(detail)),
            Err(_) => {
                return Err(Attempt::NotSent(format!(
                    "no connection within {timeout:?}"
                )));
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = operation.remote(client, self.fingerprint, left);
        match tokio::time::timeout(left, asked).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => {
                let detail = format!("{}: {}", status.code(), status.message());
                match status.code() {
                    Code::FailedPrecondition
                    | Code::InvalidArgument
                    | Code::OutOfRange
                    | Code::ResourceExhausted
                    | Code::Unimplemented => Err(Attempt::Refused(status.message().to_owned())),
                    _ => {
                        self.channels.forget_if_broken(address, &status);
                        Err(Attempt::Unknown(detail))
                    }
                }
            }
            Err(_) => {
                self.channels.forget(address);
                Err(Attempt::Unknown(format!("no answer within {timeout:?}")))
            }
        }
    }
}

/// Between half and the whole of a pause, so that many clients do not come at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
