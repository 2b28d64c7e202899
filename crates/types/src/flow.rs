//! Flow control: the scope of an invocation and the limit key within it (ingress reference, section 12).

use xxhash_rust::xxh3::Xxh3;

use crate::ids::QueueId;
use crate::partitioning::PartitionKey;

/// Bytes that a scope, or a level of a limit key, may have.
const NAME_BYTES_MAX: usize = 36;
/// Levels that a limit key may have.
const LEVELS_MAX: usize = 2;

/// Why a scope, or a level of a limit key, is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("value cannot be empty")]
    Empty,
    /// It is too long; how long it is.
    #[error("value too long: {0} bytes (max {NAME_BYTES_MAX})")]
    TooLong(usize),
    /// It has other characters.
    #[error("value contains characters outside the allowed set [a-zA-Z0-9_.-]")]
    Characters,
}

/// Why a limit key is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitKeyError {
    /// It has more than two levels.
    #[error("too many path components in the given limit-key (max {LEVELS_MAX})")]
    Levels,
    /// One of its levels is wrong.
    #[error("invalid limit-key component: {0}")]
    Level(#[from] NameError),
}

/// Checks a scope, or one level of a limit key.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match name.len() {
        0 => Err(NameError::Empty),
        length if length > NAME_BYTES_MAX => Err(NameError::TooLong(length)),
        _ if !name.bytes().all(is_good) => Err(NameError::Characters),
        _ => Ok(()),
    }
}

/// Reads a limit key as it is written: one or two levels, and one slash behind them does not count. An empty one is
/// as good as none.
pub fn parse_limit_key(text: &str) -> Result<Option<&str>, LimitKeyError> {
    if text.is_empty() {
        return Ok(None);
    }
    let key = text.strip_suffix('/').unwrap_or(text);
    let mut levels = key.split('/');
    for level in levels.by_ref().take(LEVELS_MAX) {
        check_name(level)?;
    }
    match levels.next() {
        Some(_) => Err(LimitKeyError::Levels),
        None => Ok(Some(key)),
    }
}

/// Where an invocation counts: its scope, which is part of its identity and decides on its partition, and its limit
/// key. Both are well-formed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The scope.
    pub scope: String,
    /// One level or two, joined by a slash.
    pub limit_key: Option<String>,
}

impl Flow {
    /// The levels of the limit key.
    pub fn levels(&self) -> (Option<&str>, Option<&str>) {
        match &self.limit_key {
            None => (None, None),
            Some(key) => match key.split_once('/') {
                None => (Some(key), None),
                Some((first, second)) => (Some(first), Some(second)),
            },
        }
    }

    /// The queue in which invocations of `service` wait that count here.
    pub fn queue(&self, service: &str) -> QueueId {
        let mut hash = Xxh3::new();
        // None of the parts can hold this byte.
        for part in [
            &self.scope,
            service,
            self.limit_key.as_deref().unwrap_or_default(),
        ] {
            hash.update(part.as_bytes());
            hash.update(&[0xFF]);
        }
        QueueId {
            partition_key: PartitionKey::of_scope(&self.scope),
            hash: hash.digest128(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn limit_keys_have_one_level_or_two() {
        let long = "a".repeat(37);
        let table = [
            ("", Ok(None)),
            ("a", Ok(Some("a"))),
            ("a/", Ok(Some("a"))),
            ("a/b", Ok(Some("a/b"))),
            ("a/b/", Ok(Some("a/b"))),
            ("a//", Err(NameError::Empty.into())),
            ("/", Err(NameError::Empty.into())),
            ("/a", Err(NameError::Empty.into())),
            ("a b", Err(NameError::Characters.into())),
            ("ä", Err(NameError::Characters.into())),
            (long.as_str(), Err(NameError::TooLong(37).into())),
            ("a/b/c", Err(LimitKeyError::Levels)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_limit_key(text), expected, "{text:?}");
        }
    }

    #[test]
    fn queues_differ_by_service_scope_and_limit_key() {
        let flow = |scope: &str, key: Option<&str>| Flow {
            scope: scope.to_owned(),
            limit_key: key.map(str::to_owned),
        };
        let queues = [
            flow("a", None).queue("s"),
            flow("a", None).queue("t"),
            flow("b", None).queue("s"),
            flow("a", Some("s")).queue("s"),
            flow("a", Some("s/t")).queue("s"),
        ];
        for (index, queue) in queues.iter().enumerate() {
            assert!(!queues[..index].contains(queue));
            assert_eq!(queue.to_string().parse::<QueueId>().unwrap(), *queue);
        }
        assert_eq!(flow("a", Some("s/t")).levels(), (Some("s"), Some("t")));
    }
}
