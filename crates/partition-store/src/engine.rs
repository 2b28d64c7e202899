//! How RocksDB is set up.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBWithThreadMode, LogLevel, LruCacheOptions,
    MultiThreaded, Options, WriteBufferManager,
};

/// The database type.
pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// Share of the budget for overlays, in percent; the rest is RocksDB's.
const OVERLAY_PERCENT: usize = 25;
/// Share of RocksDB's part that memtables may take, in percent; they count against the cache.
const MEMTABLES_PERCENT: usize = 60;

/// Where the memory goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub overlay_bytes: usize,
    cache_bytes: usize,
    memtable_bytes: usize,
}

impl Budget {
    pub fn of(memory_bytes: usize) -> Self {
        let overlay_bytes = memory_bytes / 100 * OVERLAY_PERCENT;
        let cache_bytes = memory_bytes - overlay_bytes;
        Self {
            overlay_bytes,
            cache_bytes,
            memtable_bytes: cache_bytes / 100 * MEMTABLES_PERCENT,
        }
    }
}

/// Options of the database, and of every column family.
pub(crate) struct Settings {
    pub database: Options,
    pub family: Options,
}

impl Settings {
    pub fn new(budget: Budget, flush_after_bytes: usize) -> Self {
        let mut cache_options = LruCacheOptions::default();
        cache_options.set_capacity(budget.cache_bytes);
        // Few shards: none is full while others are empty, and readers seldom meet.
        cache_options.set_num_shard_bits(2);
        let cache = Cache::new_lru_cache_opts(&cache_options);
        // Memtables are charged to the cache, so that one limit holds for both. Never stalls writers: flushes
        // begin before the limit, and the processors' flush policy keeps far below it.
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(
            budget.memtable_bytes,
            false,
            cache.clone(),
        );
        Self {
            database: database(&memtables),
            family: family(&cache, budget, flush_after_bytes),
        }
    }
}

fn database(memtables: &WriteBufferManager) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_manager(memtables);
    // A compaction that meets damage fails, and that is all: with the checks on, RocksDB stops the writes of all
    // partitions for it, and the one that is damaged could not be made anew. Reads verify checksums in any case, and
    // the damage is looked for (see `verify`).
    options.set_paranoid_checks(false);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    // Opening reads no table it does not need: a node is to serve again in well under a second.
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_file_opening_threads(2);
    options.set_bytes_per_sync(1 << 20);
    // Idle, nothing wakes up.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options
}

fn family(cache: &Cache, budget: Budget, flush_after_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    // Filters and indexes count against the budget too.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);

    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    // The processor asks for flushes; this is the limit should it not.
    let most = flush_after_bytes.saturating_mul(2);
    options.set_write_buffer_size(most.clamp(1 << 20, budget.memtable_bytes.max(1 << 20)));
    options.set_max_write_buffer_number(4);
    // Every memtable takes one such block at once: with the default, idle partitions would hold a MiB each.
    options.set_arena_block_size(128 << 10);
    // A filter over the keys of the memtable: most reads that come this far ask for rows that do not exist.
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_target_file_size_base(32 << 20);
    options.set_max_bytes_for_level_base(128 << 20);
    // Rows come and go at the front of queues and timers: a file that is mostly deletions is compacted soon,
    // or every scan would walk over them.
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    // Flushes and compactions replace all files of a busy partition again and again; the blocks of those that have gone
    // would stay until the cache is full of them. RocksDB's headers give 300 as what the default is to become.
    options
        .get_options_from_string("uncache_aggressiveness=300")
        .expect("the text is constant, and RocksDB is linked with this program")
}
