//! Parameters and batches in files of arrays.

use crate::batch::{Batch, Targets};
use crate::config;
use crate::model::{Layout, MemorySpec, Spec, TransformerSpec};
use crate::report::arrays::{Array, ArrayFile};
use crate::run::params;
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

/// Refuses an output that would replace the input `--name`.
pub(in crate::cli) fn not_an_input(out: &Path, name: &str, input: &Path) -> Result<()> {
    let same = |a: &Path, b: &Path| Some(std::fs::canonicalize(a).ok()? == std::fs::canonicalize(b).ok()?);
    if same(out, input) == Some(true) {
        let problem = format!("{} is also --{name}", out.display());
        return Err(Error::invalid("out", problem, "a file that is not read"));
    }
    Ok(())
}

/// A key that has to be given and is not.
pub(in crate::cli) fn missing(name: &str) -> Error {
    Error::invalid(name, "missing", format!("{name}=.. on the command line"))
}

/// Takes array `name` out of a file's arrays; `held` lists all that the file had.
pub(in crate::cli) fn take(
    arrays: &mut BTreeMap<String, Array>,
    held: &str,
    path: &Path,
    name: &str,
) -> Result<Array> {
    arrays.remove(name).ok_or_else(|| absent(path, name, held))
}

fn absent(path: &Path, name: &str, held: &str) -> Error {
    Error::format(path, format!("array `{name}` is missing; the file holds: {held}"))
}

/// Names of all arrays of a file.
pub(in crate::cli) fn held_names(file: &ArrayFile) -> String {
    file.names().collect::<Vec<_>>().join(", ")
}

pub(in crate::cli) fn shape_error(path: &Path, name: &str, array: &Array, expected: &str) -> Error {
    Error::format(path, format!("array `{name}` has shape {:?}; expected {expected}", array.shape()))
}

/// A file of parameters.
pub(in crate::cli) struct Params<'a> {
    path: &'a Path,
    file: ArrayFile,
}

impl<'a> Params<'a> {
    /// # Errors
    /// A file that cannot be read.
    pub(in crate::cli) fn read(path: &'a Path) -> Result<Self> {
        Ok(Params { path, file: ArrayFile::open(path)? })
    }

    /// The model called `name` with the keys in `table`, and its alphabet size S. What the keys
    /// leave out follows from the arrays: S, and the width of embeddings; ε is 0.
    ///
    /// # Errors
    /// Values out of range, a width that is not that of the arrays, arrays that are missing.
    pub(in crate::cli) fn describe(&self, name: &str, table: &Table) -> Result<(Spec, usize)> {
        let mut table = table.clone();
        table.entry("eps").or_insert(Value::Float(0.0));
        let count = |key: &str| usize::try_from(table.get(key)?.as_integer()?).ok();
        let mut spec = config::model_spec(name, &table)?;
        let symbols = match &mut spec {
            Spec::Disentangled(_) | Spec::MlpTransformer(_) => {
                count("S").map_or_else(|| self.matrix("W", "(d, S)").map(|w| w[1]), Ok)
            }
            Spec::Simplified(_) => count("S").map_or_else(|| self.matrix("A2", "(S, S)").map(|w| w[1]), Ok),
            Spec::Memory(MemorySpec { dim, .. }) | Spec::Transformer(TransformerSpec { dim, .. }) => {
                let [rows, width] = self.matrix("tok_embeddings.weight", "(S, d)")?;
                if let Some(given) = count("dim").filter(|given| *given != width) {
                    let allowed = format!("{width}, the width of tok_embeddings.weight");
                    return Err(Error::invalid("dim", given.to_string(), allowed));
                }
                *dim = width;
                Ok(count("S").unwrap_or(rows))
            }
        };
        Ok((spec, symbols?))
    }

    /// The shape of array `name`, which has two axes.
    fn matrix(&self, name: &str, expected: &str) -> Result<[usize; 2]> {
        let array = take(&mut self.file.read(&[name])?, &held_names(&self.file), self.path, name)?;
        <[usize; 2]>::try_from(array.shape()).map_err(|_| shape_error(self.path, name, &array, expected))
    }

    /// T, where an array has a row for each position.
    ///
    /// # Errors
    /// An array that cannot be read.
    pub(in crate::cli) fn positions(&self, symbols: usize) -> Result<Option<usize>> {
        const ROWS: [&str; 4] = ["A1", "wpe", "pe", "pos_embeddings.weight"];
        let arrays = self.file.read(&[&ROWS[..], &["A.0"]].concat())?;
        let rows = |name: &str| arrays.get(name)?.shape().first().copied();
        let of_width = || arrays.get("A.0")?.shape().last()?.checked_sub(symbols);
        Ok(ROWS.into_iter().find_map(rows).or_else(of_width))
    }

    /// As [`params::blocks`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::cli) fn into_blocks<E: Elem>(self, layout: &Layout) -> Result<Vec<E>> {
        params::blocks(&self.file, self.path, layout)
    }
}

/// The gradient's blocks that are `active`, as arrays.
pub(in crate::cli) fn block_arrays<'a>(
    layout: &'a Layout,
    active: &[bool],
    grad: &[f64],
) -> Result<Vec<(&'a str, Array)>> {
    let written = layout.blocks().iter().zip(active).filter(|(_, on)| **on);
    written.map(|(b, _)| Ok((b.name(), Array::new(b.shape(), grad[b.range()].to_vec())?))).collect()
}

/// What the weights of a batch are called in a file.
pub(super) fn weights_name(kind: Targets) -> &'static str {
    match kind {
        Targets::Law => "weights",
        Targets::Labels => "mask",
    }
}

/// A batch from a file: its arrays decide what its sequences are scored on.
///
/// # Errors
/// Arrays that are missing, of another shape, or of numbers that nobody expects; values out of
/// range; weights that sum to 0.
pub(super) fn read_batch(path: &Path, vocab: usize) -> Result<(Batch, Padding)> {
    let file = ArrayFile::open(path)?;
    let held = held_names(&file);
    let mut arrays = file.read(&["tokens", "targets", "labels"])?;
    let tokens = take(&mut arrays, &held, path, "tokens")?;
    let (kind, answers) = match (arrays.remove("targets"), arrays.remove("labels")) {
        (Some(laws), None) => (Targets::Law, laws),
        (None, Some(labels)) => (Targets::Labels, labels),
        (Some(_), Some(_)) => {
            let problem = "arrays `targets` and `labels` are both there; expected one of them: `targets` (B, S), laws \
                           of what follows the last token, or `labels` (B, T), what follows each token";
            return Err(Error::format(path, problem));
        }
        (None, None) => {
            let problem = format!("array `targets` or `labels` is missing; the file holds: {held}");
            return Err(Error::format(path, problem));
        }
    };
    let named = match kind {
        Targets::Law => "targets",
        Targets::Labels => "labels",
    };
    let weights = file.read(&[weights_name(kind)])?.remove(weights_name(kind));
    if let Some(extra) = file.unexpected(&["tokens", named, weights_name(kind)])? {
        let allowed = format!("tokens, {named}, {}", weights_name(kind));
        return Err(Error::format(path, format!("array `{extra}` is not expected; allowed: {allowed}")));
    }
    let [b, t] = *tokens.shape() else {
        return Err(shape_error(path, "tokens", &tokens, "(B, T)"));
    };
    if b == 0 || t < 2 {
        return Err(shape_error(path, "tokens", &tokens, "(B, T) with B >= 1 and T >= 2"));
    }
    let mut batch = Batch::with_capacity(kind, b, t, vocab)?;
    batch.set_seqs(b);
    let parts = batch.parts_mut();
    match &weights {
        None => parts.weights.fill(1.0),
        Some(weights) => read_weights(path, weights, kind, [b, t], parts.weights)?,
    }
    // Padding counts nothing, so it may be anything: a row without weight, a label without.
    let weights = &*parts.weights;
    let row_counts = |i: usize| match kind {
        Targets::Law => weights[i] > 0.0,
        Targets::Labels => weights[i * t..(i + 1) * t].iter().any(|w| *w > 0.0),
    };
    let rows = symbols(path, ("tokens", &tokens), vocab, |i| row_counts(i / t), parts.tokens)?;
    match kind {
        Targets::Law if answers.shape() != [b, vocab] => {
            return Err(shape_error(path, "targets", &answers, &format!("(B, S) = ({b}, {vocab})")));
        }
        Targets::Labels if answers.shape() != [b, t] => {
            return Err(shape_error(path, "labels", &answers, &format!("that of tokens, ({b}, {t})")));
        }
        _ => {}
    }
    let answers = match kind {
        Targets::Law => read_laws(path, &answers, vocab, row_counts, parts.laws)?,
        Targets::Labels => symbols(path, ("labels", &answers), vocab, |i| weights[i] > 0.0, parts.labels)?,
    };
    Ok((batch, Padding { rows: rows.into_iter().map(|i| i / t).collect(), answers }))
}

/// What a batch holds in place of padding that is no symbol and no law.
pub(super) struct Padding {
    /// Sequences with such tokens.
    pub(super) rows: Vec<usize>,
    /// Outputs with such an answer.
    pub(super) answers: Vec<usize>,
}

/// (B, T) symbols, each below `vocab`; 0 in place of an entry that does not count. Returns where
/// that was done.
fn symbols(
    path: &Path,
    (name, array): (&str, &Array),
    vocab: usize,
    counts: impl Fn(usize) -> bool,
    out: &mut [u32],
) -> Result<Vec<usize>> {
    let t = array.shape().last().copied().unwrap_or(1);
    let integers = array.as_integers(name).map_err(|e| Error::format(path, e.to_string()))?;
    let mut replaced = Vec::new();
    for (i, (out, found)) in out.iter_mut().zip(integers).enumerate() {
        match u32::try_from(found) {
            Ok(symbol) if (symbol as usize) < vocab => *out = symbol,
            _ if !counts(i) => {
                *out = 0;
                replaced.push(i);
            }
            _ => {
                let at = format!("{name}[{}, {}] = {found}", i / t, i % t);
                return Err(Error::format(path, format!("{at}; allowed: 0 <= symbol < S = {vocab}")));
            }
        }
    }
    Ok(replaced)
}

/// (B, S) laws; the uniform one in place of what is none in a row that does not count. Returns
/// where that was done.
fn read_laws(
    path: &Path,
    array: &Array,
    vocab: usize,
    counts: impl Fn(usize) -> bool,
    out: &mut [f64],
) -> Result<Vec<usize>> {
    let mut values = array.to_f64_vec();
    let mut replaced = Vec::new();
    for (i, row) in values.chunks_mut(vocab).enumerate() {
        if let Err(problem) = check_law(row, i) {
            if counts(i) {
                return Err(Error::format(path, problem));
            }
            row.fill(1.0 / vocab as f64);
            replaced.push(i);
        }
    }
    out.copy_from_slice(&values);
    Ok(replaced)
}

/// What is wrong with row `i` as a law.
fn check_law(row: &[f64], i: usize) -> std::result::Result<(), String> {
    if let Some((j, y)) = row.iter().enumerate().find(|(_, y)| !(**y >= 0.0 && y.is_finite())) {
        return Err(format!("targets[{i}, {j}] = {y}; allowed: finite, >= 0"));
    }
    let sum: f64 = row.iter().sum();
    // Rows rounded to f32 elsewhere sum to 1 within S u; nothing honest is further off than this.
    if (sum - 1.0).abs() > 1e-6 * (row.len() as f64).max(10.0) {
        return Err(format!("targets[{i}, :] sums to {sum}; expected 1"));
    }
    Ok(())
}

/// (B) or (B, T) weights.
fn read_weights(
    path: &Path,
    array: &Array,
    kind: Targets,
    [b, t]: [usize; 2],
    out: &mut [f64],
) -> Result<()> {
    let name = weights_name(kind);
    let (shape, expected) = match kind {
        Targets::Law => (vec![b], format!("(B,) = ({b},)")),
        Targets::Labels => (vec![b, t], format!("that of tokens, ({b}, {t})")),
    };
    if array.shape() != shape {
        return Err(shape_error(path, name, array, &expected));
    }
    let values = array.to_f64_vec();
    if let Some((i, w)) = values.iter().enumerate().find(|(_, w)| !(**w >= 0.0 && w.is_finite())) {
        let at = match kind {
            Targets::Law => i.to_string(),
            Targets::Labels => format!("{}, {}", i / t, i % t),
        };
        return Err(Error::format(path, format!("{name}[{at}] = {w}; allowed: finite, >= 0")));
    }
    let total = crate::num::sum(&values);
    if !(total > 0.0 && total.is_finite()) {
        let problem = format!("{name} sums to {total}; expected a finite sum > 0");
        return Err(Error::format(path, format!("{problem}: at least one output that counts")));
    }
    out.copy_from_slice(&values);
    Ok(())
}
