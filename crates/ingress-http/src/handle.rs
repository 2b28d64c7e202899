//! One request from its head to its answer.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use abide_processor::api::{Attached, Finished, NewInvocation, Outcome, RouteError};
use abide_schema::Schema;
use abide_service_protocol::{Failure, NotificationId, invocation_code};
use abide_types::{AwakeableId, InvocationId, Timestamp};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, header};
use hyper::body::Incoming;
use metrics::Gauge;
use tokio::sync::watch;

use crate::answer::{self, Answer};
use crate::error::{Attempted, IngressError};
use crate::metrics::{Ended, Metrics, Series};
use crate::options::IngressOptions;
use crate::partitions::Partitions;
use crate::path::{Mode, Want};
use crate::plan::{self, Arrival, Step};
use crate::{body, cors, trace};

/// What all requests share.
pub(crate) struct Door<P> {
    pub(crate) options: IngressOptions,
    pub(crate) metrics: Metrics,
    partitions: P,
    schema: watch::Receiver<Arc<Schema>>,
    in_progress: AtomicUsize,
}

/// One of the requests in progress, until it is dropped.
struct Place<'a> {
    count: &'a AtomicUsize,
    gauge: &'a Gauge,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

/// A request that got as far as a partition.
struct Carried {
    answer: Answer,
    ended: Ended,
}

impl Carried {
    fn completed(answer: Answer) -> Self {
        Self {
            answer,
            ended: Ended::Completed,
        }
    }
}

impl<P: Partitions> Door<P> {
    pub(crate) fn new(
        options: IngressOptions,
        partitions: P,
        schema: watch::Receiver<Arc<Schema>>,
    ) -> Self {
        Self {
            options,
            metrics: Metrics::new(),
            partitions,
            schema,
            in_progress: AtomicUsize::new(0),
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        if announced_length(&parts)
            .is_some_and(|length| length > self.options.request_bytes_max as u64)
        {
            return answer::announced_too_long();
        }
        if parts.method == Method::OPTIONS {
            return cors::preflight(&parts.headers);
        }
        let origin = parts.headers.get(header::ORIGIN).cloned();
        let start = Instant::now();
        let mut series = self.metrics.unknown.clone();
        let result = match self.take_place(self.options.concurrent_requests_max) {
            Some(_place) => self.carry_out(&parts, body, &mut series).await,
            None => Err(IngressError::TooManyRequests),
        };
        let (answer, ended) = match result {
            Ok(Carried { answer, ended }) => (answer, ended),
            Err(error) => {
                tracing::debug!(path = parts.uri.path(), %error, "request refused");
                (answer::error(&error), Ended::of_error(&error))
            }
        };
        series.ended(ended, start);
        cors::allow(origin, answer)
    }

    fn take_place(&self, most: Option<NonZeroUsize>) -> Option<Place<'_>> {
        let before = self.in_progress.fetch_add(1, Ordering::Relaxed);
        self.metrics.in_progress.increment(1.0);
        let place = Place {
            count: &self.in_progress,
            gauge: &self.metrics.in_progress,
        };
        most.is_none_or(|most| before < most.get()).then_some(place)
    }

    fn schema(&self) -> Arc<Schema> {
        self.schema.borrow().clone()
    }

    async fn carry_out(
        &self,
        parts: &Parts,
        body: Incoming,
        series: &mut Arc<Series>,
    ) -> Result<Carried, IngressError> {
        let schema = self.schema();
        match plan::step(parts, &schema)? {
            Step::Invoke(callee) => {
                *series = self.metrics.of(&callee.handler.service, callee.mode);
                let mode = callee.mode;
                let body = body::read(body, self.options.request_bytes_max).await?;
                let mut invocation = plan::new_invocation(callee, parts, body, arrival())?;
                if self.options.tracer.is_on() {
                    trace::accepted(&self.options.tracer, parts, &mut invocation);
                }
                // A call may last for days; it shall not keep an old schema that long.
                drop(schema);
                series.admitted.increment(1);
                match mode {
                    Mode::Call => self.call(invocation).await,
                    Mode::Send => self.send(invocation).await,
                }
            }
            Step::Get { want, id } => {
                drop(schema);
                self.get(want, id).await
            }
            Step::GetByBody(want) => {
                drop(schema);
                let body = body::read(body, self.options.request_bytes_max).await?;
                self.get(want, plan::named_by_body("request", &body)?).await
            }
            Step::LookUp => {
                let body = body::read(body, self.options.request_bytes_max).await?;
                let id = plan::named_by_body("lookup", &body)?;
                Ok(Carried::completed(answer::looked_up(&id)))
            }
            Step::Awakeable { id, resolve } => {
                drop(schema);
                let body = body::read(body, self.options.request_bytes_max).await?;
                self.complete(id, resolve, body).await
            }
            Step::Health => Ok(Carried::completed(answer::health(&schema))),
        }
    }

    async fn call(&self, invocation: NewInvocation) -> Result<Carried, IngressError> {
        let id = invocation.id;
        let finished = self.partitions.call(invocation).await;
        self.finished(id, finished.map_err(routing(Attempted::Invoke))?)
    }

    fn finished(&self, id: InvocationId, finished: Finished) -> Result<Carried, IngressError> {
        let ended = match &finished.outcome {
            Outcome::Value(_) => Ended::Completed,
            Outcome::Failure(_) => Ended::InvocationError,
        };
        let answer = answer::finished(&id, finished, &self.schema());
        Ok(Carried { answer, ended })
    }

    async fn send(&self, invocation: NewInvocation) -> Result<Carried, IngressError> {
        let (id, execute_at) = (invocation.id, invocation.execute_at);
        let accepted = self.partitions.send(invocation).await;
        let accepted = accepted.map_err(routing(Attempted::Invoke))?;
        Ok(Carried::completed(answer::accepted(
            &id, accepted, execute_at,
        )))
    }

    async fn get(&self, want: Want, id: InvocationId) -> Result<Carried, IngressError> {
        let attached = match want {
            Want::Attach => self.partitions.attach(id).await,
            Want::Output => self.partitions.output(id).await,
        };
        match (attached.map_err(routing(Attempted::Read))?, want) {
            (Attached::Finished(finished), _) => self.finished(id, finished),
            (Attached::NotReady, _) => Err(IngressError::NotReady),
            (Attached::NotFound, Want::Attach) => Ok(Carried {
                answer: answer::nothing_to_attach_to(&id),
                ended: Ended::InvocationError,
            }),
            (Attached::NotFound, Want::Output) => Err(IngressError::InvocationNotFound),
        }
    }

    async fn complete(
        &self,
        id: Option<AwakeableId>,
        resolve: bool,
        body: Bytes,
    ) -> Result<Carried, IngressError> {
        let Some(id) = id else {
            return Ok(Carried::completed(answer::completed()));
        };
        let outcome = if resolve {
            Outcome::Value(body)
        } else {
            let reason = String::from_utf8_lossy(&body);
            Outcome::Failure(Failure::new(invocation_code::INTERNAL, reason))
        };
        let signal = NotificationId::Signal(id.signal);
        let done = self.partitions.signal(id.invocation, signal, outcome).await;
        done.map_err(routing(Attempted::Awakeable))?;
        Ok(Carried::completed(answer::completed()))
    }
}

fn routing(attempted: Attempted) -> impl Fn(RouteError) -> IngressError {
    move |cause| IngressError::Routing { attempted, cause }
}

fn announced_length(parts: &Parts) -> Option<u64> {
    let length = parts.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// The clock and a ULID: 48 bits of milliseconds, so that ids of a partition key sort by age, and 80 random ones.
fn arrival() -> Arrival {
    const RANDOM_BITS: u32 = 80;
    let at = Timestamp::from_system(SystemTime::now());
    let random = rand::random::<u128>() & ((1 << RANDOM_BITS) - 1);
    Arrival {
        at,
        unique: u128::from(at.0) << RANDOM_BITS | random,
    }
}
