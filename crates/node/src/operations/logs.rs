//! Trimming logs by hand. The leader decides ([`abide_processor`]'s `trimming`); here it is put into words.

use std::time::Duration;

use abide_processor::Router;
use abide_rpc::proto::operations::{Plan, TrimPartition, TrimReply};
use abide_rpc::proto::partition::{
    ArchiveRequest, ReplicaDisk, TrimLog, TrimState, archive_reply::Kind as Answer,
    archive_request::Kind as Ask,
};
use abide_types::{NodeId, PartitionId};

use super::OperationError;
use super::picture::Picture;

/// How long the leader may take, a flush of its store included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Has a log trimmed, or says what that would come to.
pub(crate) async fn trim(
    picture: &Picture,
    router: &Router,
    request: &TrimPartition,
) -> Result<TrimReply, OperationError> {
    let partition = picture.partition(request.partition)?;
    let before = ask(router, partition, request, true).await?;
    let (reply, nothing_to_do) = judge(partition, request, &before)?;
    if request.dry_run || nothing_to_do {
        return Ok(reply);
    }
    let after = ask(router, partition, request, false).await?;
    if !after.done {
        // It was possible a moment ago: a replica or a snapshot has gone since.
        judge(partition, request, &after)?;
        return Err(OperationError::Contended);
    }
    Ok(TrimReply {
        first: after.first.max(reply.to.saturating_add(1)),
        ..reply
    })
}

async fn ask(
    router: &Router,
    partition: PartitionId,
    request: &TrimPartition,
    dry_run: bool,
) -> Result<TrimState, OperationError> {
    let trim = Ask::Trim(TrimLog {
        to: request.to,
        force: request.force,
        dry_run,
    });
    let asked = ArchiveRequest { kind: Some(trim) };
    match router.archive(partition, asked, ANSWER_WITHIN).await {
        Ok(Answer::Trim(state)) => Ok(state),
        Ok(Answer::Refused(reason)) => Err(OperationError::Leader { partition, reason }),
        Ok(other) => Err(OperationError::Leader {
            partition,
            reason: format!("unexpected answer {other:?}"),
        }),
        Err(source) => Err(OperationError::NoLeader { partition, source }),
    }
}

/// What the trim comes to, and whether that is nothing.
fn judge(
    partition: PartitionId,
    request: &TrimPartition,
    state: &TrimState,
) -> Result<(TrimReply, bool), OperationError> {
    let to = match request.to {
        0 => state.safe,
        to => to,
    };
    if state.possible < to {
        return Err(OperationError::TrimBeyond {
            partition,
            to,
            possible: state.possible,
        });
    }
    let risky = state.safe < to;
    if risky && !request.force {
        return Err(OperationError::TrimUnsafe {
            partition,
            to,
            safe: state.safe,
            why: covered(state),
        });
    }
    let nothing_to_do = to < state.first;
    let lines = match (nothing_to_do, risky) {
        (true, _) => vec![format!(
            "Log {partition} begins at {} already: nothing to do.",
            state.first
        )],
        (false, false) => vec![
            forgets(partition, state, to),
            format!("Nothing is lost: {}.", covered(state)),
        ],
        (false, true) => vec![
            forgets(partition, state, to),
            format!(
                "Of records {} to {to} the effects are then on the disks of {} alone: {}.",
                state.safe + 1,
                holders(state, to),
                covered(state)
            ),
            "Every other replica is filled from these; if they are lost before that, so is what these records did."
                .to_owned(),
        ],
    };
    let reply = TrimReply {
        plan: Some(Plan {
            lines,
            nothing_to_do,
        }),
        partition: partition.0.into(),
        first: state.first,
        to,
        safe: state.safe,
        risky,
    };
    Ok((reply, nothing_to_do))
}

fn forgets(partition: PartitionId, state: &TrimState, to: u64) -> String {
    format!(
        "Log {partition} forgets its records up to {to}: it begins at {} now, and at {} then.",
        state.first,
        to.saturating_add(1)
    )
}

/// What stands in for records now.
fn covered(state: &TrimState) -> String {
    let snapshots = match state.archived {
        0 => "there is no snapshot".to_owned(),
        archived => format!("the snapshots show records up to {archived}"),
    };
    let disk = |disk: &ReplicaDisk| {
        let away = if disk.in_reach { "" } else { " (away)" };
        let node = NodeId(disk.node);
        match disk.durable {
            0 => format!("{node}{away} has said nothing yet"),
            durable => format!("{node}{away} has what {durable} did on its disk"),
        }
    };
    let disks: Vec<String> = state.disks.iter().map(disk).collect();
    format!("{snapshots}, {}", disks.join(", "))
}

/// Who has the effects of all records up to one on disk, once the leader, which is the first, has flushed.
fn holders(state: &TrimState, to: u64) -> String {
    let holders = state.disks.iter().enumerate();
    let holders = holders.filter(|(index, disk)| *index == 0 || to <= disk.durable);
    let names: Vec<String> = holders
        .map(|(_, disk)| NodeId(disk.node).to_string())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrimState {
        let disk = |node, durable, in_reach| ReplicaDisk {
            node,
            durable,
            in_reach,
        };
        TrimState {
            first: 17,
            safe: 50,
            possible: 120,
            archived: 50,
            disks: vec![disk(1, 90, true), disk(2, 70, true), disk(3, 0, false)],
            done: false,
        }
    }

    fn judged(to: u64, force: bool) -> String {
        let request = TrimPartition {
            partition: 4,
            to,
            force,
            dry_run: false,
        };
        match judge(PartitionId(4), &request, &state()) {
            Ok((reply, _)) => reply.plan.unwrap_or_default().lines.join("\n"),
            Err(error) => format!("refused: {error}"),
        }
    }

    #[test]
    fn what_is_covered_goes_and_it_is_said_by_what() {
        let said = "Log 4 forgets its records up to 50: it begins at 17 now, and at 51 then.\n\
             Nothing is lost: the snapshots show records up to 50, N1 has what 90 did on its disk, \
             N2 has what 70 did on its disk, N3 (away) has said nothing yet.";
        assert_eq!(judged(0, false), said);
        assert_eq!(judged(50, true), said);
        assert_eq!(
            judged(16, false),
            "Log 4 begins at 17 already: nothing to do."
        );
    }

    #[test]
    fn beyond_that_it_takes_force_and_it_is_said_who_is_left() {
        assert!(judged(60, false).starts_with(
            "refused: log 4 cannot be trimmed to 60, only to 50: the snapshots show records up to 50, N1 "
        ));
        assert!(
            judged(60, true)
                .contains("Of records 51 to 60 the effects are then on the disks of N1, N2 alone")
        );
        assert!(
            judged(80, true)
                .contains("Of records 51 to 80 the effects are then on the disks of N1 alone")
        );
        assert_eq!(
            judged(121, true),
            "refused: log 4 cannot be trimmed to 121: beyond 120 its records are not committed and applied"
        );
    }
}
