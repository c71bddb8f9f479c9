//! Several parents: the construction answers as the counts do, and equal heads stay equal.

use super::support::{apart, key, normals};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::batch::Targets;
use crate::model::{Disentangled, DisentangledSpec, Model, Report};
use crate::rng::{Key, Purpose};
use crate::source::{Sampled, Source};
use crate::task::bayes_dag::bayes_tuples;
use crate::task::{CausalDag, Dag, DagRoots, Task};

pub(super) const CLAIM: Claim = Claim {
    id: "several-parents",
    title: "Several parents: one head each, which must start apart",
    statement: "With head h of layer 1 on the h-th parent and layer 2 comparing the k copies with weight β, the prediction \
                tends like e^{−βΔ} to the frequencies of what followed the same k tokens (the query's own symbol counted once), \
                and these to the Bayes answer like 1/T. Heads that start equal, with later layers at 0, have equal gradients, \
                exactly, and stay equal; with later layers that tell them apart they do not.",
    source: "Nichani et al. 2024, several parents; the rates are ours",
    run,
};

/// A graph and its task.
struct Case {
    name: &'static str,
    task: CausalDag,
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let graph = |t: usize| -> Result<Vec<(&'static str, Dag)>> {
        Ok(vec![
            ("two_parents", Dag::two_parents(t)?),
            ("random_parents", Dag::named("random_parents", t, Some(2), 1)?),
            ("3-gram", Dag::ngram(t, 2)?),
        ])
    };
    for (name, dag) in graph(12)? {
        let task = CausalDag::new(dag, 3, 0.5, DagRoots::Shared)?;
        let case = Case { name, task };
        in_beta(settings, &case, &mut checks)?;
        by_the_model(settings, &case, &mut checks)?;
    }
    let lengths: &[usize] = if settings.thorough { &[128, 256, 512, 1024, 2048] } else { &[128, 256, 512] };
    let mut points = vec![Vec::new(); 3];
    for &t in lengths {
        for ((_, dag), points) in graph(t)?.into_iter().zip(&mut points) {
            let task = CausalDag::new(dag, 2, 1.0, DagRoots::Uniform)?;
            points.push((t as f64, to_bayes(settings, &task)?));
        }
    }
    for ((name, _), points) in graph(4)?.into_iter().zip(points) {
        let fit = Fit::new("T", "E sup |f − Bayes|", points);
        let c = Check::slope("order of E sup |f − Bayes| in T, β → ∞", -1.0, 0.15, fit);
        checks.push(c.with("graph", name).with("S", 2).with("α", 1));
    }
    equal_heads(&mut checks)?;
    Ok(checks)
}

/// `count` words of a task (count, T).
fn drawn(task: &CausalDag, count: usize) -> Result<Vec<u32>> {
    let source = Sampled::new(task.clone(), Key::new(23, Purpose::Probe));
    let mut batch = source.batch(count)?;
    source.fill(0, count, &mut source.work(), &mut batch);
    Ok(batch.tokens().to_vec())
}

/// z/β (T): how much each position's copies agree with the target's parents. Head h attends to the
/// h-th parent, or to all of what it sees where there is none. The last row serves the target.
fn agreement(settings: &Settings, dag: &Dag, word: &[u32]) -> Vec<f64> {
    let (t, target) = (dag.seq_len(), dag.target());
    let of = |i: usize| {
        let parents = if i + 1 == t { target } else { dag.parents(i) };
        let head = |(h, q): (usize, &usize)| match (settings.formulas.slot)(parents, h) {
            Some(p) => f64::from(u8::from(word[p] == word[*q])),
            None => {
                let same = word[..=i].iter().filter(|c| **c == word[*q]).count();
                same as f64 / (i + 1) as f64
            }
        };
        target.iter().enumerate().map(head).sum()
    };
    (0..t).map(of).collect()
}

/// Σ_i v_i 1[s_i = ·], v = softmax(βz).
fn predict(symbols: usize, word: &[u32], z: &[f64], beta: f64) -> Vec<f64> {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut f = vec![0.0; symbols];
    for (c, z) in word.iter().zip(z) {
        // β = ∞: 0 · ∞ has no value.
        f[*c as usize] += if *z == most { 1.0 } else { (beta * (z - most)).exp() };
    }
    let total: f64 = f.iter().sum();
    f.iter_mut().for_each(|f| *f /= total);
    f
}

fn in_beta(settings: &Settings, case: &Case, checks: &mut Vec<Check>) -> Result<()> {
    let (task, s) = (&case.task, case.task.vocab());
    let words = drawn(task, if settings.thorough { 2000 } else { 300 })?;
    let (mut off, mut tried, mut wrong) = (0.0f64, 0, 0.0f64);
    for word in words.chunks_exact(task.seq_len()) {
        let z = agreement(settings, task.dag(), word);
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let limit = predict(s, word, &z, f64::INFINITY);
        // The frequencies themselves, by their definition: a position counts if every parent holds
        // the token of the target's, and where it has none, everything up to it does.
        let (dag, target) = (task.dag(), task.dag().target());
        let mut counts = vec![0.0; s];
        for (i, c) in word.iter().enumerate() {
            let parents = if i + 1 == word.len() { target } else { dag.parents(i) };
            let agrees = target.iter().enumerate().all(|(h, q)| match parents.get(h) {
                Some(p) => word[*p] == word[*q],
                None => word[..=i].iter().all(|c| *c == word[*q]),
            });
            counts[*c as usize] += f64::from(u8::from(agrees));
        }
        let total: f64 = counts.iter().sum();
        counts.iter_mut().for_each(|c| *c /= total);
        wrong = wrong.max(apart(&counts, &limit));
        let error = |beta: f64| apart(&predict(s, word, &z, beta), &limit);
        let gap = z.iter().map(|z| most - z).filter(|g| *g > 1e-9).fold(f64::INFINITY, f64::min);
        let (low, high) = (20.0 / gap, 28.0 / gap);
        // Where all of the next best hold what the best do, the rate is that of later ones.
        let (x, y) = (error(low), error(high));
        if gap.is_finite() && x > 1e-2 * (-low * gap).exp() {
            tried += 1;
            off = off.max(((y / x).ln() / (high - low) / gap + 1.0).abs());
        }
    }
    let label = |c: Check| c.with("graph", case.name).with("S", s).with("T", task.seq_len());
    checks.push(label(Check::at_most("β → ∞: f − frequencies", 1e-14, wrong)));
    checks.push(label(Check::at_most("rate in β over −Δ, less 1", 2e-2, off).with("words", tried)));
    checks.push(label(Check::at_least("words with a rate", 50.0, f64::from(tried))));
    Ok(())
}

/// The disentangled transformer with the construction as parameters answers as the formula does: f
/// is read off the logits that W = I gives.
fn by_the_model(settings: &Settings, case: &Case, checks: &mut Vec<Check>) -> Result<()> {
    let (task, s, t, beta) = (&case.task, case.task.vocab(), case.task.seq_len(), 5.0);
    let (dag, k) = (task.dag(), task.dag().target().len());
    let model = Disentangled::<f64>::new(s, t, &DisentangledSpec::new(&[k, 1]))?;
    let blocks = model.layout().blocks();
    let mut params = vec![0.0; model.layout().len()];
    // Layer 1: position against position, e^60 to one for the parent.
    let d = s + t;
    for i in 0..t {
        let parents = if i + 1 == t { dag.target() } else { dag.parents(i) };
        for (h, p) in parents.iter().enumerate().take(k) {
            params[blocks[0].range().start + (h * d + s + i) * d + s + p] = 60.0;
        }
    }
    // Layer 2: token against token of each copy. W: the token that layer 2 finds.
    let wide = d * (1 + k);
    for h in 0..k {
        for c in 0..s {
            let at = d * (1 + h) + c;
            params[blocks[1].range().start + at * wide + at] = beta;
        }
    }
    (0..s).for_each(|c| params[blocks[2].range().start + (wide + c) * s + c] = 1.0);
    let count = 64;
    let source = Sampled::new(task.clone(), Key::new(23, Purpose::Probe));
    let mut batch = source.batch(count)?;
    source.fill(0, count, &mut source.work(), &mut batch);
    let mut report = Report::new(&model, Targets::Law, count, false, true);
    model.report(&params, &batch, &mut model.workspace(Targets::Law, count)?, &mut report)?;
    let mut off = 0.0f64;
    for (n, probs) in report.probs.chunks_exact(s).enumerate() {
        let word = batch.sequence(n);
        let f = predict(s, word, &agreement(settings, dag, word), beta);
        // log p̂ is f up to a constant.
        let differences = (1..s).map(|c| (probs[c] / probs[0]).ln() - (f[c] - f[0]));
        off = differences.fold(off, |m, x| m.max(x.abs()));
    }
    let c = Check::at_most("disentangled transformer − formula, at β = 5", 1e-12, off);
    checks.push(c.with("graph", case.name).with("S", s).with("T", t).with("words", count));
    Ok(())
}

/// E sup |f − Bayes| at β = ∞.
fn to_bayes(settings: &Settings, task: &CausalDag) -> Result<f64> {
    let count = if settings.thorough { 8000 } else { 1500 };
    let words = drawn(task, count)?;
    let (mut bayes, mut sum) = (vec![0.0; task.vocab()], 0.0);
    for word in words.chunks_exact(task.seq_len()) {
        bayes_tuples(task, word, &mut bayes);
        let z = agreement(settings, task.dag(), word);
        sum += apart(&predict(task.vocab(), word, &z, f64::INFINITY), &bayes);
    }
    Ok(sum / count as f64)
}

/// Gradient descent on sampled batches from heads that are equal, and from heads that are not.
fn equal_heads(checks: &mut Vec<Check>) -> Result<()> {
    let (t, s, count, steps) = (8, 3, 64, 20);
    let task = CausalDag::new(Dag::two_parents(t)?, s, 0.3, DagRoots::Shared)?;
    let source = Sampled::new(task, Key::new(24, Purpose::Probe));
    let model = Disentangled::<f64>::new(s, t, &DisentangledSpec::new(&[2, 1]))?;
    let layout = model.layout().clone();
    let heads = layout.blocks()[0].range();
    let half = heads.len() / 2;
    for (name, scale, later) in
        [("equal", 0.0, 0.0), ("apart by 1e-4", 1e-4, 0.0), ("equal, later layers Gaussian", 0.0, 0.3)]
    {
        // Layer 2 and W from 0 tell the heads apart no more than the heads themselves do.
        let mut params = normals(&key(25), 2, layout.len(), later);
        let (first, second) = params[heads.clone()].split_at_mut(half);
        first.copy_from_slice(&normals(&key(25), 0, half, 0.3));
        second.copy_from_slice(first);
        second.iter_mut().zip(normals(&key(25), 1, half, scale)).for_each(|(p, x)| *p += x);
        let mut batch = source.batch(count)?;
        let mut ws = model.workspace(Targets::Law, count)?;
        let mut grad = vec![0.0; layout.len()];
        let (mut of_grad, mut of_params) = (0.0f64, 0.0f64);
        for step in 0..steps {
            source.fill(step * count as u64, count, &mut source.work(), &mut batch);
            let active = vec![true; layout.blocks().len()];
            model.loss_and_grad(&params, &batch, &active, &mut ws, &mut grad)?;
            let halves = |x: &[f64]| {
                let x = &x[heads.clone()];
                apart(&x[..half], &x[half..])
            };
            of_grad = of_grad.max(halves(&grad));
            params.iter_mut().zip(&grad).for_each(|(p, g)| *p -= g / count as f64);
            of_params = of_params.max(halves(&params));
        }
        let label = |c: Check| c.with("heads at the start", name).with("steps", steps);
        if scale == 0.0 && later == 0.0 {
            checks.push(label(Check::at_most("largest difference of the heads' gradients", 0.0, of_grad)));
            checks.push(label(Check::at_most("largest difference of the heads", 0.0, of_params)));
        } else {
            let c = Check::at_least("largest difference of the heads' gradients", 1e-6, of_grad);
            checks.push(label(c));
        }
    }
    Ok(())
}
