//! What handlers tell the harness beside the engine: they run in its process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::program::Ending;

/// What a handler has to say to the client of its run.
#[derive(Debug, Clone)]
pub enum Note {
    /// Complete this awakeable so.
    Complete(String, Ending),
    /// The invocation of this label waits for ever now.
    Waits(String, String),
}

/// Shared by the endpoint and the clients.
#[derive(Clone, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    runs: HashMap<String, mpsc::UnboundedSender<Note>>,
    attempts: HashMap<String, u32>,
    invocations: HashMap<String, HashMap<String, String>>,
}

impl Ledger {
    /// Opens a run: what its handlers note comes out here.
    pub fn open(&self, run: &str) -> mpsc::UnboundedReceiver<Note> {
        // Unbounded, since a program has few steps.
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().runs.insert(run.to_owned(), sender);
        receiver
    }

    /// Forgets a run.
    pub fn close(&self, run: &str) {
        let prefix = format!("{run} ");
        let mut inner = self.lock();
        inner.runs.remove(run);
        inner.invocations.remove(run);
        inner
            .attempts
            .retain(|place, _| !place.starts_with(&prefix));
    }

    /// Notes something for the run's client. A run that is over hears nothing.
    pub fn note(&self, run: &str, note: Note) {
        if let Some(sender) = self.lock().runs.get(run) {
            let _ = sender.send(note);
        }
    }

    /// Counts an attempt at a place of a run, from 1.
    pub fn attempt(&self, run: &str, place: &str) -> u32 {
        let mut inner = self.lock();
        let count = inner.attempts.entry(format!("{run} {place}")).or_default();
        *count += 1;
        *count
    }

    /// Notes which invocation has a label.
    pub fn invoked(&self, run: &str, label: &str, invocation: &str) {
        self.lock()
            .invocations
            .entry(run.to_owned())
            .or_default()
            .insert(label.to_owned(), invocation.to_owned());
    }

    /// The invocations of a run that began, by label.
    pub fn invocations(&self, run: &str) -> HashMap<String, String> {
        self.lock()
            .invocations
            .get(run)
            .cloned()
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
