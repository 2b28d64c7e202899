//! What this process logs, changed while it runs.

use std::sync::{Mutex, PoisonError};

use abide_rpc::proto::cluster::{LogFilterChange, LogFilterState};

/// Makes the process log by a filter from now on, or says what is wrong with the filter.
pub type ApplyFilter = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The filter in force, and the way to another.
pub struct LogFilter {
    configured: String,
    current: Mutex<String>,
    apply: ApplyFilter,
}

impl LogFilter {
    /// `configured` is in force.
    pub fn new(configured: String, apply: ApplyFilter) -> Self {
        Self {
            current: Mutex::new(configured.clone()),
            configured,
            apply,
        }
    }

    /// Does what is asked; a filter that is refused changes nothing.
    pub(crate) fn change(&self, change: &LogFilterChange) -> LogFilterState {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let wished = match change {
            LogFilterChange { reset: true, .. } => Some(&self.configured),
            LogFilterChange { filter, .. } => filter.as_ref(),
        };
        let mut refused = String::new();
        if let Some(wished) = wished {
            match (self.apply)(wished) {
                Ok(()) => {
                    tracing::info!(before = *current, now = wished, "log filter changed");
                    current.clone_from(wished);
                }
                Err(why) => refused = why,
            }
        }
        LogFilterState {
            filter: current.clone(),
            configured: self.configured.clone(),
            refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> LogFilter {
        let apply = |text: &str| match text {
            "bad" => Err("no".to_owned()),
            _ => Ok(()),
        };
        LogFilter::new("info".to_owned(), Box::new(apply))
    }

    fn set(filter: &str) -> LogFilterChange {
        LogFilterChange {
            filter: Some(filter.to_owned()),
            reset: false,
        }
    }

    #[test]
    fn a_filter_stays_until_it_is_reset() {
        let filter = filter();
        assert_eq!(filter.change(&set("debug")).filter, "debug");
        assert_eq!(filter.change(&LogFilterChange::default()).filter, "debug");
        let reset = LogFilterChange {
            reset: true,
            filter: None,
        };
        assert_eq!(filter.change(&reset).filter, "info");
    }

    #[test]
    fn a_refused_filter_changes_nothing_and_says_why() {
        let state = filter().change(&set("bad"));
        assert_eq!(
            (state.filter.as_str(), state.refused.as_str()),
            ("info", "no")
        );
    }
}
