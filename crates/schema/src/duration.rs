//! Durations as people write them: `10s`, `1h 2m`, `2 days`, `PT10S` (admin reference, section 3).

use std::fmt::Write as _;
use std::time::Duration;

/// A text that is no duration. The text of the parser is inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DurationError(String);

/// Reads the friendly form or ISO 8601. Days have 24 hours; months and years have no fixed length and are refused.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let span: jiff::Span = text
        .trim()
        .parse()
        .map_err(|error: jiff::Error| DurationError(error.to_string()))?;
    if span.get_years() != 0 || span.get_months() != 0 {
        let refused = "please use units of days or smaller";
        return Err(DurationError(refused.to_owned()));
    }
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|error| DurationError(error.to_string()))?;
    Duration::try_from(duration).map_err(|_| {
        let refused = "negative signed durations cannot be converted to an unsigned duration";
        DurationError(refused.to_owned())
    })
}

/// Writes the friendly form: `1d`, `5m`, `1s 500ms`. Zero is `0s`; what is below a nanosecond does not exist.
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let nanos = u64::from(duration.subsec_nanos());
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanos / 1_000_000, "ms"),
        (nanos / 1_000 % 1_000, "µs"),
        (nanos % 1_000, "ns"),
    ];
    let mut text = String::new();
    for (count, unit) in units {
        if count > 0 {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{count}{unit}");
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let table = [
            ("10s", 10_000),
            ("300ms", 300),
            ("1.5s", 1_500),
            ("1h 2m", 3_720_000),
            ("60 sec", 60_000),
            ("2 days", 172_800_000),
            ("PT10S", 10_000),
            ("P1DT1H", 90_000_000),
            ("0s", 0),
            (" 3h ", 10_800_000),
        ];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "10",
            "rubbish",
            "-5s",
            "-PT5S",
            "1 month",
            "P1Y",
            "10 lightyears",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let table = [
            (0, "0s"),
            (500, "500ms"),
            (1_500, "1s 500ms"),
            (60_000, "1m"),
            (86_400_000, "1d"),
            (90_061_001, "1d 1h 1m 1s 1ms"),
        ];
        for (millis, text) in table {
            let duration = Duration::from_millis(millis);
            assert_eq!(format(duration), text);
            assert_eq!(parse(text), Ok(duration));
        }
    }
}
