//! The figures of a causal-graph run, in the paper's block layout.

use super::task::title_of;
use super::{CausalTask, MetricRecord, Probe, References};
use crate::Result;
use crate::config::Config;
use crate::model::Layout;
use crate::model::mlp_transformer::one_hot_coordinates;
use crate::probe::attention::HeadAssignment;
use crate::report::metrics::METRICS_FILE;
use crate::report::plot::{
    Block, Colormap, Figure, Gallery, HeatMap, LineChart, Panels, RefLine, Scale, Series, Ticks,
};
use crate::run::folder::FIGURES_FOLDER;
use crate::study::gather::read_records;
use crate::task::{CausalTree, Task};
use std::borrow::Cow;
use std::path::Path;

/// The data for the figures of a run, besides its logs.
pub(super) struct Drawn<'a> {
    pub(super) config: &'a Config,
    pub(super) task: &'a CausalTask,
    pub(super) layout: &'a Layout,
    /// Of each layer.
    pub(super) heads: &'a [usize],
    pub(super) params: &'a [f64],
    /// (T, T) of the first layer's heads.
    pub(super) patterns: &'a [Vec<f64>],
    pub(super) probe: &'a Probe,
    pub(super) references: &'a References,
}

impl Drawn<'_> {
    /// Draws everything from the logs and the final parameters.
    pub(super) fn draw(&self, folder: &Path) -> Result<()> {
        let mut gallery = Gallery::new(&folder.join(FIGURES_FOLDER))?;
        let (t, s) = (self.task.seq_len(), self.task.vocab());
        let loss = loss_curve(s, self.references, &read_records::<MetricRecord>(&folder.join(METRICS_FILE))?);
        gallery.save("loss", &loss.clone().into());
        let graph = match self.task {
            CausalTask::Tree(task) => graph(task),
            CausalTask::Dag(task) => graph_of(&task.dag().sets(), task.seq_len()),
        };
        gallery.save("graph", &graph.clone().into());

        let matrices = Matrices::new(self.layout, self.params, (s, t), self.heads)?;
        let title = matrices.pattern_title();
        let one = |(h, values): (usize, &Vec<f64>)| pattern(title, self.heads[0], h, values, t).into();
        let heads: Vec<Figure> = self.patterns.iter().enumerate().take(MOST_HEADS).map(one).collect();
        let mut beside = vec![Figure::from(graph.clone())];
        beside.extend(heads.iter().cloned());
        let columns = beside.len().min(3);
        let title = only(heads.len(), self.heads[0]);
        gallery.save("attention", &Panels { title, columns, figures: beside }.into());

        let assigned = self.probe.assignment(self.patterns).map(|a| by_position(&a));
        if let Some(chart) = &assigned {
            gallery.save("heads", &chart.clone().into());
        }
        let layers: Vec<(usize, Figure)> =
            (0..self.heads.len()).filter_map(|l| Some((l, matrices.layer(l)?))).collect();
        for (l, figure) in &layers {
            gallery.save(&format!("A{}", l + 1), figure);
        }
        let w = matrices.readout();
        if let Some(w) = &w {
            gallery.save("W", &w.clone().into());
        }

        let mut all = vec![loss.into(), graph.into()];
        let few = |layer: usize| self.heads[layer] <= OVERVIEW_HEADS;
        if few(0) {
            all.extend(heads);
        }
        all.extend(assigned.map(Figure::from));
        all.extend(layers.into_iter().filter(|(l, _)| few(*l)).map(|(_, figure)| figure));
        all.extend(w.map(Figure::from));
        let (graph, alpha) = title_of(self.config).unwrap_or(("", f64::NAN));
        let many = (0..self.heads.len()).filter(|l| !few(*l)).map(|l| (l + 1).to_string());
        let without = match many.collect::<Vec<_>>().as_slice() {
            [] => String::new(),
            [one] => format!("; without the {} heads of layer {one}", self.heads.iter().max().unwrap_or(&0)),
            several => format!("; without the heads of layers {}", several.join(", ")),
        };
        let title = format!("{graph} graph, S = {s}, T = {t}, alpha = {alpha}{without}");
        gallery.save("overview", &Panels { title, columns: 3, figures: all }.into());
        gallery.finish()
    }
}

/// Layers of more heads stay out of the overview, and no figure shows more than [`MOST_HEADS`] of a
/// layer.
const OVERVIEW_HEADS: usize = 4;
pub(super) const MOST_HEADS: usize = 9;

/// Heading of panels of the first `shown` of a layer's `heads`; none where they are all.
fn only(shown: usize, heads: usize) -> String {
    if shown < heads { format!("the first {shown} of {heads} heads") } else { String::new() }
}

fn loss_curve(symbols: usize, references: &References, records: &[MetricRecord]) -> LineChart {
    let points = |f: fn(&MetricRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| f(r).map(|y| (r.step as f64, y))).collect()
    };
    let mut lines = vec![RefLine::new("uniform guess", (symbols as f64).ln())];
    lines.extend(references.all.iter().filter_map(|r| Some(RefLine::new(r.label, r.loss?))));
    LineChart {
        title: "Loss".into(),
        x_label: "step".into(),
        x_scale: Scale::Log,
        y_label: "cross-entropy (nats)".into(),
        series: vec![
            Series::new("training", points(|r| r.train_loss), 5),
            Series { marked: records.len() <= 80, ..Series::new("test", points(|r| Some(r.test_loss)), 0) },
        ],
        reference_lines: lines,
        ..LineChart::default()
    }
}

pub(super) fn graph(task: &CausalTree) -> HeatMap {
    // With a row for the query, which has no parent, so that rows line up with those of the
    // attention pattern.
    let query = [Vec::new()];
    let rows: Vec<Vec<usize>> = task.forest().parents().iter().map(|p| p.iter().copied().collect()).collect();
    graph_of(&[&rows[..], &query].concat(), task.seq_len())
}

/// The parents of each row among `t` positions; a row beyond them is the target's.
fn graph_of(rows: &[Vec<usize>], t: usize) -> HeatMap {
    let edges = rows.iter().enumerate().flat_map(|(i, set)| set.iter().map(move |p| (i, *p, 1.0)));
    let y_label = if rows.len() > t { "position (last row: target)" } else { "position" };
    HeatMap {
        title: "True graph".into(),
        colormap: Colormap::Binary,
        row_ticks: Ticks::From(0),
        col_ticks: Ticks::From(0),
        x_label: "parent position".into(),
        y_label: y_label.into(),
        ..HeatMap::sparse(rows.len(), t, edges)
    }
}

/// Attention of each head on each parent, position by position: solid where the parent is the
/// head's own.
fn by_position(a: &HeadAssignment) -> LineChart {
    // As many curves as have colours of their own: all, those of the assigned heads, or one for
    // each parent.
    const CURVES: usize = 7;
    let heads = 0..a.heads;
    let mut pairs: Vec<(usize, usize)> = heads.flat_map(|h| (0..a.slots).map(move |k| (h, k))).collect();
    if pairs.len() > CURVES {
        pairs.retain(|(h, _)| a.head_of.contains(&Some(*h)));
    }
    if pairs.len() > CURVES {
        pairs.retain(|(h, k)| a.head_of[*k] == Some(*h));
    }
    let series = pairs.into_iter().enumerate().map(|(color, (h, k))| {
        let points = a.rows.iter().map(|(i, x)| (*i as f64, x[h * a.slots + k])).collect();
        let own = a.head_of[k] == Some(h);
        let name = format!("head {}, parent {}", h + 1, k + 1);
        Series { dashed: !own, ..Series::new(name, points, color).marked() }
    });
    LineChart {
        title: "Attention on each parent".into(),
        x_label: "position".into(),
        y_label: "attention".into(),
        series: series.collect(),
        y_range: Some((0.0, 1.0)),
        ..LineChart::default()
    }
}

pub(super) fn pattern(title: &str, heads: usize, head: usize, values: &[f64], t: usize) -> HeatMap {
    let which = if heads > 1 { format!(", head {}", head + 1) } else { String::new() };
    HeatMap {
        title: format!("{title}{which}"),
        range: Some((0.0, 1.0)),
        row_ticks: Ticks::From(0),
        col_ticks: Ticks::From(0),
        x_label: "key position".into(),
        y_label: "query position".into(),
        ..HeatMap::of(values, t, t)
    }
}

/// The matrices of a model in the coordinates of one-hot tokens and positions; none for models
/// without such coordinates.
pub(super) struct Matrices<'a> {
    layout: Cow<'a, Layout>,
    params: Cow<'a, [f64]>,
    /// S and T.
    sizes: (usize, usize),
    heads: &'a [usize],
    /// True if the model embeds tokens and positions; its matrices are then shown between E and Eᵀ.
    embedded: bool,
}

impl<'a> Matrices<'a> {
    pub(super) fn new(
        layout: &'a Layout,
        params: &'a [f64],
        sizes: (usize, usize),
        heads: &'a [usize],
    ) -> Result<Self> {
        // Embedded models have no other layer in these coordinates.
        Ok(match one_hot_coordinates(layout, params)? {
            Some((layout, params)) => Matrices {
                layout: Cow::Owned(layout),
                params: Cow::Owned(params),
                sizes,
                heads,
                embedded: true,
            },
            None => Matrices {
                layout: Cow::Borrowed(layout),
                params: Cow::Borrowed(params),
                sizes,
                heads,
                embedded: false,
            },
        })
    }

    fn pattern_title(&self) -> &'static str {
        let by_position = !self.embedded && self.layout.find("A.0").is_some();
        if by_position { "softmax of A1, positions" } else { "mean attention of layer 1" }
    }

    /// Blocks of the residual stream that enters layer `l`: token and position, then the same for
    /// what each head adds.
    fn stream(&self, l: usize) -> Vec<Block> {
        let (s, t) = self.sizes;
        let mut names = vec![("token".to_string(), s), ("position".to_string(), t)];
        for (layer, heads) in self.heads[..l].iter().enumerate() {
            let below = names.clone();
            for h in 0..*heads {
                let which =
                    if *heads > 1 { format!("{}.{}", layer + 1, h + 1) } else { format!("{}", layer + 1) };
                names.extend(below.iter().map(|(n, size)| (format!("attn{which} {n}"), *size)));
            }
        }
        // Beyond a few dozen the names would not fit beside their blocks.
        let named = names.len() <= 32;
        names.into_iter().map(|(n, size)| Block::new(if named { n } else { String::new() }, size)).collect()
    }

    /// A of layer `l`, a map for each head; none where the model has no such matrix.
    pub(super) fn layer(&self, l: usize) -> Option<Figure> {
        let values = &self.params[self.layout.find(&format!("A.{l}"))?.range()];
        let blocks = self.stream(l);
        let d: usize = blocks.iter().map(|b| b.size).sum();
        let one = |(h, a): (usize, &[f64])| {
            let which = if self.heads[l] > 1 { format!(", head {}", h + 1) } else { String::new() };
            let name = if self.embedded { "E A1 E'".into() } else { format!("A{}", l + 1) };
            HeatMap {
                title: name + &which,
                row_blocks: blocks.clone(),
                col_blocks: blocks.clone(),
                colormap: Colormap::Diverging,
                x_label: "key".into(),
                y_label: "query".into(),
                ..HeatMap::of(a, d, d)
            }
            .into()
        };
        let mut figures: Vec<Figure> = values.chunks(d * d).enumerate().take(MOST_HEADS).map(one).collect();
        if figures.len() == 1 {
            return Some(figures.remove(0));
        }
        let title = only(figures.len(), self.heads[l]);
        Some(Panels { title, columns: figures.len().min(3), figures }.into())
    }

    /// W; none where the model has no such matrix.
    pub(super) fn readout(&self) -> Option<HeatMap> {
        let w = self.layout.find("W")?;
        let blocks = self.stream(if self.embedded { 0 } else { self.heads.len() });
        let rows = blocks.iter().map(|b| b.size).sum();
        Some(HeatMap {
            title: if self.embedded { "E W" } else { "W" }.into(),
            row_blocks: blocks,
            colormap: Colormap::Diverging,
            col_ticks: Ticks::From(0),
            x_label: "next symbol".into(),
            y_label: "residual stream at the query".into(),
            ..HeatMap::of(&self.params[w.range()], rows, self.sizes.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::task;
    use super::*;
    use crate::config;

    /// Draws a run that was never trained; returns the names of its figures.
    fn draw(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        let chain = crate::paper::preset("chain", false).unwrap();
        let layers = [chain, vec![config::parse_overrides(&words).unwrap()]].concat();
        let config = config::resolve(&layers).unwrap();
        let task = task(&config).unwrap();
        let model = config.model.build::<f64>(task.vocab(), task.seq_len()).unwrap();
        let (heads, layout) = (model.heads().to_vec(), model.layout());
        let wave = |n: usize| (0..n).map(|i| (i as f64 * 0.7).sin()).collect::<Vec<_>>();
        let t = task.seq_len();
        let drawn = Drawn {
            config: &config,
            task: &task,
            layout,
            heads: &heads,
            params: &wave(layout.len()),
            patterns: &vec![wave(t * t); heads[0]],
            probe: &Probe::new(0, &task, None).unwrap(),
            references: &References { counts: None, all: Vec::new() },
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(METRICS_FILE), "").unwrap();
        drawn.draw(dir.path()).unwrap();
        let files = std::fs::read_dir(dir.path().join(FIGURES_FOLDER)).unwrap();
        let mut names = Vec::new();
        for file in files {
            let file = file.unwrap();
            // Records have every digit.
            let record = file.path().extension().is_some_and(|e| e == "json");
            let most = if record { (8 << 20) + 1 } else { 4 << 20 };
            assert!(file.metadata().unwrap().len() < most, "{words:?}: {:?}", file.path());
            names.push(file.file_name().into_string().unwrap());
        }
        names.sort();
        names
    }

    #[test]
    fn any_heads_and_sizes_are_drawn() {
        for words in [
            &["heads=5,8", "S=20", "T=40"][..],
            &["heads=64", "S=3", "T=8"],
            &["heads=16,16", "S=2", "T=3"],
            &["heads=1,1,1,1,1", "S=2", "T=3"],
            &["S=300", "T=20"],
            &["S=3", "T=900"],
            &["model=transformer", "layers=2", "heads=16", "dim=32", "S=3", "T=8"],
        ] {
            let names = draw(words);
            for stem in ["attention", "graph", "loss", "overview"] {
                for kind in ["png", "svg"] {
                    assert!(names.contains(&format!("{stem}.{kind}")), "{words:?}: {names:?}");
                }
            }
        }
    }

    #[test]
    fn heads_that_are_left_out_are_said_to_be() {
        assert_eq!(only(9, 9), "");
        assert_eq!(only(9, 64), "the first 9 of 64 heads");
    }
}
