//! `popgrad discover`: the latent graph of token sequences, before any training.

mod drawn;
mod input;
mod show;
mod sweep;

use super::output::{check_arrays, claim_out};
use super::{integer, real, tell, wants_json};
use crate::config::{self, Key, Kind};
use crate::discover::tokens::MAX_SYMBOLS;
use crate::discover::{Graph, Labels, Sample, check_level, chi2, gradient};
use crate::report::arrays::{Array, write_new_arrays};
use crate::report::files::write_bytes_atomic;
use crate::report::plot::save_figure;
use crate::{Error, Result};
use clap::Args;
use drawn::Drawn;
use show::{Verdict, figure, json, table};
use std::path::{Path, PathBuf};

/// Arguments of `popgrad discover`.
#[derive(Debug, Args)]
pub(super) struct DiscoverArgs {
    /// A task to draw sequences from, with a known graph: graph=chain S=10 T=20 alpha=0.1
    /// roots=stationary samples=2^14 seed=0 labels=soft.
    #[arg(value_name = "KEY=VALUE", conflicts_with_all = ["tokens", "text"])]
    keys: Vec<String>,
    /// Sequences: text, a row of integers each; or .npy, or `tokens` (B,T) of an .npz or
    /// .safetensors.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    tokens: Option<PathBuf>,
    /// A text, whose characters are the symbols, in windows of --window characters.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Characters per window of --text [default: 21].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    window: Option<usize>,
    /// What follows the query: `next` (the last column; the query is the one before it), or a file
    /// of one symbol or S probabilities per sequence, text or arrays (`labels` (B) or `targets`
    /// (B,S)). Not with --score chi2 [default: next].
    #[arg(long, value_name = "next|FILE")]
    labels: Option<String>,
    /// Alphabet size S of --tokens [default: one more than the largest token].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = count)]
    symbols: Option<usize>,
    /// gradient: every sequence may have its own transitions; needs labels. chi2: all sequences
    /// share one law; uses pair counts alone.
    #[arg(long, default_value = "gradient")]
    score: String,
    /// ε in the denominator of the gradient's score [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = real)]
    eps: Option<f64>,
    /// Nominal probability that a position without parent is given one, see
    /// docs/src/reference/discover.md.
    #[arg(long, default_value_t = 0.01, allow_negative_numbers = true, value_parser = real)]
    level: f64,
    /// With a task: share of edges found at 2^8, 2^9, .. samples, over this many seeds from `seed`
    /// on.
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["tokens", "text", "out", "save"],
        allow_negative_numbers = true, value_parser = seeds)]
    sweep: Option<u64>,
    /// With a task: its tokens and targets as a new file of arrays, to be read with --tokens and
    /// --labels.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "text"])]
    save: Option<PathBuf>,
    /// Folder for discover.json and the figure: new or empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Per position: the parent (or root), its score, the margin to the second best, standard errors, the test's z and p. See docs/src/reference/discover.md.

Examples:
  popgrad discover graph=chain S=5 T=12
  popgrad discover --tokens rows.txt --score chi2";

/// A number of characters or symbols; what is too many is said later, with the reason.
fn count(text: &str) -> std::result::Result<usize, String> {
    integer(text, 1, u64::from(u32::MAX)).map(|n| n as usize)
}

fn seeds(text: &str) -> std::result::Result<u64, String> {
    integer(text, 1, 1 << 20)
}

/// Keys of a task.
fn keys() -> Vec<Key> {
    let mut keys = config::keys(&["S", "T", "graph", "parents", "alpha", "roots", "seed"]);
    let samples = Kind::Count(2, i64::MAX as u64);
    keys.push(Key::of_command("samples", samples, "sequences to draw, >= 2; default 2^14"));
    let help = "soft (the law of what follows the query) or symbol (one draw from it)";
    keys.push(Key::of_command("labels", Kind::Word(&["soft", "symbol"]), help));
    keys
}

#[derive(Clone, Copy, PartialEq)]
enum Score {
    Gradient,
    Chi2,
}

impl Score {
    fn named(name: &str) -> Result<Self> {
        let all = [("gradient", Score::Gradient), ("chi2", Score::Chi2)];
        let found = all.iter().find(|(n, _)| *n == name).map(|(_, score)| *score);
        found.ok_or_else(|| Error::unknown("score", name, all.map(|(n, _)| n)))
    }
}

pub(super) fn discover(args: &DiscoverArgs) -> Result<()> {
    let score = Score::named(&args.score)?;
    check_options(args, score)?;
    args.threads.pool()?.install(|| read_and_find(args, score))
}

fn read_and_find(args: &DiscoverArgs, score: Score) -> Result<()> {
    let (sample, truth) = match (&args.tokens, &args.text) {
        (Some(path), _) => (input::from_file(path, args, score)?, None),
        (None, Some(path)) => (input::from_text(path, args, score)?, None),
        (None, None) => {
            let drawn = Drawn::of(&args.keys, score)?;
            if let Some(seeds) = args.sweep {
                return sweep::sweep(&drawn, seeds, args, score);
            }
            (drawn.sample(0)?, Some(drawn.forest(0)?.parents().to_vec()))
        }
    };
    // Columns of 4 bytes an entry, and as much again for what is pooled or shuffled.
    let columns = if score == Score::Chi2 { sample.tokens.len().saturating_mul(8) } else { 0 };
    fits_memory(sample.len, columns)?;
    match score {
        Score::Gradient => sample.check()?,
        Score::Chi2 => chi2::check(&sample)?,
    }
    let _lock = args.out.as_deref().map(claim_out).transpose()?;
    if let Some(path) = &args.save {
        save(path, &sample)?;
    }
    let graph = find(&sample, args, score)?;
    let verdict = truth.as_ref().map(|t| Verdict::of(&graph, t));
    let json = json(&graph, verdict.as_ref())?;
    tell(&if wants_json() { json.clone() } else { table(&graph, verdict.as_ref()) })?;
    if let Some(dir) = &args.out {
        write_bytes_atomic(&dir.join("discover.json"), json.as_bytes())?;
        save_figure(dir, "discover", &figure(&graph)).map_err(|e| e.of_figures(dir))?;
    }
    Ok(())
}

/// Rejects options that would be ignored or cannot work, before anything is read, drawn or written.
fn check_options(args: &DiscoverArgs, score: Score) -> Result<()> {
    check_level(args.level)?;
    let drawn = args.tokens.is_none() && args.text.is_none();
    if let Some(eps) = args.eps {
        if score == Score::Chi2 {
            return Err(Error::invalid("eps", eps.to_string(), "none: score=chi2 has no ε"));
        }
        gradient::check_eps(eps)?;
    }
    if let Some(labels) = &args.labels {
        if drawn {
            return Err(Error::invalid(
                "labels",
                format!("{labels} with a drawn task"),
                "labels=soft|symbol",
            ));
        }
        if score == Score::Chi2 {
            return Err(Error::invalid("labels", labels, "none: score=chi2 reads tokens alone"));
        }
    }
    if let Some(window) = args.window.filter(|_| args.text.is_none()) {
        return Err(Error::invalid("window", window.to_string(), "with --text only"));
    }
    if let Some(s) = args.symbols {
        if drawn {
            return Err(Error::invalid("symbols", format!("{s} with a drawn task"), "S=.."));
        }
        if !(2..=MAX_SYMBOLS).contains(&s) {
            return Err(Error::invalid("symbols", s.to_string(), format!("2 to {MAX_SYMBOLS}")));
        }
    }
    if let Some(path) = &args.save {
        check_arrays("save", path)?;
        if path.exists() {
            let found = format!("{} exists", path.display());
            return Err(Error::invalid("save", found, "a file that does not exist yet"));
        }
    }
    Ok(())
}

fn find(sample: &Sample, args: &DiscoverArgs, score: Score) -> Result<Graph> {
    match score {
        Score::Gradient => gradient::discover(sample, args.eps.unwrap_or(0.0), args.level),
        Score::Chi2 => chi2::discover(sample, args.level),
    }
}

/// Refuses what cannot fit: T² sums per thread beside `more` bytes.
fn fits_memory(len: usize, more: usize) -> Result<()> {
    let sums = len.checked_mul(len).and_then(|n| n.checked_mul(64 * (rayon::current_num_threads() + 1)));
    let free = crate::ram::free().unwrap_or(usize::MAX);
    match sums.and_then(|b| b.checked_add(more)) {
        Some(bytes) if bytes <= free => Ok(()),
        bytes => {
            let found =
                bytes.map_or("more than can be addressed".into(), |b| format!("about {} MiB", b >> 20));
            Err(Error::invalid("memory (T, S, samples)", found, format!("{} MiB free", free >> 20)))
        }
    }
}

fn save(path: &Path, sample: &Sample) -> Result<()> {
    let tokens: Vec<i64> = sample.tokens.iter().map(|c| i64::from(*c)).collect();
    let tokens = Array::new(&[sample.seqs, sample.len], tokens)?;
    let (name, labels) = match &sample.labels {
        Some(Labels::Soft(y)) => ("targets", Array::new(&[sample.seqs, sample.symbols], y.clone())?),
        Some(Labels::Symbols(y)) => {
            ("labels", Array::vector(y.iter().map(|c| i64::from(*c)).collect::<Vec<_>>()))
        }
        None => return Ok(()),
    };
    write_new_arrays(path, &[("tokens", &tokens), (name, &labels)])
}
