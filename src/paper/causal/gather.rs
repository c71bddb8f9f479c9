//! Reading the results of a study of causal graphs from the folders of its runs.

use super::task::task;
use crate::config::Config;
use crate::model::Layout;
use crate::report::metrics::{METRICS_FILE, SUMMARY_FILE};
use crate::run::{self, folder};
use crate::study::gather::{OfMember, Spread, read_json, read_records, spread};
use crate::study::{Member, Study};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One record of a run's log: what every experiment has, and what most have.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Point {
    pub(super) step: u64,
    pub(super) train_loss: Option<f64>,
    pub(super) test_loss: f64,
    pub(super) attention_on_parent_mean: Option<f64>,
}

/// A finished run.
pub(super) struct Found<'a> {
    pub(super) member: &'a Member,
    pub(super) config: &'a Config,
    /// Alphabet size S.
    pub(super) symbols: usize,
    folder: PathBuf,
    /// As written, in order of its keys.
    pub(super) summary: Map<String, Value>,
    pub(super) points: Vec<Point>,
    /// Parents of the positions 0..T-2, in order; none for a root. The last position's row of the
    /// first layer serves the target: what it attends to says nothing about that position's own
    /// parents.
    pub(super) parents: Vec<Vec<usize>>,
    /// Parents of every position that has a token, for pictures of the graph.
    pub(super) graph: Vec<Vec<usize>>,
    /// First-layer attention of each head, (T, T).
    pub(super) patterns: Vec<Vec<f64>>,
}

/// The head of a layer that attends most to a parent.
pub(super) struct BestHead {
    pub(super) layer: usize,
    pub(super) parent: usize,
    pub(super) head: usize,
    pub(super) attention: f64,
}

impl OfMember for Found<'_> {
    fn member(&self) -> &Member {
        self.member
    }
}

impl Found<'_> {
    /// Sequence length T.
    pub(super) fn seq_len(&self) -> usize {
        self.config.task.seq_len()
    }

    /// A number of the summary.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.summary.get(key)?.as_f64()
    }

    /// The final parameters, their layout, and the heads of each layer.
    pub(super) fn params(&self) -> Result<(Layout, Vec<f64>, Vec<usize>)> {
        let model = self.config.model.build::<f64>(self.symbols, self.seq_len())?;
        let layout = model.layout().clone();
        let params = folder::read_params(&self.folder, &layout)?;
        Ok((layout, params, model.heads().to_vec()))
    }

    /// Attention patterns of every layer's heads, averaged over test sequences: (T, T) each.
    pub(super) fn layers(&self) -> Result<Vec<Vec<Vec<f64>>>> {
        let (_, params, _) = self.params()?;
        // As `popgrad probe` does: in f64, whatever the run's type.
        let measured =
            run::measure(crate::paper::experiment(self.config)?, self.config, self.symbols, &params)?;
        Ok(measured.patterns)
    }

    /// For each layer and each parent of a position, in order, the head with the most attention on
    /// it: layer, parent, head (from 0), and that attention, the mean over the positions that have
    /// as many parents as any.
    pub(super) fn best_heads(&self, layers: &[Vec<Vec<f64>>]) -> Vec<BestHead> {
        let (t, most) = (self.seq_len(), self.parents.iter().map(Vec::len).max().unwrap_or(0));
        let full: Vec<(usize, &Vec<usize>)> =
            self.parents.iter().enumerate().filter(|(_, set)| set.len() == most).collect();
        let mut out = Vec::new();
        for (layer, heads) in layers.iter().enumerate() {
            for parent in 0..most {
                let on = |a: &[f64]| {
                    full.iter().map(|(i, set)| a[i * t + set[parent]]).sum::<f64>() / full.len() as f64
                };
                let all = heads.iter().map(|a| on(a)).enumerate();
                let (head, attention) =
                    all.fold((0, f64::NEG_INFINITY), |b, x| if x.1 > b.1 { x } else { b });
                out.push(BestHead { layer, parent, head, attention });
            }
        }
        out
    }

    /// Attention of the best head on the parent, for each position with a parent: position,
    /// attention. With several parents, the mean over them.
    pub(super) fn on_parent(&self) -> Vec<(usize, f64)> {
        let t = self.seq_len();
        let best = |i: usize, p: usize| self.patterns.iter().map(|a| a[i * t + p]).fold(0.0, f64::max);
        let of = |(i, parents): (usize, &Vec<usize>)| {
            let sum: f64 = parents.iter().map(|p| best(i, *p)).sum();
            (!parents.is_empty() && !self.patterns.is_empty()).then(|| (i, sum / parents.len() as f64))
        };
        self.parents.iter().enumerate().filter_map(of).collect()
    }
}

/// The graph in `run.json`: a parent or -1 for each position, or a text of several, `-;0;0,1`, with
/// the target's last.
#[derive(Deserialize)]
struct Graph {
    parents: Parents,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Parents {
    One(Vec<i64>),
    Several(String),
}

impl Parents {
    /// Parents of the positions of a sequence of `t` tokens; none where they are not before their
    /// children.
    fn lists(self, t: usize) -> Option<Vec<Vec<usize>>> {
        let lists: Vec<Vec<usize>> = match self {
            Parents::One(list) => {
                list.into_iter().map(|p| usize::try_from(p).into_iter().collect()).collect()
            }
            Parents::Several(text) => {
                let set = |s: &str| match s {
                    "-" => Some(Vec::new()),
                    s => s.split(',').map(|p| p.parse().ok()).collect(),
                };
                text.split(';').map(set).collect::<Option<Vec<_>>>()?
            }
        };
        let lists: Vec<Vec<usize>> = lists.into_iter().take(t).collect();
        lists.iter().enumerate().all(|(i, p)| p.iter().all(|p| *p < i)).then_some(lists)
    }
}

/// Reads the runs of `study`, all of which are over.
///
/// # Errors
/// Files that are absent or damaged.
pub(super) fn read<'a>(study: &'a Study, folder: &Path) -> Result<Vec<Found<'a>>> {
    study.runs.iter().map(|m| one(m, study.folder_of(folder, m))).collect()
}

fn one(member: &Member, folder: PathBuf) -> Result<Found<'_>> {
    folder::check_results(&folder)?;
    let summary = read_json(&folder.join(SUMMARY_FILE))?;
    let path = folder.join(folder::RUN_FILE);
    let config = &member.config;
    let (t, symbols) = (config.task.seq_len(), task(config)?.vocab());
    let parents = read_json::<Graph>(&path)?.parents.lists(t);
    let graph = parents.ok_or_else(|| Error::format(&path, "parents that are no graph"))?;
    let parents = graph[..graph.len().min(t - 1)].to_vec();
    let points = read_records(&folder.join(METRICS_FILE))?;
    let patterns = folder::read_attention(&folder, t)?;
    Ok(Found { member, config, symbols, folder, summary, points, parents, graph, patterns })
}

/// What a group's runs have at each step that all of them logged.
pub(super) fn curve(runs: &[&Found<'_>], value: impl Fn(&Point) -> Option<f64>) -> Vec<(u64, Spread)> {
    let Some(first) = runs.first() else { return Vec::new() };
    let at = |step: u64| {
        let of = |f: &&Found<'_>| f.points.iter().find(|p| p.step == step).and_then(&value);
        let values: Option<Vec<f64>> = runs.iter().map(of).collect();
        Some((step, spread(values?)?))
    };
    first.points.iter().filter_map(|p| at(p.step)).collect()
}

/// Attention on the parent by position over runs: position, spread over the runs in which it has a
/// parent.
pub(super) fn by_position(runs: &[&Found<'_>]) -> Vec<(usize, Spread)> {
    let all: Vec<Vec<(usize, f64)>> = runs.iter().map(|f| f.on_parent()).collect();
    let last = all.iter().flatten().map(|(i, _)| i + 1).max().unwrap_or(0);
    let of = |i: usize| spread(all.iter().flatten().filter(|(at, _)| *at == i).map(|(_, x)| *x));
    (0..last).filter_map(|i| Some((i, of(i)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_in_both_forms() {
        let of = |json: &str, t| serde_json::from_str::<Graph>(json).unwrap().parents.lists(t);
        assert_eq!(of(r#"{"parents": [-1, 0, 1]}"#, 4), Some(vec![vec![], vec![0], vec![1]]));
        assert_eq!(of(r#"{"parents": "-;0;0,1;1,2"}"#, 3), Some(vec![vec![], vec![0], vec![0, 1]]));
        assert_eq!(of(r#"{"parents": "-;0;0,2;1,2"}"#, 3), None);
        assert_eq!(of(r#"{"parents": "-;x"}"#, 3), None);
    }
}
