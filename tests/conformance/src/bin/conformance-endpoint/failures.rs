//! Failures, retries, and handlers that change their mind.

use std::time::Duration;

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::objects::CounterClient;
use crate::{attempts_of, count_attempt, fail_until};

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    message: String,
    code: Option<u16>,
}

impl Failure {
    pub(crate) fn new(message: &str, code: u16) -> Self {
        Failure {
            message: message.to_owned(),
            code: Some(code),
        }
    }
}

impl From<Failure> for TerminalError {
    fn from(failure: Failure) -> Self {
        TerminalError::new_with_code(failure.code.unwrap_or(500), failure.message)
    }
}

fn policy() -> RunRetryPolicy {
    RunRetryPolicy::new().initial_delay(Duration::from_millis(10))
}

pub(crate) struct Failures;

#[object]
impl Failures {
    #[handler(name = "failTerminal")]
    async fn fail_terminal(
        &self,
        _ctx: ObjectContext<'_>,
        failure: Json<Failure>,
    ) -> HandlerResult<()> {
        Err(TerminalError::from(failure.0).into())
    }

    #[handler(name = "callFailing")]
    async fn call_failing(
        &self,
        mut ctx: ObjectContext<'_>,
        failure: Json<Failure>,
    ) -> HandlerResult<()> {
        let key = ctx.rand_uuid().to_string();
        let client = ctx.object_client::<FailuresClient>(key);
        client.fail_terminal(failure).call().await?;
        Ok(())
    }

    #[handler(name = "catchFailing")]
    async fn catch_failing(
        &self,
        mut ctx: ObjectContext<'_>,
        failure: Json<Failure>,
    ) -> HandlerResult<String> {
        let key = ctx.rand_uuid().to_string();
        let client = ctx.object_client::<FailuresClient>(key);
        match client.fail_terminal(failure).call().await {
            Ok(()) => Ok("nothing was caught".to_owned()),
            Err(caught) => Ok(format!("caught {}: {}", caught.code(), caught.message())),
        }
    }

    #[handler(name = "failInRun")]
    async fn fail_in_run(
        &self,
        ctx: ObjectContext<'_>,
        failure: Json<Failure>,
    ) -> HandlerResult<()> {
        ctx.run(move || async move { Err::<(), _>(TerminalError::from(failure.0).into()) })
            .name("fails")
            .await?;
        Ok(())
    }

    #[handler(name = "failUntil")]
    async fn fail_until(&self, ctx: ObjectContext<'_>, needed: u32) -> HandlerResult<u32> {
        fail_until(&format!("failUntil {}", ctx.key()), needed)
    }

    #[handler(name = "runUntil")]
    async fn run_until(&self, ctx: ObjectContext<'_>, needed: u32) -> HandlerResult<u32> {
        let name = format!("runUntil {}", ctx.key());
        let attempts = ctx
            .run(move || async move { fail_until(&name, needed) })
            .retry_policy(policy())
            .name("retried")
            .await?;
        Ok(attempts)
    }

    #[handler(name = "runExhausted")]
    async fn run_exhausted(&self, ctx: ObjectContext<'_>, most: u32) -> HandlerResult<i64> {
        let name = format!("runExhausted {}", ctx.key());
        let counted = name.clone();
        let outcome = ctx
            .run(move || async move { fail_until(&counted, 1_000_000) })
            .retry_policy(policy().max_attempts(most))
            .name("exhausted")
            .await;
        if outcome.is_ok() {
            return Ok(-1);
        }
        let attempts = ctx
            .run(move || async move { Ok(attempts_of(&name)) })
            .name("attempts")
            .await?;
        Ok(attempts.into())
    }
}

pub(crate) struct Drifting;

fn is_odd(ctx: &ObjectContext<'_>, handler: &str) -> bool {
    count_attempt(&format!("{handler} {}", ctx.key())) % 2 == 1
}

fn add(ctx: &ObjectContext<'_>) {
    let counter = ctx.object_client::<CounterClient>(ctx.key());
    drop(counter.add(1).send());
}

#[object(invocation_retry_policy(
    initial_interval = "1ms",
    max_attempts = 1,
    on_max_attempts = "kill"
))]
impl Drifting {
    #[handler(name = "sleepOrCall")]
    async fn sleep_or_call(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        if is_odd(&ctx, "sleepOrCall") {
            ctx.sleep(Duration::from_millis(100)).await?;
        } else {
            ctx.object_client::<CounterClient>("drift")
                .get()
                .call()
                .await?;
        }
        add(&ctx);
        Ok(())
    }

    #[handler(name = "callDifferent")]
    async fn call_different(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let counter = ctx.object_client::<CounterClient>("drift");
        if is_odd(&ctx, "callDifferent") {
            counter.get().call().await?;
        } else {
            counter.reset().call().await?;
        }
        add(&ctx);
        Ok(())
    }

    #[handler(name = "sendDifferent")]
    async fn send_different(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let counter = ctx.object_client::<CounterClient>("drift");
        if is_odd(&ctx, "sendDifferent") {
            drop(counter.get().send());
        } else {
            drop(counter.reset().send());
        }
        ctx.sleep(Duration::from_millis(100)).await?;
        add(&ctx);
        Ok(())
    }

    #[handler(name = "setDifferent")]
    async fn set_different(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let name = if is_odd(&ctx, "setDifferent") {
            "a"
        } else {
            "b"
        };
        ctx.set(name, "value".to_owned());
        ctx.sleep(Duration::from_millis(100)).await?;
        add(&ctx);
        Ok(())
    }
}
