//! One thread that syncs the write-ahead log, once for everything that is waiting.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rocksdb::DB;

/// Told when everything that was written before is on disk, or that it may never be.
pub(crate) type Flushed = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// The thread and its queue. The queue holds a callback per append in flight, which raft bounds.
pub(crate) struct Flusher {
    queue: mpsc::Sender<Flushed>,
    thread: JoinHandle<()>,
}

impl Flusher {
    pub(crate) fn start(db: Arc<DB>) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("metadata-sync".into())
            .spawn(move || run(&db, &waiting))?;
        Ok(Self { queue, thread })
    }

    /// Calls `done` once all that was written before this call is on disk.
    pub(crate) fn flush(&self, done: Flushed) {
        if let Err(mpsc::SendError(done)) = self.queue.send(done) {
            done(Err(io::Error::other("the thread that syncs is gone")));
        }
    }

    /// Ends the thread once its queue is empty.
    pub(crate) fn stop(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the thread that syncs the metadata store panicked");
        }
    }
}

fn run(db: &DB, waiting: &mpsc::Receiver<Flushed>) {
    // A sync that failed may have dropped the pages it could not write: a later one that succeeds says nothing
    // about them. So the first failure is the answer from then on.
    let mut failure: Option<String> = None;
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter());
        if failure.is_none() {
            failure = db.flush_wal(true).err().map(|error| error.to_string());
        }
        for done in batch {
            done(match &failure {
                None => Ok(()),
                Some(failure) => Err(io::Error::other(format!("sync: {failure}"))),
            });
        }
    }
}
