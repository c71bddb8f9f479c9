//! Claim 1: the gradient formulas of the simplified model.

use super::support::{apart, drawn, key, largest, normals, parents};
use super::{Check, Claim, Settings, dual};
use crate::Result;
use crate::exact::brute::{population, words};
use crate::exact::{Prior, RootLaw, Tree};
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "gradients",
    title: "Exact gradients",
    statement: "−∂L/∂A1[i,j] = E[δ_i M_ij (a_j − z_i)], −∂L/∂A2[k,l] = E[1[s_T = k] Σ_i δ_i Σ_j M_ij 1[s_j = l]], δ = J(v) r; \
                rows of both sum to 0, and A1[1,1] has none.",
    source: "derived here: exact gradients of the simplified model",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(1);
    let finite = |s, n| -> Result<Prior> { Ok(drawn(&key, n, s, 1.0)?.closed_under_column_shifts()?.into()) };
    let dirichlet = |s, roots| Prior::dirichlet(s, 0.7, roots);
    let mut cases = vec![
        (Forest::chain(6)?, finite(2, 0)?, 0.01),
        (Forest::manual(), dirichlet(3, RootLaw::Uniform)?, 0.01),
        (Forest::from_parents(&[-1, 0, -1, 2])?, dirichlet(3, RootLaw::SharedDirichlet)?, 0.1),
        (Forest::icl(4)?, finite(4, 1)?, 0.05),
    ];
    if settings.thorough {
        cases.push((Forest::icl(7)?, finite(3, 2)?, 0.001));
        cases.push((Forest::from_parents(&[-1, -1, 0, 1, 0, 2])?, dirichlet(4, RootLaw::Uniform)?, 0.01));
    }
    let mut checks = Vec::new();
    for (n, (forest, prior, eps)) in cases.iter().enumerate() {
        let (s, t, n) = (prior.symbols(), forest.seq_len(), n as u64);
        let (a1, a2) = (normals(&key, 2 * n, t * t, 0.7), normals(&key, 2 * n + 1, s * s, 0.7));
        let formula = settings.formulas.gradients(forest, prior, &a1, &a2, *eps)?;
        let formula: Vec<f64> = formula.a1.iter().chain(&formula.a2).copied().collect();
        let label = |c: Check| c.with("S", s).with("T", t).with("parents", parents(forest)).with("ε", eps);

        let brute = population(forest, prior, &a1, &a2, *eps)?;
        let brute: Vec<f64> = brute.a1.iter().chain(&brute.a2).copied().collect();
        checks.push(label(Check::at_most("formula − enumeration", 1e-15, apart(&formula, &brute))));
        let tree = Tree::<f64>::new(forest, prior, *eps, false)?.gradients(&a1, &a2)?.clone();
        let tree: Vec<f64> = tree.a1.iter().chain(&tree.a2).copied().collect();
        checks.push(label(Check::at_most("formula − prefix tree", 1e-15, apart(&formula, &tree))));
        let all: Vec<_> = words(forest, prior)?.collect();
        let automatic = dual::gradient(&all, &a1, &a2, t, s, *eps);
        checks.push(label(Check::at_most("formula − dual numbers", 1e-15, apart(&formula, &automatic))));

        // Five-point differences: an error of h⁴/30 and of u/h.
        let h = 1e-3;
        let mut central = vec![0.0; t * t + s * s];
        for (at, d) in central.iter_mut().enumerate() {
            let loss = |step: f64| -> Result<f64> {
                let (mut b1, mut b2) = (a1.clone(), a2.clone());
                if at < t * t {
                    b1[at] += step
                } else {
                    b2[at - t * t] += step
                }
                Ok(population(forest, prior, &b1, &b2, *eps)?.loss)
            };
            *d = (loss(2.0 * h)? - loss(-2.0 * h)? - 8.0 * (loss(h)? - loss(-h)?)) / (12.0 * h);
        }
        checks.push(label(Check::at_most("formula − differences", 3e-11, apart(&formula, &central))));

        let sums =
            |x: &[f64], n: usize| largest(&x.chunks_exact(n).map(|r| r.iter().sum()).collect::<Vec<f64>>());
        let rows = sums(&formula[..t * t], t).max(sums(&formula[t * t..], s));
        checks.push(label(Check::at_most("largest row sum", 1e-16, rows)));
        checks.push(label(Check::at_most("gradient of A1[1,1]", 0.0, formula[0].abs())));
    }
    Ok(checks)
}
