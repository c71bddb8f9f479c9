//! The result as a table, as JSON and as a figure.

use crate::cli::table::{Right, columns};
use crate::discover::{Graph, Position};
use crate::report::plot::{Colormap, Figure, HeatMap, Panels, Ticks};
use crate::{Error, Result};
use serde::Serialize;

/// Found graph against the true one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Verdict {
    /// -1 for a root.
    parents: Vec<i64>,
    pub(super) edges: usize,
    /// Edges whose parent has the highest score.
    pub(super) best: usize,
    /// Edges found.
    pub(super) found: usize,
    /// Positions with a parent that were given another.
    pub(super) wrong: usize,
    /// Roots after position 0, and those that were given a parent.
    pub(super) roots: usize,
    pub(super) false_edges: usize,
    /// True if there was a test. If not, only `best` is meaningful.
    pub(super) tested: bool,
}

impl Verdict {
    pub(super) fn of(graph: &Graph, truth: &[Option<usize>]) -> Self {
        let pairs = || truth.iter().zip(&graph.positions);
        let edges = || pairs().filter(|(t, _)| t.is_some());
        let roots = || pairs().skip(1).filter(|(t, _)| t.is_none());
        Verdict {
            parents: truth.iter().map(|p| p.map_or(-1, |p| p as i64)).collect(),
            edges: edges().count(),
            best: edges().filter(|(t, p)| p.best == **t).count(),
            found: edges().filter(|(t, p)| p.parent == **t).count(),
            wrong: edges().filter(|(t, p)| p.parent.is_some() && p.parent != **t).count(),
            roots: roots().count(),
            false_edges: roots().filter(|(_, p)| p.parent.is_some()).count(),
            tested: graph.tested,
        }
    }

    pub(super) fn whole(&self) -> bool {
        self.found == self.edges && self.false_edges == 0
    }
}

pub(super) fn to_json(record: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(record)
        .map_err(|e| Error::invalid("discover", e.to_string(), "results with a JSON form"))
}

/// The result as JSON; values that are not finite are null.
pub(super) fn json(graph: &Graph, verdict: Option<&Verdict>) -> Result<String> {
    #[derive(Serialize)]
    struct Output<'a> {
        #[serde(flatten)]
        graph: &'a Graph,
        #[serde(skip_serializing_if = "Option::is_none")]
        truth: Option<&'a Verdict>,
    }
    Ok(to_json(&Output { graph, truth: verdict })? + "\n")
}

/// Why a sample has no test.
const UNTESTED: &str = "fewer than 7 tokens or 30 sequences";

pub(super) fn table(graph: &Graph, verdict: Option<&Verdict>) -> String {
    let mut text = format!(
        "{} sequences of {} tokens, S = {}, score {}, level {}\n",
        graph.sequences,
        graph.length,
        graph.symbols,
        to_json(&graph.score).unwrap_or_default().trim_matches('"'),
        graph.level
    );
    let heads = ["position", "parent", "best", "score", "+-", "second", "margin", "+-", "z", "p"];
    text += &columns(&heads.map(|h| (h, Right)), graph.positions.iter().map(row).collect());
    if !graph.tested {
        text +=
            &format!("no test: {UNTESTED}; `best` is the candidate of the highest score, parent or not\n");
    }
    if graph.tested && graph.positions.iter().skip(1).any(|p| !p.tested) {
        text += "?: no test; nothing varies there, or too rarely to be significant at this level\n";
    }
    for j in &graph.heavy {
        text += &format!(
            "note: position {j} has the highest score in so many rows that its own effect cannot be distinguished from edges; it is taken from \
             the rows it does not lead or the other columns, whichever is higher (docs/src/reference/discover.md)\n"
        );
    }
    if let Some(v) = verdict.filter(|v| !v.tested) {
        text += &format!("truth: {} of {} edges have the highest score\n", v.best, v.edges);
    } else if let Some(v) = verdict {
        text += &format!(
            "truth: {} of {} edges have the highest score, {} found, {} wrong; {} of {} further roots given a parent\n",
            v.best, v.edges, v.found, v.wrong, v.false_edges, v.roots
        );
    }
    text
}

/// A row of the table.
fn row(p: &Position) -> Vec<String> {
    let name = |j: Option<usize>, none: &str| j.map_or(none.to_string(), |j| j.to_string());
    let none = if p.tested || p.position == 0 { "root" } else { "?" };
    let mut row = vec![p.position.to_string(), name(p.parent, none)];
    if p.best.is_some() {
        row.extend([name(p.best, ""), format!("{:.4}", p.score), format!("{:.2e}", p.score_se)]);
        row.push(name(p.second, "-"));
        let margin = || [format!("{:.4}", p.margin), format!("{:.2e}", p.margin_se)];
        row.extend(p.second.map_or(["-".into(), "-".into()], |_| margin()));
        row.push(if p.z.is_finite() { format!("{:.1}", p.z) } else { "-".into() });
        row.push(if p.tested { scientific(p) } else { "-".into() });
    }
    row
}

/// p, also where it is below what f64 holds.
fn scientific(p: &Position) -> String {
    if p.p > 0.0 {
        return format!("{:.1e}", p.p);
    }
    let exponent = p.log10_p.floor();
    // 9.96 is 10.0 in one digit.
    let digits = (10f64.powf(p.log10_p - exponent) * 10.0).floor() / 10.0;
    format!("{digits:.1}e{exponent}")
}

/// Scores beside the edges found.
pub(super) fn figure(graph: &Graph) -> Figure {
    let n = graph.positions.len();
    let map = |title: &str, colormap: Colormap, values: Vec<f64>| -> Figure {
        HeatMap {
            title: title.into(),
            colormap,
            row_ticks: Ticks::From(0),
            col_ticks: Ticks::From(0),
            x_label: "candidate j".into(),
            y_label: "position i".into(),
            ..HeatMap::of(&values, n, n)
        }
        .into()
    };
    let mut edges = vec![f64::NAN; n * n];
    for p in &graph.positions {
        (0..p.position).for_each(|j| edges[p.position * n + j] = f64::from(u8::from(p.parent == Some(j))));
    }
    // Corrected for its bias a score may be negative.
    let signed = graph.scores.iter().any(|s| *s < 0.0);
    let of_scores = if signed { Colormap::Diverging } else { Colormap::Sequential };
    let scores = (0..n * n).map(|e| if e % n < e / n { graph.scores[e] } else { f64::NAN }).collect();
    Panels {
        title: String::new(),
        columns: 2,
        figures: vec![map("score", of_scores, scores), map("edges found", Colormap::Binary, edges)],
    }
    .into()
}
