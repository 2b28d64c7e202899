//! Why a command failed, what that says on stderr and which exit code it takes.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use tonic::Code;

/// The header in which a node says what to do instead.
const HINT: &str = "abide-hint";
use crate::output;

/// A command that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("'{address}' is not the address of a node: {detail}")]
    Address { address: String, detail: String },
    #[error("no node answers: {}", .tried.join("; "))]
    Unreachable { tried: Vec<String> },
    #[error("the node at {address} has not joined a cluster: {detail}")]
    NotJoined { address: String, detail: String },
    #[error("the node at {address} does not serve: {reason}")]
    NotServing { address: String, reason: String },
    #[error("{address} answers: {detail}")]
    Refused { address: String, detail: String },
    #[error("'{text}' is not an invocation id")]
    InvocationId { text: String },
    #[error("partition {partition} does not exist")]
    NoPartition { partition: u16, count: u32 },
    #[error("there is no document '{key}'")]
    NoDocument { key: String },
    #[error("the cluster is provisioned already, its fingerprint is {fingerprint:016x}")]
    AlreadyProvisioned { fingerprint: u64 },
    /// What a node says to a change, with what to do instead.
    #[error("{detail}")]
    Operation {
        detail: String,
        hint: String,
        misused: bool,
    },
    #[error("the {what} is not JSON: {detail}")]
    NotJson { what: &'static str, detail: String },
    #[error("the patch does not fit '{key}': {source}")]
    Patch {
        key: String,
        source: crate::json_patch::PatchError,
    },
    #[error("no change was asked for")]
    NoChange { hint: &'static str },
    #[error("cannot read the standard input: {0}")]
    Input(io::Error),
    #[error("after {seconds} s it is still going on: {left}")]
    StillGoingOn { seconds: u64, left: String },
    #[error("nothing was changed: what is given up was not typed")]
    NotTyped,
    #[error("there is nothing to recover: {what}")]
    NotLost { what: String },
    #[error("there is nothing to go on with: {what}")]
    NothingLeft { what: String },
    #[error("not yet: {what}")]
    NotYet { what: String },
    /// It is done in another way here.
    #[error("{why}")]
    Elsewhere {
        why: &'static str,
        instead: &'static str,
    },
    #[error("nothing was changed: it was not confirmed")]
    NotConfirmed,
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
    /// The command was carried out, and what it found is not as it should be.
    #[error("{text}")]
    NotWell { text: String },
}

impl Failure {
    /// What a node's answer means.
    pub(crate) fn of(address: &str, status: &tonic::Status) -> Self {
        let address = address.to_owned();
        let detail = status.message().to_owned();
        if let Some(hint) = status.metadata().get(HINT) {
            return Self::Operation {
                detail,
                hint: hint.to_str().unwrap_or_default().to_owned(),
                misused: status.code() == Code::InvalidArgument,
            };
        }
        match status.code() {
            Code::FailedPrecondition => Self::NotJoined { address, detail },
            // A node that says so itself has been reached.
            Code::Unavailable if std::error::Error::source(status).is_none() => {
                Self::Refused { address, detail }
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unreachable {
                tried: vec![format!("{address}: {detail}")],
            },
            Code::Unimplemented => Self::Refused {
                address,
                detail: "it does not know this command; is it an Abide node of this version?"
                    .to_owned(),
            },
            _ => Self::Refused { address, detail },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("an address is http://HOST:PORT of a node port".to_owned()),
            Self::Unreachable { .. } => Some(
                "`--address` or ABIDECTL_ADDRESS names other nodes; the node port is 5122 unless configured"
                    .to_owned(),
            ),
            Self::NotJoined { .. } => {
                Some("`abidectl provision` forms a new cluster, if there is none to join".to_owned())
            }
            Self::InvocationId { .. } => Some("an invocation id begins with inv_ and has 44 characters".to_owned()),
            Self::NoPartition { count, .. } => Some(format!(
                "`abidectl partitions list` shows the {count} partitions of this cluster"
            )),
            Self::NotServing { .. } => Some(
                "`abidectl status` shows what it waits for, asked of this node or another".to_owned(),
            ),
            Self::NoDocument { .. } => Some("`abidectl metadata get` lists the keys".to_owned()),
            Self::AlreadyProvisioned { .. } => Some("`abidectl status` shows it".to_owned()),
            Self::NotYet { .. } => Some("`abidectl recover` again shows how it stands".to_owned()),
            Self::NotTyped | Self::NotLost { .. } | Self::NothingLeft { .. } => None,
            Self::Operation { hint, .. } => Some(hint.clone()),
            Self::NotJson { .. } => Some("quote it for the shell, or give - and the text on the standard input".to_owned()),
            Self::Patch { key, .. } => Some(format!("`abidectl metadata get {key}` shows the document")),
            Self::NoChange { hint } => Some((*hint).to_owned()),
            Self::StillGoingOn { .. } => Some("it goes on by itself; the same command follows it again".to_owned()),
            Self::Elsewhere { instead, .. } => Some((*instead).to_owned()),
            Self::NotConfirmed => Some("`--yes` confirms without a question".to_owned()),
            Self::Refused { .. } | Self::Output(_) | Self::Input(_) | Self::NotWell { .. } => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. }
            | Self::InvocationId { .. }
            | Self::NotJson { .. }
            | Self::NoChange { .. }
            | Self::Elsewhere { .. }
            | Self::Operation { misused: true, .. } => 2,
            Self::Unreachable { .. }
            | Self::NotJoined { .. }
            | Self::NotServing { .. }
            | Self::Refused { .. }
            | Self::NoPartition { .. }
            | Self::NoDocument { .. }
            | Self::AlreadyProvisioned { .. }
            | Self::NotConfirmed
            | Self::Operation { misused: false, .. }
            | Self::Patch { .. }
            | Self::Input(_)
            | Self::StillGoingOn { .. }
            | Self::NotTyped
            | Self::NotLost { .. }
            | Self::NothingLeft { .. }
            | Self::NotYet { .. }
            | Self::NotWell { .. }
            | Self::Output(_) => 1,
        }
    }

    /// Says so on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        if let Self::NotWell { text } = self {
            return match output::print(text) {
                Ok(()) => ExitCode::from(self.exit_code()),
                Err(failure) => failure.report(),
            };
        }
        let mut stderr = io::stderr().lock();
        let colour = stderr.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (red, plain) = if colour {
            ("\x1b[31m", "\x1b[0m")
        } else {
            ("", "")
        };
        // There is nowhere left to report a stderr that does not take it.
        let _ = writeln!(stderr, "{red}error:{plain} {self}");
        if let Some(hint) = self.hint() {
            let _ = writeln!(stderr, "hint: {hint}");
        }
        ExitCode::from(self.exit_code())
    }
}
