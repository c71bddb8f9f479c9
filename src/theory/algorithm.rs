//! Claim 8: Algorithm 1 on the exact population; and the training that other claims use.

use super::formulas::softmax;
use super::population::Population;
use super::support::{atoms, t_eff, transitions};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::marginals::limit_averaged;
use crate::exact::quadrature::stationary_pairs;
use crate::exact::{Prior, Tree};
use crate::num::Sum;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "algorithm",
    title: "Algorithm 1 finds the graph",
    statement: "Gradient descent on A1, then on A2, from A1 = 0, A2 = β₀I: attention goes to the parents, and the loss falls \
                towards that of the posterior.",
    source: "Nichani et al. 2024, Algorithm 1",
    run,
};

/// What Algorithm 1 is run with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// A2 at the start is this times I.
    pub(super) beta: f64,
    /// ε of the loss.
    pub(super) eps: f64,
    /// Rate on A1.
    pub(super) eta1: f64,
    /// Steps on A1.
    pub(super) steps1: usize,
    /// Rate on A2.
    pub(super) eta2: f64,
    /// Steps on A2.
    pub(super) steps2: usize,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { beta: 0.1, eps: 0.01, eta1: 4000.0, steps1: 400, eta2: 20.0, steps2: 200 }
    }
}

/// What Algorithm 1 leaves.
pub(super) struct Trained {
    pub(super) a1: Vec<f64>,
    pub(super) a2: Vec<f64>,
    /// M (T, T).
    pub(super) mix: Vec<f64>,
    /// At the start, after stage 1, after stage 2.
    pub(super) losses: [f64; 3],
}

impl Trained {
    /// The least attention on a parent.
    pub(super) fn least_attention(&self, forest: &Forest) -> f64 {
        let t = forest.seq_len();
        let edges = forest.parents().iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?)));
        edges.map(|(i, p)| self.mix[i * t + p]).fold(1.0, f64::min)
    }
}

/// Algorithm 1 on the exact population.
///
/// # Errors
/// What the engine refuses.
pub(super) fn train(forest: &Forest, prior: &Prior, rates: &Rates) -> Result<Trained> {
    let (t, s) = (forest.seq_len(), prior.symbols());
    let mut tree = Tree::<f64>::new(forest, prior, rates.eps, false)?;
    let mut a1 = vec![0.0; t * t];
    let mut a2: Vec<f64> = (0..s * s).map(|n| if n / s == n % s { rates.beta } else { 0.0 }).collect();
    let start = tree.gradients(&a1, &a2)?.loss;
    for _ in 0..rates.steps1 {
        let g = &tree.gradients(&a1, &a2)?.a1;
        a1.iter_mut().zip(g).for_each(|(a, g)| *a += rates.eta1 * g);
    }
    let middle = tree.gradients(&a1, &a2)?.loss;
    for _ in 0..rates.steps2 {
        let g = &tree.gradients(&a1, &a2)?.a2;
        a2.iter_mut().zip(g).for_each(|(a, g)| *a += rates.eta2 * g);
    }
    let end = tree.gradients(&a1, &a2)?.loss;
    let mut mix = vec![0.0; t * t];
    for i in 0..t {
        softmax(&a1[i * t..i * t + i + 1], &mut mix[i * t..i * t + i + 1]);
    }
    Ok(Trained { a1, a2, mix, losses: [start, middle, end] })
}

/// −Σ W ln(W/ΣW): what no predictor can go below.
pub(super) fn posterior_loss(population: &Population) -> f64 {
    let mut loss = Sum::new();
    for (_, w) in population.words() {
        let total: f64 = w.iter().sum();
        w.iter().filter(|w| **w > 0.0).for_each(|w| loss.add(-w * (w / total).ln()));
    }
    loss.value()
}

fn run(_: &Settings) -> Result<Vec<Check>> {
    let (forest, alpha) = (Forest::chain(8)?, 0.5);
    let t = forest.seq_len();
    let prior = stationary_pairs(alpha, 6)?;
    let rho = limit_averaged(atoms(&transitions(&prior)?), &forest)?.rho;
    let prior = prior.into();
    let trained = train(&forest, &prior, &Rates::default())?;
    let label = |c: Check| {
        c.with("S", 2).with("T", t).with("graph", "chain").with("α", alpha).with("T_eff", t_eff(&forest, rho))
    };
    let mut checks =
        vec![label(Check::at_least("least attention on a parent", 0.999, trained.least_attention(&forest)))];
    let stages = ["loss at the start", "loss after stage 1", "loss after stage 2"];
    for ((name, expected), loss) in stages.iter().zip([0.63384, 0.62351, 0.55583]).zip(trained.losses) {
        checks.push(label(Check::within(*name, expected, loss, 5e-6)));
    }
    checks.push(label(Check::within(
        "loss of the posterior",
        0.50983,
        posterior_loss(&Population::new(&forest, &prior)?),
        5e-6,
    )));
    checks.push(label(Check::at_least("attention of the query on itself", 0.9, trained.mix[t * t - 1])));
    Ok(checks)
}
