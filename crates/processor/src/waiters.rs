//! Clients that wait for an invocation's end, and how an answer gets back to whoever asked.

use std::collections::{BTreeMap, HashMap};

use abide_rpc::Reply;
use abide_types::InvocationId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::router::WAIT_MAX;
use crate::wire::Response;

/// The way back to the asker. Dropping it unanswered makes the asker ask again.
pub(crate) enum Responder {
    /// On this node.
    Local(oneshot::Sender<Response>),
    /// On another one.
    Remote(Reply),
}

impl Responder {
    pub(crate) fn answer(self, response: Response) {
        match self {
            // An asker that has gone needs no answer.
            Self::Local(sender) => drop(sender.send(response)),
            Self::Remote(reply) => reply.send(response.encode()),
        }
    }
}

/// How many requests may wait for ends in one partition.
const WAITERS_MAX: usize = 100_000;

/// Who waits for which invocation. Nothing here is durable: after a change of leader the askers come again.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: HashMap<InvocationId, Vec<(u64, Responder)>>,
    /// When each was told to wait, oldest first.
    by_age: BTreeMap<u64, (Instant, InvocationId)>,
    next: u64,
}

impl Waiters {
    /// Keeps the asker until the invocation ends or [`WAIT_MAX`] has passed.
    pub(crate) fn wait(&mut self, id: InvocationId, responder: Responder) {
        if self.by_age.len() >= WAITERS_MAX {
            responder.answer(Response::Overloaded);
            return;
        }
        let number = self.next;
        self.next += 1;
        self.waiting
            .entry(id)
            .or_default()
            .push((number, responder));
        self.by_age.insert(number, (Instant::now(), id));
    }

    /// Everybody who waits for `id`.
    pub(crate) fn take(&mut self, id: &InvocationId) -> impl Iterator<Item = Responder> + use<> {
        let taken = self.waiting.remove(id).unwrap_or_default();
        for (number, _) in &taken {
            self.by_age.remove(number);
        }
        taken.into_iter().map(|(_, responder)| responder)
    }

    /// When the oldest has waited long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let (_, (since, _)) = self.by_age.first_key_value()?;
        Some(*since + WAIT_MAX)
    }

    /// Sends those who have waited long enough round again.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|expiry| expiry <= now)
            && let Some((number, (_, id))) = self.by_age.pop_first()
        {
            let Some(waiting) = self.waiting.get_mut(&id) else {
                continue;
            };
            if let Some(place) = waiting.iter().position(|(waiter, _)| *waiter == number) {
                let (_, responder) = waiting.swap_remove(place);
                responder.answer(Response::Pending);
            }
            if waiting.is_empty() {
                self.waiting.remove(&id);
            }
        }
    }

    /// Sends everybody to the next leader.
    pub(crate) fn dismiss(&mut self) {
        self.by_age.clear();
        for (_, responder) in self.waiting.drain().flat_map(|(_, waiting)| waiting) {
            responder.answer(Response::NotLeader);
        }
    }
}
