//! Three small services with the official Rust SDK: a plain service, a virtual object, a workflow.
//!
//! ```console
//! $ cargo run -p abide-example
//! $ curl localhost:9070/deployments --json '{"uri": "http://localhost:9080"}'
//! $ curl localhost:8080/Greeter/greet --json '"Ada"'
//! ```

#![allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use restate_sdk::prelude::*;

/// Serves the sample services until it is stopped.
#[derive(Parser)]
struct Arguments {
    /// Where to listen for the engine's requests.
    #[arg(long, default_value = "127.0.0.1:9080")]
    listen: SocketAddr,
    /// A file to which every executed step appends a line.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// How long an order rests between its steps, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    pause_ms: u64,
}

/// A service: handlers without a key, as many at a time as are called.
struct Greeter {
    ledger: Option<PathBuf>,
    pause: Duration,
}

#[service]
impl Greeter {
    #[handler]
    async fn greet(&self, _ctx: Context<'_>, name: String) -> HandlerResult<String> {
        Ok(format!("Hello {name}!"))
    }

    /// Three steps with a rest after each. Whatever is killed in between, a step that was done
    /// is not done again: its result comes from the journal.
    #[handler]
    async fn steps(&self, ctx: Context<'_>, order: String) -> HandlerResult<String> {
        let mut done = Vec::new();
        for step in ["reserve", "charge", "ship"] {
            let (ledger, order) = (self.ledger.clone(), order.clone());
            let receipt = ctx
                .run(move || async move { Ok(perform(step, &order, ledger)?) })
                .name(step)
                .await?;
            done.push(receipt);
            ctx.sleep(self.pause).await?;
        }
        Ok(format!("{order}: {}", done.join(", ")))
    }
}

/// Stands for an effect on the world: it must not happen twice.
fn perform(step: &str, order: &str, ledger: Option<PathBuf>) -> std::io::Result<String> {
    println!("{step} {order}");
    if let Some(path) = ledger {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{order} {step}")?;
    }
    Ok(format!("{step} done"))
}

/// A virtual object: one state per key, and one writer at a time.
struct Counter;

#[object]
impl Counter {
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, amount: i64) -> HandlerResult<i64> {
        let count = ctx.get::<i64>("count").await?.unwrap_or(0) + amount;
        ctx.set("count", count);
        Ok(count)
    }

    /// A shared handler reads beside whatever else goes on at the key.
    #[handler]
    async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
        Ok(ctx.get::<i64>("count").await?.unwrap_or(0))
    }
}

/// A workflow: `run` happens once per key; other handlers talk to it while it runs.
struct Signup;

#[workflow]
impl Signup {
    #[handler]
    async fn run(&self, ctx: WorkflowContext<'_>, email: String) -> HandlerResult<String> {
        let recipient = email.clone();
        ctx.run(|| async move {
            println!("sending a link to {recipient}");
            Ok(())
        })
        .name("send link")
        .await?;
        let by = ctx.promise::<String>("confirmed").await?;
        Ok(format!("{email} signed up, confirmed by {by}"))
    }

    #[handler]
    async fn confirm(&self, ctx: SharedWorkflowContext<'_>, by: String) -> HandlerResult<()> {
        ctx.resolve_promise("confirmed", by);
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt::init();
    let arguments = Arguments::parse();
    let greeter = Greeter {
        ledger: arguments.ledger,
        pause: Duration::from_millis(arguments.pause_ms),
    };
    let endpoint = Endpoint::builder()
        .bind(greeter)
        .bind(Counter)
        .bind(Signup)
        .build();
    HttpServer::new(endpoint)
        .listen_and_serve(arguments.listen)
        .await;
}
