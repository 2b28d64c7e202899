//! Opens the partition stores, and starts them anew where their files are damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use abide_partition_store::{PartitionStores, StoreOptions};
use abide_types::Timestamp;

use crate::error::NodeError;
use crate::start::chain;

const DAMAGED: &str = "damaged-";

/// Opens what is in `path`. Damaged files are put aside, not deleted: the state is rebuilt from the log, and from other
/// replicas where that has been trimmed; if there are none, an operator may want the files. Those that were put aside
/// before are deleted, or a disk that fails again and again would fill up with them.
pub(crate) fn open(path: &Path, options: StoreOptions) -> Result<Arc<PartitionStores>, NodeError> {
    match PartitionStores::open(path, options.clone()) {
        Err(damage) if damage.is_damage() => {
            let reason = chain(&damage);
            let aside = put_aside(path).map_err(|_| NodeError::PartitionStore(damage))?;
            tracing::error!(
                directory = %path.display(),
                aside = %aside.display(),
                reason,
                "the partition store is damaged; its files are put aside and it is rebuilt"
            );
            Ok(PartitionStores::open(path, options)?)
        }
        opened => Ok(opened?),
    }
}

fn put_aside(path: &Path) -> io::Result<PathBuf> {
    for before in put_aside_before(path)? {
        std::fs::remove_dir_all(before)?;
    }
    let now = Timestamp::from_system(SystemTime::now());
    let aside = path.with_extension(format!("{DAMAGED}{}", now.0));
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

fn put_aside_before(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(stem), Some(parent)) = (path.file_name(), path.parent()) else {
        return Ok(Vec::new());
    };
    let start = format!("{}.{DAMAGED}", stem.to_string_lossy());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn damaged_files_are_put_aside_and_only_the_last_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partitions");
        for _ in 0..2 {
            drop(open(&path, StoreOptions::default()).unwrap());
            std::fs::write(path.join("CURRENT"), "nonsense").unwrap();
            drop(open(&path, StoreOptions::default()).unwrap());
            let names = names(dir.path());
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(names[0], "partitions");
            assert!(names[1].starts_with("partitions.damaged-"), "{names:?}");
        }
    }
}
