//! What a node does.

use std::fmt;
use std::str::FromStr;

/// A part of the engine that a node runs; all of them by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Votes in and stores the metadata plane.
    MetadataServer,
    /// Stores segment replicas.
    LogServer,
    /// Runs partition processors and calls services.
    Worker,
    /// Serves calls.
    HttpIngress,
    /// Serves the admin API.
    Admin,
}

/// A role that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a role; the roles are metadata-server, log-server, worker, http-ingress, admin"
)]
pub struct RoleError(pub String);

impl Role {
    /// Every role, in the order in which they are listed.
    pub const ALL: [Self; 5] = [
        Self::MetadataServer,
        Self::LogServer,
        Self::Worker,
        Self::HttpIngress,
        Self::Admin,
    ];

    /// The name in configuration and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MetadataServer => "metadata-server",
            Self::LogServer => "log-server",
            Self::Worker => "worker",
            Self::HttpIngress => "http-ingress",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| RoleError(text.to_owned()))
    }
}
