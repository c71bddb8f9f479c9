//! Theorem 1 at finite T: what Algorithm 1 learns, exactly.

use super::algorithm::{Rates, posterior_loss, train};
use super::population::Population;
use super::support::{Graphs, atoms, transitions};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::marginals::limit_averaged;
use crate::exact::quadrature::stationary_pairs;
use crate::exact::{AtomRoots, FinitePrior};
use crate::num::Sum;
use crate::task::Forest;

pub(super) const CLAIM: Claim = Claim {
    id: "theorem1",
    title: "Theorem 1 at finite T",
    statement: "After Algorithm 1, attention on every parent is 1 − O(1/T), and L − L* <~ log T/T_eff^c with some c > 0, \
                L* = E_π[(1/S) Σ_s H(π(·|s))]. T_eff by our definition.",
    source: "Nichani et al. 2024, Theorem 1",
    run,
};

/// γ of the prior whose rows are at least γ/S, as the theorem assumes.
const FLOOR: f64 = 0.2;

/// L*.
fn entropy(prior: &FinitePrior) -> f64 {
    let (s, mut sum) = (prior.symbols(), Sum::new());
    for q in 0..prior.atoms() {
        let terms = prior.atom_pi(q).iter().filter(|p| **p > 0.0);
        terms.for_each(|p| sum.add(-prior.weight()[q] / s as f64 * p * p.ln()));
    }
    sum.value()
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let dirichlet = stationary_pairs(0.5, 6)?;
    let floored = dirichlet.floored(FLOOR, AtomRoots::Stationary)?;
    let mut checks = under(settings, "Dirichlet(1/2)", &dirichlet)?;
    checks.extend(under(settings, "γ = 1/5, floored Dirichlet(1/2)", &floored)?);
    Ok(checks)
}

fn under(settings: &Settings, name_of_prior: &str, prior: &FinitePrior) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let of = transitions(prior)?;
    let floor = entropy(prior);
    let graphs: [Graphs; 2] = [("chain", Forest::chain), ("icl", Forest::icl)];
    let lengths: &[usize] = if settings.thorough { &[5, 8, 11, 14, 17] } else { &[5, 8, 11, 14] };
    for (name, graph) in graphs {
        let (mut gaps, mut misses) = (Vec::new(), Vec::new());
        for &t in lengths {
            let forest = graph(t)?;
            let rho = limit_averaged(atoms(&of), &forest)?.rho;
            let t_eff = settings.formulas.effective_length(&forest, rho)?;
            let mixture = prior.clone().into();
            // What attention lacks falls like T/(η₁ τ₁) in the end: this leaves room for O(1/T).
            let rates = Rates { eta1: 4000.0 * (t as f64 / 8.0).powi(3), ..Rates::default() };
            let trained = train(&forest, &mixture, &rates)?;
            let miss = 1.0 - trained.least_attention(&forest);
            let gap = trained.losses[2] - floor;
            gaps.push((t_eff, gap));
            misses.push((t as f64, miss));
            let label = |c: Check| {
                c.with("graph", name)
                    .with("T", t)
                    .with("T_eff", format!("{t_eff:.2}"))
                    .with("S", 2)
                    .with("prior", name_of_prior)
            };
            checks.push(label(Check::at_most("T (1 − least attention on a parent)", 1.0, t as f64 * miss)));
            checks.push(label(Check::at_most(
                "(L − L*) T_eff^½ / log T",
                1.0,
                gap * t_eff.sqrt() / (t as f64).ln(),
            )));
            checks.push(label(Check::noted("L − L*", gap)));
            let best = posterior_loss(&Population::new(&forest, &mixture)?);
            checks.push(label(Check::noted("L of the posterior − L*", best - floor)));
            checks.push(label(Check::at_least("L − L of the posterior", 0.0, trained.losses[2] - best)));
        }
        let fit = Fit::new("T_eff", "L − L*", gaps);
        let c = Check::at_most("order of L − L* in T_eff", -0.25, fit.slope).plotted(fit);
        checks.push(c.with("graph", name).with("prior", name_of_prior));
        let fit = Fit::new("T", "1 − least attention", misses);
        checks.push(
            Check::at_most("order of 1 − attention in T", -1.0, fit.slope)
                .plotted(fit)
                .with("graph", name)
                .with("prior", name_of_prior),
        );
    }
    Ok(checks)
}
