//! The endpoint that executes programs, on the published SDK for Rust.
//!
//! Every handler takes an [`Input`] and executes its steps; [`ops`] hides that each kind of handler has
//! a context of its own. What steps yield is put into words that do not differ between engines:
//! no ids, no times.

mod ops;

use std::time::Duration;

use futures::future::BoxFuture;
use restate_sdk::context::RequestTarget;
use restate_sdk::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::ops::{Durable, Ops};
use crate::ledger::{Ledger, Note};
use crate::program::{Ending, Failure, Finale, Input, Never, Part, Step, Target, Wait, key, name};

const HOUR: Duration = Duration::from_secs(3600);
/// The signal that handlers listen for, and the one that nobody sends.
const SIGNAL: &str = "go";
const NEVER: &str = "never";
/// At the end of the name of the run after which a handler tells the client that it may interrupt it.
pub(crate) const BEFORE: &str = " before";
/// At the end of the label of a callee that its caller waits for until it is interrupted.
pub(crate) const NEVER_ENDS: &str = " never";

struct DiffService(Ledger);
struct DiffObject(Ledger);
struct DiffWorkflow(Ledger);
struct DiffCounter;

#[allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]
mod services {
    use super::*;

    #[service]
    impl DiffService {
        #[handler]
        async fn run(&self, ctx: Context<'_>, input: Json<Input>) -> HandlerResult<Json<Value>> {
            interpret(&ctx, &self.0, input.into_inner()).await
        }
    }

    #[object]
    impl DiffObject {
        #[handler]
        async fn run(
            &self,
            ctx: ObjectContext<'_>,
            input: Json<Input>,
        ) -> HandlerResult<Json<Value>> {
            interpret(&ctx, &self.0, input.into_inner()).await
        }

        #[handler]
        async fn look(
            &self,
            ctx: SharedObjectContext<'_>,
            input: Json<Input>,
        ) -> HandlerResult<Json<Value>> {
            interpret(&ctx, &self.0, input.into_inner()).await
        }

        #[handler]
        async fn dump(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Value>> {
            dump(&ctx).await
        }
    }

    #[workflow]
    impl DiffWorkflow {
        #[handler]
        async fn run(
            &self,
            ctx: WorkflowContext<'_>,
            input: Json<Input>,
        ) -> HandlerResult<Json<Value>> {
            interpret(&ctx, &self.0, input.into_inner()).await
        }

        #[handler]
        async fn look(
            &self,
            ctx: SharedWorkflowContext<'_>,
            input: Json<Input>,
        ) -> HandlerResult<Json<Value>> {
            interpret(&ctx, &self.0, input.into_inner()).await
        }

        #[handler]
        async fn dump(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<Json<Value>> {
            dump(&ctx).await
        }
    }

    #[object]
    impl DiffCounter {
        #[handler]
        async fn add(&self, ctx: ObjectContext<'_>, amount: Json<i64>) -> HandlerResult<Json<i64>> {
            let count = ctx.get::<i64>("count").await?.unwrap_or(0) + amount.into_inner();
            ctx.set("count", count);
            Ok(Json(count))
        }

        #[handler]
        async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<i64>> {
            Ok(Json(ctx.get::<i64>("count").await?.unwrap_or(0)))
        }
    }
}

/// Serves the interpreter from this process, at a port of the system's choice.
pub async fn serve(ledger: Ledger) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("http://{}", listener.local_addr()?);
    let endpoint = Endpoint::builder()
        .bind(DiffService(ledger.clone()))
        .bind(DiffObject(ledger.clone()))
        .bind(DiffWorkflow(ledger))
        .bind(DiffCounter)
        .build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    Ok(uri)
}

/// An attempt that fails and is made again.
#[derive(Debug)]
struct OnPurpose;

impl std::fmt::Display for OnPurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fails on purpose")
    }
}

impl std::error::Error for OnPurpose {}

async fn dump<'a>(ops: &'a impl Ops<'a>) -> HandlerResult<Json<Value>> {
    let mut state = serde_json::Map::new();
    for key in ops.state_keys().await? {
        let Some(key) = crate::program::NAMES.iter().find(|name| **name == key) else {
            state.insert(key, Value::from("not a key that was set"));
            continue;
        };
        let value = ops.state(key).await?;
        state.insert((*key).to_owned(), value.unwrap_or(Value::Null));
    }
    Ok(Json(Value::Object(state)))
}

async fn interpret<'a, O: Ops<'a>>(
    ops: &'a O,
    ledger: &'a Ledger,
    input: Input,
) -> HandlerResult<Json<Value>> {
    ledger.invoked(&input.run, &input.label, ops.id());
    let interpreter = Interpreter {
        ops,
        ledger,
        run: input.run,
    };
    let mut out = Vec::new();
    interpreter
        .steps(&input.body, &input.label, &mut out)
        .await?;
    interpreter
        .finale(&input.finale, &input.label, &mut out)
        .await?;
    Ok(Json(Value::Array(out)))
}

struct Interpreter<'a, O> {
    ops: &'a O,
    ledger: &'a Ledger,
    run: String,
}

impl<'a, O: Ops<'a>> Interpreter<'a, O> {
    fn steps<'s>(
        &'s self,
        steps: &'s [Step],
        label: &'s str,
        out: &'s mut Vec<Value>,
    ) -> BoxFuture<'s, HandlerResult<()>> {
        Box::pin(async move {
            for (index, step) in steps.iter().enumerate() {
                let label = format!("{label}.{index}");
                self.step(step, &label, out).await?;
            }
            Ok(())
        })
    }

    async fn step(&self, step: &Step, label: &str, out: &mut Vec<Value>) -> HandlerResult<()> {
        let ops = self.ops;
        let result = match step {
            Step::Get(key) => ops.state(name(*key)).await?.unwrap_or(Value::Null),
            Step::Set(key, value) => {
                ops.set_state(name(*key), json!(value));
                return Ok(());
            }
            Step::Append(key, value) => {
                let mut list = match ops.state(name(*key)).await? {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                };
                list.push(json!(value));
                ops.set_state(name(*key), Value::Array(list));
                return Ok(());
            }
            Step::Clear(key) => {
                ops.clear_state(name(*key));
                return Ok(());
            }
            Step::ClearAll => {
                ops.clear_all_state();
                return Ok(());
            }
            Step::Keys => {
                let mut keys = ops.state_keys().await?;
                keys.sort();
                json!(keys)
            }
            Step::Run { value, fails } => self.run(label, *value, u32::from(*fails)).await?,
            Step::RunFails { failure, propagate } => {
                let failure = failure.clone();
                let work = move || -> BoxFuture<'static, _> {
                    Box::pin(async move { Err(HandlerError::from(terminal(&failure))) })
                };
                let result = ops
                    .run(label.to_owned(), quick_retries(), Box::new(work))
                    .await;
                settle(result, *propagate)?
            }
            Step::RunGivesUp { attempts } => {
                let work = move || -> BoxFuture<'static, _> {
                    Box::pin(async move { Err(HandlerError::from(OnPurpose)) })
                };
                let policy = quick_retries().max_attempts(u32::from(*attempts).max(1));
                let result = ops.run(label.to_owned(), policy, Box::new(work)).await;
                settle(result, false)?
            }
            Step::Sleep(ms) => {
                ops.sleep(Duration::from_millis(*ms)).await?;
                return Ok(());
            }
            Step::Start {
                parts,
                meanwhile,
                wait,
                propagate,
            } => {
                let parts = self.start_all(parts, label).await?;
                let inner = format!("{label}m");
                // What was started is waited for even when this fails, so that nothing goes on behind.
                let between = self.steps(meanwhile, &inner, out).await;
                if let Err(error) = &between
                    && is_retryable(error)
                {
                    return between;
                }
                let results = wait_for_all(parts, *wait).await?;
                between?;
                let mut told = Vec::new();
                for result in results {
                    told.push(settle(result, *propagate)?);
                }
                Value::Array(told)
            }
            Step::Race { part, never } => {
                let mut racers = DurableFuturesUnordered::new();
                racers.push(self.start(part, &format!("{label}p")).await?);
                for (index, never) in never.iter().enumerate() {
                    racers.push(self.never(*never, &format!("{label}n{index}")));
                }
                match racers.next().await? {
                    Some((winner, result)) => json!([winner, settle(result, false)?]),
                    None => Value::Null,
                }
            }
            Step::Send {
                target,
                body,
                delay_ms,
                attach,
            } => {
                let input = self.input(body, label, Finale::Answer);
                let delay = (*delay_ms > 0).then(|| Duration::from_millis(*delay_ms));
                let sent = ops.send(self.target(*target), ops::json(&input), delay);
                if !attach {
                    return Ok(());
                }
                let handle = sent.await?;
                settle(ops::attach(&handle).await, false)?
            }
            Step::CancelScheduled { target, body } => {
                let input = self.input(body, label, Finale::Answer);
                let handle = ops
                    .send(self.target(*target), ops::json(&input), Some(HOUR))
                    .await?;
                handle.cancel();
                settle(ops::attach(&handle).await, false)?
            }
            Step::Interrupt {
                target,
                body,
                never,
            } => {
                let (id, told) = ops.awakeable();
                let input = self.input(body, label, Finale::TellAndWait(id, *never));
                let (handle, call) = ops
                    .call_with_handle(self.target(*target), ops::json(&input))
                    .await?;
                let ending = self.when_told(told, call, || handle.cancel()).await?;
                settle(ending, false)?
            }
            Step::Signal {
                target,
                body,
                ending,
            } => {
                let (id, told) = ops.awakeable();
                let input = self.input(body, label, Finale::TellAndListen(id));
                let (handle, call) = ops
                    .call_with_handle(self.target(*target), ops::json(&input))
                    .await?;
                let signal = || match ending {
                    Ending::Value(value) => handle.signal(SIGNAL).resolve(Json(json!(value))),
                    Ending::Failure(failure) => handle.signal(SIGNAL).reject(terminal(failure)),
                };
                let ending = self.when_told(told, call, signal).await?;
                settle(ending, false)?
            }
            Step::Repeat {
                target,
                body,
                times,
            } => {
                let input = ops::json(&self.input(body, label, Finale::Answer));
                let key = format!("{}{label}", self.run);
                let calls = (0..*times)
                    .map(|_| ops.call(self.target(*target), input.clone(), Some(key.clone())))
                    .collect();
                let results = wait_for_all(calls, Wait::Forwards).await?;
                let told: Result<Vec<Value>, _> =
                    results.into_iter().map(|r| settle(r, false)).collect();
                Value::Array(told?)
            }
            Step::Dance {
                workflow,
                before,
                promise,
                ending,
                after,
            } => {
                let mut body = before.clone();
                body.push(Step::Promise(*promise));
                body.extend(after.iter().cloned());
                let input = self.input(&body, label, Finale::Answer);
                let run = ops.call(
                    self.target(Target::Workflow(*workflow)),
                    ops::json(&input),
                    None,
                );
                let complete = [Step::Complete(*promise, ending.clone())];
                let input = self.input(&complete, &format!("{label}c"), Finale::Answer);
                let look = ops.call(
                    self.target(Target::WorkflowShared(*workflow)),
                    ops::json(&input),
                    None,
                );
                settle(look.await, false)?;
                settle(run.await, false)?
            }
            Step::Promise(key) => settle(ops.promise(name(*key)).await, true)?,
            Step::Peek(key) => match ops.peek(name(*key)).await {
                Ok(value) => json!({ "peeked": value }),
                Err(error) => failed(&error),
            },
            Step::Complete(key, ending) => {
                ops.complete(name(*key), ending);
                return Ok(());
            }
            Step::Fail(failure) => return Err(terminal(failure).into()),
            Step::Flake(times) => {
                if self.ledger.attempt(&self.run, label) <= u32::from(*times) {
                    return Err(OnPurpose.into());
                }
                return Ok(());
            }
            Step::Add {
                counter,
                amount,
                call,
            } => {
                let target = RequestTarget::object("DiffCounter", key(&self.run, *counter), "add");
                let amount = json!(amount);
                if *call {
                    // How far others have come is not this program's outcome.
                    settle(ops.call(target, amount, None).await, true)?;
                } else {
                    drop(ops.send(target, amount, None));
                }
                return Ok(());
            }
        };
        out.push(result);
        Ok(())
    }

    async fn run(&self, label: &str, value: i64, fails: u32) -> HandlerResult<Value> {
        let (ledger, run, place) = (
            self.ledger.clone(),
            self.run.clone(),
            format!("{label} run"),
        );
        let work = move || -> BoxFuture<'static, HandlerResult<Json<Value>>> {
            Box::pin(async move {
                if ledger.attempt(&run, &place) <= fails {
                    return Err(OnPurpose.into());
                }
                Ok(Json(json!(value)))
            })
        };
        Ok(self
            .ops
            .run(label.to_owned(), quick_retries(), Box::new(work))
            .await?)
    }

    /// Does something once the callee says that it waits, and waits for the call's end. A callee that
    /// fails before it waits says nothing.
    async fn when_told(
        &self,
        told: Durable<'a>,
        call: Durable<'a>,
        then: impl FnOnce(),
    ) -> Result<Result<Value, TerminalError>, TerminalError> {
        let mut both = DurableFuturesUnordered::new();
        both.push(told);
        both.push(call);
        match both.next().await? {
            Some((0, Ok(_))) => then(),
            Some((_, result)) => return Ok(result),
            None => {}
        }
        match both.next().await? {
            Some((_, result)) => Ok(result),
            None => Ok(Ok(Value::Null)),
        }
    }

    async fn start_all(&self, parts: &[Part], label: &str) -> HandlerResult<Vec<Durable<'a>>> {
        let mut started = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            started.push(self.start(part, &format!("{label}p{index}")).await?);
        }
        Ok(started)
    }

    async fn start(&self, part: &Part, label: &str) -> HandlerResult<Durable<'a>> {
        Ok(match part {
            Part::Call { target, body } => {
                let input = self.input(body, label, Finale::Answer);
                self.ops.call(self.target(*target), ops::json(&input), None)
            }
            Part::Sleep(ms) => self.ops.sleep(Duration::from_millis(*ms)),
            Part::Awakeable { inside, ending } => {
                let (id, awakeable) = self.ops.awakeable();
                if *inside {
                    let input = self.input(&[], label, Finale::Complete(id, ending.clone()));
                    drop(
                        self.ops
                            .send(self.target(Target::Service), ops::json(&input), None),
                    );
                } else {
                    self.note(label, Note::Complete(id, ending.clone())).await?;
                }
                awakeable
            }
        })
    }

    fn never(&self, never: Never, label: &str) -> Durable<'a> {
        match never {
            Never::Awakeable => self.ops.awakeable().1,
            Never::Sleep => self.ops.sleep(HOUR),
            Never::Signal => self.ops.signal(NEVER),
            Never::Call => {
                let input = self.input(&[], label, Finale::Wait(Never::Awakeable));
                let target = self.target(Target::Service);
                self.ops.call(target, ops::json(&input), None)
            }
        }
    }

    async fn finale(
        &self,
        finale: &Finale,
        label: &str,
        out: &mut Vec<Value>,
    ) -> HandlerResult<()> {
        let told = json!("told");
        match finale {
            Finale::Answer => {}
            Finale::AnnounceAndWait(never) => {
                // A run's work starts when its command is sent, which may be before the engine has
                // the commands ahead of it; its result comes back only after those are durable. A
                // kill on the announcement would otherwise overtake the last state.
                self.run(&format!("{label}{BEFORE}"), 0, 0).await?;
                let waits = Note::Waits(label.to_owned(), self.ops.id().to_owned());
                self.note(label, waits).await?;
                self.never(*never, &format!("{label}{NEVER_ENDS}")).await?;
            }
            Finale::TellAndWait(id, never) => {
                self.ops.complete_awakeable(id, &Ok(told));
                self.never(*never, &format!("{label}{NEVER_ENDS}")).await?;
            }
            Finale::TellAndListen(id) => {
                let signal = self.ops.signal(SIGNAL);
                self.ops.complete_awakeable(id, &Ok(told));
                out.push(settle(signal.await, false)?);
            }
            Finale::Wait(never) => {
                self.never(*never, label).await?;
            }
            Finale::Complete(id, ending) => {
                let result = match ending {
                    Ending::Value(value) => Ok(json!(value)),
                    Ending::Failure(failure) => Err(terminal(failure)),
                };
                self.ops.complete_awakeable(id, &result);
            }
        }
        Ok(())
    }

    /// Tells the client something, once it is durable that it was told.
    async fn note(&self, label: &str, note: Note) -> Result<(), TerminalError> {
        let (ledger, run) = (self.ledger.clone(), self.run.clone());
        let work = move || -> BoxFuture<'static, HandlerResult<Json<Value>>> {
            Box::pin(async move {
                ledger.note(&run, note);
                Ok(Json(Value::Null))
            })
        };
        self.ops
            .run(format!("{label} note"), quick_retries(), Box::new(work))
            .await
            .map(drop)
    }

    fn input(&self, body: &[Step], label: &str, finale: Finale) -> Input {
        Input {
            run: self.run.clone(),
            label: label.to_owned(),
            body: body.to_vec(),
            finale,
        }
    }

    fn target(&self, target: Target) -> RequestTarget {
        let key = |number| key(&self.run, number);
        match target {
            Target::Service => RequestTarget::service("DiffService", "run"),
            Target::Object(number) => RequestTarget::object("DiffObject", key(number), "run"),
            Target::Shared(number) => RequestTarget::object("DiffObject", key(number), "look"),
            Target::Workflow(number) => RequestTarget::workflow("DiffWorkflow", key(number), "run"),
            Target::WorkflowShared(number) => {
                RequestTarget::workflow("DiffWorkflow", key(number), "look")
            }
        }
    }
}

/// Waits for all, in the order asked for, and returns the results as the parts were started.
async fn wait_for_all<'a>(
    parts: Vec<Durable<'a>>,
    wait: Wait,
) -> Result<Vec<Result<Value, TerminalError>>, TerminalError> {
    let mut results: Vec<(usize, Result<Value, TerminalError>)> = Vec::new();
    match wait {
        Wait::Forwards => {
            for (index, part) in parts.into_iter().enumerate() {
                results.push((index, part.await));
            }
        }
        Wait::Backwards => {
            for (index, part) in parts.into_iter().enumerate().rev() {
                results.push((index, part.await));
            }
        }
        Wait::AsTheyCome => {
            let mut racers: DurableFuturesUnordered<_> = parts.into_iter().collect();
            while let Some(next) = racers.next().await? {
                results.push(next);
            }
        }
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn quick_retries() -> RunRetryPolicy {
    RunRetryPolicy::new().initial_delay(Duration::from_millis(10))
}

fn terminal(failure: &Failure) -> TerminalError {
    TerminalError::new_with_code(failure.code, failure.message.clone())
}

fn is_retryable(error: &HandlerError) -> bool {
    // The error shows its kind in words only.
    let error: &(dyn std::error::Error + Send + Sync) = error.as_ref();
    error.to_string().starts_with("Retryable")
}

fn settle(result: Result<Value, TerminalError>, propagate: bool) -> Result<Value, TerminalError> {
    match result {
        Ok(value) => Ok(value),
        Err(error) if propagate => Err(error),
        Err(error) => Ok(failed(&error)),
    }
}

fn failed(error: &TerminalError) -> Value {
    let failure = Failure {
        code: error.code(),
        message: in_one_spelling(error.message()),
    };
    json!({ "failed": failure })
}

/// SDKs and servers spell the end of a cancelled invocation differently, and which of the two ends it
/// depends on how far it has come.
pub fn in_one_spelling(message: &str) -> String {
    match message {
        "Cancelled" | "canceled" | "cancelled" => "cancelled".to_owned(),
        other => other.to_owned(),
    }
}
