//! Claim 6: two symbols and Dirichlet rows in closed form.

use super::support::{atoms, transitions};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::marginals::limit_averaged;
use crate::exact::quadrature::stationary_pairs;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "two-symbols",
    title: "Two symbols in closed form",
    statement: "S = 2, Dirichlet(α) rows: g_ij = E[λ^{a+b+1}], λ = 1 − p − q; 1/(2(1 + 2α)) at the parent, 0 on the diagonal \
                and at odd powers.",
    source: "derived here: two symbols",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let forest = Forest::from_parents(&[-1, 0, 1, 2, 1])?;
    let t = forest.seq_len();
    let mut checks = Vec::new();
    for alpha in [0.1, 0.5, 1.0] {
        let of = transitions(&stationary_pairs(alpha, if settings.thorough { 24 } else { 12 })?)?;
        let g = limit_averaged(atoms(&of), &forest)?.g;
        let label = |c: Check| c.with("α", alpha);
        checks.push(label(Check::within(
            "g at the parent",
            (settings.formulas.two_symbols)(alpha),
            g[t],
            1e-10,
        )));
        let diagonal = (0..t - 1).map(|i| g[i * t + i].abs()).fold(0.0, f64::max);
        checks.push(label(Check::at_most("largest |g_ii|", 3e-14, diagonal)));
        // Two edges up, and one up and two down: λ³. Three up: λ⁴, as for two siblings' children.
        checks.push(label(Check::at_most("|g| two edges above", 3e-14, g[2 * t].abs())));
        let fourth: f64 = of.iter().map(|(w, x)| w * (x.trace() - 1.0).powi(4)).sum();
        checks.push(label(Check::within("g three edges above, E λ⁴", fourth, g[3 * t], 1e-14)));
        let third = g[4 * t + 2].abs();
        checks.push(label(Check::at_most("|g| at a sibling", 3e-14, third)));
    }
    Ok(checks)
}
