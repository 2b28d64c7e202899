//! Interprets random programs. A program's effect on counters is known beforehand, whatever is retried.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::OnPurpose;

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
enum Op {
    Set { key: u32 },
    Get { key: u32 },
    Clear { key: u32 },
    Increment,
    IncrementLater { ms: u64 },
    Sleep { ms: u64 },
    Run,
    SlowRun,
    FlakyRun,
    CaughtCall,
    Call,
    SlowCall { ms: u64 },
    FailingCall,
    Awakeable,
    RejectedAwakeable,
    Dance,
    Nested { key: String, program: Program },
    Await { index: usize },
}

/// A list of operations.
#[derive(Serialize, Deserialize)]
pub(crate) struct Program(Vec<Op>);

#[derive(Serialize, Deserialize)]
pub(crate) struct Later {
    ms: u64,
    text: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Dance {
    key: String,
    id: String,
}

fn check(holds: bool, problem: impl FnOnce() -> String) -> Result<(), TerminalError> {
    if holds {
        Ok(())
    } else {
        Err(TerminalError::new(problem()))
    }
}

/// What was begun, with its value as a text.
type Begun<'a> = Pin<Box<dyn Future<Output = Result<String, TerminalError>> + Send + 'a>>;

pub(crate) struct Fuzz;

#[object]
impl Fuzz {
    #[handler]
    async fn counter(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<u64> {
        Ok(ctx.get::<u64>("counter").await?.unwrap_or_default())
    }

    #[handler]
    async fn interpret(
        &self,
        ctx: ObjectContext<'_>,
        program: Json<Program>,
    ) -> HandlerResult<String> {
        let mut begun: HashMap<usize, (Begun<'_>, Option<String>)> = HashMap::new();
        let echo = |index: usize| format!("echo-{index}");
        for (index, op) in program.0.0.into_iter().enumerate() {
            let helper = ctx.service_client::<FuzzHelperClient>();
            match op {
                Op::Set { key } => ctx.set(&format!("key-{key}"), format!("value-{key}")),
                Op::Get { key } => {
                    let name = NAMES[key as usize % NAMES.len()];
                    let value = ctx.get::<String>(name).await?;
                    let expected = format!("value-{key}");
                    check(value.is_none() || value == Some(expected), || {
                        format!("read {value:?}")
                    })?;
                }
                Op::Clear { key } => ctx.clear(&format!("key-{key}")),
                Op::Increment => {
                    let counter = ctx.get::<u64>("counter").await?.unwrap_or_default();
                    ctx.set("counter", counter + 1);
                }
                Op::IncrementLater { ms } => {
                    let key = ctx.key().to_owned();
                    drop(helper.increment(key).send_after(Duration::from_millis(ms)));
                }
                Op::Sleep { ms } => ctx.sleep(Duration::from_millis(ms)).await?,
                Op::Run => {
                    let value: String = ctx
                        .run(move || async move { Ok(format!("run-{index}")) })
                        .name("value")
                        .await?;
                    check(value == format!("run-{index}"), || {
                        "a run changed its result".to_owned()
                    })?;
                }
                Op::SlowRun => {
                    ctx.run(|| async {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        Ok(())
                    })
                    .name("slow")
                    .await?;
                }
                Op::FlakyRun => {
                    ctx.run(|| async {
                        if rand::random::<bool>() {
                            return Err(OnPurpose.into());
                        }
                        Ok(())
                    })
                    .name("flaky")
                    .await?;
                }
                Op::CaughtCall => {
                    let outcome = helper.fail().call().await;
                    let failure = outcome.err().map(|failure| failure.message().to_owned());
                    check(failure.as_deref() == Some("always fails"), || {
                        format!("{failure:?}")
                    })?;
                }
                Op::Call => {
                    let call = helper.echo(echo(index)).call();
                    begun.insert(index, (Box::pin(call), Some(echo(index))));
                }
                Op::SlowCall { ms } => {
                    let later = Json(Later {
                        ms,
                        text: echo(index),
                    });
                    let call = helper.echo_later(later).call();
                    begun.insert(index, (Box::pin(call), Some(echo(index))));
                }
                Op::FailingCall => {
                    let call = helper.fail().call();
                    let call = async move { call.await.map(|()| String::new()) };
                    begun.insert(index, (Box::pin(call), None));
                }
                Op::Awakeable => {
                    let (id, value) = ctx.awakeable::<String>();
                    drop(helper.resolve(id).send());
                    begun.insert(index, (Box::pin(value), Some("resolved".to_owned())));
                }
                Op::RejectedAwakeable => {
                    let (id, value) = ctx.awakeable::<String>();
                    drop(helper.reject(id).send());
                    begun.insert(index, (Box::pin(value), None));
                }
                Op::Dance => {
                    let (id, theirs) = ctx.awakeable::<String>();
                    let key = ctx.key().to_owned();
                    drop(helper.dance(Json(Dance { key, id })).send());
                    let theirs = theirs.await?;
                    ctx.resolve_awakeable(&theirs, "go".to_owned());
                }
                Op::Nested { key, program } => {
                    let call = ctx
                        .object_client::<FuzzClient>(key)
                        .interpret(Json(program))
                        .call();
                    begun.insert(index, (Box::pin(call), Some("done".to_owned())));
                }
                Op::Await { index } => {
                    let (awaited, expected) = begun
                        .remove(&index)
                        .ok_or_else(|| TerminalError::new(format!("{index} was not begun")))?;
                    let outcome = awaited.await;
                    check(outcome.as_ref().ok() == expected.as_ref(), || {
                        format!("command {index}: {outcome:?} instead of {expected:?}")
                    })?;
                }
            }
        }
        Ok("done".to_owned())
    }
}

/// The SDK borrows names for as long as the handler runs.
const NAMES: [&str; 4] = ["key-0", "key-1", "key-2", "key-3"];

pub(crate) struct FuzzHelper;

#[service]
impl FuzzHelper {
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text)
    }

    #[handler(name = "echoLater")]
    async fn echo_later(&self, ctx: Context<'_>, later: Json<Later>) -> HandlerResult<String> {
        ctx.sleep(Duration::from_millis(later.0.ms)).await?;
        Ok(later.0.text)
    }

    #[handler]
    async fn fail(&self, _ctx: Context<'_>) -> HandlerResult<()> {
        Err(TerminalError::new("always fails").into())
    }

    #[handler]
    async fn increment(&self, ctx: Context<'_>, key: String) -> HandlerResult<()> {
        increment(&ctx, key);
        Ok(())
    }

    #[handler]
    async fn resolve(&self, ctx: Context<'_>, id: String) -> HandlerResult<()> {
        ctx.resolve_awakeable(&id, "resolved".to_owned());
        Ok(())
    }

    #[handler]
    async fn reject(&self, ctx: Context<'_>, id: String) -> HandlerResult<()> {
        ctx.reject_awakeable(&id, TerminalError::new("rejected on purpose"));
        Ok(())
    }

    #[handler]
    async fn dance(&self, ctx: Context<'_>, with: Json<Dance>) -> HandlerResult<()> {
        let (ours, value) = ctx.awakeable::<String>();
        ctx.resolve_awakeable(&with.0.id, ours);
        value.await?;
        increment(&ctx, with.0.key);
        Ok(())
    }
}

fn increment(ctx: &Context<'_>, key: String) {
    let program = Json(Program(vec![Op::Increment]));
    drop(
        ctx.object_client::<FuzzClient>(key)
            .interpret(program)
            .send(),
    );
}
