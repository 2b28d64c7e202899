//! One node from start to end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use abide_config::Config;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{ExitReason, NodeError};
use crate::facts::Phase;
use crate::hand_over;
use crate::log_filter::LogFilter;
use crate::signals::{Asked, Signals};
use crate::start::{Running, start};

/// A failure after which nothing may be answered any more.
pub(crate) type Fatal = mpsc::Sender<NodeError>;

/// A node of a cluster.
pub struct Node;

impl Node {
    /// Runs a node until it is told to stop by a signal, or cannot go on.
    ///
    /// # Errors
    /// It did not start, or its storage failed.
    pub async fn run(config: Config, log_filter: LogFilter) -> Result<ExitReason, NodeError> {
        let mut signals = Signals::listen().map_err(NodeError::Signals)?;
        let config = Arc::new(config);
        let (fatal, mut failures) = mpsc::channel(1);
        let running = {
            let mut starting = pin!(start(Arc::clone(&config), log_filter, fatal));
            loop {
                tokio::select! {
                    started = starting.as_mut() => break started?,
                    Some(failure) = failures.recv() => return Err(failure),
                    asked = signals.next() => match asked {
                        Asked::Dump => dump(&config),
                        // It serves nobody yet, so there is nothing to hand over.
                        Asked::Stop(signal) => return Ok(ExitReason::Signal(signal)),
                    },
                }
            }
        };
        let signal = loop {
            tokio::select! {
                Some(failure) = failures.recv() => return Err(failure),
                asked = signals.next() => match asked {
                    Asked::Dump => dump(&config),
                    Asked::Stop(signal) => break signal,
                },
            }
        };
        tracing::info!(signal, "stopping");
        let mut stopping = pin!(stop(running, config.shutdown_timeout));
        loop {
            tokio::select! {
                () = stopping.as_mut() => return Ok(ExitReason::Signal(signal)),
                Some(failure) = failures.recv() => return Err(failure),
                asked = signals.next() => match asked {
                    Asked::Dump => dump(&config),
                    Asked::Stop(_) => return Ok(ExitReason::Impatience),
                },
            }
        }
    }
}

fn dump(config: &Config) {
    eprint!("{}", config.to_toml());
}

/// How long the last spans may take.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(2);
/// Of the time for a stop, what the hand-over may take.
const HAND_OVER_SHARE: f64 = 0.5;

/// Leadership first, while everything still works; then from the front doors inwards.
async fn stop(running: Running, within: Duration) {
    let begun = Instant::now();
    running.facts.enter(Phase::Stopping);
    let member = running.member();
    hand_over::hand_over(member, begun + within.mul_f64(HAND_OVER_SHARE)).await;
    let finished = async {
        running.doors.cancel();
        running.door_tasks.close();
        running.door_tasks.wait().await;
        if let Some(processors) = member.processors.get() {
            processors.stop().await;
        }
        running.background.cancel();
        member.controller.stop().await;
        if let Some(server) = running.facts.server.get() {
            server.shutdown().await;
        }
        member.metadata.close();
        member.fabric.close();
        running.node_port.cancel();
        let exporting = running.exporting.lock().ok().and_then(|mut it| it.take());
        if let Some(exporting) = exporting {
            exporting.finish(LAST_SPANS_WITHIN).await;
        }
    };
    if tokio::time::timeout_at(begun + within, finished)
        .await
        .is_err()
    {
        tracing::warn!(
            ?within,
            "not everything ended in time; what is committed is safe"
        );
    }
    tracing::info!(took = ?begun.elapsed(), "stopped");
}
