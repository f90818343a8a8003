//! Tables for people, from JSON: as wide as their cells, two spaces between columns.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows with a head; numbers are not set apart, so that every cell can be cut out by its column.
pub(super) fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = all.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &all {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        // Writing to a String has no way to fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// Names and values, one a line.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"));
    lines.collect()
}

/// What stands under a key: text as it is, nothing as `-`. Signs that would move the cursor are replaced: a client chooses
/// its own name.
pub(super) fn cell(value: &Value, key: &str) -> String {
    let text = match &value[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    plain(&text)
}

/// Without signs that would move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|sign| if sign.is_control() { '\u{fffd}' } else { sign })
        .collect()
}

/// 5400 as `1h30m`.
pub(super) fn span(value: &Value) -> String {
    let Some(seconds) = value.as_i64() else {
        return "-".to_owned();
    };
    let sign = if seconds < 0 { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let known: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if known.is_empty() {
        "0s".to_owned()
    } else {
        format!("{sign}{}", known.concat())
    }
}

/// The items of a list.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = vec![
            ["häfen".to_owned(), "1".to_owned()],
            ["a".to_owned(), String::new()],
        ];
        assert_eq!(table(["NAME", "N"], rows), "NAME   N\nhäfen  1\na\n");
    }

    #[test]
    fn names_of_clients_cannot_move_the_cursor() {
        let value = json!({"name": "a\u{1b}[2Jb", "none": null, "yes": true, "count": 7});
        assert_eq!(cell(&value, "name"), "a\u{fffd}[2Jb");
        assert_eq!(
            [cell(&value, "none"), cell(&value, "yes"), cell(&value, "count")],
            ["-", "yes", "7"]
        );
    }

    #[test]
    fn spans_have_two_parts_at_the_most() {
        let shown: Vec<String> = [0, 59, 5400, 90_061, -30]
            .iter()
            .map(|seconds| span(&json!(seconds)))
            .collect();
        assert_eq!(shown, ["0s", "59s", "1h30m", "1d1h", "-30s"]);
        assert_eq!(span(&Value::Null), "-");
    }
}
