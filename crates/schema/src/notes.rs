//! What is registered and does not hold as it was said: told to whoever looks at it (admin reference, sections 5 and 6).

use std::time::Duration;

use abide_service_protocol::ErrorCode;
use abide_types::{HandlerKind, ServiceKind};

use crate::duration;
use crate::schema::{Deployment, Handler, ProtocolType, ServiceRevision};
use crate::settings::{Defaults, Overrides};

/// One such note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// The endpoint speaks only versions of the service protocol that the engine does not speak any more.
    #[error(
        "The deployment speaks service protocol versions {min} to {max} only, which this server does not speak any more: new requests are refused. Upgrade its SDK and register it again."
    )]
    DeprecatedProtocol {
        /// The lowest.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// A request that is answered as a whole is not idle.
    #[error(
        "The configured inactivity_timeout {} will not be applied because the {exposed} is exposed in Request/Response mode.",
        duration::format(*timeout)
    )]
    NoInactivityTimeout {
        /// What was said.
        timeout: Duration,
        /// `service` or `handler`.
        exposed: &'static str,
    },
    /// It is longer than this server allows.
    #[error("The configured {0} is clamped to the maximum server limit.")]
    Clamped(&'static str),
}

impl Note {
    /// The documented code.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::DeprecatedProtocol { .. } => ErrorCode::Rt0020,
            Self::NoInactivityTimeout { .. } => ErrorCode::Rt0021,
            Self::Clamped(_) => ErrorCode::Rt0022,
        }
    }
}

impl Deployment {
    /// What is to be known about it.
    pub fn notes(&self) -> Vec<Note> {
        let deprecated = (!self.is_supported()).then_some(Note::DeprecatedProtocol {
            min: self.min_protocol_version,
            max: self.max_protocol_version,
        });
        deprecated.into_iter().collect()
    }
}

impl ServiceRevision {
    /// What is to be known about it; `deployment` is who offers it.
    pub fn notes(&self, deployment: &Deployment, defaults: &Defaults) -> Vec<Note> {
        let workflow_completion_retention = (self.kind == ServiceKind::Workflow).then(|| {
            let of_run = self
                .handlers
                .values()
                .find(|handler| handler.kind == HandlerKind::Workflow)
                .and_then(|run| run.overrides.workflow_completion_retention);
            of_run
                .or(self.overrides.workflow_completion_retention)
                .unwrap_or(defaults.workflow_completion_retention)
        });
        let said = Said {
            journal_retention: Some(
                (self.overrides.journal_retention).unwrap_or(defaults.journal_retention),
            ),
            idempotency_retention: Some(
                (self.overrides.idempotency_retention).unwrap_or(defaults.idempotency_retention),
            ),
            workflow_completion_retention,
        };
        let mut notes = deployment.notes();
        notes.extend(inactivity(&self.overrides, deployment, "service"));
        notes.extend(said.clamped(defaults));
        notes
    }
}

impl Handler {
    /// What is to be known about it; `deployment` is who offers it.
    pub fn notes(&self, deployment: &Deployment, defaults: &Defaults) -> Vec<Note> {
        let said = Said {
            journal_retention: self.overrides.journal_retention,
            idempotency_retention: self.overrides.idempotency_retention,
            workflow_completion_retention: None,
        };
        let ignored = inactivity(&self.overrides, deployment, "handler");
        ignored.into_iter().chain(said.clamped(defaults)).collect()
    }
}

fn inactivity(
    overrides: &Overrides,
    deployment: &Deployment,
    exposed: &'static str,
) -> Option<Note> {
    let timeout = overrides.inactivity_timeout?;
    (deployment.protocol_type == ProtocolType::RequestResponse)
        .then_some(Note::NoInactivityTimeout { timeout, exposed })
}

/// Retentions before they are clamped.
struct Said {
    journal_retention: Option<Duration>,
    idempotency_retention: Option<Duration>,
    workflow_completion_retention: Option<Duration>,
}

impl Said {
    fn clamped(&self, defaults: &Defaults) -> impl Iterator<Item = Note> + use<> {
        let table = [
            (
                "journal_retention",
                self.journal_retention,
                defaults.journal_retention_max,
            ),
            (
                "idempotency_retention",
                self.idempotency_retention,
                defaults.idempotency_retention_max,
            ),
            (
                "workflow_completion_retention",
                self.workflow_completion_retention,
                defaults.workflow_completion_retention_max,
            ),
        ];
        table
            .into_iter()
            .filter(
                |(_, said, most)| matches!((said, most), (Some(said), Some(most)) if said > most),
            )
            .map(|(name, _, _)| Note::Clamped(name))
    }
}

impl Overrides {
    /// These, with what is longer than the server allows cut to that.
    #[must_use]
    pub fn clamped(&self, defaults: &Defaults) -> Self {
        let cut = |said: Option<Duration>, most: Option<Duration>| match (said, most) {
            (Some(said), Some(most)) => Some(said.min(most)),
            (said, _) => said,
        };
        Self {
            journal_retention: cut(self.journal_retention, defaults.journal_retention_max),
            idempotency_retention: cut(
                self.idempotency_retention,
                defaults.idempotency_retention_max,
            ),
            workflow_completion_retention: cut(
                self.workflow_completion_retention,
                defaults.workflow_completion_retention_max,
            ),
            ..*self
        }
    }
}
