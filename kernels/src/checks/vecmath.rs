//! Losses, layer norm, updates, table rows and dot products against their naive twins within
//! derived bounds, for operands of any bit pattern; where a bound ends (NaN, infinities, overflow)
//! only agreement between instruction sets is checked, where that is promised.

use crate::checks::Layout;
use crate::checks::elementwise::{
    HUGE, Numbers, check_gradient, check_loss, check_softmax_row, is_f32, laid_out, log_sum_error,
};
use crate::checks::testkit::{Block, available, gamma, same, softmax_floor, tiny};
use crate::elem::{Elem, Real};
use crate::kernels::Kernels;
use crate::reference;
use crate::vecmath::loss::problem::IGNORED;
use crate::vecmath::update::problem::{AdamW, Sgd};

/// Is `got` the rounded value of some number within `bound` of `exact`? Rounding is monotone,
/// overflow included.
fn between<E: Elem>(exact: f64, bound: f64, got: f64) -> bool {
    let [low, high] = [exact - bound, exact + bound].map(|x| E::from_f64(x).to_f64());
    low <= got && got <= high || exact.is_nan() && got.is_nan()
}

/// From here on results may overflow in E.
fn most<E: Elem>() -> f64 {
    if is_f32::<E>() { f64::from(f32::MAX) / 16.0 } else { HUGE }
}

/// A size that is too large for a bound, or NaN.
fn beyond(size: f64, limit: f64) -> bool {
    size.is_nan() || size >= limit
}

/// What the first instruction set gave, for the others to repeat.
#[derive(Default)]
struct Agreement(Option<Vec<f64>>);

impl Agreement {
    fn check<E: Elem>(&mut self, k: &Kernels<E>, what: &str, got: Vec<f64>) {
        match &self.0 {
            None => self.0 = Some(got),
            Some(first) => {
                let ok = first.len() == got.len() && first.iter().zip(&got).all(|(a, b)| same(*a, *b));
                assert!(ok, "{:?}: {what} has other bits: {got:?} for {first:?}", k.isa());
            }
        }
    }
}

fn wide<E: Elem>(x: &[E]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// The documented bound: 2 u |Σ x y| + (n u)² Σ |x y|, barring overflow and underflow, against
/// Dot2, which errs as much.
pub(crate) fn check_dot<E: Elem>(x: &[E], y: &[E]) {
    let (n, u) = (x.len() as f64, f64::UNIT_ROUNDOFF);
    let (exact, abs) = super::dot2(x.iter().zip(y).map(|(x, y)| (x.to_f64(), y.to_f64())));
    // Errors of products below this are not representable.
    let least = f64::MIN_POSITIVE / u;
    let tame = x.iter().zip(y).all(|(x, y)| {
        let p = (x.to_f64() * y.to_f64()).abs();
        // The fused error term overflows where the product does, no sooner.
        p < HUGE && (p > least || x.to_f64() == 0.0 || y.to_f64() == 0.0)
    });
    let bound = 4.0 * u * exact.abs() + 2.0 * ((n + 1.0) * u).powi(2) * abs;
    let mut bits = Agreement::default();
    for k in available::<E>() {
        let (got, squares) = (k.dot(x, y).unwrap(), k.norm2(x));
        if tame && abs < HUGE {
            assert!((got - exact).abs() <= bound, "{:?} dot {got} for {exact}, bound {bound:e}", k.isa());
        }
        assert!(same(squares, k.dot(x, x).unwrap()));
        bits.check(&k, "dot", vec![got, squares]);
    }
}

/// Cross-entropy against labels is cross-entropy against their one-hot targets.
fn check_labels<E: Elem>(z: &Block<E>, labels: &[u32], w: &[f64], outs: [Layout; 2]) {
    let [_, b, n] = z.shape;
    let (zd, y) = (z.dense(), reference::one_hot(labels, n));
    for k in available::<E>() {
        let mut losses = vec![f64::NAN; b];
        let mut p = laid_out::<E>(outs[0], b, n);
        k.cross_entropy_labels(z.mat(), labels, &mut losses, p.mat_mut()).unwrap();
        p.assert_canaries();
        let mut dz = laid_out::<E>(outs[1], b, n);
        k.cross_entropy_labels_backward(p.mat(), labels, w, dz.mat_mut()).unwrap();
        dz.assert_canaries();
        let (pd, dzd) = (p.dense(), dz.dense());
        for i in 0..b {
            let at = i * n..(i + 1) * n;
            let (row, y, p, dz) = (&zd[at.clone()], &y[at.clone()], &pd[at.clone()], &dzd[at]);
            if labels[i] == IGNORED || n == 0 {
                assert!(losses[i] == 0.0, "{:?}: loss {} of an ignored row", k.isa(), losses[i]);
                check_softmax_row(&k, row, &reference::softmax(row).0, p);
            } else if row[labels[i] as usize] == f64::NEG_INFINITY && row.iter().any(|x| x.is_finite()) {
                assert!(losses[i] == f64::INFINITY || row.iter().any(|x| x.is_nan() || *x == f64::INFINITY));
            } else {
                check_loss(&k, row, y, losses[i], p);
            }
            if labels[i] == IGNORED || w[i] == 0.0 {
                assert!(dz.iter().all(|d| *d == 0.0), "{:?}: gradient {dz:?} of an ignored row", k.isa());
            } else {
                check_gradient(&k, p, y, w[i], dz);
            }
        }
    }
}

/// lse errs by H of [`log_sum_error`], its own sum being f64, by f64's roundings, and by what
/// softmax leaves out; then one rounding to E.
fn check_log_softmax<E: Elem>(x: &Block<E>, layout: Layout) {
    let [_, b, n] = x.shape;
    let dense = x.dense();
    for k in available::<E>() {
        let mut out = laid_out::<E>(layout, b, n);
        k.log_softmax_rows(x.mat(), out.mat_mut()).unwrap();
        out.assert_canaries();
        let got = out.dense();
        for i in 0..b {
            let row = &dense[i * n..][..n];
            let (p, lse) = reference::softmax(row);
            let max = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let (h, g) = (log_sum_error::<E>(row, &p).1, gamma::<f64>(n + 4));
            let bound = 2.0 * (h + g * (lse.abs() + max.abs() + 1.0)) + 2.0 * n as f64 * softmax_floor::<E>();
            for (j, exact) in reference::log_softmax(row).into_iter().enumerate() {
                let got = got[i * n + j];
                let ok = if exact.is_infinite() {
                    got == exact || lse.abs() >= HUGE
                } else {
                    between::<E>(exact, bound + 2.0 * f64::UNIT_ROUNDOFF * exact.abs(), got)
                };
                assert!(ok, "{:?} entry {j}: {got} for {exact}, bound {bound:e}, {row:?}", k.isa());
            }
        }
    }
}

/// n + 4 roundings, the logarithm's among them.
fn check_log_loss<E: Elem>(f: &Block<E>, y: &Block<f64>, eps: f64, w: &[f64], layout: Layout) {
    let [_, b, n] = f.shape;
    let (fd, yd) = (f.dense(), y.dense());
    let mut bits = Agreement::default();
    for k in available::<E>() {
        let mut losses = vec![f64::NAN; b];
        k.log_loss(f.mat(), y.mat(), eps, &mut losses).unwrap();
        let mut df = laid_out::<E>(layout, b, n);
        k.log_loss_backward(f.mat(), y.mat(), eps, w, df.mat_mut()).unwrap();
        df.assert_canaries();
        for i in 0..b {
            let at = i * n..(i + 1) * n;
            let (exact, abs) = reference::log_loss(&fd[at.clone()], &yd[at.clone()], eps);
            let bound = 2.0 * gamma::<f64>(n + 4) * abs + n as f64 * tiny::<f64>();
            let ok = if abs.is_nan() { losses[i].is_nan() } else { (losses[i] - exact).abs() <= bound };
            assert!(ok || abs >= HUGE, "{:?}: loss {} for {exact}, bound {bound:e}", k.isa(), losses[i]);
            for (j, got) in df.dense()[at.clone()].iter().enumerate() {
                let (f, y) = (fd[at.start + j] + eps, yd[at.start + j]);
                let exact = if w[i] * y == 0.0 { 0.0 } else { -(w[i] * y) / f };
                let ok = between::<E>(exact, gamma::<f64>(4) * exact.abs() + tiny::<f64>(), *got)
                    || exact.is_infinite() && same(exact, *got);
                assert!(ok, "{:?}: dprob {got} for {exact}", k.isa());
            }
        }
        bits.check(&k, "log loss", [losses, df.dense()].concat());
    }
}

/// Of one row: by how much mean and deviations err (e), and 1/std relatively (ρ). Deviations err by
/// γ(n + 2)(mean |x| + max |x|), twice because the twin does too; the variance by 2 e mean |d| +
/// e² + γ(n + 3) σ²; its inverse root relatively by no more than that over σ² + eps while this is
/// below 1/8. `None` beyond, and where f64 may overflow or underflow.
fn moment_errors(x: &[f64], eps: f64) -> Option<(f64, f64)> {
    let n = x.len();
    let abs = x.iter().map(|x| x.abs()).sum::<f64>() / n as f64;
    let max = x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    if !x.iter().all(|x| x.is_finite()) || max > 1e150 {
        return None;
    }
    let mean = reference::moments(x, eps).0;
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
    let spread = x.iter().map(|x| (x - mean).abs()).sum::<f64>() / n as f64;
    let e = 2.0 * gamma::<f64>(n + 2) * (abs + max);
    let dv = 2.0 * e * spread + e * e + 2.0 * gamma::<f64>(n + 3) * var;
    let s = var + eps;
    (s > 1e-250 && dv < s / 8.0).then(|| (e, dv / s + 6.0 * f64::UNIT_ROUNDOFF))
}

struct NormCase<E> {
    x: Block<E>,
    weight: Vec<E>,
    bias: Vec<E>,
    eps: f64,
    dout: Block<E>,
    layouts: [Layout; 2],
}

impl<E: Elem> NormCase<E> {
    fn check(&self) {
        let [_, b, n] = self.x.shape;
        let (x, g) = (self.x.dense(), self.dout.dense());
        let (weight, bias) = (wide(&self.weight), wide(&self.bias));
        let mut bits = Agreement::default();
        for k in available::<E>() {
            let mut out = laid_out::<E>(self.layouts[0], b, n);
            let (mut mean, mut rstd) = (vec![f64::NAN; b], vec![f64::NAN; b]);
            k.layer_norm(
                self.x.mat(),
                &self.weight,
                &self.bias,
                self.eps,
                out.mat_mut(),
                &mut mean,
                &mut rstd,
            )
            .unwrap();
            out.assert_canaries();
            let mut dx = laid_out::<E>(self.layouts[1], b, n);
            // Added to what is there: bias and weight serve.
            let (mut dw, mut db) = (self.bias.clone(), self.weight.clone());
            k.layer_norm_backward(
                self.x.mat(),
                &self.weight,
                &mean,
                &rstd,
                self.dout.mat(),
                dx.mat_mut(),
                &mut dw,
                &mut db,
            )
            .unwrap();
            dx.assert_canaries();
            let (od, dxd) = (out.dense(), dx.dense());
            let (mut sums, mut sizes) = (vec![[0.0; 2]; n], vec![[0.0; 2]; n]);
            for i in (0..b).filter(|_| n > 0) {
                let at = i * n..(i + 1) * n;
                let (row, g) = (&x[at.clone()], &g[at.clone()]);
                self.check_forward(&k, row, &od[at.clone()], [mean[i], rstd[i]]);
                let (dx, dw, db) = reference::layer_norm_backward(row, &weight, (mean[i], rstd[i]), g);
                for j in 0..n {
                    for (l, d) in [dw[j], db[j]].into_iter().enumerate() {
                        sums[j][l] += d;
                        sizes[j][l] += d.abs();
                    }
                }
                check_dx(&k, [row, &weight, g], [mean[i], rstd[i]], &dx, &dxd[at]);
            }
            // b + 5 roundings in f64 on either side, one to E.
            for j in 0..n {
                for (l, (start, got)) in [(bias[j], dw[j]), (weight[j], db[j])].into_iter().enumerate() {
                    let size = sizes[j][l] + start.abs();
                    let bound = 2.0 * gamma::<f64>(b + 5) * size + tiny::<f64>();
                    let ok = between::<E>(start + sums[j][l], bound, got.to_f64());
                    let exact = start + sums[j][l];
                    assert!(ok || beyond(size, 1e150), "{:?}: d {l} {j}: {got} for {exact}", k.isa());
                }
            }
            bits.check(&k, "layer norm", [od, dxd, mean, rstd, wide(&dw), wide(&db)].concat());
        }
    }

    /// The result errs by |w| r (e + |d| (ρ + 2 u)) and three more roundings, on both sides; then
    /// one to E.
    fn check_forward(&self, k: &Kernels<E>, row: &[f64], got: &[f64], [mean, rstd]: [f64; 2]) {
        if !row.iter().all(|x| x.is_finite()) {
            return assert!(got.iter().all(|y| y.is_nan()), "{:?}: {got:?} of {row:?}", k.isa());
        }
        let Some((e, rho)) = moment_errors(row, self.eps) else { return };
        let (m, r) = reference::moments(row, self.eps);
        assert!((mean - m).abs() <= e, "{:?}: mean {mean} for {m}", k.isa());
        assert!((rstd - r).abs() <= 2.0 * rho * r, "{:?}: 1/std {rstd} for {r}", k.isa());
        let (weight, bias) = (wide(&self.weight), wide(&self.bias));
        let exact = reference::layer_norm(row, &weight, &bias, self.eps);
        for j in 0..row.len() {
            let (w, d) = (weight[j].abs(), (row[j] - m).abs());
            let size = w * d * r + bias[j].abs();
            let bound = 2.0 * (w * r * (e + d * (rho + 2.0 * f64::UNIT_ROUNDOFF)) + gamma::<f64>(3) * size);
            let ok = between::<E>(exact[j], bound + tiny::<f64>(), got[j]);
            assert!(ok || beyond(size, HUGE), "{:?} entry {j}: {} for {}", k.isa(), got[j], exact[j]);
        }
    }
}

/// mean g errs by γ(n + 2) mean |g|, mean (g x̂) by γ(n + 5) mean |g x̂|, the rest by γ(8), on both
/// sides; then one rounding to E.
fn check_dx<E: Elem>(
    k: &Kernels<E>,
    [row, weight, dout]: [&[f64]; 3],
    [mean, rstd]: [f64; 2],
    exact: &[f64],
    got: &[f64],
) {
    let n = row.len();
    let hat: Vec<f64> = row.iter().map(|x| ((x - mean) * rstd).abs()).collect();
    let g: Vec<f64> = weight.iter().zip(dout).map(|(w, d)| (w * d).abs()).collect();
    let mean_g = g.iter().sum::<f64>() / n as f64;
    let mean_gx = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n as f64;
    for j in 0..n {
        let size = rstd * (g[j] + mean_g + hat[j] * mean_gx);
        let bound = 2.0 * gamma::<f64>(n + 13) * size + 4.0 * tiny::<f64>() * (1.0 + rstd);
        // Products of three f64 may underflow on the way.
        let wild = beyond(size, 1e150) || size < 1e-150 && size > 0.0;
        let ok = wild || between::<E>(exact[j], bound, got[j]);
        assert!(ok, "{:?} dx {j}: {} for {}, bound {bound:e}", k.isa(), got[j], exact[j]);
    }
}

/// Against the formula in E, operation by operation, to the bit; and against the twin: at most
/// eight roundings of terms that add up to
/// |θ| + lr (m |b| + |g| + λ |θ|), each of which may underflow.
fn check_sgd<E: Elem>(step: Sgd, p: &[E], g: &[E], b: &[E]) {
    let [lr, momentum, decay] = [step.lr, step.momentum, step.weight_decay].map(E::from_f64);
    for k in available::<E>() {
        let (mut np, mut nb) = (p.to_vec(), b.to_vec());
        k.sgd(step, &mut np, g, &mut nb).unwrap();
        for i in 0..p.len() {
            let mut d = g[i] + decay * p[i];
            if step.momentum != 0.0 {
                d = momentum * b[i] + d;
                assert!(same(nb[i].to_f64(), d.to_f64()), "{:?}: buf {} for {d}", k.isa(), nb[i]);
            }
            let plain = (p[i] - lr * d).to_f64();
            let got = np[i].to_f64();
            assert!(same(got, plain), "{:?}: {got} for {plain}", k.isa());
            let b = b.get(i).map_or(0.0, |b| b.to_f64());
            let (p, g) = (p[i].to_f64(), g[i].to_f64());
            let (exact, _) = reference::sgd(step, p, g, b);
            let inner = (step.momentum * b).abs() + g.abs() + (step.weight_decay * p).abs();
            let size = p.abs() + step.lr * inner;
            let bound = gamma::<E>(8) * size + 8.0 * tiny::<E>() * (1.0 + step.lr);
            let ok = (got - exact).abs() <= bound || beyond(size.max(inner), most::<E>());
            assert!(ok, "{:?}: {got} for {exact}, bound {bound:e}", k.isa());
        }
    }
}

/// m errs by γ(4)(β₁ |m| + (1 − β₁) |g|), v relatively by γ(5) and absolutely by four subnormals,
/// of which the root makes their root; the quotient adds eight roundings, θ three.
fn check_adamw<E: Elem>(step: AdamW, t: u64, p: &[E], g: &[E], m: &[E], v: &[E]) {
    let mut bits = Agreement::default();
    for k in available::<E>() {
        let (mut np, mut nm, mut nv) = (p.to_vec(), m.to_vec(), v.to_vec());
        k.adamw(step, t, &mut np, g, &mut nm, &mut nv).unwrap();
        for i in 0..p.len() {
            let [p, g, m, v] = [p[i], g[i], m[i], v[i]].map(|x| x.to_f64());
            let (ep, em, ev) = reference::adamw(step, t, p, g, m, v);
            let size_m = step.beta1 * m.abs() + (1.0 - step.beta1) * g.abs();
            let (c1, c2) = (1.0 - step.beta1.powf(t as f64), 1.0 - step.beta2.powf(t as f64));
            let denom = (ev / c2).sqrt() + step.eps;
            let update = step.lr / c1 * size_m / denom;
            // What the twin's 1 − βᵗ loses by cancellation, and the underflow of v.
            let cancel = f64::UNIT_ROUNDOFF * (8.0 / c1 + 8.0 / c2);
            let lost = (4.0 * tiny::<E>() / c2).sqrt() / denom;
            let sizes = p.abs().max(g * g).max(v).max(size_m).max(update).max(1.0 / c2).max(step.lr / c1);
            let finite = [p, g, m, v].iter().all(|x| x.is_finite());
            if !(finite && lost < 0.1 && sizes < most::<E>() && denom > 4.0 * tiny::<E>()) {
                continue;
            }
            let [gp, gm, gv] = [np[i], nm[i], nv[i]].map(|x| x.to_f64());
            let under = 4.0 * tiny::<E>();
            assert!((gm - em).abs() <= gamma::<E>(5) * size_m + under, "{:?}: m {gm} for {em}", k.isa());
            assert!((gv - ev).abs() <= gamma::<E>(6) * ev + under, "{:?}: v {gv} for {ev}", k.isa());
            let bound = gamma::<E>(20) * (p.abs() + update)
                + (2.0 * lost + cancel) * update
                + under * (1.0 + step.lr / c1 / denom);
            assert!((gp - ep).abs() <= bound, "{:?}: {gp} for {ep}, bound {bound:e}", k.isa());
        }
        bits.check(&k, "adamw", [wide(&np), wide(&nm), wide(&nv)].concat());
    }
}

fn check_relu<E: Elem>(x: &[E], d: &[E]) {
    for k in available::<E>() {
        let (mut out, mut grad) = (x.to_vec(), d.to_vec());
        k.relu(&mut out);
        k.relu_backward(&out, &mut grad).unwrap();
        for i in 0..x.len() {
            let y = reference::relu(x[i]).to_f64();
            assert!(same(out[i].to_f64(), y), "{:?}: relu({}) = {}", k.isa(), x[i], out[i]);
            let e = if y <= 0.0 { 0.0 } else { d[i].to_f64() };
            assert!(same(grad[i].to_f64(), e), "{:?}: gradient {} for {e} at {y}", k.isa(), grad[i]);
        }
    }
}

/// Copies, and additions in row order: the twins' bits.
pub(crate) fn check_rows<E: Elem>(table: &Block<E>, tokens: &[u32], dout: &Block<E>, layout: Layout) {
    let [_, _, n] = table.shape;
    let (mut out, mut sums) = (laid_out::<E>(layout, tokens.len(), n), table.clone());
    reference::gather(table.mat(), tokens, &mut out.mat_mut());
    reference::scatter_add(dout.mat(), tokens, &mut sums.mat_mut());
    for k in available::<E>() {
        let (mut got, mut added) = (laid_out::<E>(layout, tokens.len(), n), table.clone());
        k.gather(table.mat(), tokens, got.mat_mut()).unwrap();
        k.scatter_add(dout.mat(), tokens, added.mat_mut()).unwrap();
        got.assert_canaries();
        added.assert_canaries();
        let ok = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).all(|(a, b)| same(*a, *b));
        assert!(ok(got.dense(), out.dense()), "{:?}: gather {:?}", k.isa(), got.dense());
        assert!(ok(added.dense(), sums.dense()), "{:?}: scatter {:?}", k.isa(), added.dense());
    }
}

/// To the bit.
fn check_accumulate<E: Elem>(x: &[E], start: &[E]) {
    let mut exact = wide(start);
    reference::accumulate(x, &mut exact);
    for k in available::<E>() {
        let mut acc = wide(start);
        k.accumulate(x, &mut acc).unwrap();
        assert!(acc.iter().zip(&exact).all(|(a, b)| same(*a, *b)), "{:?}: {acc:?} for {exact:?}", k.isa());
    }
}

/// Any bytes: operation and kind of numbers, columns, rows, four layouts, four parameters, then the
/// operands.
///
/// # Panics
/// Where a result is wrong.
pub(crate) fn check<E: Elem>(data: &[u8]) {
    let mut numbers = Numbers { data, tame: false };
    let [what, cols, rows, l0, l1, l2, l3, par @ ..] = numbers.bytes::<11>();
    numbers.tame = what & 8 == 8;
    let (n, rows) = (usize::from(cols) % 150, usize::from(rows) % 5);
    let layouts = [l0, l1, l2, l3].map(Layout::from_byte);
    let share = par.map(|p| f64::from(p) / 256.0);
    let vector =
        |numbers: &mut Numbers<'_>, len: usize| -> Vec<E> { (0..len).map(|_| numbers.next()).collect() };
    let token = |numbers: &mut Numbers<'_>| u32::from_le_bytes(numbers.bytes());
    match what % 8 {
        0 => {
            let x = vector(&mut numbers, n);
            let y: Vec<E> = x.iter().map(|_| numbers.next()).collect();
            check_dot(&x, &y);
        }
        1 => {
            let labels: Vec<u32> = (0..rows)
                .map(|_| match token(&mut numbers) as usize % (n + 1) {
                    l if l == n => IGNORED,
                    l => l as u32,
                })
                .collect();
            let w: Vec<f64> = (0..rows).map(|_| numbers.next()).collect();
            check_labels(&numbers.block::<E>(layouts[0], rows, n), &labels, &w, [layouts[2], layouts[3]]);
        }
        2 => check_log_softmax(&numbers.block::<E>(layouts[0], rows, n), layouts[1]),
        3 => {
            let w: Vec<f64> = (0..rows).map(|_| numbers.next()).collect();
            let f = numbers.block::<E>(layouts[0], rows, n);
            check_log_loss(&f, &numbers.block(layouts[1], rows, n), share[0] * share[1], &w, layouts[2]);
        }
        4 => {
            let x = numbers.block(layouts[0], rows, n);
            let (weight, bias) = (vector(&mut numbers, n), vector(&mut numbers, n));
            let dout = numbers.block(layouts[1], rows, n);
            NormCase { x, weight, bias, eps: share[0] * share[1], dout, layouts: [layouts[2], layouts[3]] }
                .check();
        }
        5 => {
            let (p, g) = (vector(&mut numbers, n), vector(&mut numbers, n));
            let b = if par[1] == 0 { Vec::new() } else { vector(&mut numbers, n) };
            check_sgd(Sgd { lr: 4.0 * share[0], momentum: share[1], weight_decay: share[2] }, &p, &g, &b);
            check_relu(&p, &g);
            check_accumulate(&p, &g);
        }
        6 => {
            let [p, g, m, v] = [(); 4].map(|()| vector(&mut numbers, n));
            let v: Vec<E> = v.into_iter().map(|v| if v < E::ZERO { -v } else { v }).collect();
            let step = AdamW {
                lr: share[0],
                beta1: share[1],
                beta2: 1.0 - (1.0 - share[2]).powi(2),
                eps: share[3].powi(4),
                weight_decay: share[1],
            };
            check_adamw(step, 1 + u64::from(l0) * u64::from(l1), &p, &g, &m, &v);
        }
        _ => {
            let table = numbers.block::<E>(layouts[0], rows, n % 40);
            let length = if rows == 0 { 0 } else { usize::from(par[0]) % 9 };
            let tokens: Vec<u32> = (0..length).map(|_| token(&mut numbers) % rows as u32).collect();
            check_rows(&table, &tokens, &numbers.block(layouts[1], length, n % 40), layouts[2]);
        }
    }
}
