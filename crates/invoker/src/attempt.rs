//! One attempt: its exchange with the endpoint, its queues and its timers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use abide_schema::{Deployment, HttpVersion, ProtocolType, Schema};
use abide_service_protocol::{
    ErrorCode, Frame, FrameDecoder, MessageType, ProtocolVersion, RawEntry, proto,
};
use abide_types::{DeploymentId, TraceContext};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::{Attempt, Effect, Effects, PinnedDeployment, ToAttempt};
use crate::deployment::percent_encoded;
use crate::exchange::{Exchange, ExchangeError};
use crate::failure::Trouble;
use crate::head;
use crate::invoker::Shared;
use crate::metrics::RequestType;
use crate::outgoing::Outgoing;
use crate::pool::Remote;
use crate::session::{Limits, Session, frame_trouble};
use crate::trace::Recorder;

/// What is told the leader at a time; more has to wait until it has taken this.
const EFFECTS_MAX: usize = 128;
const EFFECT_BYTES_MAX: usize = 1024 * 1024;
/// The journal is encoded this far ahead of what the endpoint takes.
const REPLAY_AHEAD: usize = 64 * 1024;
/// Messages of the leader wait in their queue while this much is not yet sent.
const MESSAGES_AHEAD: usize = 256 * 1024;
/// Half-received bytes that every attempt may have; more comes out of the common budget.
const MEMORY_FREE: usize = 64 * 1024;
/// What surrounds a message that is as large as an attempt's memory: its frame, and the next one's beginning.
const MEMORY_SPARE: usize = 512 * 1024;
/// The budget is counted in these.
pub(crate) const MEMORY_UNIT: usize = 1024;
/// Longer waits would overflow the clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How many permits stand for so many bytes.
pub(crate) fn memory_units(bytes: usize) -> usize {
    (bytes / MEMORY_UNIT).min(Semaphore::MAX_PERMITS)
}

/// Runs an attempt to its end.
pub(crate) async fn run(
    shared: &Shared,
    slot: OwnedSemaphorePermit,
    mut attempt: Attempt,
    effects: mpsc::Sender<Effects>,
    messages: mpsc::Receiver<ToAttempt>,
    token: CancellationToken,
) {
    let reporter = Reporter {
        invocation: attempt.invocation,
        attempt: attempt.attempt,
        sender: effects,
    };
    let cancelled = token.cancelled();
    let mut cancelled = pin!(cancelled);
    let mut recorder = Recorder::new(&shared.options.tracer, &attempt);
    let began = begin(shared, &mut attempt, &mut recorder);
    let began = tokio::select! {
        biased;
        () = &mut cancelled => return,
        began = began => began,
    };
    let (exchange, plan) = match began {
        Ok(began) => began,
        Err((trouble, deployment)) => {
            shared.count_failure();
            let failed = Effect::Failed(trouble.into_attempt_failure(deployment));
            if let Some(recorder) = &mut recorder {
                recorder.note(&failed);
            }
            tokio::select! {
                () = &mut cancelled => {}
                _ = reporter.sender.send(reporter.effects(vec![failed])) => {}
            }
            return;
        }
    };
    let drain_timeout = shared.options.drain_timeout;
    let mut driver = Driver::new(shared, attempt, exchange, plan, reporter, messages);
    driver.recorder = recorder;
    let mut sleep = pin!(tokio::time::sleep_until(driver.deadline()));
    let ended = poll_fn(|cx| {
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::Aborted);
        }
        driver.poll(cx, sleep.as_mut())
    })
    .await;
    drop(slot);
    match ended {
        Ended::Drain => {
            let drained = timeout(drain_timeout, poll_fn(|cx| driver.poll_drain(cx))).await;
            if drained.is_err() {
                driver.exchange.reset();
            }
        }
        Ended::Aborted => driver.exchange.reset(),
    }
}

/// Where and how the attempt runs.
struct Plan {
    deployment: DeploymentId,
    version: ProtocolVersion,
    /// To be pinned with the first entry.
    unpinned: Option<PinnedDeployment>,
    request_response: bool,
    inactivity_timeout: Duration,
    abort_timeout: Duration,
    http_version: HttpVersion,
}

impl Plan {
    fn request_type(&self) -> RequestType {
        match self.request_response {
            true => RequestType::RequestResponse,
            false => RequestType::Bidirectional,
        }
    }
}

type Failed = (Trouble, Option<DeploymentId>);

async fn begin(
    shared: &Shared,
    attempt: &mut Attempt,
    recorder: &mut Option<Recorder>,
) -> Result<(Exchange, Plan), Failed> {
    let schema = shared.schema.borrow().clone();
    let (plan, remote) = plan(shared, &schema, attempt)?;
    if let Some(recorder) = recorder {
        let id = plan.deployment.to_string();
        recorder.runs_at(id, remote.uri(), plan.version.number());
    }
    let request = request(shared, &remote, &plan, attempt);
    match Exchange::begin(&remote, plan.http_version, request).await {
        Ok(exchange) => Ok((exchange, plan)),
        Err(error) => {
            shared.metrics.unanswered(plan.request_type());
            Err((exchange_trouble(&error), Some(plan.deployment)))
        }
    }
}

fn plan(
    shared: &Shared,
    schema: &Schema,
    attempt: &Attempt,
) -> Result<(Plan, Arc<Remote>), Failed> {
    let target = &attempt.target;
    let deployment = match attempt.pinned {
        Some(pinned) => schema.deployment(pinned.deployment).ok_or_else(|| {
            let message = format!(
                "deployment {} is not registered any more, and the invocation is bound to it",
                pinned.deployment
            );
            (no_deployment(message), Some(pinned.deployment))
        })?,
        None => schema
            .latest_deployment_of(&target.service)
            .ok_or_else(|| {
                let message = format!("no deployment offers the service {}", target.service);
                (no_deployment(message), None)
            })?,
    };
    let fail = |trouble| (trouble, Some(deployment.id));
    let version = version(deployment, attempt.pinned).map_err(fail)?;
    let handler = schema
        .resolve_at(deployment.id, &target.service, &target.handler)
        .map_err(|error| fail(no_deployment(error.to_string())))?;
    let remote = shared
        .pool
        .remote(deployment)
        .map_err(|error| fail(Trouble::coded(ErrorCode::Rt0010, error.to_string())))?;
    let settings = &handler.settings;
    let plan = Plan {
        deployment: deployment.id,
        version,
        unpinned: attempt.pinned.is_none().then_some(PinnedDeployment {
            deployment: deployment.id,
            protocol: version.number(),
        }),
        // A bidirectional stream over HTTP/1.1 works with few servers; the other mode works with all.
        request_response: deployment.protocol_type == ProtocolType::RequestResponse
            || deployment.http_version == HttpVersion::Http11
            || settings.inactivity_timeout.is_zero(),
        inactivity_timeout: settings.inactivity_timeout.min(TIMEOUT_MAX),
        abort_timeout: settings.abort_timeout.min(TIMEOUT_MAX),
        http_version: deployment.http_version,
    };
    Ok((plan, remote))
}

fn no_deployment(message: String) -> Trouble {
    Trouble::coded(ErrorCode::Rt0011, message).not_counted()
}

fn version(
    deployment: &Deployment,
    pinned: Option<PinnedDeployment>,
) -> Result<ProtocolVersion, Trouble> {
    match pinned {
        Some(pinned) => ProtocolVersion::from_number(pinned.protocol).ok_or_else(|| {
            let message = format!(
                "the invocation is bound to service protocol {}, which this server does not speak",
                pinned.protocol
            );
            Trouble::coded(ErrorCode::Rt0014, message).not_counted()
        }),
        None => ProtocolVersion::choose(
            deployment.min_protocol_version,
            deployment.max_protocol_version,
        )
        .ok_or_else(|| {
            let message = format!(
                "deployment {} speaks service protocol {} to {}, this server {} to {}",
                deployment.id,
                deployment.min_protocol_version,
                deployment.max_protocol_version,
                ProtocolVersion::MIN.number(),
                ProtocolVersion::MAX.number(),
            );
            let dropped = deployment.max_protocol_version < ProtocolVersion::MIN.number().into();
            let code = match dropped {
                true => ErrorCode::Rt0020,
                false => ErrorCode::Rt0013,
            };
            Trouble::coded(code, message).not_counted()
        }),
    }
}

fn request(shared: &Shared, remote: &Remote, plan: &Plan, attempt: &Attempt) -> Request<()> {
    let target = &attempt.target;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    let path = ["invoke", &target.service, &target.handler];
    *request.uri_mut() = remote.address.uri(&path);
    let headers = request.headers_mut();
    headers.extend(remote.address.headers.clone());
    let content_type = HeaderValue::from_static(plan.version.content_type());
    headers.insert(header::CONTENT_TYPE, content_type.clone());
    headers.insert(header::ACCEPT, content_type);
    let id = Bytes::from(attempt.invocation.to_string());
    if let Ok(id) = HeaderValue::from_maybe_shared(id) {
        headers.insert("x-restate-invocation-id", id);
    }
    if let Some(key) = &target.key {
        headers.insert("x-restate-service-key", percent_encoded(key));
    }
    if let Some(trace) = &attempt.trace {
        put_trace(&trace.context, headers);
    }
    if let Some(identity) = &shared.options.identity {
        identity.sign(&path, target.key.as_deref(), headers);
    }
    request
}

/// Both headers, the second even if it is empty.
fn put_trace(context: &TraceContext, headers: &mut HeaderMap) {
    let value = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text));
    if let (Ok(parent), Ok(state)) = (value(context.parent()), value(context.state.clone())) {
        headers.insert("traceparent", parent);
        headers.insert("tracestate", state);
    }
}

fn exchange_trouble(error: &ExchangeError) -> Trouble {
    let trouble = Trouble::coded(ErrorCode::Rt0010, error.to_string());
    match error {
        // Nobody's fault, and the next connection is another one.
        ExchangeError::Stale(_) => trouble.after(Duration::ZERO).not_counted(),
        ExchangeError::Connect(_) | ExchangeError::Broken(_) => trouble,
    }
}

/// Speaks for one attempt.
struct Reporter {
    invocation: abide_types::InvocationId,
    attempt: crate::api::AttemptId,
    sender: mpsc::Sender<Effects>,
}

impl Reporter {
    fn effects(&self, effects: Vec<Effect>) -> Effects {
        Effects {
            invocation: self.invocation,
            attempt: self.attempt,
            effects,
        }
    }
}

enum Ended {
    /// The last effect is delivered, the response may end by itself.
    Drain,
    /// Nobody waits for anything: by the leader's will, or after a failure that leaves nothing to read.
    Aborted,
}

/// How far the request's body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Start and the journal are being sent.
    Replaying,
    /// What the leader has to tell is sent.
    Open,
    /// The body has ended.
    Closed,
}

type Reserving = Pin<
    Box<dyn Future<Output = Result<mpsc::OwnedPermit<Effects>, mpsc::error::SendError<()>>> + Send>,
>;

struct Driver<'a> {
    shared: &'a Shared,
    reporter: Reporter,
    messages: mpsc::Receiver<ToAttempt>,
    exchange: Exchange,
    session: Session,
    plan: Plan,
    decoder: FrameDecoder,
    journal: std::vec::IntoIter<RawEntry>,
    outgoing: Outgoing,
    /// The leader's queue was left because too much is unsent.
    more_messages: bool,
    phase: Phase,
    has_head: bool,
    /// What the leader is not yet told. Nothing is read while this waits.
    effects: Vec<Effect>,
    effect_bytes: usize,
    /// The last of them is terminal.
    terminal: bool,
    /// After the last effect the stream is reset instead of drained.
    reset_after: bool,
    reserving: Option<Reserving>,
    memory: Option<OwnedSemaphorePermit>,
    recorder: Option<Recorder>,
    /// When something last went either way; while replaying, when the endpoint last took some of it.
    active_at: Instant,
}

impl<'a> Driver<'a> {
    fn new(
        shared: &'a Shared,
        attempt: Attempt,
        exchange: Exchange,
        mut plan: Plan,
        reporter: Reporter,
        messages: mpsc::Receiver<ToAttempt>,
    ) -> Self {
        let session = Session::new(
            &attempt.target,
            plan.version,
            plan.unpinned.take(),
            &attempt.journal,
            shared.schema.clone(),
            Limits {
                await_depth_max: shared.options.await_depth_max,
                scopes: shared.options.scopes,
            },
        );
        let mut outgoing = Outgoing::default();
        let known_entries = u32::try_from(attempt.journal.len()).unwrap_or(u32::MAX);
        let journal = attempt.journal;
        let start = proto::Start {
            id: Bytes::copy_from_slice(&attempt.invocation.to_bytes()),
            debug_id: attempt.invocation.to_string(),
            known_entries,
            state_map: attempt
                .state
                .into_iter()
                .map(|(key, value)| proto::start::StateEntry { key, value })
                .collect(),
            partial_state: attempt.partial_state,
            key: attempt.target.key.unwrap_or_default(),
            retry_count_since_last_stored_entry: attempt.retry_count,
            duration_since_last_stored_entry: u64::try_from(attempt.since_last_entry.as_millis())
                .unwrap_or(u64::MAX),
            random_seed: attempt.random_seed,
            scope: attempt
                .scope
                .filter(|_| plan.version >= ProtocolVersion::V7),
            limit_key: attempt
                .limit_key
                .filter(|_| plan.version >= ProtocolVersion::V7),
            idempotency_key: attempt
                .idempotency_key
                .filter(|_| plan.version >= ProtocolVersion::V7),
        };
        outgoing.put_message(MessageType::Start, &start);
        Self {
            shared,
            reporter,
            messages,
            exchange,
            session,
            plan,
            decoder: FrameDecoder::new(shared.options.message_bytes_max),
            journal: journal.into_iter(),
            outgoing,
            more_messages: false,
            phase: Phase::Replaying,
            has_head: false,
            effects: Vec::new(),
            effect_bytes: 0,
            terminal: false,
            reset_after: false,
            reserving: None,
            memory: None,
            recorder: None,
            active_at: Instant::now(),
        }
    }

    fn deadline(&self) -> Instant {
        self.active_at
            + match self.phase {
                Phase::Open => self.plan.inactivity_timeout,
                Phase::Replaying | Phase::Closed => self.plan.abort_timeout,
            }
    }

    /// Goes on as far as it can. Every source is asked until it has nothing more, so that what came together is
    /// told together.
    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<Ended> {
        loop {
            if self.effects.is_empty() {
                self.poll_read(cx);
            }
            let phase = self.phase;
            loop {
                if !self.poll_messages(cx) {
                    return Poll::Ready(Ended::Aborted);
                }
                self.poll_write(cx);
                if !self.more_messages || self.outgoing.len() >= MESSAGES_AHEAD {
                    break;
                }
            }
            if phase != self.phase {
                sleep.as_mut().reset(self.deadline());
            }
            if !self.effects.is_empty() {
                match self.poll_deliver(cx) {
                    Poll::Ready(Ok(())) if self.terminal => {
                        return Poll::Ready(if self.reset_after {
                            Ended::Aborted
                        } else {
                            Ended::Drain
                        });
                    }
                    // There may be more to read: the wake-up for it is not due before it has been asked.
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(())) => return Poll::Ready(Ended::Aborted),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= self.deadline() {
                self.on_timeout();
            }
            sleep.as_mut().reset(self.deadline());
        }
    }

    /// Reads what there is into `effects`, up to their limit.
    fn poll_read(&mut self, cx: &mut Context<'_>) {
        if let Err(trouble) = self.try_read(cx) {
            self.fail(trouble);
        }
    }

    fn try_read(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        if !self.has_head {
            let Poll::Ready(response) = self.exchange.poll_head(cx) else {
                return Ok(());
            };
            let ty = self.plan.request_type();
            let response = response.map_err(|error| {
                self.shared.metrics.unanswered(ty);
                self.broken(&error)
            })?;
            self.has_head = true;
            self.shared.metrics.answered(ty, response.status());
            head::check(
                response.status(),
                response.headers(),
                self.plan.version,
                SystemTime::now(),
            )?;
        }
        loop {
            while let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|error| frame_trouble(&error))?
            {
                self.active_at = Instant::now();
                self.effect_bytes += frame.payload.len();
                if frame.payload.len() >= self.shared.options.message_bytes_warn {
                    self.warn_of(&frame);
                }
                let before = self.effects.len();
                self.session.on_frame(frame, &mut self.effects)?;
                if let Some(recorder) = &mut self.recorder {
                    for effect in &self.effects[before..] {
                        recorder.note(effect);
                    }
                }
                if self.effects.last().is_some_and(Effect::is_terminal) {
                    self.end();
                    return Ok(());
                }
                if self.effects.len() >= EFFECTS_MAX || self.effect_bytes >= EFFECT_BYTES_MAX {
                    return Ok(());
                }
            }
            self.take_memory()?;
            match self.exchange.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.shared
                        .metrics
                        .received_bytes
                        .increment(data.len() as u64);
                    self.decoder.push(data);
                }
                Poll::Ready(Some(Err(error))) => return Err(self.broken(&error)),
                Poll::Ready(None) => {
                    self.decoder
                        .finish()
                        .map_err(|error| frame_trouble(&error))?;
                    return Err(Trouble::cut());
                }
                Poll::Pending => return Ok(()),
            }
        }
    }

    #[cold]
    fn warn_of(&self, frame: &Frame) {
        let ty = MessageType::from_code(frame.ty).map_or("unknown", MessageType::name);
        tracing::warn!(
            invocation = %self.reporter.invocation,
            deployment = %self.plan.deployment,
            ty,
            bytes = frame.payload.len(),
            "a service sent a large message"
        );
    }

    /// Keeps as much of the common budget as is half received.
    fn take_memory(&mut self) -> Result<(), Trouble> {
        let buffered = self.decoder.buffered();
        if buffered <= MEMORY_FREE {
            self.memory = None;
            return Ok(());
        }
        let most = self.shared.options.attempt_memory_bytes_max;
        if buffered > most.saturating_add(MEMORY_SPARE) {
            let message = format!("more than {most} bytes of messages are half received");
            return Err(Trouble::coded(ErrorCode::Rt0001, message).not_counted());
        }
        let needed = buffered.div_ceil(MEMORY_UNIT);
        let held = self
            .memory
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = needed.checked_sub(held).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| {
                self.shared
                    .memory
                    .clone()
                    .try_acquire_many_owned(missing)
                    .ok()
            })
            .ok_or_else(|| {
                self.shared.metrics.memory_refused.increment(1);
                Trouble::coded(
                    ErrorCode::Rt0001,
                    "the memory budget for messages of deployments is used up",
                )
                .not_counted()
            })?;
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            None => self.memory = Some(more),
        }
        Ok(())
    }

    /// Encodes the leader's messages while the request is open. `false` when the leader has dropped its end.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> bool {
        self.more_messages = false;
        if self.terminal {
            return true;
        }
        while self.outgoing.len() < MESSAGES_AHEAD {
            // Until the journal is sent nothing may come between; then what is in it is dropped by its index.
            if self.phase == Phase::Replaying {
                return !self.messages.is_closed() || !self.messages.is_empty();
            }
            match self.messages.poll_recv(cx) {
                Poll::Ready(Some(message)) if self.phase == Phase::Open => {
                    self.active_at = Instant::now();
                    self.session.on_message(message, &mut self.outgoing);
                }
                // The next attempt finds it in the journal.
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return false,
                Poll::Pending => return true,
            }
        }
        self.more_messages = true;
        true
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Replaying {
            loop {
                while self.outgoing.len() < REPLAY_AHEAD {
                    let Some(entry) = self.journal.next() else {
                        break;
                    };
                    self.outgoing.put_entry(entry);
                }
                let last = self.journal.len() == 0;
                let unsent = self.outgoing.len();
                let end = last && self.plan.request_response;
                let sent = self.exchange.poll_send(cx, &mut self.outgoing, end);
                let taken = unsent.saturating_sub(self.outgoing.len());
                if 0 < taken {
                    self.active_at = Instant::now();
                    self.shared.metrics.sent_bytes.increment(taken as u64);
                }
                match sent {
                    Poll::Ready(Ok(())) if last => {
                        self.phase = match end {
                            true => Phase::Closed,
                            false => Phase::Open,
                        };
                        // From now on the leader's messages count.
                        self.more_messages = true;
                        return;
                    }
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.stop_sending();
                        return;
                    }
                    Poll::Pending => return,
                }
            }
        }
        let end = self.phase == Phase::Closed;
        let unsent = self.outgoing.len();
        let sent = self.exchange.poll_send(cx, &mut self.outgoing, end);
        let taken = unsent.saturating_sub(self.outgoing.len());
        if 0 < taken {
            self.shared.metrics.sent_bytes.increment(taken as u64);
        }
        if let Poll::Ready(Err(_)) = sent {
            self.stop_sending();
        }
    }

    /// The endpoint takes no more. Why, the response says: it may even be a good one.
    fn stop_sending(&mut self) {
        self.outgoing.clear();
        self.journal = Vec::new().into_iter();
        self.phase = Phase::Closed;
    }

    /// Tells the leader.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        if let Some(reserving) = &mut self.reserving {
            let permit = std::task::ready!(reserving.as_mut().poll(cx));
            self.reserving = None;
            let permit = permit.map_err(|_| ())?;
            let effects = self.take_effects();
            permit.send(effects);
            return Poll::Ready(Ok(()));
        }
        let effects = self.take_effects();
        match self.reporter.sender.try_send(effects) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(mpsc::error::TrySendError::Closed(_)) => Poll::Ready(Err(())),
            Err(mpsc::error::TrySendError::Full(effects)) => {
                self.effects = effects.effects;
                self.reserving = Some(Box::pin(self.reporter.sender.clone().reserve_owned()));
                self.poll_deliver(cx)
            }
        }
    }

    fn take_effects(&mut self) -> Effects {
        // The leader's slowness is not the endpoint's inactivity.
        self.active_at = Instant::now();
        self.effect_bytes = 0;
        let effects = std::mem::take(&mut self.effects);
        self.reporter.effects(effects)
    }

    fn on_timeout(&mut self) {
        match self.phase {
            Phase::Open => {
                // The endpoint may still have much to say.
                self.phase = Phase::Closed;
                self.active_at = Instant::now();
            }
            Phase::Replaying | Phase::Closed => {
                self.fail(Trouble::coded(
                    ErrorCode::Rt0001,
                    format!(
                        "nothing was heard of the endpoint for {:?}",
                        self.plan.abort_timeout
                    ),
                ));
                self.reset_after = true;
            }
        }
    }

    fn broken(&mut self, error: &ExchangeError) -> Trouble {
        self.reset_after = true;
        exchange_trouble(error)
    }

    fn fail(&mut self, trouble: Trouble) {
        self.shared.count_failure();
        let failure = trouble.into_attempt_failure(Some(self.plan.deployment));
        tracing::debug!(
            invocation = %self.reporter.invocation,
            code = failure.code,
            error = %failure.failure,
            "attempt failed"
        );
        let failed = Effect::Failed(failure);
        if let Some(recorder) = &mut self.recorder {
            recorder.note(&failed);
        }
        self.effects.push(failed);
        self.end();
    }

    /// The endpoint's response ends when it sees the end of the request.
    fn end(&mut self) {
        self.terminal = true;
        self.outgoing.clear();
        self.journal = Vec::new().into_iter();
        self.phase = Phase::Closed;
        self.memory = None;
    }

    /// Ready when the response has ended.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(Err(_)) = self.exchange.poll_send(cx, &mut self.outgoing, true) {
            return Poll::Ready(());
        }
        if !self.has_head {
            match std::task::ready!(self.exchange.poll_head(cx)) {
                Ok(_) => self.has_head = true,
                Err(_) => return Poll::Ready(()),
            }
        }
        loop {
            match std::task::ready!(self.exchange.poll_data(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    }
}
