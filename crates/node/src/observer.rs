//! What this node tells operators of the cluster: the status with its problems, and what nodes log.

use std::sync::Arc;
use std::time::Duration;

use abide_admin::{FilterChange, FilterState, Observer};
use abide_rpc::proto::cluster::{ClusterStatus, LogFilterChange, Problem};
use async_trait::async_trait;
use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::facts::{Facts, Member};
use crate::problems::{self, Severity};
use crate::{cluster_handler, describe, stats};

/// How often the node that governs looks for problems without being asked.
const LOOK: Duration = Duration::from_secs(10);

/// Asks all nodes, and judges what they say.
pub(crate) async fn status(facts: &Facts, member: &Member, with_load: bool) -> ClusterStatus {
    let nodes: Vec<_> = {
        let view = member.metadata.view();
        view.nodes.members().map(|(node, _)| node).collect()
    };
    let answers = cluster_handler::ask_all(&member.fabric, nodes, with_load).await;
    let mut status = describe::cluster(facts, member, answers);
    problems::mark_without_quorum(&mut status);
    status.problems = problems::find(&status);
    status.judged = true;
    status
}

/// Looks for problems while this node leads the metadata plane; says when one comes or goes, and counts them.
pub(crate) async fn watch(facts: Arc<Facts>, stop: CancellationToken) {
    let (Some(member), Some(server)) = (facts.member.get(), facts.server.get()) else {
        return;
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<Problem> = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        if !server.is_leader() {
            count(&[]);
            known.clear();
            continue;
        }
        let found = status(&facts, member, false).await.problems;
        count(&found);
        let same = |one: &Problem, other: &Problem| {
            one.code == other.code && one.subjects == other.subjects
        };
        for problem in &found {
            if !known.iter().any(|known| same(known, problem)) {
                let Problem {
                    severity,
                    code,
                    message,
                    ..
                } = problem;
                tracing::warn!(severity, code, "{message}");
            }
        }
        for gone in &known {
            if !found.iter().any(|problem| same(problem, gone)) {
                let Problem { code, message, .. } = gone;
                tracing::info!(code, "no longer: {message}");
            }
        }
        known = found;
    }
}

fn count(problems: &[Problem]) {
    for severity in Severity::ALL {
        let name = severity.name();
        let count = problems
            .iter()
            .filter(|problem| problem.severity == name)
            .count();
        gauge!("abide_cluster_problems", "severity" => name)
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

/// For the admin API.
pub(crate) struct Observes(pub(crate) Arc<Facts>);

#[async_trait]
impl Observer for Observes {
    async fn stats(&self) -> Result<serde_json::Value, String> {
        let facts = &self.0;
        let member = facts
            .member
            .get()
            .ok_or_else(|| facts.awaits().to_string())?;
        Ok(stats::document(&status(facts, member, false).await))
    }

    fn log_filter(&self, change: FilterChange) -> FilterState {
        let change = match change {
            FilterChange::None => LogFilterChange::default(),
            FilterChange::Reset => LogFilterChange {
                reset: true,
                filter: None,
            },
            FilterChange::Set(filter) => LogFilterChange {
                filter: Some(filter),
                reset: false,
            },
        };
        let state = self.0.log_filter.change(&change);
        FilterState {
            filter: state.filter,
            configured: state.configured,
            refused: (!state.refused.is_empty()).then_some(state.refused),
        }
    }
}
