//! Clients as users have them, for restarts that nobody is to notice.
//!
//! A client keeps to one ingress and goes to the next one for one reason only: the connection is refused, as a load
//! balancer or a client's own list of addresses does it. Every other error is a failed request, of a node that is about
//! to stop as well. Nothing is repeated but what was refused.
//!
//! The books at the end: numbers that a counter told are 1, 2, 3 and so on, each once; what was sent, at once or with a
//! delay, was done once each; and asking again under the same key gives the same answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::api::Api;

/// Objects of each kind of operation.
const OBJECTS: u64 = 16;
/// How long one request may take: longer than any hand-over.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long after the last restart everything that was sent is done.
const DONE_WITHIN: Duration = Duration::from_secs(120);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Calls an object.
    Call,
    /// Calls a handler that sleeps, and then calls an object.
    Nap,
    /// Sends to an object, and waits for the result under the invocation's id.
    SendAndAttach,
    /// Sends to an object with a delay.
    Delayed,
}

const KINDS: [Kind; 4] = [Kind::Call, Kind::Nap, Kind::SendAndAttach, Kind::Delayed];

impl Kind {
    /// The object that counts for it.
    fn object(self, number: u64) -> String {
        let name = match self {
            Kind::Call => "call",
            Kind::Nap => "nap",
            Kind::SendAndAttach => "send",
            Kind::Delayed => "delayed",
        };
        format!("{name}{}", number % OBJECTS)
    }

    fn path(self, object: &str) -> String {
        match self {
            Kind::Call => format!("DrillCounter/{object}/add"),
            Kind::Nap => format!("DrillNapper/{object}/nap"),
            Kind::SendAndAttach => format!("DrillCounter/{object}/add/send"),
            Kind::Delayed => format!("DrillCounter/{object}/add/send?delay=1s"),
        }
    }
}

struct Told {
    kind: Kind,
    object: String,
    operation: String,
    /// The number that was told; nothing for what was only accepted.
    number: Option<u64>,
}

struct Shared {
    ingresses: Vec<String>,
    api: Api,
    stop: AtomicBool,
    done: AtomicU64,
    told: Mutex<Vec<Told>>,
    failures: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

/// Clients at every ingress.
pub struct Users {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Users {
    /// Starts so many clients at each ingress.
    pub fn start(ingresses: Vec<String>, per_ingress: usize) -> Users {
        let shared = Arc::new(Shared {
            ingresses,
            api: Api::new(DEADLINE),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            told: Mutex::default(),
            failures: Mutex::default(),
            slowest: Mutex::default(),
        });
        let tasks = (0..shared.ingresses.len() * per_ingress)
            .map(|number| tokio::spawn(user(Arc::clone(&shared), number)))
            .collect();
        Users { shared, tasks }
    }

    /// Waits until a good number of further operations are done.
    pub async fn wait_for_progress(&self, when: &str) {
        let goal = self.shared.done.load(Ordering::SeqCst) + 100;
        let deadline = Instant::now() + DONE_WITHIN;
        while self.shared.done.load(Ordering::SeqCst) < goal {
            assert!(Instant::now() < deadline, "{when}: no progress");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many operations were done.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// The longest that a request took since this was last asked.
    pub fn take_slowest(&self) -> Duration {
        std::mem::take(&mut *lock(&self.shared.slowest))
    }

    /// Requests that failed so far.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.shared.failures).clone()
    }

    /// Ends the clients and checks the books. Panics when they are wrong or a request failed.
    pub async fn stop_and_audit(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.expect("a client does not panic");
        }
        let failures = self.failures();
        assert!(
            failures.is_empty(),
            "{} requests failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
        let told = std::mem::take(&mut *lock(&self.shared.told));
        let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
        for told in &told {
            match told.number {
                Some(number) => numbers.entry(&told.object).or_default().push(number),
                None => *accepted.entry(&told.object).or_default() += 1,
            }
        }
        for (object, mut numbers) in numbers {
            numbers.sort_unstable();
            let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
            assert_eq!(numbers, expected, "{object}: one was lost or doubled");
            self.expect_total(object, numbers.len() as u64).await;
        }
        for (object, count) in accepted {
            self.expect_total(object, count).await;
        }
        for told in told.iter().filter(|told| told.kind == Kind::Call) {
            let path = told.kind.path(&told.object);
            let again = request(&self.shared, 0, &path, &told.operation).await;
            let again = again.expect("asking again is answered");
            assert_eq!(again.as_u64(), told.number, "{}", told.operation);
        }
        println!("audited {} operations of users", told.len());
    }

    /// Waits until an object has counted so far, and sees that it goes no further.
    async fn expect_total(&self, object: &str, count: u64) {
        let url = format!("{}/DrillCounter/{object}/get", self.shared.ingresses[0]);
        let deadline = Instant::now() + DONE_WITHIN;
        loop {
            let answer = self.shared.api.post_empty(&url).await.expect_success();
            let total = answer.as_u64().expect("a counter answers with a number");
            assert!(total <= count, "{object}: {total} of {count} were done");
            if total == count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{object}: {total} of {count} were done"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn user(shared: Arc<Shared>, number: usize) {
    let mut serial = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        serial += 1;
        let kind = KINDS[serial as usize % KINDS.len()];
        let object = kind.object(serial * 31 + number as u64 * 17);
        let operation = format!("user-{number}-{serial}");
        match operate(&shared, number, kind, &object, &operation).await {
            Ok(answered) => {
                shared.done.fetch_add(1, Ordering::SeqCst);
                lock(&shared.told).push(Told {
                    kind,
                    object,
                    operation,
                    number: answered,
                });
            }
            Err(failure) => lock(&shared.failures).push(failure),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn operate(
    shared: &Shared,
    home: usize,
    kind: Kind,
    object: &str,
    operation: &str,
) -> Result<Option<u64>, String> {
    let answer = request(shared, home, &kind.path(object), operation).await?;
    let number = |answer: &Value| {
        let number = answer.as_u64();
        number.ok_or_else(|| format!("{operation}: {answer} is no number"))
    };
    match kind {
        Kind::Call | Kind::Nap => number(&answer).map(Some),
        Kind::Delayed => Ok(None),
        Kind::SendAndAttach => {
            let id = answer["invocationId"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let path = format!("restate/invocation/{id}/attach");
            number(&request(shared, home, &path, "").await?).map(Some)
        }
    }
}

/// One request at the client's own ingress; at the next ones if, and only if, the connection is refused.
async fn request(
    shared: &Shared,
    home: usize,
    path: &str,
    operation: &str,
) -> Result<Value, String> {
    let (method, headers) = match operation {
        "" => (Method::GET, Vec::new()),
        key => (Method::POST, vec![("idempotency-key", key)]),
    };
    let from = Instant::now();
    let count = shared.ingresses.len();
    let mut refused = String::new();
    // Twice around: a node may come while another goes.
    for turn in 0..2 * count {
        let url = format!("{}/{path}", shared.ingresses[(home + turn) % count]);
        let asked = shared.api.request(method.clone(), &url, &headers, "").await;
        let failed = |why: String| {
            let took = from.elapsed();
            Err(format!("{operation} {url} after {took:?}: {why}"))
        };
        match asked {
            Err(error) if error.is_connect() => refused = format!("{error:?}"),
            Err(error) => return failed(format!("{error:?}")),
            Ok(answer) if answer.status.is_success() => {
                let mut slowest = lock(&shared.slowest);
                *slowest = slowest.max(from.elapsed());
                return Ok(answer.json());
            }
            Ok(answer) => return failed(format!("{}: {}", answer.status, answer.text())),
        }
    }
    Err(format!(
        "{operation} {path}: all ingresses refuse: {refused}"
    ))
}
