//! What holds for invocations unless their service says otherwise.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{attempts, duration};

/// How failed attempts are repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetryPolicy {
    /// Pause before the second attempt. Shorter hides a blip, longer spares a service that is down.
    #[serde(with = "duration")]
    pub initial_interval: Duration,
    /// Each pause is this many times the one before.
    pub exponentiation_factor: f64,
    /// The longest pause.
    #[serde(with = "duration")]
    pub max_interval: Duration,
    /// Attempts, the first one included, before `on-max-attempts`; `"unlimited"` repeats for ever.
    #[serde(with = "attempts")]
    pub max_attempts: Option<u32>,
    /// What happens when the last attempt has failed.
    pub on_max_attempts: OnMaxAttempts,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_millis(500),
            exponentiation_factor: 2.0,
            max_interval: Duration::from_secs(60),
            max_attempts: Some(70),
            on_max_attempts: OnMaxAttempts::Pause,
        }
    }
}

/// What happens to an invocation whose attempts have run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnMaxAttempts {
    /// It waits for somebody to resume it. Nothing is lost, and its key stays locked.
    Pause,
    /// It fails for good.
    Kill,
}

impl TryFrom<String> for OnMaxAttempts {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "pause" => Ok(Self::Pause),
            "kill" => Ok(Self::Kill),
            _ => Err(format!("'{text}' is not known; use pause or kill")),
        }
    }
}
