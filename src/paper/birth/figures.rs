//! The figures of a run: metrics over steps, and attention on a sample text with its characters on
//! the axes.

use crate::config::task::{LossOn, TriggerKind};
use crate::config::{Config, Task};
use crate::report::arrays::ArrayFile;
use crate::report::metrics::METRICS_FILE;
use crate::report::plot::{Figure, Gallery, HeatMap, LineChart, Panels, Series, Ticks};
use crate::run::folder::{ATTENTION_FILE, FIGURES_FOLDER};
use crate::study::gather::read_records;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// A line of `metrics.jsonl`.
pub(super) type Record = Map<String, Value>;

/// Metrics that summaries and curves of studies hold, in their order.
pub(super) const KEYS: [&str; 24] = [
    "test_loss",
    "loss_bigram_test",
    "loss_head_test",
    "acc_end_test",
    "acc_end_test_uniform",
    "acc_end_test_bigram",
    "loss",
    "loss_bigram",
    "loss_head",
    "acc_tot",
    "acc_start",
    "acc_end",
    "score_acc",
    "score_start_acc",
    "score2_acc",
    "pred_attended_acc",
    "score_cond_acc",
    "repeat_frac",
    "wk0_acc",
    "wk0_64_acc",
    "wk1_acc",
    "wo1_acc",
    "ff1_loss",
    "grad_norm",
];

/// Positions of the sample text that figures show. Captions and docs/src/reference/tasks.md give
/// this number.
pub(super) const SHOWN: usize = 40;

/// All records of a run.
pub(super) fn records(folder: &Path) -> Result<Vec<Record>> {
    read_records(&folder.join(METRICS_FILE))
}

/// A number of a record; `None` for null, and for -1, which stands for a memory that the model
/// lacks.
pub(super) fn number(record: &Record, key: &str) -> Option<f64> {
    record.get(key)?.as_f64().filter(|x| *x >= 0.0)
}

/// A metric with the name that its curve has.
pub(super) type Curve = (&'static str, &'static str);

/// Accuracies of a chart.
pub(super) const ACCURACY: [Curve; 4] = [
    ("acc_end", "in context"),
    ("acc_end_test", "held out"),
    ("acc_start", "first ten positions"),
    ("score2_acc", "layer 2 at the output"),
];
/// Recall of the memories.
pub(super) const RECALL: [Curve; 4] = [
    ("wo1_acc", "W_O of layer 2 (wo1)"),
    ("wk1_acc", "W_K of layer 2 (wk1)"),
    ("wk0_64_acc", "W_K of layer 1, 64 positions (wk0_64)"),
    ("wk0_acc", "W_K of layer 1 (wk0)"),
];
/// Losses.
const LOSSES: [Curve; 2] = [("loss_head", "in context"), ("loss_bigram", "bigrams")];

/// Draws everything from the logs and the sample's attention.
pub(super) fn draw(config: &Config, symbols: &[String], folder: &Path) -> Result<()> {
    let mut gallery = Gallery::new(&folder.join(FIGURES_FOLDER))?;
    let records = records(folder)?;
    let unit = Some((0.0, 1.0));
    let charts = vec![
        chart("Loss", "cross-entropy (nats)", &LOSSES, &records, None),
        chart("Accuracy", "share", &ACCURACY, &records, unit),
        chart("Recall of the memories", "share", &RECALL, &records, unit),
    ];
    let charts: Vec<Figure> = charts.into_iter().flatten().map(Figure::from).collect();
    let charts = if charts.is_empty() { vec![LineChart::default().into()] } else { charts };
    let maps = attention(symbols, folder, "")?;
    gallery.save("curves", &Panels { title: String::new(), columns: 2, figures: charts.clone() }.into());
    let columns = maps.len().clamp(1, 2);
    let maps: Figure = Panels { title: String::new(), columns, figures: maps }.into();
    gallery.save("attention", &maps);
    let title = match &config.task {
        Task::TriggerBigram(keys) => {
            let triggers = match keys.triggers {
                TriggerKind::Fixed => "fixed",
                TriggerKind::Random => "random",
            };
            let loss = match keys.loss {
                LossOn::Head => "head",
                LossOn::All => "all",
            };
            let model = config.model.name();
            format!("{model}: K = {} {triggers} triggers, T = {}, loss on {loss}", keys.K, keys.T)
        }
        other => other.name().into(),
    };
    let charts = Panels { title: String::new(), columns: 2, figures: charts }.into();
    gallery.save("overview", &Panels { title, columns: 1, figures: vec![charts, maps] }.into());
    gallery.finish()
}

/// Curves of one run; `None` if it has none of them.
fn chart(
    title: &str,
    y_label: &str,
    curves: &[Curve],
    records: &[Record],
    y_range: Option<(f64, f64)>,
) -> Option<LineChart> {
    let points = |key: &str| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((number(r, "step")?, number(r, key)?))).collect()
    };
    let series = curves.iter().enumerate().map(|(i, (key, label))| Series::new(*label, points(key), i));
    let series: Vec<Series> = series.filter(|s| !s.points.is_empty()).collect();
    (!series.is_empty()).then(|| LineChart::over_steps(title, y_label, series, y_range))
}

/// Heads of a layer that are shown.
const MOST_HEADS: usize = 4;

/// A map for each layer and head, on the first positions of the sample text. `name` begins the
/// titles.
pub(super) fn attention(symbols: &[String], folder: &Path, name: &str) -> Result<Vec<Figure>> {
    let path = folder.join(ATTENTION_FILE);
    let file = ArrayFile::open(&path)?;
    let arrays = file.read(&file.names().collect::<Vec<_>>())?;
    let bad = || Error::format(&path, "arrays `tokens`, `seen`, `layer1`, .. of one length expected");
    let integers = |key: &str| arrays.get(key).ok_or_else(bad)?.as_integers(key);
    let (tokens, seen) = (integers("tokens")?, integers("seen")?);
    let t = tokens.len();
    let shown = t.min(SHOWN);
    let symbol = |i: usize| usize::try_from(tokens[i]).ok().and_then(|s| symbols.get(s)).cloned();
    let letters: Vec<String> = (0..shown).map(symbol).collect::<Option<_>>().ok_or_else(bad)?;
    // A dot where the trigger has been before: there the second layer has something to find.
    let dotted = |(l, seen): (&String, &i64)| if *seen >= 2 { format!("• {l}") } else { l.clone() };
    let rows: Vec<String> = letters.iter().zip(&seen).map(dotted).collect();
    let mut maps = Vec::new();
    for layer in 1.. {
        let Some(array) = arrays.get(&format!("layer{layer}")) else { break };
        let [heads, r, c] = *array.shape() else { return Err(bad()) };
        if (r, c) != (t, t) || rows.len() != shown {
            return Err(bad());
        }
        let all = array.to_f64_vec();
        for h in 0..heads.min(MOST_HEADS) {
            let which = match heads {
                1 => String::new(),
                2..=MOST_HEADS => format!(", head {}", h + 1),
                _ => format!(", head {} of {heads}", h + 1),
            };
            let lead = if name.is_empty() { String::new() } else { format!("{name}: ") };
            let at = |i: usize, j: usize| if j > i { f64::NAN } else { all[(h * t + i) * t + j] };
            maps.push(
                HeatMap {
                    title: format!("{lead}layer {layer}{which}"),
                    values: (0..shown).flat_map(|i| (0..shown).map(move |j| at(i, j))).collect(),
                    rows: shown,
                    cols: shown,
                    range: Some((0.0, 1.0)),
                    row_ticks: Ticks::Letters(rows.clone()),
                    col_ticks: Ticks::Letters(letters.clone()),
                    x_label: "attended to".into(),
                    y_label: "from".into(),
                    ..HeatMap::default()
                }
                .into(),
            );
        }
    }
    if maps.is_empty() { Err(bad()) } else { Ok(maps) }
}
