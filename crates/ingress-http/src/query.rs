//! Percent-decoding, and parameters of a query.

use std::borrow::Cow;
use std::str::Utf8Error;

/// Undoes percent-encoding. `%` without two hexadecimal digits stands for itself.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, Utf8Error> {
    if !text
        .bytes()
        .any(|byte| byte == b'%' || (plus_is_space && byte == b'+'))
    {
        return Ok(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = tail;
                }
                _ => decoded.push(b'%'),
            },
            (b'+', _) if plus_is_space => decoded.push(b' '),
            (byte, _) => decoded.push(*byte),
        }
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|error| error.utf8_error())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

/// The value of the first parameter of this name, whatever the case of its letters.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !found.eq_ignore_ascii_case(name) {
            return None;
        }
        // A value that is not UTF-8 cannot be what any parameter wants: its parser will say so.
        Some(percent_decode(value, true).unwrap_or(Cow::Borrowed("\u{FFFD}")))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_undone() {
        let table = [
            ("abc", "abc"),
            ("a%20b", "a b"),
            ("a%2Fb%2fc", "a/b/c"),
            ("a+b", "a+b"),
            ("%C3%A4", "ä"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
        ];
        for (text, expected) in table {
            assert_eq!(percent_decode(text, false).unwrap(), expected);
        }
        assert!(percent_decode("%ff", false).is_err());
        assert_eq!(percent_decode("1h+2m%201s", true).unwrap(), "1h 2m 1s");
    }

    #[test]
    fn parameters_are_found_by_name() {
        let query = Some("a=1&DeLay=1h+2m&delay=3");
        assert_eq!(parameter(query, "delay").unwrap(), "1h 2m");
        assert_eq!(parameter(query, "b"), None);
        assert_eq!(parameter(Some("delay"), "delay").unwrap(), "");
        assert_eq!(parameter(None, "delay"), None);
    }
}
