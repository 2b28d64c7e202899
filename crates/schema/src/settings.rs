//! How a handler is run: what it says, what its service says, what the server defaults to.

use std::collections::BTreeMap;
use std::time::Duration;

use abide_types::HandlerKind;

use crate::kafka::KafkaCluster;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an invocation is kept after its end. Zero is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Its result.
    pub completion: Duration,
    /// Its journal; never longer than the result.
    pub journal: Duration,
}

/// What happens when the attempts of a retry policy are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMaxAttempts {
    /// The invocation waits for an operator.
    #[default]
    Pause,
    /// The last failure is the invocation's result.
    Kill,
}

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Delay after the first failed attempt.
    pub initial: Duration,
    /// What the delay is multiplied by after each further one.
    pub factor: f64,
    /// The longest delay.
    pub max_interval: Duration,
    /// Attempts in all, the first included; `None` is without end. 0 is read as 1.
    pub max_attempts: Option<u32>,
    /// What happens when they are used up.
    pub on_max_attempts: OnMaxAttempts,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            factor: 2.0,
            max_interval: Duration::from_secs(60),
            max_attempts: Some(70),
            on_max_attempts: OnMaxAttempts::Pause,
        }
    }
}

impl RetryPolicy {
    /// The delay before the next attempt when `attempt` attempts have failed, counted from 1; `None` when they
    /// are used up.
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        let attempt = attempt.max(1);
        if self.max_attempts.is_some_and(|most| attempt >= most) {
            return None;
        }
        // A policy of the wire may hold any number; a factor below 1 would make delays shrink to nothing.
        let factor = if self.factor.is_finite() {
            self.factor.max(1.0)
        } else {
            1.0
        };
        let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * factor.powi(exponent);
        let delay = Duration::try_from_secs_f64(seconds).unwrap_or(self.max_interval);
        Some(delay.min(self.max_interval))
    }
}

/// What a handler or service says about its retry policy; `None` leaves it to the next level.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RetryOverrides {
    /// See [`RetryPolicy::initial`].
    pub initial: Option<Duration>,
    /// See [`RetryPolicy::factor`].
    pub factor: Option<f64>,
    /// See [`RetryPolicy::max_interval`].
    pub max_interval: Option<Duration>,
    /// See [`RetryPolicy::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`RetryPolicy::on_max_attempts`].
    pub on_max_attempts: Option<OnMaxAttempts>,
}

/// What a handler or service says about how it is run; `None` leaves it to the next level.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overrides {
    /// Idle time after which the endpoint is asked to suspend.
    pub inactivity_timeout: Option<Duration>,
    /// Time from then on after which the attempt is cut.
    pub abort_timeout: Option<Duration>,
    /// How long the result of an idempotent call is kept.
    pub idempotency_retention: Option<Duration>,
    /// How long the result of a workflow run is kept.
    pub workflow_completion_retention: Option<Duration>,
    /// How long journals are kept; zero is not at all.
    pub journal_retention: Option<Duration>,
    /// Whether state is fetched on demand instead of sent ahead.
    pub enable_lazy_state: Option<bool>,
    /// The retry policy.
    pub retry: RetryOverrides,
}

/// What holds where neither handler nor service says anything, and how far they may go.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// See [`Overrides::inactivity_timeout`].
    pub inactivity_timeout: Duration,
    /// See [`Overrides::abort_timeout`].
    pub abort_timeout: Duration,
    /// See [`Overrides::idempotency_retention`].
    pub idempotency_retention: Duration,
    /// See [`Overrides::workflow_completion_retention`].
    pub workflow_completion_retention: Duration,
    /// See [`Overrides::journal_retention`].
    pub journal_retention: Duration,
    /// The retry policy.
    pub retry: RetryPolicy,
    /// The most attempts that a policy may ask for.
    pub max_attempts_max: Option<u32>,
    /// The longest idempotency retention.
    pub idempotency_retention_max: Option<Duration>,
    /// The longest workflow completion retention.
    pub workflow_completion_retention_max: Option<Duration>,
    /// The longest journal retention.
    pub journal_retention_max: Option<Duration>,
    /// The Kafka clusters of the node's configuration file, by name.
    pub kafka_clusters: BTreeMap<String, KafkaCluster>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            inactivity_timeout: Duration::from_secs(60),
            abort_timeout: Duration::from_secs(600),
            idempotency_retention: DAY,
            workflow_completion_retention: DAY,
            journal_retention: DAY,
            retry: RetryPolicy::default(),
            max_attempts_max: None,
            idempotency_retention_max: None,
            workflow_completion_retention_max: None,
            journal_retention_max: None,
            kafka_clusters: BTreeMap::new(),
        }
    }
}

/// How a handler is run, all levels taken together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HandlerSettings {
    /// Idle time after which the endpoint is asked to suspend. Zero asks for request-response mode.
    pub inactivity_timeout: Duration,
    /// Time from then on after which the attempt is cut.
    pub abort_timeout: Duration,
    /// How long the result of an idempotent call is kept.
    pub idempotency_retention: Duration,
    /// How long the result of a workflow run is kept.
    pub workflow_completion_retention: Duration,
    /// How long journals are kept; zero is not at all.
    pub journal_retention: Duration,
    /// Whether state is fetched on demand instead of sent ahead.
    pub enable_lazy_state: bool,
    /// When a failed attempt is followed by another.
    pub retry: RetryPolicy,
}

impl HandlerSettings {
    /// The settings of a handler: what `levels` say, the first that says something wins, then `defaults`.
    pub fn effective(levels: &[&Overrides], defaults: &Defaults) -> Self {
        fn first<T>(levels: &[&Overrides], field: impl Fn(&Overrides) -> Option<T>) -> Option<T> {
            levels.iter().find_map(|level| field(level))
        }
        fn clamp<T: Ord>(value: T, most: Option<T>) -> T {
            match most {
                Some(most) => value.min(most),
                None => value,
            }
        }
        let retry = &defaults.retry;
        let max_attempts = first(levels, |level| level.retry.max_attempts).or(retry.max_attempts);
        Self {
            inactivity_timeout: first(levels, |level| level.inactivity_timeout)
                .unwrap_or(defaults.inactivity_timeout),
            abort_timeout: first(levels, |level| level.abort_timeout)
                .unwrap_or(defaults.abort_timeout),
            idempotency_retention: clamp(
                first(levels, |level| level.idempotency_retention)
                    .unwrap_or(defaults.idempotency_retention),
                defaults.idempotency_retention_max,
            ),
            workflow_completion_retention: clamp(
                first(levels, |level| level.workflow_completion_retention)
                    .unwrap_or(defaults.workflow_completion_retention),
                defaults.workflow_completion_retention_max,
            ),
            journal_retention: clamp(
                first(levels, |level| level.journal_retention)
                    .unwrap_or(defaults.journal_retention),
                defaults.journal_retention_max,
            ),
            enable_lazy_state: first(levels, |level| level.enable_lazy_state).unwrap_or(false),
            retry: RetryPolicy {
                initial: first(levels, |level| level.retry.initial).unwrap_or(retry.initial),
                factor: first(levels, |level| level.retry.factor).unwrap_or(retry.factor),
                max_interval: first(levels, |level| level.retry.max_interval)
                    .unwrap_or(retry.max_interval),
                max_attempts: match (max_attempts, defaults.max_attempts_max) {
                    (Some(wanted), Some(most)) => Some(wanted.min(most)),
                    (wanted, most) => wanted.or(most),
                },
                on_max_attempts: first(levels, |level| level.retry.on_max_attempts)
                    .unwrap_or(retry.on_max_attempts),
            },
        }
    }

    /// How long an invocation of a handler of this kind is kept (ingress reference, section 11). `idempotent`:
    /// whether a repetition can be told from its first.
    pub fn retention(&self, kind: HandlerKind, idempotent: bool) -> Retention {
        let completion = match kind {
            HandlerKind::Workflow => self.workflow_completion_retention,
            _ if idempotent => self.idempotency_retention,
            _ => self.journal_retention,
        };
        Retention {
            completion,
            journal: self.journal_retention.min(completion),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_longest_and_end_with_the_attempts() {
        let policy = RetryPolicy {
            initial: Duration::from_millis(100),
            factor: 3.0,
            max_interval: Duration::from_secs(1),
            max_attempts: Some(5),
            on_max_attempts: OnMaxAttempts::Pause,
        };
        let delays: Vec<_> = (0..7)
            .map(|attempt| policy.delay(attempt).map(|delay| delay.as_millis()))
            .collect();
        let expected = [
            Some(100),
            Some(100),
            Some(300),
            Some(900),
            Some(1000),
            None,
            None,
        ];
        assert_eq!(delays, expected);
    }

    #[test]
    fn one_attempt_means_no_retry_and_none_at_all_is_read_as_one() {
        for attempts in [0, 1] {
            let policy = RetryPolicy {
                max_attempts: Some(attempts),
                ..RetryPolicy::default()
            };
            assert_eq!(policy.delay(1), None);
        }
    }

    #[test]
    fn odd_policies_neither_panic_nor_exceed_the_longest_delay() {
        for factor in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            for initial in [Duration::ZERO, Duration::MAX] {
                let policy = RetryPolicy {
                    initial,
                    factor,
                    max_attempts: None,
                    ..RetryPolicy::default()
                };
                for attempt in [0, 1, 2, 1000, u32::MAX] {
                    assert!(policy.delay(attempt).unwrap() <= policy.max_interval);
                }
            }
        }
    }

    #[test]
    fn the_handler_goes_before_the_service_and_the_service_before_the_server() {
        let handler = Overrides {
            inactivity_timeout: Some(Duration::from_secs(1)),
            ..Overrides::default()
        };
        let service = Overrides {
            inactivity_timeout: Some(Duration::from_secs(2)),
            abort_timeout: Some(Duration::from_secs(3)),
            retry: RetryOverrides {
                max_attempts: Some(100),
                ..RetryOverrides::default()
            },
            ..Overrides::default()
        };
        let defaults = Defaults {
            max_attempts_max: Some(9),
            journal_retention_max: Some(Duration::from_secs(5)),
            ..Defaults::default()
        };
        let settings = HandlerSettings::effective(&[&handler, &service], &defaults);
        assert_eq!(settings.inactivity_timeout, Duration::from_secs(1));
        assert_eq!(settings.abort_timeout, Duration::from_secs(3));
        assert_eq!(settings.idempotency_retention, DAY);
        assert_eq!(settings.journal_retention, Duration::from_secs(5));
        assert_eq!(settings.retry.max_attempts, Some(9));
    }

    #[test]
    fn retention_follows_the_kind_and_the_key() {
        let settings = HandlerSettings::effective(
            &[&Overrides {
                idempotency_retention: Some(Duration::from_secs(10)),
                workflow_completion_retention: Some(Duration::from_secs(20)),
                journal_retention: Some(Duration::from_secs(15)),
                ..Overrides::default()
            }],
            &Defaults::default(),
        );
        let seconds = |kind, idempotent| {
            let retention = settings.retention(kind, idempotent);
            (retention.completion.as_secs(), retention.journal.as_secs())
        };
        assert_eq!(seconds(HandlerKind::Workflow, false), (20, 15));
        assert_eq!(seconds(HandlerKind::Plain, true), (10, 10));
        assert_eq!(seconds(HandlerKind::Shared, false), (15, 15));
        let off = HandlerSettings {
            journal_retention: Duration::ZERO,
            ..settings
        };
        assert_eq!(
            off.retention(HandlerKind::Plain, false),
            Retention::default()
        );
    }
}
