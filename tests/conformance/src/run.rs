//! Runs the cases of one world.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::task::JoinError;

use crate::cases::{self, Case};
use crate::{Language, Outcome, Report, Row, Setting, World};

/// Cases that run at a time. They use keys of their own; what they share is the machine.
const AT_A_TIME: usize = 6;

/// The time that a case may take.
const CASE_WITHIN: Duration = Duration::from_secs(60);

/// Which cases to run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Parts of names; empty selects all.
    pub names: Vec<String>,
}

impl Selection {
    fn takes(&self, case: &Case) -> bool {
        self.names.is_empty()
            || self
                .names
                .iter()
                .any(|part| case.name.contains(part.as_str()))
    }
}

/// Starts a cluster and the services of a language, and runs the cases.
pub async fn run(language: Language, setting: Setting, selection: &Selection) -> Report {
    let selected: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| selection.takes(case))
        .collect();
    let mut report = Report::default();
    let mut add = |case: &Case, outcome: Outcome| {
        let millis = match &outcome {
            Outcome::Passed(took) => format!("ok, {} ms", took.as_millis()),
            Outcome::Skipped(reason) => format!("does not apply: {reason}"),
            Outcome::NotThere(problem) => format!("not there: {problem}"),
            Outcome::Failed(problem) => format!("FAILED: {problem}"),
        };
        println!("{language}, {setting}: {}: {millis}", case.name);
        report.rows.push(Row {
            language,
            setting,
            case: case.name,
            outcome,
        });
    };

    let mut together = Vec::new();
    let mut alone = Vec::new();
    for case in selected {
        match (case.applies)(language, setting) {
            Err(reason) => add(&case, Outcome::Skipped(reason)),
            Ok(()) if case.alone => alone.push(case),
            Ok(()) => together.push(case),
        }
    }
    if together.is_empty() && alone.is_empty() {
        return report;
    }
    let world = Arc::new(World::start(language, setting).await);
    let mut running = futures::stream::iter(together)
        .map(|case| {
            let world = Arc::clone(&world);
            async move {
                let outcome = run_case(&case, world).await;
                (case, outcome)
            }
        })
        .buffer_unordered(AT_A_TIME);
    while let Some((case, outcome)) = running.next().await {
        add(&case, outcome);
    }
    drop(running);
    for case in alone {
        let outcome = run_case(&case, Arc::clone(&world)).await;
        add(&case, outcome);
    }
    let health = tokio::spawn(async move { world.assert_healthy().await }).await;
    if let Err(error) = health {
        add(&cases::HEALTH, Outcome::Failed(panic_text(error)));
    }
    report
}

async fn run_case(case: &Case, world: Arc<World>) -> Outcome {
    let started = Instant::now();
    // A task of its own, so that a panic is this case's failure only.
    let task = tokio::spawn((case.run)(Arc::clone(&world)));
    let abort = task.abort_handle();
    match tokio::time::timeout(CASE_WITHIN, task).await {
        Ok(Ok(())) => Outcome::Passed(started.elapsed()),
        Ok(Err(error)) => {
            let problem = panic_text(error);
            if problem.contains("is not there yet") {
                Outcome::NotThere(problem)
            } else {
                Outcome::Failed(problem)
            }
        }
        Err(_) => {
            abort.abort();
            Outcome::Failed(format!("not done within {} s", CASE_WITHIN.as_secs()))
        }
    }
}

fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned()),
        Err(error) => error.to_string(),
    }
}
