//! Starting over: a new invocation with the input of one that has ended, and with a stretch of its journal if the
//! operator wants to go on from there.
//!
//! What the copied commands did is not done again: their completions are copied with them, and the handler replays
//! over both. State stays as it is now.

use std::collections::BTreeSet;

use abide_service_protocol::{Command, MessageType, Notification, NotificationId, RawEntry};
use abide_types::InvocationId;
use bytes::Bytes;

use crate::action::{Reply, Restarted};
use crate::apply::Transaction;
use crate::convert::outcome_to_stored;
use crate::journal::{is_notification, read_journal};
use crate::lifecycle::random_seed;
use crate::operations::is_yet_to_begin;
use crate::proto::{self, Invocation, Status};
use crate::store::StoreError;

impl Transaction<'_> {
    pub(crate) fn restart_as_new(
        &mut self,
        restart: &proto::RestartAsNew,
    ) -> Result<Reply, StoreError> {
        let (Some(id), Some(new_id)) = (
            InvocationId::from_bytes(&restart.id),
            InvocationId::from_bytes(&restart.new_id),
        ) else {
            return Ok(Reply::Restarted(Restarted::NotFound));
        };
        self.restart(&id, new_id, restart).map(Reply::Restarted)
    }

    fn restart(
        &mut self,
        id: &InvocationId,
        new_id: InvocationId,
        restart: &proto::RestartAsNew,
    ) -> Result<Restarted, StoreError> {
        if self.load(&new_id)?.is_some() {
            // A repetition after a change of leader: the new id was chosen before the first try.
            return Ok(Restarted::Done);
        }
        let Some(old) = self.load_remembered(id)? else {
            return Ok(Restarted::NotFound);
        };
        if let Some(refused) = refusal(&old, restart) {
            return Ok(refused);
        }
        let journal = read_journal(self.store, id, old.journal_length)?;
        let Some(copied) = prefix(journal, restart.from) else {
            return Ok(Restarted::Incomplete);
        };
        let (incarnation, _) = self.unique();
        let mut new = Invocation {
            target: old.target,
            incarnation: incarnation.0,
            created_at: self.at.0,
            completion_retention_ms: old.completion_retention_ms,
            journal_retention_ms: old.journal_retention_ms,
            // What the copied commands contain may have been drawn from it.
            random_seed: match restart.from {
                0 => random_seed(&new_id),
                _ => old.random_seed,
            },
            pinned: restart.deployment.clone(),
            flow: old.flow,
            restarted_from: Bytes::copy_from_slice(&id.to_bytes()),
            ..Default::default()
        };
        for entry in copied {
            new.command_count += u32::from(entry.is_command());
            if entry.ty == MessageType::Output.code()
                && let Ok(Command::Output(outcome)) = Command::decode(&entry)
            {
                new.outcome = Some(outcome_to_stored(outcome));
            }
            self.append(&new_id, &mut new, entry.ty, entry.payload);
        }
        self.start_or_queue(&new_id, &mut new)?;
        self.save(&new_id, &mut new);
        Ok(Restarted::Done)
    }
}

/// Why the invocation cannot be restarted, if its row says so already.
fn refusal(old: &Invocation, restart: &proto::RestartAsNew) -> Option<Restarted> {
    let is_workflow = (old.target.as_ref())
        .is_some_and(|target| target.service_kind() == proto::ServiceKind::Workflow);
    match old.status() {
        _ if is_yet_to_begin(old, restart.waits) => Some(Restarted::NotStarted),
        Status::Scheduled | Status::Inboxed => Some(Restarted::NotStarted),
        Status::Invoked | Status::Suspended | Status::Paused => Some(Restarted::StillRunning),
        Status::Completed if is_workflow => Some(Restarted::Unsupported),
        Status::Completed if old.journal_length == 0 => Some(Restarted::NoInput),
        Status::Completed if restart.from > 0 && old.pinned.is_none() => {
            Some(Restarted::Unsupported)
        }
        Status::Completed => None,
    }
}

/// The entries up to `from`, and the completions of the commands among them, wherever they are. `None` if one is
/// missing or the journal is shorter.
fn prefix(journal: Vec<RawEntry>, from: u32) -> Option<Vec<RawEntry>> {
    let length = usize::try_from(from).ok()?.checked_add(1)?;
    if journal.len() < length {
        return None;
    }
    let mut missing: BTreeSet<u32> = journal[..length].iter().flat_map(completions).collect();
    let mut copied = Vec::with_capacity(length);
    for (index, entry) in journal.into_iter().enumerate() {
        let answers = completion(&entry).is_some_and(|id| missing.remove(&id));
        if index < length || answers {
            copied.push(entry);
        }
    }
    missing.is_empty().then_some(copied)
}

/// The completion that an entry is.
fn completion(entry: &RawEntry) -> Option<u32> {
    if !is_notification(entry.ty) {
        return None;
    }
    match Notification::decode(entry).ok()?.id {
        NotificationId::Completion(id) => Some(id),
        NotificationId::Signal(_) | NotificationId::NamedSignal(_) => None,
    }
}

/// The completions that a command gets.
fn completions(entry: &RawEntry) -> Vec<u32> {
    let Ok(command) = Command::decode(entry) else {
        return Vec::new();
    };
    match command {
        Command::Input { .. }
        | Command::Output(_)
        | Command::GetEagerState
        | Command::GetEagerStateKeys
        | Command::SetState { .. }
        | Command::ClearState { .. }
        | Command::ClearAllState
        | Command::SendSignal { .. }
        | Command::CompleteAwakeable { .. } => Vec::new(),
        Command::Call(call) => vec![call.invocation_id_completion, call.completion],
        Command::OneWayCall(call) => vec![call.invocation_id_completion],
        Command::Run { completion }
        | Command::Sleep { completion, .. }
        | Command::GetLazyState { completion, .. }
        | Command::GetLazyStateKeys { completion }
        | Command::GetPromise { completion, .. }
        | Command::PeekPromise { completion, .. }
        | Command::CompletePromise { completion, .. }
        | Command::AttachInvocation { completion, .. }
        | Command::GetInvocationOutput { completion, .. } => vec![completion],
    }
}
