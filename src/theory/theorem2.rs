//! Theorem 2 at finite T: what was learned predicts transitions that the prior never drew.

use super::algorithm::{Rates, train};
use super::population::Population;
use super::support::{atoms, drawn, key, transitions};
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
    statement: "For a fixed π̃ that was not trained on, sup_{s'} |f(s') − π̃(s'|s_T)| is small, and falls with T_eff.",
    source: "paper 1, Theorem 2; theory 1.2",
    run,
};

/// Transitions no atom of the training prior has.
const FRESH: [[f64; 4]; 3] = [[0.9, 0.1, 0.2, 0.8], [0.3, 0.7, 0.6, 0.4], [0.5, 0.5, 0.95, 0.05]];

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let mut checks = learned(settings)?;
    checks.extend(long(settings)?);
    Ok(checks)
}

/// Exactly, on parameters that Algorithm 1 learned on the whole population.
fn learned(settings: &Settings) -> Result<Vec<Check>> {
    let prior = stationary_pairs(0.5, 6)?;
    let lengths: &[usize] = if settings.thorough { &[5, 7, 9, 11, 13] } else { &[5, 7, 9] };
    let (mut checks, mut points) = (Vec::new(), vec![Vec::new(); FRESH.len()]);
    for &t in lengths {
        let forest = Forest::chain(t)?;
        let trained = train(&Population::new(&forest, &prior.clone().into())?, &forest, 2, &Rates::default());
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
            checks.push(c.with("π̃", format!("{pi:?}")).with("T", t).with("T_eff", format!("{t_eff:.2}")));
        }
    }
    for (pi, points) in FRESH.iter().zip(points) {
        let fit = Fit::new("T_eff", "E sup |f − π̃|", points);
        let c = Check::at_most("order of E sup |f − π̃| in T_eff", 0.0, fit.slope).plotted(fit);
        checks.push(c.with("π̃", format!("{pi:?}")).with("graph", "chain"));
    }
    Ok(checks)
}

/// Lengths out of reach of enumeration: stage 1 by its leading order, whose ĝ is exact, stage 2 by its limit A2 = βI.
fn long(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(9);
    let prior = drawn(&key, 0, 2, 1.0)?.closed_under_column_shifts()?;
    let of = transitions(&prior)?;
    let words = if settings.thorough { 16_000 } else { 4_000 };
    let lengths: &[usize] = if settings.thorough { &[32, 64, 128, 256, 512] } else { &[32, 64, 128, 256] };
    let graphs: [(&str, fn(usize) -> Result<Forest>); 2] = [("chain", Forest::chain), ("icl", Forest::icl)];
    let mut checks = Vec::new();
    for (name, graph) in graphs {
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
                let error = sampled(&forest, &transition, &mix, beta, words, &key, n as u64);
                let t_eff = effective_length(&forest, transition.rho());
                points.push((t_eff, error));
                let c = Check::noted("E sup |f − π̃|, leading order, A2 = 4 log T I", error);
                let c = c.with("graph", name).with("π̃", format!("{pi:?}")).with("T", t);
                checks.push(c.with("T_eff", format!("{t_eff:.1}")));
            }
        }
        for (pi, points) in FRESH.iter().zip(points) {
            let fit = Fit::new("T_eff", "E sup |f − π̃|", points);
            let c = Check::slope("order of E sup |f − π̃| in T_eff", -0.5, 0.05, fit);
            checks.push(c.with("graph", name).with("π̃", format!("{pi:?}")).with("words", words));
        }
    }
    Ok(checks)
}

/// Mean over `words` sampled words of max_{s'} |f(s') − π̃(s'|s_T)| at A2 = βI, two symbols.
fn sampled(
    forest: &Forest,
    transition: &Transition,
    mix: &[f64],
    beta: f64,
    words: u64,
    key: &Key,
    stream: u64,
) -> f64 {
    let (t, pi, mu) = (forest.seq_len(), transition.pi(), transition.mu());
    let errors: Vec<f64> = (0..words)
        .into_par_iter()
        .map(|n| {
            let draw =
                |i: usize, first: f64| usize::from(key.uniforms((stream << 32) + n, i as u32, 0)[0] >= first);
            let mut word = Vec::with_capacity(t);
            for i in 0..t - 1 {
                word.push(draw(i, forest.parent(i).map_or(mu[0], |p| pi[2 * word[p]])));
            }
            word.push(draw(t - 1, 0.5));
            let query = word[t - 1];
            let mut f = [0.0; 2];
            for i in 0..t {
                let row = &mix[i * t..i * t + i + 1];
                let z: f64 = row.iter().zip(&word).filter(|(_, c)| **c == query).map(|(m, _)| m).sum();
                f[word[i]] += (beta * (z - 1.0)).exp();
            }
            (f[0] / (f[0] + f[1]) - pi[2 * query]).abs()
        })
        .collect();
    errors.into_iter().collect::<Sum>().value() / words as f64
}
