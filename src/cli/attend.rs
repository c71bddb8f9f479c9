//! `popgrad attend`: attention and activations of a trained run on given sequences.

use super::finished::trained as load;
use super::grad::not_an_input;
use super::output::{check_arrays, check_picture, write_picture};
use super::table::{self, Left, Right};
use super::{integer, show};
use crate::config::Task;
use crate::input::{self, TEXT};
use crate::model::trace::Kind;
use crate::paper::birth::TriggerTasks;
use crate::probe::looks::{Looks, looks};
use crate::report::arrays::{Array, write_arrays};
use crate::report::plot::{Figure, HeatMap, Panels, Ticks};
use crate::run::{Trained, folder};
use crate::{Error, Result, discover};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad attend`.
#[derive(Debug, Args)]
pub(super) struct AttendArgs {
    /// Run folder with a checkpoint.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Weights after this many updates, of RUN/snapshots [default: the checkpoint].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = steps)]
    step: Option<u64>,
    /// One sequence of characters, or a file of them, for runs on characters.
    #[arg(long, value_name = "WORDS|FILE", required_unless_present = "tokens", conflicts_with = "tokens")]
    text: Option<String>,
    /// A file of token sequences: a row of integers each.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Output file for the tokens and every activation by its name, .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only these activations in --out, separated by commas, e.g. layer0.pattern [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "out")]
    names: Vec<String>,
    /// Picture of the attention on the first sequence, .svg, .png or .pdf.
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Printed: where each head looks (mean attention on the previous position, the query itself and the first position, and its entropy, \
over the queries but the first of a sequence), what the last query of the first sequence attends to, and what is predicted there. --out \
holds tokens (n,L) and, by name, embed, layer0.pattern (n,H,L,L), layer0.head0.out (n,L,d), layer0.mlp.out, layer0.resid, .., logits \
(n,L,S), in f64; layers and heads count from 0. Runs with a label at every position take sequences shorter than their T, too.

Examples:
  popgrad attend runs/birth-quick --text \"the thing that they thought\"
  popgrad attend runs/chain-quick --tokens rows.txt --out activations.npz --figure attention.svg
  popgrad attend runs/birth --step 256 --text sample.txt --out a.npz --names layer0.pattern,layer1.pattern
See docs/src/reference/inside.md.";

fn steps(text: &str) -> std::result::Result<u64, String> {
    integer(text, 0, i64::MAX as u64)
}

/// Sequences of equal length.
struct Sequences {
    tokens: Vec<u32>,
    len: usize,
}

/// Where a head looks, on average over the sequences.
#[derive(Debug, Serialize)]
struct Head {
    name: String,
    #[serde(flatten)]
    looks: Option<Looks>,
    /// Of the last query of the first sequence.
    last: Vec<Attended>,
}

#[derive(Debug, Serialize)]
struct Attended {
    position: usize,
    symbol: String,
    attention: f64,
}

#[derive(Debug, Serialize)]
struct Predicted {
    token: usize,
    symbol: String,
    probability: f64,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    run: String,
    step: u64,
    task: &'a str,
    model: &'a str,
    sequences: usize,
    length: usize,
    heads: Vec<Head>,
    /// After the last position of the first sequence.
    next: Vec<Predicted>,
}

/// Entries of a row, or symbols, that are printed.
const BEST: usize = 3;
/// Positions whose symbols stand beside a picture; of longer sequences their numbers do.
const LETTERS: usize = 40;

pub(super) fn attend(args: &AttendArgs) -> Result<()> {
    for (name, out) in [("out", &args.out), ("figure", &args.figure)] {
        let Some(out) = out else { continue };
        if name == "out" {
            check_arrays(name, out)?;
        } else {
            check_picture(name, out)?;
        }
        let inputs = [args.tokens.clone(), args.text.as_ref().map(PathBuf::from)];
        for (input, from) in inputs.into_iter().zip(["tokens", "text"]) {
            if let Some(input) = input {
                not_an_input(out, from, &input)?;
            }
        }
    }
    let pool = args.threads.pool()?;
    let trained = load(&args.run, args.step)?;
    let (trace, params) = (&trained.trace, &trained.params);
    let wanted: Vec<usize> = match args.names.is_empty() {
        true => (0..trace.points().len()).collect(),
        false => args.names.iter().map(|n| trace.find(n)).collect::<Result<_>>()?,
    };
    let symbols = symbols(&trained)?;
    let Sequences { tokens, len } = sequences(args, &trained)?;
    let (t, n) = (trace.model().seq_len(), tokens.len() / len);
    let entries: usize = trace.points().iter().map(crate::model::trace::Point::len).sum();
    // Twice: as they are computed, and cut to the length of the sequences.
    let bytes = entries.checked_mul(2 * size_of::<f64>()).and_then(|b| b.checked_mul(n));
    folder::check_memory("memory (sequences)", bytes)?;
    // Attention is causal: what stands after a sequence changes nothing before.
    let mut padded = vec![0; n * t];
    padded.chunks_exact_mut(t).zip(tokens.chunks_exact(len)).for_each(|(p, x)| p[..len].copy_from_slice(x));
    let all = pool.install(|| trace.cache(params, &padded))?;
    let cut: Vec<(Vec<usize>, Vec<f64>)> = trace
        .points()
        .iter()
        .zip(&all)
        .map(|(point, values)| match point.kind {
            Kind::Pattern => {
                let maps = values.chunks_exact(t * t);
                let rows = maps.flat_map(|map| map.chunks_exact(t).take(len));
                (vec![n, point.shape[0], len, len], rows.flat_map(|row| row[..len].iter().copied()).collect())
            }
            _ => {
                let (own, d) = (point.len(), point.shape[1]);
                let rows = values.chunks_exact(own).flat_map(|x| x[..len * d].iter().copied());
                (vec![n, len, d], rows.collect())
            }
        })
        .collect();
    let name = |i: usize| symbols.get(tokens[i] as usize).cloned().unwrap_or_default();
    let letters: Vec<String> = (0..len).map(name).collect();

    let mut heads = Vec::new();
    let mut maps: Vec<Figure> = Vec::new();
    for (point, (shape, values)) in trace.points().iter().zip(&cut) {
        if point.kind != Kind::Pattern {
            continue;
        }
        for h in 0..shape[1] {
            let of = values.chunks_exact(len * len).skip(h).step_by(shape[1]);
            let first = &values[h * len * len..][..len * len];
            let last = best(&first[(len - 1) * len..]);
            let name = format!("layer{}.head{h}", point.layer.unwrap_or(0));
            maps.push(map(&name, first, &letters).into());
            heads.push(Head {
                name,
                looks: looks(of, len),
                last: last
                    .into_iter()
                    .map(|(position, attention)| Attended {
                        position,
                        symbol: letters[position].clone(),
                        attention,
                    })
                    .collect(),
            });
        }
    }
    let output = cut.last().map_or(&[][..], |(_, values)| values);
    let s = trace.model().vocab();
    let probabilities = trace.probabilities(&output[(len - 1) * s..len * s])?;
    let predicted = |(token, probability): (usize, f64)| Predicted {
        token,
        symbol: symbols.get(token).cloned().unwrap_or_default(),
        probability,
    };
    let printed = Printed {
        run: args.run.display().to_string(),
        step: trained.step,
        task: trained.config.task.name(),
        model: trained.config.model.name(),
        sequences: n,
        length: len,
        heads,
        next: best(&probabilities).into_iter().map(predicted).collect(),
    };
    if let Some(out) = &args.out {
        let integers: Vec<i64> = tokens.iter().map(|z| i64::from(*z)).collect();
        let mut arrays = vec![("tokens", Array::new(&[n, len], integers)?)];
        for at in wanted {
            let (shape, values) = &cut[at];
            arrays.push((&trace.points()[at].name, Array::new(shape, values.clone())?));
        }
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
        write_arrays(out, &named, None)?;
    }
    if let Some(path) = &args.figure {
        let title = format!("{}, step {}", trained.config.plan.preset, trained.step);
        let columns = maps.len().clamp(1, 2);
        let figure: Figure = Panels { title, columns, figures: maps }.into();
        write_picture(path, &figure)?;
    }
    show(&printed, || shown(&printed))
}

/// What the run's symbols are called.
fn symbols(trained: &Trained) -> Result<Vec<String>> {
    match &trained.config.task {
        Task::TriggerBigram(keys) => Ok(TriggerTasks::new(keys, trained.config.plan.seed)?.symbols),
        _ => Ok((0..trained.trace.model().vocab()).map(|s| s.to_string()).collect()),
    }
}

/// The sequences that the arguments give.
fn sequences(args: &AttendArgs, trained: &Trained) -> Result<Sequences> {
    let (t, s) = (trained.trace.model().seq_len(), trained.trace.model().vocab());
    let (found, from) = match (&args.text, &args.tokens) {
        (Some(words), _) => {
            let Task::TriggerBigram(keys) = &trained.config.task else {
                let found = format!("a run of task {}", trained.config.task.name());
                return Err(Error::invalid("text", found, "a run on characters; else --tokens FILE"));
            };
            let tasks = TriggerTasks::new(keys, trained.config.plan.seed)?;
            let path = Path::new(words);
            let tokens = if path.is_file() {
                tasks.encode(&input::text(path, TEXT)?).map_err(|e| match e {
                    Error::Invalid { problem, allowed, .. } => {
                        Error::format(path, format!("{problem}; allowed: {allowed}"))
                    }
                    other => other,
                })?
            } else {
                tasks.encode(words).map_err(|e| match looks_like_a_file(words) {
                    true => {
                        let found = format!("`{words}`, a file that does not exist");
                        Error::invalid("text", found, "a file of text, or characters of the corpus")
                    }
                    false => e,
                })?
            };
            (Sequences { len: tokens.len(), tokens }, "text")
        }
        (None, Some(path)) => {
            let rows = discover::tokens::parse_tokens(path, &input::bytes(path, TEXT)?, Some(s))?;
            (Sequences { tokens: rows.tokens, len: rows.len }, "tokens")
        }
        (None, None) => return Err(Error::invalid("text", "missing", "--text WORDS|FILE or --tokens FILE")),
    };
    let labels = matches!(trained.config.task, Task::TriggerBigram(_));
    let allowed = match labels {
        true if (1..=t).contains(&found.len) => return Ok(found),
        true => format!("1 to {t}, the run's T"),
        false if found.len == t => return Ok(found),
        false => format!("{t}, the run's T: its last position is the query"),
    };
    Err(Error::invalid(from, format!("{} symbols", found.len), allowed))
}

/// One word with a folder, or with the end of a name of a file of text.
fn looks_like_a_file(words: &str) -> bool {
    let path = Path::new(words);
    !words.contains(char::is_whitespace)
        && (path.parent().is_some_and(|p| !p.as_os_str().is_empty()) || input::extension(path) == "txt")
}

/// The largest entries with their places, largest first; of equal ones the first.
fn best(row: &[f64]) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = row.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(BEST);
    all
}

fn map(name: &str, pattern: &[f64], letters: &[String]) -> HeatMap {
    let t = letters.len();
    let at = |i: usize, j: usize| if j > i { f64::NAN } else { pattern[i * t + j] };
    let ticks = || match t <= LETTERS {
        true => Ticks::Letters(letters.to_vec()),
        false => Ticks::From(0),
    };
    let values: Vec<f64> = (0..t).flat_map(|i| (0..t).map(move |j| at(i, j))).collect();
    HeatMap {
        title: name.into(),
        range: Some((0.0, 1.0)),
        row_ticks: ticks(),
        col_ticks: ticks(),
        x_label: "attended to".into(),
        y_label: "from".into(),
        ..HeatMap::of(&values, t, t)
    }
}

fn shown(p: &Printed<'_>) -> String {
    let sequences = if p.sequences == 1 { "sequence" } else { "sequences" };
    let mut text = format!(
        "{}, step {}: {} on {}, {} {sequences} of {} tokens\n\n",
        p.run, p.step, p.model, p.task, p.sequences, p.length
    );
    let heads = ["previous", "itself", "first", "entropy"].map(|name| (name, Right));
    let heads = [&[("head", Left)], &heads[..], &[("last query attends to", Left)]].concat();
    let row = |head: &Head| {
        let looks = head.looks.as_ref().map(|l| [l.previous, l.itself, l.first, l.entropy]);
        let mut row = vec![head.name.clone()];
        row.extend((0..4).map(|i| looks.map_or("-".into(), |l| format!("{:.3}", l[i]))));
        let last = head.last.iter().filter(|a| a.attention > 0.0);
        let last = last.map(|a| format!("{} at {} ({:.3})", a.symbol, a.position, a.attention));
        row.push(last.collect::<Vec<_>>().join(", "));
        row
    };
    text += &table::columns(&heads, p.heads.iter().map(row).collect());
    let next = p.next.iter().map(|n| format!("{} ({:.3})", n.symbol, n.probability));
    text + &format!("\nnext symbol: {}\n", next.collect::<Vec<_>>().join(", "))
}
