//! Sequences and labels in files.

use super::{DiscoverArgs, Score};
use crate::cli::grad::shape_error;
use crate::discover::tokens::{MAX_SYMBOLS, Rows, label_width, parse_labels, parse_tokens, windows};
use crate::discover::{Labels, Sample};
use crate::input::{self, TEXT};
use crate::report::arrays::{Array, ArrayFile, read_npy};
use crate::{Error, Result};
use std::path::Path;

/// Characters of a window of text, as in the paper's sequences and the query.
const WINDOW: usize = 21;

/// The file's extension in small letters, if it is one of arrays.
fn arrays_in(path: &Path) -> Option<String> {
    Some(input::extension(path)).filter(|e| ["npy", "npz", "safetensors"].contains(&e.as_str()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    input::bytes(path, TEXT)
}

/// Array `tokens` of a file, checked.
fn token_array(path: &Path, symbols: Option<usize>) -> Result<Rows> {
    let array = named_array(path, &["tokens"])?.1;
    let [b, t] = *array.shape() else {
        return Err(shape_error(path, "tokens", &array, "(B, T)"));
    };
    if b == 0 || t == 0 {
        return Err(shape_error(path, "tokens", &array, "(B, T), neither of them 0"));
    }
    Ok(Rows { len: t, tokens: integers(path, "tokens", &array, t, symbols.unwrap_or(MAX_SYMBOLS))? })
}

/// The first of `names` that the file holds; the one array of a bare .npy goes by any name.
fn named_array(path: &Path, names: &[&'static str]) -> Result<(&'static str, Array)> {
    if arrays_in(path).as_deref() == Some("npy") {
        return Ok((names[0], read_npy(path)?));
    }
    let file = ArrayFile::open(path)?;
    for name in names {
        if let Some(array) = file.read(&[name])?.remove(*name) {
            return Ok((name, array));
        }
    }
    let held = file.names().collect::<Vec<_>>().join(", ");
    Err(Error::format(path, format!("array `{}` is missing; the file holds: {held}", names.join("` or `"))))
}

fn integers(path: &Path, name: &str, array: &Array, width: usize, symbols: usize) -> Result<Vec<u32>> {
    let values = array.as_integers(name).map_err(|e| Error::format(path, e.to_string()))?;
    let token = |(k, x): (usize, i64)| {
        let wrong = || {
            let at = if width == 1 { format!("{k}") } else { format!("{}, {}", k / width, k % width) };
            Error::format(
                path,
                format!("{name}[{at}] = {x}; allowed: 0 to S-1 = {}", symbols.saturating_sub(1)),
            )
        };
        u32::try_from(x).ok().filter(|x| (*x as usize) < symbols).ok_or_else(wrong)
    };
    values.into_iter().enumerate().map(token).collect()
}

/// A file of labels, not yet checked against the tokens.
enum LabelFile {
    Text(Vec<u8>),
    Array(&'static str, Array),
}

impl LabelFile {
    fn read(path: &Path) -> Result<Self> {
        if arrays_in(path).is_none() {
            return Ok(LabelFile::Text(read(path)?));
        }
        let (name, array) = named_array(path, &["labels", "targets"])?;
        match array.shape() {
            [_] | [_, _] => Ok(LabelFile::Array(name, array)),
            _ => Err(shape_error(path, name, &array, "(B,) or (B, S)")),
        }
    }

    /// The alphabet size, if the labels are soft and determine it.
    fn symbols(&self) -> Option<usize> {
        let width = match self {
            LabelFile::Text(bytes) => label_width(bytes),
            LabelFile::Array(_, array) => array.shape().get(1).copied().unwrap_or(1),
        };
        Some(width).filter(|w| *w > 1)
    }

    /// Labels of `seqs` sequences, each below `symbols` or a law over them.
    fn labels(&self, path: &Path, seqs: usize, symbols: usize) -> Result<Labels> {
        match self {
            LabelFile::Text(bytes) => parse_labels(path, bytes, seqs, symbols),
            LabelFile::Array(name, array) => {
                let soft = array.shape().len() == 2;
                let expected = if soft { vec![seqs, symbols] } else { vec![seqs] };
                if array.shape() != expected {
                    return Err(shape_error(path, name, array, &format!("{expected:?}")));
                }
                if !soft {
                    return Ok(Labels::Symbols(integers(path, name, array, 1, symbols)?));
                }
                let rows = array.to_f64_vec();
                for (n, row) in rows.chunks_exact(symbols).enumerate() {
                    crate::discover::check_soft(row).map_err(|p| {
                        Error::format(path, format!("{name}[{n}, :] {p}; expected {}", crate::discover::SOFT))
                    })?;
                }
                Ok(Labels::Soft(rows))
            }
        }
    }
}

pub(super) fn from_file(path: &Path, args: &DiscoverArgs, score: Score) -> Result<Sample> {
    let file = match args.labels.as_deref() {
        None | Some("next") => None,
        Some(file) => Some((Path::new(file), LabelFile::read(Path::new(file))?)),
    };
    let symbols = args.symbols.or(file.as_ref().and_then(|(_, f)| f.symbols()));
    let rows = match arrays_in(path) {
        Some(_) => token_array(path, symbols)?,
        None => parse_tokens(path, &read(path)?, symbols)?,
    };
    let largest = |x: &[u32]| x.iter().max().map_or(0, |m| *m as usize);
    let Some((label_path, file)) = file else {
        let symbols = symbols.unwrap_or((largest(&rows.tokens) + 1).max(2));
        return next(path, rows, symbols, score);
    };
    let seqs = rows.tokens.len() / rows.len;
    let labels = file.labels(label_path, seqs, symbols.unwrap_or(MAX_SYMBOLS))?;
    let symbols = symbols.unwrap_or_else(|| match &labels {
        Labels::Symbols(y) => (largest(&rows.tokens).max(largest(y)) + 1).max(2),
        Labels::Soft(y) => y.len() / seqs,
    });
    Ok(Sample { seqs, len: rows.len, symbols, tokens: rows.tokens, labels: Some(labels) })
}

pub(super) fn from_text(path: &Path, args: &DiscoverArgs, score: Score) -> Result<Sample> {
    if args.labels.as_ref().is_some_and(|l| l != "next") || args.symbols.is_some() {
        return Err(Error::invalid("text", "with --labels or --symbols", "neither: a text has its own"));
    }
    let (rows, alphabet) = windows(path, &read(path)?, args.window.unwrap_or(WINDOW))?;
    next(path, rows, alphabet.len(), score)
}

/// The last column as labels and the one before it as the query. A score without labels uses all
/// columns as positions.
fn next(path: &Path, rows: Rows, symbols: usize, score: Score) -> Result<Sample> {
    let Rows { len, tokens } = rows;
    let seqs = tokens.len() / len;
    if score == Score::Chi2 {
        return Ok(Sample { seqs, len, symbols, tokens, labels: None });
    }
    if len < 3 {
        let problem = format!("{len} tokens per row; expected at least 3: context, query and label");
        return Err(Error::format(path, problem));
    }
    let labels = tokens.iter().skip(len - 1).step_by(len).copied().collect();
    let tokens = tokens.chunks_exact(len).flat_map(|r| r[..len - 1].iter().copied()).collect();
    Ok(Sample { seqs, len: len - 1, symbols, tokens, labels: Some(Labels::Symbols(labels)) })
}
