//! What people read on a terminal: tables and records, with nothing in them that could drive the terminal.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};

/// What stands where there is nothing.
const NOTHING: &str = "-";
/// What is between two columns.
const GAP: &str = "  ";

/// Writes rows below a header, in columns as wide as their widest cell.
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

/// Writes one thing as lines of `name: value`.
pub(super) fn record<const N: usize>(fields: [(&str, String); N]) -> String {
    fields.into_iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {}", printable(&value));
        text
    })
}

/// Writes what may not be there.
pub(super) fn or_nothing<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Writes a time, to the second.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Escapes what a terminal would obey instead of showing; subjects and reasons are chosen by others.
pub(super) fn printable(text: &str) -> String {
    if text.is_empty() {
        return NOTHING.to_owned();
    }
    text.chars().fold(String::new(), |mut shown, c| {
        if drives_a_terminal(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Tells whether a character moves, hides or turns round the text beside it instead of being seen.
pub(super) fn drives_a_terminal(c: char) -> bool {
    let turns_text_round =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || turns_text_round || breaks_lines
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
    fn nothing_that_is_shown_drives_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\r\n\u{9b}\u{202e}ü"), "a\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}ü");
        assert_eq!(record([("reason", "x\nstate: active".to_owned())]), "reason: x\\nstate: active\n");
    }
}
