//! Results as text for people: rounded numbers. All digits are in JSON and in files.

use crate::Result;
use crate::report::metrics::Summary;
use crate::study::Study;
use comfy_table::{ContentArrangement, Table, TableStyle, presets};
use serde_json::Value;
use std::path::Path;

pub(super) use crate::report::records::{number, value};
pub(super) use comfy_table::CellAlignment::{self, Left, Right};

/// Rows in columns under their heads; without a line of heads where all are empty.
pub(super) fn columns(heads: &[(&str, CellAlignment)], rows: Vec<Vec<String>>) -> String {
    filled(heads, rows, presets::NOTHING, |table| {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    })
}

/// The same as a table of Markdown.
pub(super) fn markdown(heads: &[(&str, CellAlignment)], rows: Vec<Vec<String>>) -> String {
    filled(heads, rows, presets::ASCII_MARKDOWN, |_| {})
}

fn filled(
    heads: &[(&str, CellAlignment)],
    rows: Vec<Vec<String>>,
    style: TableStyle,
    finish: impl FnOnce(&mut Table),
) -> String {
    let mut table = Table::new();
    table.load_style(style);
    if heads.iter().any(|(head, _)| !head.is_empty()) {
        table.set_header(heads.iter().map(|(head, _)| *head));
    }
    table.add_rows(rows);
    for (column, (_, alignment)) in table.column_iter_mut().zip(heads) {
        column.set_cell_alignment(*alignment);
    }
    finish(&mut table);
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Names and what they are, indented; lines as long as they get.
pub(super) fn named<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    indented(rows, None)
}

/// The same for a help text, in lines as long as clap's own.
pub(super) fn named_in_help<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let terminal = terminal_size::terminal_size().map_or(MOST_COLUMNS, |(width, _)| width.0);
    indented(rows, Some(terminal.min(MOST_COLUMNS)))
}

/// The longest lines of clap's help texts.
const MOST_COLUMNS: u16 = 100;

fn indented<'a>(rows: impl IntoIterator<Item = (&'a str, String)>, width: Option<u16>) -> String {
    let rows = rows.into_iter().map(|(name, what)| vec![format!("  {name}"), what]).collect();
    filled(&[("", Left), ("", Left)], rows, presets::NOTHING, |table| {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if let Some(width) = width {
            // The padding of the last column is cut off.
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width + 2);
        }
    })
}

/// A line `key: value` for each entry of an object.
pub(super) fn of_object<'a>(entries: impl IntoIterator<Item = (&'a String, &'a Value)>) -> String {
    entries.into_iter().map(|(k, v)| format!("{k}: {}\n", value(v))).collect()
}

/// A line `key: value` for each entry, in order.
pub(super) fn of_summary(summary: &Summary) -> String {
    let line = |(key, text): (&str, &str)| {
        let shown = serde_json::from_str(text).map_or_else(|_| text.to_string(), |v| value(&v));
        format!("{key}: {shown}\n")
    };
    summary.entries().map(line).collect()
}

/// A finished study as text: its summary, or the table of its key numbers.
///
/// # Errors
/// Runs that are not over, damaged files.
pub(super) fn of_outcome(study: &Study, folder: &Path, summary: &Summary) -> Result<String> {
    if study.drawing.shows_key_numbers() { of_study(study, folder) } else { Ok(of_summary(summary)) }
}

/// The key numbers of a finished study, in columns.
///
/// # Errors
/// Runs that are not over, damaged files.
pub(super) fn of_study(study: &Study, folder: &Path) -> Result<String> {
    let (heads, rows) = study.drawing.key_numbers(study, folder)?;
    let heads: Vec<(&str, CellAlignment)> = heads.into_iter().map(|h| (h, Left)).collect();
    Ok(columns(&heads, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let rows = vec![vec!["α".into(), "1.5".into()], vec!["longer".into(), "-10".into()]];
        assert_eq!(
            columns(&[("name", Left), ("x", Right)], rows.clone()),
            "name      x\nα       1.5\nlonger  -10\n"
        );
        assert_eq!(columns(&[("", Left), ("", Left)], rows), "α       1.5\nlonger  -10\n");
        assert_eq!(named([("a", "b c".into())]), "  a  b c\n");
        let long = named_in_help([("a-name", "word ".repeat(40)), ("b", "c".into())]);
        assert!(long.lines().all(|l| l.len() <= 100) && long.lines().count() > 2, "{long}");
        assert!(long.lines().nth(1).is_some_and(|l| l.starts_with("          word")), "{long}");
        let text = markdown(&[("n", Right), ("m", Left)], vec![vec!["1".into(), "2".into()]]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|l| l.starts_with('|') && l.ends_with('|')), "{text}");
    }
}
