//! Claims 9 and 11 for any bigrams: the chain of N x 2 states, averaged over trigger and output.

use super::plain::{Block, Plain};
use super::support::{apart, largest};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::trigger_chain::{Averaged, Word, words};
use crate::task::trigger_bigram::Bigrams;

pub(super) const CLAIM: Claim = Claim {
    id: "bigram-steps",
    title: "The three steps under any bigrams",
    statement: "With q uniform, o uniform among the others and any bigram law, the three steps are averages of moments of the chain \
                of N x 2 states over all (q, o): step 1 exactly, steps 2 and 3 up to a relative O(η₁), step 3 up to O(C²). \
                Uniform bigrams give the lumped chain's steps.",
    source: "Bietti et al. 2023, the three gradient steps without uniform tokens; the closed forms are ours",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let averaged = settings.formulas.memory.averaged;
    let mut checks = Vec::new();
    for (n, t) in if settings.thorough { &[(3, 5), (6, 9), (20, 24)][..] } else { &[(3, 5), (6, 9)] } {
        lumped(&averaged(&vec![1.0 / *n as f64; *n], &vec![1.0 / *n as f64; n * n], *t)?, *n, *t, settings)?
            .into_iter()
            .for_each(|c| checks.push(c.with("N", n).with("T", t)));
    }
    for (n, t, alpha) in [(3, 6, 1.0), (4, 5, 0.5)] {
        let laws = Bigrams::dirichlet(n, alpha, 21)?;
        let (start, pi) = (laws.unigram(), laws.bigram());
        let found = averaged(start, pi, t)?;
        enumerated(&found, start, pi, t)?
            .into_iter()
            .for_each(|c| checks.push(c.with("N", n).with("T", t).with("α", alpha)));
    }
    let laws = Bigrams::dirichlet(5, 1.0, 22)?;
    checks.push(relabelled(averaged, laws.unigram(), laws.bigram(), 7)?);
    Ok(checks)
}

/// Against the steps for uniform tokens.
fn lumped(found: &Averaged, n: usize, t: usize, settings: &Settings) -> Result<Vec<Check>> {
    let steps = (settings.formulas.memory.steps)(n, t)?;
    let relative = |x: f64, y: f64| (x / y - 1.0).abs();
    let gap = |table: &[f64]| table[0] - table[1];
    // Rows of the table of −∇W_K² sum to 0 over its columns: w_E(q) w_1(q)ᵀ has N − 1 times what
    // all others have.
    let own = found.key_own[0] * n as f64 / (n - 1) as f64;
    let mut checks = Vec::new();
    for (name, x, y) in [
        ("a", gap(&found.token), steps.token),
        ("a'", gap(&found.average), steps.average),
        ("key gap", own, steps.key_gap),
    ] {
        checks.push(Check::at_most(
            format!("{name}: relative difference from the lumped chain"),
            1e-12,
            relative(x, y),
        ));
    }
    let rows = &steps.rows;
    for (name, x, y) in [
        ("c_v", &found.value, &rows.value),
        ("c_k", &found.key, &rows.key),
        ("c_x", &found.cross, &rows.cross),
    ] {
        let off = apart(x, y) / largest(y);
        checks.push(Check::at_most(format!("{name}: relative difference from the lumped chain"), 1e-12, off));
    }
    Ok(checks)
}

/// All sequences of all pairs.
pub(super) fn all_words(start: &[f64], pi: &[f64], t: usize) -> Result<Vec<Word>> {
    let n = start.len();
    let mut out = Vec::new();
    for q in 0..n {
        for o in (0..n).filter(|o| *o != q) {
            let share = 1.0 / (n * (n - 1)) as f64;
            let of = words(start, pi, q, o, t)?;
            out.extend(of.into_iter().map(|w| Word { weight: share * w.weight, ..w }));
        }
    }
    Ok(out)
}

fn enumerated(found: &Averaged, start: &[f64], pi: &[f64], t: usize) -> Result<Vec<Check>> {
    let n = start.len();
    let (b, all) = (n + t, all_words(start, pi, t)?);
    let mut checks = Vec::new();
    let zero = Plain::zero(n, t);
    let step = zero.descent(&all, Block::O2);
    // Token columns, then those of their images; positions get nothing.
    let mut expected = vec![0.0; n * 2 * b];
    for k in 0..n {
        for v in 0..n {
            expected[k * 2 * b + v] = found.token[k * n + v];
            expected[k * 2 * b + b + v] = found.average[k * n + v];
        }
    }
    let off = apart(&step, &expected) / largest(&step);
    checks.push(Check::at_most("step 1 − enumeration, relative", 1e-13, off));
    let after = |eta: f64| {
        let mut model = zero.clone();
        model.o2.iter_mut().zip(&step).for_each(|(x, d)| *x = eta * d);
        model
    };
    let per = |x: Vec<f64>, by: f64| -> Vec<f64> { x.iter().map(|x| x / by).collect() };
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for eta in [1e-1, 1e-2, 1e-3, 1e-4] {
        let model = after(eta);
        let k2 = per(model.descent(&all, Block::K2), eta);
        let own: Vec<f64> = (0..n).map(|q| k2[q * 2 * b + b + q]).collect();
        keys.push((eta, apart(&own, &found.key_own) / largest(&own)));
        let third = per(model.positions(&model.descent(&all, Block::K1)), eta);
        values.push((eta, apart(&third, &found.value) / largest(&third)));
    }
    for (name, points) in [("step 2", keys), ("c_v", values)] {
        let fit = Fit::new("η₁", &format!("relative error of {name}"), points);
        checks.push(Check::at_most(format!("{name}: relative error at η₁ = 1e-4"), 1e-5, fit.points[3].1));
        checks.push(Check::slope(format!("{name}: order of the error in η₁"), 1.0, 0.05, fit));
    }
    let eta = 1e-6;
    let third = |c: f64| {
        let mut model = after(eta);
        model.set_keys(c);
        per(model.positions(&model.descent(&all, Block::K1)), eta)
    };
    let linear: Vec<f64> = found.key.iter().zip(&found.cross).map(|(k, x)| k + x).collect();
    let still = third(0.0);
    let points = [1e-1, 1e-2, 1e-3]
        .map(|c| {
            let slope: Vec<f64> = third(c).iter().zip(&still).map(|(x, y)| (x - y) / c).collect();
            (c, apart(&slope, &linear) / largest(&linear))
        })
        .to_vec();
    checks.push(Check::at_most("c_k + c_x: relative error at C = 1e-3", 1e-2, points[2].1));
    let fit = Fit::new("C", "relative error of c_k + c_x", points);
    checks.push(Check::slope("c_k + c_x: order of the error in C", 1.0, 0.05, fit));
    Ok(checks)
}

/// Reversing the symbols reverses the tables and leaves those of positions.
fn relabelled(
    averaged: fn(&[f64], &[f64], usize) -> Result<Averaged>,
    start: &[f64],
    pi: &[f64],
    t: usize,
) -> Result<Check> {
    let back = |x: &[f64]| x.iter().rev().copied().collect::<Vec<f64>>();
    let (one, two) = (averaged(start, pi, t)?, averaged(&back(start), &back(pi), t)?);
    let tables = [
        (&one.token, back(&two.token)),
        (&one.average, back(&two.average)),
        (&one.key_own, back(&two.key_own)),
    ];
    let rows =
        [(&one.key, two.key.clone()), (&one.cross, two.cross.clone()), (&one.value, two.value.clone())];
    let off = tables.iter().chain(&rows).map(|(x, y)| apart(x, y) / largest(x)).fold(0.0, f64::max);
    Ok(Check::at_most("symbols renamed: relative difference", 1e-12, off).with("N", start.len()).with("T", t))
}
