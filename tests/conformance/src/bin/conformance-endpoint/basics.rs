//! Input, output, runs, calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use restate_sdk::context::{Request, RequestTarget};
use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};

pub(crate) struct Basics;

#[derive(Serialize, Deserialize)]
pub(crate) struct Random {
    same: bool,
    values: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Resolution {
    id: String,
    name: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Rejection {
    id: String,
    name: String,
    reason: String,
}

fn draw(random: u64, uuid: &str) -> Vec<String> {
    vec![random.to_string(), uuid.to_owned()]
}

#[service]
impl Basics {
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text)
    }

    #[handler]
    async fn shout(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text.to_uppercase())
    }

    #[handler]
    async fn headers(&self, ctx: Context<'_>) -> HandlerResult<Json<BTreeMap<String, String>>> {
        let headers = ctx.headers();
        let seen = headers.keys().filter_map(|name| {
            let value = headers.get(name)?;
            Some((name.to_string(), value.clone()))
        });
        Ok(Json(seen.collect()))
    }

    #[handler]
    async fn bytes(&self, _ctx: Context<'_>, bytes: Vec<u8>) -> HandlerResult<Vec<u8>> {
        Ok(bytes)
    }

    #[handler]
    async fn nothing(&self, _ctx: Context<'_>) -> HandlerResult<()> {
        Ok(())
    }

    #[handler]
    async fn nap(&self, ctx: Context<'_>, ms: u64) -> HandlerResult<String> {
        ctx.sleep(Duration::from_millis(ms)).await?;
        Ok("rested".to_owned())
    }

    #[handler(name = "ownId")]
    async fn own_id(&self, ctx: Context<'_>) -> HandlerResult<String> {
        Ok(ctx.invocation_id().to_owned())
    }

    #[handler]
    async fn steps(&self, ctx: Context<'_>, count: u32) -> HandlerResult<Json<Vec<String>>> {
        let mut done = Vec::new();
        for step in 1..=count {
            let text = ctx
                .run(move || async move { Ok(format!("done-{step}")) })
                .name(format!("step-{step}"))
                .await?;
            done.push(text);
        }
        Ok(Json(done))
    }

    #[handler(name = "countRuns")]
    async fn count_runs(&self, ctx: Context<'_>, count: u32) -> HandlerResult<u32> {
        let executed = Arc::new(AtomicU32::new(0));
        for _ in 0..count {
            let executed = Arc::clone(&executed);
            ctx.run(move || async move {
                executed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .name("count")
            .await?;
        }
        Ok(executed.load(Ordering::Relaxed))
    }

    #[handler]
    async fn random(&self, mut ctx: Context<'_>) -> HandlerResult<Json<Random>> {
        let before = draw(
            restate_sdk::rand::Rng::next_u64(ctx.rand()),
            &ctx.rand_uuid().to_string(),
        );
        let keep = Json(before.clone());
        let Json(kept) = ctx
            .run(move || async move { Ok(keep) })
            .name("kept")
            .await?;
        ctx.sleep(Duration::from_millis(20)).await?;
        let again = draw(
            restate_sdk::rand::Rng::next_u64(ctx.rand()),
            &ctx.rand_uuid().to_string(),
        );
        let keep = Json(again.clone());
        let Json(kept_again) = ctx
            .run(move || async move { Ok(keep) })
            .name("kept again")
            .await?;
        let same = before == kept && again == kept_again;
        let values = kept.into_iter().chain(kept_again).collect();
        Ok(Json(Random { same, values }))
    }

    #[handler(name = "fanOut")]
    async fn fan_out(&self, ctx: Context<'_>, count: u32) -> HandlerResult<u32> {
        let client = ctx.service_client::<BasicsClient>();
        let mut calls = DurableFuturesUnordered::new();
        for call in 0..count {
            calls.push(client.echo(call.to_string()).call());
        }
        let mut sum = 0;
        while let Some((_, text)) = calls.next().await? {
            sum += text?.parse::<u32>()?;
        }
        Ok(sum)
    }

    #[handler(name = "callShout")]
    async fn call_shout(&self, ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(ctx
            .service_client::<BasicsClient>()
            .shout(text)
            .call()
            .await?)
    }

    #[handler(name = "callWithHeader")]
    async fn call_with_header(&self, ctx: Context<'_>, value: String) -> HandlerResult<String> {
        let Json(mut seen) = ctx
            .service_client::<BasicsClient>()
            .headers()
            .header("x-passed-on".to_owned(), value)
            .call()
            .await?;
        Ok(seen.remove("x-passed-on").unwrap_or_default())
    }

    #[handler(name = "cancelOther")]
    async fn cancel_other(&self, ctx: Context<'_>, invocation: String) -> HandlerResult<()> {
        ctx.invocation_handle(invocation).cancel();
        Ok(())
    }

    #[handler(name = "attachTo")]
    async fn attach_to(&self, ctx: Context<'_>, invocation: String) -> HandlerResult<String> {
        Ok(ctx.invocation_handle(invocation).attach::<String>().await?)
    }

    #[handler(name = "waitSignal")]
    async fn wait_signal(&self, ctx: Context<'_>, name: String) -> HandlerResult<String> {
        Ok(ctx.signal::<String>(&name).await?)
    }

    #[handler(name = "collectSignals")]
    async fn collect_signals(&self, ctx: Context<'_>) -> HandlerResult<Json<Vec<String>>> {
        let mut seen = Vec::new();
        loop {
            let next = ctx.signal::<String>("next").await?;
            if next == "end" {
                return Ok(Json(seen));
            }
            seen.push(next);
        }
    }

    #[handler(name = "resolveSignal")]
    async fn resolve_signal(&self, ctx: Context<'_>, by: Json<Resolution>) -> HandlerResult<()> {
        let Json(Resolution { id, name, value }) = by;
        ctx.invocation_handle(id).signal(name).resolve(value);
        Ok(())
    }

    #[handler(name = "rejectSignal")]
    async fn reject_signal(&self, ctx: Context<'_>, by: Json<Rejection>) -> HandlerResult<()> {
        let Json(Rejection { id, name, reason }) = by;
        let failure = TerminalError::new(reason);
        ctx.invocation_handle(id).signal(name).reject(failure);
        Ok(())
    }

    #[handler(name = "callAndCancel")]
    async fn call_and_cancel(&self, ctx: Context<'_>) -> HandlerResult<String> {
        let call = ctx.service_client::<BasicsClient>().nap(3_600_000).call();
        call.invocation_handle().await?.cancel();
        match call.await {
            Ok(text) => Ok(text),
            Err(failure) => Ok(failure.code().to_string()),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outgoing {
    service: String,
    key: Option<String>,
    handler: String,
    message: String,
    delay_ms: Option<u64>,
    idempotency_key: Option<String>,
    scope: Option<String>,
    limit_key: Option<String>,
    #[serde(default)]
    one_way: bool,
}

fn outgoing<'a>(ctx: &Context<'a>, sent: Outgoing) -> Request<'a, Vec<u8>, Vec<u8>> {
    let target = match sent.key {
        Some(key) => RequestTarget::object(sent.service, key, sent.handler),
        None => RequestTarget::service(sent.service, sent.handler),
    };
    let mut request = ctx.request(target, sent.message.into_bytes());
    if let Some(key) = sent.idempotency_key {
        request = request.idempotency_key(key);
    }
    if let Some(scope) = sent.scope {
        request = request.scope(scope);
    }
    if let Some(key) = sent.limit_key {
        request = request.limit_key(key);
    }
    request
}

pub(crate) struct Relay;

#[service]
impl Relay {
    #[handler]
    async fn call(&self, ctx: Context<'_>, sent: Json<Outgoing>) -> HandlerResult<String> {
        let answer = outgoing(&ctx, sent.0).call().await?;
        Ok(String::from_utf8(answer)?)
    }

    #[handler]
    async fn send(&self, ctx: Context<'_>, sent: Json<Outgoing>) -> HandlerResult<String> {
        let delay = sent.0.delay_ms;
        let request = outgoing(&ctx, sent.0);
        let handle = match delay {
            Some(ms) => request.send_after(Duration::from_millis(ms)).await?,
            None => request.send().await?,
        };
        Ok(handle.invocation_id().to_owned())
    }

    #[handler]
    async fn many(&self, ctx: Context<'_>, sent: Json<Vec<Outgoing>>) -> HandlerResult<()> {
        let mut calls = Vec::new();
        for sent in sent.0 {
            let one_way = sent.one_way;
            let request = outgoing(&ctx, sent);
            if one_way {
                drop(request.send());
            } else {
                calls.push(request.call());
            }
        }
        for call in calls {
            call.await?;
        }
        Ok(())
    }
}

pub(crate) struct Hidden;

#[service(ingress_private = true)]
impl Hidden {
    #[handler]
    async fn greet(&self, _ctx: Context<'_>, name: String) -> HandlerResult<String> {
        Ok(format!("Hello {name}"))
    }
}
