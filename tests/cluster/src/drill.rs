//! Steady load from clients that write down what they were told, and the audit of it.
//!
//! Every operation carries an idempotency key, and a client repeats it under that key until it is
//! told a result. So after the drill every operation has been acknowledged, and the books must
//! balance: a counter's answers are 1, 2, 3 and so on, each once; a handler's steps are those that
//! really ran for it; and asking again under the same key gives the same answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use restate_sdk::prelude::*;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::Api;

/// Objects that the clients count on.
const COUNTERS: u64 = 48;
/// How long a handler sleeps.
const NAP: Duration = Duration::from_millis(100);
/// Handlers with steps name them so.
const STEPS: [&str; 3] = ["one", "two", "three"];

/// What the steps of the drill's handler really did, each time that one ran.
#[derive(Clone, Default)]
pub struct Ledger {
    tokens: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
    next: Arc<AtomicU64>,
}

impl Ledger {
    /// Notes that a step of an order ran, and says which running of a step it was.
    fn note(&self, order: &str, step: &str) -> u64 {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.tokens)
            .entry(format!("{order}/{step}"))
            .or_default()
            .push(token);
        token
    }

    fn runs(&self, order: &str, step: &str) -> Vec<u64> {
        let tokens = lock(&self.tokens);
        tokens
            .get(&format!("{order}/{step}"))
            .cloned()
            .unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct DrillOrders {
    ledger: Ledger,
}

#[allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]
mod services {
    use super::*;

    #[service]
    impl DrillOrders {
        #[handler]
        async fn process(&self, ctx: Context<'_>, order: String) -> HandlerResult<Json<Vec<u64>>> {
            let mut tokens = Vec::new();
            for step in STEPS {
                let (ledger, order) = (self.ledger.clone(), order.clone());
                let token = ctx
                    .run(move || async move { Ok(ledger.note(&order, step)) })
                    .name(step)
                    .await?;
                tokens.push(token);
            }
            Ok(Json(tokens))
        }
    }

    #[object]
    impl DrillCounter {
        #[handler]
        async fn add(&self, ctx: ObjectContext<'_>) -> HandlerResult<u64> {
            let count = ctx.get::<u64>("count").await?.unwrap_or(0) + 1;
            ctx.set("count", count);
            Ok(count)
        }

        #[handler]
        async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<u64> {
            Ok(ctx.get::<u64>("count").await?.unwrap_or(0))
        }
    }

    #[object]
    impl DrillNapper {
        /// Sleeps for a moment, then counts.
        #[handler]
        async fn nap(&self, ctx: ObjectContext<'_>) -> HandlerResult<u64> {
            ctx.sleep(NAP).await?;
            let count = ctx
                .object_client::<DrillCounterClient>(ctx.key())
                .add()
                .call()
                .await?;
            Ok(count)
        }
    }
}

struct DrillNapper;

struct DrillCounter;

/// Serves the drill's handlers from this process, so that no kill touches the ledger.
pub async fn serve(ledger: Ledger) -> std::io::Result<String> {
    serve_at(ledger, "127.0.0.1").await
}

/// The same at another address of this machine.
pub async fn serve_at(ledger: Ledger, host: &str) -> std::io::Result<String> {
    let listener = TcpListener::bind((host, 0)).await?;
    let uri = format!("http://{}", listener.local_addr()?);
    let endpoint = Endpoint::builder()
        .bind(DrillOrders { ledger })
        .bind(DrillCounter)
        .bind(DrillNapper)
        .build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    Ok(uri)
}

/// Whether a node is meant to be up, as the test that breaks it says.
#[derive(Default)]
struct NodeState {
    down: AtomicBool,
    outages: AtomicU64,
}

/// What a client was told.
struct Told {
    operation: String,
    path: String,
    answer: Value,
}

struct Shared {
    ingresses: Vec<String>,
    nodes: Vec<NodeState>,
    api: Api,
    stop: AtomicBool,
    pause: Duration,
    told: Mutex<Vec<Told>>,
    violations: Mutex<Vec<String>>,
    slowest: Mutex<(Duration, String)>,
}

/// Clients at every ingress. See the module for what they do.
pub struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts so many clients at each ingress; each rests for `pause` between operations.
    pub fn start(ingresses: Vec<String>, clients_per_ingress: usize, pause: Duration) -> Clients {
        let shared = Arc::new(Shared {
            nodes: ingresses.iter().map(|_| NodeState::default()).collect(),
            ingresses,
            api: Api::new(Duration::from_secs(30)),
            stop: AtomicBool::new(false),
            pause,
            told: Mutex::default(),
            violations: Mutex::default(),
            slowest: Mutex::default(),
        });
        let tasks = (0..shared.ingresses.len() * clients_per_ingress)
            .map(|number| tokio::spawn(client(Arc::clone(&shared), number)))
            .collect();
        Clients { shared, tasks }
    }

    /// Says that a node is about to go away: its own clients may see errors now.
    pub fn expect_down(&self, node: usize) {
        self.shared.nodes[node]
            .outages
            .fetch_add(1, Ordering::SeqCst);
        self.shared.nodes[node].down.store(true, Ordering::SeqCst);
    }

    /// Says that a node serves again.
    pub fn expect_up(&self, node: usize) {
        self.shared.nodes[node].down.store(false, Ordering::SeqCst);
    }

    /// How many operations were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.shared.told).len()
    }

    /// The longest that a client of a surviving node waited since this was last asked.
    pub fn take_longest_wait(&self) -> (Duration, String) {
        std::mem::take(&mut *lock(&self.shared.slowest))
    }

    /// Lets every client finish its operation, then checks the books. Panics when they are wrong.
    pub async fn stop_and_audit(mut self, ledger: &Ledger) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.expect("a client does not panic");
        }
        let violations = lock(&self.shared.violations).join("\n");
        assert!(
            violations.is_empty(),
            "clients of surviving nodes saw errors:\n{violations}"
        );
        self.audit_counters().await;
        let repeated = self.audit_orders(ledger).await;
        println!(
            "audited {} operations; {repeated} steps ran more than once before their result was durable",
            self.acknowledged()
        );
    }

    async fn audit_counters(&self) {
        let mut answers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for told in lock(&self.shared.told).iter() {
            if told.path.starts_with("DrillCounter/") {
                let count = told
                    .answer
                    .as_u64()
                    .expect("a counter answers with a number");
                answers.entry(told.path.clone()).or_default().push(count);
            }
        }
        for (path, mut counts) in answers {
            counts.sort_unstable();
            let expected: Vec<u64> = (1..=counts.len() as u64).collect();
            assert_eq!(counts, expected, "{path}: an addition was lost or doubled");
            let get = path.replace("/add", "/get");
            let url = format!("{}/{get}", self.shared.ingresses[0]);
            let total = self.shared.api.post_empty(&url).await.expect_success();
            assert_eq!(total, Value::from(counts.len()), "{get}");
        }
    }

    /// Returns how many steps ran again because their first result had not become durable.
    async fn audit_orders(&self, ledger: &Ledger) -> usize {
        let orders: Vec<(String, Value)> = lock(&self.shared.told)
            .iter()
            .filter(|told| told.path.starts_with("DrillOrders/"))
            .map(|told| (told.operation.clone(), told.answer.clone()))
            .collect();
        let mut repeated = 0;
        let mut seen = BTreeSet::new();
        for (order, answer) in orders {
            let tokens: Vec<u64> = serde_json::from_value(answer.clone()).expect("three tokens");
            assert_eq!(tokens.len(), STEPS.len(), "{order}");
            for (step, token) in STEPS.iter().zip(&tokens) {
                let runs = ledger.runs(&order, step);
                assert!(
                    runs.contains(token),
                    "{order}/{step}: {token} is not among {runs:?}"
                );
                assert!(
                    seen.insert(*token),
                    "{order}/{step}: {token} was told twice"
                );
                repeated += runs.len() - 1;
            }
            let again = operate(&self.shared, 0, "DrillOrders/process", &order).await;
            assert_eq!(again.expect("asking again is answered"), answer, "{order}");
        }
        repeated
    }
}

async fn client(shared: Arc<Shared>, number: usize) {
    let home = number % shared.ingresses.len();
    let mut serial = 0u64;
    while !shared.stop.load(Ordering::SeqCst) {
        serial += 1;
        let operation = format!("client-{number}-{serial}");
        let path = if serial.is_multiple_of(3) {
            "DrillOrders/process".to_owned()
        } else {
            format!(
                "DrillCounter/c{}/add",
                (serial * 31 + number as u64 * 17) % COUNTERS
            )
        };
        let answer = insist(&shared, home, &path, &operation).await;
        lock(&shared.told).push(Told {
            operation,
            path,
            answer,
        });
        tokio::time::sleep(shared.pause).await;
    }
}

/// Repeats an operation until it has an answer. An error while the client's own node is up, or after
/// it came back, is written down as a violation.
async fn insist(shared: &Shared, home: usize, path: &str, operation: &str) -> Value {
    let state = &shared.nodes[home];
    loop {
        let outages = state.outages.load(Ordering::SeqCst);
        let began_down = state.down.load(Ordering::SeqCst);
        let from = Instant::now();
        let outcome = operate(shared, home, path, operation).await;
        let excused = began_down || state.outages.load(Ordering::SeqCst) != outages;
        if !excused {
            let mut slowest = lock(&shared.slowest);
            if from.elapsed() > slowest.0 {
                *slowest = (from.elapsed(), format!("{operation} {path}"));
            }
        }
        match outcome {
            Ok(answer) => return answer,
            Err(error) if !excused => {
                let waited = from.elapsed();
                lock(&shared.violations)
                    .push(format!("{operation} {path} after {waited:?}: {error}"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn operate(
    shared: &Shared,
    node: usize,
    path: &str,
    operation: &str,
) -> Result<Value, String> {
    let url = format!("{}/{path}", shared.ingresses[node]);
    let mut headers = vec![("idempotency-key", operation)];
    let mut body = String::new();
    if path.starts_with("DrillOrders/") {
        headers.push(("content-type", "application/json"));
        body = Value::from(operation).to_string();
    }
    let answer = shared
        .api
        .request(Method::POST, &url, &headers, body)
        .await
        .map_err(|error| format!("{error:?}"))?;
    if answer.status.is_success() {
        return Ok(answer.json());
    }
    Err(format!("{}: {}", answer.status, answer.text()))
}
