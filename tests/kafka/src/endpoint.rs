//! The services that records are sent to, on the Rust SDK, in the process of the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use restate_sdk::context::HeaderMap;
use restate_sdk::prelude::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What a handler saw of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The object's or workflow's key.
    pub key: Option<String>,
    /// The headers.
    pub headers: BTreeMap<String, String>,
    /// The value.
    pub body: String,
}

/// By invocation: an attempt that is repeated sees the same.
type Log = Arc<Mutex<BTreeMap<String, Seen>>>;

/// The endpoint. Dropping it ends it.
pub struct Endpoint {
    port: u16,
    log: Log,
    serving: JoinHandle<()>,
}

impl Endpoint {
    /// Starts to serve.
    pub async fn start() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Log::default();
        let services = restate_sdk::prelude::Endpoint::builder()
            .bind(Plain { log: log.clone() })
            .bind(Keyed { log: log.clone() })
            .bind(Flow { log: log.clone() })
            .bind(Counter)
            .build();
        Endpoint {
            port,
            log,
            serving: tokio::spawn(HttpServer::new(services).serve(listener)),
        }
    }

    /// The URI under which it is registered.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was seen of records with this value.
    pub fn seen(&self, body: &str) -> Vec<Seen> {
        let log = self.log.lock().unwrap();
        log.values()
            .filter(|seen| seen.body == body)
            .cloned()
            .collect()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn note(log: &Log, id: &str, key: Option<&str>, headers: &HeaderMap, body: Vec<u8>) {
    let headers = headers.iter();
    let seen = Seen {
        key: key.map(str::to_owned),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().unwrap().insert(id.to_owned(), seen);
}

struct Plain {
    log: Log,
}

#[service]
impl Plain {
    #[handler]
    async fn take(&self, ctx: Context<'_>, body: Vec<u8>) -> HandlerResult<()> {
        note(&self.log, ctx.invocation_id(), None, ctx.headers(), body);
        Ok(())
    }
}

struct Keyed {
    log: Log,
}

#[object]
impl Keyed {
    #[handler]
    async fn take(&self, ctx: ObjectContext<'_>, body: Vec<u8>) -> HandlerResult<()> {
        let key = Some(ctx.key());
        note(&self.log, ctx.invocation_id(), key, ctx.headers(), body);
        Ok(())
    }
}

struct Flow {
    log: Log,
}

#[workflow]
impl Flow {
    #[handler]
    async fn run(&self, ctx: WorkflowContext<'_>, body: Vec<u8>) -> HandlerResult<()> {
        let key = Some(ctx.key());
        note(&self.log, ctx.invocation_id(), key, ctx.headers(), body);
        Ok(())
    }
}

/// Counts its records, and those that came out of order.
struct Counter;

#[object]
impl Counter {
    #[handler]
    async fn add(&self, ctx: ObjectContext<'_>, _body: Vec<u8>) -> HandlerResult<()> {
        let count = ctx.get::<u64>("count").await?.unwrap_or_default();
        ctx.set("count", count + 1);
        let read = |name| {
            ctx.headers()
                .get(name)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let place = (read("kafka.partition"), read("kafka.offset"));
        let (Some(partition), Some(offset)) = place else {
            return Err(TerminalError::new("no place in a topic").into());
        };
        let last = format!("last-{partition}");
        let before = ctx.get::<u64>(&last).await?;
        ctx.set(&last, offset);
        if before.is_some_and(|before| before >= offset) {
            let disorder = ctx.get::<u64>("disorder").await?.unwrap_or_default();
            ctx.set("disorder", disorder + 1);
        }
        Ok(())
    }

    /// How many records, and how many of them out of order.
    #[handler]
    async fn counted(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<(u64, u64)>> {
        let count = ctx.get::<u64>("count").await?.unwrap_or_default();
        let disorder = ctx.get::<u64>("disorder").await?.unwrap_or_default();
        Ok(Json((count, disorder)))
    }
}
