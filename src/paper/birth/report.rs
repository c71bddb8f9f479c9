//! What a report shows of runs on trigger bigrams: curves, attention on the sample text, the
//! memories as the scores that their recall is measured on.

use super::attention::sample;
use super::figures::{ACCURACY, Curve, RECALL, SHOWN};
use super::{BIGRAM_LAW, TriggerTasks};
use crate::Result;
use crate::batch::Targets;
use crate::config::Config;
use crate::model::trace::{Kind, Trace};
use crate::paper::{blocks, formulas};
use crate::probe::memory::scores;
use crate::report::html::data::{Formula, Frame, Sketch, Text};
use crate::report::plot::{Colormap, HeatMap, LineChart, RefLine, Series, Ticks};
use crate::run::Results;

/// Heads of a layer that are shown.
const MOST_HEADS: usize = 4;
/// Positions of the memory of positions, as the public code's `wk0_64`.
const POSITIONS: usize = 64;

/// Results that matter most.
const HEADLINE: [(&str, &str); 6] = [
    ("test_loss", "test loss, nats"),
    ("acc_end_test", "accuracy in context, held out"),
    ("loss_bigram_test", "loss of the bigrams, held out"),
    ("wo1_acc", "recall of wo1"),
    ("wk1_acc", "recall of wk1"),
    ("wk0_acc", "recall of wk0"),
];

/// Losses: in the batch, and on held-out sequences.
const LOSSES: [Curve; 4] = [
    ("loss_head", "in context"),
    ("loss_head_test", "in context, held out"),
    ("loss_bigram", "bigrams"),
    ("loss_bigram_test", "bigrams, held out"),
];

fn chart(title: &str, y: &str, curves: &[Curve], results: &Results, unit: bool) -> LineChart {
    // -1 stands for a memory that the model lacks.
    let points = |key: &str| results.curve(key).into_iter().filter(|p| p.1 >= 0.0).collect::<Vec<_>>();
    let series = curves.iter().enumerate().map(|(i, (key, name))| Series::new(*name, points(key), i));
    let series = series.filter(|s| !s.points.is_empty()).collect();
    LineChart::over_steps(title, y, series, unit.then_some((0.0, 1.0)))
}

/// What does not change while a run trains.
pub(super) fn sketch(config: &Config, tasks: &TriggerTasks, results: &Results) -> Result<Sketch> {
    let mut losses = chart("Loss", "nats", &LOSSES, results, false);
    losses.reference_lines.push(RefLine::new("uniform guess", (tasks.train.vocab() as f64).ln()));
    losses
        .reference_lines
        .extend(results.number(BIGRAM_LAW).map(|y| RefLine::new("the bigrams themselves", y)));
    let charts = vec![
        losses,
        chart("Accuracy", "share", &ACCURACY, results, true),
        chart("Recall of the memories", "share", &RECALL, results, true),
    ];
    let mut all = vec![Formula::new(
        "A trigger is followed by its output of this sequence, every other token by the bigrams:",
        r"z_{t+1} = o_k \text{ if } z_t = q_k ,\ \text{else } z_{t+1} ∼ π_b(·|z_t)",
    )];
    all.extend(formulas::of_model(&config.model));
    all.push(formulas::of_loss(Targets::Labels, &config.model));
    let (tokens, seen) = sample(tasks)?;
    let shown = tokens.len().min(SHOWN);
    let caption = format!(
        "The first {shown} tokens of a held-out sequence. Underlined: triggers that have occurred before, whose \
         output the context determines."
    );
    Ok(Sketch {
        headline: results.headline(&HEADLINE),
        formulas: all,
        charts: charts.into_iter().filter(|c| !c.series.is_empty()).collect(),
        positions: tokens.len(),
        graph: None,
        text: Some(Text {
            caption,
            tokens: names(tasks, &tokens[..shown]),
            marked: seen[..shown].iter().map(|c| *c >= 2).collect(),
        }),
    })
}

fn names(tasks: &TriggerTasks, tokens: &[u32]) -> Vec<String> {
    tokens.iter().map(|z| tasks.symbols[*z as usize].clone()).collect()
}

/// What weights show.
pub(super) fn frame(tasks: &TriggerTasks, trace: &Trace, params: &[f64]) -> Result<Frame> {
    let (tokens, _) = sample(tasks)?;
    let (t, shown) = (tokens.len(), tokens.len().min(SHOWN));
    let letters = names(tasks, &tokens[..shown]);
    let (mut maps, mut looks) = (Vec::new(), Vec::new());
    trace.forward(params, &tokens, &mut |at, x| {
        let point = &trace.points()[at];
        if point.kind != Kind::Pattern {
            return;
        }
        for (h, map) in x.chunks_exact(t * t).enumerate().take(MOST_HEADS) {
            let of = if point.shape[0] > 1 { format!(", head {}", h + 1) } else { String::new() };
            let name = format!("layer {}{of}", point.layer.unwrap_or(0) + 1);
            let at = |i: usize, j: usize| if j > i { f64::NAN } else { map[i * t + j] };
            let values: Vec<f64> = (0..shown).flat_map(|i| (0..shown).map(move |j| at(i, j))).collect();
            maps.push(HeatMap {
                title: format!("attention of {name}"),
                range: Some((0.0, 1.0)),
                row_ticks: Ticks::Letters(letters.clone()),
                col_ticks: Ticks::Letters(letters.clone()),
                x_label: "attended to".into(),
                y_label: "from".into(),
                ..HeatMap::of(&values, shown, shown)
            });
            looks.push((name, values));
        }
    })?;
    let layout = trace.model().layout();
    let memories = scores(layout, params, POSITIONS);
    maps.extend(memories.iter().map(|m| {
        let (title, y, x) = match m.name {
            "wk0" => ("W_K of layer 1 (wk0): a position finds the one before", "position", "finds position"),
            "wk1" => ("W_K of layer 2 (wk1): a token finds itself, moved by layer 1", "token", "finds token"),
            _ => ("W_O of layer 2 (wo1): a token is copied to the output", "token", "output"),
        };
        let ticks = if m.of_positions { Ticks::From(0) } else { Ticks::Labels(tasks.symbols.clone()) };
        HeatMap {
            title: title.into(),
            colormap: Colormap::Diverging,
            row_ticks: ticks.clone(),
            col_ticks: ticks,
            x_label: x.into(),
            y_label: y.into(),
            ..HeatMap::of(&m.values, m.size, m.size)
        }
    }));
    if memories.is_empty() {
        maps.extend(blocks(layout, params));
    }
    Ok(Frame { learned: Vec::new(), maps, looks })
}
