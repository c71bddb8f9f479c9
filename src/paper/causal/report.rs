//! What a report shows of runs on a latent graph: curves with the reference predictors, the graph
//! that the first layer attends to, attention on a sample, the matrices in their blocks.

use super::CausalTask;
use super::figures::{Matrices, pattern};
use crate::Result;
use crate::config::Config;
use crate::model::trace::{Kind, Trace};
use crate::paper::formulas;
use crate::probe::attention::{first_layer_patterns, stands_out};
use crate::report::html::data::{Edge, Formula, Frame, Sketch, Text};
use crate::report::plot::{Colormap, Figure, HeatMap, LineChart, RefLine, Series, Ticks};
use crate::run::Results;
use crate::{batch::Batch, batch::Targets};

/// Heads of a layer that are shown.
const MOST_HEADS: usize = 4;
/// Positions of the sample that are shown.
const SHOWN: usize = 64;

/// Results that matter most; each experiment has some of them.
const HEADLINE: [(&str, &str); 6] = [
    ("test_loss", "test loss, nats"),
    ("loss", "loss, nats"),
    ("gap", "above the Bayes loss by counts"),
    ("attention_on_parent_mean", "mean attention on the parent"),
    ("attention_on_parent_min", "least attention on a parent"),
    ("graph_recovered", "graph recovered"),
];

/// Reference losses of a summary, with their names.
const REFERENCES: [(&str, &str); 7] = [
    ("bayes_counts", "Bayes, counts"),
    ("bayes_public", "Bayes, public code"),
    ("bayes_posterior", "Bayes, exact posterior"),
    ("bayes_previous", "previous token only"),
    ("bayes_one_parent", "best single parent"),
    ("bayes", "Bayes"),
    ("uniform_guess", "uniform guess"),
];

/// The loss over updates, with the references that the summary has.
pub(super) fn loss(symbols: usize, results: &Results) -> LineChart {
    let mut levels: Vec<RefLine> =
        REFERENCES.iter().filter_map(|(key, name)| Some(RefLine::new(*name, results.number(key)?))).collect();
    if results.number("uniform_guess").is_none() {
        levels.push(RefLine::new("uniform guess", (symbols as f64).ln()));
    }
    // Equal levels are one line.
    levels.dedup_by(|b, a| (a.y - b.y).abs() < 1e-9);
    let series = vec![
        Series::new("training", results.curve("train_loss"), 0),
        Series::new("test", results.curve("test_loss"), 1),
    ];
    LineChart { reference_lines: levels, ..LineChart::over_steps("Loss", "nats", kept(series), None) }
}

/// The series that have points.
pub(super) fn kept(series: Vec<Series>) -> Vec<Series> {
    series.into_iter().filter(|s| !s.points.is_empty()).collect()
}

/// The equations of the task, the model and the loss.
pub(super) fn formulas(config: &Config, task: &CausalTask) -> Vec<Formula> {
    let rows = match task {
        CausalTask::Tree(_) => r"s_i ∼ π(·|s_{p(i)}) ,\  π(·|s) ∼ \text{Dirichlet}(α, …, α)",
        CausalTask::Dag(_) => r"s_i ∼ π(·|s_{p_1(i)}, …, s_{p_k(i)}) ,\  π(·|·) ∼ \text{Dirichlet}(α, …, α)",
    };
    let mut all =
        vec![Formula::new("Each sequence draws transitions, and each token from its parents:", rows)];
    all.extend(formulas::of_model(&config.model));
    all.push(formulas::of_loss(Targets::Law, &config.model));
    all
}

/// What does not change while a run of `config` trains.
pub(super) fn sketch(
    config: &Config,
    task: &CausalTask,
    sample: &[u32],
    (charts, results): (Vec<LineChart>, &Results),
) -> Sketch {
    let shown = sample.len().min(SHOWN);
    let caption = if shown < sample.len() {
        format!("The first {shown} of {} tokens of a test sequence.", sample.len())
    } else {
        "A test sequence; its last token is the query.".into()
    };
    let tokens = sample[..shown].iter().map(u32::to_string).collect();
    let mut graph = task.parents();
    graph.resize(task.seq_len(), Vec::new());
    if let CausalTask::Dag(task) = task {
        graph = task.dag().sets();
    }
    Sketch {
        headline: results.headline(&HEADLINE),
        formulas: formulas(config, task),
        charts: charts.into_iter().filter(|c| !c.series.is_empty()).collect(),
        positions: task.seq_len(),
        graph: Some(graph),
        text: Some(Text { caption, tokens, marked: Vec::new() }),
    }
}

/// The sequence of most symbols among the first of `sequences`: it says most.
pub(super) fn sample(sequences: &Batch) -> &[u32] {
    let kinds = |at: &usize| {
        let mut all = sequences.sequence(*at).to_vec();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    // The first of equals.
    let best = (0..sequences.seqs().min(64)).rev().max_by_key(kinds).unwrap_or(0);
    sequences.sequence(best)
}

/// What weights show: `sequences` are those that attention is averaged over where it depends on
/// them.
pub(super) fn frame(task: &CausalTask, trace: &Trace, params: &[f64], sequences: &Batch) -> Result<Frame> {
    let sample = sample(sequences);
    let (model, t) = (trace.model(), task.seq_len());
    let patterns = first_layer_patterns(model, params, sequences)?;
    let heads = model.heads();
    let mut maps: Vec<HeatMap> = patterns
        .iter()
        .enumerate()
        .take(MOST_HEADS)
        .map(|(h, p)| pattern("attention of layer 1", heads[0], h, p, t))
        .collect();
    maps.extend(weights(trace, params, (task.vocab(), t))?);
    let shown = sample.len().min(SHOWN);
    let mut looks = Vec::new();
    trace.forward(params, sample, &mut |at, x| {
        let point = &trace.points()[at];
        if point.kind != Kind::Pattern {
            return;
        }
        for (h, map) in x.chunks_exact(t * t).enumerate().take(MOST_HEADS) {
            let rows = map.chunks_exact(t).take(shown).flat_map(|row| row[..shown].iter().copied());
            let layer = point.layer.unwrap_or(0) + 1;
            let of = if point.shape[0] > 1 { format!(", head {}", h + 1) } else { String::new() };
            looks.push((format!("layer {layer}{of}"), rows.collect()));
        }
    })?;
    Ok(Frame { learned: learned(&task.parents(), &patterns, t), maps, looks })
}

/// Edges to earlier positions that stand out in some head's row, and the true ones. Row i of a
/// pattern (t, t) belongs to position i.
pub(super) fn learned(parents: &[Vec<usize>], patterns: &[Vec<f64>], t: usize) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (child, own) in parents.iter().enumerate().skip(1) {
        // What stands out in a row is its largest entry.
        let peak = |p: &Vec<f64>| {
            let row = &p[child * t..child * t + child + 1];
            let at = (0..row.len()).fold(0, |b, j| if row[j] > row[b] { j } else { b });
            (at < child && stands_out(row, at)).then_some(at)
        };
        let found: Vec<usize> = patterns.iter().filter_map(peak).collect();
        let mut all: Vec<usize> = found.iter().chain(own).copied().collect();
        all.sort_unstable();
        all.dedup();
        for parent in all {
            let heads = patterns.iter().map(|p| p[child * t + parent]).enumerate();
            let (head, attention) = heads.fold((0, f64::NEG_INFINITY), |b, x| if x.1 > b.1 { x } else { b });
            let (found, right) = (found.contains(&parent), own.contains(&parent));
            edges.push(Edge { child, parent, attention, head, found, right });
        }
    }
    edges
}

/// The matrices of a model: in blocks where it has the coordinates of tokens and positions.
fn weights(trace: &Trace, params: &[f64], sizes: (usize, usize)) -> Result<Vec<HeatMap>> {
    let (layout, heads) = (trace.model().layout(), trace.model().heads());
    let (s, t) = sizes;
    let block = |name: &str| layout.find(name).map(|b| &params[b.range()]);
    if let (Some(a1), Some(a2)) = (block("A1"), block("A2")) {
        // Entries above the diagonal are never read.
        let read = (0..t * t).map(|i| if i % t <= i / t { a1[i] } else { f64::NAN }).collect::<Vec<_>>();
        let signed = |title: &str, values: &[f64], n, x: &str, y: &str| HeatMap {
            title: title.into(),
            colormap: Colormap::Diverging,
            row_ticks: Ticks::From(0),
            col_ticks: Ticks::From(0),
            x_label: x.into(),
            y_label: y.into(),
            ..HeatMap::of(values, n, n)
        };
        return Ok(vec![
            signed("A1", &read, t, "key position", "query position"),
            signed("A2", a2, s, "token found", "query token"),
        ]);
    }
    let matrices = Matrices::new(layout, params, sizes, heads)?;
    let mut maps = Vec::new();
    for figure in (0..heads.len()).filter_map(|l| matrices.layer(l)) {
        maps.extend(flat(figure).into_iter().take(MOST_HEADS));
    }
    maps.extend(matrices.readout());
    if maps.is_empty() {
        maps = crate::paper::blocks(layout, params);
    }
    Ok(maps)
}

/// The heat maps of a figure.
fn flat(figure: Figure) -> Vec<HeatMap> {
    match figure {
        Figure::Heat(map) => vec![map],
        Figure::Panels(panels) => panels.figures.into_iter().flat_map(flat).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_found_missed_or_wrong() {
        // Rows 1 to 3: on the parent; on another; on nothing.
        let n = f64::NAN;
        let pattern = vec![
            1.0, n, n, n, //
            0.9, 0.1, n, n, //
            0.9, 0.05, 0.05, n, //
            0.25, 0.25, 0.25, 0.25,
        ];
        let parents = [vec![], vec![0], vec![1]];
        let found = learned(&parents, std::slice::from_ref(&pattern), 4);
        let of: Vec<_> = found.iter().map(|e| (e.child, e.parent, e.found, e.right)).collect();
        assert_eq!(of, [(1, 0, true, true), (2, 0, true, false), (2, 1, false, true)]);
        assert_eq!((found[2].attention, found[0].head), (0.05, 0));
        // Another head finds it.
        let mut other = pattern.clone();
        other[8..11].copy_from_slice(&[0.1, 0.8, 0.1]);
        let found = learned(&parents, &[pattern, other], 4);
        let edge = found.iter().find(|e| e.right && e.child == 2).unwrap();
        assert_eq!((edge.head, edge.found, edge.attention), (1, true, 0.8));
    }
}
