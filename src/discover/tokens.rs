//! Token and label files in plain text: a row per line, integers separated by blanks or a comma.
//! What a line is, and what marks are no text, [`decode`] says.
//!
//! Any bytes give rows of equal length or an error that names the line.

use super::{Labels, SOFT, check_soft};
use crate::input::decode;
use crate::{Error, Result};
use std::path::Path;

/// Largest alphabet.
pub const MAX_SYMBOLS: usize = 1 << 16;

/// Tokens of equal rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Tokens per row.
    pub len: usize,
    /// Row-major.
    pub tokens: Vec<u32>,
}

/// Bytes of a line that a message shows.
const SHOWN: usize = 40;

/// Rows of `text` with the numbers of their lines, from 1. Blank lines at the end are no rows.
fn lines<'a>(path: &Path, text: &'a str) -> Result<Vec<(usize, &'a str)>> {
    let text = text.trim_end();
    if text.is_empty() {
        return Err(Error::format(path, "empty; expected one row of integers per sequence"));
    }
    text.lines()
        .enumerate()
        .map(|(n, line)| match line.trim() {
            "" => Err(Error::format(path, format!("line {}: empty row", n + 1))),
            row => Ok((n + 1, row)),
        })
        .collect()
}

/// Fields of a row, separated by blanks or by one comma with any blanks around it.
fn fields(row: &str) -> impl Iterator<Item = &str> {
    row.split(',').flat_map(|part| {
        // Nothing between two commas is an empty field, not none.
        let empty = part.trim().is_empty().then_some("");
        part.split_whitespace().chain(empty)
    })
}

fn shown(field: &str) -> String {
    let short: String = field.chars().take(SHOWN).collect();
    if short.len() < field.len() { format!("`{short}..`") } else { format!("`{short}`") }
}

/// A token, at most `most`.
fn token(field: &str, most: usize) -> std::result::Result<u32, String> {
    let token = field.parse::<i128>().map_err(|_| format!("{} is no integer", shown(field)))?;
    match u32::try_from(token) {
        Ok(token) if token as usize <= most => Ok(token),
        _ => Err(format!("token {} is not in 0..={most}", shown(field))),
    }
}

/// Rows of tokens from the bytes of a file; `path` names it in errors. Tokens are below `symbols`,
/// or below [`MAX_SYMBOLS`].
///
/// # Errors
/// [`Error::Format`] with the line: bytes that are no text, an empty file or row, a field that is
/// no integer, a token out of range, a row of another length than the first.
pub fn parse_tokens(path: &Path, bytes: &[u8], symbols: Option<usize>) -> Result<Rows> {
    let most = symbols.unwrap_or(MAX_SYMBOLS).clamp(1, MAX_SYMBOLS) - 1;
    let mut rows = Rows { len: 0, tokens: Vec::new() };
    for (n, row) in lines(path, &decode(path, bytes)?)? {
        let before = rows.tokens.len();
        for field in fields(row) {
            let token = token(field, most).map_err(|p| Error::format(path, format!("line {n}: {p}")))?;
            rows.tokens.push(token);
        }
        let found = rows.tokens.len() - before;
        if rows.len == 0 {
            rows.len = found;
        }
        if found != rows.len {
            let problem = format!("line {n}: {found} tokens; expected {} as in line 1", rows.len);
            return Err(Error::format(path, problem));
        }
    }
    Ok(rows)
}

/// Fields of the first line: 1 for symbols, S for soft labels; 0 where there is no text.
pub fn label_width(bytes: &[u8]) -> usize {
    let Ok(text) = decode(Path::new(""), bytes) else { return 0 };
    let row = text.lines().next().unwrap_or_default().trim();
    if row.is_empty() { 0 } else { fields(row).count() }
}

/// Labels from the bytes of a file: per line a symbol, or `symbols` (S) probabilities; `seqs`
/// lines, all of one kind.
///
/// # Errors
/// [`Error::Format`] with the line, as [`parse_tokens`]; another number of lines; probabilities
/// that are negative, not finite or do not sum to 1.
pub fn parse_labels(path: &Path, bytes: &[u8], seqs: usize, symbols: usize) -> Result<Labels> {
    let text = decode(path, bytes)?;
    let lines = lines(path, &text)?;
    if lines.len() != seqs {
        let problem = format!("{} labels; expected {seqs}, one per sequence", lines.len());
        return Err(Error::format(path, problem));
    }
    let at = |n: usize, problem: String| Error::format(path, format!("line {n}: {problem}"));
    let width = lines.first().map_or(0, |(_, row)| fields(row).count());
    if width == 1 {
        let symbol = |(n, row): &(usize, &str)| {
            let mut fields = fields(row);
            let label = token(fields.next().unwrap_or_default(), symbols - 1).map_err(|p| at(*n, p))?;
            match fields.next() {
                None => Ok(label),
                Some(_) => Err(at(*n, "more than one label; expected one as in line 1".into())),
            }
        };
        return Ok(Labels::Symbols(lines.iter().map(symbol).collect::<Result<_>>()?));
    }
    let mut soft = Vec::new();
    for (n, row) in lines {
        let before = soft.len();
        for field in fields(row) {
            let x: f64 = field.parse().map_err(|_| at(n, format!("{} is no number", shown(field))))?;
            soft.push(x);
        }
        let found = soft.len() - before;
        if found != symbols {
            return Err(at(
                n,
                format!("{found} numbers; expected one symbol or S = {symbols} probabilities"),
            ));
        }
        check_soft(&soft[before..]).map_err(|p| at(n, format!("{p}; expected {SOFT}")))?;
    }
    Ok(Labels::Soft(soft))
}

/// Least positions of a window.
const LEAST_WINDOW: usize = 3;

/// Characters of `text` as symbols, numbered by their code points, in windows of `len` that do not
/// overlap; the last, incomplete one is left out. Also the alphabet.
///
/// # Errors
/// Fewer than two windows; one character only, or more than [`MAX_SYMBOLS`] of them.
pub fn windows(path: &Path, bytes: &[u8], len: usize) -> Result<(Rows, Vec<char>)> {
    let text = decode(path, bytes)?;
    let mut alphabet: Vec<char> = text.chars().collect();
    let count = alphabet.len();
    alphabet.sort_unstable();
    alphabet.dedup();
    if count < 2 * LEAST_WINDOW {
        let problem = format!("{count} characters; expected two windows of at least {LEAST_WINDOW}");
        return Err(Error::format(path, problem));
    }
    if len < LEAST_WINDOW || count / len < 2 {
        let allowed = format!("{LEAST_WINDOW} to {} for this text of {count} characters", count / 2);
        return Err(Error::invalid("window", len.to_string(), allowed));
    }
    if !(2..=MAX_SYMBOLS).contains(&alphabet.len()) {
        return Err(Error::format(
            path,
            format!("{} different characters; expected 2 to {MAX_SYMBOLS}", alphabet.len()),
        ));
    }
    let number = |c: char| alphabet.binary_search(&c).map_or(0, |k| k as u32);
    let tokens = text.chars().take(count / len * len).map(number).collect();
    Ok((Rows { len, tokens }, alphabet))
}

/// Bytes as a token file, and as labels of what was read; never panics, and what was read is
/// rectangular and in range. The body of the fuzz target `tokens`, replayed on its corpus by a
/// test.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let path = Path::new("fuzz");
    for symbols in [None, Some(3)] {
        if let Ok(rows) = parse_tokens(path, data, symbols) {
            assert!(rows.len > 0 && !rows.tokens.is_empty());
            assert_eq!(rows.tokens.len() % rows.len, 0);
            assert!(rows.tokens.iter().all(|c| (*c as usize) < symbols.unwrap_or(MAX_SYMBOLS)));
            // What was read, written again, reads the same.
            let text: Vec<String> = rows
                .tokens
                .chunks(rows.len)
                .map(|r| r.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
                .collect();
            assert_eq!(parse_tokens(path, text.join("\n").as_bytes(), symbols).ok(), Some(rows));
        }
    }
    let lines = decode(path, data).map_or(0, |text| text.trim_end().matches('\n').count());
    for seqs in [lines, lines + 1] {
        match parse_labels(path, data, seqs, 3) {
            Ok(Labels::Symbols(y)) => assert!(y.len() == seqs && y.iter().all(|c| *c < 3)),
            Ok(Labels::Soft(y)) => assert!(y.len() == 3 * seqs && y.iter().all(|x| x.is_finite())),
            Err(_) => {}
        }
    }
    if let Ok((rows, alphabet)) = windows(path, data, 3) {
        assert!(rows.tokens.iter().all(|c| (*c as usize) < alphabet.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_either_form() {
        let read = |text: &str| parse_tokens(Path::new("t.txt"), text.as_bytes(), None);
        let expected = Rows { len: 3, tokens: vec![0, 1, 2, 3, 4, 5] };
        for text in ["0 1 2\n3 4 5\n", "0,1,2\r\n3, 4 ,5", "\u{feff}0\t1, 2\n 3 4  5 \n"] {
            assert_eq!(read(text).unwrap(), expected, "{text:?}");
        }
        for text in
            ["0 1 2\r3 4 5\r", "0 1 2\n3 4 5\n\n", "0 1 2\r\n3 4 5\r\n\r\n \t\r\n", "0 1 2\r3 4 5\r\r"]
        {
            assert_eq!(read(text).unwrap(), expected, "{text:?}");
        }
        let rows = |end: &str| (0..40).map(|_| format!("0 1 2{end}")).collect::<String>();
        assert_eq!(read(&rows("\r")).unwrap().tokens.len(), 120);
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        let message = |text: &[u8], s| parse_tokens(Path::new("t.txt"), text, s).unwrap_err().to_string();
        for (text, expected) in [
            (&b""[..], "t.txt: empty; expected one row"),
            (b" \n\n", "t.txt: empty; expected one row"),
            ("\u{feff}".as_bytes(), "t.txt: empty; expected one row"),
            (b"0 1\n\n1 0\n", "t.txt: line 2: empty row"),
            (b"0 1\n1 0 1\n", "t.txt: line 2: 3 tokens; expected 2 as in line 1"),
            (b"0 1\n1\n", "t.txt: line 2: 1 tokens; expected 2"),
            (b"0,,1\n", "t.txt: line 1: `` is no integer"),
            (b"0,1,\n", "t.txt: line 1: `` is no integer"),
            (b"0 1\n0 x\n", "t.txt: line 2: `x` is no integer"),
            (b"0 1.0\n", "t.txt: line 1: `1.0` is no integer"),
            (b"0 -1\n", "t.txt: line 1: token `-1` is not in 0..=65535"),
            (b"0 99999999999999999999\n", "t.txt: line 1: token `9999"),
            (b"0 1\n\xff 1\n", "t.txt: line 2: byte 4: not UTF-8"),
            (b"0 1\r\r1 0\r", "t.txt: line 2: empty row"),
            (b"\xff\xfe0\0 \0", "t.txt: UTF-16"),
        ] {
            assert!(message(text, None).starts_with(expected), "{}", message(text, None));
        }
        assert!(message(b"0 1\n2 3\n", Some(3)).contains("line 2: token `3` is not in 0..=2"));
    }

    #[test]
    fn labels_of_both_kinds() {
        let read = |text: &str| parse_labels(Path::new("y"), text.as_bytes(), 2, 3);
        assert_eq!(read("2\n0\n").unwrap(), Labels::Symbols(vec![2, 0]));
        let soft = read("0.5 0.25 0.25\n0,1,0").unwrap();
        assert_eq!(soft, Labels::Soft(vec![0.5, 0.25, 0.25, 0.0, 1.0, 0.0]));
        assert_eq!(read("\u{feff}2\r0\r\r").unwrap(), Labels::Symbols(vec![2, 0]));
        for text in ["0.5 0.25 0.25\r0,1,0\r", "\u{feff}.5 .25 .25\r\n0 1 0\r\n\r\n"] {
            assert_eq!(read(text).unwrap(), soft);
            assert_eq!(label_width(text.as_bytes()), 3, "{text:?}");
        }
        for (text, expected) in [
            ("0\n", "y: 1 labels; expected 2"),
            ("0\n1\n2\n", "y: 3 labels; expected 2"),
            ("0\n3\n", "y: line 2: token `3` is not in 0..=2"),
            ("0\n1 0\n", "y: line 2: more than one label"),
            ("0.5 0.5\n0 1\n", "y: line 1: 2 numbers; expected one symbol or S = 3"),
            ("0 1 0\n0 1\n", "y: line 2: 2 numbers"),
            ("0 1 0\n0 nan 1\n", "y: line 2: holds NaN"),
            ("0 1 0\n-1 1 1\n", "y: line 2: holds -1"),
            ("0 1 0\n0 0.5 0.4\n", "y: line 2: sums to 0.9"),
            ("0 1 0\n0 x 1\n", "y: line 2: `x` is no number"),
        ] {
            let found = read(text).unwrap_err().to_string();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn text_is_cut_into_windows() {
        let (rows, alphabet) = windows(Path::new("t"), "abcabdab".as_bytes(), 3).unwrap();
        assert_eq!((rows.tokens, alphabet), (vec![0, 1, 2, 0, 1, 3], vec!['a', 'b', 'c', 'd']));
        // A byte order mark and carriage returns are no symbols, and shift no window.
        let of = |text: &str| windows(Path::new("t"), text.as_bytes(), 3).unwrap();
        let plain = of("ab\nabc\n");
        assert_eq!(plain.1, vec!['\n', 'a', 'b', 'c']);
        for text in ["\u{feff}ab\nabc\n", "ab\r\nabc\r\n", "\u{feff}ab\rabc\r"] {
            assert_eq!(of(text), plain, "{text:?}");
        }
        assert!(windows(Path::new("t"), b"abc", 3).is_err());
        assert!(windows(Path::new("t"), b"aaaaaa", 3).is_err());
        assert!(windows(Path::new("t"), b"ab\xff", 3).is_err());
    }

    #[test]
    fn the_fuzz_corpus_and_its_truncations_hold() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tokens");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            (0..=data.len()).for_each(|n| fuzz(&data[..n]));
            // Every byte in turn made another.
            for at in 0..data.len() {
                for byte in [b'\n', b',', b'-', b'9', 0xff] {
                    let mut data = data.clone();
                    data[at] = byte;
                    fuzz(&data);
                }
            }
            count += 1;
        }
        assert!(count >= 6, "the corpus is there");
    }
}
