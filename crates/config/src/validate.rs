//! Bounds of values and relations between them.

use std::fmt::Display;
use std::time::Duration;

use crate::root::Config;
use crate::text::{ByteCount, format_duration};

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}; {expected}")]
pub struct InvalidValue {
    /// The key, with its section.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

/// Errs unless the value is as expected.
fn check(
    holds: bool,
    key: &'static str,
    value: impl Display,
    expected: impl Into<String>,
) -> Result<(), InvalidValue> {
    if holds {
        return Ok(());
    }
    Err(InvalidValue {
        key,
        value: value.to_string(),
        expected: expected.into(),
    })
}

/// Less would be busy waiting.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// With less, RocksDB cannot work.
const DATABASE_MEMORY_MIN: ByteCount = ByteCount::mib(64);

impl Config {
    /// Checks every bound and relation. [`Config::load`] has done so; it is for who sets fields afterwards.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        self.validate_node()?;
        self.validate_addresses()?;
        self.validate_invocations()?;
        self.validate_networking()?;
        self.validate_metadata()?;
        self.validate_storage()?;
        self.validate_worker()?;
        self.validate_snapshots()
    }

    fn validate_node(&self) -> Result<(), InvalidValue> {
        check(
            !self.roles.is_empty(),
            "roles",
            "empty",
            "give the node at least one",
        )?;
        for (key, name) in [
            ("node-name", &self.node_name),
            ("cluster-name", &self.cluster_name),
        ] {
            // It becomes a directory and a label.
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let fits = (1..=253).contains(&name.len()) && name.chars().all(allowed);
            check(
                fits && !name.starts_with('.'),
                key,
                format!("'{name}'"),
                "use letters, digits, '-', '_' and '.', not '.' first",
            )?;
        }
        let levels: Vec<_> = self.location.split('.').collect();
        check(
            self.location.is_empty()
                || levels.len() <= 2 && levels.iter().all(|level| !level.is_empty()),
            "location",
            format!("'{}'", self.location),
            "write `region` or `region.zone`",
        )?;
        check(
            self.default_num_partitions > 0,
            "default-num-partitions",
            0,
            "use 1 to 65535",
        )
    }

    fn validate_addresses(&self) -> Result<(), InvalidValue> {
        if let Some(address) = &self.advertised_address {
            check_address("advertised-address", address)?;
        }
        for address in &self.metadata_client.addresses {
            check_address("metadata-client.addresses", address)?;
        }
        let (node, ingress, admin) = (self.node_bind(), self.ingress_bind(), self.admin_bind());
        for (key, address, other_key, other) in [
            ("ingress.bind-port", ingress, "bind-port", node),
            ("admin.bind-port", admin, "bind-port", node),
            ("admin.bind-port", admin, "ingress.bind-port", ingress),
        ] {
            let same_ip = address.ip() == other.ip()
                || address.ip().is_unspecified()
                || other.ip().is_unspecified();
            check(
                address.port() == 0 || address.port() != other.port() || !same_ip,
                key,
                address.port(),
                format!("`{other_key}` is the same; use another"),
            )?;
        }
        Ok(())
    }

    fn validate_invocations(&self) -> Result<(), InvalidValue> {
        let policy = &self.default_retry_policy;
        let factor = policy.exponentiation_factor;
        check(
            factor.is_finite() && factor >= 1.0,
            "default-retry-policy.exponentiation-factor",
            factor,
            "use 1.0 or more: pauses do not shrink",
        )?;
        at_least(
            "default-retry-policy.initial-interval",
            policy.initial_interval,
            Duration::from_millis(1),
        )?;
        ordered(
            "default-retry-policy.initial-interval",
            policy.initial_interval,
            "default-retry-policy.max-interval",
            policy.max_interval,
        )?;
        check(
            policy.max_attempts != Some(0),
            "default-retry-policy.max-attempts",
            0,
            "use 1 or more, or \"unlimited\"",
        )?;
        check(
            self.max_retry_policy_max_attempts != Some(0),
            "max-retry-policy-max-attempts",
            0,
            "use 1 or more, or leave it out",
        )
    }

    fn validate_networking(&self) -> Result<(), InvalidValue> {
        let networking = &self.networking;
        at_least(
            "networking.heartbeat-interval",
            networking.heartbeat_interval,
            INTERVAL_MIN,
        )?;
        at_least(
            "networking.failure-timeout",
            networking.failure_timeout,
            // With two, a single late heartbeat would be a death.
            networking.heartbeat_interval.saturating_mul(3),
        )?;
        for (key, timeout) in [
            ("networking.connect-timeout", networking.connect_timeout),
            ("networking.handshake-timeout", networking.handshake_timeout),
            (
                "networking.reconnect-interval-max",
                networking.reconnect_interval_max,
            ),
        ] {
            at_least(key, timeout, Duration::from_millis(10))?;
        }
        size_between(
            "networking.message-size-limit",
            networking.message_size_limit,
            ByteCount::kib(64),
            ByteCount::mib(1024),
        )?;
        size_between(
            "networking.send-queue-size",
            networking.send_queue_size,
            networking.message_size_limit,
            ByteCount(u64::MAX),
        )?;
        // A batch may hold one record of any size, but many only up to this.
        size_between(
            "ingress.ingestion.request-batch-size",
            self.ingress.ingestion.request_batch_size,
            ByteCount::kib(1),
            networking.message_size_limit,
        )?;
        let node_wide = networking.message_size_limit;
        for (key, limit) in [
            (
                "ingress.request-size-limit",
                self.ingress.request_size_limit,
            ),
            (
                "worker.invoker.message-size-limit",
                self.worker.invoker.message_size_limit,
            ),
        ] {
            let limit = limit.unwrap_or(node_wide);
            check(
                limit <= node_wide,
                key,
                limit,
                format!("nodes carry no more than `networking.message-size-limit`, {node_wide}"),
            )?;
        }
        Ok(())
    }

    fn validate_metadata(&self) -> Result<(), InvalidValue> {
        let server = &self.metadata_server;
        at_least(
            "metadata-server.heartbeat-interval",
            server.heartbeat_interval,
            INTERVAL_MIN,
        )?;
        at_least(
            "metadata-server.election-timeout-min",
            server.election_timeout_min,
            server.heartbeat_interval.saturating_mul(2),
        )?;
        check(
            server.election_timeout_min < server.election_timeout_max,
            "metadata-server.election-timeout-max",
            format_duration(server.election_timeout_max),
            format!(
                "use more than `metadata-server.election-timeout-min`, {}",
                format_duration(server.election_timeout_min)
            ),
        )?;
        check(
            server.voters_max % 2 == 1,
            "metadata-server.voters-max",
            server.voters_max,
            "use an odd number: one more voter survives no more failures",
        )?;
        check(
            server.log_trim_threshold > 0,
            "metadata-server.log-trim-threshold",
            0,
            "use 1 or more",
        )?;
        let client = &self.metadata_client;
        at_least(
            "metadata-client.connect-timeout",
            client.connect_timeout,
            Duration::from_millis(10),
        )?;
        at_least(
            "metadata-client.request-timeout",
            client.request_timeout,
            Duration::from_millis(100),
        )
    }

    fn validate_storage(&self) -> Result<(), InvalidValue> {
        size_between(
            "rocksdb-total-memory-size",
            self.rocksdb_total_memory_size,
            DATABASE_MEMORY_MIN,
            ByteCount(u64::MAX),
        )?;
        let ratios = [
            (
                "worker.storage.rocksdb-memory-ratio",
                self.worker.storage.rocksdb_memory_ratio,
            ),
            (
                "log-server.rocksdb-memory-ratio",
                self.log_server.rocksdb_memory_ratio,
            ),
            (
                "metadata-server.rocksdb-memory-ratio",
                self.metadata_server.rocksdb_memory_ratio,
            ),
        ];
        for (key, ratio) in ratios {
            check(
                0.0 < ratio && ratio <= 1.0,
                key,
                ratio,
                "use more than 0 and at most 1",
            )?;
        }
        let sum: f64 = ratios.iter().map(|(_, ratio)| ratio).sum();
        check(
            sum <= 1.0 + 1e-9,
            "worker.storage.rocksdb-memory-ratio",
            self.worker.storage.rocksdb_memory_ratio,
            format!("with the ratios of log-server and metadata-server it makes {sum}; keep to 1"),
        )?;
        size_between(
            "log-server.write-batch-size",
            self.log_server.write_batch_size,
            ByteCount::kib(64),
            ByteCount::mib(1024),
        )?;
        let storage = &self.worker.storage;
        check(
            storage.spill_after_size <= storage.flush_after_size,
            "worker.storage.spill-after-size",
            storage.spill_after_size,
            format!(
                "use at most `worker.storage.flush-after-size`, {}",
                storage.flush_after_size
            ),
        )?;
        at_least(
            "worker.storage.flush-interval",
            storage.flush_interval,
            Duration::from_secs(1),
        )
    }

    fn validate_snapshots(&self) -> Result<(), InvalidValue> {
        let worker = &self.worker;
        at_least(
            "worker.trim-check-interval",
            worker.trim_check_interval,
            Duration::from_millis(10),
        )?;
        let snapshots = &worker.snapshots;
        if let Some(url) = &snapshots.destination {
            check(
                place_of_snapshots(url),
                "worker.snapshots.destination",
                format!("'{url}'"),
                "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY",
            )?;
        }
        let wanted = [
            snapshots
                .snapshot_interval
                .map(|_| "worker.snapshots.snapshot-interval"),
            (snapshots.snapshot_interval_num_records)
                .map(|_| "worker.snapshots.snapshot-interval-num-records"),
        ];
        for key in wanted.into_iter().flatten() {
            check(
                snapshots.destination.is_some(),
                key,
                "set",
                "set `worker.snapshots.destination` too: without it no snapshots are taken",
            )?;
        }
        if let Some(interval) = snapshots.snapshot_interval {
            at_least(
                "worker.snapshots.snapshot-interval",
                interval,
                Duration::from_millis(100),
            )?;
        }
        if let Some(mode) = worker.durability_mode {
            check(
                snapshots.destination.is_some() || !mode.wants_snapshots(),
                "worker.durability-mode",
                format!("{mode:?}"),
                "set `worker.snapshots.destination` too, or use replica-set-only: without snapshots no log would \
                 ever be trimmed",
            )?;
        }
        let retry = &snapshots.object_store_retry_policy;
        check(
            retry.exponentiation_factor.is_finite() && retry.exponentiation_factor >= 1.0,
            "worker.snapshots.object-store-retry-policy.exponentiation-factor",
            retry.exponentiation_factor,
            "use 1.0 or more: pauses do not shrink",
        )?;
        ordered(
            "worker.snapshots.object-store-retry-policy.initial-interval",
            retry.initial_interval,
            "worker.snapshots.object-store-retry-policy.max-interval",
            retry.max_interval,
        )
    }

    fn validate_worker(&self) -> Result<(), InvalidValue> {
        at_least(
            "worker.cleanup-interval",
            self.worker.cleanup_interval,
            Duration::from_secs(1),
        )?;
        size_between(
            "worker.max-command-batch-bytes",
            self.worker.max_command_batch_bytes,
            ByteCount::kib(1),
            self.networking.message_size_limit,
        )?;
        let invoker = &self.worker.invoker;
        check(
            invoker.per_invocation_memory_limit <= invoker.memory_limit,
            "worker.invoker.per-invocation-memory-limit",
            invoker.per_invocation_memory_limit,
            format!(
                "use at most `worker.invoker.memory-limit`, {}",
                invoker.memory_limit
            ),
        )?;
        check(
            invoker.max_awaited_future_depth > 0,
            "worker.invoker.max-awaited-future-depth",
            0,
            "use 1 or more",
        )?;
        at_least(
            "worker.invoker.connect-timeout",
            invoker.connect_timeout,
            Duration::from_millis(10),
        )?;
        at_least(
            "worker.invoker.http2-keep-alive-interval",
            invoker.http2_keep_alive_interval,
            Duration::from_millis(100),
        )?;
        at_least(
            "worker.invoker.request-identity-expiration",
            invoker.request_identity_expiration,
            Duration::from_secs(1),
        )
    }
}

fn place_of_snapshots(url: &str) -> bool {
    match url.split_once("://") {
        Some(("file", path)) => path.starts_with('/'),
        Some(("s3" | "gs" | "az", place)) => !place.is_empty() && !place.starts_with('/'),
        _ => false,
    }
}

fn at_least(key: &'static str, value: Duration, min: Duration) -> Result<(), InvalidValue> {
    check(
        min <= value,
        key,
        format_duration(value),
        format!("use {} or more", format_duration(min)),
    )
}

fn ordered(
    key: &'static str,
    value: Duration,
    other_key: &str,
    other: Duration,
) -> Result<(), InvalidValue> {
    check(
        value <= other,
        key,
        format_duration(value),
        format!("use at most `{other_key}`, {}", format_duration(other)),
    )
}

fn size_between(
    key: &'static str,
    value: ByteCount,
    min: ByteCount,
    max: ByteCount,
) -> Result<(), InvalidValue> {
    check(min <= value, key, value, format!("use {min} or more"))?;
    check(value <= max, key, value, format!("use {max} or less"))
}

/// `host:port`, perhaps with `http://` in front and a slash behind.
fn check_address(key: &'static str, address: &str) -> Result<(), InvalidValue> {
    let bare = strip_address(address);
    let fits = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', ' '])
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    check(
        fits,
        key,
        format!("'{address}'"),
        "write host:port, such as 10.0.0.1:5122",
    )
}

/// The `host:port` of an address that may be written as a URL.
pub(crate) fn strip_address(address: &str) -> &str {
    let bare = address.strip_prefix("http://").unwrap_or(address);
    bare.strip_suffix('/').unwrap_or(bare)
}
