//! Studies on trigger bigrams: what their runs left, in tables (`runs.csv`, `curves.csv`,
//! `summary.json`, without seconds and paths) and figures.

use super::BIGRAM_LAW;
use super::figures::{self, ACCURACY, Curve, KEYS, RECALL as RECALL_CURVES, Record, number};
use crate::Result;
use crate::config::{Config, Task};
use crate::model::Spec;
use crate::report::files::write_bytes_atomic;
use crate::report::metrics::{SUMMARY_FILE, Summary};
use crate::report::plot::{Figure, Gallery, LineChart, Panels, Series};
use crate::run::Outcome;
use crate::run::folder::{self, FIGURES_FOLDER};
use crate::study::gather::{OfMember, Spread, groups, read_json, spread};
use crate::study::tables::{Numbers, of, quoted, runs};
use crate::study::{Drawing, Member, ShortTable, Study};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What is drawn from the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Attention of both layers on a sample text.
    Maps,
    /// Accuracy and recall of the memories over steps, mean and spread over the runs of a group.
    Recall,
    /// Loss of the bigrams and in context, accuracy under both output laws, recall.
    Losses,
    /// Accuracy in context over steps, mean and spread over the runs of a group.
    Depth,
    /// As `Recall`, and the KL of the bigrams beside the accuracy in context.
    Order,
}

#[derive(Debug)]
pub(super) struct OfTriggers(Kind);

pub(super) const MAPS: OfTriggers = OfTriggers(Kind::Maps);
pub(super) const RECALL: OfTriggers = OfTriggers(Kind::Recall);
pub(super) const LOSSES: OfTriggers = OfTriggers(Kind::Losses);
pub(super) const DEPTH: OfTriggers = OfTriggers(Kind::Depth);
pub(super) const ORDER: OfTriggers = OfTriggers(Kind::Order);

impl Drawing for OfTriggers {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Maps => "birth_maps",
            Kind::Recall => "birth_recall",
            Kind::Losses => "birth_losses",
            Kind::Depth => "birth_depth",
            Kind::Order => "birth_order",
        }
    }

    fn takes(&self, config: &Config) -> bool {
        matches!(config.task, Task::TriggerBigram(_))
    }

    fn write(&self, study: &Study, folder: &Path) -> Result<Outcome> {
        write(self.0, study, folder)
    }

    fn key_numbers(&self, study: &Study, folder: &Path) -> Result<ShortTable> {
        key_numbers(self.0, study, folder)
    }

    fn figures(&self, _study: &Study) -> &'static [(&'static str, &'static str)] {
        names(self.0)
    }

    fn shows_key_numbers(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        self.0 != Kind::Maps
    }
}

/// A finished run.
struct Found<'a> {
    member: &'a Member,
    folder: PathBuf,
    summary: Map<String, Value>,
    records: Vec<Record>,
}

/// The symbols in `run.json`.
#[derive(Deserialize)]
struct Symbols {
    symbols: Vec<String>,
}

fn read<'a>(study: &'a Study, folder: &Path) -> Result<Vec<Found<'a>>> {
    let one = |member: &'a Member| {
        let folder = study.folder_of(folder, member);
        folder::check_results(&folder)?;
        let (summary, records) = (read_json(&folder.join(SUMMARY_FILE))?, figures::records(&folder)?);
        Ok(Found { member, folder, summary, records })
    };
    study.runs.iter().map(one).collect()
}

impl OfMember for Found<'_> {
    fn member(&self) -> &Member {
        self.member
    }
}

/// What a group's runs have at each step at which all of them have it.
fn curve(runs: &[&Found<'_>], key: &str) -> Vec<(u64, Spread)> {
    let Some(first) = runs.first() else { return Vec::new() };
    let at = |i: usize| {
        let step = first.records[i].get("step")?.as_u64()?;
        let value = |f: &&Found<'_>| {
            let same = |r: &&Record| r.get("step").and_then(Value::as_u64) == Some(step);
            // Nearly always the same place.
            let here = f.records.get(i).filter(same).or_else(|| f.records.iter().find(same))?;
            number(here, key)
        };
        let values: Option<Vec<f64>> = runs.iter().map(value).collect();
        Some((step, spread(values?)?))
    };
    (0..first.records.len()).filter_map(at).collect()
}

/// Metrics whose summary holds the step at which they are reached: the first evaluation at which
/// they are at least .9, or at which a loss has fallen by half of its total decrease; and that of
/// [`BIGRAMS`].
const TIMED: [&str; 9] = [
    "acc_end",
    "acc_end_test",
    "wo1_acc",
    "wk1_acc",
    "wk0_64_acc",
    "wk0_acc",
    "loss_head",
    "loss_bigram",
    BIGRAMS,
];
const REACHED: f64 = 0.9;
/// KL of the bigrams from the model on the test set, where no trigger is; learned below .1 nats.
const BIGRAMS: &str = "bigrams";
const LEARNED: f64 = 0.1;

/// What is reached at the step that [`step_reached`] gives.
fn level(key: &str) -> &'static str {
    match key {
        BIGRAMS => "within .1 nats",
        _ if key.starts_with("loss") => "half-way",
        _ => ".9",
    }
}

/// True if held-out accuracy counts first occurrences, which nothing in the context determines:
/// that of the full model.
fn counts_first(found: &[Found<'_>]) -> bool {
    found.iter().any(|f| matches!(f.member.config.model, Spec::Transformer(_)))
}

fn step_reached(f: &Found<'_>, key: &str) -> Option<f64> {
    if key == BIGRAMS {
        let law = f.summary.get(BIGRAM_LAW)?.as_f64()?;
        let near = |r: &&Record| number(r, "loss_bigram_test").is_some_and(|x| x - law < LEARNED);
        return number(f.records.iter().find(near)?, "step");
    }
    let points: Vec<(f64, f64)> =
        f.records.iter().filter_map(|r| Some((number(r, "step")?, number(r, key)?))).collect();
    let (first, last) = (points.first()?.1, points.last()?.1);
    let falls = key.starts_with("loss");
    let there = |x: f64| if falls { x <= 0.5 * (first + last) } else { x >= REACHED };
    // A loss that is not trained may rise.
    points.iter().find(|p| there(p.1) && !(falls && last >= first)).map(|p| p.0)
}

/// Writes everything; returns the summary, and whether the figures were drawn.
///
/// # Errors
/// Runs that are not over, damaged files, files that cannot be written.
fn write(kind: Kind, study: &Study, folder: &Path) -> Result<Outcome> {
    let found = read(study, folder)?;
    let put = |name: &str, text: String| write_bytes_atomic(&folder.join(name), text.as_bytes());
    put("runs.csv", runs(found.iter().map(|f| (f.member, &f.summary))))?;
    let mut curves = String::from("group,step,key,runs,mean,sd,min,max\n");
    let mut summary = Summary::new();
    summary.set("study", &study.name)?;
    summary.set("runs", found.len())?;
    for (group, of_group) in groups(&found) {
        for key in KEYS {
            for (step, s) in curve(&of_group, key) {
                curves += &format!("{},{step},{key},{},{}\n", quoted(group), s.n, of(Some(s)));
            }
            let last = of_group.iter().filter_map(|f| f.summary.get(key)?.as_f64());
            if let Some(s) = spread(last.filter(|x| *x >= 0.0)) {
                summary.set(&format!("{group}: {key}"), Numbers::from(s))?;
            }
        }
        let first = counts_first(&found);
        for key in TIMED.into_iter().filter(|k| *k != "acc_end_test" || !first) {
            if let Some(s) = spread(of_group.iter().filter_map(|f| step_reached(f, key))) {
                summary.set(&format!("{group}: step of {key} {}", level(key)), Numbers::from(s))?;
            }
        }
    }
    put("curves.csv", curves)?;
    summary.write(folder)?;
    let figures = draw(kind, study, folder, &found).map_err(|e| e.of_figures(folder));
    Ok(Outcome { summary, figures })
}

/// Groups of `birth-fig4` that differ in one thing: the number of triggers, how frequent they are,
/// whether they are drawn anew for each sequence.
const SLOWER: [(&str, [&str; 2]); 6] = [
    ("fewer fixed triggers", ["K=5, fixed", "K=1, fixed"]),
    ("fewer rare triggers", ["K=5, rare", "K=1, rare"]),
    ("rare ones for frequent ones, K=5", ["K=5, fixed", "K=5, rare"]),
    ("rare ones for frequent ones, K=1", ["K=1, fixed", "K=1, rare"]),
    ("random ones for fixed ones, K=5", ["K=5, fixed", "K=5, random"]),
    ("random ones for fixed ones, K=1", ["K=1, fixed", "K=1, random"]),
];

/// Columns and rows of a short table: a row for each group.
///
/// # Errors
/// As [`write`].
fn key_numbers(kind: Kind, study: &Study, folder: &Path) -> Result<ShortTable> {
    const COLUMNS: [Curve; 9] = [
        ("acc_end", "accuracy in context"),
        ("acc_end_test", "held out"),
        ("acc_end_test_uniform", "held out, uniform outputs"),
        ("acc_end_test_bigram", "held out, bigram outputs"),
        ("loss_head_test", "loss in context"),
        ("loss_bigram_test", "loss of the bigrams"),
        ("wo1_acc", "wo1"),
        ("wk1_acc", "wk1"),
        ("wk0_64_acc", "wk0_64"),
    ];
    let found = read(study, folder)?;
    let value = |f: &Found<'_>, key: &str| f.summary.get(key)?.as_f64().filter(|x| *x >= 0.0);
    let shown: Vec<Curve> =
        COLUMNS.into_iter().filter(|(k, _)| found.iter().any(|f| value(f, k).is_some())).collect();
    let mut columns = vec!["group", "runs"];
    columns.extend(shown.iter().map(|c| c.1));
    let full = counts_first(&found);
    let times: Vec<Curve> = [
        ("loss_bigram", "step of half-way, bigrams"),
        ("loss_head", "step of half-way, context"),
        (BIGRAMS, "step of the bigrams within .1 nats"),
        ("acc_end", "step of .9 in context"),
        ("acc_end_test", "step of .9 held out"),
    ]
    .into_iter()
    .filter(|(k, _)| *k == "acc_end" || found.iter().any(|f| step_reached(f, k).is_some()))
    .filter(|(k, _)| *k != "acc_end_test" || !full)
    .filter(|(k, _)| !k.starts_with("loss") || kind == Kind::Losses)
    .collect();
    columns.extend(times.iter().map(|t| t.1));
    let short = |s: Option<Spread>, digits: usize| match s {
        Some(Spread { mean, sd: Some(sd), .. }) => format!("{mean:.digits$} ± {sd:.digits$}"),
        Some(s) => format!("{:.digits$}", s.mean),
        None => "-".into(),
    };
    let row = |(group, runs): (&str, Vec<&Found<'_>>)| {
        let mut row = vec![group.to_string(), runs.len().to_string()];
        row.extend(shown.iter().map(|(k, _)| short(spread(runs.iter().filter_map(|f| value(f, k))), 3)));
        for (key, _) in &times {
            let steps = spread(runs.iter().filter_map(|f| step_reached(f, key)));
            let some = steps.filter(|s| s.n < runs.len()).map(|s| format!(" ({} of {})", s.n, runs.len()));
            row.push(short(steps, 0) + &some.unwrap_or_default());
        }
        row
    };
    Ok((columns, groups(&found).into_iter().map(row).collect()))
}

/// Stems and captions of what [`write`] draws.
fn names(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Maps => &[
            (
                "attention",
                "Attention on the first 40 positions of a sample text and up to 4 heads of each layer, a row for each run: characters on both \
                 axes, ␣ a space, ↵ a line end; a dot marks triggers that have occurred before.",
            ),
            ("accuracy", "Accuracy and recall of the memories over steps."),
        ],
        Kind::Recall => &[
            (
                "accuracy",
                "Accuracy over steps on outputs that the context determines: mean, and one standard deviation where a group has several runs.",
            ),
            (
                "recall",
                "Recall of each memory over steps, a panel for each group: mean, and one standard deviation where a group has several runs.",
            ),
        ],
        Kind::Losses => &[
            (
                "losses",
                "Loss where the weights determine what follows, and where the context does: mean, and one standard deviation where a group has several runs.",
            ),
            ("laws", "Accuracy in context on held-out sequences, by the law of their outputs."),
            (
                "recall",
                "Recall of W_O of layer 2, and KL of the bigrams from what the feed-forward of layer 2 alone predicts.",
            ),
            (
                "slower",
                "What slows learning in context, two groups at a time: fewer triggers, rare ones, random ones. Accuracy in context on held-out \
                 sequences: mean, and one standard deviation where a group has several runs.",
            ),
        ],
        Kind::Order => &[
            (
                "accuracy",
                "Accuracy over steps on outputs that the context determines: mean, and one standard deviation where a group has several runs.",
            ),
            (
                "recall",
                "Recall of each memory over steps, a panel for each group: mean, and one standard deviation where a group has several runs.",
            ),
            (
                "order",
                "The bigrams in the feed-forward (KL of the bigrams from what the feed-forward of layer 2 alone predicts) beside the accuracy in \
                 context.",
            ),
        ],
        Kind::Depth => &[
            (
                "accuracy",
                "Accuracy over steps on outputs that the context determines: mean, and one standard deviation where a group has several runs.",
            ),
            ("losses", "Loss where the weights determine what follows, and where the context does."),
        ],
    }
}

fn draw(kind: Kind, study: &Study, folder: &Path, found: &[Found<'_>]) -> Result<()> {
    let mut gallery = Gallery::new(&folder.join(FIGURES_FOLDER))?;
    let mut save = |stem: &str, columns: usize, mut figures: Vec<Figure>| {
        if figures.is_empty() {
            // The page refers to this figure in any case.
            figures.push(panel(
                "nothing to show: no run has these numbers",
                "",
                Vec::new(),
                Some((0.0, 1.0)),
            ));
        }
        gallery.save(stem, &Panels { title: study.title.clone(), columns, figures }.into());
    };
    let groups = groups(found);
    let (share, unit) = ("share correct, mean ± 1 sd", Some((0.0, 1.0)));
    let by_group = |title: &str, key: &str, y_label: &str, range| -> Option<Figure> {
        let series = groups.iter().enumerate().map(|(i, (g, runs))| line(g, &curve(runs, key), i));
        chart(title, y_label, series.collect(), range)
    };
    let of_group = |(name, runs): &(&str, Vec<&Found<'_>>), keys: &[Curve]| -> Option<Figure> {
        let series = keys.iter().enumerate().map(|(i, (key, label))| line(label, &curve(runs, key), i));
        chart(name, share, series.collect(), unit)
    };
    let held_out = if counts_first(found) {
        "accuracy at triggers, first occurrences too, held out"
    } else {
        "accuracy in context, held out"
    };
    let nats = "nats, mean ± 1 sd";
    let some = |figures: Vec<Option<Figure>>| figures.into_iter().flatten().collect::<Vec<_>>();
    match kind {
        Kind::Maps => {
            let mut maps = Vec::new();
            for f in found {
                let symbols: Symbols = read_json(&f.folder.join(folder::RUN_FILE))?;
                maps.extend(figures::attention(&symbols.symbols, &f.folder, &f.member.name)?);
            }
            let columns = (maps.len() / found.len().max(1)).max(1);
            save("attention", columns, maps);
            let both = groups.iter().flat_map(|g| [of_group(g, &ACCURACY), of_group(g, &RECALL_CURVES)]);
            save("accuracy", 2, some(both.collect()))
        }
        Kind::Recall => {
            let accuracy = vec![
                by_group("accuracy in context, training batch", "acc_end", share, unit),
                by_group(held_out, "acc_end_test", share, unit),
            ];
            save("accuracy", 2, some(accuracy));
            save("recall", 2, some(groups.iter().map(|g| of_group(g, &RECALL_CURVES)).collect()))
        }
        Kind::Losses => {
            let losses = vec![
                by_group("bigrams: loss where no trigger is, held out", "loss_bigram_test", nats, None),
                by_group("in context: loss at triggers seen before, held out", "loss_head_test", nats, None),
            ];
            save("losses", 2, some(losses));
            let laws = vec![
                by_group("uniform outputs, held out", "acc_end_test_uniform", share, unit),
                by_group("bigram outputs, held out", "acc_end_test_bigram", share, unit),
                by_group("accuracy in context, training batch", "acc_end", share, unit),
            ];
            save("laws", 2, some(laws));
            let recall = vec![
                by_group("W_O of layer 2 (wo1)", "wo1_acc", share, unit),
                by_group("feed-forward of layer 2 (ff1)", "ff1_loss", nats, None),
            ];
            save("recall", 2, some(recall));
            let pairs = SLOWER.iter().filter_map(|(title, names)| {
                let pair: Vec<_> = groups.iter().filter(|(g, _)| names.contains(g)).collect();
                let series = pair.iter().enumerate();
                let series = series.map(|(i, (g, runs))| line(g, &curve(runs, "acc_end_test"), i));
                (pair.len() == 2)
                    .then(|| chart(title, "accuracy, one standard deviation", series.collect(), unit))?
            });
            save("slower", 2, pairs.collect())
        }
        Kind::Order => {
            let accuracy = vec![
                by_group("accuracy in context, training batch", "acc_end", share, unit),
                by_group(held_out, "acc_end_test", share, unit),
            ];
            save("accuracy", 2, some(accuracy));
            save("recall", 2, some(groups.iter().map(|g| of_group(g, &RECALL_CURVES)).collect()));
            let order = vec![
                by_group("bigrams: KL from the feed-forward of layer 2", "ff1_loss", nats, None),
                by_group("accuracy in context, training batch", "acc_end", share, unit),
            ];
            save("order", 2, some(order))
        }
        Kind::Depth => {
            let accuracy = vec![
                by_group("accuracy in context, training batch", "acc_end", share, unit),
                by_group(held_out, "acc_end_test", share, unit),
            ];
            save("accuracy", 2, some(accuracy));
            let losses = vec![
                by_group("bigrams: loss where no trigger is, held out", "loss_bigram_test", nats, None),
                by_group("in context: loss at triggers seen before, held out", "loss_head_test", nats, None),
            ];
            save("losses", 2, some(losses))
        }
    }
    gallery.finish()
}

fn line(label: &str, curve: &[(u64, Spread)], color: usize) -> Series {
    let band = |(x, s): &(u64, Spread)| Some((*x as f64, s.mean - s.sd?, s.mean + s.sd?));
    Series {
        band: curve.iter().filter_map(band).collect(),
        ..Series::new(label, curve.iter().map(|(x, s)| (*x as f64, s.mean)).collect(), color)
    }
}

/// None without a point.
fn chart(title: &str, y_label: &str, series: Vec<Series>, y_range: Option<(f64, f64)>) -> Option<Figure> {
    let series: Vec<Series> = series.into_iter().filter(|s| !s.points.is_empty()).collect();
    (!series.is_empty()).then(|| panel(title, y_label, series, y_range))
}

fn panel(title: &str, y_label: &str, series: Vec<Series>, y_range: Option<(f64, f64)>) -> Figure {
    LineChart::over_steps(title, y_label, series, y_range).into()
}
