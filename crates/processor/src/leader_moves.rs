//! Where an invocation goes on: what the leader makes of a wish for another deployment before it proposes.
//!
//! The state machine knows deployments by their ids only; which one is the latest and what it speaks is in the
//! schema. Whether the invocation can be moved at all is decided where the command is applied.

use abide_schema::Deployment;
use abide_service_protocol::ProtocolVersion;
use abide_state_machine::proto::{self as state, Operation, Status, command::Kind};
use abide_types::{DeploymentId, InvocationId};
use bytes::Bytes;

use crate::api::{Restarted, Unsuitable, Whither};
use crate::leader::{Leader, OnApplied};
use crate::partition::PartitionError;
use crate::waiters::Responder;
use crate::wire::{Response, Restart};

impl Leader<'_> {
    pub(crate) fn on_resume(
        &mut self,
        id: InvocationId,
        whither: Whither,
        responder: Responder,
    ) -> Result<(), PartitionError> {
        let row = self.read_invocation(&id)?;
        let deployment = match (&row, whither) {
            (_, Whither::Keep) => Ok(None),
            (Some(row), _) => match row.status() {
                Status::Suspended | Status::Paused => {
                    // One that is not bound yet takes the latest anyway.
                    self.pin(row, whither)
                        .map(|pinned| Some(pinned.unwrap_or_default()))
                }
                // To be refused: it cannot be given another deployment while it runs.
                Status::Invoked => Ok(Some(state::Pinned::default())),
                Status::Scheduled | Status::Inboxed | Status::Completed => Ok(None),
            },
            (None, _) => Ok(None),
        };
        let deployment = match deployment {
            Ok(deployment) => deployment,
            Err(why) => {
                responder.answer(Response::Unsuitable(why));
                return Ok(());
            }
        };
        self.propose(
            Kind::Operate(state::Operate {
                id: Bytes::copy_from_slice(&id.to_bytes()),
                operation: Operation::Resume as i32,
                deployment: deployment.map(Box::new),
                waits: self.waits(&id),
                ..Default::default()
            }),
            OnApplied::Operate(responder),
        );
        Ok(())
    }

    pub(crate) fn on_restart(
        &mut self,
        restart: &Restart,
        responder: Responder,
    ) -> Result<(), PartitionError> {
        let row = self.read_invocation(&restart.id)?;
        let deployment = match row.filter(can_restart) {
            Some(row) => self.pin(&row, restart.whither),
            None => Ok(None),
        };
        let deployment = match deployment {
            Ok(deployment) => deployment,
            Err(why) => {
                responder.answer(Response::Unsuitable(why));
                return Ok(());
            }
        };
        self.propose(
            Kind::RestartAsNew(state::RestartAsNew {
                id: Bytes::copy_from_slice(&restart.id.to_bytes()),
                new_id: Bytes::copy_from_slice(&restart.new_id.to_bytes()),
                from: restart.from,
                deployment,
                waits: self.waits(&restart.id),
            }),
            OnApplied::Operate(responder),
        );
        Ok(())
    }

    /// What the invocation is to be bound to; `None` leaves it to its next attempt. One that was bound keeps its
    /// protocol version, since its journal is written in it.
    fn pin(
        &self,
        row: &state::Invocation,
        whither: Whither,
    ) -> Result<Option<state::Pinned>, Unsuitable> {
        let target = row.target.clone().unwrap_or_default();
        let schema = self.context.schema.borrow();
        let deployment = match whither {
            Whither::Keep => return Ok(row.pinned.clone()),
            Whither::Latest if row.pinned.is_none() => return Ok(None),
            Whither::Latest => schema.latest_deployment_of(&target.service),
            Whither::Deployment(id) => schema.deployment(id).filter(|deployment| {
                schema
                    .resolve_at(deployment.id, &target.service, &target.handler)
                    .is_ok()
            }),
        };
        let deployment = deployment.ok_or(Unsuitable::Unknown)?;
        let protocol = match &row.pinned {
            Some(pinned) => speaks(deployment, pinned.protocol)?,
            None => ProtocolVersion::choose(
                deployment.min_protocol_version,
                deployment.max_protocol_version,
            )
            .map(|version| version.number().into())
            .ok_or(Unsuitable::Unknown)?,
        };
        Ok(Some(state::Pinned {
            deployment: id_bytes(deployment.id),
            protocol,
        }))
    }
}

fn id_bytes(id: DeploymentId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

fn speaks(deployment: &Deployment, protocol: u32) -> Result<u32, Unsuitable> {
    let spoken = deployment.min_protocol_version..=deployment.max_protocol_version;
    if spoken.contains(&protocol) {
        return Ok(protocol);
    }
    Err(Unsuitable::Protocol {
        deployment: deployment.id,
        bound: protocol,
        min: deployment.min_protocol_version,
        max: deployment.max_protocol_version,
    })
}

/// Whether the row leaves it to the deployment; what else is wrong with it is told first.
fn can_restart(row: &state::Invocation) -> bool {
    let is_workflow = (row.target.as_ref())
        .is_some_and(|target| target.service_kind() == state::ServiceKind::Workflow);
    row.status() == Status::Completed && row.journal_length > 0 && !is_workflow
}

impl From<abide_state_machine::Restarted> for Restarted {
    fn from(restarted: abide_state_machine::Restarted) -> Self {
        use abide_state_machine::Restarted;
        match restarted {
            Restarted::Done => Self::Done,
            Restarted::NotFound => Self::NotFound,
            Restarted::StillRunning => Self::StillRunning,
            Restarted::NotStarted => Self::NotStarted,
            Restarted::NoInput => Self::NoInput,
            Restarted::Unsupported => Self::Unsupported,
            Restarted::Incomplete => Self::Incomplete,
        }
    }
}
