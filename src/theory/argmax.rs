//! Claim 4: each row of the leading gradient points to the parent.

use super::support::{apart, atoms, drawn, key, lead, transitions};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::counts::leading_averaged;
use crate::exact::effective::effective_length;
use crate::exact::marginals::limit_averaged;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "argmax",
    title: "The parent wins its row",
    statement: "Under constant mean, argmax_j g_ij = p(i) for every i that is not a root. At finite T the same holds of ĝ \
                wherever twice max_j |ĝ_ij − g_ij| is below the row's margin, and need not hold elsewhere. For a \
                single π, whose mean is not constant, others win many rows.",
    source: "Nichani et al. 2024, the argmax of the gradient's rows",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(4);
    let mut checks = Vec::new();
    for alpha in [1.0, 0.2] {
        let (mut rows, mut failures, mut least, mut n) = (0, 0, f64::INFINITY, 0);
        while rows < if settings.thorough { 12_500 } else { 2_500 } {
            let (s, t) = (2 + (n % 3) as usize, 8 + (n % 9) as usize);
            let forest = Forest::random(t, &key, n)?;
            let prior = drawn(&key, n, s, alpha)?.closed_under_column_shifts()?;
            let g = limit_averaged(atoms(&transitions(&prior)?), &forest)?.g;
            for (i, p) in forest.parents().iter().enumerate() {
                let Some(p) = *p else { continue };
                let lead = lead(&g, t, i, p);
                rows += 1;
                failures += usize::from(lead <= 0.0);
                least = least.min(lead / g[i * t + p]);
            }
            n += 1;
        }
        let label = |c: Check| c.with("α", alpha).with("rows", rows);
        checks.push(label(Check::at_most("rows of g won by another", 0.0, failures as f64)));
        checks.push(label(Check::noted("least lead over g at the parent", least)));
    }
    for alpha in [1.0, 0.2] {
        for mean in [true, false] {
            checks.extend(finite(settings, alpha, mean)?);
        }
    }
    Ok(checks)
}

/// Leads below this are ties: ĝ errs by some T u.
const TIE: f64 = 1e-13;

/// Rows of ĝ at T = 5..8 under priors of constant mean, or with a single π each.
fn finite(settings: &Settings, alpha: f64, mean: bool) -> Result<Vec<Check>> {
    let key = key(4);
    let (mut rows, mut failures, mut ties, mut covered, mut broken) = (0, 0, 0, 0, 0);
    let (mut least, mut t_eff) = (f64::INFINITY, f64::INFINITY);
    for n in 0..if settings.thorough { 2_000 } else { 400 } {
        let (s, t) = (2 + (n % 2) as usize, 5 + (n / 2 % 4) as usize);
        let forest = Forest::random(t, &key, 10_000 + n)?;
        let alone = drawn(&key, 10_000 + n, s, alpha)?;
        let of = transitions(&if mean { alone.closed_under_column_shifts()? } else { alone })?;
        let limit = limit_averaged(atoms(&of), &forest)?;
        let found = leading_averaged(atoms(&of), &forest, 0.0)?;
        t_eff = t_eff.min(effective_length(&forest, limit.rho));
        for (i, p) in forest.parents().iter().enumerate() {
            let Some(p) = *p else { continue };
            let row = i * t..i * t + i + 1;
            let (margin, won) = (lead(&limit.g, t, i, p), lead(&found, t, i, p));
            let safe = 2.0 * apart(&found[row.clone()], &limit.g[row]) < margin;
            rows += 1;
            failures += usize::from(won <= -TIE);
            ties += usize::from(won.abs() < TIE);
            covered += usize::from(safe);
            broken += usize::from(safe && won <= 0.0);
            least = least.min(won);
        }
    }
    let label = |c: Check| {
        let c = c.with("α", alpha).with("prior", if mean { "constant mean" } else { "single π" });
        c.with("rows", rows).with("T", "5..8").with("T_eff", format!(">= {t_eff:.2}"))
    };
    let mut checks = vec![
        Check::at_most("rows of ĝ within their margin, won by another", 0.0, broken as f64),
        // The line above says something only about the rows that it covers.
        Check::at_least("rows within their margin", 1.0, covered as f64),
        Check::noted("rows of ĝ that tie", ties as f64),
        Check::noted("least lead of the parent in ĝ", least),
    ];
    checks.push(if mean {
        Check::noted("rows of ĝ won by another", failures as f64)
    } else {
        Check::refutes(
            "rows of ĝ won by the parent, constant mean dropped",
            rows as f64,
            (rows - failures) as f64,
        )
    });
    Ok(checks.into_iter().map(label).collect())
}
