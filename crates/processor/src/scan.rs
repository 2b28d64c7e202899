//! Reads the rows of a partition for queries: its leader's, in pages, beside the leader's own loop.
//!
//! A page is read from a short [`Stretch`] of the store on a thread that may block: the loop waits while up to
//! [`CHANGED_ROWS_MAX`] changed rows are copied, some tens of microseconds, and never for the disk. Twice it is asked
//! something: whether it leads, and what it knows of the attempts of those invocations on the page that are invoked.
//! Start at [`Scans::serve`].
//!
//! [`Stretch`]: abide_partition_store::Stretch

#![allow(
    clippy::result_large_err,
    reason = "an error is the answer itself, made once a request"
)]

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use abide_partition_store::PartitionReader;
use abide_rpc::proto::partition as wire;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{self as state, Status};
use abide_types::{DeploymentId, InvocationId, PartitionId, Timestamp};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::api::RouteError;
use crate::directory::Event;
use crate::partition::chain_of;
use crate::waiters::Responder;
use crate::wire::{Malformed, Response};

/// Pages that are read at a time on one node.
const PAGES_AT_ONCE: usize = 4;
/// Pages that wait for that.
const PAGES_WAITING_MAX: usize = 256;
/// Changed rows that are copied for one page, while the partition's task may have to wait.
const CHANGED_ROWS_MAX: usize = 1024;
/// Rows that are looked at for one page.
const LOOKED_AT_MAX: usize = 16 * 1024;
/// Rows of one page, whatever is asked for.
const ROWS_MAX: usize = 4096;
/// Bytes of one page, whatever is asked for; one row may be larger.
const BYTES_MAX: usize = 4 << 20;
/// A result is not sent whole when it is larger: no table shows it.
const OUTCOME_BYTES_MAX: usize = 256;

/// Rows that are wanted of one partition.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Keys in the store, in order and apart from each other; the end of each is not wanted any more. The first byte
    /// of a key is its table.
    pub ranges: Vec<Range<Bytes>>,
    /// Whether what the leader knows of attempts is wanted, of invocations.
    pub attempts: bool,
    /// Rows of these services only; of all if empty. Ignored where rows do not say.
    pub services: Vec<String>,
    /// Invocations in these states only; in any if empty.
    pub statuses: Vec<Status>,
    /// Invocations with a scope only. Leaders of another version may send others too.
    pub scoped: bool,
    /// Rows of one page at most.
    pub rows_max: usize,
    /// Bytes of one page, about.
    pub bytes_max: usize,
}

impl ScanRequest {
    /// What is left to ask for when a page ends at `next`.
    pub fn go_on(&mut self, next: &Bytes) {
        self.ranges.retain(|range| *next < range.end);
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.clone().max(next.clone());
        }
    }
}

/// Some of the rows that were asked for.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// The rows, in the order of their keys.
    pub rows: Vec<ScanRow>,
    /// Where to go on; `None` if these are the last.
    pub next: Option<Bytes>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct ScanRow {
    /// As in the store.
    pub key: Bytes,
    /// As in the store. Of invocations, large results are left out.
    pub value: Bytes,
    /// Of an invocation that is invoked, if the leader has it.
    pub attempt: Option<AttemptInfo>,
}

/// What a leader knows of an invocation that is invoked.
#[derive(Debug, Clone, Default)]
pub struct AttemptInfo {
    /// Whether an attempt runs.
    pub in_flight: bool,
    /// Attempts since it was started or resumed here.
    pub started: u64,
    /// When the last one began.
    pub last_start_at: Option<Timestamp>,
    /// When the next one begins.
    pub next_retry_at: Option<Timestamp>,
    /// Where the last one was sent.
    pub deployment: Option<DeploymentId>,
    /// How the last one that failed failed.
    pub failure: Option<state::AttemptFailure>,
    /// What the running one waits for, as its endpoint said last.
    pub awaiting: Bytes,
}

/// Why there is no page.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScanError {
    /// Nobody answered who could.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The leader cannot read its rows.
    #[error("rows of partition {partition} cannot be read: {reason}")]
    Unreadable {
        /// The partition.
        partition: PartitionId,
        /// What its leader said.
        reason: String,
    },
}

/// Asks a partition's task for attempts. `Err` is the answer to who asked for rows.
pub(crate) struct AttemptsQuestion {
    pub(crate) ids: Vec<InvocationId>,
    pub(crate) answer: oneshot::Sender<Result<Vec<Option<AttemptInfo>>, Response>>,
}

/// The scans of one node.
pub(crate) struct Scans {
    pages: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            pages: Arc::new(Semaphore::new(PAGES_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(PAGES_WAITING_MAX)),
        }
    }
}

impl Scans {
    /// Answers with a page, or with why there is none.
    pub(crate) fn serve(
        &self,
        events: mpsc::Sender<Event>,
        reader: PartitionReader,
        request: ScanRequest,
        responder: Responder,
    ) {
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            return responder.answer(Response::Overloaded);
        };
        let pages = self.pages.clone();
        tokio::spawn(async move {
            let response = page(&events, reader, request, &pages).await;
            responder.answer(match response {
                Ok(page) => Response::Scanned(page),
                Err(response) => response,
            });
            drop(place);
        });
    }
}

async fn page(
    events: &mpsc::Sender<Event>,
    reader: PartitionReader,
    request: ScanRequest,
    pages: &Arc<Semaphore>,
) -> Result<ScanPage, Response> {
    // Before anything is read: a replica that does not lead yet has not applied everything.
    attempts(events, Vec::new()).await?;
    let wants_attempts = request.attempts;
    let mut page = read(pages, reader.clone(), request).await?;
    if !wants_attempts {
        return Ok(page);
    }
    let invoked: Vec<(usize, InvocationId)> = (page.rows.iter().enumerate())
        .filter(|(_, row)| is_invoked(&row.value))
        .filter_map(|(index, row)| Some((index, keys::parse_invocation(&row.key)?)))
        .collect();
    if invoked.is_empty() {
        return Ok(page);
    }
    let known = attempts(events, invoked.iter().map(|(_, id)| *id).collect()).await?;
    let mut changed = Vec::new();
    for ((index, _), attempt) in invoked.into_iter().zip(known) {
        match attempt {
            Some(_) => page.rows[index].attempt = attempt,
            None => changed.push(index),
        }
    }
    if changed.is_empty() {
        return Ok(page);
    }
    // The leader has moved on since the page was read: these are not invoked any more.
    look_again(pages, reader, page, changed).await
}

async fn attempts(
    events: &mpsc::Sender<Event>,
    ids: Vec<InvocationId>,
) -> Result<Vec<Option<AttemptInfo>>, Response> {
    let (answer, answered) = oneshot::channel();
    let question = AttemptsQuestion { ids, answer };
    match events.try_send(Event::Attempts(question)) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Err(Response::Overloaded),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(Response::NotLeader),
    }
    answered.await.unwrap_or(Err(Response::NotLeader))
}

async fn blocking<T: Send + 'static>(
    pages: &Arc<Semaphore>,
    read: impl FnOnce() -> Result<T, Response> + Send + 'static,
) -> Result<T, Response> {
    // The semaphore is never closed.
    let _permit = pages.clone().acquire_owned().await;
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(Response::Unreadable(error.to_string())))
}

async fn read(
    pages: &Arc<Semaphore>,
    reader: PartitionReader,
    request: ScanRequest,
) -> Result<ScanPage, Response> {
    blocking(pages, move || read_page(&reader, &request)).await
}

async fn look_again(
    pages: &Arc<Semaphore>,
    reader: PartitionReader,
    mut page: ScanPage,
    indices: Vec<usize>,
) -> Result<ScanPage, Response> {
    blocking(pages, move || {
        let mut gone = Vec::new();
        for index in indices {
            let key = page.rows[index].key.clone();
            let end = keys::prefix_end(&key);
            let request = ScanRequest {
                ranges: vec![key..end],
                rows_max: 1,
                bytes_max: 1,
                ..ScanRequest::default()
            };
            match read_page(&reader, &request)?.rows.pop() {
                Some(row) => page.rows[index].value = row.value,
                None => gone.push(index),
            }
        }
        for index in gone.into_iter().rev() {
            page.rows.remove(index);
        }
        Ok(page)
    })
    .await
}

fn read_page(reader: &PartitionReader, request: &ScanRequest) -> Result<ScanPage, Response> {
    let (rows_max, bytes_max) = (
        request.rows_max.clamp(1, ROWS_MAX),
        request.bytes_max.clamp(1, BYTES_MAX),
    );
    let mut page = ScanPage::default();
    let (mut bytes, mut looked_at) = (0, 0);
    let mut failure = None;
    for range in &request.ranges {
        let stretch = reader.stretch(&range.start, &range.end, CHANGED_ROWS_MAX);
        let stretch = stretch.map_err(|error| unreadable(&error))?;
        let mut next = stretch.end().cloned();
        stretch
            .scan(&mut |key, value| {
                if page.rows.len() >= rows_max || bytes >= bytes_max || looked_at >= LOOKED_AT_MAX {
                    next = Some(Bytes::copy_from_slice(key));
                    return ControlFlow::Break(());
                }
                looked_at += 1;
                match wanted(request, key, value) {
                    Ok(Some(value)) => {
                        bytes += key.len() + value.len();
                        page.rows.push(ScanRow {
                            key: Bytes::copy_from_slice(key),
                            value,
                            attempt: None,
                        });
                    }
                    Ok(None) => {}
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })
            .map_err(|error| unreadable(&error))?;
        if let Some(reason) = failure {
            return Err(Response::Unreadable(reason));
        }
        if next.is_some() {
            page.next = next;
            break;
        }
    }
    Ok(page)
}

fn unreadable(error: &dyn std::error::Error) -> Response {
    Response::Unreadable(chain_of(error))
}

/// The row's value if it is wanted.
fn wanted(request: &ScanRequest, key: &[u8], value: &Bytes) -> Result<Option<Bytes>, String> {
    let table = key.first().copied().unwrap_or_default();
    if table == Table::Invocation as u8 {
        return invocation(request, key, value);
    }
    let of_object = [Table::State, Table::Lock, Table::Inbox, Table::Promise];
    if !request.services.is_empty() && of_object.iter().any(|of| *of as u8 == table) {
        let object = keys::parse_object(key).ok_or("the key of a row is damaged")?;
        let (_, service) = keys::scope_and_service(object.service);
        if !request.services.iter().any(|name| name == service) {
            return Ok(None);
        }
    }
    Ok(Some(value.clone()))
}

fn invocation(request: &ScanRequest, key: &[u8], value: &Bytes) -> Result<Option<Bytes>, String> {
    let filters = request.scoped || !request.services.is_empty() || !request.statuses.is_empty();
    if !filters && value.len() <= OUTCOME_BYTES_MAX {
        return Ok(Some(value.clone()));
    }
    let mut row = state::Invocation::decode(value.clone()).map_err(|error| {
        let id = keys::parse_invocation(key).map_or_else(String::new, |id| id.to_string());
        format!("the row of invocation {id} is damaged: {error}")
    })?;
    if request.scoped && row.flow.is_none() {
        return Ok(None);
    }
    if !request.statuses.is_empty() && !request.statuses.contains(&row.status()) {
        return Ok(None);
    }
    let service = row.target.as_ref().map(|target| &target.service);
    if !request.services.is_empty()
        && !service.is_some_and(|service| request.services.contains(service))
    {
        return Ok(None);
    }
    match row.outcome.as_mut().map(|outcome| &mut outcome.outcome) {
        Some(Some(state::outcome::Outcome::Success(result)))
            if OUTCOME_BYTES_MAX < result.len() =>
        {
            result.clear();
            Ok(Some(row.encode_to_vec().into()))
        }
        _ => Ok(Some(value.clone())),
    }
}

fn is_invoked(value: &Bytes) -> bool {
    state::Invocation::decode(value.clone()).is_ok_and(|row| row.status() == Status::Invoked)
}

impl ScanRequest {
    pub(crate) fn into_wire(self) -> wire::Scan {
        wire::Scan {
            ranges: (self.ranges.into_iter())
                .map(|range| wire::KeyRange {
                    from: range.start,
                    to: range.end,
                })
                .collect(),
            attempts: self.attempts,
            services: self.services,
            statuses: (self.statuses.into_iter())
                .map(|status| status as u32)
                .collect(),
            rows_max: u32::try_from(self.rows_max).unwrap_or(u32::MAX),
            bytes_max: u32::try_from(self.bytes_max).unwrap_or(u32::MAX),
            scoped: self.scoped,
        }
    }

    pub(crate) fn from_wire(scan: wire::Scan) -> Result<Self, Malformed> {
        let status = |status: u32| {
            let status = i32::try_from(status).ok();
            status.and_then(|status| Status::try_from(status).ok())
        };
        Ok(Self {
            ranges: (scan.ranges.into_iter())
                .map(|range| range.from..range.to)
                .collect(),
            attempts: scan.attempts,
            services: scan.services,
            statuses: (scan.statuses.into_iter())
                .map(status)
                .collect::<Option<_>>()
                .ok_or(Malformed("status"))?,
            rows_max: scan.rows_max as usize,
            bytes_max: scan.bytes_max as usize,
            scoped: scan.scoped,
        })
    }
}

impl ScanPage {
    pub(crate) fn into_wire(self) -> wire::ScanPage {
        let row = |row: ScanRow| wire::ScanRow {
            key: row.key,
            value: row.value,
            attempt: row.attempt.map(AttemptInfo::into_wire),
        };
        wire::ScanPage {
            rows: self.rows.into_iter().map(row).collect(),
            next: self.next.unwrap_or_default(),
        }
    }

    pub(crate) fn from_wire(page: wire::ScanPage) -> Result<Self, Malformed> {
        let row = |row: wire::ScanRow| {
            Ok(ScanRow {
                key: row.key,
                value: row.value,
                attempt: row.attempt.map(AttemptInfo::from_wire).transpose()?,
            })
        };
        Ok(Self {
            rows: page.rows.into_iter().map(row).collect::<Result<_, _>>()?,
            next: Some(page.next).filter(|next| !next.is_empty()),
        })
    }
}

impl AttemptInfo {
    fn into_wire(self) -> wire::Attempt {
        let millis = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
        wire::Attempt {
            in_flight: self.in_flight,
            started: self.started,
            last_start_at: millis(self.last_start_at),
            next_retry_at: millis(self.next_retry_at),
            deployment: self.deployment.map_or_else(Bytes::new, |deployment| {
                Bytes::copy_from_slice(&deployment.0.to_be_bytes())
            }),
            failure: self.failure.map_or_else(Bytes::new, |failure| {
                // An empty message would read as none.
                state::AttemptFailure {
                    failure: Some(failure.failure.unwrap_or_default()),
                    ..failure
                }
                .encode_to_vec()
                .into()
            }),
            awaiting: self.awaiting,
        }
    }

    fn from_wire(attempt: wire::Attempt) -> Result<Self, Malformed> {
        let at = |millis: u64| (millis > 0).then_some(Timestamp(millis));
        let deployment: Option<[u8; 16]> = attempt.deployment.as_ref().try_into().ok();
        Ok(Self {
            in_flight: attempt.in_flight,
            started: attempt.started,
            last_start_at: at(attempt.last_start_at),
            next_retry_at: at(attempt.next_retry_at),
            deployment: deployment.map(|bytes| DeploymentId(u128::from_be_bytes(bytes))),
            failure: match attempt.failure.is_empty() {
                true => None,
                false => Some(
                    state::AttemptFailure::decode(attempt.failure)
                        .map_err(|_| Malformed("failure"))?,
                ),
            },
            awaiting: attempt.awaiting,
        })
    }
}
