//! The figures of a study of causal graphs.

use super::drawing::Kind;
use super::figures::{MOST_HEADS, Matrices};
use super::gather::{Found, Point, by_position, curve};
use super::tables::{Cell, cells};
use crate::Result;
use crate::report::plot::{
    Colormap, Figure, Gallery, HeatMap, LineChart, Panels, RefLine, Scale, Series, Ticks,
};
use crate::run::folder::FIGURES_FOLDER;
use crate::study::gather::{Spread, groups};
use crate::study::{Axis, Study, value_text};
use std::path::Path;

/// Runs that a figure with a row or a panel for each can show.
const MOST_ROWS: usize = 8;
/// The same of runs whose rows are short.
const MOST_ARCHITECTURES: usize = 12;
/// Curves of one run's heads.
const MOST_CURVES: usize = 14;
/// Graphs shown as examples.
const EXAMPLES: usize = 3;

/// Stems and captions of what [`draw`] draws.
pub(super) fn names(kind: Kind) -> &'static [(&'static str, &'static str)] {
    const LOSS: (&str, &str) =
        ("loss", "Training and test loss, with the losses of reference predictors on the same test set.");
    match kind {
        Kind::Matrices => &[
            (
                "matrices",
                "A row for each run: the graph, the first layer's attention by position, A2 and W by blocks.",
            ),
            LOSS,
        ],
        Kind::Patterns => {
            &[("attention", "A row for each run: the graph and the first layer's attention."), LOSS]
        }
        Kind::Heads => &[
            (
                "attention",
                "A row for each run: the graph (parents in order, the last one darkest), and each head.",
            ),
            ("heads", "Attention of each head on each parent, by position."),
            LOSS,
        ],
        Kind::Architectures => &[
            (
                "attention",
                "A row for each run: the graph, and for each layer and parent the head with the most attention on it, averaged over test sequences.",
            ),
            LOSS,
        ],
        Kind::Positions => &[
            (
                "positions",
                "Attention on the parent by position: mean over the runs in which that position has one.",
            ),
            ("examples", "The first runs: graph and attention of the first layer."),
            ("loss", "Test loss and mean attention over steps: mean and spread over runs."),
        ],
        Kind::Seeds => &[
            ("curves", "Test loss and mean attention over steps: mean and spread over seeds."),
            ("positions", "Attention on the parent at the end, by position."),
        ],
        Kind::Grid => &[("phase", "Recovery over the grid.")],
    }
}

/// Draws everything.
pub(super) fn draw(kind: Kind, study: &Study, folder: &Path, found: &[Found<'_>]) -> Result<()> {
    let mut gallery = Gallery::new(&folder.join(FIGURES_FOLDER))?;
    let mut save = |stem: &str, figure: Figure| gallery.save(stem, &figure);
    let shown = &found[..found.len().min(MOST_ROWS)];
    match kind {
        Kind::Matrices => {
            save("loss", losses(shown));
            let rows = shown.iter().map(|f| matrices(f)).collect::<Result<Vec<_>>>()?;
            save("matrices", grid(&study.title, rows))
        }
        Kind::Patterns => {
            save("loss", losses(shown));
            // Two runs to a row where that keeps the columns in line.
            let rows: Vec<Vec<Figure>> = shown.iter().map(patterns).collect();
            let pairs = rows.len() > 2 && rows.len().is_multiple_of(2) && rows.iter().all(|r| r.len() == 2);
            let rows = if pairs { rows.chunks(2).map(<[_]>::concat).collect() } else { rows };
            save("attention", grid(&study.title, rows))
        }
        Kind::Heads => {
            save("loss", losses(shown));
            save("attention", grid(&study.title, shown.iter().map(patterns).collect()));
            save("heads", grid(&study.title, vec![shown.iter().map(heads).collect()]))
        }
        Kind::Architectures => {
            let all = &found[..found.len().min(MOST_ARCHITECTURES)];
            save("loss", losses(all));
            save("attention", grid(&study.title, all.iter().map(architecture).collect::<Result<_>>()?))
        }
        Kind::Positions => {
            save("positions", positions(study, found).into());
            save("loss", curves(study, found));
            let rows = shown.iter().take(EXAMPLES).map(patterns).collect();
            save("examples", grid(&study.title, rows))
        }
        Kind::Seeds => {
            save("curves", curves(study, found));
            save("positions", positions(study, found).into())
        }
        Kind::Grid if without_phase(study).is_some() => {}
        Kind::Grid => save("phase", phase(study, &cells(study, found))),
    }
    gallery.finish()
}

/// Rows of figures as one; shorter rows end early.
fn grid(title: &str, rows: Vec<Vec<Figure>>) -> Figure {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
    if rows.iter().all(|r| r.len() == columns) {
        return Panels { title: title.into(), columns, figures: rows.into_iter().flatten().collect() }.into();
    }
    let row = |figures: Vec<Figure>| Panels { title: String::new(), columns, figures }.into();
    Panels { title: title.into(), columns: 1, figures: rows.into_iter().map(row).collect() }.into()
}

/// What a run is called in figures.
fn name<'a>(f: &'a Found<'_>) -> &'a str {
    if f.member.group.is_empty() { &f.member.name } else { &f.member.group }
}

/// A panel for each run: training and test loss, and its references.
fn losses(found: &[Found<'_>]) -> Figure {
    let chart = |f: &Found<'_>| -> Figure {
        let references = [
            ("bayes_previous", "Bayes, previous token only"),
            ("bayes_one_parent", "Bayes, best single parent"),
            ("bayes_counts", "Bayes, counts"),
            ("bayes_public", "Bayes, public code"),
            ("bayes_posterior", "Bayes, exact posterior"),
        ];
        let lines = references.iter().filter_map(|(k, label)| Some(RefLine::new(*label, f.number(k)?)));
        let uniform = RefLine::new("uniform guess", (f.symbols as f64).ln());
        let train = f.points.iter().filter_map(|p| Some((p.step as f64, p.train_loss?))).collect();
        let test = f.points.iter().map(|p| (p.step as f64, p.test_loss)).collect();
        LineChart {
            title: name(f).into(),
            x_label: "step".into(),
            x_scale: Scale::Log,
            y_label: "cross-entropy (nats)".into(),
            series: vec![Series::new("training", train, 5), Series::new("test", test, 0)],
            reference_lines: std::iter::once(uniform).chain(lines).collect(),
            size: (400.0, 260.0),
            ..LineChart::default()
        }
        .into()
    };
    Panels { title: String::new(), columns: 2, figures: found.iter().map(chart).collect() }.into()
}

fn square(title: String, matrix: HeatMap, (x_label, y_label): (&str, &str)) -> Figure {
    HeatMap {
        title,
        range: Some((0.0, 1.0)),
        row_ticks: Ticks::From(0),
        col_ticks: Ticks::From(0),
        x_label: x_label.into(),
        y_label: y_label.into(),
        ..matrix
    }
    .into()
}

/// 1 at parents; with several, the last in order is 1 and the ones before it less.
fn graph(f: &Found<'_>) -> Figure {
    let t = f.seq_len();
    let edges = f.graph.iter().enumerate().flat_map(|(i, parents)| {
        parents.iter().enumerate().map(move |(k, p)| (i, *p, (k + 1) as f64 / parents.len() as f64))
    });
    let title = format!("{}: true graph", name(f));
    let edges = HeatMap { colormap: Colormap::Binary, ..HeatMap::sparse(t, t, edges) };
    square(title, edges, ("parent position", "position"))
}

/// Graph and first-layer pattern of each head.
fn patterns(f: &Found<'_>) -> Vec<Figure> {
    let t = f.seq_len();
    let mut row = vec![graph(f)];
    for (h, values) in f.patterns.iter().enumerate().take(MOST_HEADS) {
        let which = match f.patterns.len() {
            1 => String::new(),
            2..=MOST_HEADS => format!(", head {}", h + 1),
            heads => format!(", head {} of {heads}", h + 1),
        };
        let title = format!("{}: layer 1 attention{which}", name(f));
        row.push(square(title, HeatMap::of(values, t, t), ("key position", "query position")));
    }
    row
}

/// Graph, and the best head of each layer.
fn architecture(f: &Found<'_>) -> Result<Vec<Figure>> {
    let (t, layers) = (f.seq_len(), f.layers()?);
    let mut row = vec![graph(f)];
    let several = f.parents.iter().any(|set| set.len() > 1);
    for b in f.best_heads(&layers) {
        let of = if several { format!("parent {}", b.parent + 1) } else { "the parent".into() };
        let heads = layers[b.layer].len();
        let title =
            format!("layer {}, head {} of {heads}: {:.2} on {of}", b.layer + 1, b.head + 1, b.attention);
        row.push(square(
            title,
            HeatMap::of(&layers[b.layer][b.head], t, t),
            ("key position", "query position"),
        ));
    }
    Ok(row)
}

/// Graph, first-layer patterns, A2 and W.
fn matrices(f: &Found<'_>) -> Result<Vec<Figure>> {
    let (layout, params, heads) = f.params()?;
    let matrices = Matrices::new(&layout, &params, (f.symbols, f.seq_len()), &heads)?;
    let mut row = patterns(f);
    row.extend((1..heads.len()).filter_map(|l| matrices.layer(l)));
    row.extend(matrices.readout().map(Figure::from));
    Ok(row)
}

/// Attention of every head on every parent, by position.
fn heads(f: &Found<'_>) -> Figure {
    let t = f.seq_len();
    let most = f.parents.iter().map(Vec::len).max().unwrap_or(0);
    let on = |a: &[f64], k: usize| -> f64 {
        f.parents.iter().enumerate().filter_map(|(i, p)| Some(a[i * t + p.get(k)?])).sum()
    };
    // As many as can be told apart: all, or for each parent the head that attends to it most.
    let all = f.patterns.len() * most <= MOST_CURVES;
    let best = |k: usize| {
        let heads = 0..f.patterns.len();
        heads.max_by(|g, h| on(&f.patterns[*g], k).total_cmp(&on(&f.patterns[*h], k)))
    };
    let mut series = Vec::new();
    for (h, a) in f.patterns.iter().enumerate() {
        for k in (0..most).filter(|k| all || best(*k) == Some(h)) {
            let at = |(i, p): (usize, &Vec<usize>)| Some((i as f64, a[i * t + *p.get(k)?]));
            let points = f.parents.iter().enumerate().filter_map(at).collect();
            let label = format!("head {} on parent {}", h + 1, k + 1);
            series.push(Series { dashed: k % 2 == 1, ..Series::new(label, points, h).marked() });
        }
    }
    LineChart {
        title: format!(
            "{}: {} attends to which parent",
            name(f),
            if all { "which head" } else { "which head most" }
        ),
        x_label: "position".into(),
        y_label: "attention".into(),
        series,
        y_range: Some((0.0, 1.0)),
        ..LineChart::default()
    }
    .into()
}

/// What a mean with a band is called.
fn of_runs(group: &str, runs: usize) -> String {
    let spread = if runs > 1 { format!("mean ± 1 sd of {runs} runs") } else { "one run".into() };
    if group.is_empty() { spread } else { format!("{group}, {spread}") }
}

/// Mean by position with a band of one standard deviation, a curve for each group.
fn positions(study: &Study, found: &[Found<'_>]) -> LineChart {
    let mut series = Vec::new();
    for (color, (group, runs)) in groups(found).into_iter().enumerate() {
        let by = by_position(&runs);
        let band = |(i, s): &(usize, Spread)| Some((*i as f64, s.mean - s.sd?, s.mean + s.sd?));
        let mean = by.iter().map(|(i, s)| (*i as f64, s.mean)).collect();
        series.push(Series {
            band: by.iter().filter_map(band).collect(),
            ..Series::new(of_runs(group, runs.len()), mean, color).marked()
        });
    }
    LineChart {
        title: format!("{}: attention on the parent", study.title),
        x_label: "position".into(),
        y_label: "attention on the parent".into(),
        series,
        y_range: Some((0.0, 1.0)),
        ..LineChart::default()
    }
}

/// Test loss and attention over steps: mean and one standard deviation, a curve for each group.
fn curves(study: &Study, found: &[Found<'_>]) -> Figure {
    type Pick = fn(&Point) -> Option<f64>;
    let chart = |title: &str, y_label: &str, pick: Pick, y_range: Option<(f64, f64)>| -> Figure {
        let mut series = Vec::new();
        for (color, (group, runs)) in groups(found).into_iter().enumerate() {
            let curve = curve(&runs, pick);
            series.push(Series {
                band: curve
                    .iter()
                    .filter_map(|(x, s)| Some((*x as f64, s.mean - s.sd?, s.mean + s.sd?)))
                    .collect(),
                ..Series::new(
                    of_runs(group, runs.len()),
                    curve.iter().map(|(x, s)| (*x as f64, s.mean)).collect(),
                    color,
                )
            });
        }
        LineChart::over_steps(title, y_label, series, y_range).into()
    };
    let figures = vec![
        chart("test loss", "cross-entropy (nats)", |p| Some(p.test_loss), None),
        chart(
            "attention on the parent",
            "attention on the parent",
            |p| p.attention_on_parent_mean,
            Some((0.0, 1.0)),
        ),
    ];
    Panels { title: study.title.clone(), columns: 2, figures }.into()
}

/// Rows of small maps that a figure of a grid may have, one for each choice of all but two keys.
const MOST_CHOICES: usize = 16;

/// Why a grid has no figure, where it has none.
pub(super) fn without_phase(study: &Study) -> Option<String> {
    let rows: usize = study.axes.iter().rev().skip(2).map(|a| a.values.len()).product();
    (rows > MOST_CHOICES).then(|| {
        format!("none: {rows} choices of all keys but the last two; at most {MOST_CHOICES} are drawn, see grid.csv")
    })
}

/// Recovery rate, attention and gap over the grid: maps over two keys, curves over one; of more
/// keys a row of maps over the last two for each choice of the others.
fn phase(study: &Study, cells: &[Cell]) -> Figure {
    if study.axes.len() <= 2 {
        return maps(&study.title, &study.axes, cells, None);
    }
    let (outer, inner) = study.axes.split_at(study.axes.len() - 2);
    let gaps = cells.iter().filter_map(|c| c.gap.map(|s| s.mean)).filter(|g| g.is_finite());
    let ends = gaps.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), g| (a.min(g), b.max(g)));
    // One scale for all maps of a quantity.
    let range = Some(ends).filter(|(a, b)| a < b);
    let size: usize = inner.iter().map(|a| a.values.len()).product();
    let row = |(n, of): (usize, &[Cell])| {
        let mut rest = n;
        let mut at: Vec<String> = Vec::new();
        for axis in outer.iter().rev() {
            at.insert(0, format!("{}={}", axis.key, value_text(&axis.values[rest % axis.values.len()])));
            rest /= axis.values.len();
        }
        maps(&at.join(", "), inner, of, range)
    };
    let figures = cells.chunks(size).enumerate().map(row).collect();
    Panels { title: study.title.clone(), columns: 1, figures }.into()
}

/// The three quantities over one or two axes; `gaps` is the range of the last.
fn maps(title: &str, axes: &[Axis], cells: &[Cell], gaps: Option<(f64, f64)>) -> Figure {
    type Quantity = (&'static str, fn(&Cell) -> f64, Option<(f64, f64)>);
    let quantities: [Quantity; 3] = [
        ("share of runs that recover the graph", |c| c.rate(), Some((0.0, 1.0))),
        ("mean attention on the parent", |c| c.attention.map_or(f64::NAN, |s| s.mean), Some((0.0, 1.0))),
        ("test loss minus Bayes, counts (nats)", |c| c.gap.map_or(f64::NAN, |s| s.mean), gaps),
    ];
    let labels = |axis: usize| -> Vec<String> { axes[axis].values.iter().map(value_text).collect() };
    let figures = quantities.iter().map(|(title, pick, range)| -> Figure {
        if let [rows, cols] = axes {
            return HeatMap {
                title: (*title).into(),
                values: cells.iter().map(pick).collect(),
                rows: rows.values.len(),
                cols: cols.values.len(),
                range: *range,
                row_ticks: Ticks::Labels(labels(0)),
                col_ticks: Ticks::Labels(labels(1)),
                x_label: cols.key.clone(),
                y_label: rows.key.clone(),
                ..HeatMap::default()
            }
            .into();
        }
        // Values that are not numbers are placed by their index in the list.
        let axis = &axes[0];
        let number = |v: &toml::Value| v.as_float().or_else(|| v.as_integer().map(|i| i as f64));
        let xs: Vec<f64> =
            axis.values.iter().enumerate().map(|(i, v)| number(v).unwrap_or((i + 1) as f64)).collect();
        LineChart {
            title: (*title).into(),
            x_label: axis.key.clone(),
            y_label: (*title).into(),
            series: vec![Series::new("", xs.into_iter().zip(cells.iter().map(pick)).collect(), 0).marked()],
            y_range: *range,
            size: (360.0, 240.0),
            ..LineChart::default()
        }
        .into()
    });
    Panels { title: title.into(), columns: 3, figures: figures.collect() }.into()
}
