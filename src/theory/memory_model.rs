//! The engine's `memory` is the model of the three steps, and lemmas 1 to 3 are its gradients; what
//! is left of the steps at finite d.
//!
//! The basis of [`Plain`] as coordinates of R^d, d = 4B + N, B = N + T: w_E(v) and p_t, their
//! images under Φ₁, the images of both under W_V², w_U(k). Every map shifts coordinates.

use super::any_bigrams::all_words;
use super::first_steps::{after_first, uniform_words};
use super::memory_formulas::Labelled;
use super::plain::{Block, Plain};
use super::support::{apart, key, largest, norm, normals};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::batch::{Batch, Targets, divisor};
use crate::exact::trigger_chain::Word;
use crate::model::{FeedForward, Memories, Memory, MemorySpec, Model, Output, Report};
use crate::num::Sum;
use crate::probe::memory::{Asked, memories};
use crate::rng::Key;
use crate::task::trigger_bigram::Bigrams;

pub(super) const CLAIM: Claim = Claim {
    id: "memory-model",
    title: "The engine's model and the theory's",
    statement: "`memory` with orthonormal embeddings (d = 4(N + T) + N) has on all sequences the gradients of the model of the three steps, \
                and their gaps; lemmas 1 to 3 are its gradients in W_F, W_O² and W_K². The construction, \
                written down, is recalled and predicts o. With Gaussian embeddings of d dimensions the first two steps differ \
                from the orthonormal ones by order 1/√d.",
    source: "Bietti et al. 2023, lemmas and gradient steps; the construction of the basis is ours",
    run,
};

const WK1: &str = "layers.0.attention.wk.weight";
const WV1: &str = "layers.0.attention.wv.weight";
const WO1: &str = "layers.0.attention.wo.weight";
const WK2: &str = "layers.1.attention.wk.weight";
const WV2: &str = "layers.1.attention.wv.weight";
const WO2: &str = "layers.1.attention.wo.weight";
const FF2: &str = "layers.1.ff.weight";

/// The engine with parameters.
struct Engine {
    model: Memory<f64>,
    params: Vec<f64>,
    n: usize,
    t: usize,
    d: usize,
}

impl Engine {
    /// All parameters zero.
    fn zero(n: usize, t: usize, d: usize, ff: FeedForward) -> Result<Self> {
        let spec = MemorySpec {
            dim: d,
            ff2: ff,
            output: Output::Frozen,
            scale_scores: false,
            ..MemorySpec::default()
        };
        let model = Memory::new(n, t, &spec)?;
        let params = vec![0.0; model.layout().len()];
        Ok(Engine { model, params, n, t, d })
    }

    /// A block, to write.
    fn set(&mut self, name: &str) -> &mut [f64] {
        let range = self.model.layout().find(name).expect("a block of this model").range();
        &mut self.params[range]
    }

    /// `plain` in its basis.
    fn orthonormal(plain: &Plain, ff: FeedForward) -> Result<Self> {
        let (n, t, b) = (plain.tokens, plain.len, plain.tokens + plain.len);
        let d = 4 * b + n;
        let mut e = Self::zero(n, t, d, ff)?;
        (0..n).for_each(|v| e.set("tok_embeddings.weight")[v * d + v] = 1.0);
        (0..t).for_each(|p| e.set("pe")[p * d + n + p] = 1.0);
        (0..n).for_each(|k| e.set("output.weight")[k * d + 4 * b + k] = 1.0);
        (0..b).for_each(|i| e.set(WV1)[i * d + i] = 1.0);
        (0..b).for_each(|i| e.set(WO1)[(b + i) * d + i] = 1.0);
        (0..2 * b).for_each(|i| e.set(WV2)[(2 * b + i) * d + i] = 1.0);
        for (name, block) in MATRICES {
            let placed = placed(plain, block, plain.block(block).0);
            e.set(name).copy_from_slice(&placed);
        }
        Ok(e)
    }

    /// −∂L/∂ some blocks of the loss Σ w ℓ / Σ w.
    fn descent<const K: usize>(&self, batch: &Batch, names: [&str; K]) -> Result<[Vec<f64>; K]> {
        let mut grad = vec![0.0; self.params.len()];
        let mut ws = self.model.workspace(batch.kind(), batch.seqs())?;
        // The embeddings stay.
        let mut active = self.model.trainable().to_vec();
        active[0] = false;
        self.model.loss_and_grad(&self.params, batch, &active, &mut ws, &mut grad)?;
        let total = divisor(batch.total_weight());
        Ok(names.map(|name| {
            let range = self.model.layout().find(name).expect("a block of this model").range();
            grad[range].iter().map(|g| -g / total).collect()
        }))
    }

    /// Words whose last position counts.
    fn batch(&self, words: &[Word]) -> Result<Batch> {
        let mut batch = Batch::with_capacity(Targets::Labels, words.len(), self.t, self.n)?;
        batch.set_seqs(words.len());
        let parts = batch.parts_mut();
        parts.weights.fill(0.0);
        for (i, w) in words.iter().enumerate() {
            let (row, last) = (i * self.t, (i + 1) * self.t - 1);
            parts.tokens[row..=last].iter_mut().zip(&w.tokens).for_each(|(x, z)| *x = *z as u32);
            parts.labels[last] = w.label as u32;
            parts.weights[last] = w.weight;
        }
        Ok(batch)
    }
}

const MATRICES: [(&str, Block); 3] = [(WO2, Block::O2), (WK2, Block::K2), (WK1, Block::K1)];

/// Where a matrix of coefficients begins in its (d, d).
fn corner(plain: &Plain, block: Block) -> [usize; 2] {
    let b = plain.tokens + plain.len;
    if block == Block::O2 { [4 * b, 2 * b] } else { [0, 0] }
}

/// A matrix of coefficients as (d, d).
fn placed(plain: &Plain, block: Block, of: &[f64]) -> Vec<f64> {
    let (d, columns) = (4 * (plain.tokens + plain.len) + plain.tokens, plain.block(block).1);
    let [r, c] = corner(plain, block);
    let mut out = vec![0.0; d * d];
    for (i, row) in of.chunks_exact(columns).enumerate() {
        out[(r + i) * d + c..][..columns].copy_from_slice(row);
    }
    out
}

/// The coefficients back.
fn taken(plain: &Plain, block: Block, of: &[f64]) -> Vec<f64> {
    let (d, (size, columns)) = (4 * (plain.tokens + plain.len) + plain.tokens, plain.block(block));
    let [r, c] = corner(plain, block);
    (0..size.len()).map(|i| of[(r + i / columns) * d + c + i % columns]).collect()
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (n, t) in if settings.thorough { &[(3, 4), (4, 5), (5, 6)][..] } else { &[(3, 4), (4, 5)] } {
        let words = uniform_words(*n, *t)?;
        same_gradients(*n, *t, &words, &mut checks)?;
        gaps(settings, *n, *t, &words, &mut checks)?;
        lemmas(settings, *n, *t, &words, &mut checks)?;
        construction(settings, *n, *t, &words, &mut checks)?;
    }
    finite_width(settings, &mut checks)?;
    Ok(checks)
}

/// Everything random, so that no path is idle.
fn random(n: usize, t: usize, key: &Key, from: u64) -> Plain {
    let mut plain = Plain::zero(n, t);
    for (i, block) in [Block::O2, Block::K2, Block::K1].into_iter().enumerate() {
        let drawn = normals(key, from + i as u64, plain.block(block).0.len(), 0.5);
        plain.block_mut(block).copy_from_slice(&drawn);
    }
    plain
}

/// All three gradients, whole matrices: what lies outside the coefficients must be 0.
fn same_gradients(n: usize, t: usize, words: &[Word], checks: &mut Vec<Check>) -> Result<()> {
    let mut keyed = after_first(n, t, words, 1.0).0;
    keyed.set_keys(3.0);
    let states = [
        ("start", Plain::zero(n, t)),
        ("step 1 and keys, C = 3", keyed),
        ("random", random(n, t, &key(30), 0)),
    ];
    for (state, plain) in states {
        let engine = Engine::orthonormal(&plain, FeedForward::None)?;
        let found = engine.descent(&engine.batch(words)?, MATRICES.map(|m| m.0))?;
        for ((name, block), found) in MATRICES.iter().zip(&found) {
            let expected = placed(&plain, *block, &plain.descent(words, *block));
            // At the start W_K² and W_K¹ have no gradient.
            let scale = largest(&expected);
            let off = if scale > 0.0 { apart(found, &expected) / scale } else { largest(found) };
            let c = Check::at_most("engine − theory's model, relative", 1e-12, off);
            checks
                .push(c.with("N", n).with("T", t).with("d", engine.d).with("block", name).with("at", state));
        }
    }
    Ok(())
}

/// The gaps of the first steps from the engine's gradients.
fn gaps(settings: &Settings, n: usize, t: usize, words: &[Word], checks: &mut Vec<Check>) -> Result<()> {
    let steps = (settings.formulas.memory.steps)(n, t)?;
    let eta = 1e-9;
    let zero = Plain::zero(n, t);
    let engine = Engine::orthonormal(&zero, FeedForward::None)?;
    let [first] = engine.descent(&engine.batch(words)?, [WO2])?;
    let first = zero.symmetrised(Block::O2, &taken(&zero, Block::O2, &first));
    let mut after = zero.clone();
    after.o2.iter_mut().zip(&first).for_each(|(x, d)| *x = eta * d);
    let engine = Engine::orthonormal(&after, FeedForward::None)?;
    let [k2, k1] = engine.descent(&engine.batch(words)?, [WK2, WK1])?;
    let k2 = after.symmetrised(Block::K2, &taken(&after, Block::K2, &k2));
    let label = |c: Check| c.with("N", n).with("T", t);
    let (a, average) = (zero.token_gap(&first), zero.average_gap(&first));
    // The formulas of steps 2 and 3 take p̂ for 1/N. Logits differ by at most η₁(a + a'), hence the
    // p̂_k by D = (exp(η₁(a + a')) − 1)/N; dot products over d and the softmax round by less than
    // 4d ε, which counts like D. Centred over t, what an X_t of worths a and a' then gets wrongly
    // is at most (a + a')D, and the mean over rows of W_K² divides it by N; a row t >= 2 of W_K¹
    // gets a'D/(tT). Of the largest c_v this is 16 to 26 times what is found, which is 4.7e-3 η₁ at
    // N = 4, T = 6 (`first-steps`).
    let rounding = 4.0 * engine.d as f64 * f64::EPSILON;
    let apart_by = ((eta * (a + average)).exp_m1() / n as f64 + rounding) * (1.0 + rounding);
    let key_bound = (a + average) * apart_by / (n as f64 * steps.key_gap.abs());
    for (name, found, formula, bound) in [
        ("a", a, steps.token, rounding),
        ("a'", average, steps.average, rounding),
        ("key gap", after.key_gap(&k2) / eta, steps.key_gap, key_bound),
    ] {
        let off = (found / formula - 1.0).abs();
        checks.push(label(Check::at_most(format!("{name}: relative error in the engine"), bound, off)));
    }
    let rows: Vec<f64> = after.positions(&taken(&after, Block::K1, &k1)).iter().map(|x| x / eta).collect();
    let off = apart(&rows, &steps.rows.value) / largest(&rows);
    let bound = average * apart_by / (2 * t) as f64 / largest(&rows);
    checks.push(label(Check::at_most("c_v: relative error in the engine", bound, off)));
    Ok(())
}

/// Lemmas as formulas of the engine's own matrices, which are (d, d).
fn lemmas(settings: &Settings, n: usize, t: usize, words: &[Word], checks: &mut Vec<Check>) -> Result<()> {
    let formulas = &settings.formulas.memory;
    let plain = random(n, t, &key(31), 0);
    let engine = Engine::orthonormal(&plain, FeedForward::None)?;
    let (d, b) = (engine.d, n + t);
    let [k2] = engine.descent(&engine.batch(words)?, [WK2])?;
    let wide = |x: &[f64], at: usize| {
        let mut out = vec![0.0; d];
        out[at..at + x.len()].copy_from_slice(x);
        out
    };
    let outputs: Vec<f64> = (0..n).flat_map(|k| wide(&[1.0], 4 * b + k)).collect();
    let mut push = |name: &str, found: &[f64], formula: &[f64]| {
        let off = apart(found, formula) / largest(found);
        let c = Check::at_most(format!("{name} − the engine's gradient, relative"), 1e-12, off);
        checks.push(c.with("N", n).with("T", t).with("d", d));
    };
    // W_K²: layer 2 sees X; values w_U(k)ᵀ W_O² W_V².
    let values: Vec<f64> = plain.o2.chunks_exact(2 * b).flat_map(|row| wide(row, 0)).collect();
    let keys = placed(&plain, Block::K2, &plain.k2);
    let mut third = vec![Sum::new(); d * d];
    for w in words {
        let x: Vec<f64> =
            plain.states(&w.tokens).0.chunks_exact(2 * b).flat_map(|row| wide(row, 0)).collect();
        formulas.lemma3(&x, &values, w.label, &keys, w.weight, &mut third);
    }
    push("lemma 3", &k2, &third.iter().map(Sum::value).collect::<Vec<_>>());
    // W_O²: the inputs are W_V² Σ_t σ_t X_t; words of all triggers, since the lemma divides by the
    // probability of a label.
    let laws = Bigrams::dirichlet(n, 1.0, 33)?;
    let all = all_words(laws.unigram(), laws.bigram(), t)?;
    let [o2] = engine.descent(&engine.batch(&all)?, [WO2])?;
    let (mut inputs, mut joint) = (Vec::new(), Vec::new());
    for w in &all {
        inputs.extend(wide(&plain.states(&w.tokens).1, 2 * b));
        joint.extend((0..n).map(|k| if k == w.label { w.weight } else { 0.0 }));
    }
    let of = Labelled { d, inputs: &inputs, joint: &joint, outputs: &outputs };
    push("lemma 2", &o2, &formulas.lemma2(&of, &placed(&plain, Block::O2, &plain.o2)));
    // W_F alone: no positions, no attention, every position counts. Logits are w_U(k)ᵀ W_F w_E(z):
    // w_U ⊥ w_E.
    let mut engine = Engine::orthonormal(&Plain::zero(n, t), FeedForward::Linear)?;
    engine.set("pe").fill(0.0);
    engine.set(WO1).fill(0.0);
    let w = normals(&key(32), 0, d * d, 0.3);
    engine.set(FF2).copy_from_slice(&w);
    let mut batch = Batch::with_capacity(Targets::Labels, n * n, t, n)?;
    batch.set_seqs(n * n);
    let mut joint = vec![0.0; n * n];
    let parts = batch.parts_mut();
    for i in 0..n * n * t {
        let [x, y] = [key(32).below(n as u64, i as u64, 0, 0), key(32).below(n as u64, i as u64, 0, 1)];
        (parts.tokens[i], parts.labels[i], parts.weights[i]) = (x as u32, y as u32, 1.0);
        joint[x as usize * n + y as usize] += 1.0 / (n * n * t) as f64;
    }
    let [ff] = engine.descent(&batch, [FF2])?;
    let inputs: Vec<f64> = (0..n).flat_map(|v| wide(&[1.0], v)).collect();
    let of = Labelled { d, inputs: &inputs, joint: &joint, outputs: &outputs };
    push("lemma 1", &ff, &formulas.lemma1(&of, &w));
    Ok(())
}

/// The three memories written down: W_K¹ = β Σ p_t p_{t−1}ᵀ, W_K² = β Σ w_E(v) w_1(v)ᵀ, W_O² = β Σ
/// w_U(v) (W_V² w_E(v))ᵀ. Position 1 attends to itself, so a trigger there calls up itself beside
/// what followed it.
fn construction(
    settings: &Settings,
    n: usize,
    t: usize,
    words: &[Word],
    checks: &mut Vec<Check>,
) -> Result<()> {
    let (beta, b) = (60.0, n + t);
    let mut plain = Plain::zero(n, t);
    (1..t).for_each(|i| plain.k1[(n + i) * b + n + i - 1] = beta);
    plain.set_keys(beta);
    (0..n).for_each(|v| plain.o2[v * 2 * b + v] = beta);
    let mut engine = Engine::orthonormal(&Plain::zero(n, t), FeedForward::None)?;
    let triggers: Vec<u32> = (0..n as u32).collect();
    let bigram = vec![1.0 / n as f64; n * n];
    let what = Memories { triggers: &triggers, bigram: &bigram, floor: 1e-3, gaps: [beta, beta, beta, 1.0] };
    (settings.formulas.memory.written)(&engine.model, &mut engine.params, &what)?;
    let label = |c: Check| c.with("N", n).with("T", t).with("β", beta);
    for (name, block) in MATRICES {
        // Vectors of unit length: every product is one of 0, 1 and β.
        let off = apart(engine.set(name), &placed(&plain, block, plain.block(block).0));
        checks
            .push(label(Check::at_most("construction: written − its formula", 0.0, off).with("block", name)));
    }
    let asked = Asked { triggers: None, bigram: &bigram, readout: 1.0 };
    let recall = memories(engine.model.layout(), &engine.params, &asked)?;
    for (key, share) in [("wk0_acc", recall.wk0), ("wk1_acc", recall.wk1), ("wo1_acc", recall.wo1)] {
        checks.push(label(Check::at_least(format!("construction: {key}"), 1.0, share)));
    }
    let batch = engine.batch(words)?;
    let mut report = Report::new(&engine.model, batch.kind(), words.len(), false, false);
    let mut ws = engine.model.workspace(batch.kind(), words.len())?;
    engine.model.report(&engine.params, &batch, &mut ws, &mut report)?;
    let mut hits = [[Sum::new(); 2], [Sum::new(); 2]];
    for (i, w) in words.iter().enumerate() {
        let [hit, all] = &mut hits[usize::from(w.tokens[0] == w.tokens[t - 1])];
        hit.add(if report.predicted[(i + 1) * t - 1] as usize == w.label { w.weight } else { 0.0 });
        all.add(w.weight);
    }
    let [elsewhere, first] = hits.map(|[hit, all]| hit.value() / all.value());
    checks.push(label(Check::at_least("construction: accuracy where z_1 is no trigger", 1.0, elsewhere)));
    checks.push(label(Check::noted("construction: accuracy where z_1 is the trigger", first)));
    Ok(())
}

/// Embeddings Gaussian with variance 1/d, maps that keep lengths: tables of steps 1 and 2 against
/// those of the orthonormal basis.
fn finite_width(settings: &Settings, checks: &mut Vec<Check>) -> Result<()> {
    let (n, t) = (3, 4);
    let uniform = vec![1.0 / n as f64; n * n];
    let all = all_words(&uniform[..n], &uniform, t)?;
    let plain = Plain::zero(n, t);
    let b = n + t;
    let step = plain.descent(&all, Block::O2);
    let mut after = plain.clone();
    after.o2.copy_from_slice(&step);
    let keys = after.descent(&all, Block::K2);
    // (N, N) each: w_U with W_V²w_E and with W_V²w_1; w_E with w_1.
    let table = |of: &[f64], from: usize| -> Vec<f64> {
        (0..n * n).map(|i| of[i / n * 2 * b + from + i % n]).collect()
    };
    let exact = [table(&step, 0), table(&step, b), table(&keys, b)];
    let widths = if settings.thorough { &[128, 256, 512, 1024][..] } else { &[96, 192, 384] };
    let draws = if settings.thorough { 128 } else { 64 };
    let scales = [norm(&[norm(&exact[0]), norm(&exact[1])]), norm(&exact[2])];
    // Of each step, for each width, the squared error of each draw.
    let mut squares = [Vec::new(), Vec::new()];
    for &d in widths {
        let mut each = [Vec::new(), Vec::new()];
        for draw in 0..draws {
            let mut e = Engine::zero(n, t, d, FeedForward::None)?;
            let from = |i: u64| (d as u64 * 256 + draw) * 8 + i;
            for (i, name) in ["tok_embeddings.weight", "pe", "output.weight"].into_iter().enumerate() {
                let drawn = normals(&key(34), from(i as u64), e.set(name).len(), 1.0 / (d as f64).sqrt());
                e.set(name).copy_from_slice(&drawn);
            }
            isometry(&key(35), from(0), d, e.set(WV1));
            isometry(&key(35), from(1), d, e.set(WV2));
            (0..d).for_each(|i| e.set(WO1)[i * d + i] = 1.0);
            let tokens = e.set("tok_embeddings.weight").to_vec();
            let output = e.set("output.weight").to_vec();
            let [wv1, wo1, wv2] = [WV1, WO1, WV2].map(|name| e.set(name).to_vec());
            let first = image(&wo1, &image(&wv1, &tokens, d), d);
            let [by_token, by_first] = [image(&wv2, &tokens, d), image(&wv2, &first, d)];
            let batch = e.batch(&all)?;
            let [step] = e.descent(&batch, [WO2])?;
            e.set(WO2).copy_from_slice(&step);
            let [keys] = e.descent(&batch, [WK2])?;
            let found = [
                between(&output, &step, &by_token, d),
                between(&output, &step, &by_first, d),
                between(&tokens, &keys, &first, d),
            ];
            let square = |i: usize| -> f64 {
                found[i].iter().zip(&exact[i]).map(|(x, y)| (x - y) * (x - y)).sum::<f64>()
            };
            each[0].push((square(0) + square(1)) / (scales[0] * scales[0]));
            each[1].push(square(2) / (scales[1] * scales[1]));
        }
        squares.iter_mut().zip(each).for_each(|(all, each)| all.push((d as f64, each)));
    }
    for (name, squares) in ["step 1", "step 2"].into_iter().zip(squares) {
        // All draws but one, or all.
        let fit = |without: Option<usize>| {
            let kept = |i: &usize| Some(*i) != without;
            let of = |each: &[f64]| {
                let count = each.len() - usize::from(without.is_some());
                ((0..each.len()).filter(kept).map(|i| each[i]).sum::<f64>() / count as f64).sqrt()
            };
            let points = squares.iter().map(|(d, each)| (*d, of(each))).collect();
            Fit::new("d", &format!("relative error of {name}"), points)
        };
        let m = draws as f64;
        let slopes: Vec<f64> = (0..draws as usize).map(|i| fit(Some(i)).slope).collect();
        let mean = slopes.iter().sum::<f64>() / m;
        // The jackknife's: draws of different widths are independent, so one may be left out of
        // each at once.
        let error = ((m - 1.0) / m * slopes.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>()).sqrt();
        let fit = fit(None);
        let label = |c: Check| c.with("N", n).with("T", t).with("draws", draws);
        let last = *fit.points.last().expect("widths");
        checks.push(label(Check::noted(format!("{name}: relative error"), last.1).with("d", last.0)));
        let quantity = format!("{name}: order of the error in d");
        let label = |c: Check| label(c.with("standard error", format!("{error:.3}")));
        // Gram matrices G of w_U and H of the images err independently: E‖GSH − S‖² = (A + B)/d +
        // AB/d² of ‖S‖², A = N + 1. So the slope of step 1 lies below -1/2 by less than A/(2d). In
        // step 2 they meet more often, and it may lie further below.
        let below = (n + 1) as f64 / (2.0 * widths[0] as f64);
        checks.push(label(match name {
            "step 1" => Check::slope(quantity, -0.5, below + 4.0 * error, fit),
            _ => Check::at_most(quantity, -0.5 + 4.0 * error, fit.slope).plotted(fit),
        }));
    }
    Ok(())
}

/// A permutation of coordinates with random signs.
fn isometry(key: &Key, sample: u64, d: usize, out: &mut [f64]) {
    out.fill(0.0);
    let mut order: Vec<usize> = (0..d).collect();
    for i in 0..d {
        order.swap(i, i + key.below((d - i) as u64, sample, i as u32, 0) as usize);
        let sign = if key.below(2, sample, i as u32, 1) == 0 { 1.0 } else { -1.0 };
        out[i * d + order[i]] = sign;
    }
}

/// Rows of `x` (n, d) through W (d, d).
fn image(w: &[f64], x: &[f64], d: usize) -> Vec<f64> {
    x.chunks_exact(d).flat_map(|x| w.chunks_exact(d).map(|row| dot(row, x)).collect::<Vec<_>>()).collect()
}

/// left_kᵀ W right_v (n, n).
fn between(left: &[f64], w: &[f64], right: &[f64], d: usize) -> Vec<f64> {
    let images = image(w, right, d);
    let pairs = left.chunks_exact(d).flat_map(|u| images.chunks_exact(d).map(move |x| dot(u, x)));
    pairs.collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
