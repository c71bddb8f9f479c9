//! The figures of a run of Algorithm 1: loss by stage, attention on the parents and of the last row
//! over time, β, and the final matrices.

use super::algorithm1::MetricRecord;
use super::figures::{graph, pattern};
use super::task::title_of;
use crate::Result;
use crate::config::Config;
use crate::model::Layout;
use crate::probe::attention::causal_pattern;
use crate::report::metrics::METRICS_FILE;
use crate::report::plot::{
    Colormap, Figure, Gallery, HeatMap, LineChart, Panels, RefLine, Scale, Series, Ticks,
};
use crate::run::folder::FIGURES_FOLDER;
use crate::study::gather::read_records;
use crate::task::{CausalTree, Task};
use std::path::Path;

/// The records of the run in `folder`.
pub(super) fn read_metrics(folder: &Path) -> Result<Vec<MetricRecord>> {
    read_records(&folder.join(METRICS_FILE))
}

/// The data for the figures of a run, besides its logs and parameters.
pub(super) struct Drawn<'a> {
    pub(super) config: &'a Config,
    pub(super) task: &'a CausalTree,
    /// Updates of the first stage.
    pub(super) steps1: u64,
    /// Loss of the exact posterior, where it can be had.
    pub(super) bayes: Option<f64>,
}

impl Drawn<'_> {
    /// Draws everything.
    pub(super) fn draw(&self, layout: &Layout, params: &[f64], folder: &Path) -> Result<()> {
        let records = read_metrics(folder)?;
        let mut gallery = Gallery::new(&folder.join(FIGURES_FOLDER))?;
        let block = |name: &str| layout.find(name).map(|b| params[b.range()].to_vec()).unwrap_or_default();
        let (s, t) = (self.task.vocab(), self.task.seq_len());
        let graph = graph(self.task);
        let pattern = pattern("softmax of A1", 1, 0, &causal_pattern(&block("A1"), t), t);
        let a2 = HeatMap {
            title: "A2".into(),
            colormap: Colormap::Diverging,
            row_ticks: Ticks::From(0),
            col_ticks: Ticks::From(0),
            x_label: "token of attn1".into(),
            y_label: "query token".into(),
            ..HeatMap::of(&block("A2"), s, s)
        };
        let charts = [
            ("loss", self.loss(&records)),
            ("attention_over_time", over_time(&records)),
            ("last_row", last_row(t, &records)),
            ("beta", beta(self.steps1, &records)),
        ];
        let mut all: Vec<Figure> = Vec::new();
        for (stem, chart) in charts {
            gallery.save(stem, &chart.clone().into());
            all.push(chart.into());
        }
        for (stem, map) in [("graph", graph), ("attention", pattern), ("A2", a2)] {
            gallery.save(stem, &map.clone().into());
            all.push(map.into());
        }
        let (graph, alpha) = title_of(self.config).unwrap_or(("", f64::NAN));
        let source = self.config.plan.source.name();
        let title = format!("Algorithm 1, {source} ({graph} graph, S = {s}, T = {t}, alpha = {alpha})");
        gallery.save("overview", &Panels { title, columns: 3, figures: all }.into());
        gallery.finish()
    }

    fn loss(&self, records: &[MetricRecord]) -> LineChart {
        let of = |stage: u64| -> Vec<(f64, f64)> {
            // The stages share the point where one ends and the other begins.
            let steps1 = self.steps1;
            let inside = |r: &&MetricRecord| if stage == 1 { r.step <= steps1 } else { r.step >= steps1 };
            let first = if stage == 1 { 0 } else { steps1 };
            records.iter().filter(inside).map(|r| (of_stage(r.step, first), r.test_loss)).collect()
        };
        let mut lines = vec![RefLine::new("uniform guess", (self.task.vocab() as f64).ln())];
        if let Some(y) = self.bayes {
            lines.push(RefLine::new("Bayes", y));
        }
        LineChart {
            title: "Loss".into(),
            x_label: "updates of the stage".into(),
            x_scale: Scale::Log,
            y_label: "cross-entropy (nats)".into(),
            series: vec![Series::new("stage 1: A1", of(1), 0), Series::new("stage 2: A2", of(2), 1)],
            reference_lines: lines,
            ..LineChart::default()
        }
    }
}

/// The place of `step` on the logarithmic axis of a stage that began at `first`. A stage is over
/// within a few of its updates: on a linear axis its curve would be an L.
fn of_stage(step: u64, first: u64) -> f64 {
    (step - first) as f64
}

const SINCE_START: &str = "updates";

/// Largest number of curves in a chart.
const MOST_CURVES: usize = 7;

fn over_time(records: &[MetricRecord]) -> LineChart {
    let positions = records.first().map_or(0, |r| r.attention_on_parent.len());
    let curve = |i: usize| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((of_stage(r.step, 0), r.attention_on_parent[i]?))).collect()
    };
    let children: Vec<usize> = (0..positions).filter(|i| !curve(*i).is_empty()).collect();
    // Evenly chosen where there are too many: first and last among them.
    let shown: Vec<usize> = if children.len() <= MOST_CURVES {
        children
    } else {
        (0..MOST_CURVES).map(|k| children[k * (children.len() - 1) / (MOST_CURVES - 1)]).collect()
    };
    let series =
        shown.iter().enumerate().map(|(k, i)| Series::new(format!("position {i}"), curve(*i), k)).collect();
    LineChart {
        title: "Attention on the parent".into(),
        x_label: SINCE_START.into(),
        x_scale: Scale::Log,
        y_label: "softmax(A1)[i, p(i)]".into(),
        series,
        y_range: Some((0.0, 1.0)),
        ..LineChart::default()
    }
}

fn last_row(t: usize, records: &[MetricRecord]) -> LineChart {
    let curve = |j: usize| records.iter().map(|r| (of_stage(r.step, 0), r.last_row[j])).collect::<Vec<_>>();
    let others = records
        .iter()
        .map(|r| (of_stage(r.step, 0), r.last_row[..t - 1].iter().fold(0.0, |m: f64, x| m.max(*x))))
        .collect();
    LineChart {
        title: "Attention of the last row".into(),
        x_label: SINCE_START.into(),
        x_scale: Scale::Log,
        y_label: format!("softmax(A1)[{t}, j]"),
        series: vec![
            Series::new("on itself", curve(t - 1), 0),
            Series::new("largest on another position", others, 1),
        ],
        y_range: Some((0.0, 1.0)),
        ..LineChart::default()
    }
}

fn beta(steps1: u64, records: &[MetricRecord]) -> LineChart {
    let stage2 = records.iter().filter(|r| r.step >= steps1);
    let points = stage2.map(|r| (of_stage(r.step, steps1), r.beta)).collect();
    LineChart {
        title: "β: diagonal of A2 over the rest".into(),
        x_label: "updates of stage 2".into(),
        x_scale: Scale::Log,
        y_label: "β".into(),
        series: vec![Series::new("", points, 0)],
        ..LineChart::default()
    }
}
