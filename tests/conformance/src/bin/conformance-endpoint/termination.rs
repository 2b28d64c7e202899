//! What is cancelled and killed.

use std::time::Duration;

use restate_sdk::prelude::*;

use crate::objects::HolderClient;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct CancelRunner;

#[object]
impl CancelRunner {
    #[handler]
    async fn start(&self, ctx: ObjectContext<'_>, operation: String) -> HandlerResult<()> {
        let blocker = ctx.object_client::<CancelBlockerClient>(ctx.key());
        match blocker.block(operation).call().await {
            Err(failure) if failure.code() == 409 => {
                ctx.set("cancelled", true);
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    #[handler(name = "wasCancelled")]
    async fn was_cancelled(&self, ctx: ObjectContext<'_>) -> HandlerResult<bool> {
        Ok(ctx.get::<bool>("cancelled").await?.unwrap_or_default())
    }
}

pub(crate) struct CancelBlocker;

#[object]
impl CancelBlocker {
    #[handler]
    async fn block(&self, ctx: ObjectContext<'_>, operation: String) -> HandlerResult<()> {
        let (id, released) = ctx.awakeable::<String>();
        ctx.object_client::<HolderClient>(ctx.key())
            .hold(id)
            .call()
            .await?;
        released.await?;
        match operation.as_str() {
            "call" => {
                let blocker = ctx.object_client::<CancelBlockerClient>(ctx.key());
                blocker.block(operation).call().await?;
            }
            "sleep" => ctx.sleep(HOUR).await?,
            "awakeable" => {
                ctx.awakeable::<String>().1.await?;
            }
            "signal" => {
                ctx.signal::<String>("never").await?;
            }
            "race" => {
                let (_, awakeable) = ctx.awakeable::<String>();
                restate_sdk::select! {
                    slept = ctx.sleep(HOUR) => { slept?; },
                    value = awakeable => { value?; },
                    value = ctx.signal::<String>("never") => { value?; }
                }
            }
            "attach" => {
                let own = ctx.invocation_id().to_owned();
                ctx.invocation_handle(own).attach::<String>().await?;
            }
            _ => return Err(TerminalError::new(format!("no operation {operation}")).into()),
        }
        Ok(())
    }

    #[handler]
    async fn unlocked(&self, _ctx: ObjectContext<'_>) -> HandlerResult<()> {
        Ok(())
    }
}

pub(crate) struct KillRunner;

#[object]
impl KillRunner {
    #[handler]
    async fn start(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        ctx.object_client::<KillChainClient>(ctx.key())
            .recurse()
            .call()
            .await?;
        Ok(())
    }
}

pub(crate) struct KillChain;

#[object]
impl KillChain {
    #[handler]
    async fn recurse(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let (id, released) = ctx.awakeable::<String>();
        drop(ctx.object_client::<HolderClient>(ctx.key()).hold(id).send());
        released.await?;
        ctx.object_client::<KillChainClient>(ctx.key())
            .recurse()
            .call()
            .await?;
        Ok(())
    }

    #[handler]
    async fn unlocked(&self, _ctx: ObjectContext<'_>) -> HandlerResult<()> {
        Ok(())
    }
}
