//! Logs as tables: the records of a JSON-lines file as cells of text, their keys in order. Numbers
//! as people read them.

use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// A number, a truth value or a text as JSON writes it, texts without quotes; empty for null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell(String);

impl Cell {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A JSON object with its keys in order.
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ordered;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record: a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ordered, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Ordered(all))
            }
        }
        from.deserialize_map(Entries)
    }
}

/// The records of `text`, the log at `path`, one a line: names of columns with cells. A list has a
/// column for each entry, `key.0`, `key.1`, .., and so has an object, `key.name`.
///
/// # Errors
/// [`Error::Format`] naming the line that is no JSON object.
pub fn cells(path: &Path, text: &str) -> Result<Vec<Vec<(String, Cell)>>> {
    let parse = |(n, line): (usize, &str)| {
        let bad = |e: serde_json::Error| Error::format(path, format!("line {}: {e}", n + 1));
        let Ordered(entries) = serde_json::from_str(line).map_err(bad)?;
        let mut row = Vec::new();
        entries.into_iter().for_each(|(key, value)| flatten(key, value, &mut row));
        Ok(row)
    };
    text.lines().enumerate().map(parse).collect()
}

/// The entries of `text`, one JSON object in the file at `path`, in order.
///
/// # Errors
/// [`Error::Format`] for anything else.
pub fn entries(path: &Path, text: &str) -> Result<Vec<(String, Value)>> {
    let Ordered(entries) = serde_json::from_str(text).map_err(|e| Error::format(path, e.to_string()))?;
    Ok(entries)
}

fn flatten(key: String, value: Value, row: &mut Vec<(String, Cell)>) {
    match value {
        Value::Null => row.push((key, Cell(String::new()))),
        Value::String(text) => row.push((key, Cell(text))),
        Value::Bool(_) | Value::Number(_) => row.push((key, Cell(value.to_string()))),
        Value::Array(list) => {
            list.into_iter().enumerate().for_each(|(i, v)| flatten(format!("{key}.{i}"), v, row));
        }
        Value::Object(map) => map.into_iter().for_each(|(k, v)| flatten(format!("{key}.{k}"), v, row)),
    }
}

/// Five digits, in the form that shows them.
pub fn number(x: f64) -> String {
    if x == 0.0 || (1e-3..1e5).contains(&x.abs()) && x.is_finite() {
        let digits = 4 - (x.abs().max(1e-3).log10().floor() as i32).clamp(-3, 4);
        let text = format!("{x:.*}", digits as usize);
        // Whole numbers without a tail of zeros.
        let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        return short.to_string();
    }
    format!("{x:.3e}")
}

/// A value of JSON in one line, its numbers rounded, texts bare.
pub fn value(v: &Value) -> String {
    let list = |of: Vec<String>| of.join(", ");
    match v {
        Value::Null => "-".into(),
        Value::Number(n) if n.is_f64() => n.as_f64().map_or(n.to_string(), number),
        // A line break inside a text would forge another `key: value` line: it stays quoted.
        Value::String(s) if s.contains(['\n', '\r']) => v.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", list(a.iter().map(value).collect())),
        Value::Object(o) => list(o.iter().map(|(k, v)| format!("{k} {}", value(v))).collect()),
        other => other.to_string(),
    }
}

/// A word that a shell leaves as it is.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,^@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_keep_order_and_digits() {
        let text =
            "{\"step\":3,\"b\":0.1,\"a\":[1e-7,null,[2]],\"t\":\"x,y\",\"o\":{\"k\":true}}\n{\"z\":null}\n";
        let rows = cells(Path::new("log"), text).unwrap();
        let of = |row: &[(String, Cell)]| {
            row.iter().map(|(k, c)| format!("{k}={}", c.as_str())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&rows[0]), "step=3 b=0.1 a.0=1e-7 a.1= a.2.0=2 t=x,y o.k=true");
        assert_eq!(of(&rows[1]), "z=");
        let message = cells(Path::new("log"), "{}\n[1]").unwrap_err().to_string();
        assert!(message.contains("log: line 2") && message.contains("JSON object"), "{message}");
    }

    #[test]
    fn numbers_for_people_have_five_digits() {
        for (x, shown) in [
            (0.0, "0"),
            (2.245_512_345, "2.2455"),
            (-0.001_234_567, "-0.0012346"),
            (12_345.678, "12346"),
            (1e-9, "1.000e-9"),
            (3.0, "3"),
            (1e5, "1.000e5"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(x), shown);
        }
        let v = json!({"n": 131_072, "mean": 0.123_456_789, "of": [1.000_000_01, null], "name": "a b"});
        assert_eq!(value(&v), "mean 0.12346, n 131072, name a b, of [1, -]");
        assert_eq!(value(&json!("a\nb: 3")), "\"a\\nb: 3\"");
    }
}
