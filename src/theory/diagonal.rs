//! Claim 5: without constant mean the diagonal can win.

use super::algorithm::{Rates, train};
use super::support::{atoms, lead, shifted, t_eff, transitions};
use super::{Check, Claim, Settings};
use crate::Result;
use crate::exact::counts::leading_averaged;
use crate::exact::marginals::limit_averaged;
use crate::exact::{AtomRoots, FinitePrior};
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "diagonal",
    title: "A lazy chain attends to itself",
    statement: "π = λI + (1 − λ)11ᵀ/S has g_ii = λ(S − 1) > g_{i,p(i)} = λ²(S − 1): without constant mean, j = i is not \
                covered by data processing. Averaged over column shifts, the parent wins again.",
    source: "counterexample of ours: lazy chains",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let (lambda, s) = (0.4, 3);
    let lazy: Vec<f64> =
        (0..s * s).map(|n| (1.0 - lambda) / s as f64 + if n / s == n % s { lambda } else { 0.0 }).collect();
    let alone = FinitePrior::single(s, lazy.clone(), AtomRoots::Stationary)?;
    let mut checks = Vec::new();
    let t = 7;
    let (forest, i) = (Forest::chain(t)?, t - 2);
    let of = transitions(&alone)?;
    let l = limit_averaged(atoms(&of), &forest)?;
    let label = |c: Check| c.with("λ", lambda).with("S", s);
    let [own, parent] = (settings.formulas.lazy)(lambda, s);
    checks.push(label(Check::within("g_ii", own, l.g[i * t + i], 1e-14)));
    checks.push(label(Check::within("g at the parent", parent, l.g[i * t + i - 1], 1e-14)));
    checks.push(label(Check::refutes("lead of the parent in g", 0.0, lead(&l.g, t, i, i - 1))));
    for t in [8, 64] {
        let forest = Forest::chain(t)?;
        let found = leading_averaged(atoms(&of), &forest, 0.0)?;
        let lead = lead(&found, t, t - 2, t - 3);
        let c = Check::refutes("lead of the parent in ĝ", 0.0, lead).with("T", t);
        checks.push(label(c.with("T_eff", t_eff(&forest, l.rho))));
    }
    let closed = shifted(s, lazy)?;
    let mean = limit_averaged(atoms(&transitions(&closed)?), &forest)?;
    let c = Check::at_least(
        "lead of the parent in g, averaged over column shifts",
        0.0,
        lead(&mean.g, t, i, i - 1),
    );
    checks.push(label(c));
    // What training makes of it.
    let rates = Rates { eta1: 300.0, steps1: 150, eta2: 0.0, steps2: 0, ..Rates::default() };
    let run = train(&forest, &alone.into(), &rates)?;
    let attention = run.mix[i * t + i - 1];
    let c = Check::refutes("attention on the parent after stage 1", 0.5, attention);
    checks.push(label(c.with("T", t).with("T_eff", t_eff(&forest, l.rho))));
    checks.push(label(Check::noted("attention on itself after stage 1", run.mix[i * t + i]).with("T", t)));
    Ok(checks)
}
