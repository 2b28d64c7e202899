//! The text form of ids: `<prefix>_1<base62>` (service protocol reference, section 6.1).

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is no `prefix_` in front.
    #[error("bad format")]
    BadFormat,
    /// It is an id of another kind.
    #[error("id doesn't match the expected type")]
    WrongPrefix {
        /// The prefix that would be right.
        expected: &'static str,
    },
    /// No kind of id has this prefix.
    #[error("unrecognized resource type: {0}")]
    UnknownPrefix(String),
    /// The character behind the underscore is not `1`.
    #[error("unrecognized codec version")]
    UnknownVersion,
    /// The id is too long or too short.
    #[error("bad length")]
    BadLength {
        /// Characters that an id of this kind has.
        expected: usize,
        /// Characters that were given.
        actual: usize,
    },
    /// A character is outside the alphabet, or the number does not fit.
    #[error("base62 decode error")]
    BadDigits,
}

/// The prefixes of all kinds of ids, also of those that only the tools of other servers know.
const PREFIXES: [&str; 8] = ["inv", "dp", "sub", "sign", "prom", "snap", "mut", "vq"];

const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Characters of a 64-bit number in base 62.
pub(crate) const U64_DIGITS: usize = 11;
/// Characters of a 128-bit number in base 62.
pub(crate) const U128_DIGITS: usize = 22;

/// Appends `value` in base 62, left-padded with `0` to `width` characters.
fn push_base62(out: &mut String, mut value: u128, width: usize) {
    let mut digits = [b'0'; U128_DIGITS];
    for slot in digits[..width].iter_mut().rev() {
        *slot = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    debug_assert_eq!(value, 0, "the width holds every value of its type");
    out.extend(digits[..width].iter().map(|digit| char::from(*digit)));
}

/// Appends the eight bytes as the peer does: their little-endian reading in base 62.
pub(crate) fn push_u64(out: &mut String, bytes: [u8; 8]) {
    push_base62(out, u128::from(u64::from_le_bytes(bytes)), U64_DIGITS);
}

/// Appends the sixteen bytes: their little-endian reading in base 62.
pub(crate) fn push_u128(out: &mut String, bytes: [u8; 16]) {
    push_base62(out, u128::from_le_bytes(bytes), U128_DIGITS);
}

fn parse_base62(text: &str) -> Result<u128, IdError> {
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            b'A'..=b'Z' => byte - b'A' + 36,
            _ => return Err(IdError::BadDigits),
        };
        value
            .checked_mul(62)
            .and_then(|value| value.checked_add(u128::from(digit)))
            .ok_or(IdError::BadDigits)
    })
}

/// Reads what [`push_u64`] wrote.
pub(crate) fn parse_u64(text: &str) -> Result<[u8; 8], IdError> {
    let value = u64::try_from(parse_base62(text)?).map_err(|_| IdError::BadDigits)?;
    Ok(value.to_le_bytes())
}

/// Reads what [`push_u128`] wrote.
pub(crate) fn parse_u128(text: &str) -> Result<[u8; 16], IdError> {
    Ok(parse_base62(text)?.to_le_bytes())
}

/// Takes `prefix_1` off the front and returns the body.
pub(crate) fn strip_prefix<'a>(text: &'a str, prefix: &'static str) -> Result<&'a str, IdError> {
    let (found, rest) = text.split_once('_').ok_or(IdError::BadFormat)?;
    if found != prefix {
        return Err(if PREFIXES.contains(&found) {
            IdError::WrongPrefix { expected: prefix }
        } else {
            IdError::UnknownPrefix(found.to_owned())
        });
    }
    if rest.is_empty() {
        return Err(IdError::BadLength {
            expected: 1,
            actual: 0,
        });
    }
    rest.strip_prefix('1').ok_or(IdError::UnknownVersion)
}

/// Refuses a text whose body has another length than `expected`. Non-ASCII bodies are refused here too,
/// so that callers may cut by bytes.
pub(crate) fn check_length(text: &str, body: &str, expected: usize) -> Result<(), IdError> {
    if !body.is_ascii() {
        return Err(IdError::BadDigits);
    }
    if body.len() != expected {
        return Err(IdError::BadLength {
            expected: text.len() - body.len() + expected,
            actual: text.len(),
        });
    }
    Ok(())
}
