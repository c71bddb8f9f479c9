//! `popgrad ablate`: what each head, feed-forward part and block of a trained run contributes.

use super::finished::trained as load;
use super::table::{self, Left, Right};
use super::{integer, show};
use crate::run::ablate::{Ablation, Part, Replacement, Scores, ablate as measure};
use crate::{Error, Result, paper};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `popgrad ablate`.
#[derive(Debug, Args)]
pub(super) struct AblateArgs {
    /// Run folder with a checkpoint.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Weights after this many updates, of RUN/snapshots [default: the checkpoint].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = steps)]
    step: Option<u64>,
    /// What takes a part's place: zero, mean (over the test set, position by position), or the
    /// folder of another run of the same model.
    #[arg(long, value_name = "zero|mean|RUN2", default_value = "zero")]
    with: PathBuf,
    /// Of RUN2: weights after this many updates [default: the checkpoint].
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = steps)]
    with_step: Option<u64>,
    /// The first N sequences of the run's test set [default: all].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = sequences)]
    sequences: Option<usize>,
    /// Order of the rows: model, or effect (largest change of the loss first).
    #[arg(long, value_name = "ORDER", default_value = "model")]
    sort: String,
    #[command(flatten)]
    threads: super::Threads,
}

pub(super) const AFTER_HELP: &str = "\
Each attention head (layer0.head0.out, ..) and feed-forward part (layer0.mlp.out, ..) has its activation replaced, at every position \
and in every sequence; each block of parameters has its values replaced (not with mean). Reported on the run's own test set, or on its \
population: the loss, its change, and what the task has besides: excess over the Bayes loss, or accuracy and loss in context. With \
RUN2, a head has the output that RUN2's head has on the same sequence, from RUN2's own embeddings on.

Examples:
  popgrad ablate runs/chain-quick
  popgrad ablate runs/birth-quick --with mean --sort effect
  popgrad ablate runs/chain --step 4096 --with runs/chain --with-step 0   needs snapshots=..
See docs/src/reference/inside.md.";

fn steps(text: &str) -> std::result::Result<u64, String> {
    integer(text, 0, i64::MAX as u64)
}

fn sequences(text: &str) -> std::result::Result<usize, String> {
    integer(text, 1, 1 << 40).map(|n| n as usize)
}

/// What `--json` prints; the table has the same.
#[derive(Serialize)]
struct Printed<'a> {
    run: String,
    step: u64,
    task: &'a str,
    model: &'a str,
    with: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    with_step: Option<u64>,
    #[serde(flatten)]
    found: Ablation,
}

pub(super) fn ablate(args: &AblateArgs) -> Result<()> {
    const ORDERS: [&str; 2] = ["model", "effect"];
    if !ORDERS.contains(&args.sort.as_str()) {
        return Err(Error::unknown("sort", &args.sort, ORDERS));
    }
    let own = [Path::new("zero"), Path::new("mean")];
    let other = (!own.contains(&args.with.as_path())).then_some(&args.with);
    if let (None, Some(step)) = (other, args.with_step) {
        let problem = format!("{step} with --with {}", args.with.display());
        return Err(Error::invalid("with-step", problem, "a step of another run, with --with RUN2"));
    }
    let pool = args.threads.pool()?;
    let trained = load(&args.run, args.step)?;
    let other = match other {
        None => None,
        Some(folder) if !folder.exists() => {
            let allowed = "zero, mean, or the folder of a run";
            return Err(Error::invalid("with", format!("`{}`", folder.display()), allowed));
        }
        Some(folder) => {
            let other = load(folder, args.with_step)?;
            trained.check_same_model(&other)?;
            Some(other)
        }
    };
    let with = match &other {
        Some(other) => Replacement::Run(&other.params),
        None if args.with == Path::new("mean") => Replacement::Mean,
        None => Replacement::Zero,
    };
    let mut found = pool.install(|| {
        let mut setup = paper::experiment(&trained.config)?.setup(&trained.config)?;
        measure(&trained, setup.as_mut(), args.sequences, with)
    })?;
    if args.sort == "effect" {
        // Stable: equal effects stay in the model's order; what has none comes last.
        let size = |c: Option<f64>| c.map_or(f64::NEG_INFINITY, f64::abs);
        found.rows.sort_by(|a, b| size(b.change).total_cmp(&size(a.change)));
    }
    let printed = Printed {
        run: args.run.display().to_string(),
        step: trained.step,
        task: trained.config.task.name(),
        model: trained.config.model.name(),
        with: args.with.display().to_string(),
        with_step: other.map(|o| o.step),
        found,
    };
    show(&printed, || shown(&printed))
}

/// A column: its heading, the number of a row, and whether it is a loss.
type Column = (&'static str, fn(&Scores) -> Option<f64>);

const COLUMNS: [Column; 4] = [
    ("excess", |s| s.excess),
    ("acc_end", |s| s.acc_end),
    ("loss_head", |s| s.loss_head),
    ("loss_bigram", |s| s.loss_bigram),
];

fn shown(p: &Printed<'_>) -> String {
    let by = match p.with_step {
        Some(step) => format!("that of {} at step {step}", p.with),
        None if p.with == "mean" => "its mean over them".into(),
        None => "zeros".into(),
    };
    let found = &p.found;
    let of = if found.population { "sequences of the population" } else { "test sequences" };
    let text = format!(
        "{}, step {}: {} on {}, {} {of}; each part replaced by {by}\n\n",
        p.run, p.step, p.model, p.task, found.sequences
    );
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| c.1(&found.whole).is_some()).collect();
    let mut heads = vec![("replaced", Left), ("kind", Left), ("loss", Right), ("change", Right)];
    heads.extend(columns.iter().map(|(name, _)| (*name, Right)));
    // What rounds to 0 has no sign.
    let digits = |x: f64| if x.abs() < 5e-5 { "0.0000".into() } else { format!("{x:.4}") };
    let row = |name: &str, kind: &str, scores: &Scores, change: Option<f64>| {
        let change = change.map_or(String::new(), |c| {
            let text = digits(c);
            if c > 0.0 && text != digits(0.0) { format!("+{text}") } else { text }
        });
        let mut row = vec![name.into(), kind.into(), digits(scores.loss), change];
        row.extend(columns.iter().map(|(_, of)| of(scores).map_or("-".into(), digits)));
        row
    };
    let mut rows = vec![row("(nothing)", "", &found.whole, None)];
    rows.extend(found.rows.iter().map(|r| {
        let kind = match r.part {
            Part::Head => "head",
            Part::Mlp => "mlp",
            Part::Block => "block",
        };
        row(&r.name, kind, &r.scores, r.change)
    }));
    text + &table::columns(&heads, rows)
}
