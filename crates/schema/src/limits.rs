//! The rule book: how many invocations of a scope may run at a time (admin reference, section 12).
//!
//! A rule has a pattern of one to three parts: of a scope, of a limit key's first level in it, of its second level.
//! It counts each scope, or key, that the pattern matches by itself. An invocation counts at each of its levels, and at
//! each the most specific rule of that depth holds. Start at [`RuleBook::limit`].

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use abide_types::{NameError, Timestamp, check_name};
use serde::{Deserialize, Serialize};

/// Parts that a pattern may have.
const PARTS_MAX: usize = 3;
const ANY: &str = "*";

/// Which scopes or limit keys a rule is for: `scope[/level1[/level2]]`, each a name or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is empty.
    #[error("pattern cannot be empty")]
    Empty,
    /// It has too many parts.
    #[error("too many path components (max {PARTS_MAX})")]
    Parts,
    /// One of its parts is wrong.
    #[error("invalid component: {0}")]
    Part(#[from] NameError),
}

impl Pattern {
    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut parts = text.split('/');
        for part in parts.by_ref().take(PARTS_MAX) {
            if part != ANY {
                check_name(part)?;
            }
        }
        match parts.next() {
            Some(_) => Err(PatternError::Parts),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// How many may run at a time; `None` is any number, whatever less specific rules say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// What it is for, in its author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// As if it were not there.
    #[serde(default)]
    pub disabled: bool,
    /// The version of the book in which it changed last.
    pub version: u64,
    /// When it changed last, in milliseconds since the epoch.
    pub modified_at: u64,
}

impl Rule {
    fn says(&self, other: &RuleChange) -> bool {
        self.concurrency == other.concurrency
            && self.description == other.description
            && self.disabled == other.disabled
    }
}

/// What a change of a rule asks of the rule that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// It has this version.
    Matches(u64),
    /// There is none.
    DoesNotExist,
}

impl Precondition {
    fn holds(self, actual: Option<u64>) -> bool {
        match self {
            Self::None => true,
            Self::Matches(version) => actual == Some(version),
            Self::DoesNotExist => actual.is_none(),
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Matches(version) => write!(f, "Matches(v{version})"),
            Self::DoesNotExist => f.write_str("DoesNotExist"),
        }
    }
}

/// A rule to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChange {
    /// Whose rule.
    pub pattern: Pattern,
    /// See [`Rule::concurrency`].
    pub concurrency: Option<NonZeroU32>,
    /// See [`Rule::description`].
    pub description: Option<String>,
    /// See [`Rule::disabled`].
    pub disabled: bool,
    /// What must hold before.
    pub precondition: Precondition,
}

/// A rule is not as a change wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule precondition {precondition} for pattern {pattern} failed (actual version: {})", shown(.actual))]
pub struct PreconditionFailed {
    /// Whose rule.
    pub pattern: Pattern,
    /// What was wanted.
    pub precondition: Precondition,
    /// Which version there is.
    pub actual: Option<u64>,
}

fn shown(version: &Option<u64>) -> String {
    match version {
        Some(version) => format!("Some(v{version})"),
        None => "None".to_owned(),
    }
}

/// A stored rule book that is not understood.
#[derive(Debug, thiserror::Error)]
pub enum RuleBookError {
    /// It is no JSON of this form.
    #[error("the rule book is malformed")]
    Json(#[from] serde_json::Error),
    /// A pattern is none.
    #[error("the rule book has the pattern '{pattern}'")]
    Pattern {
        /// What is written there.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
}

/// All rules, under one version that each change counts up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleBook {
    version: u64,
    rules: BTreeMap<Pattern, Rule>,
}

#[derive(Serialize, Deserialize)]
struct BookDoc {
    version: u64,
    rules: BTreeMap<String, Rule>,
}

impl RuleBook {
    /// Reads the stored form.
    pub fn from_json(json: &[u8]) -> Result<Self, RuleBookError> {
        let doc: BookDoc = serde_json::from_slice(json)?;
        let rules = doc.rules.into_iter().map(|(pattern, rule)| {
            let parsed = pattern.parse();
            let parsed = parsed.map_err(|source| RuleBookError::Pattern { pattern, source })?;
            Ok((parsed, rule))
        });
        Ok(Self {
            version: doc.version,
            rules: rules.collect::<Result<_, RuleBookError>>()?,
        })
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        let rules = (self.rules.iter()).map(|(pattern, rule)| (pattern.0.clone(), rule.clone()));
        let doc = BookDoc {
            version: self.version,
            rules: rules.collect(),
        };
        serde_json::to_vec(&doc).expect("texts and numbers")
    }

    /// Counts up with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The rules, by pattern.
    pub fn rules(&self) -> impl Iterator<Item = (&Pattern, &Rule)> {
        self.rules.iter()
    }

    /// The rule of exactly this pattern.
    pub fn get(&self, pattern: &Pattern) -> Option<&Rule> {
        self.rules.get(pattern)
    }

    /// How many may run at a time at a level, and the rule that says so. `level` is a scope, or a scope and one or two
    /// levels of a limit key, joined by slashes. A name in front counts for more than one behind it.
    pub fn limit(&self, level: &str) -> Option<(NonZeroU32, &Pattern)> {
        let names: Vec<&str> = level.split('/').collect();
        // Bit `n - 1` stands for the first of `n` parts: counting up goes from the most to the least specific.
        for wild in 0..1u32 << names.len().min(PARTS_MAX) {
            let parts = names.iter().enumerate().map(|(index, name)| {
                let bit = names.len() - 1 - index;
                if wild >> bit & 1 == 1 { ANY } else { name }
            });
            let pattern = Pattern(parts.collect::<Vec<_>>().join("/"));
            if let Some((pattern, rule)) = self.rules.get_key_value(&pattern)
                && !rule.disabled
            {
                return rule.concurrency.map(|limit| (limit, pattern));
            }
        }
        None
    }

    /// The book with all of the changes, or none of them. A change that changes nothing leaves the rule's version.
    pub fn with(&self, changes: &[RuleChange], now: Timestamp) -> Result<Self, PreconditionFailed> {
        let mut next = self.clone();
        for change in changes {
            self.check(&change.pattern, change.precondition)?;
            let rule = Rule {
                concurrency: change.concurrency,
                description: change.description.clone(),
                disabled: change.disabled,
                version: self.version + 1,
                modified_at: now.0,
            };
            match next.rules.get_mut(&change.pattern) {
                Some(known) if known.says(change) => {}
                Some(known) => *known = rule,
                None => drop(next.rules.insert(change.pattern.clone(), rule)),
            }
        }
        Ok(next.counted(self))
    }

    /// The book without the rules, and which of them there were; a rule is only removed if it has the expected version.
    pub fn without(
        &self,
        removals: &[(Pattern, Option<u64>)],
    ) -> Result<(Self, Vec<Pattern>), PreconditionFailed> {
        let mut next = self.clone();
        let mut removed = Vec::new();
        for (pattern, expected) in removals {
            if let Some(version) = expected {
                self.check(pattern, Precondition::Matches(*version))?;
            }
            if next.rules.remove(pattern).is_some() {
                removed.push(pattern.clone());
            }
        }
        Ok((next.counted(self), removed))
    }

    fn check(
        &self,
        pattern: &Pattern,
        precondition: Precondition,
    ) -> Result<(), PreconditionFailed> {
        let actual = self.rules.get(pattern).map(|rule| rule.version);
        if precondition.holds(actual) {
            return Ok(());
        }
        Err(PreconditionFailed {
            pattern: pattern.clone(),
            precondition,
            actual,
        })
    }

    fn counted(mut self, before: &Self) -> Self {
        if self.rules != before.rules {
            self.version = before.version + 1;
        }
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn change(pattern: &str, limit: u32) -> RuleChange {
        RuleChange {
            pattern: pattern.parse().unwrap(),
            concurrency: NonZeroU32::new(limit),
            description: None,
            disabled: false,
            precondition: Precondition::None,
        }
    }

    fn book(rules: &[(&str, u32)]) -> RuleBook {
        let changes: Vec<_> = (rules.iter())
            .map(|(pattern, limit)| change(pattern, *limit))
            .collect();
        RuleBook::default().with(&changes, Timestamp(5)).unwrap()
    }

    #[test]
    fn the_most_specific_rule_of_a_depth_holds() {
        let book = book(&[
            ("*", 10),
            ("p", 9),
            ("p/*", 1),
            ("*/k", 2),
            ("*/*", 3),
            ("p/*/z", 4),
            ("p/k/*", 5),
            ("*/k/z", 6),
            ("free", 0),
        ]);
        let limit = |level: &str| {
            let (limit, pattern) = book.limit(level)?;
            Some(format!("{limit} by {pattern}"))
        };
        let table = [
            ("p", Some("9 by p")),
            ("q", Some("10 by *")),
            ("free", None),
            ("p/k", Some("1 by p/*")),
            ("q/k", Some("2 by */k")),
            ("q/m", Some("3 by */*")),
            ("p/k/z", Some("5 by p/k/*")),
            ("p/m/z", Some("4 by p/*/z")),
            ("q/k/z", Some("6 by */k/z")),
            ("q/m/z", None),
        ];
        for (level, expected) in table {
            assert_eq!(limit(level).as_deref(), expected, "{level}");
        }
    }

    #[test]
    fn changes_are_made_together_and_count_up() {
        let first = book(&[("a", 1), ("b", 1)]);
        assert_eq!(first.version(), 1);
        let same = first.with(&[change("a", 1)], Timestamp(9)).unwrap();
        assert_eq!(same, first);
        let second = first.with(&[change("a", 2)], Timestamp(9)).unwrap();
        let rule = second.get(&"a".parse().unwrap()).unwrap();
        assert_eq!(
            (second.version(), rule.version, rule.modified_at),
            (2, 2, 9)
        );

        let refused = RuleChange {
            precondition: Precondition::Matches(7),
            ..change("b", 3)
        };
        let refused = second.with(&[change("c", 1), refused], Timestamp(9));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "rule precondition Matches(v7) for pattern b failed (actual version: Some(v1))"
        );
        let (third, removed) = second
            .without(&[
                ("a".parse().unwrap(), Some(2)),
                ("z".parse().unwrap(), None),
            ])
            .unwrap();
        assert_eq!(removed, ["a".parse().unwrap()]);
        assert_eq!(third.version(), 3);
        assert_eq!(RuleBook::from_json(&third.to_json()).unwrap(), third);
    }

    #[test]
    fn patterns_are_checked() {
        let refused = |text: &str| text.parse::<Pattern>().unwrap_err().to_string();
        assert_eq!(refused(""), "pattern cannot be empty");
        assert_eq!(refused("a/b/c/d"), "too many path components (max 3)");
        assert_eq!(refused("a//b"), "invalid component: value cannot be empty");
        assert!(refused("a b").starts_with("invalid component: value contains"));
        assert_eq!("a/*/".parse::<Pattern>().unwrap().as_str(), "a/*");
    }
}
