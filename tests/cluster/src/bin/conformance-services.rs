//! Services in Rust for the tests that break clusters. What every SDK must conform to is in
//! `tests/conformance`.
//!
//! Listens on a free port and prints it: `listening on 127.0.0.1:PORT`.

#![allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// How often each named thing was attempted by this process. Outside of any journal on purpose.
static ATTEMPTS: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

fn count_attempt(name: &str) -> u32 {
    let mut attempts = ATTEMPTS.lock().unwrap_or_else(|broken| broken.into_inner());
    let count = attempts
        .get_or_insert_default()
        .entry(name.to_owned())
        .or_default();
    *count += 1;
    *count
}

#[derive(Debug, thiserror::Error)]
#[error("attempt {0} fails on purpose")]
struct OnPurpose(u32);

#[derive(Serialize, Deserialize)]
struct Addition {
    key: String,
    amount: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DelayedAddition {
    key: String,
    amount: i64,
    delay_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SlowAddition {
    amount: i64,
    ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Failing {
    code: u16,
    message: String,
}

#[derive(Serialize, Deserialize)]
struct Retried {
    name: String,
    times: u32,
}

#[derive(Serialize, Deserialize)]
struct Resolution {
    id: String,
    value: String,
}

struct RustBasics;

#[service]
impl RustBasics {
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text)
    }

    #[handler]
    async fn header(&self, ctx: Context<'_>, name: String) -> HandlerResult<String> {
        Ok(ctx.headers().get(&name).cloned().unwrap_or_default())
    }

    #[handler]
    async fn steps(&self, ctx: Context<'_>, text: String) -> HandlerResult<Json<Vec<String>>> {
        let mut done = Vec::new();
        for step in 1..=3 {
            let text = text.clone();
            let result: String = ctx
                .run(move || async move { Ok(format!("{text}-{step}")) })
                .name(format!("step-{step}"))
                .await?;
            done.push(result);
        }
        Ok(Json(done))
    }

    #[handler]
    async fn nap(&self, ctx: Context<'_>, ms: u64) -> HandlerResult<String> {
        ctx.sleep(Duration::from_millis(ms)).await?;
        Ok("rested".to_owned())
    }

    #[handler(name = "callEcho")]
    async fn call_echo(&self, ctx: Context<'_>, text: String) -> HandlerResult<String> {
        let answer = ctx
            .service_client::<RustBasicsClient>()
            .echo(text)
            .call()
            .await?;
        Ok(format!("called {answer}"))
    }

    #[handler(name = "callFailing")]
    async fn call_failing(
        &self,
        ctx: Context<'_>,
        failing: Json<Failing>,
    ) -> HandlerResult<String> {
        let answer = ctx
            .service_client::<RustBasicsClient>()
            .fail_terminal(failing)
            .call()
            .await;
        match answer {
            Ok(text) => Ok(text),
            Err(failure) => Ok(format!("caught {}: {}", failure.code(), failure.message())),
        }
    }

    #[handler(name = "fanOut")]
    async fn fan_out(&self, ctx: Context<'_>, calls: u32) -> HandlerResult<u32> {
        let client = ctx.service_client::<RustBasicsClient>();
        let mut answers = DurableFuturesUnordered::new();
        for call in 0..calls {
            answers.push(client.echo(call.to_string()).call());
        }
        let mut sum = 0;
        while let Some((_, answer)) = answers.next().await? {
            sum += answer?.parse::<u32>()?;
        }
        Ok(sum)
    }

    #[handler(name = "callStore")]
    async fn call_store(&self, ctx: Context<'_>, addition: Json<Addition>) -> HandlerResult<i64> {
        let Json(Addition { key, amount }) = addition;
        let count = ctx
            .object_client::<RustStoreClient>(key)
            .add(amount)
            .call()
            .await?;
        Ok(count)
    }

    #[handler(name = "sendAdd")]
    async fn send_add(
        &self,
        ctx: Context<'_>,
        addition: Json<DelayedAddition>,
    ) -> HandlerResult<String> {
        let Json(DelayedAddition {
            key,
            amount,
            delay_ms,
        }) = addition;
        let request = ctx.object_client::<RustStoreClient>(key).add(amount);
        let sent = match delay_ms {
            0 => request.send().await?,
            _ => request.send_after(Duration::from_millis(delay_ms)).await?,
        };
        Ok(sent.invocation_id().to_owned())
    }

    #[handler(name = "failTerminal")]
    async fn fail_terminal(
        &self,
        _ctx: Context<'_>,
        failing: Json<Failing>,
    ) -> HandlerResult<String> {
        Err(TerminalError::new_with_code(failing.0.code, failing.0.message).into())
    }

    #[handler(name = "failThenSucceed")]
    async fn fail_then_succeed(
        &self,
        _ctx: Context<'_>,
        retried: Json<Retried>,
    ) -> HandlerResult<u32> {
        let attempt = count_attempt(&retried.0.name);
        if attempt <= retried.0.times {
            return Err(OnPurpose(attempt).into());
        }
        Ok(attempt)
    }

    #[handler(name = "runRetried")]
    async fn run_retried(&self, ctx: Context<'_>, retried: Json<Retried>) -> HandlerResult<u32> {
        let Json(Retried { name, times }) = retried;
        let attempts = ctx
            .run(move || async move {
                let attempt = count_attempt(&name);
                if attempt <= times {
                    return Err(OnPurpose(attempt).into());
                }
                Ok(attempt)
            })
            .retry_policy(RunRetryPolicy::new().initial_delay(Duration::from_millis(10)))
            .name("retried")
            .await?;
        Ok(attempts)
    }

    #[handler(name = "runExhausted")]
    async fn run_exhausted(&self, ctx: Context<'_>, name: String) -> HandlerResult<String> {
        let counted = name.clone();
        let policy = RunRetryPolicy::new()
            .initial_delay(Duration::from_millis(10))
            .max_attempts(3);
        let outcome = ctx
            .run(move || async move { Err::<String, _>(OnPurpose(count_attempt(&counted)).into()) })
            .retry_policy(policy)
            .name("exhausted")
            .await;
        match outcome {
            Ok(text) => Ok(text),
            Err(_) => {
                let attempts = ctx
                    .run(move || async move { Ok(count_attempt(&name) - 1) })
                    .name("attempts")
                    .await?;
                Ok(format!("gave up after {attempts}"))
            }
        }
    }

    #[handler(name = "awaitAwakeable")]
    async fn await_awakeable(&self, ctx: Context<'_>, key: String) -> HandlerResult<String> {
        let (id, value) = ctx.awakeable::<String>();
        ctx.object_client::<RustStoreClient>(key)
            .put(id)
            .call()
            .await?;
        Ok(format!("got {}", value.await?))
    }

    #[handler(name = "resolveAwakeable")]
    async fn resolve_awakeable(&self, ctx: Context<'_>, by: Json<Resolution>) -> HandlerResult<()> {
        ContextAwakeables::resolve_awakeable(&ctx, &by.0.id, by.0.value);
        Ok(())
    }

    #[handler(name = "rejectAwakeable")]
    async fn reject_awakeable(&self, ctx: Context<'_>, by: Json<Resolution>) -> HandlerResult<()> {
        ContextAwakeables::reject_awakeable(&ctx, &by.0.id, TerminalError::new(by.0.value));
        Ok(())
    }

    #[handler(name = "cancelOther")]
    async fn cancel_other(&self, ctx: Context<'_>, invocation: String) -> HandlerResult<()> {
        ctx.invocation_handle(invocation).cancel();
        Ok(())
    }

    #[handler(name = "catchCancel")]
    async fn catch_cancel(&self, ctx: Context<'_>) -> HandlerResult<String> {
        match ctx.sleep(Duration::from_secs(3600)).await {
            Ok(()) => Ok("slept".to_owned()),
            Err(_) => {
                let note: String = ctx
                    .run(|| async { Ok("cleaned".to_owned()) })
                    .name("clean")
                    .await?;
                Ok(format!("cancelled and {note}"))
            }
        }
    }

    #[handler(name = "attachTo")]
    async fn attach_to(&self, ctx: Context<'_>, invocation: String) -> HandlerResult<String> {
        let text = ctx.invocation_handle(invocation).attach::<String>().await?;
        Ok(format!("attached {text}"))
    }
}

struct RustStore;

#[object]
impl RustStore {
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, amount: i64) -> HandlerResult<i64> {
        let count = ctx.get::<i64>("count").await?.unwrap_or(0) + amount;
        ctx.set("count", count);
        Ok(count)
    }

    #[handler(name = "slowAdd")]
    async fn slow_add(
        &self,
        ctx: ObjectContext<'_>,
        slow: Json<SlowAddition>,
    ) -> HandlerResult<i64> {
        let count = ctx.get::<i64>("count").await?.unwrap_or(0);
        ctx.sleep(Duration::from_millis(slow.0.ms)).await?;
        ctx.set("count", count + slow.0.amount);
        Ok(count + slow.0.amount)
    }

    #[handler]
    async fn count(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
        Ok(ctx.get::<i64>("count").await?.unwrap_or(0))
    }

    #[handler]
    async fn put(&self, ctx: ObjectContext<'_>, text: String) -> HandlerResult<()> {
        ctx.set("text", text);
        Ok(())
    }

    #[handler]
    async fn text(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<String> {
        Ok(ctx.get::<String>("text").await?.unwrap_or_default())
    }

    #[handler]
    async fn keys(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        let mut keys = ctx.get_keys().await?;
        keys.sort();
        Ok(Json(keys))
    }

    #[handler]
    async fn forget(&self, ctx: ObjectContext<'_>, name: String) -> HandlerResult<()> {
        ctx.clear(&name);
        Ok(())
    }

    #[handler(name = "forgetAll")]
    async fn forget_all(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        ctx.clear_all();
        Ok(())
    }

    #[handler(name = "ownKey")]
    async fn own_key(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<String> {
        Ok(ctx.key().to_owned())
    }
}

struct RustFlow;

#[workflow]
impl RustFlow {
    #[handler]
    async fn run(&self, ctx: WorkflowContext<'_>, input: String) -> HandlerResult<String> {
        ctx.set("status", "waiting".to_owned());
        let value = ctx.promise::<String>("go").await?;
        ctx.set("status", "done".to_owned());
        Ok(format!("{input} {value}"))
    }

    #[handler]
    async fn resolve(&self, ctx: SharedWorkflowContext<'_>, value: String) -> HandlerResult<()> {
        ctx.resolve_promise("go", value);
        Ok(())
    }

    #[handler]
    async fn reject(&self, ctx: SharedWorkflowContext<'_>, reason: String) -> HandlerResult<()> {
        ctx.reject_promise("go", TerminalError::new(reason));
        Ok(())
    }

    #[handler]
    async fn status(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<String> {
        Ok(ctx.get::<String>("status").await?.unwrap_or_default())
    }

    #[handler]
    async fn peek(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<String> {
        Ok(ctx.peek_promise::<String>("go").await?.unwrap_or_default())
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    let endpoint = Endpoint::builder()
        .bind(RustBasics)
        .bind(RustStore)
        .bind(RustFlow)
        .build();
    HttpServer::new(endpoint).serve(listener).await;
    Ok(())
}
