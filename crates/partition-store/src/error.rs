//! Why a store does not open, and what an error of an open one means.

use std::io;
use std::path::PathBuf;

use abide_state_machine::StoreError;
use abide_types::PartitionId;

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or removed.
    #[error("the directory {dir} of the partition stores")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What the files hold cannot be right. Destroyed and opened anew, it is rebuilt from the log or from
    /// another replica.
    #[error("the partition stores in {dir} are damaged")]
    Corrupt {
        /// The directory.
        dir: PathBuf,
        /// What RocksDB says; it names the file.
        source: rocksdb::Error,
    },
    /// An earlier process found damage that opening does not find.
    #[error("the partition stores in {dir} are damaged: {reason}")]
    Condemned {
        /// The directory.
        dir: PathBuf,
        /// What that process said.
        reason: String,
    },
    /// RocksDB does not work with the directory for another reason.
    #[error("the partition stores in {dir} do not open")]
    Failed {
        /// The directory.
        dir: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// The rows were written by a version that this one does not know.
    #[error("partition {partition} in {dir} has format {format}; this version knows {known}")]
    Format {
        /// The directory.
        dir: PathBuf,
        /// The partition.
        partition: PartitionId,
        /// Its format.
        format: u8,
        /// The format of this version.
        known: u8,
    },
    /// Somebody has the partition open; there is one writer.
    #[error("partition {partition} is open already")]
    InUse {
        /// The partition.
        partition: PartitionId,
    },
}

impl OpenError {
    /// Whether the files are damaged: then starting anew helps, and trying again does not.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Condemned { .. })
    }
}

/// Whether an error of an open store says that its files are damaged: then destroying the partition and
/// rebuilding it helps, and trying again does not.
pub fn is_corruption(error: &StoreError) -> bool {
    error
        .source
        .as_ref()
        .and_then(|source| source.downcast_ref::<rocksdb::Error>())
        .is_some_and(is_damage)
}

/// Whether there was no room on the disk.
pub(crate) fn is_no_space(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::IOError
        && error.as_ref().contains("No space left on device")
}

/// Whether files are not what was written, or gone.
pub(crate) fn is_damage(error: &rocksdb::Error) -> bool {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => true,
        // A file of the database that does not exist: RocksDB has no kind of its own for it.
        rocksdb::ErrorKind::IOError => error.as_ref().contains("No such file or directory"),
        _ => false,
    }
}
