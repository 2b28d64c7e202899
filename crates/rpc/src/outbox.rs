//! What waits to be written to one connection, and the calls that wait for an answer from it.
//!
//! Senders copy small frames straight into the buffer that the connection writes next, so a message costs
//! one short lock and no allocation, and everything that waits leaves in one write. Large payloads are
//! queued by reference. Not here: the writing (see [`crate::connection`]).

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use crate::frame::{ERROR_DROPPED, ERROR_REFUSED, Header, Kind};

/// From here on a payload is queued by reference: below, copying is cheaper than one more slice to write.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// A buffer that a burst made larger than this is not kept.
const BUFFER_KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Slices handed to one vectored write.
const SLICES_MAX: usize = 64;

/// Why a message was not sent. In every case nothing left this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection to the node at the moment.
    #[error("the node is not connected")]
    Unreachable,
    /// The node takes messages more slowly than they are sent; try again when some have left.
    #[error("the send queue is full")]
    Full,
    /// No frame may be that large.
    #[error("a payload of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The limit that both ends keep.
        bytes_max: usize,
    },
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not done: there is no connection to the node at the moment.
    #[error("the node is not connected")]
    Unreachable,
    /// Not done: the node takes messages more slowly than they are sent.
    #[error("the send queue is full")]
    Full,
    /// Not done: no frame may be that large.
    #[error("a payload of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The limit that both ends keep.
        bytes_max: usize,
    },
    /// Not done: the other node says why.
    #[error("refused: {0}")]
    Refused(String),
    /// Unknown: the connection broke, or the handler gave up, before the answer came.
    #[error("the connection broke before the answer came")]
    Broken,
    /// Unknown: the deadline passed before the answer came.
    #[error("no answer before the deadline")]
    TimedOut,
}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unreachable => Self::Unreachable,
            SendError::Full => Self::Full,
            SendError::TooLarge { bytes, bytes_max } => Self::TooLarge { bytes, bytes_max },
        }
    }
}

type Answer = Result<Bytes, CallError>;

/// The queue of one connection. A link keeps one across its reconnects; it takes nothing while closed.
pub(crate) struct Outbox {
    state: Mutex<State>,
    limits: Limits,
    /// Whether anything was read since the last tick.
    heard: AtomicBool,
    /// Ticks in a row in which nothing was read.
    silent_ticks: AtomicU32,
}

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub payload_bytes_max: usize,
    pub queue_bytes_max: usize,
}

/// Invariant: `bytes` counts what is queued and what the connection took but has not written yet.
#[derive(Default)]
struct State {
    open: bool,
    /// Complete pieces that leave before `staging`.
    chunks: VecDeque<Bytes>,
    staging: Vec<u8>,
    bytes: usize,
    /// Whether anything but a ping was queued since the last tick.
    wrote: bool,
    waker: Option<Waker>,
    /// Whether the connection sleeps and wants to hear of the next frame.
    armed: bool,
    correlation_last: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

/// What [`Outbox::take`] found.
pub(crate) enum Taken {
    Frames,
    Nothing,
    Closed,
}

impl Outbox {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            limits,
            heard: AtomicBool::new(false),
            silent_ticks: AtomicU32::new(0),
        })
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// A new connection stands; from here on frames are taken.
    pub fn open(&self) {
        self.heard.store(true, Ordering::Relaxed);
        self.silent_ticks.store(0, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.open = true;
        state.bytes = 0;
    }

    /// Ends the connection: what waits is forgotten, and every call that waits for an answer is told.
    pub fn close(&self) {
        let (waiting, waker) = {
            let mut state = self.state.lock();
            state.open = false;
            state.chunks.clear();
            state.staging = Vec::new();
            (mem::take(&mut state.waiting), state.waker.take())
        };
        for answer in waiting.into_values() {
            let _ = answer.send(Err(CallError::Broken));
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// Queues a message.
    pub fn send(&self, service: u8, payload: Bytes) -> Result<(), SendError> {
        let mut state = self.state.lock();
        self.check(&state, payload.len())?;
        let waker = state.push(Kind::Message, service, 0, payload);
        drop(state);
        wake(waker);
        Ok(())
    }

    /// Queues a call; its answer comes through the receiver. Dropping [`Waiting`] forgets the call.
    pub fn call(self: &Arc<Self>, service: u8, payload: Bytes) -> Result<Waiting, SendError> {
        let mut state = self.state.lock();
        self.check(&state, payload.len())?;
        state.correlation_last += 1;
        let correlation = state.correlation_last;
        let (sender, answer) = oneshot::channel();
        state.waiting.insert(correlation, sender);
        let waker = state.push(Kind::Call, service, correlation, payload);
        drop(state);
        wake(waker);
        Ok(Waiting {
            outbox: Arc::clone(self),
            correlation,
            answer,
        })
    }

    /// Queues an answer. A node that asks without reading the answers loses the connection: they cannot
    /// pile up here without bound, and an answer that is left out would look like one that is late.
    pub fn answer(&self, kind: Kind, service: u8, correlation: u64, payload: Bytes) {
        let mut state = self.state.lock();
        if !state.open {
            return;
        }
        if state.bytes > 0 && state.bytes + payload.len() > self.limits.queue_bytes_max {
            drop(state);
            tracing::warn!("answers are not read; closing the connection");
            self.close();
            return;
        }
        let waker = state.push(kind, service, correlation, payload);
        drop(state);
        wake(waker);
    }

    fn give(&self, correlation: u64, answer: Answer) {
        let (kind, code, payload) = match answer {
            Ok(payload) if payload.len() <= self.limits.payload_bytes_max => {
                (Kind::Reply, 0, payload)
            }
            Ok(payload) => {
                tracing::error!(
                    bytes = payload.len(),
                    "answer is larger than a frame may be"
                );
                (Kind::Error, ERROR_DROPPED, Bytes::new())
            }
            Err(CallError::Refused(reason)) => (Kind::Error, ERROR_REFUSED, Bytes::from(reason)),
            Err(_) => (Kind::Error, ERROR_DROPPED, Bytes::new()),
        };
        self.answer(kind, code, correlation, payload);
    }

    /// Largest payload that a frame may have.
    pub fn payload_bytes_max(&self) -> usize {
        self.limits.payload_bytes_max
    }

    /// Hands an answer to the call that waits for it; one that nobody waits for any more is dropped.
    pub fn answered(&self, correlation: u64, answer: Answer) {
        let sender = self.state.lock().waiting.remove(&correlation);
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }

    fn check(&self, state: &State, bytes: usize) -> Result<(), SendError> {
        let bytes_max = self.limits.payload_bytes_max;
        if bytes > bytes_max {
            return Err(SendError::TooLarge { bytes, bytes_max });
        }
        if !state.open {
            return Err(SendError::Unreachable);
        }
        // An empty queue takes any payload, or one of the largest size could never leave.
        if state.bytes > 0 && state.bytes + bytes > self.limits.queue_bytes_max {
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Something came in.
    pub fn note_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// One heartbeat interval has passed: pings if the line was quiet, closes if it was for too long.
    ///
    /// Counting ticks instead of time keeps a process that was itself stopped for a while from taking
    /// its own absence for everybody else's.
    pub fn tick(&self, pings: bool, silent_ticks_max: u32) {
        let silent = if self.heard.swap(false, Ordering::Relaxed) {
            self.silent_ticks.store(0, Ordering::Relaxed);
            0
        } else {
            self.silent_ticks.fetch_add(1, Ordering::Relaxed) + 1
        };
        if silent > silent_ticks_max {
            self.close();
            return;
        }
        if !pings {
            return;
        }
        let mut state = self.state.lock();
        let wrote = mem::take(&mut state.wrote);
        // With much waiting to be written, a ping behind it all would tell nothing sooner.
        if !state.open || (wrote && silent == 0) || state.bytes > COPY_BYTES_MAX {
            return;
        }
        let waker = state.push(Kind::Ping, 0, 0, Bytes::new());
        state.wrote = false;
        drop(state);
        wake(waker);
    }

    /// The connection is awake: it need not be woken for frames. False if it was closed.
    pub fn attend(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        state.armed = false;
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        state.open
    }

    /// Gives back what `batch` has written and fills it with all that waits.
    pub fn take(&self, batch: &mut Batch) -> Taken {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(mem::take(&mut batch.written));
        if !state.open {
            return Taken::Closed;
        }
        if state.chunks.is_empty() && state.staging.is_empty() {
            state.armed = true;
            return Taken::Nothing;
        }
        batch.fill(&mut state);
        Taken::Frames
    }
}

impl State {
    /// Queues a frame; the caller wakes the connection once it has let go of the lock.
    fn push(&mut self, kind: Kind, service: u8, correlation: u64, payload: Bytes) -> Option<Waker> {
        let header = Header {
            length: u32::try_from(payload.len()).expect("payloads are limited to less"),
            kind,
            service,
            correlation,
        };
        self.staging.extend_from_slice(&header.encode());
        self.bytes += Header::LENGTH + payload.len();
        if payload.len() <= COPY_BYTES_MAX {
            self.staging.extend_from_slice(&payload);
        } else {
            self.chunks
                .push_back(Bytes::from(mem::take(&mut self.staging)));
            self.chunks.push_back(payload);
        }
        self.wrote = true;
        if mem::take(&mut self.armed) {
            self.waker.clone()
        } else {
            None
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A call that waits for its answer.
pub(crate) struct Waiting {
    outbox: Arc<Outbox>,
    correlation: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    pub async fn answer(mut self) -> Answer {
        (&mut self.answer).await.unwrap_or(Err(CallError::Broken))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.outbox.state.lock().waiting.remove(&self.correlation);
    }
}

/// What a connection has taken and is writing.
#[derive(Default)]
pub(crate) struct Batch {
    chunks: VecDeque<Bytes>,
    tail: Vec<u8>,
    tail_written: usize,
    /// Since the last [`Outbox::take`].
    written: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail_written == self.tail.len()
    }

    fn fill(&mut self, state: &mut State) {
        self.tail.clear();
        self.tail_written = 0;
        if self.tail.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.tail = Vec::new();
        }
        mem::swap(&mut self.chunks, &mut state.chunks);
        mem::swap(&mut self.tail, &mut state.staging);
    }

    /// Writes once, as much as the stream takes.
    pub fn poll_write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let tail = &self.tail[self.tail_written..];
        let written = if self.chunks.is_empty() {
            ready!(stream.poll_write(cx, tail))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let pieces = self.chunks.iter().map(|chunk| &chunk[..]);
            let count = slices
                .iter_mut()
                .zip(pieces.chain([tail]))
                .map(|(slice, piece)| *slice = IoSlice::new(piece))
                .count();
            ready!(stream.poll_write_vectored(cx, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.written += count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                chunk.advance(count);
                return;
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail_written += count;
    }
}

/// Where the answer to a call goes.
pub(crate) enum Return {
    Remote {
        outbox: Arc<Outbox>,
        correlation: u64,
    },
    Local(oneshot::Sender<Answer>),
}

impl Return {
    pub fn give(self, answer: Answer) {
        match self {
            Self::Local(sender) => {
                let _ = sender.send(answer);
            }
            Self::Remote {
                outbox,
                correlation,
            } => outbox.give(correlation, answer),
        }
    }
}
