//! Tables and records for people, without characters that could control the terminal.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};

/// Shown for an empty value.
const EMPTY: &str = "-";
const GAP: &str = "  ";

/// Writes rows below a header, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| printable(&cell))));
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// Writes lines of `name: value`.
pub(super) fn record<const N: usize>(fields: [(&str, String); N]) -> String {
    fields.into_iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {}", printable(&value));
        text
    })
}

/// Writes a value, or nothing.
pub(super) fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Writes a time, to the second.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Escapes characters that control the terminal: subjects and reasons come from others.
pub(super) fn printable(text: &str) -> String {
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    text.chars().fold(String::new(), |mut shown, c| {
        if controls_terminal(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Returns whether a character moves, hides or reverses the text around it.
pub(super) fn controls_terminal(c: char) -> bool {
    let reverses_text =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || reverses_text || breaks_lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_characters() {
        let rows = [["ü".to_owned(), "1".to_owned()], ["abcd".to_owned(), String::new()]];
        assert_eq!(table(["A", "COUNT"], rows), "A     COUNT\nü     1\nabcd  -\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2J\r\n\u{9b}\u{202e}ü"), "a\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}ü");
        assert_eq!(record([("reason", "x\nstate: active".to_owned())]), "reason: x\\nstate: active\n");
    }
}
