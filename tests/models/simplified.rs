//! The simplified model: what it never reads, its place inside the disentangled transformer, the
//! paper's construction.

use popgrad::batch::{Batch, Targets};
use popgrad::model::construction::induction_heads;
use popgrad::model::{Disentangled, DisentangledSpec, Model, Report, Simplified, SimplifiedSpec};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use popgrad::rng::{Key, Purpose};
use popgrad::task::Forest;
use popgrad_kernels::Elem;
use std::process::Command;

fn gaussian(seed: u64, n: usize, scale: f64) -> Vec<f64> {
    let key = Key::new(seed, Purpose::Init);
    (0..n).map(|i| scale * key.normal(i as u64)).collect()
}

/// `seqs` words with random targets and weights, word n being n in base S.
fn batch(seed: u64, s: usize, t: usize, first: usize, seqs: usize) -> Batch {
    let key = Key::new(seed, Purpose::Probe);
    let mut batch = Batch::with_capacity(Targets::Law, seqs, t, s).unwrap();
    batch.set_seqs(seqs);
    let parts = batch.parts_mut();
    let (tokens, targets, weights) = (parts.tokens, parts.laws, parts.weights);
    for (n, word) in tokens.chunks_mut(t).enumerate() {
        popgrad::exact::law::spell((first + n) as u64, s, word);
    }
    for (n, row) in targets.chunks_mut(s).enumerate() {
        row.iter_mut().enumerate().for_each(|(k, y)| *y = key.uniforms(n as u64, k as u32, 0)[0]);
        let z: f64 = row.iter().sum();
        row.iter_mut().for_each(|y| *y /= z);
        weights[n] = key.uniforms(n as u64, 99, 0)[0];
    }
    batch
}

fn predictions<E: Elem>(model: &dyn Model<E>, params: &[E], batch: &Batch) -> Report {
    let mut ws = model.workspace(Targets::Law, batch.seqs()).unwrap();
    let mut report = Report::new(model, Targets::Law, batch.seqs(), false, true);
    model.report(params, batch, &mut ws, &mut report).unwrap();
    report
}

/// Losses, predictions and the gradient.
fn run<E: Elem>(model: &Simplified<E>, params: &[E], batch: &Batch) -> (Vec<f64>, Vec<f64>, Vec<E>) {
    let mut ws = model.workspace(Targets::Law, batch.seqs()).unwrap();
    let mut grad = vec![E::NAN; params.len()];
    model.loss_and_grad(params, batch, &[true; 2], &mut ws, &mut grad).unwrap();
    let report = predictions(model, params, batch);
    (report.losses, report.probs, grad)
}

#[test]
fn what_lies_above_the_diagonal_does_not_exist() {
    let (s, t) = (3, 5);
    let model = Simplified::<f64>::new(s, t, &SimplifiedSpec::new(0.02)).unwrap();
    let params = gaussian(1, t * t + s * s, 1.0);
    let mut poisoned = params.clone();
    for i in 0..t {
        poisoned[i * t + i + 1..(i + 1) * t].fill(f64::NAN);
    }
    let batch = batch(2, s, t, 17, 40);
    let (clean, dirty) = (run(&model, &params, &batch), run(&model, &poisoned, &batch));
    assert_eq!(clean, dirty);
    let layout = Model::layout(&model);
    assert_eq!(layout.blocks().iter().map(|b| b.name()).collect::<Vec<_>>(), ["A1", "A2"]);
    let largest = clean.2.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for i in 0..t {
        let row = &clean.2[i * t..(i + 1) * t];
        assert!(row[i + 1..].iter().all(|g| *g == 0.0));
        assert!(row.iter().sum::<f64>().abs() < 1e-15 * largest, "softmax rows: gradients sum to 0");
        assert_eq!(i == 0, row[..=i].iter().all(|g| *g == 0.0), "row {i}");
    }
    // f is a distribution over the symbols that occur.
    for (n, f) in clean.1.chunks(s).enumerate() {
        assert!((f.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        for c in 0..s {
            assert_eq!(f[c] > 0.0, batch.sequence(n).contains(&(c as u32)));
        }
    }
}

#[test]
fn without_eps_only_the_loss_is_infinite() {
    let model = Simplified::<f64>::new(3, 4, &SimplifiedSpec::new(0.0)).unwrap();
    let params = gaussian(3, 25, 1.0);
    let (losses, _, grad) = run(&model, &params, &batch(4, 3, 4, 0, 81));
    assert_eq!(losses[0], f64::INFINITY, "word 0000 has no 1");
    assert!(losses.iter().any(|l| l.is_finite()) && grad.iter().all(|g| g.is_finite()));
    assert!(grad.iter().any(|g| g.abs() > 1e-2));
    // A target without mass on what does not occur: finite, 0 ln 0 = 0.
    let mut one = batch(4, 3, 4, 0, 1);
    one.parts_mut().laws.copy_from_slice(&[1.0, 0.0, 0.0]);
    assert_eq!(run(&model, &params, &one).0, [0.0]);
}

#[test]
fn f32_follows_f64() {
    let (s, t) = (4, 9);
    let (model, single) = (
        Simplified::<f64>::new(s, t, &SimplifiedSpec::new(0.01)).unwrap(),
        Simplified::<f32>::new(s, t, &SimplifiedSpec::new(0.01)).unwrap(),
    );
    let params32: Vec<f32> = gaussian(5, t * t + s * s, 1.0).iter().map(|x| *x as f32).collect();
    let params: Vec<f64> = params32.iter().map(|x| *x as f64).collect();
    let batch = batch(6, s, t, 1000, 64);
    let (_, _, grad) = run(&model, &params, &batch);
    let (_, _, grad32) = run(&single, &params32, &batch);
    let scale = grad.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let worst = grad.iter().zip(&grad32).map(|(a, b)| (a - *b as f64).abs()).fold(0.0, f64::max);
    // Sums of 64 x 9 terms, each a few roundings off.
    assert!(worst > 0.0 && worst < (64.0 * 9.0 + 50.0) * 6e-8 * scale, "{worst} of {scale}");
}

/// Theory 1.2: A⁽¹⁾ position–position = A1, A⁽²⁾ token–(token part of attn¹) = A2; f is the token
/// part of attn² at T.
#[test]
fn it_sits_inside_the_disentangled_transformer() {
    let (s, t, readout) = (3, 6, 2.5);
    let (simple, full) = (
        Simplified::<f64>::new(s, t, &SimplifiedSpec::new(0.0)).unwrap(),
        Disentangled::<f64>::new(s, t, &DisentangledSpec::new(&[1, 1])).unwrap(),
    );
    let params = gaussian(7, t * t + s * s, 1.3);
    let (d0, d1) = (s + t, 2 * (s + t));
    let mut big = vec![0.0; Model::layout(&full).len()];
    for i in 0..t {
        big[(s + i) * d0 + s..][..t].copy_from_slice(&params[i * t..][..t]);
    }
    for k in 0..s {
        big[d0 * d0 + k * d1 + d0..][..s].copy_from_slice(&params[t * t + k * s..][..s]);
        big[d0 * d0 + d1 * d1 + (d1 + k) * s + k] = readout;
    }
    let batch = batch(8, s, t, 200, 300);
    let (_, f, _) = run(&simple, &params, &batch);
    let probs = predictions(&full, &big, &batch).probs;
    for (p, f) in probs.chunks(s).zip(f.chunks(s)) {
        let e: Vec<f64> = f.iter().map(|f| (readout * f).exp()).collect();
        let z: f64 = e.iter().sum();
        p.iter().zip(e).for_each(|(p, e)| assert!((p - e / z).abs() < 1e-14));
    }
    // The constructions agree too.
    let parents = Forest::from_parents(&[-1, 0, 0, 1, 2]).unwrap().parents().to_vec();
    let small = simple.construction(&parents, 9.0, 4.0).unwrap();
    let big = induction_heads(&full, &[parents], 9.0, 4.0, readout).unwrap();
    let (_, f, _) = run(&simple, &small, &batch);
    let probs = predictions(&full, &big, &batch).probs;
    for (p, f) in probs.chunks(s).zip(f.chunks(s)) {
        let z: f64 = f.iter().map(|f| (readout * f).exp()).sum();
        p.iter().zip(f).for_each(|(p, f)| assert!((p - (readout * f).exp() / z).abs() < 1e-14));
    }
}

/// Theory 1.2: f tends to the uniform average over {i: z_i maximal}; on the chain with T = 8 the
/// worst error over all words is 7/(e^{β/8} + 7): the word without any match but the query's own
/// 1/T.
#[test]
fn the_construction_errs_like_seven_times_exp_minus_beta_over_eight() {
    let (s, t) = (2usize, 8usize);
    let model = Simplified::<f64>::new(s, t, &SimplifiedSpec::new(0.0)).unwrap();
    let forest = Forest::chain(t).unwrap();
    let n = s.pow(t as u32);
    let batch = batch(9, s, t, 0, n);
    let mut last = 0.0;
    for beta in [40.0, 80.0, 160.0, 240.0] {
        // e^{-800} is zero in the softmax.
        let params = model.construction(forest.parents(), 800.0, beta).unwrap();
        let (_, f, _) = run(&model, &params, &batch);
        let mut worst = 0.0f64;
        for word in 0..n {
            let x = batch.sequence(word);
            let is_query = |j: usize| f64::from(x[j] == x[t - 1]);
            let mut z: Vec<f64> = (0..t - 1).map(|i| is_query(i.saturating_sub(1))).collect();
            z.push((0..t).map(is_query).sum::<f64>() / t as f64);
            let max = z.iter().copied().fold(0.0, f64::max);
            let best: Vec<usize> = (0..t).filter(|i| z[*i] == max).collect();
            for c in 0..s {
                let limit = best.iter().filter(|i| x[**i] == c as u32).count() as f64 / best.len() as f64;
                worst = worst.max((f[word * s + c] - limit).abs());
            }
        }
        last = worst * (beta / 8.0).exp();
        println!("beta {beta}: error {worst:.3e}, times exp(beta/8) {last:.6}");
        let exact = 7.0 / ((beta / 8.0).exp() + 7.0);
        assert!((worst / exact - 1.0).abs() < 1e-9 + 1e-15 / exact, "{worst} for {exact}");
    }
    assert!((last - 7.0).abs() < 5e-4, "{last}");
}

/// Two parents i−1, i−2 (the target's: the query and the position before it): two heads find both,
/// the second layer counts agreements, and only positions where both agree survive.
#[test]
fn several_heads_match_tuples_of_parents() {
    let (s, t) = (3usize, 9usize);
    let model = Disentangled::<f64>::new(s, t, &DisentangledSpec::new(&[2, 1])).unwrap();
    let one: Vec<Option<usize>> =
        (0..t).map(|i| if i + 1 == t { Some(i) } else { i.checked_sub(1) }).collect();
    let two: Vec<Option<usize>> = (0..t).map(|i| i.checked_sub(if i + 1 == t { 1 } else { 2 })).collect();
    let params = induction_heads(&model, &[one, two], 800.0, 300.0, 1.0).unwrap();
    let words: [[u32; 9]; 2] = [[0, 1, 2, 1, 0, 1, 0, 0, 1], [2, 0, 1, 2, 2, 0, 2, 1, 1]];
    let mut batch = batch(10, s, t, 0, 2);
    batch.parts_mut().tokens.copy_from_slice(&words.concat());
    let probs = predictions(&model, &params, &batch).probs;
    for (n, x) in words.iter().enumerate() {
        let mut count = [0.0; 3];
        // Positions 2.. with both parents equal to the query's tuple, and the query, which agrees
        // with itself.
        for i in 2..t {
            if i + 1 == t || (x[i - 1] == x[t - 1] && x[i - 2] == x[t - 2]) {
                count[x[i] as usize] += 1.0;
            }
        }
        let total: f64 = count.iter().sum();
        assert!(n == 1 || total >= 3.0, "the first word has matches besides the query");
        let z: f64 = count.iter().map(|c| (c / total).exp()).sum();
        for c in 0..s {
            let p = probs[n * s + c];
            assert!((p - (count[c] / total).exp() / z).abs() < 1e-12, "word {n}: {p}");
        }
    }
}

#[test]
fn misfits_are_typed_errors() {
    let new = |s, t, eps| Simplified::<f64>::new(s, t, &SimplifiedSpec::new(eps)).err().unwrap().to_string();
    assert_eq!(new(1, 5, 0.0), "S: 1; allowed: 2 <= S <= 65536");
    assert_eq!(new(3, 1, 0.0), "T: 1; allowed: 2 <= T <= 65536");
    assert_eq!(new(3, 65537, 0.0), "T: 65537; allowed: 2 <= T <= 65536");
    for eps in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(new(3, 5, eps).starts_with("eps: "));
    }
    let model = Simplified::<f64>::new(3, 4, &SimplifiedSpec::new(0.0)).unwrap();
    let mut bad = batch(1, 3, 4, 0, 3);
    bad.parts_mut().tokens[6] = 3;
    let mut ws = model.workspace(Targets::Law, 3).unwrap();
    let e = model.loss_and_grad(&[0.0; 25], &bad, &[true; 2], &mut ws, &mut [0.0; 25]).unwrap_err();
    assert_eq!(e.to_string(), "tokens: 3 in sequence 1; allowed: 0 <= symbol < 3");
    let e = model.workspace(Targets::Labels, 3).unwrap_err().to_string();
    assert!(e.contains("predicts the symbol after the last position only"), "{e}");
    let nan = SimplifiedSpec { beta0: f64::NAN, ..SimplifiedSpec::default() };
    assert!(Simplified::<f64>::new(3, 5, &nan).unwrap_err().to_string().starts_with("beta0: NaN"));
    let e = |p: &[Option<usize>]| model.construction(p, 1.0, 1.0).unwrap_err().to_string();
    assert_eq!(e(&[None]), "parents: 1 entries; allowed: 3 or 4 (with the query's)");
    assert_eq!(e(&[None, Some(1), None]), "parents: entry 1 is 1; allowed: an earlier position");
    let full = Disentangled::<f64>::new(3, 4, &DisentangledSpec::new(&[2, 1])).unwrap();
    let heads = |p: &[Vec<Option<usize>>]| induction_heads(&full, p, 1.0, 1.0, 1.0).unwrap_err().to_string();
    assert_eq!(heads(&[vec![None; 4]]), "heads: [2, 1]; allowed: [1, 1]");
    assert_eq!(heads(&[vec![None; 3], vec![None; 3]]), "parents: 3 entries; allowed: 4");
}

#[test]
fn the_command_computes_its_gradient() {
    let (s, t, b) = (3, 5, 700);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = Simplified::<f64>::new(s, t, &SimplifiedSpec::new(0.05)).unwrap();
    let params = gaussian(12, t * t + s * s, 1.0);
    let mut batch = batch(13, s, t, 0, 243);
    assert!(b > batch.seqs());
    let a1 = Array::new(&[t, t], params[..t * t].to_vec()).unwrap();
    let a2 = Array::new(&[s, s], params[t * t..].to_vec()).unwrap();
    write_arrays(&at("p.npz"), &[("A1", &a1), ("A2", &a2)], None).unwrap();
    let tokens =
        Array::new(&[243, t], batch.tokens().iter().map(|x| i64::from(*x)).collect::<Vec<_>>()).unwrap();
    let targets = Array::new(&[243, s], batch.laws().to_vec()).unwrap();
    write_arrays(&at("b.npz"), &[("tokens", &tokens), ("targets", &targets)], None).unwrap();
    batch.parts_mut().weights.fill(1.0);
    let (losses, _, grad) = run(&model, &params, &batch);
    let grad: Vec<f64> = grad.iter().map(|g| g / 243.0).collect();
    let call = |extra: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_popgrad"))
            .args(["grad", "--model", "simplified", "S=3"])
            .args(extra)
            .arg("--params")
            .arg(at("p.npz"))
            .arg("--batch")
            .arg(at("b.npz"))
            .arg("--out")
            .arg(at("o.npz"))
            .output()
            .unwrap()
    };
    let out = call(&["eps=0.05"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = read_arrays(&at("o.npz")).unwrap();
    assert_eq!(out["losses"].to_f64_vec(), losses);
    let both = [out["A1"].to_f64_vec(), out["A2"].to_f64_vec()].concat();
    assert_eq!(both, grad, "one piece: the same bits");
    let refused = |extra: &[&str], words: &str| {
        let out = call(extra);
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(2) && err.contains(words), "{err}");
    };
    refused(&["eps=x"], "eps: `x`; allowed: 0, or 1e-30 <= eps <= 1");
    refused(&["eps=-1"], "eps: -1");
    refused(&["heads=1,1"], "unknown key `heads`");
    // Targets with mass on what does not occur.
    refused(&[], "loss inf");
}

/// M = I, so that z is A2 itself: two of five positions hold the target, at e^-b beside the others.
#[test]
fn a_probability_below_every_number_has_a_loss_and_a_gradient() {
    fn check<E: Elem>(b: f64, eps: f64) {
        let model = Simplified::<E>::new(3, 5, &SimplifiedSpec::new(eps)).unwrap();
        let mut params = vec![E::ZERO; 34];
        (0..5).for_each(|i| params[i * 6] = E::from_f64(1000.0));
        (0..3).for_each(|i| params[25 + i * 4] = E::from_f64(b));
        let mut one = batch(1, 3, 5, 0, 1);
        one.parts_mut().tokens.copy_from_slice(&[0, 1, 1, 0, 0]);
        one.parts_mut().laws.copy_from_slice(&[0.0, 1.0, 0.0]);
        one.parts_mut().weights[0] = 1.0;
        let (losses, _, grad) = run(&model, &params, &one);
        // f = 2 e^-b/(3 + 2 e^-b); dL/dA2[0, ·] = (1 − f) f/(f + ε) (1, −1, 0).
        let f = 2.0 * (-b).exp() / (3.0 + 2.0 * (-b).exp());
        let (loss, kept) = match eps {
            0.0 => (b + (1.5 + (-b).exp()).ln(), 1.0),
            _ => (-(f + eps).ln(), f / (f + eps)),
        };
        assert!(
            (losses[0] - loss).abs() <= 4.0 * f64::EPSILON * loss + 32.0 * E::UNIT_ROUNDOFF,
            "{b}: {} {loss}",
            losses[0]
        );
        let want = (1.0 - f) * kept;
        // e^-80 beside 1 is no number of an f32 softmax: f/ε of such an f is lost.
        let least = if E::NAME == "f32" { 1e-32 } else { 0.0 };
        for (c, w) in [want, -want, 0.0].into_iter().enumerate() {
            let got = grad[25 + c].to_f64();
            assert!(
                (got - w).abs() <= 32.0 * E::UNIT_ROUNDOFF * want + least,
                "{} {b} {eps}: {got:e} {w:e}",
                E::NAME
            );
        }
        assert!(grad[..25].iter().all(|g| g.to_f64() == 0.0));
    }
    for b in [81.0, 100.0, 701.0, 800.0, 1e4, 2f64.powi(100)] {
        check::<f32>(b, 0.0);
        check::<f64>(b, 0.0);
    }
    for (b, eps) in [(60.0, 1e-30), (75.0, 1e-30), (100.0, 1e-30), (650.0, 1e-30), (81.0, 0.01)] {
        check::<f32>(b, eps);
        check::<f64>(b, eps);
    }
    check::<f64>(1e300, 0.0);
}

/// In f32 the logarithms take over where f64 does not need them yet.
#[test]
fn gradients_in_logs_are_those_of_more_digits() {
    let (s, t) = (3, 6);
    for (seed, scale) in [(1, 60.0), (2, 90.0), (3, 120.0)] {
        let wide = gaussian(seed, t * t + s * s, 1.0);
        let wide: Vec<f64> =
            wide.iter().enumerate().map(|(i, x)| if i < t * t { 3.0 * x } else { scale * x }).collect();
        let single: Vec<f32> = wide.iter().map(|x| *x as f32).collect();
        let rounded: Vec<f64> = single.iter().map(|x| f64::from(*x)).collect();
        let words = batch(seed + 9, s, t, 0, 729);
        let of = SimplifiedSpec::new(0.0);
        let (double, float) =
            (Simplified::<f64>::new(s, t, &of).unwrap(), Simplified::<f32>::new(s, t, &of).unwrap());
        let (l, _, g) = run(&double, &rounded, &words);
        let (m, _, h) = run(&float, &single, &words);
        let deep = l.iter().filter(|l| l.is_finite() && **l > 90.0).count();
        assert!(scale < 80.0 || deep > 5, "{deep} words need logarithms");
        for (l, m) in l.iter().zip(&m) {
            assert!(l == m || (l - m).abs() <= 1e-4 * l.max(1.0), "{l} {m}");
        }
        let largest = g.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (at, (g, h)) in g.iter().zip(&h).enumerate() {
            assert!((g - f64::from(*h)).abs() <= 1e-4 * largest, "{scale} {at}: {g} {h}");
        }
    }
}

/// Numbers that f32 does not have are refused, not made infinite.
#[test]
fn constructions_are_finite_in_their_type() {
    let parents = [None, Some(0), Some(1), Some(2)];
    let model = Simplified::<f32>::new(3, 5, &SimplifiedSpec::new(0.1)).unwrap();
    for (scale, beta, field) in
        [(1e300, 1.0, "scale: 1e300"), (1.0, f64::NAN, "beta: NaN"), (1.0, 1e39, "beta: 1e39")]
    {
        let e = model.construction(&parents, scale, beta).unwrap_err().to_string();
        assert!(e.starts_with(field) && e.contains("finite in f32"), "{e}");
    }
    let dense = Disentangled::<f32>::new(3, 5, &DisentangledSpec::new(&[1, 1])).unwrap();
    for (at, field) in ["scale", "beta", "readout"].into_iter().enumerate() {
        let x = |i: usize| if i == at { -1e39 } else { 2.0 };
        let e = induction_heads(&dense, &[parents.to_vec()], x(0), x(1), x(2)).unwrap_err().to_string();
        assert!(e.starts_with(&format!("{field}: -1e39")), "{e}");
    }
    let spec = SimplifiedSpec { beta0: 1e300, ..SimplifiedSpec::default() };
    assert!(Simplified::<f64>::new(3, 5, &spec).is_ok());
    assert!(Simplified::<f32>::new(3, 5, &spec).unwrap_err().to_string().starts_with("beta0: 1e300"));
}
