//! Tables of one partition over RocksDB.
