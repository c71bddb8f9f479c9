//! `transformer` against a transcription of its equations that shares no code with the engine, its
//! gradient against a tape's and against differences of that transcription, for every option, on
//! every instruction set; which blocks are requested; other sequences in the
//! batch; threads; operands that do not fit.

use crate::support::noise;
use crate::support::tape::{Tape, Var};
use popgrad::batch::{Batch, Targets};
use popgrad::model::{
    BlockKind, Draw, FeedForward, Layout, Model, Output, Positions, Report, Transformer, TransformerSpec,
    WorkspaceLen,
};
use popgrad::optim::{Schedule, UnfreezeAt};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{LossOn, Source, TriggerSource};
use popgrad::task::TriggerBigram;
use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use popgrad::train::{Objective, Plan, Sharded};
use popgrad_kernels::{Elem, Isa, Kernels};
use std::sync::Arc;

/// Weights: 1 everywhere, or other numbers with zeros among them, the second sequence having
/// nothing else.
fn random_batch(seed: u64, seqs: usize, len: usize, vocab: usize, all: bool) -> Batch {
    let mut draw = noise(seed);
    let mut batch = Batch::with_capacity(Targets::Labels, seqs, len, vocab).unwrap();
    batch.set_seqs(seqs);
    let parts = batch.parts_mut();
    for x in parts.tokens.iter_mut().chain(parts.labels) {
        *x = ((draw() + 1.0) * 0.5 * vocab as f64) as u32 % vocab as u32;
    }
    for (i, w) in parts.weights.iter_mut().enumerate() {
        *w = if all {
            1.0
        } else if i / len == 1 || draw() < 0.0 {
            0.0
        } else {
            draw().abs() + 0.1
        };
    }
    batch
}

/// A spec with the sizes of a task and one number of heads.
#[derive(Debug, Clone)]
struct Case {
    vocab: usize,
    seq_len: usize,
    dim: usize,
    layers: usize,
    heads: usize,
    block: BlockKind,
    norm: bool,
    ff: FeedForward,
    positions: Positions,
    output: Output,
}

impl Case {
    fn spec(&self) -> TransformerSpec {
        let Case { dim, layers, block, norm, ff, positions, output, .. } = *self;
        TransformerSpec { dim, layers, heads: vec![self.heads], block, norm, ff, positions, output }
    }
    fn on<E: Elem>(&self, kernels: Kernels<E>) -> Transformer<E> {
        Transformer::on(self.vocab, self.seq_len, &self.spec(), kernels).unwrap()
    }
    fn model<E: Elem>(&self) -> Transformer<E> {
        Transformer::new(self.vocab, self.seq_len, &self.spec()).unwrap()
    }
}

fn spec() -> Case {
    Case {
        vocab: 5,
        seq_len: 6,
        dim: 4,
        layers: 2,
        heads: 2,
        block: BlockKind::Public,
        norm: true,
        ff: FeedForward::Relu,
        positions: Positions::Learned,
        output: Output::Free,
    }
}

/// Every kind of block with every feed-forward, with and without norms; positions, outputs, depths
/// and heads in turn.
fn specs() -> Vec<Case> {
    let mut all = Vec::new();
    for block in [BlockKind::Public, BlockKind::Standard, BlockKind::PostNorm] {
        for ff in [FeedForward::None, FeedForward::Linear, FeedForward::Relu] {
            for norm in [true, false] {
                let i = all.len();
                all.push(Case {
                    block,
                    ff,
                    norm,
                    layers: [2, 1, 3][i % 3],
                    heads: [2, 4, 1, 2][i % 4],
                    positions: [Positions::Learned, Positions::SinCos][i / 2 % 2],
                    output: [Output::Free, Output::Tied, Output::Frozen, Output::TiedFrozen][(i + i / 4) % 4],
                    ..spec()
                });
            }
        }
    }
    for block in [BlockKind::Public, BlockKind::Standard, BlockKind::PostNorm] {
        for (layers, heads) in [(1, 1), (2, 4), (3, 2)] {
            for output in [Output::Free, Output::Tied] {
                all.push(Case { block, layers, heads, output, ..spec() });
            }
        }
    }
    all
}

/// The equations of the model's table, position by position, on a tape that begins with the
/// parameters.
struct Plain<'a> {
    spec: &'a Case,
    layout: &'a Layout,
    tape: Tape,
}

/// What the transcription gives for one sequence.
struct Seen {
    /// −ln p̂ and p̂ at every position.
    losses: Vec<Var>,
    probs: Vec<Vec<Var>>,
    /// (layers, heads, T, T).
    attention: Vec<f64>,
    /// Which rectified units are on.
    on: Vec<bool>,
}

impl<'a> Plain<'a> {
    fn new(spec: &'a Case, layout: &'a Layout, params: &[f64]) -> Self {
        let mut tape = Tape::default();
        params.iter().for_each(|x| _ = tape.new_var(*x));
        Plain { spec, layout, tape }
    }

    fn block(&self, name: &str) -> Vec<Var> {
        self.layout.find(name).unwrap_or_else(|| panic!("no block {name}")).range().collect()
    }

    fn norm(&mut self, name: &str, x: &[Var]) -> Vec<Var> {
        if !self.spec.norm {
            return x.to_vec();
        }
        let (w, b) = (self.block(&format!("{name}.weight")), self.block(&format!("{name}.bias")));
        let (tape, by) = (&mut self.tape, 1.0 / x.len() as f64);
        let sum = x[1..].iter().fold(x[0], |sum, x| tape.add(sum, *x));
        let less = tape.affine(sum, -by, 0.0);
        let c: Vec<Var> = x.iter().map(|x| tape.add(*x, less)).collect();
        let squares = tape.dot(&c, &c);
        let var = tape.affine(squares, by, 1e-5);
        let ln = tape.ln(var);
        let half = tape.affine(ln, -0.5, 0.0);
        let rstd = tape.exp(half);
        let one = |((c, w), b): ((&Var, &Var), &Var)| {
            let x = tape.mul(*c, rstd);
            let x = tape.mul(x, *w);
            tape.add(x, *b)
        };
        c.iter().zip(&w).zip(&b).map(one).collect()
    }

    fn attention(&mut self, l: usize, x: &[Vec<Var>], maps: &mut Vec<f64>) -> Vec<Vec<Var>> {
        let [wq, wk, wv, wo] =
            ["wq", "wk", "wv", "wo"].map(|w| self.block(&format!("layers.{l}.attention.{w}.weight")));
        let tape = &mut self.tape;
        let [q, k, v] =
            [wq, wk, wv].map(|w| -> Vec<Vec<Var>> { x.iter().map(|x| tape.apply(&w, x)).collect() });
        let (t, each) = (x.len(), self.spec.dim / self.spec.heads);
        let mut found = vec![Vec::new(); t];
        for h in 0..self.spec.heads {
            let of = h * each..(h + 1) * each;
            for i in 0..t {
                let score = |j: usize| {
                    let dot = tape.dot(&q[i][of.clone()], &k[j][of.clone()]);
                    tape.affine(dot, 1.0 / (each as f64).sqrt(), 0.0)
                };
                let scores: Vec<Var> = (0..=i).map(score).collect();
                let p = tape.softmax(&scores);
                maps.extend((0..t).map(|j| p.get(j).map_or(0.0, |p| tape.value[*p])));
                for c in of.clone() {
                    let column: Vec<Var> = (0..=i).map(|j| v[j][c]).collect();
                    found[i].push(tape.dot(&p, &column));
                }
            }
        }
        found.iter().map(|o| tape.apply(&wo, o)).collect()
    }

    fn ff(&mut self, l: usize, x: &[Var], on: &mut Vec<bool>) -> Vec<Var> {
        let block = |name: &str| self.block(&format!("layers.{l}.{name}.weight"));
        match self.spec.ff {
            FeedForward::None => x.iter().map(|_| self.tape.new_var(0.0)).collect(),
            FeedForward::Linear => {
                let w = block("ff");
                self.tape.apply(&w, x)
            }
            FeedForward::Relu => {
                let (w1, w2) = (block("ff.w1"), block("ff.w2"));
                let hidden = self.tape.apply(&w1, x);
                on.extend(hidden.iter().map(|x| self.tape.value[*x] > 0.0));
                let hidden: Vec<Var> = hidden.into_iter().map(|x| self.tape.relu(x)).collect();
                self.tape.apply(&w2, &hidden)
            }
        }
    }

    fn sequence(&mut self, tokens: &[u32], labels: &[u32]) -> Seen {
        let d = self.spec.dim;
        let pe = if self.spec.positions == Positions::Learned { "pos_embeddings.weight" } else { "pe" };
        let (e, pe) = (self.block("tok_embeddings.weight"), self.block(pe));
        let mut x: Vec<Vec<Var>> = (0..tokens.len())
            .map(|t| self.tape.plus(&e[tokens[t] as usize * d..][..d], &pe[t * d..][..d]))
            .collect();
        let (mut on, mut attention) = (Vec::new(), Vec::new());
        for l in 0..self.spec.layers {
            let [an, fn_] = ["attention_norm", "ff_norm"].map(|n| format!("layers.{l}.{n}"));
            let ff_norm = |me: &mut Self, x: &[Var]| {
                if me.spec.ff == FeedForward::None { x.to_vec() } else { me.norm(&fn_, x) }
            };
            let post = self.spec.block == BlockKind::PostNorm;
            let a: Vec<Vec<Var>> =
                x.iter().map(|x| if post { x.clone() } else { self.norm(&an, x) }).collect();
            let attn = self.attention(l, &a, &mut attention);
            for (x, attn) in x.iter_mut().zip(&attn) {
                let mut h = self.tape.plus(x, attn);
                let read = match self.spec.block {
                    BlockKind::Public => ff_norm(self, x),
                    BlockKind::Standard => ff_norm(self, &h),
                    BlockKind::PostNorm => {
                        h = self.norm(&an, &h);
                        h.clone()
                    }
                };
                let f = self.ff(l, &read, &mut on);
                *x = self.tape.plus(&h, &f);
                if post {
                    *x = ff_norm(self, x);
                }
            }
        }
        let u = if self.spec.output == Output::Tied { "tok_embeddings.weight" } else { "output.weight" };
        let u = self.block(u);
        let mut seen = Seen { losses: Vec::new(), probs: Vec::new(), attention, on };
        for (x, label) in x.iter().zip(labels) {
            let x = if self.spec.block == BlockKind::PostNorm { x.clone() } else { self.norm("norm", x) };
            let z = self.tape.apply(&u, &x);
            let p = self.tape.softmax(&z);
            let ln = self.tape.ln(p[*label as usize]);
            seen.losses.push(self.tape.affine(ln, -1.0, 0.0));
            seen.probs.push(p);
        }
        seen
    }

    /// Σ w ℓ and the units that are on.
    fn loss(&mut self, batch: &Batch) -> (Var, Vec<bool>) {
        let (t, mut sum, mut on) = (batch.len_tokens(), self.tape.new_var(0.0), Vec::new());
        for b in 0..batch.seqs() {
            let of = b * t..(b + 1) * t;
            let seen = self.sequence(&batch.tokens()[of.clone()], &batch.labels()[of.clone()]);
            for (w, l) in batch.weights()[of].iter().zip(&seen.losses) {
                let term = self.tape.affine(*l, *w, 0.0);
                sum = self.tape.add(sum, term);
            }
            on.extend(seen.on);
        }
        (sum, on)
    }
}

fn parameters(layout: &Layout, seed: u64) -> Vec<f64> {
    let mut draw = noise(seed);
    let mut params = vec![0.0; layout.len()];
    for block in layout.blocks() {
        let norm = block.shape().len() == 1 && block.name().ends_with(".weight");
        params[block.range()].iter_mut().for_each(|p| *p = f64::from(u8::from(norm)) + 0.7 * draw());
    }
    params
}

fn kernels<E: Elem>() -> Vec<Kernels<E>> {
    Isa::available().map(|isa| Kernels::new(isa).unwrap()).collect()
}

/// Loss and gradient in the `active` blocks; NaN elsewhere.
fn gradient<E: Elem>(model: &Transformer<E>, params: &[E], batch: &Batch, active: &[bool]) -> (f64, Vec<E>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![E::NAN; params.len()];
    let loss = model.loss_and_grad(params, batch, active, &mut ws, &mut grad).unwrap();
    (loss.value(), grad)
}

/// Every block but buffers, which have no gradient.
fn all<E: Elem>(model: &Transformer<E>) -> Vec<bool> {
    Model::<E>::layout(model).blocks().iter().map(|b| b.name() != "pe").collect()
}

fn layout<E: Elem>(model: &Transformer<E>) -> Layout {
    Model::<E>::layout(model).clone()
}

/// Share of the sizes of its terms that a gradient may be off: the operations on the longest way
/// from a parameter to the loss, twice for the way back: of each layer four maps, two norms, two
/// feed-forward maps and attention on T keys; then norm, output and softmax.
fn rounding(spec: &Case) -> f64 {
    let (t, d) = (spec.seq_len as f64, spec.dim as f64);
    let layer = 4.0 * d + 2.0 * (2.0 * d + 8.0) + 5.0 * d + 2.0 * t + 8.0;
    2.0 * (spec.layers as f64 * layer + 3.0 * d + 8.0 + spec.vocab as f64) * 2f64.powi(-53)
}

#[test]
fn loss_gradient_report_and_attention_are_the_transcription() {
    // Rows beyond those that are shown at a time; chunks of the table; a head of one column.
    let long = [BlockKind::Public, BlockKind::Standard].map(|block| Case {
        block,
        vocab: 4,
        seq_len: 70,
        heads: 4,
        ..spec()
    });
    for (i, spec) in specs().into_iter().chain(long).enumerate() {
        for k in kernels::<f64>() {
            let model = spec.on(k);
            let layout = layout(&model);
            let params = parameters(&layout, 7);
            let batch = random_batch(i as u64, 4, spec.seq_len, spec.vocab, i % 2 == 0);
            let mut plain = Plain::new(&spec, &layout, &params);
            let (total, _) = plain.loss(&batch);
            let expected = plain.tape.value[total];
            let [slopes, sizes] = plain.tape.gradient(total, params.len());
            let none = vec![false; layout.blocks().len()];
            for active in [none, all(&model)] {
                let (loss, grad) = gradient(&model, &params, &batch, &active);
                // Some hundred roundings at logits of a few.
                assert!((loss - expected).abs() < 1e-13 * expected, "{spec:?}: {loss} for {expected}");
                for block in layout.blocks().iter().zip(&active).filter(|(_, on)| **on).map(|(b, _)| b) {
                    let bound = rounding(&spec) * sizes[block.range()].iter().fold(0.0f64, |m, x| m.max(*x));
                    for at in block.range() {
                        let off = (grad[at] - slopes[at]).abs();
                        assert!(off <= bound, "{spec:?} {} {off:e}: {bound:e} allowed", block.name());
                    }
                }
            }
            let mut ws = model.workspace(Targets::Labels, 6).unwrap();
            let (t, n) = (spec.seq_len, spec.vocab);
            let mut report = Report::new::<f64>(&model, Targets::Labels, 4, true, true);
            model.report(&params, &batch, &mut ws, &mut report).unwrap();
            let mut maps = vec![f64::NAN; spec.layers * spec.heads * t * t];
            for b in 0..4 {
                let of = b * t..(b + 1) * t;
                let tokens = &batch.tokens()[of.clone()];
                let seen = plain.sequence(tokens, &batch.labels()[of.clone()]);
                model.attention(&params, tokens, &mut ws, &mut maps).unwrap();
                let close = |a: f64, b: f64, what: &str| {
                    assert!((a - b).abs() < 1e-13 * b.abs().max(1.0), "{spec:?} {what}: {a} for {b}");
                };
                for i in 0..maps.len() {
                    close(maps[i], seen.attention[i], "attention");
                    assert_eq!(maps[i] == 0.0, i % t > i / t % t, "{spec:?}: the mask");
                }
                for i in 0..t {
                    close(report.losses[b * t + i], plain.tape.value[seen.losses[i]], "loss");
                    let probs = &report.probs[(b * t + i) * n..][..n];
                    probs
                        .iter()
                        .zip(&seen.probs[i])
                        .for_each(|(p, q)| close(*p, plain.tape.value[*q], "probability"));
                    let best = probs.iter().fold(0.0f64, |m, p| m.max(*p));
                    let first = probs.iter().position(|p| *p == best).unwrap();
                    assert_eq!(report.predicted[b * t + i] as usize, first);
                    for map in 0..spec.layers * spec.heads {
                        let row = &maps[(map * t + i) * t..][..t];
                        let most = row.iter().fold(0.0f64, |m, p| m.max(*p));
                        let first = row.iter().position(|p| *p == most).unwrap();
                        assert_eq!(report.attended[(map * 4 + b) * t + i] as usize, first);
                    }
                }
            }
        }
    }
}

#[test]
fn every_block_matches_differences_of_the_transcription() {
    for (i, spec) in specs().into_iter().enumerate() {
        let models: Vec<_> = kernels::<f64>().into_iter().map(|k| spec.on(k)).collect();
        let layout = layout(&models[0]);
        let mut params = parameters(&layout, 11);
        if !spec.norm {
            // Smaller numbers, so that nothing grows from layer to layer.
            params.iter_mut().for_each(|p| *p *= 0.5);
        }
        let batch = random_batch(i as u64 + 50, 3, spec.seq_len, spec.vocab, i % 2 == 1);
        let grads: Vec<_> = models.iter().map(|m| gradient(m, &params, &batch, &all(m)).1).collect();
        let loss = |params: &[f64]| {
            let mut plain = Plain::new(&spec, &layout, params);
            let (total, on) = plain.loss(&batch);
            (plain.tape.value[total], on)
        };
        let (_, on) = loss(&params);
        for block in layout.blocks().iter().filter(|b| b.name() != "pe") {
            let (mut worst, mut size, mut tried) = (0.0f64, 0.0f64, 0);
            // A third of the larger blocks, another one for every model.
            for at in block.range().filter(|at| block.len() < 12 || (at + i) % 3 == 0) {
                let old = params[at];
                let mut smooth = true;
                // Central differences of fourth order; a unit that switches on the way says nothing
                // about the gradient.
                let mut moved = |x: f64| {
                    params[at] = old + x;
                    let (l, units) = loss(&params);
                    smooth &= units == on;
                    l
                };
                let h = 1e-4;
                let numeric =
                    (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
                params[at] = old;
                if smooth {
                    for grad in &grads {
                        assert!(grad[at].is_finite(), "{spec:?} {}", block.name());
                        worst = worst.max((numeric - grad[at]).abs());
                        size = size.max(grad[at].abs());
                    }
                    tried += 1;
                }
            }
            let name = block.name();
            assert!(tried > 1, "{spec:?} {name}: only {tried} entries lie between kinks");
            assert!(size > 1e-5, "{spec:?} {name}: a gradient of {size} would pass any test");
            // Rounding: u / h of a loss of some tens, some 1e-10.
            assert!(worst < 2e-9 * size.max(1.0), "{spec:?} {name}: error {worst} in {size}");
        }
    }
}

#[test]
fn blocks_that_are_not_wanted_cost_nothing_and_change_nothing() {
    let mut draw = noise(3);
    for (i, spec) in specs().into_iter().enumerate() {
        let model = spec.model::<f64>();
        let layout = layout(&model);
        let params = parameters(&layout, 5);
        let batch = random_batch(i as u64, 3, spec.seq_len, spec.vocab, i % 2 == 0);
        let (loss, whole) = gradient(&model, &params, &batch, &all(&model));
        let (blocks, can) = (layout.blocks().len(), all(&model));
        for trial in 0..3 * blocks {
            // Each alone, each left out, then some.
            let active: Vec<bool> = (0..blocks)
                .map(|b| match trial / blocks {
                    0 => b == trial,
                    1 => b != trial - blocks,
                    _ => draw() < 0.0,
                })
                .zip(&can)
                .map(|(on, can)| on && *can)
                .collect();
            let (l, grad) = gradient(&model, &params, &batch, &active);
            assert_eq!(l.to_bits(), loss.to_bits());
            for (block, on) in layout.blocks().iter().zip(&active) {
                for at in block.range() {
                    let same =
                        if *on { grad[at].to_bits() == whole[at].to_bits() } else { grad[at].is_nan() };
                    assert!(same, "{spec:?} {} of {active:?}: {} for {}", block.name(), grad[at], whole[at]);
                }
            }
        }
    }
}

/// Longer than a block of queries and a chunk of the table: alone, in a batch, in a workspace that
/// has seen more, weights cut in two.
#[test]
fn a_sequence_is_the_same_in_any_company() {
    for block in [BlockKind::Public, BlockKind::Standard, BlockKind::PostNorm] {
        for k in kernels::<f64>() {
            let spec = Case { block, vocab: 4, seq_len: 101, dim: 6, heads: 3, ..spec() };
            let model = spec.on(k);
            let params = parameters(&layout(&model), 9);
            let (seqs, t) = (6, spec.seq_len);
            let batch = random_batch(2, seqs, t, spec.vocab, false);
            let (loss, whole) = gradient(&model, &params, &batch, &all(&model));
            let mut ws = model.workspace(Targets::Labels, seqs).unwrap();
            let mut again = vec![f64::NAN; params.len()];
            for on in [vec![false; all(&model).len()], all(&model)] {
                let earlier = random_batch(8, seqs, t, 4, true);
                model.loss_and_grad(&params, &earlier, &on, &mut ws, &mut again).unwrap();
                model.loss_and_grad(&params, &batch, &all(&model), &mut ws, &mut again).unwrap();
                assert_eq!(whole, again, "something is left of an earlier batch");
            }
            let mut company = Report::new::<f64>(&model, Targets::Labels, seqs, true, true);
            model.report(&params, &batch, &mut ws, &mut company).unwrap();
            let (mut sum, mut losses) = (vec![0.0; whole.len()], 0.0);
            for b in 0..seqs {
                let mut alone = Batch::with_capacity(Targets::Labels, 1, t, spec.vocab).unwrap();
                alone.set_seqs(1);
                let (parts, of) = (alone.parts_mut(), b * t..(b + 1) * t);
                parts.tokens.copy_from_slice(&batch.tokens()[of.clone()]);
                parts.labels.copy_from_slice(&batch.labels()[of.clone()]);
                parts.weights.copy_from_slice(&batch.weights()[of.clone()]);
                let mut report = Report::new::<f64>(&model, Targets::Labels, 1, true, true);
                model.report(&params, &alone, &mut ws, &mut report).unwrap();
                assert_eq!(report.losses, company.losses[of.clone()], "{block:?} sequence {b}");
                assert_eq!(report.probs, company.probs[b * t * 4..(b + 1) * t * 4]);
                assert_eq!(report.attended[..t], company.attended[of]);
                let (l, grad) = gradient(&model, &params, &alone, &all(&model));
                losses += l;
                sum.iter_mut().zip(&grad).for_each(|(s, g)| *s += g);
                if b == 1 {
                    assert!(l == 0.0 && grad.iter().all(|g| *g == 0.0), "nothing counts here");
                }
            }
            assert!((losses - loss).abs() < 1e-13 * loss);
            let scale = whole.iter().fold(1.0f64, |m, g| m.max(g.abs()));
            // Sums of 600 rows in another order.
            assert!(whole.iter().zip(&sum).all(|(w, s)| (w - s).abs() < 600.0 * f64::EPSILON * scale));
        }
    }
}

#[test]
fn f32_follows_f64() {
    for (i, spec) in specs().into_iter().enumerate() {
        let wide = spec.model::<f64>();
        let narrow = spec.model::<f32>();
        let params32: Vec<f32> = parameters(&layout(&wide), 23).iter().map(|p| *p as f32).collect();
        let params: Vec<f64> = params32.iter().map(|p| f64::from(*p)).collect();
        let batch = random_batch(i as u64, 4, spec.seq_len, spec.vocab, i % 2 == 0);
        let (_, a) = gradient(&wide, &params, &batch, &all(&wide));
        let (_, b) = gradient(&narrow, &params32, &batch, &all(&narrow));
        let scale = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in a.iter().zip(&b).filter(|(a, b)| !(a.is_nan() && b.is_nan())) {
            // A few hundred roundings of u = 6e-8 each stand between the parameters and a gradient
            // entry.
            assert!((a - f64::from(*b)).abs() < 500.0 * 6e-8 * scale, "{spec:?}: {a} {b}");
        }
    }
}

/// Draws that tell where they come from.
struct Marked;

impl Draw for Marked {
    fn normal(&self, i: u64) -> f64 {
        4.0 + i as f64
    }
    fn uniform(&self, i: u64) -> f64 {
        -(1.0 + i as f64)
    }
}

#[test]
fn the_start_is_that_of_the_public_code() {
    let model = Case { output: Output::TiedFrozen, ..spec() }.model::<f64>();
    let (layout, params) = (layout(&model), model.initial(&Marked));
    for block in layout.blocks() {
        let (p, name) = (&params[block.range()], block.name());
        match block.shape() {
            [_] if name.ends_with(".weight") => assert!(p.iter().all(|x| *x == 1.0), "{name}"),
            [_] => assert!(p.iter().all(|x| *x == 0.0), "{name}"),
            [_, d] if name.starts_with("layers") => {
                // Uniform draws, consecutive, times 1/√(columns).
                let step = -1.0 / (*d as f64).sqrt();
                assert!(p[0] < 0.0 && (p[1] - p[0] - step).abs() < 1e-9 * p[0].abs(), "{name}");
            }
            _ => assert!(p[0] >= 4.0 && p[1] == p[0] + 1.0, "{name}"),
        }
    }
    let [e, u] = ["tok_embeddings.weight", "output.weight"].map(|n| &params[layout.find(n).unwrap().range()]);
    assert_eq!(e, u);
    // The draws of a block do not depend on what else the model has.
    let small = Case { layers: 1, ff: FeedForward::None, norm: false, ..spec() }.model::<f64>();
    let start = small.initial(&Marked);
    for block in Model::<f64>::layout(&small).blocks().iter().filter(|b| b.name() != "output.weight") {
        assert_eq!(
            start[block.range()],
            params[layout.find(block.name()).unwrap().range()],
            "{}",
            block.name()
        );
    }
    let waves = Case { positions: Positions::SinCos, ..spec() }.model::<f64>();
    let pe = &waves.initial(&Marked)[Model::<f64>::layout(&waves).find("pe").unwrap().range()];
    for t in 0..6 {
        let expected =
            [(t as f64).sin(), (t as f64).cos(), (t as f64 / 100.0).sin(), (t as f64 / 100.0).cos()];
        for (p, e) in pe[t * 4..].iter().zip(expected) {
            assert!((p - e).abs() < 1e-15, "{t}: {p} for {e}");
        }
    }
}

#[test]
fn what_trains_is_what_the_spec_says() {
    let fixed = |case: &Case| -> Vec<String> {
        let model = case.model::<f32>();
        let blocks = Model::<f32>::layout(&model).blocks().to_vec();
        let flags = Model::<f32>::trainable(&model).to_vec();
        blocks.iter().zip(flags).filter(|(_, on)| !on).map(|(b, _)| b.name().to_string()).collect()
    };
    assert!(fixed(&spec()).is_empty());
    let more = Case { positions: Positions::SinCos, output: Output::Frozen, ..spec() };
    assert_eq!(fixed(&more), ["pe", "output.weight"]);
}

#[test]
fn misfits_are_typed_errors() {
    for (bad, words) in [
        (Case { vocab: 0, ..spec() }, "S: 0"),
        (Case { seq_len: 1, ..spec() }, "T: 1"),
        (Case { dim: 0, ..spec() }, "d: 0"),
        (Case { layers: 0, ..spec() }, "layers: 0"),
        (Case { layers: 65, ..spec() }, "1 <= layers <= 64"),
        (Case { heads: 0, ..spec() }, "heads: 0"),
        (Case { heads: 3, ..spec() }, "a divisor of d = 4"),
        (Case { dim: 3, heads: 1, positions: Positions::SinCos, ..spec() }, "even d"),
        (Case { positions: Positions::Rotary, ..spec() }, "positions: rotary"),
        (Case { positions: Positions::Random, ..spec() }, "positions: random"),
        (Case { dim: 65536, layers: 64, ..spec() }, "at most 2^31 parameters"),
    ] {
        let model = Transformer::<f32>::new(bad.vocab, bad.seq_len, &bad.spec());
        let message = model.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    for (heads, words) in [
        (vec![], "heads: []; allowed: one number for all layers, or 2 equal ones"),
        (vec![2, 4], "heads: [2, 4]"),
        (vec![2, 2, 2], "heads: [2, 2, 2]"),
        (vec![3, 3], "a divisor of d = 4"),
    ] {
        let model = Transformer::<f32>::new(5, 6, &TransformerSpec { heads, ..spec().spec() });
        let message = model.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let each = TransformerSpec { heads: vec![2, 2], ..spec().spec() };
    assert_eq!(Model::<f32>::heads(&Transformer::new(5, 6, &each).unwrap()), [2, 2]);
    let model = spec().model::<f64>();
    let params = parameters(&layout(&model), 1);
    let batch = random_batch(1, 3, 6, 5, true);
    let (on, mut ws) = (all(&model), model.workspace(Targets::Labels, 3).unwrap());
    let mut grad = vec![0.0; params.len()];
    let mut refused = |params: &[f64], batch: &Batch, on: &[bool], words: &str| {
        let message = model.loss_and_grad(params, batch, on, &mut ws, &mut grad).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let changed = |f: &dyn Fn(&mut Batch)| {
        let mut batch = batch.clone();
        f(&mut batch);
        batch
    };
    refused(&params[1..], &batch, &on, "params length");
    refused(&params, &batch, &on[1..], "active");
    refused(&params, &changed(&|b| b.parts_mut().tokens[7] = 5), &on, "tokens: 5 in sequence 1");
    refused(&params, &changed(&|b| b.parts_mut().labels[13] = 9), &on, "labels: 9 in sequence 2");
    refused(&params, &changed(&|b| b.parts_mut().weights[0] = f64::NAN), &on, "weights: NaN");
    refused(&params, &changed(&|b| b.parts_mut().weights[0] = -1.0), &on, "weights: -1");
    refused(&params, &random_batch(1, 4, 6, 5, true), &on, "B: 4");
    refused(&params, &random_batch(1, 3, 5, 5, true), &on, "T: 5");
    refused(&params, &random_batch(1, 3, 6, 4, true), &on, "S: 4");
    assert!(model.loss_and_grad(&params, &batch, &on, &mut ws, &mut grad[1..]).is_err());
    let waves = Case { positions: Positions::SinCos, ..spec() }.model::<f64>();
    let message =
        waves.loss_and_grad(&params, &batch, &vec![true; on.len()], &mut ws, &mut grad).unwrap_err();
    assert!(message.to_string().contains("active: pe"), "{message}");
    let other = Case { layers: 1, ..spec() }.model::<f64>();
    assert!(
        model
            .loss_and_grad(&params, &batch, &on, &mut other.workspace(Targets::Labels, 9).unwrap(), &mut grad)
            .is_err()
    );
    let mut small = Report::new::<f64>(&model, Targets::Labels, 2, false, false);
    assert!(
        model
            .report(&params, &batch, &mut ws, &mut small)
            .unwrap_err()
            .to_string()
            .contains("losses: 12 entries")
    );
    let mut map = vec![0.0; 2 * 2 * 36];
    assert!(model.attention(&params, &[0; 5], &mut ws, &mut map).is_err());
    assert!(model.attention(&params, &[5; 6], &mut ws, &mut map).is_err());
    assert!(model.attention(&params, &[0; 6], &mut ws, &mut map[1..]).is_err());
    assert!(model.attention(&params, &[4; 6], &mut ws, &mut map).is_ok());
    // Nothing that counts: no loss, and a gradient of zeros.
    let nothing = changed(&|b| b.parts_mut().weights.fill(0.0));
    let (loss, grad) = gradient(&model, &params, &nothing, &on);
    assert!(loss == 0.0 && grad.iter().all(|g| *g == 0.0));
}

/// Panels are counted: of W^T and W, columns in sixteens. Q and O 128, K with V 192, both of the
/// feed-forward 320; of the output 144.
#[test]
fn workspace_counts_the_panels() {
    let model = spec().model::<f32>();
    let of = |seqs| Model::<f32>::workspace_len(&model, Targets::Labels, seqs).unwrap();
    let (one, many) = (of(1), of(9));
    assert_eq!((one.packed, many.packed), (2 * (2 * 128 + 192 + 2 * 320) + 144, one.packed));
    let without = WorkspaceLen { packed: 0, ..one };
    assert_eq!(one.bytes::<f32>().unwrap() - without.bytes::<f32>().unwrap(), 4 * one.packed);
}

/// The shards' gradients added in order, for any number of threads. W₁ and W₂ of width 72 have more
/// entries over 16 shards than are folded on one thread, and lie far from the start of the vector.
#[test]
fn threads_change_no_bit() {
    let (batch, shards) = (35, 16);
    for (block, dim) in [(BlockKind::Public, 72), (BlockKind::Standard, 8), (BlockKind::PostNorm, 72)] {
        let model = Case { block, dim, ..spec() }.model::<f32>();
        let layout = layout(&model);
        let params: Vec<f32> = parameters(&layout, 4).iter().map(|p| *p as f32).collect();
        let largest = layout.blocks().iter().map(|b| b.len()).max().unwrap();
        assert_eq!(largest * shards > 1 << 18, dim == 72);
        let laws = Bigrams::dirichlet(5, 0.5, 1).unwrap();
        let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
        let task = TriggerBigram::new(laws, 6, Triggers::Random { count: 2 }, outputs).unwrap();
        let source = TriggerSource::new(Arc::new(task), Key::new(1, Purpose::Train), LossOn::All);
        let (mut sums, mut total) = (vec![0.0f64; params.len()], 0.0);
        for i in 0..shards {
            let (first, end) = (i * batch / shards, (i + 1) * batch / shards);
            let mut part = source.batch(end - first).unwrap();
            source.fill(first as u64, end - first, &mut source.work(), &mut part);
            let (loss, grad) = gradient(&model, &params, &part, &all(&model));
            sums.iter_mut().zip(grad).for_each(|(s, g)| *s += f64::from(g));
            total += loss;
        }
        let weight = (batch * 6) as f64;
        let expected: Vec<f32> = sums.iter().map(|s| (1.0 / weight * s) as f32).collect();
        let unfreeze = UnfreezeAt::all(layout.blocks().iter().map(|b| (b.name(), b.range(), true)));
        let plan = Plan {
            steps: 1,
            batch,
            shards,
            lr: 0.1,
            schedule: Schedule::Constant,
            eval_every: 1,
            checkpoint_every: 1,
        };
        let mut losses = Vec::new();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut grad = vec![f32::NAN; params.len()];
            let loss = pool.install(|| {
                let mut objective = Sharded::new(&model, &source, &plan, unfreeze.clone()).unwrap();
                objective.loss_and_grad(0, &params, &mut grad).unwrap()
            });
            assert!(
                grad.iter().zip(&expected).all(|(g, e)| g.to_bits() == e.to_bits()),
                "{block:?}, {threads} threads: a gradient's bit"
            );
            losses.push(loss.to_bits());
            assert!((loss - total / weight).abs() < 1e-14 * loss.abs());
        }
        assert!(losses.iter().all(|l| *l == losses[0]), "{block:?}: the loss of 1, 2 and 5 threads");
    }
}
