//! Compactions that operators order: one at a time of each database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
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
    took: Option<Duration>,
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
    let states = asked.map(|database| match wanted.start {
        true => start(facts, database),
        false => state(facts, &database, String::new()),
    });
    CompactState {
        databases: states.collect(),
    }
}

fn start(facts: &Arc<Facts>, database: Database) -> DatabaseState {
    let problem = room_for(facts, &database).and_then(|()| begin(facts, &database));
    state(facts, &database, problem.err().unwrap_or_default())
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

/// Does nothing while it is compacted already.
fn begin(facts: &Arc<Facts>, database: &Database) -> Result<(), String> {
    let name = database.name();
    let runs = &facts.compactions;
    if !runs.begin(name, database.bytes()) {
        return Ok(());
    }
    let work = {
        let (facts, database) = (Arc::clone(facts), database.clone());
        move || {
            database.compact();
            facts.compactions.end(name);
            tracing::info!(database = name, bytes = database.bytes(), "compacted");
        }
    };
    // Not one of the runtime's threads: a node that stops does not wait for it, and the files are whole at any moment.
    let thread = std::thread::Builder::new().name("compaction".to_owned());
    match thread.spawn(work) {
        Ok(_) => {
            tracing::info!(database = name, "an operator has a database compacted");
            Ok(())
        }
        Err(error) => {
            runs.end(name);
            Err(error.to_string())
        }
    }
}

fn state(facts: &Facts, database: &Database, problem: String) -> DatabaseState {
    let runs = facts.compactions.0.lock();
    let runs = runs.unwrap_or_else(PoisonError::into_inner);
    let run = runs.get(database.name());
    let bytes = database.bytes();
    let took = run.map(|run| run.took.unwrap_or_else(|| run.began.elapsed()));
    let millis = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    DatabaseState {
        name: database.name().to_owned(),
        running: run.is_some_and(|run| run.took.is_none()),
        bytes_before: run.map_or(bytes, |run| run.bytes_before),
        bytes,
        took_ms: took.map_or(0, millis),
        problem,
    }
}

impl Compactions {
    /// False if one runs.
    fn begin(&self, database: &'static str, bytes_before: u64) -> bool {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.get(database).is_some_and(|run| run.took.is_none()) {
            return false;
        }
        let run = Run {
            began: Instant::now(),
            bytes_before,
            took: None,
        };
        runs.insert(database, run);
        true
    }

    fn end(&self, database: &'static str) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = runs.get_mut(database) {
            run.took = Some(run.began.elapsed());
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
        runs.end("log");
        assert!(runs.begin("log", 4));
    }
}
