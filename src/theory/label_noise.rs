//! The noise of stochastic gradients by kind of label, exactly.
//!
//! | symbol | meaning |
//! |---|---|
//! | g^y | −∇ℓ on one word with the label law y; linear in y |
//! | W(s, b) | probability of a word s and its label b, π integrated out; P = Σ_b W, ȳ = W/P |
//! | A | Sα + the edges that leave the query's symbol: the total of the posterior of its row |
//! | Σ | covariance of g: of symbols y ∼ ȳ, the soft label π(·\|query), the posterior mean ȳ |

use super::algorithm::{Rates, train};
use super::support::{apart, eigenvalues, key, largest, normals, parents};
use super::{Check, Claim, Formulas, Settings};
use crate::Result;
use crate::exact::brute::words;
use crate::exact::quadrature::stationary_pairs;
use crate::exact::{Prior, RootLaw, Tree};
use crate::num::Sum;
use crate::rng::{Key, Purpose};
use crate::source::{Sampled, Source};
use crate::task::{CausalTree, Forest, Roots};

pub(super) const CLAIM: Claim = Claim {
    id: "label-noise",
    title: "Symbols as labels: the same gradient, more noise",
    statement: "Labels that are one sampled symbol, the law of that symbol, and its posterior mean have one expected \
                gradient; their covariances are ordered, Σ_mean ⪯ Σ_soft ⪯ Σ_symbol, and the second moment of the soft \
                label is A/(A + 1) that of its mean plus 1/(A + 1) that of a symbol.",
    source: "Nichani et al. 2024 trains on symbols, its public code on laws; the covariances are ours",
    run,
};

/// Words over two symbols with everything that the moments need.
struct Noise<'a> {
    formulas: &'a Formulas,
    forest: &'a Forest,
    alpha: f64,
    eps: f64,
}

/// Mean gradients with the posterior mean and with symbols as labels, and E g gᵀ for the posterior
/// mean, for the law and for symbols.
struct Moments {
    mean: Vec<f64>,
    of_symbols: Vec<f64>,
    second: [Vec<f64>; 3],
}

impl Moments {
    /// tr Σ.
    fn traces(&self) -> [f64; 3] {
        let mean = square(&self.mean);
        self.squares().map(|s| s - mean)
    }

    /// E‖g‖².
    fn squares(&self) -> [f64; 3] {
        let n = self.mean.len();
        [0, 1, 2].map(|k| self.second[k].iter().step_by(n + 1).sum())
    }

    /// The least eigenvalue of Σ_soft − Σ_mean and of Σ_symbol − Σ_soft, over the trace of the
    /// larger. The means cancel.
    fn least(&self) -> [f64; 2] {
        let traces = self.squares();
        [0, 1].map(|k| {
            let (low, high) = (&self.second[k], &self.second[k + 1]);
            let difference = high.iter().zip(low).map(|(x, y)| x - y).collect();
            let values = eigenvalues(difference, self.mean.len());
            values.into_iter().fold(f64::INFINITY, f64::min) / traces[k + 1]
        })
    }
}

fn square(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

impl Noise<'_> {
    /// g^y of one word, A1 (T, T) then A2 (S, S).
    fn gradient(&self, a1: &[f64], a2: &[f64], tokens: &[u32], y: &[f64]) -> Vec<f64> {
        let (t, s) = (tokens.len(), y.len());
        let mix = self.formulas.mix(a1, t);
        let query = tokens[t - 1] as usize * s;
        let a: Vec<f64> = tokens.iter().map(|c| a2[query + *c as usize]).collect();
        let z: Vec<f64> = (0..t).map(|i| (0..t).map(|j| mix[i * t + j] * a[j]).sum()).collect();
        let mut v = vec![0.0; t];
        super::formulas::softmax(&z, &mut v);
        let mut f = vec![0.0; s];
        tokens.iter().zip(&v).for_each(|(c, v)| f[*c as usize] += v);
        let r: Vec<f64> = tokens.iter().map(|c| y[*c as usize] / (f[*c as usize] + self.eps)).collect();
        let delta = (self.formulas.jacobian)(&v, &r);
        let mut out = vec![0.0; t * t + s * s];
        for i in 0..t {
            let row = &mix[i * t..(i + 1) * t];
            for (j, x) in (self.formulas.jacobian)(row, &a).iter().enumerate() {
                out[i * t + j] = delta[i] * x;
                out[t * t + query + tokens[j] as usize] += delta[i] * row[j];
            }
        }
        out
    }

    /// Edges that leave the query's symbol.
    fn leaving(&self, tokens: &[u32]) -> f64 {
        let query = tokens[tokens.len() - 1];
        let edges = self.forest.parents().iter().flatten().filter(|p| tokens[**p] == query);
        edges.count() as f64
    }

    /// By the closed form, over all words.
    fn exact(&self, a1: &[f64], a2: &[f64]) -> Result<Moments> {
        let prior = Prior::dirichlet(2, self.alpha, RootLaw::Uniform)?;
        let n = a1.len() + a2.len();
        let (mut mean, mut of_symbols) = (vec![Sum::new(); n], vec![Sum::new(); n]);
        let mut second = [0, 1, 2].map(|_| vec![Sum::new(); n * n]);
        for word in words(self.forest, &prior)? {
            let p: f64 = word.weights.iter().sum();
            let y: Vec<f64> = word.weights.iter().map(|w| w / p).collect();
            let of_mean = self.gradient(a1, a2, &word.tokens, &y);
            mean.iter_mut().zip(&of_mean).for_each(|(m, g)| m.add(p * g));
            let each = [[1.0, 0.0], [0.0, 1.0]].map(|b| self.gradient(a1, a2, &word.tokens, &b));
            for (g, y) in each.iter().zip(&y) {
                of_symbols.iter_mut().zip(g).for_each(|(m, g)| m.add(p * y * g));
            }
            let [of_square, of_diagonal] =
                (self.formulas.row_moments)(2.0 * self.alpha + self.leaving(&word.tokens));
            for i in 0..n {
                for j in 0..n {
                    let mean = of_mean[i] * of_mean[j];
                    let symbols: f64 = each.iter().zip(&y).map(|(g, y)| y * g[i] * g[j]).sum();
                    let law = of_square * mean + of_diagonal * symbols;
                    for (sum, x) in second.iter_mut().zip([mean, law, symbols]) {
                        sum[i * n + j].add(p * x);
                    }
                }
            }
        }
        let values = |x: &[Sum]| -> Vec<f64> { x.iter().map(Sum::value).collect() };
        let second = second.map(|s| values(&s));
        Ok(Moments { mean: values(&mean), of_symbols: values(&of_symbols), second })
    }

    /// E‖g‖² of the law as label, by a quadrature over π.
    fn soft_by_quadrature(&self, a1: &[f64], a2: &[f64], nodes: usize) -> Result<f64> {
        let pairs = stationary_pairs(self.alpha, nodes)?;
        let pairs = pairs.of_task(None, Roots::Uniform)?;
        let mut total = Sum::new();
        for word in words(self.forest, &Prior::dirichlet(2, self.alpha, RootLaw::Uniform)?)? {
            let t = word.tokens.len();
            // ‖g^y‖² is a quadratic form in y.
            let g = [[1.0, 0.0], [0.0, 1.0]].map(|b| self.gradient(a1, a2, &word.tokens, &b));
            let form = |a: usize, b: usize| -> f64 { g[a].iter().zip(&g[b]).map(|(x, y)| x * y).sum() };
            let form = [form(0, 0), form(0, 1), form(1, 1)];
            for q in 0..pairs.atoms() {
                let pi = pairs.atom_pi(q);
                let mut p = pairs.weight()[q] * 0.5;
                for (i, parent) in self.forest.parents().iter().enumerate() {
                    p *= match parent {
                        Some(j) => pi[2 * word.tokens[*j] as usize + word.tokens[i] as usize],
                        None => 0.5,
                    };
                }
                let y = &pi[2 * word.tokens[t - 1] as usize..][..2];
                total.add(p * (y[0] * y[0] * form[0] + 2.0 * y[0] * y[1] * form[1] + y[1] * y[1] * form[2]));
            }
        }
        Ok(total.value())
    }

    /// Mean and standard error of ‖g‖² over samples with laws or symbols as labels.
    fn sampled(&self, a1: &[f64], a2: &[f64], source: &Sampled, count: usize) -> Result<[f64; 2]> {
        let mut batch = source.batch(count)?;
        source.fill(0, count, &mut source.work(), &mut batch);
        let (mut sum, mut squares) = (Sum::new(), Sum::new());
        for i in 0..count {
            let x = square(&self.gradient(a1, a2, batch.sequence(i), batch.law(i)));
            sum.add(x);
            squares.add(x * x);
        }
        let n = count as f64;
        let mean = sum.value() / n;
        Ok([mean, ((squares.value() / n - mean * mean) / (n - 1.0)).sqrt()])
    }
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let (key, eps) = (key(21), 0.01);
    let mut checks = Vec::new();
    let graphs = [Forest::from_parents(&[-1, 0, 1, 1])?, Forest::chain(6)?];
    for (n, forest) in graphs.iter().enumerate() {
        for alpha in [0.1, 0.7] {
            let noise = Noise { formulas: &settings.formulas, forest, alpha, eps };
            let t = forest.seq_len();
            let prior = Prior::dirichlet(2, alpha, RootLaw::Uniform)?;
            let trained = train(forest, &prior, &Rates::default())?;
            let points = [
                ("start", vec![0.0; t * t], vec![0.1, 0.0, 0.0, 0.1]),
                (
                    "Gaussian",
                    normals(&key, 2 * n as u64, t * t, 1.0),
                    normals(&key, 2 * n as u64 + 1, 4, 1.0),
                ),
                ("after Algorithm 1", trained.a1, trained.a2),
            ];
            for (name, a1, a2) in &points {
                let label =
                    |c: Check| c.with("graph", parents(forest)).with("α", alpha).with("parameters", name);
                let exact = noise.exact(a1, a2)?;
                let mut tree = Tree::<f64>::new(forest, &prior, eps, false)?;
                let of_tree = tree.gradients(a1, a2)?;
                let by_tree = [of_tree.a1.as_slice(), &of_tree.a2].concat();
                let scale = largest(&by_tree).max(1e-3);
                checks.push(label(Check::at_most(
                    "mean over words − gradient of the population, over its largest entry",
                    1e-12,
                    apart(&exact.mean, &by_tree) / scale,
                )));
                checks.push(label(Check::at_most(
                    "mean gradient of symbols − that of means, over its largest entry",
                    1e-12,
                    apart(&exact.mean, &exact.of_symbols) / scale,
                )));
                for (which, least) in ["laws − means", "symbols − laws"].iter().zip(exact.least()) {
                    let what = format!("least eigenvalue of Σ of {which}, over the trace");
                    checks.push(label(Check::at_least(what, -1e-13, least)));
                }
                let [mean, soft, symbol] = exact.traces();
                let by_rule = noise.soft_by_quadrature(a1, a2, if alpha < 0.5 { 24 } else { 12 })?;
                checks.push(label(Check::within(
                    "E‖g‖² of laws: closed form over quadrature",
                    1.0,
                    exact.squares()[1] / by_rule,
                    1e-9,
                )));
                checks.push(label(Check::at_least("tr Σ of symbols over that of laws", 1.0, symbol / soft)));
                checks.push(label(Check::at_least("tr Σ of laws over that of means", 1.0, soft / mean)));
            }
            let (name, a1, a2) = &points[1];
            let exact = noise.exact(a1, a2)?;
            let task = CausalTree::new(forest.clone(), 2, alpha, Roots::Uniform)?;
            let laws = Sampled::new(task, Key::new(21, Purpose::Probe));
            let symbols = laws.clone().with_labels(Key::new(21, Purpose::Label));
            let count = if settings.thorough { 200_000 } else { 10_000 };
            for (what, source, expected) in
                [("laws", laws, exact.squares()[1]), ("symbols", symbols, exact.squares()[2])]
            {
                let [found, error] = noise.sampled(a1, a2, &source, count)?;
                let c = Check::within(format!("E‖g‖² of {what}, sampled"), expected, found, 4.5 * error);
                checks.push(
                    c.with("graph", parents(forest))
                        .with("α", alpha)
                        .with("parameters", name)
                        .with("samples", count),
                );
            }
        }
    }
    Ok(checks)
}
