//! `memory` against a transcription of theory 2.2 in plain loops, differentiated by a tape, and
//! against central differences, for every option; which gradients depend on what; reports; misfits.

use crate::support::draws;
use crate::support::tape::{Tape, Var};
use popgrad::batch::{Batch, Targets};
use popgrad::model::{FeedForward, Layout, Memory, MemorySpec, Model, Output, Positions, Report};
use popgrad::rng::{Key, Purpose};
use popgrad_kernels::{Elem, Isa, Kernels};

const FF: [FeedForward; 3] = [FeedForward::None, FeedForward::Linear, FeedForward::Relu];
const POSITIONS: [Positions; 3] = [Positions::Random, Positions::SinCos, Positions::Rotary];
const OUTPUT: [Output; 4] = [Output::Free, Output::Frozen, Output::Tied, Output::TiedFrozen];

/// A spec with the sizes of a task.
#[derive(Debug, Clone)]
struct Case {
    vocab: usize,
    seq_len: usize,
    spec: MemorySpec,
}

impl std::ops::Deref for Case {
    type Target = MemorySpec;
    fn deref(&self) -> &MemorySpec {
        &self.spec
    }
}

impl Case {
    fn model<E: Elem>(&self) -> Memory<E> {
        Memory::new(self.vocab, self.seq_len, &self.spec).unwrap()
    }
    fn on<E: Elem>(&self, isa: Isa) -> Memory<E> {
        Memory::on(self.vocab, self.seq_len, &self.spec, Kernels::new(isa).unwrap()).unwrap()
    }
    fn with(mut self, change: impl FnOnce(&mut MemorySpec)) -> Self {
        change(&mut self.spec);
        self
    }
}

fn spec(vocab: usize, seq_len: usize, dim: usize) -> Case {
    Case { vocab, seq_len, spec: MemorySpec { dim, ..MemorySpec::default() } }
}

/// Every option with every other.
fn specs(vocab: usize, seq_len: usize, dim: usize) -> Vec<Case> {
    let mut all = Vec::new();
    for ff0 in FF {
        for ff1 in FF {
            for positions in POSITIONS {
                for output in OUTPUT {
                    for scale in [true, false] {
                        let (ff1, ff2) = (ff0, ff1);
                        let (scale_scores, scale_embeddings) = (scale, !scale);
                        let options =
                            MemorySpec { dim, ff1, ff2, positions, output, scale_scores, scale_embeddings };
                        all.push(Case { vocab, seq_len, spec: options });
                    }
                }
            }
        }
    }
    all
}

/// Random tokens and labels; weights of all kinds, some positions 0, in the last sequence all but
/// one.
fn random_batch(seed: u64, seqs: usize, len: usize, vocab: usize) -> Batch {
    let key = Key::new(seed, Purpose::Train);
    let mut batch = Batch::with_capacity(Targets::Labels, seqs, len, vocab).unwrap();
    batch.set_seqs(seqs);
    let parts = batch.parts_mut();
    for i in 0..seqs * len {
        let [u, v] = key.uniforms(i as u64, 0, 0);
        parts.tokens[i] = key.below(vocab as u64, i as u64, 1, 0) as u32;
        parts.labels[i] = key.below(vocab as u64, i as u64, 1, 1) as u32;
        parts.weights[i] = if u < 0.4 {
            0.0
        } else if u < 0.7 {
            1.0
        } else {
            2.0 * v
        };
    }
    let last = (seqs - 1) * len;
    parts.weights[last..].fill(0.0);
    parts.weights[last + len / 2] = 0.75;
    batch
}

/// Start, with maps larger than it has them, so that attention is far from uniform.
fn params<E: Elem>(model: &Memory<E>, seed: u64) -> Vec<E> {
    let mut params = model.initial(&draws(seed));
    for b in Model::<E>::layout(model).blocks().iter().filter(|b| b.name().starts_with("layers")) {
        params[b.range()].iter_mut().for_each(|x| *x = E::from_f64(1.5 * x.to_f64()));
    }
    params
}

// ---- the transcription, on a tape ----

/// Each pair of entries turned by `at` times its frequency.
fn turned(tape: &mut Tape, x: &[Var], at: usize, rotary: bool) -> Vec<Var> {
    if !rotary {
        return x.to_vec();
    }
    let mut y = Vec::new();
    for (m, pair) in x.chunks(2).enumerate() {
        let angle = at as f64 * 10000f64.powf(-2.0 * m as f64 / x.len() as f64);
        let (c, s) = (angle.cos(), angle.sin());
        for (by_a, by_b) in [(c, -s), (s, c)] {
            let (a, b) = (tape.affine(pair[0], by_a, 0.0), tape.affine(pair[1], by_b, 0.0));
            y.push(tape.add(a, b));
        }
    }
    y
}

/// The results of the transcription on a batch.
struct Naive {
    loss: f64,
    grad: Vec<f64>,
    /// See [`Tape::gradient`].
    size: Vec<f64>,
    losses: Vec<f64>,
    probs: Vec<f64>,
    /// (2, B, T, T)
    attention: Vec<f64>,
}

/// Theory 2.2, one sequence after the other.
fn naive(spec: &Case, layout: &Layout, params: &[f64], batch: &Batch) -> Naive {
    let (t, d, n, seqs) = (spec.seq_len, spec.dim, spec.vocab, batch.seqs());
    let mut tape = Tape::default();
    let vars: Vec<Var> = params.iter().map(|x| tape.new_var(*x)).collect();
    let find = |name: String| layout.find(&name).map(|b| &vars[b.range()]);
    let e = find("tok_embeddings.weight".into()).unwrap();
    let mut total = tape.new_var(0.0);
    let (mut losses, mut probs) = (Vec::new(), Vec::new());
    let mut attention = vec![0.0; 2 * seqs * t * t];
    for b in 0..seqs {
        let tokens = &batch.tokens()[b * t..(b + 1) * t];
        let mut x: Vec<Vec<Var>> = (0..t)
            .map(|i| {
                let e = &e[tokens[i] as usize * d..][..d];
                match find("pe".into()) {
                    Some(p) => tape.plus(e, &p[i * d..][..d]),
                    None => e.to_vec(),
                }
            })
            .collect();
        for l in 0..2 {
            let part = |name: &str| find(format!("layers.{l}.{name}.weight"));
            let [wk, wv, wo] = ["wk", "wv", "wo"].map(|w| part(&format!("attention.{w}")).unwrap());
            let rotary = l == 0 && spec.positions == Positions::Rotary;
            let q: Vec<_> = x.iter().enumerate().map(|(i, x)| turned(&mut tape, x, i, rotary)).collect();
            let k: Vec<_> = x.iter().map(|x| tape.apply(wk, x)).collect();
            let k: Vec<_> = k.iter().enumerate().map(|(i, k)| turned(&mut tape, k, i, rotary)).collect();
            let mut next = Vec::new();
            for i in 0..t {
                let scale = if spec.scale_scores { 1.0 / (d as f64).sqrt() } else { 1.0 };
                let scores: Vec<Var> = (0..=i)
                    .map(|j| {
                        let s = tape.dot(&q[i], &k[j]);
                        tape.affine(s, scale, 0.0)
                    })
                    .collect();
                let alpha = tape.softmax(&scores);
                for (j, a) in alpha.iter().enumerate() {
                    attention[((l * seqs + b) * t + i) * t + j] = tape.value[*a];
                }
                let mixed: Vec<Var> = (0..d)
                    .map(|c| {
                        let column: Vec<Var> = (0..=i).map(|j| x[j][c]).collect();
                        tape.dot(&alpha, &column)
                    })
                    .collect();
                let v = tape.apply(wv, &mixed);
                let o = tape.apply(wo, &v);
                next.push(tape.plus(&x[i], &o));
            }
            for h in &mut next {
                if let Some(w) = part("ff") {
                    let f = tape.apply(w, h);
                    *h = tape.plus(h, &f);
                } else if let (Some(w1), Some(w2)) = (part("ff.w1"), part("ff.w2")) {
                    let f: Vec<Var> = tape.apply(w1, h).into_iter().map(|f| tape.relu(f)).collect();
                    let f = tape.apply(w2, &f);
                    *h = tape.plus(h, &f);
                }
            }
            x = next;
        }
        let c = match spec.output {
            Output::Free | Output::Frozen => 1.0,
            Output::Tied => 1.0 / d as f64,
            Output::TiedFrozen => 1.0 / (d as f64).sqrt(),
        };
        let u = find("output.weight".into()).unwrap_or(e);
        for i in 0..t {
            let z: Vec<Var> = tape.apply(u, &x[i]).into_iter().map(|z| tape.affine(z, c, 0.0)).collect();
            let p = tape.softmax(&z);
            probs.extend(p.iter().map(|p| tape.value[*p]));
            let ln = tape.ln(p[batch.labels()[b * t + i] as usize]);
            losses.push(-tape.value[ln]);
            let term = tape.affine(ln, -batch.weights()[b * t + i], 0.0);
            total = tape.add(total, term);
        }
    }
    assert_eq!(probs.len(), seqs * t * n);
    let [grad, size] = tape.gradient(total, params.len());
    Naive { loss: tape.value[total], grad, size, losses, probs, attention }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// Bound of |x − reference| in units of the sizes of terms: products and sums of that many terms,
/// one after the other.
fn tolerance<E: Elem>(spec: &Case) -> f64 {
    let u = if size_of::<E>() == 4 { 2f64.powi(-24) } else { 2f64.powi(-53) };
    (2 * spec.seq_len + 12 * spec.dim + spec.vocab) as f64 * u
}

fn close<E: Elem>(what: &str, spec: &Case, got: &[E], expected: &[f64]) {
    within(what, spec, got, expected, largest(expected).max(1.0));
}

fn within<E: Elem>(what: &str, spec: &Case, got: &[E], expected: &[f64], size: f64) {
    let bound = tolerance::<E>(spec) * size;
    for (i, (g, x)) in got.iter().zip(expected).enumerate() {
        let off = (g.to_f64() - x).abs();
        assert!(
            off <= bound,
            "{what}[{i}]: {} for {x}, {off:e} off, {bound:e} allowed; {spec:?}",
            g.to_f64()
        );
    }
}

/// The blocks that have a gradient: all that are not constants of the model.
fn can_train<E: Elem>(model: &Memory<E>) -> Vec<bool> {
    let constant = [
        "pe",
        "layers.0.attention.wv.weight",
        "layers.0.attention.wo.weight",
        "layers.1.attention.wv.weight",
    ];
    let blocks = Model::<E>::layout(model).blocks();
    blocks.iter().map(|b| !constant.contains(&b.name())).collect()
}

fn gradient<E: Elem>(model: &Memory<E>, params: &[E], batch: &Batch, active: &[bool]) -> (f64, Vec<E>) {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut grad = vec![E::from_f64(f64::NAN); params.len()];
    let loss = model.loss_and_grad(params, batch, active, &mut ws, &mut grad).unwrap();
    (loss.value(), grad)
}

fn against_the_transcription<E: Elem>(
    case: &Case,
    model: &Memory<E>,
    params: &[E],
    batch: &Batch,
    expected: &Naive,
) {
    let layout = Model::<E>::layout(model);
    let active = can_train(model);
    let (loss, grad) = gradient(model, params, batch, &active);
    close("loss", case, &[E::from_f64(loss)], &[expected.loss]);
    for (b, block) in layout.blocks().iter().enumerate() {
        if active[b] {
            let (got, at) = (&grad[block.range()], block.range());
            let size = largest(&expected.size[at.clone()]);
            within(block.name(), case, got, &expected.grad[at], size);
        } else {
            assert!(grad[block.range()].iter().all(|g| g.to_f64().is_nan()), "{} was written", block.name());
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_the_equations() {
    for (i, spec) in specs(5, 6, 4).into_iter().enumerate() {
        let batch = random_batch(i as u64, 3, 6, 5);
        for isa in Isa::available() {
            let model = spec.on::<f64>(isa);
            let params = params(&model, 7 + i as u64);
            let expected = naive(&spec, Model::<f64>::layout(&model), &params, &batch);
            against_the_transcription(&spec, &model, &params, &batch, &expected);
            let single = spec.on::<f32>(isa);
            let rounded: Vec<f32> = params.iter().map(|x| *x as f32).collect();
            let params: Vec<f64> = rounded.iter().map(|x| f64::from(*x)).collect();
            let expected = naive(&spec, Model::<f64>::layout(&model), &params, &batch);
            against_the_transcription(&spec, &single, &rounded, &batch, &expected);
        }
    }
}

/// Lengths on both sides of the kernels' blocks, widths that are no multiple of a vector.
#[test]
fn long_sequences_too() {
    for (t, d, positions) in
        [(110, 6, Positions::Random), (97, 10, Positions::Rotary), (35, 18, Positions::SinCos)]
    {
        let ff = (FeedForward::Relu, FeedForward::Linear);
        let spec = spec(7, t, d).with(|s| (s.positions, (s.ff1, s.ff2)) = (positions, ff));
        let batch = random_batch(3, 2, t, 7);
        for isa in Isa::available() {
            let model = spec.on::<f64>(isa);
            let params = params(&model, 5);
            let expected = naive(&spec, Model::<f64>::layout(&model), &params, &batch);
            against_the_transcription(&spec, &model, &params, &batch, &expected);
        }
    }
}

/// Fourth order, with two steps: their difference is nearly that of the wider one. A rectifier that
/// switches in between shows in it.
#[test]
fn gradients_are_central_differences() {
    let (mut kinks, mut smooth) = (0, 0);
    for (i, spec) in specs(4, 5, 4).into_iter().enumerate() {
        let model = spec.model::<f64>();
        let (params, batch) = (params(&model, i as u64), random_batch(50 + i as u64, 2, 5, 4));
        let rectified = [spec.ff1, spec.ff2].contains(&FeedForward::Relu);
        let active = can_train(&model);
        let (_, grad) = gradient(&model, &params, &batch, &active);
        let mut ws = model.workspace(Targets::Labels, 2).unwrap();
        let off = vec![false; active.len()];
        let mut loss = |at: usize, by: f64| {
            let mut moved = params.clone();
            moved[at] += by;
            let mut none = vec![0.0; moved.len()];
            model.loss_and_grad(&moved, &batch, &off, &mut ws, &mut none).unwrap().value()
        };
        for (b, block) in Model::<f64>::layout(&model).blocks().iter().enumerate() {
            if !active[b] {
                continue;
            }
            for j in 0..3 {
                let at = block.range().start + (j * 7 + i) % block.len();
                let mut slope = |h: f64| {
                    let near = loss(at, h) - loss(at, -h);
                    let far = loss(at, 2.0 * h) - loss(at, -2.0 * h);
                    (8.0 * near - far) / (12.0 * h)
                };
                let (h, wide) = (2f64.powi(-11), slope(2f64.powi(-10)));
                let fine = slope(h);
                let (rounding, truncation) =
                    (64.0 * f64::EPSILON * loss(at, 0.0).abs() / h, (fine - wide).abs());
                if rectified && truncation > 1e-8 {
                    kinks += 1;
                    continue;
                }
                smooth += 1;
                let (name, g, bound) = (block.name(), grad[at], rounding + truncation);
                assert!(
                    bound < 1e-6 && (fine - g).abs() <= bound,
                    "{name}: {fine} for {g}, {bound:e}; {spec:?}"
                );
            }
        }
    }
    assert!(kinks * 10 < smooth, "{kinks} kinks, {smooth} without");
}

/// A block's gradient has the same bits whatever else is wanted; what is not wanted is not written.
#[test]
fn gradients_do_not_depend_on_which_others_are_wanted() {
    for (i, spec) in specs(5, 7, 4).into_iter().enumerate().step_by(3) {
        let model = spec.model::<f32>();
        let (params, batch) = (params(&model, i as u64), random_batch(i as u64, 3, 7, 5));
        let can = can_train(&model);
        let blocks = Model::<f32>::layout(&model).blocks();
        let (loss, all) = gradient(&model, &params, &batch, &can);
        let n = blocks.len();
        let singles = (0..n).map(|b| (0..n).map(|i| i == b).collect::<Vec<_>>());
        let others = (0..n).map(|b| (0..n).map(|i| i != b).collect::<Vec<_>>());
        let none = vec![false; n];
        for active in singles.chain(others).chain([none]) {
            let active: Vec<bool> = active.iter().zip(&can).map(|(a, c)| *a && *c).collect();
            let (again, grad) = gradient(&model, &params, &batch, &active);
            assert_eq!(again, loss);
            for (b, block) in blocks.iter().enumerate() {
                for i in block.range() {
                    let expected = if active[b] { all[i] } else { f32::NAN };
                    assert_eq!(
                        grad[i].to_bits(),
                        expected.to_bits(),
                        "{}[{i}], {active:?}, {spec:?}",
                        block.name()
                    );
                }
            }
        }
    }
}

fn part_of(batch: &Batch, rows: std::ops::Range<usize>) -> Batch {
    let t = batch.len_tokens();
    let mut part = Batch::with_capacity(Targets::Labels, rows.len(), t, batch.vocab()).unwrap();
    part.set_seqs(rows.len());
    let at = rows.start * t..rows.end * t;
    let to = part.parts_mut();
    to.tokens.copy_from_slice(&batch.tokens()[at.clone()]);
    to.labels.copy_from_slice(&batch.labels()[at.clone()]);
    to.weights.copy_from_slice(&batch.weights()[at]);
    part
}

#[test]
fn sequences_add_up_and_what_does_not_count_changes_nothing() {
    for spec in specs(5, 8, 4).into_iter().step_by(5) {
        let model = spec.model::<f64>();
        let (params, mut batch) = (params(&model, 1), random_batch(9, 4, 8, 5));
        let can = can_train(&model);
        let (loss, grad) = gradient(&model, &params, &batch, &can);
        let (mut sum, mut sums) = (0.0, vec![0.0; params.len()]);
        for i in 0..4 {
            let (l, g) = gradient(&model, &params, &part_of(&batch, i..i + 1), &can);
            sum += l;
            sums.iter_mut().zip(&g).for_each(|(s, g)| *s += g);
        }
        close("loss", &spec, &[loss], &[sum]);
        for (b, block) in Model::<f64>::layout(&model).blocks().iter().enumerate().filter(|(b, _)| can[*b]) {
            close(block.name(), &spec, &grad[block.range()], &sums[block.range()]);
            let _ = b;
        }
        // Tokens after the last position that counts, labels where none does, a sequence of weight
        // 0.
        let parts = batch.parts_mut();
        let last = 3 * 8 + 4;
        parts.tokens[last + 1..].iter_mut().for_each(|z| *z = (*z + 1) % 5);
        for (y, w) in parts.labels.iter_mut().zip(&*parts.weights) {
            *y = if *w == 0.0 { (*y + 2) % 5 } else { *y };
        }
        let (again, same) = gradient(&model, &params, &batch, &can);
        assert_eq!(again, loss);
        assert!(grad.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()), "{spec:?}");
        let parts = batch.parts_mut();
        parts.weights[8..16].fill(0.0);
        let (without, _) = gradient(&model, &params, &batch, &can);
        let (own, _) = gradient(&model, &params, &part_of(&random_batch(9, 4, 8, 5), 1..2), &can);
        close("loss", &spec, &[without + own], &[loss]);
        parts_zero(&mut batch);
        let (nothing, zeros) = gradient(&model, &params, &batch, &can);
        assert_eq!(nothing, 0.0);
        assert!(zeros.iter().all(|g| *g == 0.0 || g.is_nan()));
    }
}

fn parts_zero(batch: &mut Batch) {
    batch.parts_mut().weights.fill(0.0);
}

#[test]
fn reports_and_attention_are_those_of_the_equations() {
    for (i, spec) in specs(5, 7, 4).into_iter().enumerate().step_by(2) {
        let model = spec.model::<f64>();
        let (params, batch) = (params(&model, i as u64), random_batch(i as u64, 3, 7, 5));
        let expected = naive(&spec, Model::<f64>::layout(&model), &params, &batch);
        let mut ws = model.workspace(Targets::Labels, 3).unwrap();
        let mut report = Report::new(&model as &dyn Model<f64>, Targets::Labels, 3, true, true);
        model.report(&params, &batch, &mut ws, &mut report).unwrap();
        close("losses", &spec, &report.losses, &expected.losses);
        close("probs", &spec, &report.probs, &expected.probs);
        let argmax = |x: &[f64]| (0..x.len()).fold(0, |b, i| if x[i] > x[b] { i } else { b }) as u32;
        let predicted: Vec<u32> = report.probs.chunks(5).map(argmax).collect();
        assert_eq!(report.predicted, predicted);
        // Two equal tokens can tie: then any of the largest, save for rounding.
        for (at, row) in report.attended.iter().zip(expected.attention.chunks(7)) {
            assert!(row[*at as usize] >= largest(row) - tolerance::<f64>(&spec), "{spec:?}");
        }
        let mut out = vec![f64::NAN; 2 * 49];
        for b in 0..3 {
            model.attention(&params, &batch.tokens()[b * 7..][..7], &mut ws, &mut out).unwrap();
            for l in 0..2 {
                close(
                    "attention",
                    &spec,
                    &out[l * 49..][..49],
                    &expected.attention[(l * 3 + b) * 49..][..49],
                );
            }
            for (i, row) in out.chunks(7).enumerate() {
                assert_eq!(report.attended[(i / 7 * 3 + b) * 7 + i % 7], argmax(row));
                assert!(row[i % 7 + 1..].iter().all(|p| *p == 0.0));
            }
            // The same alone as in a batch.
            let mut alone = Report::new(&model as &dyn Model<f64>, Targets::Labels, 1, false, true);
            model.report(&params, &part_of(&batch, b..b + 1), &mut ws, &mut alone).unwrap();
            assert_eq!(alone.losses, report.losses[b * 7..][..7]);
            assert_eq!(alone.probs, report.probs[b * 35..][..35]);
            assert!(alone.attended.is_empty());
        }
        // The report's losses are the loss.
        let sum: f64 = report.losses.iter().zip(batch.weights()).map(|(l, w)| l * w).sum();
        let (loss, _) = gradient(&model, &params, &batch, &can_train(&model));
        close("loss", &spec, &[loss], &[sum]);
    }
}

#[test]
fn start_and_names_are_those_of_the_public_code() {
    let wide = spec(6, 5, 64).with(|s| (s.ff1, s.ff2) = (FeedForward::Linear, FeedForward::Relu));
    let model = wide.model::<f64>();
    let names: Vec<_> = Model::<f64>::layout(&model)
        .blocks()
        .iter()
        .map(|b| (b.name().to_string(), b.shape().to_vec()))
        .collect();
    let square = vec![64, 64];
    let expected = [
        ("tok_embeddings.weight", vec![6, 64]),
        ("pe", vec![5, 64]),
        ("layers.0.attention.wk.weight", square.clone()),
        ("layers.0.attention.wv.weight", square.clone()),
        ("layers.0.attention.wo.weight", square.clone()),
        ("layers.0.ff.weight", square.clone()),
        ("layers.1.attention.wk.weight", square.clone()),
        ("layers.1.attention.wv.weight", square.clone()),
        ("layers.1.attention.wo.weight", square),
        ("layers.1.ff.w1.weight", vec![256, 64]),
        ("layers.1.ff.w2.weight", vec![64, 256]),
        ("output.weight", vec![6, 64]),
    ];
    assert_eq!(names, expected.map(|(n, s)| (n.to_string(), s)));
    let trained = [true, false, true, false, false, true, true, false, true, true, true, true];
    assert_eq!(Model::<f64>::trainable(&model), trained);
    let start = model.initial(&draws(3));
    let of = |model: &Memory<f64>, start: &[f64], name: &str| {
        start[Model::<f64>::layout(model).find(name).unwrap().range()].to_vec()
    };
    // Uniform: within the bound, and its variance a third of the bound's square, 5 standard
    // deviations of the estimate allowed.
    for (name, fan_in) in [("layers.0.attention.wk.weight", 64.0f64), ("layers.1.ff.w2.weight", 256.0)] {
        let w = of(&model, &start, name);
        let bound = 1.0 / fan_in.sqrt();
        assert!(largest(&w) <= bound && largest(&w) > 0.95 * bound);
        let var = w.iter().map(|w| w * w).sum::<f64>() / w.len() as f64;
        let sd = bound * bound * (4.0 / 45.0 / w.len() as f64).sqrt();
        assert!((var - bound * bound / 3.0).abs() < 5.0 * sd, "{name}");
    }
    let e = of(&model, &start, "tok_embeddings.weight");
    let var = e.iter().map(|x| x * x).sum::<f64>() / e.len() as f64;
    assert!((var - 1.0).abs() < 5.0 * (2.0 / e.len() as f64).sqrt());
    // A block starts the same whatever other blocks there are, and scaling only scales.
    let small = spec(6, 5, 64).with(|s| s.scale_embeddings = true).model::<f64>();
    let other = small.initial(&draws(3));
    for name in ["layers.0.attention.wk.weight", "layers.1.attention.wo.weight", "output.weight"] {
        assert_eq!(of(&small, &other, name), of(&model, &start, name));
    }
    for name in ["tok_embeddings.weight", "pe"] {
        let [a, b] = [of(&small, &other, name), of(&model, &start, name)];
        assert!(a.iter().zip(&b).all(|(a, b)| *a == b / 8.0), "{name}");
    }
    let waves = spec(6, 5, 64).with(|s| s.positions = Positions::SinCos).model::<f64>();
    let pe = of(&waves, &waves.initial(&draws(3)), "pe");
    for (t, m) in [(0, 0), (4, 0), (3, 31), (2, 7)] {
        let angle = t as f64 * 10000f64.powf(-2.0 * m as f64 / 64.0);
        assert_eq!(pe[t * 64 + 2 * m..][..2], [angle.sin(), angle.cos()]);
    }
    let tied = spec(6, 5, 64).with(|s| s.output = Output::TiedFrozen).model::<f64>();
    let start = tied.initial(&draws(3));
    let [e, u] = ["tok_embeddings.weight", "output.weight"].map(|n| of(&tied, &start, n));
    assert!(e.iter().zip(&u).all(|(e, u)| *u == e / 8.0));
}

#[test]
fn what_does_not_fit_is_said() {
    let ok = spec(5, 6, 4);
    let bad = |change: &dyn Fn(&mut Case), field: &str| {
        let mut case = ok.clone();
        change(&mut case);
        let model = Memory::<f32>::new(case.vocab, case.seq_len, &case.spec);
        let e = model.err().unwrap_or_else(|| panic!("{field} was taken")).to_string();
        assert!(e.contains(field), "{e}");
    };
    bad(&|s| s.vocab = 0, "S: 0");
    bad(&|s| s.vocab = 1 << 17, "S: 131072");
    bad(&|s| s.seq_len = 0, "T: 0");
    bad(&|s| s.seq_len = 1, "T: 1");
    bad(&|s| s.spec.dim = 0, "d: 0");
    bad(&|s| (s.spec.dim, s.spec.positions) = (5, Positions::SinCos), "d: 5");
    bad(&|s| (s.spec.dim, s.spec.positions) = (5, Positions::Rotary), "d: 5");
    bad(&|s| s.spec.positions = Positions::Learned, "learned");
    bad(&|s| (s.spec.dim, s.vocab) = (1 << 16, 1 << 16), "2^31");

    let model = ok.model::<f64>();
    let (params, batch) = (params(&model, 1), random_batch(1, 2, 6, 5));
    let mut ws = model.workspace(Targets::Labels, 2).unwrap();
    let mut grad = params.clone();
    let can = can_train(&model);
    let mut refused = |params: &[f64], batch: &Batch, active: &[bool], grad: &mut [f64], what: &str| {
        let before = grad.to_vec();
        let e = model.loss_and_grad(params, batch, active, &mut ws, grad).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
        assert_eq!(grad, before);
    };
    refused(&params[1..], &batch, &can, &mut grad, "params length");
    refused(&params, &random_batch(1, 2, 7, 5), &can, &mut grad, "T: 7");
    refused(&params, &random_batch(1, 2, 6, 4), &can, &mut grad, "S: 4");
    refused(&params, &batch, &can[1..], &mut grad, "active");
    refused(&params, &batch, &can, &mut grad[1..], "grad");
    let all = vec![true; can.len()];
    refused(&params, &batch, &all, &mut grad, "layers.0.attention.wv.weight");
    for (field, change) in [
        ("tokens: 5 in sequence 1", &(|b: &mut Batch| b.parts_mut().tokens[7] = 5) as &dyn Fn(&mut Batch)),
        ("labels: 9 in sequence 0", &|b| b.parts_mut().labels[3] = 9),
        ("weights: -1", &|b| b.parts_mut().weights[3] = -1.0),
        ("weights: NaN", &|b| b.parts_mut().weights[3] = f64::NAN),
        ("weights: inf", &|b| b.parts_mut().weights[3] = f64::INFINITY),
    ] {
        let mut wrong = batch.clone();
        change(&mut wrong);
        refused(&params, &wrong, &can, &mut grad, field);
    }
    let other = spec(5, 4, 4).model::<f64>();
    let mut small = other.workspace(Targets::Labels, 2).unwrap();
    let e = model.loss_and_grad(&params, &batch, &can, &mut small, &mut grad).unwrap_err();
    assert!(e.to_string().contains("workspace"), "{e}");
    let mut report = Report::new(&other as &dyn Model<f64>, Targets::Labels, 2, false, false);
    assert!(model.report(&params, &batch, &mut ws, &mut report).unwrap_err().to_string().contains("losses"));
    let mut out = vec![0.0; 72];
    assert!(model.attention(&params, &[0; 5], &mut ws, &mut out).is_err());
    assert!(model.attention(&params, &[5; 6], &mut ws, &mut out).is_err());
    assert!(model.attention(&params, &[4; 6], &mut ws, &mut out[1..]).is_err());
    assert!(model.attention(&params, &[4; 6], &mut ws, &mut out).is_ok());
}
