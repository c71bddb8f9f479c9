//! Claim 7: what symmetry makes of A2's gradient, and when counting is optimal.

use super::support::{apart, drawn, key, normals, parents};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::brute::{Word, population, words};
use crate::exact::quadrature::stationary_pairs;
use crate::exact::{Orbits, Prior, RootLaw};
use crate::num::Sum;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "symmetry",
    title: "Symmetric priors and the count predictor",
    statement: "If the prior is invariant under relabelling and A2 = bI + c11ᵀ, A2's gradient is a multiple of I − 11ᵀ/S. With \
                uniform roots (α + counts) normalised is the exact posterior mean; with roots ∼ μ it is not.",
    source: "derived here: symmetric priors",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(7);
    let mut checks = Vec::new();
    let cases = [
        (Forest::icl(6)?, Prior::dirichlet(2, 0.1, RootLaw::Uniform)?),
        (Forest::manual(), Prior::dirichlet(3, 0.5, RootLaw::SharedDirichlet)?),
        (Forest::from_parents(&[-1, 0, -1, 1])?, drawn(&key, 0, 3, 1.0)?.closed_under_relabelling()?.into()),
        (Forest::chain(5)?, Prior::dirichlet(4, 1.0, RootLaw::Uniform)?),
    ];
    for (n, (forest, prior)) in cases.iter().enumerate() {
        let (s, t) = (prior.symbols(), forest.seq_len());
        let a1 = normals(&key, n as u64, t * t, 0.8);
        let a2: Vec<f64> = (0..s * s).map(|n| if n / s == n % s { 1.1 } else { -0.3 }).collect();
        let brute = population(forest, prior, &a1, &a2, 0.01)?;
        let orbits = Orbits::<f64>::new(forest, prior, 0.01, false)?.gradients(&a1, a2[0] - a2[1])?.clone();
        let a2 = brute.a2;
        let direction = (settings.formulas.direction)(s);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let share = dot(&a2, &direction) / dot(&direction, &direction);
        let along: Vec<f64> = direction.iter().map(|d| share * d).collect();
        let label = |c: Check| c.with("S", s).with("T", t).with("parents", parents(forest));
        checks.push(label(Check::at_most(
            "distance from a multiple of I − 11ᵀ/S",
            1e-16,
            apart(&a2, &along),
        )));
        checks.push(label(Check::at_most("A1 by orbits − enumeration", 1e-15, apart(&orbits.a1, &brute.a1))));
        let trace: f64 = a2.iter().step_by(s + 1).sum();
        checks.push(label(Check::within("gradient of b by orbits, the trace", trace, orbits.b, 1e-15)));
        checks.push(label(Check::at_least("size of the multiple", 1e-6, share.abs())));
    }

    // Counting against the posterior, over every word.
    let counts = |forest: &Forest, word: &Word, alpha: f64, s: usize| -> Vec<f64> {
        let query = word.tokens[forest.len_context()];
        let mut n = vec![0.0; s];
        for i in 0..forest.len_context() {
            if (settings.formulas.parent)(forest, i).is_some_and(|p| word.tokens[p] == query) {
                n[word.tokens[i] as usize] += 1.0;
            }
        }
        (settings.formulas.predictor)(alpha, &n)
    };
    for (forest, s, alpha) in
        [(Forest::icl(8)?, 2, 0.1), (Forest::manual(), 3, 0.5), (Forest::chain(5)?, 4, 2.0)]
    {
        let prior = Prior::dirichlet(s, alpha, RootLaw::Uniform)?;
        let mut worst = 0.0f64;
        for word in words(&forest, &prior)? {
            let total: f64 = word.weights.iter().sum();
            let posterior: Vec<f64> = word.weights.iter().map(|w| w / total).collect();
            worst = worst.max(apart(&counts(&forest, &word, alpha, s), &posterior));
        }
        let c = Check::at_most("count predictor − posterior mean, uniform roots", 1e-12, worst);
        checks.push(c.with("S", s).with("α", alpha).with("parents", parents(&forest)));
    }
    let (forest, alpha) = (Forest::icl(9)?, 0.1);
    let prior: Prior = stationary_pairs(alpha, if settings.thorough { 32 } else { 16 })?.into();
    let (mut exact, mut counted) = (Sum::new(), Sum::new());
    for word in words(&forest, &prior)? {
        let total: f64 = word.weights.iter().sum();
        let guess = counts(&forest, &word, alpha, 2);
        for (w, p) in word.weights.iter().zip(&guess) {
            exact.add(-w * (w / total).ln());
            counted.add(-w * p.ln());
        }
    }
    let label = |c: Check| c.with("S", 2).with("T", 9).with("graph", "icl").with("α", alpha);
    let [exact, counted] = [exact.value(), counted.value()];
    checks.push(label(Check::within("loss of the posterior mean, roots ∼ μ", 0.321412, exact, 1e-6)));
    checks.push(label(Check::within("loss of the count predictor, roots ∼ μ", 0.364772, counted, 1e-6)));
    checks.push(label(Check::refutes("posterior − count predictor, roots ∼ μ", 0.0, exact - counted)));
    Ok(checks)
}
