//! Why a query has no answer.

use std::time::Duration;

use datafusion::common::DataFusionError;

/// Why a query has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// It is not SQL, or changes something.
    #[error("Datafusion error: {0}")]
    Refused(String),
    /// It names what is not there, or failed as it ran.
    #[error("Datafusion error: {0}")]
    Failed(String),
    /// Too many run.
    #[error("the query engine is overloaded: {0} queries run. Retry later.")]
    Overloaded(usize),
    /// It took too long.
    #[error("the query took longer than {0:?}; ask for less")]
    TimedOut(Duration),
    /// The node cannot run queries.
    #[error("the query engine is not available: {0}")]
    Unavailable(String),
}

impl QueryError {
    /// The text of a statement could not be read.
    pub(crate) fn refused(error: &DataFusionError) -> Self {
        Self::Refused(error.strip_backtrace())
    }

    pub(crate) fn failed(error: &DataFusionError) -> Self {
        Self::Failed(error.strip_backtrace())
    }
}
