//! How ids and positions look in JSON documents: as numbers, and as text where JSON wants a key.
//!
//! The domain types do not know serde; these modules stand in for it (`#[serde(with = "…")]`).

use std::collections::BTreeMap;

use abide_types::{Epoch, Generation, NodeId, NodeIncarnation, PartitionId, Role};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A domain type that is one number.
pub(crate) trait Number: Sized + Ord + Copy {
    fn to_number(self) -> u64;
    fn from_number(number: u64) -> Option<Self>;
}

macro_rules! number {
    ($name:ident) => {
        impl Number for $name {
            fn to_number(self) -> u64 {
                u64::from(self.0)
            }

            fn from_number(number: u64) -> Option<Self> {
                number.try_into().ok().map(Self)
            }
        }
    };
}

number!(NodeId);
number!(Generation);
number!(Epoch);
number!(PartitionId);

fn checked<T: Number, E: serde::de::Error>(number: u64) -> Result<T, E> {
    T::from_number(number).ok_or_else(|| E::custom(format_args!("{number} is out of range")))
}

/// A single number.
pub(crate) mod number {
    use super::*;

    pub(crate) fn serialize<T: Number, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_number())
    }

    pub(crate) fn deserialize<'de, T: Number, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        checked(u64::deserialize(from)?)
    }
}

/// A number, or none.
pub(crate) mod optional_number {
    use super::*;

    pub(crate) fn serialize<T: Number, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(Number::to_number).serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Number, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        Option::<u64>::deserialize(from)?.map(checked).transpose()
    }
}

/// A list of numbers.
pub(crate) mod numbers {
    use super::*;

    pub(crate) fn serialize<T: Number, S: Serializer>(
        values: &[T],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| value.to_number()))
    }

    pub(crate) fn deserialize<'de, T: Number, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        Vec::<u64>::deserialize(from)?
            .into_iter()
            .map(checked)
            .collect()
    }
}

/// A map whose keys are numbers.
pub(crate) mod by_number {
    use super::*;

    pub(crate) fn serialize<K: Number, V: Serialize, S: Serializer>(
        values: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(
            values
                .iter()
                .map(|(key, value)| (key.to_number().to_string(), value)),
        )
    }

    pub(crate) fn deserialize<'de, K: Number, V: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        BTreeMap::<String, V>::deserialize(from)?
            .into_iter()
            .map(|(key, value)| {
                let number = key.parse().map_err(|_| {
                    D::Error::custom(format_args!("the key {key:?} is not a number"))
                })?;
                Ok((checked(number)?, value))
            })
            .collect()
    }
}

/// 64 bits that are a name and no quantity: sixteen hexadecimal digits, since readers of JSON round
/// big numbers.
pub(crate) mod hex {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16)
            .map_err(|_| D::Error::custom(format_args!("{text:?} is not hexadecimal")))
    }
}

/// One run of a node, or none.
pub(crate) mod incarnation {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wire {
        #[serde(with = "super::number")]
        node: NodeId,
        #[serde(with = "super::number")]
        generation: Generation,
    }

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<NodeIncarnation>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .map(|value| Wire {
                node: value.node,
                generation: value.generation,
            })
            .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<NodeIncarnation>, D::Error> {
        Ok(
            Option::<Wire>::deserialize(from)?.map(|wire| NodeIncarnation {
                node: wire.node,
                generation: wire.generation,
            }),
        )
    }
}

/// Roles by name.
pub(crate) mod roles {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &[Role], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().map(|role| role.name()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Role>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|name| name.parse().map_err(D::Error::custom))
            .collect()
    }
}
