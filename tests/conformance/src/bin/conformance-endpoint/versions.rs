//! Services that change, break and forget.

use std::env;

use restate_sdk::prelude::*;

use crate::objects::HolderClient;
use crate::{OnPurpose, count_attempt, remembered};

fn own_version() -> String {
    env::var("CONFORMANCE_VERSION").unwrap_or_else(|_| "1".to_owned())
}

pub(crate) struct Versioned;

#[object]
impl Versioned {
    #[handler]
    async fn version(&self, _ctx: ObjectContext<'_>) -> HandlerResult<String> {
        Ok(own_version())
    }

    #[handler]
    async fn spanning(&self, ctx: ObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        let first = own_version();
        let (id, value) = ctx.awakeable::<String>();
        ctx.object_client::<HolderClient>(ctx.key())
            .hold(id)
            .call()
            .await?;
        let between = value.await?;
        Ok(Json(vec![first, between, own_version()]))
    }
}

pub(crate) struct Fragile;

fn is_mended(key: &str) -> bool {
    remembered(|all| all.mended.contains(key))
}

#[object(invocation_retry_policy(
    initial_interval = "5ms",
    max_interval = "5ms",
    max_attempts = 3,
    on_max_attempts = "pause"
))]
impl Fragile {
    #[handler]
    async fn echo(&self, ctx: ObjectContext<'_>, text: String) -> HandlerResult<String> {
        if !is_mended(ctx.key()) {
            return Err(OnPurpose.into());
        }
        Ok(text)
    }

    #[handler(name = "runThenFail")]
    async fn run_then_fail(&self, ctx: ObjectContext<'_>, text: String) -> HandlerResult<String> {
        let value = if is_mended(ctx.key()) { "new" } else { "old" };
        let value: String = ctx
            .run(move || async move { Ok(value.to_owned()) })
            .name("value")
            .await?;
        if !is_mended(ctx.key()) {
            return Err(TerminalError::new("broken on purpose").into());
        }
        Ok(format!("{text} from {value}"))
    }

    #[handler(name = "versionOrFail")]
    async fn version_or_fail(&self, _ctx: ObjectContext<'_>) -> HandlerResult<String> {
        match own_version() {
            version if version == "1" => Err(OnPurpose.into()),
            version => Ok(version),
        }
    }

    #[handler]
    async fn mend(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<()> {
        remembered(|all| all.mended.insert(ctx.key().to_owned()));
        Ok(())
    }
}

pub(crate) struct Short;

#[service(idempotency_retention = "2s", journal_retention = "0s")]
impl Short {
    #[handler]
    async fn attempt(&self, ctx: Context<'_>, name: String) -> HandlerResult<u32> {
        let attempts = ctx
            .run(move || async move { Ok(count_attempt(&format!("short {name}"))) })
            .name("count")
            .await?;
        Ok(attempts)
    }
}
