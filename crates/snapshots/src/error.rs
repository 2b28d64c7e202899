//! Why a repository did not do what was asked.

use std::io;
use std::path::PathBuf;

/// Why a repository did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The destination is none.
    #[error("'{url}' is not a place for snapshots: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What would be right.
        reason: String,
    },
    /// The store refused or did not answer, after all retries.
    #[error("cannot {doing} {path} in {url}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// The object.
        path: String,
        /// The destination.
        url: String,
        /// What the store says.
        source: Box<object_store::Error>,
    },
    /// What is there belongs to another cluster: two clusters must not share a destination.
    #[error("{path} belongs to cluster {found}, this is {own}")]
    OtherCluster {
        /// The document.
        path: String,
        /// Whose it is.
        found: String,
        /// Who asks.
        own: String,
    },
    /// A leader of a higher epoch has published, or somebody did at the same time. Nothing was published.
    #[error("{path} was published by {epoch}, which is not below this leader's")]
    Superseded {
        /// The pointer.
        path: String,
        /// The epoch that it names.
        epoch: abide_types::Epoch,
    },
    /// A document is not what this version understands.
    #[error("{path} is not readable: {reason}")]
    Malformed {
        /// The document.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// An object is not what was stored.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// The object.
        path: String,
        /// What differs.
        problem: String,
    },
    /// There is no such thing.
    #[error("there is no {path} in {url}")]
    Missing {
        /// The object.
        path: String,
        /// The destination.
        url: String,
    },
    /// What would be the name of a backup is none.
    #[error("'{id}' is not the id of a backup: those are of letters and digits")]
    Id {
        /// What was given.
        id: String,
    },
    /// Somebody else is at it. Nothing was changed.
    #[error("somebody has been {what} a backup in {url} for {seconds} s")]
    Busy {
        /// `making` or `deleting`.
        what: &'static str,
        /// For how long.
        seconds: u64,
        /// The destination.
        url: String,
    },
    /// A local file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
