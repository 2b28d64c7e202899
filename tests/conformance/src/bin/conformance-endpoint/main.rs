//! The conformance services with Rust's SDK; `services/CONTRACT.md` says what each handler does.
//!
//! Listens on `PORT`, or on a free port, and prints it: `listening on 127.0.0.1:PORT`.

#![allow(
    missing_docs,
    reason = "the SDK's macros generate methods without documentation"
)]

mod basics;
mod clients;
mod commands;
mod failures;
mod fuzz;
mod objects;
mod termination;
mod versions;

use std::collections::{HashMap, HashSet};
use std::env;
use std::sync::{LazyLock, Mutex, PoisonError};

use restate_sdk::prelude::*;
use tokio::net::TcpListener;

/// What this process remembers by name, outside of any journal on purpose.
#[derive(Default)]
struct Remembered {
    attempts: HashMap<String, u32>,
    mended: HashSet<String>,
}

static REMEMBERED: LazyLock<Mutex<Remembered>> = LazyLock::new(Mutex::default);

fn remembered<T>(use_it: impl FnOnce(&mut Remembered) -> T) -> T {
    use_it(&mut REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner))
}

fn count_attempt(name: &str) -> u32 {
    remembered(|all| {
        let count = all.attempts.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    })
}

fn attempts_of(name: &str) -> u32 {
    remembered(|all| all.attempts.get(name).copied().unwrap_or_default())
}

fn fail_until(name: &str, needed: u32) -> HandlerResult<u32> {
    let attempt = count_attempt(name);
    if attempt < needed {
        return Err(OnPurpose.into());
    }
    Ok(attempt)
}

#[derive(Debug, thiserror::Error)]
#[error("fails on purpose")]
struct OnPurpose;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [clients, url, key] = arguments.as_slice()
        && clients == "clients"
    {
        return clients::run(url, key).await;
    }
    let port = env::var("PORT").unwrap_or_else(|_| "0".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut endpoint = Endpoint::builder()
        .bind(basics::Basics)
        .bind(basics::Relay)
        .bind(basics::Hidden)
        .bind(objects::Counter)
        .bind(objects::Map)
        .bind(objects::List)
        .bind(objects::Holder)
        .bind(objects::Gate)
        .bind(failures::Failures)
        .bind(failures::Drifting)
        .bind(termination::CancelRunner)
        .bind(termination::CancelBlocker)
        .bind(termination::KillRunner)
        .bind(termination::KillChain)
        .bind(versions::Versioned)
        .bind(versions::Fragile)
        .bind(versions::Short)
        .bind(commands::Commands)
        .bind(fuzz::Fuzz)
        .bind(fuzz::FuzzHelper);
    if let Ok(key) = env::var("CONFORMANCE_IDENTITY_KEY") {
        endpoint = endpoint.identity_key(&key)?;
    }
    HttpServer::new(endpoint.build()).serve(listener).await;
    Ok(())
}
