//! Ids that clients see, with their text forms (service protocol reference, section 6).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::codec::{
    IdError, U64_DIGITS, U128_DIGITS, check_length, parse_u64, parse_u128, push_u64, push_u128,
    strip_prefix,
};
use crate::partitioning::PartitionKey;

/// Base64url as the awakeable ids use it: written without padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Names one invocation. The partition key in front says which partition owns it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId {
    partition_key: PartitionKey,
    uuid: [u8; 16],
}

impl InvocationId {
    /// Bytes of the binary form.
    pub const LENGTH: usize = 24;

    /// An id of the given parts.
    pub const fn new(partition_key: PartitionKey, uuid: [u8; 16]) -> Self {
        Self {
            partition_key,
            uuid,
        }
    }

    /// The key that decides on the partition.
    pub const fn partition_key(&self) -> PartitionKey {
        self.partition_key
    }

    /// The part that tells invocations of one partition key apart.
    pub const fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The binary form: partition key (8, big endian), then uuid (16). It is `StartMessage.id`.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.partition_key.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.uuid);
        bytes
    }

    /// Reads the binary form; `None` if the length is not [`Self::LENGTH`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let (key, uuid) = bytes.split_at(8);
        Some(Self {
            partition_key: PartitionKey(u64::from_be_bytes(key.try_into().ok()?)),
            uuid: uuid.try_into().ok()?,
        })
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(5 + U64_DIGITS + U128_DIGITS);
        text.push_str("inv_1");
        push_u64(&mut text, self.partition_key.0.to_be_bytes());
        push_u128(&mut text, self.uuid);
        f.write_str(&text)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InvocationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let body = strip_prefix(text, "inv")?;
        check_length(text, body, U64_DIGITS + U128_DIGITS)?;
        let (key, uuid) = body.split_at(U64_DIGITS);
        Ok(Self {
            partition_key: PartitionKey(u64::from_be_bytes(parse_u64(key)?)),
            uuid: parse_u128(uuid)?,
        })
    }
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = String::from(concat!($prefix, "_1"));
                push_u128(&mut text, self.0.to_be_bytes());
                f.write_str(&text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let body = strip_prefix(text, $prefix)?;
                check_length(text, body, U128_DIGITS)?;
                Ok(Self(u128::from_be_bytes(parse_u128(body)?)))
            }
        }
    };
}

ulid_id! {
    /// Names a deployment: a ULID, so that later ones sort behind earlier ones.
    DeploymentId, "dp"
}
ulid_id! {
    /// Names a subscription of a Kafka topic: a ULID.
    SubscriptionId, "sub"
}

/// Names an awakeable: a signal of one invocation that anybody may complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AwakeableId {
    /// The invocation that waits.
    pub invocation: InvocationId,
    /// The signal's index in it; SDKs count from 17.
    pub signal: u32,
}

impl fmt::Display for AwakeableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; InvocationId::LENGTH + 4];
        bytes[..InvocationId::LENGTH].copy_from_slice(&self.invocation.to_bytes());
        bytes[InvocationId::LENGTH..].copy_from_slice(&self.signal.to_be_bytes());
        write!(f, "sign_1{}", BASE64.encode(bytes))
    }
}

impl FromStr for AwakeableId {
    type Err = IdError;

    /// Reads `sign_1…`. For the older `prom_1…` see [`LegacyAwakeableId`].
    fn from_str(text: &str) -> Result<Self, IdError> {
        let body = strip_prefix(text, "sign")?;
        let (invocation, signal) =
            indexed(body).ok_or(IdError::WrongPrefix { expected: "sign" })?;
        Ok(Self { invocation, signal })
    }
}

/// The older form of an awakeable's id: an entry of a journal. Protocol versions with such awakeables are not spoken
/// here, so that nothing waits for one; clients may hold one from before a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LegacyAwakeableId {
    /// The invocation that waits.
    pub invocation: InvocationId,
    /// Index in its journal.
    pub entry: u32,
}

impl FromStr for LegacyAwakeableId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let body = strip_prefix(text, "prom")?;
        let (invocation, entry) = indexed(body).ok_or(IdError::BadLength {
            expected: 44,
            actual: text.len(),
        })?;
        Ok(Self { invocation, entry })
    }
}

/// An invocation and a number in base64, as in both forms of an awakeable's id.
fn indexed(body: &str) -> Option<(InvocationId, u32)> {
    let bytes = BASE64.decode(body).ok()?;
    let (invocation, index) = bytes.split_at_checked(InvocationId::LENGTH)?;
    let index: [u8; 4] = index.try_into().ok()?;
    Some((
        InvocationId::from_bytes(invocation)?,
        u32::from_be_bytes(index),
    ))
}

/// Names a queue of invocations that share a service, a scope and a limit key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// That of the scope.
    pub partition_key: PartitionKey,
    /// Of what the queue is for.
    pub hash: u128,
}

impl QueueId {
    /// Bytes of the binary form.
    pub const LENGTH: usize = 24;

    /// The binary form: partition key (8, big endian), then the hash (16).
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.partition_key.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.hash.to_be_bytes());
        bytes
    }

    /// Reads the binary form; `None` if the length is not [`Self::LENGTH`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, hash) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            partition_key: PartitionKey(u64::from_be_bytes(*key)),
            hash: u128::from_be_bytes(hash.try_into().ok()?),
        })
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(4 + U64_DIGITS + U128_DIGITS);
        text.push_str("vq_1");
        push_u64(&mut text, self.partition_key.0.to_be_bytes());
        push_u128(&mut text, self.hash.to_be_bytes());
        f.write_str(&text)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for QueueId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let body = strip_prefix(text, "vq")?;
        check_length(text, body, U64_DIGITS + U128_DIGITS)?;
        let (key, hash) = body.split_at(U64_DIGITS);
        Ok(Self {
            partition_key: PartitionKey(u64::from_be_bytes(parse_u64(key)?)),
            hash: u128::from_be_bytes(parse_u128(hash)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_have_the_text_that_the_reference_shows() {
        let id = InvocationId::new(
            PartitionKey(0x548a_e3cb_a540_55b3),
            0x382b_5037_81e3_1ba0_e27e_3e0b_9d8c_9e96u128.to_be_bytes(),
        );
        assert_eq!(id.to_string(), "inv_1foAirY4KKzi4AdiZi7sBPr9xJlHfu7v72");
        assert_eq!(id.to_string().parse::<InvocationId>(), Ok(id));
        let deployment = DeploymentId(0x01a1_fbd9_2856_42b1_6038_b1d0_c7a3_2c81);
        assert_eq!(deployment.to_string(), "dp_13VKpsomPgapzK5FgRnd4Jz");
        assert_eq!(
            deployment.to_string().parse::<DeploymentId>(),
            Ok(deployment)
        );
    }

    #[test]
    fn awakeables_carry_their_invocation_and_signal() {
        let text = "sign_1eaRiTPqek8UpHpn3cj0Z_A1CVeEonXbOAAAAEQ";
        let id: AwakeableId = text.parse().unwrap();
        assert_eq!(id.signal, 17);
        assert_eq!(
            id.invocation.partition_key(),
            PartitionKey(0x79a4_624c_fa9e_93c5)
        );
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn bad_ids_say_what_is_wrong() {
        let parse = |text: &str| text.parse::<InvocationId>().unwrap_err();
        assert_eq!(parse("rubbish"), IdError::BadFormat);
        assert_eq!(parse("dp_1x"), IdError::WrongPrefix { expected: "inv" });
        assert_eq!(parse("foo_1x"), IdError::UnknownPrefix("foo".to_owned()));
        assert_eq!(parse("inv_").to_string(), "bad length");
        assert_eq!(parse("inv_2x"), IdError::UnknownVersion);
        assert_eq!(
            parse("inv_1abc"),
            IdError::BadLength {
                expected: 38,
                actual: 8
            }
        );
        assert_eq!(
            parse(&format!("inv_1{}", "-".repeat(33))),
            IdError::BadDigits
        );
        assert_eq!(
            parse(&format!("inv_1{}", "Z".repeat(33))),
            IdError::BadDigits
        );
    }

    proptest! {
        #[test]
        fn every_id_reads_back(key: u64, uuid: u128, signal: u32) {
            let id = InvocationId::new(PartitionKey(key), uuid.to_be_bytes());
            prop_assert_eq!(id.to_string().parse::<InvocationId>().unwrap(), id);
            prop_assert_eq!(InvocationId::from_bytes(&id.to_bytes()).unwrap(), id);
            let awakeable = AwakeableId { invocation: id, signal };
            prop_assert_eq!(awakeable.to_string().parse::<AwakeableId>().unwrap(), awakeable);
        }

        #[test]
        fn no_text_panics(text in "(inv|dp|sign|sub)?_?1?.{0,50}") {
            let _ = text.parse::<InvocationId>();
            let _ = text.parse::<AwakeableId>();
            let _ = text.parse::<DeploymentId>();
        }
    }
}
