//! How durations, sizes and roles are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration; write it like 10s, 1m, 1s 500ms, 1d or PT1M30S")]
pub struct DurationError(pub String);

/// Reads `10s`, `1m`, `1s 500ms`, `1d` (24 hours) and ISO 8601 such as `PT1M30S`.
///
/// # Errors
/// The text is something else, negative, or in months or years, whose length varies.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let span: Span = text.trim().parse().map_err(|_| error())?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| error())?;
    duration.try_into().map_err(|_| error())
}

/// Writes a duration so that [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    match SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        // Longer than any that can be parsed; whole seconds say it well enough.
        Err(_) => format!("{}s", duration.as_secs()),
    }
}

/// For `#[serde(with)]` on a [`Duration`].
pub(crate) mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).map_err(de::Error::custom)
    }
}

/// For `#[serde(with)]` on an `Option<Duration>`.
pub(crate) mod duration_option {
    use super::{Deserializer, Duration, Serializer};

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(from).map(Some)
    }
}

/// For `#[serde(with)]` on a replication: a number, a table, or either of them as text.
pub(crate) mod replication {
    use std::collections::BTreeMap;

    use abide_types::ReplicationWish;

    use super::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a replication is a number from 0 to 9, or like {zone = 2, node = 3}"
    )]
    enum Written {
        Number(i64),
        Text(String),
        Table(BTreeMap<String, i64>),
    }

    pub fn serialize<S: Serializer>(wish: &ReplicationWish, to: S) -> Result<S::Ok, S::Error> {
        if ReplicationWish::of_quorum(wish.write_quorum) == Some(*wish) {
            to.serialize_u8(wish.write_quorum)
        } else {
            to.collect_str(wish)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ReplicationWish, D::Error> {
        let text = match Written::deserialize(from)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
            Written::Table(fields) => {
                let fields: Vec<String> = fields
                    .into_iter()
                    .map(|(name, number)| format!("{name}: {number}"))
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// For `#[serde(with)]` on an address: the library's own error leaves the value out.
pub(crate) mod ip {
    use std::net::IpAddr;

    use super::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(ip: &IpAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(ip)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpAddr, D::Error> {
        let text = String::deserialize(from)?;
        let error = |_| format!("'{text}' is not an IP address; write it like 0.0.0.0 or ::");
        text.parse().map_err(error).map_err(de::Error::custom)
    }
}

/// For `#[serde(with)]` on an address that may be left out.
pub(crate) mod ip_option {
    use std::net::IpAddr;

    use super::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(ip: &Option<IpAddr>, to: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => super::ip::serialize(ip, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
        super::ip::deserialize(from).map(Some)
    }
}

/// For `#[serde(with)]` on a number of attempts where `None` is written `"unlimited"`.
pub(crate) mod attempts {
    use super::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(attempts: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
        match attempts {
            Some(attempts) => to.serialize_u32(*attempts),
            None => to.serialize_str("unlimited"),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "unlimited" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                de::Error::custom(format!("'{text}' is neither a number nor \"unlimited\""))
            }),
        }
    }
}

/// A size in bytes, written like `32 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// A size that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size; write it like 32 MiB, 512MB or 4096")]
pub struct ByteCountError(pub String);

const UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl ByteCount {
    /// `count` times 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` times 1024 KiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The size for indexing memory; on a machine with smaller addresses, all that it has.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)]
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match largest {
            Some((unit, shift)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, ByteCountError> {
        let error = || ByteCountError(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let factor = match unit.as_str() {
            "" => 1,
            unit => {
                let known = UNITS.iter().find(|(name, _)| *name == unit);
                known.ok_or_else(error)?.1
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(error)?;
        if number.contains('.') {
            // Nine digits tell any size apart that fits a machine, and cannot overflow.
            if fraction.is_empty() || fraction.len() > 9 {
                return Err(error());
            }
            let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
            let part: u128 = fraction.parse().map_err(|_| error())?;
            let part = part * u128::from(factor) / scale;
            let part = u64::try_from(part).map_err(|_| error())?;
            bytes = bytes.checked_add(part).ok_or_else(error)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"32 MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteCount, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteCount, E> {
                Ok(ByteCount(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteCount, E> {
                let count = u64::try_from(bytes).map(ByteCount);
                count.map_err(|_| E::custom(ByteCountError(bytes.to_string())))
            }
        }

        from.deserialize_any(Visitor)
    }
}

/// For `#[serde(with)]` on a list of roles.
pub(crate) mod roles {
    use abide_types::Role;

    use super::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(roles: &[Role], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(roles.iter().map(|role| role.name()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Role>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let roles = names.iter().map(|name| name.parse());
        roles.collect::<Result<_, _>>().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let millis = |text: &str| parse_duration(text).unwrap().as_millis();
        assert_eq!(millis("10s"), 10_000);
        assert_eq!(millis("1m"), 60_000);
        assert_eq!(millis("1s 500ms"), 1_500);
        assert_eq!(millis("250 ms"), 250);
        assert_eq!(millis("1d"), 86_400_000);
        assert_eq!(millis("2 days 1h"), 176_400_000);
        assert_eq!(millis("PT1M30S"), 90_000);
        assert_eq!(millis("P1D"), 86_400_000);
        assert_eq!(millis("0s"), 0);
        for wrong in ["", "10", "ten", "-1s", "1 month", "1y", "10 parsecs"] {
            assert_eq!(parse_duration(wrong), Err(DurationError(wrong.to_owned())));
        }
    }

    #[test]
    fn durations_read_back() {
        for millis in [0, 1, 1_500, 60_000, 86_400_000, 90_061_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_millis(1_500)), "1s 500ms");
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<ByteCount>().unwrap().0;
        assert_eq!(bytes("4096"), 4096);
        assert_eq!(bytes("0"), 0);
        assert_eq!(bytes("32 MiB"), 32 << 20);
        assert_eq!(bytes("512MB"), 512_000_000);
        assert_eq!(bytes("1.5 GiB"), 3 << 29);
        assert_eq!(bytes(" 2gib "), 2 << 30);
        for wrong in [
            "",
            "MiB",
            "1 MiBs",
            "-1",
            "1..5 MB",
            "1.",
            "99999999 TiB",
            "1e3",
        ] {
            assert_eq!(
                wrong.parse::<ByteCount>(),
                Err(ByteCountError(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn sizes_read_back() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 10, "1 KiB"),
            (3 << 29, "1536 MiB"),
            (1 << 40, "1 TiB"),
        ] {
            assert_eq!(ByteCount(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteCount(bytes)));
        }
    }
}
