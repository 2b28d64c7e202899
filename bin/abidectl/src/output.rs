//! Tables for people, lines of JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use serde_json::Value;

use crate::failure::Failure;

/// Writes to stdout. A reader that went away, as `head` does, is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// A table without lines: columns stand two blanks apart.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
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
    fn tables_have_no_trailing_blanks() {
        let text = table(&["A", "LONG"], [vec!["value".to_owned(), "x".to_owned()]]);
        assert_eq!(text, "A      LONG\nvalue  x\n");
    }
}
