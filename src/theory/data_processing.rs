//! Data processing: why the parent wins, for every single π.

use super::support::{drawn, key, transitions};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::marginals::limit;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "data-processing",
    title: "Data processing",
    statement: "For every π, forest, i and j other than i and p(i): g_{i,p(i)} − g_ij >= ‖B‖_F²(1 − ‖B‖_op), and ‖B‖_op <= 1.",
    source: "Nichani et al. 2024, the data-processing inequality",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(5);
    let mut checks = Vec::new();
    for alpha in [0.3, 1.0, 5.0] {
        let (mut pairs, mut least, mut tightest, mut norm) = (0, f64::INFINITY, f64::INFINITY, 0.0f64);
        for n in 0..if settings.thorough { 1_000 } else { 200 } {
            let (s, t) = (2 + (n % 5) as usize, 6 + (n % 11) as usize);
            let forest = Forest::random(t, &key, n)?;
            let of = transitions(&drawn(&key, n, s, alpha)?)?;
            let l = limit(&of[0].1, &forest, None)?;
            let square = of[0].1.chi2();
            let bound = (settings.formulas.margin)(square, l.rho);
            norm = norm.max(l.rho);
            for (i, p) in forest.parents().iter().enumerate() {
                let Some(p) = *p else { continue };
                for j in (0..i).filter(|j| *j != p) {
                    let lead = l.g[i * t + p] - l.g[i * t + j];
                    pairs += 1;
                    least = least.min(lead - bound);
                    tightest = tightest.min(lead / bound);
                }
            }
        }
        let label = |c: Check| c.with("α", alpha).with("pairs", pairs).with("S", "2..6");
        // Rounding of g, which is of order 1 here.
        checks.push(label(Check::at_least("least lead − bound", -1e-13, least)));
        checks.push(label(Check::at_least("least lead over the bound", 1.0 - 1e-9, tightest)));
        checks.push(label(Check::at_most("largest ‖B‖_op", 1.0 + 1e-14, norm)));
    }
    Ok(checks)
}
