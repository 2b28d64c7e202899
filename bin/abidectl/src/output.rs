//! Tables for people, lines of JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use comfy_table::{Table, presets};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::cli::{Style, TableStyle, TimeFormat};
use crate::failure::Failure;

/// What the command line says; without it, as in tests, the defaults.
static STYLE: OnceLock<Style> = OnceLock::new();

/// To be called once, before anything is shown.
pub(crate) fn use_style(style: Style) {
    // Only the first call counts.
    let _ = STYLE.set(style);
}

/// Writes to stdout. A reader that went away, as `head` does, is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    piece(text).map(drop)
}

/// Writes a piece of an answer to stdout; false when nobody reads it any more.
pub(crate) fn piece(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Output(error)),
    }
}

/// A table; without lines, unless they are asked for, columns stand two blanks apart.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let borders = STYLE
        .get()
        .is_some_and(|style| style.table_style == TableStyle::Borders);
    let mut table = Table::new();
    table.load_preset(match borders {
        true => presets::UTF8_FULL_CONDENSED,
        false => presets::NOTHING,
    });
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    if !borders {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One object per line.
pub(crate) fn json_lines(values: impl IntoIterator<Item = Value>) -> String {
    let mut text = String::new();
    for value in values {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{value}");
    }
    text
}

/// `-` for what is not known.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `N2`, as it can be pasted back.
pub(crate) fn node(node: u32) -> String {
    format!("N{node}")
}

/// `N1 N2 N3`, or `-`.
pub(crate) fn nodes(nodes: &[u32]) -> String {
    let names: Vec<String> = nodes.iter().map(|id| node(*id)).collect();
    or_dash((!names.is_empty()).then(|| names.join(" ")))
}

/// `3d 4h`, `17m 37s`, `4s`: the two largest units.
pub(crate) fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `2026-03-01T12:00:00Z`, of milliseconds since 1970.
pub(crate) fn time(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years: so the day that some years have is the last of a year.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `17 B`, `4.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = units[0];
    for larger in &units[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// How long ago something was, or when, as the command line says.
pub(crate) fn since(millis: u64) -> String {
    let format = STYLE
        .get()
        .map_or(TimeFormat::Human, |style| style.time_format);
    at(millis, format, Timestamp::now())
}

fn at(millis: u64, format: TimeFormat, now: Timestamp) -> String {
    let ago = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    let then = now
        .checked_sub(ago)
        .map(|then| then.to_zoned(TimeZone::UTC));
    match (format, then) {
        (TimeFormat::Iso8601, Ok(then)) => then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        (TimeFormat::Rfc2822, Ok(then)) => {
            rfc2822::to_string(&then).unwrap_or_else(|_| duration(millis))
        }
        (TimeFormat::Human, _) | (_, Err(_)) => duration(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!(duration(4_321), "4s");
        assert_eq!(duration(1_057_000), "17m 37s");
        assert_eq!(duration(7_260_000), "2h 1m");
        assert_eq!(duration(273_600_000), "3d 4h");
    }

    #[test]
    fn times_are_dates_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_399_000), "2000-02-28T23:59:59Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_798_761_599_999), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(size(1 << 50), "1024.0 TiB");
    }

    #[test]
    fn a_start_is_told_as_a_time_on_request() {
        let now = Timestamp::from_second(1_700_000_000).unwrap_or_default();
        assert_eq!(
            at(3_600_000, TimeFormat::Iso8601, now),
            "2023-11-14T21:13:20Z"
        );
        assert_eq!(
            at(3_600_000, TimeFormat::Rfc2822, now),
            "Tue, 14 Nov 2023 21:13:20 +0000"
        );
        assert_eq!(at(3_600_000, TimeFormat::Human, now), "1h 0m");
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(&["A", "LONG"], [vec!["value".to_owned(), "x".to_owned()]]);
        assert_eq!(text, "A      LONG\nvalue  x\n");
    }
}
