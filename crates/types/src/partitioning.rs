//! Which partition owns a key (ingress reference, section 14).

use std::fmt;
use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

/// A fixed range of the partition-key space, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Buckets over which the invocations of a plain service are spread.
const SERVICE_BUCKETS: u64 = 512;

/// A 64-bit hash that decides on the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey(pub u64);

fn hash_parts(parts: &[&str], number: Option<u64>) -> u64 {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum::<usize>() + 8);
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
        bytes.push(0xFF);
    }
    if let Some(number) = number {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    xxh3_64(&bytes)
}

impl PartitionKey {
    /// For a virtual object or workflow: the same key is the same partition, whatever the service.
    pub fn of_key(key: &str) -> Self {
        Self(hash_parts(&[key], None))
    }

    /// For whatever carries a scope.
    pub fn of_scope(scope: &str) -> Self {
        Self(hash_parts(&[scope], None))
    }

    /// For a plain service with an idempotency key.
    pub fn of_idempotency_key(service: &str, idempotency_key: &str) -> Self {
        Self::of_bucket(service, hash_parts(&[idempotency_key], None))
    }

    /// For a plain service without a key; `random` spreads them over the buckets.
    pub fn of_bucket(service: &str, random: u64) -> Self {
        Self(hash_parts(
            &[service, "unscoped/service"],
            Some(random % SERVICE_BUCKETS),
        ))
    }
}

/// First half of the SHA-256 of the parts that there are, joined by commas; the uuid of an invocation that its caller
/// can name.
pub(crate) fn named_uuid<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for (index, part) in parts.into_iter().flatten().enumerate() {
        if index > 0 {
            hash.update(b",");
        }
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    uuid
}

/// The partition that owns `key` when the key space is split into `count` equal ranges. `count` is at least 1.
pub fn partition_of(key: PartitionKey, count: u16) -> PartitionId {
    let size = range_size(count);
    let index = u128::from(key.0) / size;
    // The quotient is below `count`, which is a u16.
    PartitionId(index as u16)
}

/// The keys that `partition` of `count` owns.
pub fn partition_range(partition: PartitionId, count: u16) -> RangeInclusive<PartitionKey> {
    let size = range_size(count);
    let start = u128::from(partition.0) * size;
    let end = (start + size - 1).min(u128::from(u64::MAX));
    PartitionKey(start.min(u128::from(u64::MAX)) as u64)..=PartitionKey(end as u64)
}

fn range_size(count: u16) -> u128 {
    (1u128 << 64).div_ceil(u128::from(count.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_hash_as_the_reference_shows() {
        assert_eq!(PartitionKey::of_key("k1").0, 0x548a_e3cb_a540_55b3);
        assert_eq!(
            PartitionKey::of_idempotency_key("greeter", "k10").0,
            0x38c3_2fd8_c406_c8f8
        );
        assert_eq!(PartitionKey::of_scope("tenA").0, 0x4fc3_ea43_0fc5_3530);
    }

    proptest! {
        #[test]
        fn every_key_lies_in_the_range_of_its_partition(key: u64, count in 1u16..200) {
            let partition = partition_of(PartitionKey(key), count);
            prop_assert!(partition.0 < count);
            prop_assert!(partition_range(partition, count).contains(&PartitionKey(key)));
        }
    }
}
