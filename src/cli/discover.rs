//! `popgrad discover`: the latent graph of token sequences, before any training.
//!
//! Past 400 lines: arguments, their refusals and the three outputs of one command, and its own sweep.

use super::grad::missing;
use super::{pool, say, tell};
use crate::config::{self, Key, Kind, key};
use crate::discover::tokens::{MAX_SYMBOLS, Rows, label_width, parse_labels, parse_tokens, windows};
use crate::discover::{Graph, Labels, Sample, check_level, chi2, gradient};
use crate::report::arrays::{Array, Format, read_arrays, read_npy, write_arrays};
use crate::report::files::{create_run_dir, write_bytes_atomic};
use crate::report::plot::{Figure, HeatMap, Panels, Ticks, save_figure};
use crate::rng::{Key as DrawKey, Purpose};
use crate::task::{CausalTree, Forest, Roots, Sampler};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad discover`.
#[derive(Debug, Args)]
pub(super) struct DiscoverArgs {
    /// A task to draw from, its graph known: graph=chain S=10 T=20 alpha=0.1 roots=stationary samples=2^14 seed=0 labels=soft.
    #[arg(value_name = "KEY=VALUE", conflicts_with_all = ["tokens", "text"])]
    keys: Vec<String>,
    /// Sequences: text, a row of integers each; or .npy, or `tokens` (B,T) of an .npz or .safetensors.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    tokens: Option<PathBuf>,
    /// A text, whose characters are the symbols, in windows of --window characters.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Characters per window of --text.
    #[arg(long, value_name = "N", default_value_t = 21, requires = "text")]
    window: usize,
    /// What follows the query: `next` (the last column; the query is the one before it), or a file of one symbol or S
    /// probabilities per sequence, text or arrays (`labels` (B) or `targets` (B,S)).
    /// Not with --score chi2 [default: next].
    #[arg(long, value_name = "next|FILE")]
    labels: Option<String>,
    /// Alphabet size S of --tokens [default: one more than the largest token].
    #[arg(long, value_name = "S")]
    symbols: Option<usize>,
    /// gradient: a law of its own for every sequence, labels needed. chi2: one law for all, from pair counts alone.
    #[arg(long, default_value = "gradient")]
    score: String,
    /// ε in the denominator of the gradient's score [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    eps: Option<f64>,
    /// How often a position without parent may be given one: nominal, see docs/discover.md.
    #[arg(long, default_value_t = 0.01, allow_negative_numbers = true)]
    level: f64,
    /// With a task: share of edges found at 2^8, 2^9, .. samples, over this many seeds from `seed` on.
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["tokens", "text", "out", "save"])]
    sweep: Option<u64>,
    /// With a task: its tokens and targets as a new file of arrays, to be read with --tokens and --labels.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "text"])]
    save: Option<PathBuf>,
    /// Folder for discover.json and the figure: new or empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// JSON on stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Worker threads; changes the speed, not one bit of the result [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Per position: the parent (or root), its score, the margin to the second best, standard errors, the test's z and p. See docs/discover.md.";

/// Keys of a task.
fn keys() -> Vec<Key> {
    let mut keys = config::keys(&["S", "T", "graph", "parents", "alpha", "roots", "seed"]);
    keys.push(key("samples", Kind::Count, "sequences to draw, >= 2; default 2^14"));
    keys.push(key(
        "labels",
        Kind::Text,
        "soft (the law of what follows the query) or symbol (one draw from it)",
    ));
    keys
}

#[derive(Clone, Copy, PartialEq)]
enum Score {
    Gradient,
    Chi2,
}

pub(super) fn discover(args: &DiscoverArgs) -> Result<()> {
    let score = match args.score.as_str() {
        "gradient" => Score::Gradient,
        "chi2" => Score::Chi2,
        other => return Err(Error::unknown("score", other, ["gradient", "chi2"])),
    };
    check_options(args, score)?;
    let pool = pool(args.threads)?;
    let (sample, truth) = match (&args.tokens, &args.text) {
        (Some(path), _) => (from_file(path, args, score)?, None),
        (None, Some(path)) => (from_text(path, args, score)?, None),
        (None, None) => {
            let drawn = Drawn::of(&args.keys, score)?;
            if let Some(seeds) = args.sweep {
                return pool.install(|| drawn.sweep(seeds, args, score));
            }
            (drawn.sample(0)?, Some(drawn.forest(0)?.parents().to_vec()))
        }
    };
    fits_memory(sample.len, 0)?;
    match score {
        Score::Gradient => sample.check()?,
        Score::Chi2 => chi2::check(&sample)?,
    }
    if let Some(dir) = &args.out {
        create_run_dir(dir)?;
    }
    if let Some(path) = &args.save {
        save(path, &sample)?;
    }
    let graph = pool.install(|| find(&sample, args, score))?;
    let verdict = truth.as_ref().map(|t| Verdict::of(&graph, t));
    let json = json(&graph, verdict.as_ref())?;
    tell(&if args.json { json.clone() } else { table(&graph, verdict.as_ref()) })?;
    if let Some(dir) = &args.out {
        write_bytes_atomic(&dir.join("discover.json"), json.as_bytes())?;
        if graph.positions.len() > 512 {
            say("no figure: more than 512 positions");
        } else {
            save_figure(dir, "discover", &figure(&graph))?;
        }
    }
    Ok(())
}

/// Refuses options that would be ignored or cannot work, before anything is read, drawn or written.
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
    if let Some(s) = args.symbols {
        if drawn {
            return Err(Error::invalid("symbols", format!("{s} with a drawn task"), "S=.."));
        }
        if !(2..=MAX_SYMBOLS).contains(&s) {
            return Err(Error::invalid("symbols", s.to_string(), format!("2 to {MAX_SYMBOLS}")));
        }
    }
    if let Some(path) = &args.save {
        Format::of(path)?;
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
    let free = crate::paper::folder::available_memory().unwrap_or(usize::MAX);
    match sums.and_then(|b| b.checked_add(more)) {
        Some(bytes) if bytes <= free => Ok(()),
        bytes => {
            let found =
                bytes.map_or("more than can be addressed".into(), |b| format!("about {} MiB", b >> 20));
            Err(Error::invalid("memory (T, S, samples)", found, format!("{} MiB free", free >> 20)))
        }
    }
}

/// The file's extension, if it is one of arrays.
fn arrays_in(path: &Path) -> Option<&str> {
    path.extension().and_then(|e| e.to_str()).filter(|e| ["npy", "npz", "safetensors"].contains(e))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, "cannot read", e))
}

/// Array `tokens` of a file, checked.
fn token_array(path: &Path, symbols: Option<usize>) -> Result<Rows> {
    let array = named_array(path, &["tokens"])?.1;
    let [b, t] = *array.shape() else {
        return Err(super::grad::shape_error(path, "tokens", &array, "(B, T)"));
    };
    if b == 0 || t == 0 {
        return Err(super::grad::shape_error(path, "tokens", &array, "(B, T), neither of them 0"));
    }
    Ok(Rows { len: t, tokens: integers(path, "tokens", &array, t, symbols.unwrap_or(MAX_SYMBOLS))? })
}

/// The first of `names` that the file holds; the one array of a bare .npy goes by any name.
fn named_array(path: &Path, names: &[&'static str]) -> Result<(&'static str, Array)> {
    if arrays_in(path) == Some("npy") {
        return Ok((names[0], read_npy(path)?));
    }
    let mut arrays = read_arrays(path)?;
    for name in names {
        if let Some(array) = arrays.remove(*name) {
            return Ok((name, array));
        }
    }
    let held = super::grad::names(&arrays);
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
            _ => Err(super::grad::shape_error(path, name, &array, "(B,) or (B, S)")),
        }
    }

    /// The alphabet size where the file tells it: soft labels do.
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
                    return Err(super::grad::shape_error(path, name, array, &format!("{expected:?}")));
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

fn from_file(path: &Path, args: &DiscoverArgs, score: Score) -> Result<Sample> {
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

fn from_text(path: &Path, args: &DiscoverArgs, score: Score) -> Result<Sample> {
    if args.labels.as_ref().is_some_and(|l| l != "next") || args.symbols.is_some() {
        return Err(Error::invalid("text", "with --labels or --symbols", "neither: a text has its own"));
    }
    let (rows, alphabet) = windows(path, &read(path)?, args.window)?;
    next(path, rows, alphabet.len(), score)
}

/// The last column as labels, the one before it as the query; all columns as positions where no label is asked for.
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

/// Most tokens of a sweep: about an hour of one core.
const MAX_SWEEP: u128 = 1 << 34;

/// A task to draw from.
struct Drawn {
    graph: Option<String>,
    parents: Vec<i64>,
    symbols: usize,
    len: usize,
    alpha: f64,
    roots: Roots,
    seed: u64,
    samples: usize,
    soft: bool,
}

impl Drawn {
    fn of(words: &[String], score: Score) -> Result<Self> {
        let table = config::parse_keys(words, &keys())?;
        let count =
            |name: &str| table.get(name).and_then(|v| v.as_integer()).and_then(|i| u64::try_from(i).ok());
        let text = |name: &str| table.get(name).and_then(|v| v.as_str());
        let parents: Vec<i64> = table
            .get("parents")
            .and_then(|v| v.as_array())
            .map(|list| list.iter().filter_map(|v| v.as_integer()).collect())
            .unwrap_or_default();
        let graph = text("graph").map(String::from);
        if graph.is_none() && parents.is_empty() {
            return Err(Error::invalid(
                "graph",
                "missing",
                "--tokens FILE, --text FILE, or graph=NAME S=.. T=..",
            ));
        }
        if graph.is_some() && !parents.is_empty() {
            return Err(Error::invalid("parents", "given with graph", "parents=.. or graph=.., not both"));
        }
        let roots = match text("roots").unwrap_or("stationary") {
            "stationary" => Roots::Stationary,
            "uniform" => Roots::Uniform,
            other => return Err(Error::unknown("roots", other, ["stationary", "uniform"])),
        };
        if let (Some(labels), Score::Chi2) = (text("labels"), score) {
            return Err(Error::invalid("labels", labels, "none: score=chi2 reads tokens alone"));
        }
        let soft = match text("labels").unwrap_or("soft") {
            "soft" => true,
            "symbol" => false,
            other => return Err(Error::unknown("labels", other, ["soft", "symbol"])),
        };
        let symbols = count("S").ok_or_else(|| missing("S"))? as usize;
        let len = match count("T") {
            Some(t) => t as usize,
            None if !parents.is_empty() => parents.len() + 1,
            None => return Err(missing("T")),
        };
        let samples = count("samples").unwrap_or(1 << 14) as usize;
        let bytes =
            len.checked_mul(4).and_then(|t| t.checked_add(symbols.checked_mul(8)?)?.checked_mul(samples));
        fits_memory(len, bytes.unwrap_or(usize::MAX))?;
        let alpha = table.get("alpha").and_then(|v| v.as_float()).unwrap_or(0.1);
        let drawn = Drawn {
            graph,
            parents,
            symbols,
            len,
            alpha,
            roots,
            seed: count("seed").unwrap_or(0),
            samples,
            soft,
        };
        if drawn.samples < 2 {
            return Err(Error::invalid("samples", samples.to_string(), "samples >= 2"));
        }
        drawn.task(0)?;
        Ok(drawn)
    }

    fn forest(&self, more: u64) -> Result<Forest> {
        let forest = match &self.graph {
            Some(name) => Forest::named(name, self.len, self.seed.wrapping_add(more))?,
            None => Forest::from_parents(&self.parents)?,
        };
        if forest.seq_len() != self.len {
            let allowed = format!("T = {}", forest.seq_len());
            return Err(Error::invalid("T", self.len.to_string(), allowed));
        }
        Ok(forest)
    }

    fn task(&self, more: u64) -> Result<CausalTree> {
        CausalTree::new(self.forest(more)?, self.symbols, self.alpha, self.roots)
    }

    /// Under seed `seed` + `more`, which random graphs follow too.
    fn sample(&self, more: u64) -> Result<Sample> {
        let (n, t, s) = (self.samples, self.len, self.symbols);
        let task = self.task(more)?;
        let seed = self.seed.wrapping_add(more);
        let (mut tokens, mut targets) = (vec![0; n * t], vec![0.0; n * s]);
        task.samples(&DrawKey::new(seed, Purpose::Train), 0, &mut task.new_work(), &mut tokens, &mut targets);
        let labels = if self.soft {
            Labels::Soft(targets)
        } else {
            let key = DrawKey::new(seed, Purpose::Probe);
            let draw = |(k, row): (usize, &[f64])| {
                let [u, _] = key.uniforms(k as u64, 0, 0);
                let mut total = 0.0;
                let past = row.iter().position(|p| {
                    total += p;
                    total > u
                });
                // Beyond the last only by rounding.
                past.unwrap_or(s - 1) as u32
            };
            Labels::Symbols(targets.chunks_exact(s).enumerate().map(draw).collect())
        };
        Ok(Sample { seqs: n, len: t, symbols: s, tokens, labels: Some(labels) })
    }

    /// Share of edges whose parent has the highest score, and what the test makes of them, by number of samples.
    fn sweep(&self, seeds: u64, args: &DiscoverArgs, score: Score) -> Result<()> {
        let tokens = u128::from(seeds) * self.samples as u128 * self.len as u128;
        if seeds == 0 || self.samples < 256 || tokens > MAX_SWEEP {
            return Err(Error::invalid(
                "sweep",
                format!("{seeds} seeds, {} samples, T = {}", self.samples, self.len),
                ">= 1 seed, >= 2^8 samples, seeds * samples * T <= 2^34",
            ));
        }
        let sizes: Vec<usize> = (8..usize::BITS).map(|e| 1 << e).take_while(|n| *n <= self.samples).collect();
        let mut sums = vec![Sums::default(); sizes.len()];
        for more in 0..seeds {
            let (all, forest) = (self.sample(more)?, self.forest(more)?);
            for (n, sums) in sizes.iter().zip(&mut sums) {
                let labels = match all.labels.as_ref() {
                    Some(Labels::Soft(y)) => Labels::Soft(y[..n * all.symbols].to_vec()),
                    Some(Labels::Symbols(y)) => Labels::Symbols(y[..*n].to_vec()),
                    None => continue,
                };
                let tokens = all.tokens[..n * all.len].to_vec();
                let part = Sample { seqs: *n, tokens, labels: Some(labels), ..all };
                sums.add(&Verdict::of(&find(&part, args, score)?, forest.parents()));
            }
        }
        let records: Vec<Record> = sizes.iter().zip(&sums).map(|(n, s)| s.record(*n, seeds)).collect();
        if args.json {
            return tell(&(to_json(&records)? + "\n"));
        }
        let mut text = String::from(
            "| samples | parent has the highest score | edges found | wrong parent | roots given a parent | whole graph |\n|---:|---:|---:|---:|---:|---:|\n",
        );
        // A graph of roots has no share, one without test no verdict.
        let share = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
        let count = |n: Option<usize>, of: u64| n.map_or("-".into(), |n| format!("{n} of {of}"));
        for r in &records {
            text += &format!(
                "| {} | {} | {} | {} | {} | {} |\n",
                r.samples,
                share(r.best),
                share(r.found),
                share(r.wrong),
                count(r.false_edges, r.roots as u64),
                count(r.whole, r.seeds)
            );
        }
        tell(&text)
    }
}

/// Found graph against the true one.
#[derive(Debug, Clone, Serialize)]
struct Verdict {
    /// -1 for a root.
    parents: Vec<i64>,
    edges: usize,
    /// Edges whose parent has the highest score.
    best: usize,
    /// Edges found.
    found: usize,
    /// Positions with a parent that were given another.
    wrong: usize,
    /// Roots after position 0, and those that were given a parent.
    roots: usize,
    false_edges: usize,
    /// Whether there was a test: if not, only `best` says anything.
    tested: bool,
}

impl Verdict {
    fn of(graph: &Graph, truth: &[Option<usize>]) -> Self {
        let pairs = || truth.iter().zip(&graph.positions);
        let edges = || pairs().filter(|(t, _)| t.is_some());
        let roots = || pairs().skip(1).filter(|(t, _)| t.is_none());
        Verdict {
            parents: truth.iter().map(|p| p.map_or(-1, |p| p as i64)).collect(),
            edges: edges().count(),
            best: edges().filter(|(t, p)| p.best == **t).count(),
            found: edges().filter(|(t, p)| p.parent == **t).count(),
            wrong: edges().filter(|(t, p)| p.parent.is_some() && p.parent != **t).count(),
            roots: roots().count(),
            false_edges: roots().filter(|(_, p)| p.parent.is_some()).count(),
            tested: graph.tested,
        }
    }

    fn whole(&self) -> bool {
        self.found == self.edges && self.false_edges == 0
    }
}

/// Verdicts of several seeds.
#[derive(Debug, Clone, Default)]
struct Sums {
    edges: usize,
    best: usize,
    found: usize,
    wrong: usize,
    roots: usize,
    false_edges: usize,
    whole: usize,
    untested: bool,
}

#[derive(Debug, Serialize)]
struct Record {
    samples: usize,
    seeds: u64,
    edges: usize,
    /// Shares of `edges`; null where there are none.
    best: Option<f64>,
    /// Null where the sample is too small for a test, as are all below.
    found: Option<f64>,
    wrong: Option<f64>,
    roots: usize,
    false_edges: Option<usize>,
    whole: Option<usize>,
}

impl Sums {
    fn add(&mut self, v: &Verdict) {
        self.edges += v.edges;
        self.best += v.best;
        self.found += v.found;
        self.wrong += v.wrong;
        self.roots += v.roots;
        self.false_edges += v.false_edges;
        self.whole += usize::from(v.whole());
        self.untested |= !v.tested;
    }

    fn record(&self, samples: usize, seeds: u64) -> Record {
        let share = |n: usize| (self.edges > 0).then(|| n as f64 / self.edges as f64);
        let tested = !self.untested;
        Record {
            samples,
            seeds,
            edges: self.edges,
            best: share(self.best),
            found: share(self.found).filter(|_| tested),
            wrong: share(self.wrong).filter(|_| tested),
            roots: self.roots,
            false_edges: tested.then_some(self.false_edges),
            whole: tested.then_some(self.whole),
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
    write_arrays(path, &[("tokens", &tokens), (name, &labels)], None)
}

fn to_json(record: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(record)
        .map_err(|e| Error::invalid("discover", e.to_string(), "results with a JSON form"))
}

/// What is not finite is null.
fn json(graph: &Graph, verdict: Option<&Verdict>) -> Result<String> {
    #[derive(Serialize)]
    struct Output<'a> {
        #[serde(flatten)]
        graph: &'a Graph,
        #[serde(skip_serializing_if = "Option::is_none")]
        truth: Option<&'a Verdict>,
    }
    Ok(to_json(&Output { graph, truth: verdict })? + "\n")
}

/// Why a sample has no test.
const UNTESTED: &str = "fewer than 7 tokens or 30 sequences";

fn table(graph: &Graph, verdict: Option<&Verdict>) -> String {
    let mut text = format!(
        "{} sequences of {} tokens, S = {}, score {}, level {}\n",
        graph.sequences,
        graph.length,
        graph.symbols,
        to_json(&graph.score).unwrap_or_default().trim_matches('"'),
        graph.level
    );
    text += "position  parent    best      score   +-       second     margin   +-             z        p\n";
    let name = |j: Option<usize>, none: &str| j.map_or(none.to_string(), |j| j.to_string());
    let none = |i: usize| if graph.tested || i == 0 { "root" } else { "?" };
    for p in &graph.positions {
        let row = format!("{:>8}  {:>6}", p.position, name(p.parent, none(p.position)));
        text += &row;
        if p.best.is_some() {
            text += &format!("  {:>6} {:>10.4}  {:<9.2e}", name(p.best, ""), p.score, p.score_se);
            match p.second {
                Some(second) => text += &format!(" {second:>4} {:>10.4}  {:<9.2e}", p.margin, p.margin_se),
                None => text += &format!(" {:>4} {:>10}  {:<9}", "-", "-", "-"),
            }
            text += &match p.z.is_nan() {
                true => format!(" {:>8} {:>8}", "-", "-"),
                false => format!(" {:>8.1} {:>8.1e}", p.z, p.p),
            };
        }
        text.push('\n');
    }
    if !graph.tested {
        text +=
            &format!("no test: {UNTESTED}; `best` is the candidate of the highest score, parent or not\n");
    }
    for j in &graph.heavy {
        text += &format!(
            "note: position {j} has the highest score in so many rows that its own effect cannot be told from edges; it is taken from \
             the rows it does not lead or the other columns, whichever is higher (docs/discover.md)\n"
        );
    }
    if let Some(v) = verdict.filter(|v| !v.tested) {
        text += &format!("truth: {} of {} edges have the highest score\n", v.best, v.edges);
    } else if let Some(v) = verdict {
        text += &format!(
            "truth: {} of {} edges have the highest score, {} found, {} wrong; {} of {} further roots given a parent\n",
            v.best, v.edges, v.found, v.wrong, v.false_edges, v.roots
        );
    }
    text
}

/// Scores beside the edges found.
fn figure(graph: &Graph) -> Figure {
    let n = graph.positions.len();
    let map = |title: &str, values: Vec<f64>| -> Figure {
        HeatMap {
            title: title.into(),
            values,
            rows: n,
            cols: n,
            row_ticks: Ticks::From(0),
            col_ticks: Ticks::From(0),
            x_label: "candidate j".into(),
            y_label: "position i".into(),
            ..HeatMap::default()
        }
        .into()
    };
    let mut edges = vec![f64::NAN; n * n];
    for p in &graph.positions {
        (0..p.position).for_each(|j| edges[p.position * n + j] = f64::from(u8::from(p.parent == Some(j))));
    }
    let scores = (0..n * n).map(|e| if e % n < e / n { graph.scores[e] } else { f64::NAN }).collect();
    Panels {
        title: String::new(),
        columns: 2,
        figures: vec![map("score", scores), map("edges found", edges)],
    }
    .into()
}
