//! How operators change the state of an object or a workflow: all of a key's entries at once, when nothing holds
//! the key. A change that has to wait stands in the key's inbox, between the invocations before and behind it.

use std::ops::ControlFlow;

use abide_types::{HandlerKind, InvocationId, InvocationTarget, ServiceKind};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::apply::Transaction;
use crate::keys;
use crate::proto::{self, MutateState, Status};
use crate::store::StoreError;

/// Who or what waits for a key.
pub(crate) enum Waiting {
    Invocation(InvocationId),
    Mutation(MutateState),
}

impl Waiting {
    /// Reads a value of [`keys::Table::Inbox`].
    pub(crate) fn read(value: &Bytes) -> Option<Self> {
        match value.len() {
            0..InvocationId::LENGTH => None,
            InvocationId::LENGTH => InvocationId::from_bytes(value).map(Self::Invocation),
            _ => MutateState::decode(value.slice(InvocationId::LENGTH..))
                .ok()
                .map(Self::Mutation),
        }
    }
}

/// The value under which a change waits. Longer than an id, which tells them apart.
fn waiting_value(mutation: &MutateState) -> Bytes {
    let mut value = vec![0; InvocationId::LENGTH];
    // A message without any field still has to be longer than an id; its service is never empty.
    mutation
        .encode(&mut value)
        .expect("a vector takes everything");
    value.into()
}

impl Transaction<'_> {
    /// Changes the state now, or queues the change behind who holds the key.
    pub(crate) fn mutate_state(&mut self, mut mutation: MutateState) -> Result<(), StoreError> {
        if mutation.service.is_empty() {
            return Ok(());
        }
        if let Some(scope) = &mutation.scope {
            let flow = proto::Flow {
                scope: scope.clone(),
                limit_key: None,
            };
            mutation.service = keys::service_in(Some(&flow), &mutation.service).into_owned();
        }
        let held = match mutation.service_kind() {
            proto::ServiceKind::Service => return Ok(()),
            proto::ServiceKind::VirtualObject => self
                .store
                .get(&keys::lock(&mutation.service, &mutation.key))?
                .is_some(),
            proto::ServiceKind::Workflow => self.wait_for_run(&mutation)?,
        };
        if !held {
            return self.change_state(&mutation);
        }
        let (lsn, index) = self.unique();
        self.store.put(
            keys::inbox(&mutation.service, &mutation.key, lsn, index),
            waiting_value(&mutation),
        );
        Ok(())
    }

    /// Whether the workflow's run is under way; it is told then that something waits for its end.
    fn wait_for_run(&mut self, mutation: &MutateState) -> Result<bool, StoreError> {
        let (scope, service) = keys::scope_and_service(&mutation.service);
        let run = InvocationTarget {
            service: service.to_owned(),
            key: Some(mutation.key.clone()),
            handler: String::new(),
            service_kind: ServiceKind::Workflow,
            handler_kind: HandlerKind::Workflow,
        };
        let id = run.scoped_id(scope, None, 0);
        let Some(mut run) = self.load(&id)? else {
            return Ok(false);
        };
        if matches!(run.status(), Status::Completed | Status::Scheduled) {
            return Ok(false);
        }
        if !run.mutations_wait {
            run.mutations_wait = true;
            self.store
                .put(keys::invocation(&id), run.encode_to_vec().into());
        }
        Ok(true)
    }

    /// Applies the changes at the head of the key's inbox. Returns the invocation behind them, which has left the
    /// inbox.
    pub(crate) fn next_in_inbox(
        &mut self,
        service: &str,
        key: &str,
    ) -> Result<Option<InvocationId>, StoreError> {
        let prefix = keys::inbox_of(service, key);
        loop {
            let mut first = None;
            self.store
                .scan(&prefix, &keys::prefix_end(&prefix), &mut |key, value| {
                    first = Some((Bytes::copy_from_slice(key), value.clone()));
                    ControlFlow::Break(())
                })?;
            let Some((place, value)) = first else {
                return Ok(None);
            };
            self.store.delete(place);
            match Waiting::read(&value) {
                Some(Waiting::Mutation(mutation)) => self.change_state(&mutation)?,
                Some(Waiting::Invocation(id)) => return Ok(Some(id)),
                None => {}
            }
        }
    }

    fn change_state(&mut self, mutation: &MutateState) -> Result<(), StoreError> {
        let prefix = keys::state_of(&mutation.service, &mutation.key);
        if let Some(wanted) = &mutation.version {
            let mut entries = Vec::new();
            self.store
                .scan(&prefix, &keys::prefix_end(&prefix), &mut |key, value| {
                    entries.push((Bytes::copy_from_slice(&key[prefix.len()..]), value.clone()));
                    ControlFlow::Continue(())
                })?;
            if state_version(&entries) != *wanted {
                return Ok(());
            }
        }
        self.delete_prefix(&prefix)?;
        for entry in &mutation.entries {
            self.store.put(
                keys::state(&mutation.service, &mutation.key, entry.key.as_bytes()),
                entry.value.clone(),
            );
        }
        Ok(())
    }
}

/// Tells one state of a key from another (admin reference, section 7). `entries` are sorted by key.
pub fn state_version(entries: &[(Bytes, Bytes)]) -> String {
    let mut digest = Sha256::new();
    for (index, (key, value)) in entries.iter().enumerate() {
        digest.update((index as u64).to_be_bytes());
        digest.update([1]);
        digest.update(key);
        digest.update([2]);
        digest.update(value);
        digest.update([3]);
    }
    BASE64_URL_SAFE_NO_PAD.encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_tools_compute() {
        assert_eq!(
            state_version(&[]),
            "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
        );
        let entry = (Bytes::from_static(b"name"), Bytes::from_static(b"bob"));
        assert_eq!(
            state_version(&[entry]),
            "tDqA04Lj3_qJ-PgNPTecXDGZgpwy6jm2Ni2BYqJIthM"
        );
    }

    #[test]
    fn no_inbox_row_panics_its_reader() {
        for length in 0..60 {
            let _ = Waiting::read(&vec![0xff; length].into());
        }
        let mutation = MutateState {
            service: "S".to_owned(),
            ..Default::default()
        };
        let Some(Waiting::Mutation(read)) = Waiting::read(&waiting_value(&mutation)) else {
            panic!("a change is read as one");
        };
        assert_eq!(read, mutation);
    }
}
