//! `popgrad ood`: evaluates trained runs on transitions of other kinds than their prior draws.

use super::finished::trained;
use super::output::claim_out;
use super::table::{self, Left, Right, columns};
use super::{integer, json, say, tell, wants_json};
use crate::config::Task;
use crate::paper::causal::ood::{KINDS, MAX_SEQUENCES, Outcome, Sizes, Subject, evaluate, kinds};
use crate::report::files::write_bytes_atomic;
use crate::report::plot::{LineChart, Scale, Series, save_figure};
use crate::task::Task as _;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `popgrad ood`.
#[derive(Debug, Args)]
pub(super) struct OodArgs {
    /// Run folders, each with a checkpoint.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Kinds of transitions, separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<String>,
    /// Matrices of each random kind.
    #[arg(long, default_value_t = 8, value_name = "N", allow_negative_numbers = true, value_parser = matrices)]
    matrices: usize,
    /// Sequences per matrix.
    #[arg(long, default_value_t = 4096, value_name = "N", allow_negative_numbers = true, value_parser = sequences)]
    sequences: usize,
    /// Seed of matrices and sequences.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = seed)]
    seed: u64,
    /// Folder for ood.json and, of two runs or more, the figure: new or empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: super::Threads,
}

fn matrices(text: &str) -> std::result::Result<usize, String> {
    integer(text, 1, 1 << 16).map(|n| n as usize)
}

fn sequences(text: &str) -> std::result::Result<usize, String> {
    integer(text, 2, 1 << 26).map(|n| n as usize)
}

fn seed(text: &str) -> std::result::Result<u64, String> {
    integer(text, 0, i64::MAX as u64)
}

/// Kinds, for `--help`.
pub(super) fn after_help() -> String {
    let kinds = table::named_in_help(KINDS.iter().map(|(name, what)| (*name, what.to_string())));
    format!(
        "Kinds:\n{kinds}\nExamples:\n  popgrad ood runs/chain\n  popgrad ood runs/chain --kinds cyclic --json\n\nSee docs/src/reference/ood.md."
    )
}

#[derive(Serialize)]
struct Run {
    run: String,
    graph: String,
    #[serde(rename = "S")]
    symbols: usize,
    #[serde(rename = "T")]
    len: usize,
    alpha: f64,
    step: u64,
    kinds: Vec<Outcome>,
}

pub(super) fn ood(args: &OodArgs) -> Result<()> {
    let kinds = kinds(&args.kinds)?;
    if args.matrices.saturating_mul(args.sequences) > MAX_SEQUENCES {
        let found = format!("{} of {} sequences", args.matrices, args.sequences);
        return Err(Error::invalid("matrices", found, "matrices * sequences <= 2^30"));
    }
    let sizes = Sizes { matrices: args.matrices, sequences: args.sequences, seed: args.seed };
    let pool = args.threads.pool()?;
    // Every run is read before anything is written or evaluated.
    let subjects: Vec<Subject> =
        args.runs.iter().map(|folder| Subject::new(trained(folder, None)?)).collect::<Result<_>>()?;
    let _lock = args.out.as_deref().map(claim_out).transpose()?;
    let mut runs = Vec::new();
    for (folder, subject) in args.runs.iter().zip(&subjects) {
        let outcomes =
            pool.install(|| kinds.iter().map(|k| evaluate(subject, k, &sizes)).collect::<Result<_>>())?;
        let run = Run {
            run: folder.display().to_string(),
            graph: graph(subject).into(),
            symbols: subject.task.vocab(),
            len: subject.task.seq_len(),
            alpha: subject.task.alpha(),
            step: subject.run.step,
            kinds: outcomes,
        };
        if !wants_json() {
            tell(&text(&run))?;
        }
        runs.push(run);
    }
    let json = json(&runs)?;
    if wants_json() {
        tell(&json)?;
    }
    if let Some(dir) = &args.out {
        write_bytes_atomic(&dir.join("ood.json"), json.as_bytes())?;
        if runs.len() < 2 {
            say("one run: no figure; it takes runs of several T");
        } else {
            save_figure(dir, "ood", &figure(&runs, &kinds).into()).map_err(|e| e.of_figures(dir))?;
        }
    }
    Ok(())
}

/// The name of a run's graph.
fn graph(subject: &Subject) -> &'static str {
    match &subject.run.config.task {
        Task::CausalTree(task) => task.graph.name(),
        Task::CausalDag(task) => task.graph.name(),
        // None of these is loaded.
        Task::TriggerBigram(_) => "",
    }
}

fn text(run: &Run) -> String {
    let text = format!(
        "{}: {}, S = {}, T = {}, alpha = {}, step {}\n",
        run.run, run.graph, run.symbols, run.len, run.alpha, run.step
    );
    let heads =
        ["kind", "T_eff", "loss", "counts", "entropy", "E|f-pi|", "E sup", "worst query", "counts' E sup"];
    let row = |o: &Outcome| {
        let errors = [o.mean_error, o.sup_error, o.worst_query, o.counts_sup_error];
        let mut row = vec![o.kind.to_string(), format!("{:.2}", o.t_eff)];
        row.extend([o.loss, o.bayes_counts, o.entropy].iter().chain(&errors).map(|x| format!("{x:.4}")));
        row
    };
    let heads: Vec<_> = heads.into_iter().map(|h| (h, if h == "kind" { Left } else { Right })).collect();
    text + &columns(&heads, run.kinds.iter().map(row).collect())
}

/// E sup |f − π̃| against T_eff, a line per kind through the runs.
fn figure(runs: &[Run], kinds: &[&'static str]) -> LineChart {
    let line = |(color, kind): (usize, &&'static str)| {
        let of = runs.iter().flat_map(|r| r.kinds.iter().filter(|o| o.kind == *kind));
        let mut points: Vec<(f64, f64)> =
            of.filter(|o| o.sup_error > 0.0).map(|o| (o.t_eff, o.sup_error)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { dashed: color >= 7, ..Series::new(*kind, points, color).marked() }
    };
    LineChart {
        title: "other transitions (Theorem 2)".into(),
        x_label: "T_eff".into(),
        y_label: "E sup |f - pi|".into(),
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        series: kinds.iter().enumerate().map(line).collect(),
        ..LineChart::default()
    }
}
