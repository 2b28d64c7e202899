//! How the cases went, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{Language, Setting};

/// How one case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected, in this time.
    Passed(Duration),
    /// It does not apply here, and why.
    Skipped(&'static str),
    /// The server answered that it does not do this yet.
    NotThere(String),
    /// Otherwise than expected, and how.
    Failed(String),
}

/// One case in one language and setting.
#[derive(Debug, Clone)]
pub struct Row {
    /// The SDK.
    pub language: Language,
    /// The setting.
    pub setting: Setting,
    /// The case.
    pub case: &'static str,
    /// How it went.
    pub outcome: Outcome,
}

/// Many rows. Displayed, it is a table of cases by worlds, followed by what failed and why.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The rows, in the order in which they were run.
    pub rows: Vec<Row>,
}

impl Report {
    /// The rows that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    /// Notes that a world could not even be started.
    pub fn did_not_start(&mut self, language: Language, setting: Setting, problem: String) {
        self.rows.push(Row {
            language,
            setting,
            case: "cluster: starts",
            outcome: Outcome::Failed(problem),
        });
    }

    /// Panics with the table when anything failed.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failures().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut worlds = Vec::new();
        let mut cases = Vec::new();
        let mut cells = BTreeMap::new();
        for row in &self.rows {
            let world = (row.language, row.setting);
            if !worlds.contains(&world) {
                worlds.push(world);
            }
            if !cases.contains(&row.case) {
                cases.push(row.case);
            }
            cells.insert((row.case, world), &row.outcome);
        }
        for (column, (language, setting)) in worlds.iter().enumerate() {
            writeln!(f, "{:>3}  {language}, {setting}", column + 1)?;
        }
        write!(f, "{:58}", "case")?;
        for column in 1..=worlds.len() {
            write!(f, " {column:>3}")?;
        }
        writeln!(f)?;
        for case in cases {
            write!(f, "{case:58}")?;
            for world in &worlds {
                let mark = match cells.get(&(case, *world)) {
                    Some(Outcome::Passed(_)) => "ok",
                    Some(Outcome::Skipped(_)) => "-",
                    Some(Outcome::NotThere(_)) => "n/t",
                    Some(Outcome::Failed(_)) => "BAD",
                    None => "",
                };
                write!(f, " {mark:>3}")?;
            }
            writeln!(f)?;
        }
        let mut reasons: Vec<(&str, &str, Language)> = Vec::new();
        for row in &self.rows {
            if let Outcome::Skipped(reason) = &row.outcome
                && !reasons.contains(&(row.case, *reason, row.language))
            {
                reasons.push((row.case, *reason, row.language));
            }
        }
        for (case, reason, language) in reasons {
            writeln!(f, "-    {case} ({language}): {reason}")?;
        }
        for row in &self.rows {
            if let Outcome::NotThere(problem) = &row.outcome {
                writeln!(
                    f,
                    "n/t  {} ({}, {}): {problem}",
                    row.case, row.language, row.setting
                )?;
            }
        }
        for row in self.failures() {
            if let Outcome::Failed(problem) = &row.outcome {
                writeln!(
                    f,
                    "BAD  {} ({}, {}): {problem}",
                    row.case, row.language, row.setting
                )?;
            }
        }
        let count = |wanted: fn(&Outcome) -> bool| {
            self.rows.iter().filter(|row| wanted(&row.outcome)).count()
        };
        writeln!(
            f,
            "{} passed, {} failed, {} not there yet, {} do not apply",
            count(|outcome| matches!(outcome, Outcome::Passed(_))),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::NotThere(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )
    }
}
