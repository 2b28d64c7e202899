//! The handlers that `abide-load` calls, made with the official Rust SDK and kept lean.

#![allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use restate_sdk::prelude::*;

/// Serves the benchmark's handlers until it is stopped.
#[derive(Parser)]
struct Arguments {
    /// Where to listen for the engine's requests.
    #[arg(long, default_value = "127.0.0.1:9180")]
    listen: SocketAddr,
}

struct Bench;

#[service]
impl Bench {
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, number: u64) -> HandlerResult<u64> {
        Ok(number)
    }

    #[handler]
    async fn steps(&self, ctx: Context<'_>, number: u64) -> HandlerResult<u64> {
        let mut sum = 0;
        for step in 1..=3 {
            sum += ctx.run(move || async move { Ok(number + step) }).await?;
        }
        Ok(sum)
    }

    #[handler]
    async fn fanout(&self, ctx: Context<'_>, number: u64) -> HandlerResult<u64> {
        let client = ctx.service_client::<BenchClient>();
        let mut answers = DurableFuturesUnordered::new();
        for call in 0..10 {
            answers.push(client.echo(number + call).call());
        }
        let mut sum = 0;
        while let Some((_, answer)) = answers.next().await? {
            sum += answer?;
        }
        Ok(sum)
    }

    #[handler]
    async fn sleep(&self, ctx: Context<'_>, ms: u64) -> HandlerResult<u64> {
        ctx.sleep(Duration::from_millis(ms)).await?;
        Ok(ms)
    }
}

struct BenchCounter;

#[object]
impl BenchCounter {
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, amount: u64) -> HandlerResult<u64> {
        let count = ctx.get::<u64>("count").await?.unwrap_or(0) + amount;
        ctx.set("count", count);
        Ok(count)
    }
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let endpoint = Endpoint::builder().bind(Bench).bind(BenchCounter).build();
    HttpServer::new(endpoint)
        .listen_and_serve(arguments.listen)
        .await;
}
