//! Tables of one partition over RocksDB.
//!
//! A node has one RocksDB ([`PartitionStores`]) with a column family per partition ([`PartitionStore`]). There is
//! no write-ahead log: the partition's log is the truth, and a crash falls back to the last flush and replays.
//! What changes goes into an ordered overlay in memory first and from there into RocksDB in one batch, together
//! with the LSN up to which it is applied; rows that are rewritten or deleted before that never get there.
//! Start at [`PartitionStore::spill`] for how the two fit together.
//!
//! **Invariant:** what RocksDB holds of a partition, at any time and after any crash, is its state after exactly
//! the records up to the applied LSN that stands beside it. Not here: what the rows mean.

mod engine;
mod error;
mod export;
mod layout;
mod merge;
mod overlay;
mod partition;
mod reader;
mod rebuild;
mod stores;
mod verify;

pub use error::{OpenError, is_corruption};
pub use export::{Export, ExportError, Exported};
pub use partition::PartitionStore;
pub use reader::{PartitionReader, Stretch, View};
pub use stores::{PartitionStores, StoreOptions};
