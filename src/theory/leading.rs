//! Claim 2: what A1's gradient is to first order in β₀.

use super::support::{atoms, drawn, key, norm, normals, pair, t_eff, transitions};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::Tree;
use crate::exact::counts::leading_averaged;
use crate::exact::marginals::limit_averaged;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "leading",
    title: "Leading order in β₀",
    statement: "At A2 = β₀I and any A1, −∂L/∂A1[i,·] = β₀/(ST) J(M_i) ĝ_i + O(β₀²), ĝ independent of A1.",
    source: "Nichani et al. 2024, the leading order of the gradient",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(2);
    let mut cases = vec![
        (Forest::chain(6)?, pair()?, 0.01),
        (
            Forest::from_parents(&[-1, 0, 0, -1, 3])?,
            drawn(&key, 0, 3, 1.0)?.closed_under_column_shifts()?,
            0.05,
        ),
    ];
    if settings.thorough {
        cases.push((Forest::icl(10)?, pair()?, 0.0));
        cases.push((Forest::manual(), drawn(&key, 1, 4, 1.0)?, 0.01));
    }
    let mut checks = Vec::new();
    for (n, (forest, prior, eps)) in cases.into_iter().enumerate() {
        let (s, t) = (prior.symbols(), forest.seq_len());
        let of = transitions(&prior)?;
        let rho = limit_averaged(atoms(&of), &forest)?.rho;
        let g = leading_averaged(atoms(&of), &forest, eps)?;
        let a1 = normals(&key, n as u64, t * t, 1.0);
        let mut tree = Tree::<f64>::new(&forest, &prior.into(), eps, false)?;
        let mut points = Vec::new();
        for beta in [1e-1, 1e-2, 1e-3, 1e-4] {
            let a2: Vec<f64> = (0..s * s).map(|n| if n / s == n % s { beta } else { 0.0 }).collect();
            let exact = &tree.gradients(&a1, &a2)?.a1;
            let leading = settings.formulas.leading(beta, s, t, &a1, &g);
            let off: Vec<f64> = exact.iter().zip(&leading).map(|(x, y)| x - y).collect();
            points.push((beta, norm(&off) / norm(&leading)));
        }
        let (beta, smallest) = points[3];
        let label = |c: Check| c.with("S", s).with("T", t).with("ε", eps).with("T_eff", t_eff(&forest, rho));
        checks.push(label(Check::at_most("relative remainder", 1e-3, smallest).with("β₀", beta)));
        let fit = Fit::new("β₀", "relative remainder", points);
        checks.push(label(Check::slope("order of the remainder", 1.0, 0.02, fit)));
    }
    Ok(checks)
}
