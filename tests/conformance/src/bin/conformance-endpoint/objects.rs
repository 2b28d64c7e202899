//! State, and workflows.

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Serialize, Deserialize)]
pub(crate) struct Change {
    before: i64,
    after: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Slow {
    amount: i64,
    ms: u64,
}

pub(crate) struct Counter;

#[object]
impl Counter {
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, amount: i64) -> HandlerResult<Json<Change>> {
        let before = ctx.get::<i64>("count").await?.unwrap_or(0);
        let after = before + amount;
        ctx.set("count", after);
        Ok(Json(Change { before, after }))
    }

    #[handler(name = "slowAdd")]
    async fn slow_add(
        &self,
        ctx: ObjectContext<'_>,
        slow: Json<Slow>,
    ) -> HandlerResult<Json<Change>> {
        let before = ctx.get::<i64>("count").await?.unwrap_or(0);
        ctx.sleep(Duration::from_millis(slow.0.ms)).await?;
        let after = before + slow.0.amount;
        ctx.set("count", after);
        Ok(Json(Change { before, after }))
    }

    #[handler(name = "addThenFail")]
    async fn add_then_fail(&self, ctx: ObjectContext<'_>, amount: i64) -> HandlerResult<()> {
        let before = ctx.get::<i64>("count").await?.unwrap_or(0);
        ctx.set("count", before + amount);
        Err(TerminalError::new(ctx.key()).into())
    }

    #[handler]
    async fn reset(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        ctx.clear("count");
        Ok(())
    }

    #[handler]
    async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
        Ok(ctx.get::<i64>("count").await?.unwrap_or(0))
    }

    #[handler(name = "ownKey")]
    async fn own_key(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<String> {
        Ok(ctx.key().to_owned())
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Entry {
    name: String,
    value: String,
}

pub(crate) struct Map;

#[object]
impl Map {
    #[handler]
    async fn put(&self, ctx: ObjectContext<'_>, entry: Json<Entry>) -> HandlerResult<()> {
        ctx.set(&entry.0.name, entry.0.value);
        Ok(())
    }

    #[handler]
    async fn read(&self, ctx: SharedObjectContext<'_>, name: String) -> HandlerResult<String> {
        Ok(ctx.get::<String>(&name).await?.unwrap_or_default())
    }

    #[handler]
    async fn names(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        let mut names = ctx.get_keys().await?;
        names.sort();
        Ok(Json(names))
    }

    #[handler]
    async fn forget(&self, ctx: ObjectContext<'_>, name: String) -> HandlerResult<()> {
        ctx.clear(&name);
        Ok(())
    }

    #[handler]
    async fn clear(&self, ctx: ObjectContext<'_>) -> HandlerResult<Json<Vec<Entry>>> {
        let mut names = ctx.get_keys().await?;
        names.sort();
        let mut entries = Vec::new();
        for name in &names {
            let value = ctx.get::<String>(name).await?.unwrap_or_default();
            entries.push(Entry {
                name: name.clone(),
                value,
            });
        }
        ctx.clear_all();
        Ok(Json(entries))
    }

    #[handler]
    async fn juggle(&self, ctx: ObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        let none = || "none".to_owned();
        let mut seen = Vec::new();
        ctx.set("a", "1".to_owned());
        seen.push(ctx.get::<String>("a").await?.unwrap_or_else(none));
        ctx.set("b", "2".to_owned());
        ctx.clear("a");
        seen.push(ctx.get::<String>("a").await?.unwrap_or_else(none));
        ctx.clear_all();
        seen.push(ctx.get::<String>("b").await?.unwrap_or_else(none));
        seen.push(ctx.get_keys().await?.join(","));
        ctx.set("c", "3".to_owned());
        seen.push(ctx.get::<String>("c").await?.unwrap_or_else(none));
        Ok(Json(seen))
    }
}

pub(crate) struct List;

#[object]
impl List {
    #[handler]
    async fn append(&self, ctx: ObjectContext<'_>, text: String) -> HandlerResult<()> {
        let mut list = ctx
            .get::<Json<Vec<String>>>("list")
            .await?
            .unwrap_or(Json(Vec::new()));
        list.0.push(text);
        ctx.set("list", list);
        Ok(())
    }

    #[handler]
    async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        Ok(ctx.get("list").await?.unwrap_or(Json(Vec::new())))
    }

    #[handler]
    async fn clear(&self, ctx: ObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        let list = ctx.get("list").await?.unwrap_or(Json(Vec::new()));
        ctx.clear("list");
        Ok(list)
    }
}

pub(crate) struct Holder;

#[object]
impl Holder {
    #[handler]
    async fn hold(&self, ctx: ObjectContext<'_>, id: String) -> HandlerResult<()> {
        ctx.set("id", id);
        Ok(())
    }

    #[handler]
    async fn holds(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<String> {
        Ok(ctx.get::<String>("id").await?.unwrap_or_default())
    }

    #[handler]
    async fn release(&self, ctx: ObjectContext<'_>, payload: String) -> HandlerResult<()> {
        let id = ctx.get::<String>("id").await?;
        let id = id.ok_or_else(|| TerminalError::new("nothing is held"))?;
        ctx.resolve_awakeable(&id, payload);
        ctx.clear("id");
        Ok(())
    }

    #[handler]
    async fn refuse(&self, ctx: ObjectContext<'_>, reason: String) -> HandlerResult<()> {
        let id = ctx.get::<String>("id").await?;
        let id = id.ok_or_else(|| TerminalError::new("nothing is held"))?;
        ctx.reject_awakeable(&id, TerminalError::new(reason));
        ctx.clear("id");
        Ok(())
    }

    #[handler(name = "waitHeld")]
    async fn wait_held(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<String> {
        let (id, value) = ctx.awakeable::<String>();
        drop(ctx.object_client::<HolderClient>(ctx.key()).hold(id).send());
        Ok(format!("got {}", value.await?))
    }
}

pub(crate) struct Gate;

#[workflow]
impl Gate {
    #[handler]
    async fn run(&self, ctx: WorkflowContext<'_>, input: String) -> HandlerResult<String> {
        ctx.set("status", "waiting".to_owned());
        let value = ctx.promise::<String>("gate").await?;
        ctx.set("status", "through".to_owned());
        Ok(format!("{input} {value}"))
    }

    #[handler]
    async fn open(&self, ctx: SharedWorkflowContext<'_>, value: String) -> HandlerResult<()> {
        ctx.resolve_promise("gate", value);
        Ok(())
    }

    #[handler]
    async fn shut(&self, ctx: SharedWorkflowContext<'_>, reason: String) -> HandlerResult<()> {
        ctx.reject_promise("gate", TerminalError::new(reason));
        Ok(())
    }

    #[handler]
    async fn peek(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<String> {
        Ok(ctx
            .peek_promise::<String>("gate")
            .await?
            .unwrap_or_default())
    }

    #[handler]
    async fn wait(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<String> {
        Ok(ctx.promise::<String>("gate").await?)
    }

    #[handler]
    async fn status(&self, ctx: SharedWorkflowContext<'_>) -> HandlerResult<String> {
        Ok(ctx.get::<String>("status").await?.unwrap_or_default())
    }
}
