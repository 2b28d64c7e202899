//! Opens the partition stores, and starts them anew where their files are damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use abide_partition_store::{OpenError, PartitionStores, StoreOptions};
use abide_types::Timestamp;

use crate::error::NodeError;

/// Opens what is in `path`. Damaged files are put aside, not deleted: the state is rebuilt from the log, and if that
/// has been trimmed, an operator may want them.
pub(crate) fn open(path: &Path, options: StoreOptions) -> Result<Arc<PartitionStores>, NodeError> {
    match PartitionStores::open(path, options.clone()) {
        Err(damage @ OpenError::Corrupt { .. }) => {
            let aside = put_aside(path).map_err(|_| NodeError::PartitionStore(damage))?;
            tracing::error!(
                directory = %path.display(),
                aside = %aside.display(),
                "the partition store is damaged; its files are put aside and it is rebuilt from the logs"
            );
            Ok(PartitionStores::open(path, options)?)
        }
        opened => Ok(opened?),
    }
}

fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let now = Timestamp::from_system(SystemTime::now());
    let aside = path.with_extension(format!("damaged-{}", now.0));
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
