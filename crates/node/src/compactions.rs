//! Compactions that operators order: one at a time of each database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abide_log_server::LogServer;
use abide_metadata::MetadataServer;
use abide_partition_store::PartitionStores;
use abide_rpc::proto::cluster::{Compact, CompactState, DatabaseState};

use crate::facts::Facts;

/// The last one of each database, by its name.
#[derive(Default)]
pub(crate) struct Compactions(Mutex<BTreeMap<&'static str, Run>>);

struct Run {
    began: Instant,
    bytes_before: u64,
    /// `None` while it runs.
    ended: Option<Ended>,
}

struct Ended {
    took: Duration,
    /// Why nothing was done, if so.
    problem: String,
}

#[derive(Clone)]
enum Database {
    Partitions(Arc<PartitionStores>),
    Log(Arc<LogServer>),
    Metadata(MetadataServer),
}

/// What has become of the databases that are asked for; begins to compact them if that is wanted.
pub(crate) fn answer(facts: &Arc<Facts>, wanted: &Compact) -> CompactState {
    let is_wanted =
        |name: &str| wanted.databases.is_empty() || wanted.databases.iter().any(|one| one == name);
    let databases = databases(facts).into_iter();
    let asked = databases.filter(|database| is_wanted(database.name()));
    let states = asked.map(|database| {
        if wanted.start {
            start(facts, &database);
        }
        state(facts, &database)
    });
    CompactState {
        databases: states.collect(),
    }
}

/// Does nothing while it is compacted already.
fn start(facts: &Arc<Facts>, database: &Database) {
    let name = database.name();
    let runs = &facts.compactions;
    if !runs.begin(name, database.bytes()) {
        return;
    }
    let begun = room_for(facts, database).and_then(|()| begin(facts, database));
    if let Err(problem) = begun {
        runs.end(name, problem);
    }
}

/// All files are written once more before the old ones go.
fn room_for(facts: &Facts, database: &Database) -> Result<(), String> {
    let log_server = facts
        .member
        .get()
        .and_then(|member| member.log_server.as_ref());
    let Some(free) = log_server.and_then(|server| server.free_bytes()) else {
        return Ok(());
    };
    let kept_free = facts.config.log_server.free_space_min.0;
    let needed = database.bytes().saturating_add(kept_free);
    match needed <= free {
        true => Ok(()),
        false => Err(format!(
            "{} MiB must be free on the disk, and {} MiB are",
            needed >> 20,
            free >> 20
        )),
    }
}

fn begin(facts: &Arc<Facts>, database: &Database) -> Result<(), String> {
    let name = database.name();
    let work = {
        let (facts, database) = (Arc::clone(facts), database.clone());
        move || {
            database.compact();
            facts.compactions.end(name, String::new());
            tracing::info!(database = name, bytes = database.bytes(), "compacted");
        }
    };
    // Not one of the runtime's threads: a node that stops does not wait for it, and the files are whole at any moment.
    let thread = std::thread::Builder::new().name("compaction".to_owned());
    thread.spawn(work).map_err(|error| error.to_string())?;
    tracing::info!(database = name, "an operator has a database compacted");
    Ok(())
}

fn state(facts: &Facts, database: &Database) -> DatabaseState {
    let bytes = database.bytes();
    let runs = facts.compactions.lock();
    let mut state = DatabaseState {
        name: database.name().to_owned(),
        bytes_before: bytes,
        bytes,
        ..DatabaseState::default()
    };
    if let Some(run) = runs.get(database.name()) {
        let took = match &run.ended {
            Some(ended) => ended.took,
            None => run.began.elapsed(),
        };
        state.bytes_before = run.bytes_before;
        state.running = run.ended.is_none();
        state.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        state.problem = (run.ended.as_ref()).map_or_else(String::new, |it| it.problem.clone());
    }
    state
}

impl Compactions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if one runs.
    fn begin(&self, database: &'static str, bytes_before: u64) -> bool {
        let mut runs = self.lock();
        if runs.get(database).is_some_and(|run| run.ended.is_none()) {
            return false;
        }
        let run = Run {
            began: Instant::now(),
            bytes_before,
            ended: None,
        };
        runs.insert(database, run);
        true
    }

    fn end(&self, database: &'static str, problem: String) {
        if let Some(run) = self.lock().get_mut(database) {
            let took = run.began.elapsed();
            run.ended = Some(Ended { took, problem });
        }
    }
}

fn databases(facts: &Facts) -> Vec<Database> {
    let member = facts.member.get();
    let stores = member.and_then(|member| member.stores.as_ref()?.upgrade());
    let log = member.and_then(|member| member.log_server.clone());
    let found = [
        stores.map(Database::Partitions),
        log.map(Database::Log),
        facts.server.get().cloned().map(Database::Metadata),
    ];
    found.into_iter().flatten().collect()
}

impl Database {
    fn name(&self) -> &'static str {
        match self {
            Self::Partitions(_) => "partitions",
            Self::Log(_) => "log",
            Self::Metadata(_) => "metadata",
        }
    }

    /// Of its files.
    fn bytes(&self) -> u64 {
        const FILES: &str = "rocksdb.total-sst-files-size";
        let bytes = match self {
            Self::Partitions(stores) => stores.property(FILES),
            Self::Log(server) => server.property(FILES),
            Self::Metadata(server) => server.property(FILES),
        };
        bytes.unwrap_or(0)
    }

    fn compact(&self) {
        match self {
            Self::Partitions(stores) => stores.compact(),
            Self::Log(server) => server.compact(),
            Self::Metadata(server) => server.compact(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_compacted_once_at_a_time() {
        let runs = Compactions::default();
        assert!(runs.begin("log", 1));
        assert!(!runs.begin("log", 2));
        assert!(runs.begin("partitions", 3));
        runs.end("log", String::new());
        assert!(runs.begin("log", 4));
    }
}
