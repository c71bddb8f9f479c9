//! What the runs of a study left in their folders.

use super::{Member, Study};
use crate::config::Config;
use crate::model::{self, Layout};
use crate::paper::figures::read_records;
use crate::paper::{causal, folder};
use crate::report::metrics::{METRICS_FILE, SUMMARY_FILE};
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
    folder: PathBuf,
    /// As written, in order of its keys.
    pub(super) summary: Map<String, Value>,
    pub(super) points: Vec<Point>,
    /// Parents of the positions 0..T-2, in order; none for a root. The last position's row of the first layer serves the
    /// target: what it attends to says nothing about that position's own parents.
    pub(super) parents: Vec<Vec<usize>>,
    /// Parents of every position that has a token, for pictures of the graph.
    pub(super) graph: Vec<Vec<usize>>,
    /// First-layer attention of each head, (T, T).
    pub(super) patterns: Vec<Vec<f64>>,
}

impl Found<'_> {
    /// A number of the summary.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.summary.get(key)?.as_f64()
    }

    /// The final parameters and their layout.
    pub(super) fn params(&self) -> Result<(Layout, Vec<f64>)> {
        let model = model::build::<f64>(&causal::spec(self.config))?;
        let layout = model.layout().clone();
        let params = folder::read_params(&self.folder, &layout)?;
        Ok((layout, params))
    }

    /// Attention of the best head on the parent, for each position with a parent: position, attention. With several parents,
    /// the mean over them.
    pub(super) fn on_parent(&self) -> Vec<(usize, f64)> {
        let t = self.config.T;
        let best = |i: usize, p: usize| self.patterns.iter().map(|a| a[i * t + p]).fold(0.0, f64::max);
        let of = |(i, parents): (usize, &Vec<usize>)| {
            let sum: f64 = parents.iter().map(|p| best(i, *p)).sum();
            (!parents.is_empty() && !self.patterns.is_empty()).then(|| (i, sum / parents.len() as f64))
        };
        self.parents.iter().enumerate().filter_map(of).collect()
    }
}

/// The graph in `run.json`: a parent or -1 for each position, or a text of several, `-;0;0,1`, with the target's last.
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
    /// Parents of the positions of a sequence of `t` tokens; none where they are not before their children.
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
    let summary = read_json(&folder.join(SUMMARY_FILE))?;
    let path = folder.join(folder::RUN_FILE);
    let config = member.config.causal().ok_or_else(|| {
        Error::invalid("drawing", format!("of run `{}`", member.name), "one of the runs' task")
    })?;
    let t = config.T;
    let parents = read_json::<Graph>(&path)?.parents.lists(t);
    let graph = parents.ok_or_else(|| Error::format(&path, "parents that are no graph"))?;
    let parents = graph[..graph.len().min(t - 1)].to_vec();
    let points = read_records(&folder.join(METRICS_FILE))?;
    let patterns = folder::read_attention(&folder, t)?;
    Ok(Found { member, config, folder, summary, points, parents, graph, patterns })
}

pub(in crate::paper) fn read_json<R: serde::de::DeserializeOwned>(path: &Path) -> Result<R> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read", e))?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, e.to_string().replace('\n', " ")))
}

/// Runs with the same group, in order of their first run.
pub(super) fn groups<'a, 'b>(found: &'b [Found<'a>]) -> Vec<(&'b str, Vec<&'b Found<'a>>)> {
    let mut out: Vec<(&str, Vec<&Found<'_>>)> = Vec::new();
    for f in found {
        match out.iter_mut().find(|(g, _)| *g == f.member.group) {
            Some((_, of)) => of.push(f),
            None => out.push((&f.member.group, vec![f])),
        }
    }
    out
}

/// Mean and spread of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::paper) struct Spread {
    pub(in crate::paper) n: usize,
    pub(in crate::paper) mean: f64,
    /// Standard deviation with n - 1; none of a single number.
    pub(in crate::paper) sd: Option<f64>,
    pub(in crate::paper) min: f64,
    pub(in crate::paper) max: f64,
}

/// [`Spread`] of the finite numbers among `values`; none without any.
pub(in crate::paper) fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Some(Spread {
        n,
        mean,
        sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
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

/// Attention on the parent by position over runs: position, spread over the runs in which it has a parent.
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

    #[test]
    fn spread_by_hand() {
        let s = spread([1.0, 4.0, f64::NAN, 7.0]).unwrap();
        assert_eq!((s.n, s.mean, s.sd, s.min, s.max), (3, 4.0, Some(3.0), 1.0, 7.0));
        assert_eq!(spread([2.0]).unwrap().sd, None);
        assert_eq!(spread([f64::NAN]), None);
    }
}
