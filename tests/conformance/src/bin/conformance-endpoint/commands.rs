//! Runs lists of commands, and so every way of waiting for several things at once.
//!
//! This SDK selects among things of one kind, or among a few that are named in the code; a run is no part of
//! either. The cases that need more say so.

use std::env;
use std::time::Duration;

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Awaitable {
    Awakeable { name: String },
    Sleep { ms: u64 },
    Run { value: String },
    FailingRun { reason: String },
    Signal { name: String },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Command {
    One { of: Vec<Awaitable> },
    First { of: Vec<Awaitable> },
    FirstSuccess { of: Vec<Awaitable> },
    All { of: Vec<Awaitable> },
    Settled { of: Vec<Awaitable> },
    Timeout { name: String, ms: u64 },
    Environment { name: String },
}

/// A list of commands.
#[derive(Serialize, Deserialize)]
pub(crate) struct Program(Vec<Command>);

#[derive(Serialize, Deserialize)]
pub(crate) struct Resolution {
    name: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Rejection {
    name: String,
    reason: String,
}

fn unsupported() -> TerminalError {
    TerminalError::new("this SDK cannot wait for these together")
}

/// Begins to wait for signals. A macro, because the type of what is waited for has no name.
macro_rules! signals {
    ($ctx:expr, $names:expr) => {
        $names
            .into_iter()
            .map(|name| $ctx.signal::<String>(name))
            .collect::<DurableFuturesUnordered<_>>()
    };
}

fn names(of: &[Awaitable]) -> Result<Vec<&str>, TerminalError> {
    of.iter()
        .map(|what| match what {
            Awaitable::Signal { name } => Ok(name.as_str()),
            _ => Err(unsupported()),
        })
        .collect()
}

async fn one(ctx: &ObjectContext<'_>, what: Awaitable) -> Result<String, TerminalError> {
    match what {
        Awaitable::Awakeable { name } => {
            let (id, value) = ctx.awakeable::<String>();
            ctx.set(&format!("awakeable-{name}"), id);
            value.await
        }
        Awaitable::Sleep { ms } => {
            ctx.sleep(Duration::from_millis(ms)).await?;
            Ok("slept".to_owned())
        }
        Awaitable::Run { value } => {
            ctx.run(move || async move { Ok(value) })
                .name("returns")
                .await
        }
        Awaitable::FailingRun { reason } => {
            ctx.run(move || async move { Err(TerminalError::new(reason).into()) })
                .name("fails")
                .await
        }
        Awaitable::Signal { name } => ctx.signal::<String>(&name).await,
    }
}

async fn execute(ctx: &ObjectContext<'_>, command: Command) -> Result<String, TerminalError> {
    match command {
        Command::One { of } => one(ctx, of.into_iter().next().ok_or_else(unsupported)?).await,
        Command::First { of } => match of.as_slice() {
            [Awaitable::Awakeable { name }, Awaitable::Sleep { ms }] => {
                let (id, value) = ctx.awakeable::<String>();
                ctx.set(&format!("awakeable-{name}"), id);
                restate_sdk::select! {
                    value = value => value,
                    slept = ctx.sleep(Duration::from_millis(*ms)) => slept.map(|()| "slept".to_owned())
                }
            }
            _ => {
                let mut signals = signals!(ctx, names(&of)?);
                let first = signals.next().await?;
                first.ok_or_else(unsupported)?.1
            }
        },
        Command::FirstSuccess { of } => {
            let mut signals = signals!(ctx, names(&of)?);
            let mut outcome = Err(unsupported());
            while let Some((_, next)) = signals.next().await? {
                outcome = next;
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        }
        Command::All { of } => {
            let mut values = vec![String::new(); of.len()];
            let mut signals = signals!(ctx, names(&of)?);
            while let Some((index, value)) = signals.next().await? {
                values[index] = value?;
            }
            Ok(values.join("|"))
        }
        Command::Settled { of } => settled(ctx, of).await,
        Command::Timeout { name, ms } => {
            let (id, value) = ctx.awakeable::<String>();
            ctx.set(&format!("awakeable-{name}"), id);
            restate_sdk::select! {
                value = value => value,
                _ = ctx.sleep(Duration::from_millis(ms)) => Err(TerminalError::new("timed out"))
            }
        }
        Command::Environment { name } => {
            ctx.run(move || async move { Ok(env::var(&name).unwrap_or_default()) })
                .name("environment")
                .await
        }
    }
}

async fn settled(ctx: &ObjectContext<'_>, of: Vec<Awaitable>) -> Result<String, TerminalError> {
    let mut outcomes = vec![String::new(); of.len()];
    if of
        .iter()
        .all(|what| matches!(what, Awaitable::Sleep { .. }))
    {
        let mut sleeps = DurableFuturesUnordered::new();
        for what in &of {
            if let Awaitable::Sleep { ms } = what {
                sleeps.push(ctx.sleep(Duration::from_millis(*ms)));
            }
        }
        while let Some((index, slept)) = sleeps.next().await? {
            slept?;
            outcomes[index] = "ok:slept".to_owned();
        }
    } else {
        let mut signals = signals!(ctx, names(&of)?);
        while let Some((index, value)) = signals.next().await? {
            outcomes[index] = match value {
                Ok(value) => format!("ok:{value}"),
                Err(failure) => format!("err:{}", failure.message()),
            };
        }
    }
    Ok(outcomes.join("|"))
}

async fn awakeable(ctx: &SharedObjectContext<'_>, name: &str) -> Result<String, TerminalError> {
    let entry = format!("awakeable-{name}");
    let names = ctx.get_keys().await?;
    if !names.contains(&entry) {
        return Err(TerminalError::new(format!("no awakeable {name} yet")));
    }
    Ok(entry)
}

pub(crate) struct Commands;

#[object]
impl Commands {
    #[handler]
    async fn run(&self, ctx: ObjectContext<'_>, program: Json<Program>) -> HandlerResult<String> {
        let mut result = String::new();
        for command in program.0.0 {
            result = execute(&ctx, command).await?;
            let results = ctx.get::<Json<Vec<String>>>("results").await?;
            let mut results = results.unwrap_or(Json(Vec::new()));
            results.0.push(result.clone());
            ctx.set("results", results);
        }
        Ok(result)
    }

    #[handler]
    async fn results(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        Ok(ctx.get("results").await?.unwrap_or(Json(Vec::new())))
    }

    #[handler]
    async fn has(&self, ctx: SharedObjectContext<'_>, name: String) -> HandlerResult<bool> {
        Ok(awakeable(&ctx, &name).await.is_ok())
    }

    #[handler]
    async fn resolve(
        &self,
        ctx: SharedObjectContext<'_>,
        by: Json<Resolution>,
    ) -> HandlerResult<()> {
        let entry = awakeable(&ctx, &by.0.name).await?;
        let id = ctx.get::<String>(&entry).await?.unwrap_or_default();
        ctx.resolve_awakeable(&id, by.0.value);
        Ok(())
    }

    #[handler]
    async fn reject(&self, ctx: SharedObjectContext<'_>, by: Json<Rejection>) -> HandlerResult<()> {
        let entry = awakeable(&ctx, &by.0.name).await?;
        let id = ctx.get::<String>(&entry).await?.unwrap_or_default();
        ctx.reject_awakeable(&id, TerminalError::new(by.0.reason));
        Ok(())
    }
}
