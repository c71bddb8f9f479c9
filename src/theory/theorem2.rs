//! Theorem 2 at finite T: what was learned predicts transitions that the prior never drew.

use super::algorithm::{Rates, train};
use super::population::Population;
use super::support::{Graphs, atoms, drawn, key, transitions};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::counts::leading_averaged;
use crate::exact::effective::effective_length;
use crate::exact::quadrature::stationary_pairs;
use crate::exact::transition::Transition;
use crate::exact::{AtomRoots, FinitePrior};
use crate::num::Sum;
use crate::rng::Key;
use crate::task::Forest;
use rayon::prelude::*;

pub(super) const CLAIM: Claim = Claim {
    id: "theorem2",
    title: "Theorem 2 at finite T: other transitions",
    statement: "For a fixed π̃ that was not trained on, sup_{s'} |f(s') − π̃(s'|s_T)| is small, and falls like a \
                power of T_eff; in the limit of the learned parameters, the induction head, like T_eff^-½.",
    source: "Nichani et al. 2024, Theorem 2",
    run,
};

/// Transitions no atom of the training prior has.
const FRESH: [[f64; 4]; 3] = [[0.9, 0.1, 0.2, 0.8], [0.3, 0.7, 0.6, 0.4], [0.5, 0.5, 0.95, 0.05]];

/// γ of a training prior with rows of at least γ/S; so have those of [`FRESH`].
const FLOOR: f64 = 0.1;

const GRAPHS: [Graphs; 2] = [("chain", Forest::chain), ("icl", Forest::icl)];

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let dirichlet = stationary_pairs(0.5, 6)?;
    let floored = dirichlet.floored(FLOOR, AtomRoots::Stationary)?;
    let mut checks = learned(settings, "Dirichlet(1/2)", dirichlet)?;
    checks.extend(learned(settings, "γ = 1/10, floored Dirichlet(1/2)", floored)?);
    checks.extend(long(settings)?);
    checks.extend(construction(settings)?);
    Ok(checks)
}

/// Exactly, on parameters that Algorithm 1 learned on the whole population.
fn learned(settings: &Settings, name: &str, prior: FinitePrior) -> Result<Vec<Check>> {
    let prior = prior.into();
    let lengths: &[usize] = if settings.thorough { &[5, 8, 11, 14, 17] } else { &[5, 8, 11, 14] };
    let (mut checks, mut points) = (Vec::new(), vec![Vec::new(); FRESH.len()]);
    for &t in lengths {
        let forest = Forest::chain(t)?;
        let trained = train(&forest, &prior, &Rates::default())?;
        for (pi, points) in FRESH.iter().zip(&mut points) {
            let rho = Transition::new(2, pi)?.rho();
            let fresh = FinitePrior::single(2, pi.to_vec(), AtomRoots::Stationary)?;
            let population = Population::new(&forest, &fresh.into())?;
            let f = population.predictions(&trained.a1, &trained.a2);
            let mut error = Sum::new();
            for ((word, w), f) in population.words().zip(f.chunks_exact(2)) {
                let row = &pi[word[t - 1] as usize * 2..][..2];
                error.add(w.iter().sum::<f64>() * (f[0] - row[0]).abs().max((f[1] - row[1]).abs()));
            }
            let t_eff = effective_length(&forest, rho);
            points.push((t_eff, error.value()));
            let c = Check::noted("E sup |f − π̃|, learned parameters", error.value());
            let c = c.with("π̃", format!("{pi:?}")).with("T", t).with("T_eff", format!("{t_eff:.2}"));
            checks.push(c.with("prior", name));
        }
    }
    for (pi, points) in FRESH.iter().zip(points) {
        let fit = Fit::new("T_eff", "E sup |f − π̃|", points);
        let c = Check::at_most("order of E sup |f − π̃| in T_eff, learned", -0.25, fit.slope).plotted(fit);
        checks.push(c.with("π̃", format!("{pi:?}")).with("graph", "chain").with("prior", name));
    }
    Ok(checks)
}

/// Lengths out of reach of enumeration: stage 1 by its leading order, whose ĝ is exact, stage 2 by
/// its limit A2 = βI.
fn long(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(9);
    let prior = drawn(&key, 0, 2, 1.0)?.closed_under_column_shifts()?;
    let of = transitions(&prior)?;
    let words = if settings.thorough { 16_000 } else { 4_000 };
    let lengths: &[usize] = if settings.thorough { &[32, 64, 128, 256, 512] } else { &[32, 64, 128, 256] };
    let mut checks = Vec::new();
    for (name, graph) in GRAPHS {
        let mut points = vec![Vec::new(); FRESH.len()];
        for &t in lengths {
            let forest = graph(t)?;
            let g = leading_averaged(atoms(&of), &forest, 0.01)?;
            let mut a1 = vec![0.0; t * t];
            // Long enough for attention 1 − O(1/T).
            let eta = 4000.0 * t as f64;
            for _ in 0..200 {
                let step = settings.formulas.leading(0.1, 2, t, &a1, &g);
                a1.iter_mut().zip(step).for_each(|(a, s)| *a += eta * s);
            }
            let mix = settings.formulas.mix(&a1, t);
            let edges = forest.parents().iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?)));
            let least = edges.map(|(i, p)| mix[i * t + p]).fold(1.0, f64::min);
            let c = Check::at_most("T (1 − least attention on a parent)", 1.0, t as f64 * (1.0 - least));
            checks.push(c.with("graph", name).with("T", t));
            let beta = 4.0 * (t as f64).ln();
            for (n, (pi, points)) in FRESH.iter().zip(&mut points).enumerate() {
                let transition = Transition::new(2, pi)?;
                let draw = Draw { forest: &forest, transition: &transition, key: &key, stream: n as u64 };
                let error = draw.mean_error(words, |word, i| {
                    let row = &mix[i * t..i * t + i + 1];
                    let z: f64 =
                        row.iter().zip(word).filter(|(_, c)| **c == word[t - 1]).map(|(m, _)| m).sum();
                    (beta * (z - 1.0)).exp()
                });
                let t_eff = effective_length(&forest, transition.rho());
                points.push((t_eff, error));
                let c = Check::noted("E sup |f − π̃|, leading order, A2 = 4 log T I", error);
                let c = c.with("graph", name).with("π̃", format!("{pi:?}")).with("T", t);
                checks.push(c.with("T_eff", format!("{t_eff:.1}")));
            }
        }
        for (pi, points) in FRESH.iter().zip(points) {
            let fit = Fit::new("T_eff", "E sup |f − π̃|", points);
            let c = Check::at_most("order of E sup |f − π̃| in T_eff", -0.25, fit.slope).plotted(fit);
            checks.push(c.with("graph", name).with("π̃", format!("{pi:?}")).with("words", words));
        }
    }
    Ok(checks)
}

/// What the learned parameters tend to, the induction head: f is the mean over edges that leave the
/// query's symbol, position 1 if it holds that symbol, and the query. With T/S edges to count, its
/// error falls like T^-½.
fn construction(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(10);
    let words = if settings.thorough { 32_000 } else { 8_000 };
    let mut checks = Vec::new();
    for (name, graph) in GRAPHS {
        for (n, pi) in FRESH.iter().enumerate() {
            let transition = Transition::new(2, pi)?;
            let mut points = Vec::new();
            for t in [512, 1024, 2048] {
                let forest = graph(t)?;
                let draw = Draw { forest: &forest, transition: &transition, key: &key, stream: n as u64 };
                let error = draw.mean_error(words, |word, i| {
                    let from =
                        if i == 0 || i == t - 1 { Some(i) } else { (settings.formulas.parent)(&forest, i) };
                    f64::from(u8::from(from.is_some_and(|p| word[p] == word[t - 1])))
                });
                points.push((effective_length(&forest, transition.rho()), error));
            }
            let fit = Fit::new("T_eff", "E sup |f − π̃|", points);
            let c = Check::slope("order of E sup |f − π̃| in T_eff, induction head", -0.5, 0.05, fit);
            checks.push(
                c.with("graph", name)
                    .with("π̃", format!("{pi:?}"))
                    .with("T", "512..2048")
                    .with("words", words),
            );
        }
    }
    Ok(checks)
}

/// Words of a forest under one π, two symbols, roots ∼ μ.
struct Draw<'a> {
    forest: &'a Forest,
    transition: &'a Transition,
    key: &'a Key,
    stream: u64,
}

impl Draw<'_> {
    /// Mean over words of max_{s'} |f(s') − π(s'|s_T)|, f the mean of the symbols weighted by
    /// `weight(word, i)`.
    fn mean_error(&self, words: u64, weight: impl Fn(&[usize], usize) -> f64 + Sync) -> f64 {
        let (t, pi, mu) = (self.forest.seq_len(), self.transition.pi(), self.transition.mu());
        let error = |n: u64| {
            let mut word = Vec::with_capacity(t);
            let mut pair = [0.0; 2];
            for i in 0..t {
                if i % 2 == 0 {
                    pair = self.key.uniforms((self.stream << 32) + n, (i / 2) as u32, 0);
                }
                let first =
                    if i == t - 1 { 0.5 } else { self.forest.parent(i).map_or(mu[0], |p| pi[2 * word[p]]) };
                word.push(usize::from(pair[i % 2] >= first));
            }
            let mut f = [0.0; 2];
            (0..t).for_each(|i| f[word[i]] += weight(&word, i));
            (f[0] / (f[0] + f[1]) - pi[2 * word[t - 1]]).abs()
        };
        let errors: Vec<f64> = (0..words).into_par_iter().map(error).collect();
        errors.into_iter().collect::<Sum>().value() / words as f64
    }
}
