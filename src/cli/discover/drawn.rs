//! A task to draw sequences from, with a known graph.

use super::Score;
use crate::cli::grad::missing;
use crate::config;
use crate::config::task::{Graph, Labels as LabelKind, Roots as RootsKey};
use crate::discover::{Labels, Sample};
use crate::rng::{Key, Purpose};
use crate::source;
use crate::task::{CausalTree, Forest, Roots, Sampler};
use crate::{Error, Result};
use serde::Deserialize;

/// The keys of a drawn task.
#[derive(Debug, Deserialize)]
#[allow(non_snake_case)]
struct Keys {
    graph: Option<Graph>,
    parents: Option<Vec<i64>>,
    S: Option<usize>,
    T: Option<usize>,
    alpha: Option<f64>,
    roots: Option<RootsKey>,
    seed: Option<u64>,
    samples: Option<usize>,
    labels: Option<LabelKind>,
}

/// A graph by its name or by its parents.
enum Shape {
    Named(Graph),
    Parents(Vec<i64>),
}

/// A task to draw from.
pub(super) struct Drawn {
    shape: Shape,
    symbols: usize,
    pub(super) len: usize,
    alpha: f64,
    roots: Roots,
    seed: u64,
    pub(super) samples: usize,
    labels: LabelKind,
}

impl Drawn {
    pub(super) fn of(words: &[String], score: Score) -> Result<Self> {
        let keys: Keys = config::typed(&config::parse_keys(words, &super::keys())?)?;
        let shape = match (keys.graph, keys.parents) {
            (Some(_), Some(_)) => {
                let allowed = "parents=.. or graph=.., not both";
                return Err(Error::invalid("parents", "given with graph", allowed));
            }
            (None, None) => {
                let allowed = "--tokens FILE, --text FILE, or graph=NAME S=.. T=..";
                return Err(Error::invalid("graph", "missing", allowed));
            }
            (Some(graph), None) => Shape::Named(graph),
            (None, Some(parents)) => Shape::Parents(parents),
        };
        let roots = match keys.roots {
            None | Some(RootsKey::Stationary) => Roots::Stationary,
            Some(RootsKey::Uniform) => Roots::Uniform,
            Some(RootsKey::Shared) => {
                let known = ["stationary", "uniform"];
                return Err(Error::unknown("roots", RootsKey::Shared.name(), known));
            }
        };
        if let (Some(labels), Score::Chi2) = (keys.labels, score) {
            let allowed = "none: score=chi2 reads tokens alone";
            return Err(Error::invalid("labels", labels.name(), allowed));
        }
        let symbols = keys.S.ok_or_else(|| missing("S"))?;
        let len = match (keys.T, &shape) {
            (Some(t), _) => t,
            (None, Shape::Parents(parents)) => parents.len() + 1,
            (None, Shape::Named(_)) => return Err(missing("T")),
        };
        let samples = keys.samples.unwrap_or(1 << 14);
        let bytes =
            len.checked_mul(4).and_then(|t| t.checked_add(symbols.checked_mul(8)?)?.checked_mul(samples));
        super::fits_memory(len, bytes.unwrap_or(usize::MAX))?;
        let drawn = Drawn {
            shape,
            symbols,
            len,
            alpha: keys.alpha.unwrap_or(0.1),
            roots,
            seed: keys.seed.unwrap_or(0),
            samples,
            labels: keys.labels.unwrap_or(LabelKind::Soft),
        };
        drawn.task(0)?;
        Ok(drawn)
    }

    pub(super) fn forest(&self, more: u64) -> Result<Forest> {
        let forest = match &self.shape {
            Shape::Named(graph) => Forest::named(graph.name(), self.len, self.seed.wrapping_add(more))?,
            Shape::Parents(parents) => Forest::from_parents(parents)?,
        };
        if forest.seq_len() != self.len {
            let allowed = format!("T = {}", forest.seq_len());
            return Err(Error::invalid("T", self.len.to_string(), allowed));
        }
        Ok(forest)
    }

    fn task(&self, more: u64) -> Result<CausalTree> {
        CausalTree::new(self.forest(more)?, self.symbols, self.alpha, self.roots)
    }

    /// Under seed `seed` + `more`, which random graphs follow too.
    pub(super) fn sample(&self, more: u64) -> Result<Sample> {
        let (n, t, s) = (self.samples, self.len, self.symbols);
        let task = self.task(more)?;
        let seed = self.seed.wrapping_add(more);
        let (mut tokens, mut targets) = (vec![0; n * t], vec![0.0; n * s]);
        task.samples(&Key::new(seed, Purpose::Train), 0, &mut task.new_work(), &mut tokens, &mut targets);
        let labels = match self.labels {
            LabelKind::Soft => Labels::Soft(targets),
            LabelKind::Symbol => Labels::Symbols(drawn_labels(seed, s, &targets)),
        };
        Ok(Sample { seqs: n, len: t, symbols: s, tokens, labels: Some(labels) })
    }
}

/// A symbol from each of the laws (n, s): those that a run with labels=symbol trains on.
fn drawn_labels(seed: u64, s: usize, laws: &[f64]) -> Vec<u32> {
    let key = Key::new(seed, Purpose::Label);
    let draw = |(k, row): (usize, &[f64])| source::draw(row, key.uniforms(k as u64, 0, 0)[0]) as u32;
    laws.chunks_exact(s).enumerate().map(draw).collect()
}
