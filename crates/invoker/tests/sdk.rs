//! The official Rust SDK against the invoker, with a leader that keeps the journal in a vector.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests; the SDK's macros")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_invoker::DiscoverRequest;
use abide_invoker::api::{Attempt, Effect, PinnedDeployment};
use abide_schema::HttpVersion;
use abide_service_protocol::manifest::{Manifest, ProtocolMode};
use abide_service_protocol::{Await, Command, Notification, NotificationId, Outcome, RawEntry};
use abide_types::{InvocationId, PartitionKey};
use bytes::Bytes;
use restate_sdk::prelude::*;
use support::{Leader, notification};

static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);

struct Steps;

#[service]
impl Steps {
    #[handler]
    async fn go(&self, ctx: Context<'_>, name: String) -> HandlerResult<String> {
        let first = ctx
            .run(|| async {
                EXECUTIONS.fetch_add(1, Ordering::Relaxed);
                Ok("one".to_owned())
            })
            .name("first")
            .await?;
        ctx.sleep(Duration::from_secs(3600)).await?;
        let second: String = ctx
            .service_client::<StepsClient>()
            .echo(first)
            .call()
            .await?;
        Ok(format!("{name}: {second}"))
    }

    #[handler]
    async fn echo(&self, _ctx: Context<'_>, text: String) -> HandlerResult<String> {
        Ok(text)
    }

    #[handler]
    async fn fails(&self, _ctx: Context<'_>) -> HandlerResult<String> {
        Err(std::io::Error::other("boom").into())
    }
}

/// Drives an invocation to its end, however many attempts that takes.
async fn drive(leader: &mut Leader, handler: &str, input: &'static str) -> (Outcome, usize) {
    let mut attempt = leader.attempt("Steps", handler);
    let mut journal = vec![RawEntry::input(
        vec![("content-type".into(), "application/json".into())],
        Bytes::from_static(input.as_bytes()),
    )];
    let mut pinned: Option<PinnedDeployment> = None;
    let mut result = None;
    for attempts in 1.. {
        attempt.attempt.0 += 1;
        let this = Attempt {
            invocation: attempt.invocation,
            attempt: attempt.attempt,
            target: attempt.target.clone(),
            idempotency_key: None,
            pinned,
            journal: journal.clone(),
            state: Vec::new(),
            partial_state: true,
            retry_count: 0,
            since_last_entry: Duration::ZERO,
            random_seed: 1,
            scope: None,
            limit_key: None,
            trace: None,
        };
        let handle = leader.start(this).await;
        'attempt: loop {
            for effect in leader.next().await.effects {
                let mut notifications = Vec::new();
                match effect {
                    Effect::Pinned(now) => pinned = Some(now),
                    Effect::Command { entry, .. } => {
                        match Command::decode(&entry).unwrap() {
                            Command::Output(outcome) => result = Some(outcome),
                            Command::Sleep { completion, .. } => {
                                notifications.push(Notification::slept(completion));
                            }
                            Command::Call(call) => {
                                let callee = InvocationId::new(PartitionKey(1), [7; 16]);
                                let id = call.invocation_id_completion;
                                notifications.push(Notification::call_invocation_id(id, &callee));
                                let value = Outcome::Value(call.parameter);
                                notifications.push(Notification::call(call.completion, value));
                            }
                            _ => {}
                        }
                        journal.push(entry);
                    }
                    Effect::RunProposal { entry } => {
                        notifications.push(Notification::decode(&entry).unwrap());
                    }
                    Effect::Suspended { awaiting } => {
                        let awaiting = Await::decode(awaiting).unwrap();
                        let known: Vec<NotificationId> = journal
                            .iter()
                            .filter_map(|entry| Some(Notification::decode(entry).ok()?.id))
                            .collect();
                        assert!(awaiting.leaves().any(|leaf| known.contains(leaf)));
                        break 'attempt;
                    }
                    Effect::End => return (result.unwrap(), attempts),
                    Effect::Failed(failure) => {
                        return (Outcome::Failure(failure.failure), attempts);
                    }
                }
                for stored in notifications {
                    let index = u32::try_from(journal.len()).unwrap();
                    journal.push(stored.clone().into_entry());
                    let _ = handle.sender.try_send(notification(index, stored));
                }
            }
        }
    }
    unreachable!("attempts are counted without end")
}

async fn discovered() -> (String, Manifest) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let endpoint = Endpoint::builder().bind(Steps).build();
    tokio::spawn(HttpServer::new(endpoint).serve(listener));
    let nobody = Leader::new(&uri, "BIDI_STREAM", 7);
    let found = nobody
        .invoker
        .discover(&DiscoverRequest {
            uri: uri.clone(),
            additional_headers: BTreeMap::new(),
            use_http_11: false,
        })
        .await
        .unwrap();
    assert!(found.sdk_version.unwrap().starts_with("restate-sdk-rust/"));
    (uri, found.manifest)
}

#[tokio::test]
async fn the_official_sdk_runs_to_completion_in_every_mode_and_version() {
    let (uri, manifest) = discovered().await;
    for protocol_max in [5, 6, 7] {
        for protocol_mode in [ProtocolMode::BidiStream, ProtocolMode::RequestResponse] {
            let manifest = Manifest {
                protocol_mode,
                protocol_max,
                ..manifest.clone()
            };
            let mut leader = Leader::of_manifest(&uri, manifest, HttpVersion::Http2, |_| {});
            EXECUTIONS.store(0, Ordering::Relaxed);
            let (outcome, attempts) = drive(&mut leader, "go", "\"me\"").await;
            let expected = Bytes::from_static(b"\"me: one\"");
            assert_eq!(outcome, Outcome::Value(expected));
            match protocol_mode {
                ProtocolMode::BidiStream => assert_eq!(attempts, 1),
                ProtocolMode::RequestResponse => assert!(attempts > 1),
            }
            assert_eq!(EXECUTIONS.load(Ordering::Relaxed), 1);
            let (outcome, _) = drive(&mut leader, "fails", "").await;
            match outcome {
                Outcome::Failure(failure) => assert_eq!(failure.code, 500),
                Outcome::Value(value) => panic!("{value:?}"),
            }
        }
    }
}
