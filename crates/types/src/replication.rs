//! How an operator says how much is to be kept: `2`, or `{zone: 2, node: 3}`.

use std::fmt;
use std::str::FromStr;

/// How often everything is kept, and where.
///
/// Written as a number *n* it means: *n* copies on disk acknowledge a write, of *2n − 1* replicas, so that as many may
/// be lost as there are copies beyond the first without a standstill. Written as `{zone: 2, node: 3}` it means: three
/// replicas, in at least two zones, of which a majority acknowledges; `region` stands beside `zone`, and `quorum` for
/// another number that acknowledges. 0, and the default, leave it to the number of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ReplicationWish {
    /// Replicas of everything; 0 means three where there are three nodes, else one.
    pub replicas: u8,
    /// Copies on disk that acknowledge a write; 0 is a majority.
    pub write_quorum: u8,
    /// Zones in which the replicas have to be at least; 0 demands nothing.
    pub zones: u8,
    /// The same for regions.
    pub regions: u8,
}

/// More replicas serve nobody.
const REPLICAS_MAX: u8 = 17;

impl ReplicationWish {
    /// So many copies acknowledge a write; `None` if that takes more replicas than are possible.
    pub fn of_quorum(write_quorum: u8) -> Option<Self> {
        let replicas = write_quorum.checked_mul(2)?.saturating_sub(1);
        (replicas <= REPLICAS_MAX).then_some(Self {
            replicas,
            write_quorum,
            ..Self::default()
        })
    }

    fn of_fields(text: &str, inner: &str) -> Result<Self, ReplicationParseError> {
        let error = |rule| ReplicationParseError {
            text: text.to_owned(),
            rule,
        };
        let mut wish = Self::default();
        for field in inner
            .split(',')
            .map(str::trim)
            .filter(|field| !field.is_empty())
        {
            let (name, value) = field
                .split_once([':', '='])
                .ok_or_else(|| error("a field is a name, a colon and a number"))?;
            let value: u8 = value
                .trim()
                .parse()
                .map_err(|_| error("a field is a name, a colon and a small number"))?;
            match name.trim().trim_matches('"') {
                "node" => wish.replicas = value,
                "zone" => wish.zones = value,
                "region" => wish.regions = value,
                "quorum" => wish.write_quorum = value,
                _ => return Err(error("its fields are region, zone, node and quorum")),
            }
        }
        if wish.replicas == 0 {
            wish.replicas = wish.zones.max(wish.regions).max(3);
        }
        if REPLICAS_MAX < wish.replicas {
            return Err(error("at most 17 replicas are possible"));
        }
        if wish.replicas < wish.zones.max(wish.regions) {
            return Err(error(
                "there are at least as many nodes as zones and regions",
            ));
        }
        if wish.replicas < wish.write_quorum {
            return Err(error("the quorum is at most the number of nodes"));
        }
        Ok(wish)
    }
}

impl FromStr for ReplicationWish {
    type Err = ReplicationParseError;

    fn from_str(text: &str) -> Result<Self, ReplicationParseError> {
        let trimmed = text.trim();
        let inner = trimmed
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        if let Some(inner) = inner {
            return Self::of_fields(text, inner);
        }
        let quorum = trimmed.parse().ok();
        quorum
            .and_then(Self::of_quorum)
            .ok_or(ReplicationParseError {
                text: text.to_owned(),
                rule: "it is a number from 0 to 9, or like {zone: 2, node: 3}",
            })
    }
}

/// As it can be read back.
impl fmt::Display for ReplicationWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Self::of_quorum(self.write_quorum) == Some(*self) {
            return write!(f, "{}", self.write_quorum);
        }
        f.write_str("{")?;
        for (name, value) in [
            ("region", self.regions),
            ("zone", self.zones),
            ("quorum", self.write_quorum),
        ] {
            if value > 0 {
                write!(f, "{name}: {value}, ")?;
            }
        }
        write!(f, "node: {}}}", self.replicas)
    }
}

/// A text that says no replication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no replication: {rule}")]
pub struct ReplicationParseError {
    /// What was given.
    pub text: String,
    /// What is right.
    pub rule: &'static str,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parsed(text: &str) -> [u8; 4] {
        let wish: ReplicationWish = text.parse().unwrap();
        assert_eq!(wish.to_string().parse(), Ok(wish), "{wish} reads back");
        [wish.replicas, wish.write_quorum, wish.zones, wish.regions]
    }

    #[test]
    fn a_number_is_what_acknowledges_and_a_map_what_there_is() {
        assert_eq!(parsed("0"), [0, 0, 0, 0]);
        assert_eq!(parsed("1"), [1, 1, 0, 0]);
        assert_eq!(parsed(" 2 "), [3, 2, 0, 0]);
        assert_eq!(parsed("{zone: 2, node: 3}"), [3, 0, 2, 0]);
        assert_eq!(parsed("{ node=5, quorum=4 }"), [5, 4, 0, 0]);
        assert_eq!(parsed("{\"region\": 2, \"zone\": 4}"), [4, 0, 4, 2]);
        assert_eq!(parsed("{quorum: 2, node: 3}"), [3, 2, 0, 0]);
    }

    #[test]
    fn what_cannot_be_says_what_would_be_right() {
        let wrong = |text: &str| text.parse::<ReplicationWish>().unwrap_err().to_string();
        assert_eq!(
            wrong("many"),
            "'many' is no replication: it is a number from 0 to 9, or like {zone: 2, node: 3}"
        );
        assert_eq!(wrong("10"), wrong("many").replace("many", "10"));
        for (text, rule) in [
            (
                "{zone: 4, node: 3}",
                "there are at least as many nodes as zones and regions",
            ),
            ("{rack: 2}", "its fields are region, zone, node and quorum"),
            ("{node: 18}", "at most 17 replicas are possible"),
            (
                "{node: 3, quorum: 4}",
                "the quorum is at most the number of nodes",
            ),
            ("{node}", "a field is a name, a colon and a number"),
            ("{node: x}", "a field is a name, a colon and a small number"),
        ] {
            assert_eq!(wrong(text), format!("'{text}' is no replication: {rule}"));
        }
    }
}
