//! exp and ln in ulps, sums, softmax and cross-entropy against their naive twins within derived
//! bounds, for operands of any bit pattern: where a bound ends (NaN, infinities, overflow) the
//! class of the result is checked instead.

use crate::checks::Layout;
use crate::checks::testkit::{Block, CANARY, available, gamma, same, softmax_floor, tiny};
use crate::checks::ulps::{exp_ulps, ln_ulps, ulps_f32};
use crate::elem::{Elem, Real};
use crate::kernels::Kernels;
use crate::reference;

/// The documented bounds: `examples/ulp.rs` found 0.98 over all f32, 0.85 (ln) and 1.00 (exp) over
/// 20 million f64.
pub(crate) const MAX_ULP: f64 = 1.0;
pub(crate) const MAX_ULP_EXP_F64: f64 = 1.05;

/// Values from here on may overflow on the way to a finite result: no bound holds.
pub(super) const HUGE: f64 = f64::MAX / 16.0;

pub(super) fn is_f32<E: Elem>() -> bool {
    E::UNIT_ROUNDOFF > f64::UNIT_ROUNDOFF
}

/// Output of an elementwise function, whose margins it must leave alone.
fn margined<E: Elem>(n: usize, f: impl FnOnce(&mut [E])) -> Vec<E> {
    let mut out = vec![E::NAN; n + 2];
    (out[0], out[n + 1]) = (E::from_f64(CANARY), E::from_f64(CANARY));
    f(&mut out[1..=n]);
    assert!(out[0].to_f64() == CANARY && out[n + 1].to_f64() == CANARY, "wrote outside of the output");
    out[1..=n].to_vec()
}

/// exp and ln of any elements, within the documented ulps, special values included.
fn check_exp_ln<E: Elem>(k: &Kernels<E>, x: &[E]) {
    let exp = margined(x.len(), |out| k.exp(x, out).unwrap());
    let ln = margined(x.len(), |out| k.ln(x, out).unwrap());
    for (x, (exp, ln)) in x.iter().zip(exp.iter().zip(&ln)) {
        let (x, exp, ln) = (x.to_f64(), exp.to_f64(), ln.to_f64());
        let (e, l) = if is_f32::<E>() {
            (ulps_f32(x.exp(), exp as f32), ulps_f32(x.ln(), ln as f32))
        } else if x > 0.0 && x < f64::INFINITY {
            (exp_ulps(x, exp), ln_ulps(x, ln))
        } else {
            (exp_ulps(x, exp), if same(x.ln(), ln) { 0.0 } else { f64::INFINITY })
        };
        let most = if is_f32::<E>() { MAX_ULP } else { MAX_ULP_EXP_F64 };
        assert!(e <= most, "{:?}: exp({x:e}) = {exp:e}, {e} ulp", k.isa());
        assert!(l <= MAX_ULP, "{:?}: ln({x:e}) = {ln:e}, {l} ulp", k.isa());
    }
}

/// The sum of any elements: the documented bound, the same bits from each of `kernels`.
pub(crate) fn check_sum<E: Elem>(kernels: impl IntoIterator<Item = Kernels<E>>, x: &[E]) {
    let n = x.len();
    // Exact sum: integers in units of 2^-1074 would do; a second-order cascade does as well.
    let (mut s, mut c, mut cc) = (0f64, 0f64, 0f64);
    for v in x {
        let two = |a: f64, b: f64| {
            let s = a + b;
            let t = s - a;
            (s, (a - (s - t)) + (b - t))
        };
        let (s1, e1) = two(s, v.to_f64());
        let (c1, e2) = two(c, e1);
        (s, c, cc) = (s1, c1, cc + e2);
    }
    let exact = s + (c + cc);
    let (finite, special): (Vec<f64>, Vec<f64>) = x.iter().map(|x| x.to_f64()).partition(|x| x.is_finite());
    let mass: f64 = finite.iter().map(|x| x.abs()).sum();
    let special: Option<f64> = special.into_iter().reduce(|a, b| a + b);
    let u = f64::UNIT_ROUNDOFF;
    let bound = 2.0 * u * exact.abs() + (n as f64 * u).powi(2) * mass;
    let mut first = None;
    for k in kernels {
        let got = k.sum(x);
        if mass < HUGE {
            let ok = special.map_or((got - exact).abs() <= bound, |x| same(got, x));
            assert!(ok, "{:?} n = {n}: {got} for {exact}, {special:?}, bound {bound}", k.isa());
        }
        let first = *first.get_or_insert(got);
        assert!(same(got, first), "{:?} n = {n} sums in another order: {got}, {first}", k.isa());
    }
}

/// By how much rounding the exponents moves the logarithm of their sum, at most. With t_j = x_j −
/// max: the subtraction moves the exponent by u |t_j|, exp itself errs by 2 u (one ulp): η_j = u
/// |t_j| + 2 u. By convexity of exp the sum errs by a factor within e^±H, H = ln Σ p_k e^η_k =
/// ln(1 + Σ p_k (e^η_k − 1)); the second form, because the twin's Σ p misses 1 by more than H when
/// E is f64. Returns η and H. Where p = 0 nothing is lost but the floor below which softmax writes
/// 0.
pub(super) fn log_sum_error<E: Elem>(row: &[f64], p: &[f64]) -> (Vec<f64>, f64) {
    let u = E::UNIT_ROUNDOFF;
    let max = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
    let eta: Vec<f64> = row.iter().map(|x| u * (x - max).abs() + 2.0 * u).collect();
    let h = (0..p.len()).map(|k| if p[k] == 0.0 { 0.0 } else { p[k] * eta[k].exp_m1() }).sum::<f64>().ln_1p();
    (eta, h)
}

/// Bounds of one softmax row, to first order made rigorous by expm1. With η and H from
/// [`log_sum_error`]: the sum of n positive terms, the reciprocal and the product add γ(n + 2). So
/// |p̂_j − p_j| <= p_j expm1(η_j + H + γ(n + 2)), plus the floor. The reference is f64 arithmetic
/// with the same bound: the factor 2 covers it.
fn softmax_bounds<E: Elem>(row: &[f64], p: &[f64]) -> Vec<f64> {
    let (eta, h) = log_sum_error::<E>(row, p);
    let g = gamma::<E>(p.len() + 2);
    (0..p.len())
        .map(|j| {
            let relative = if p[j] == 0.0 { 0.0 } else { p[j] * (eta[j] + h + g).exp_m1() };
            2.0 * (relative + softmax_floor::<E>())
        })
        .collect()
}

/// `got` is the softmax of `row`, given the twin's `p`: NaN throughout where that is, and never
/// subnormal.
pub(super) fn check_softmax_row<E: Elem>(k: &Kernels<E>, row: &[f64], p: &[f64], got: &[f64]) {
    let least = softmax_floor::<E>() / (2 * row.len()) as f64;
    for (j, bound) in softmax_bounds::<E>(row, p).into_iter().enumerate() {
        let (g, p) = (got[j], p[j]);
        assert!(g == 0.0 || g.is_nan() || g >= least, "{:?} entry {j}: {g:e} < {least:e}", k.isa());
        assert!(
            (g - p).abs() <= bound || g.is_nan() && p.is_nan(),
            "{:?} entry {j}: {g} for {p}, bound {bound:e}, row {row:?}",
            k.isa()
        );
    }
}

/// Softmax of every row of any X, strided as it comes.
pub(crate) fn check_softmax<E: Elem>(k: &Kernels<E>, x: &Block<E>) {
    let n = x.shape[2];
    let mut y = x.clone();
    k.softmax_rows(y.mat_mut()).unwrap();
    y.assert_canaries();
    let (dense, got) = (x.dense(), y.dense());
    for i in 0..x.shape[1] {
        let row = &dense[i * n..][..n];
        check_softmax_row(k, row, &reference::softmax(row).0, &got[i * n..][..n]);
    }
}

/// A block of NaN for a result.
pub(crate) fn laid_out<E: Elem>(layout: Layout, rows: usize, cols: usize) -> Block<E> {
    let (rs, cs) = layout.strides(rows, cols);
    Block::with_strides([1, rows, cols], 0, rs, cs)
}

/// Cross-entropy of any logits against any targets, and its gradient with any weights; `outs`:
/// layouts of probs and dlogits.
pub(crate) fn check_cross_entropy<E: Elem>(
    k: &Kernels<E>,
    z: &Block<E>,
    y: &Block<f64>,
    w: &[f64],
    outs: [Layout; 2],
) {
    let [_, b, n] = z.shape;
    let mut losses = vec![f64::NAN; b];
    let mut p = laid_out::<E>(outs[0], b, n);
    k.cross_entropy(z.mat(), y.mat(), &mut losses, p.mat_mut()).unwrap();
    p.assert_canaries();
    let mut dz = laid_out::<E>(outs[1], b, n);
    k.cross_entropy_backward(p.mat(), y.mat(), w, dz.mat_mut()).unwrap();
    dz.assert_canaries();
    let (zd, yd, pd, dzd) = (z.dense(), y.dense(), p.dense(), dz.dense());
    for i in 0..b {
        let at = i * n..(i + 1) * n;
        let (row, y, p) = (&zd[at.clone()], &yd[at.clone()], &pd[at.clone()]);
        check_loss(k, row, y, losses[i], p);
        check_gradient(k, p, y, w[i], &dzd[at]);
    }
}

/// lse errs by H of [`log_sum_error`] (its sum being f64), and by f64's roundings; the loss by that
/// times Σ |y|, and by n + 4 roundings of its terms, each of which may underflow.
pub(super) fn check_loss<E: Elem>(k: &Kernels<E>, row: &[f64], y: &[f64], got: f64, probs: &[f64]) {
    let (p, lse) = reference::softmax(row);
    check_softmax_row(k, row, &p, probs);
    let n = row.len();
    let (mut loss, mut terms, mut mass, mut infinite) = (0.0, 0.0, 0.0, 0.0);
    for j in (0..n).filter(|j| y[*j] != 0.0) {
        let term = y[j] * (lse - row[j]);
        if row[j] == f64::NEG_INFINITY {
            infinite += term;
            continue;
        }
        loss += term;
        terms += term.abs();
        mass += y[j].abs();
    }
    if y.iter().all(|y| *y == 0.0) {
        return assert!(got == 0.0, "{:?}: loss {got} without a target, {row:?}", k.isa());
    }
    if lse.is_nan() || !y.iter().all(|y| y.is_finite()) {
        // An infinite y times a difference that rounding makes 0 or not: infinite or NaN.
        return assert!(!got.is_finite(), "{:?}: loss {got} of {row:?}, {y:?}", k.isa());
    }
    if !terms.is_finite() || terms.max(mass) >= HUGE {
        return;
    }
    let max = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
    let (h, round) = (log_sum_error::<E>(row, &p).1, gamma::<f64>(n + 4));
    let bound = 2.0 * (mass * (h + round * lse.abs() + round * max.abs() + round) + round * terms)
        + n as f64 * (softmax_floor::<E>() * mass + 4.0 * tiny::<f64>());
    let ok = if infinite == 0.0 { (got - loss).abs() <= bound } else { same(got, infinite) };
    assert!(ok, "{:?}: loss {got} for {loss} + {infinite}, bound {bound:e}, {row:?}, {y:?}", k.isa());
}

/// n + 4 roundings in f64, any of which may underflow; then one to E, which is monotone: the result
/// lies between the rounded ends of the interval, overflow included.
pub(super) fn check_gradient<E: Elem>(k: &Kernels<E>, p: &[f64], y: &[f64], w: f64, got: &[f64]) {
    let n = p.len();
    let (mass, abs): (f64, f64) = (y.iter().sum(), y.iter().map(|y| y.abs()).sum());
    let operands = w.is_finite() && y.iter().all(|y| y.is_finite());
    for (j, got) in got.iter().enumerate() {
        let exact = w * (p[j] * mass - y[j]);
        let size = w.abs() * (p[j] * abs + y[j].abs());
        let bound = 2.0 * gamma::<f64>(n + 4) * size + 4.0 * tiny::<f64>() * (1.0 + w.abs());
        let [low, high] = [exact - bound, exact + bound].map(|x| E::from_f64(x).to_f64());
        let ok = if w == 0.0 {
            // Whatever the row holds: it counts nothing.
            *got == 0.0
        } else if !operands || p[j].is_nan() {
            !got.is_finite()
        } else if abs >= HUGE || size >= HUGE {
            continue;
        } else {
            low <= *got && *got <= high
        };
        assert!(ok, "{:?} dlogit {j}: {got} for {exact} in [{low}, {high}], {p:?}, {y:?}, {w}", k.isa());
    }
}

/// Operands from bytes; missing ones count as zero.
pub(super) struct Numbers<'a> {
    pub(super) data: &'a [u8],
    /// Two bytes to a number in ±128, in steps of 1/256; otherwise as many as the number has, its
    /// bit pattern.
    pub(super) tame: bool,
}

impl Numbers<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let len = N.min(self.data.len());
        let (head, rest) = self.data.split_at(len);
        out[..len].copy_from_slice(head);
        self.data = rest;
        out
    }

    pub(super) fn next<E: Elem>(&mut self) -> E {
        E::from_f64(if self.tame {
            f64::from(i16::from_le_bytes(self.bytes())) / 256.0
        } else if is_f32::<E>() {
            f64::from(f32::from_le_bytes(self.bytes()))
        } else {
            f64::from_le_bytes(self.bytes())
        })
    }

    /// All that is left.
    pub(super) fn rest<E: Elem>(&mut self) -> Vec<E> {
        std::iter::from_fn(|| (!self.data.is_empty()).then(|| self.next())).collect()
    }

    pub(super) fn block<E: Elem>(&mut self, layout: Layout, rows: usize, cols: usize) -> Block<E> {
        let mut block = laid_out(layout, rows, cols);
        block.fill(|_| self.next());
        block
    }
}

/// Any bytes: operation and kind of numbers, columns, rows, four layouts, then the operands.
///
/// # Panics
/// Where a result is wrong.
pub(super) fn check<E: Elem>(data: &[u8]) {
    let mut numbers = Numbers { data, tame: false };
    let [what, cols, rows, layouts @ ..] = numbers.bytes::<7>();
    numbers.tame = what & 4 == 4;
    let (n, rows) = (usize::from(cols) % 90, usize::from(rows) % 5);
    let layouts = layouts.map(Layout::from_byte);
    match what % 4 {
        0 => {
            let x = numbers.rest();
            available::<E>().for_each(|k| check_exp_ln(&k, &x));
        }
        1 => check_sum(available::<E>(), &numbers.rest()),
        2 => {
            let x = numbers.block(layouts[0], rows, n);
            available::<E>().for_each(|k| check_softmax(&k, &x));
        }
        _ => {
            let z = numbers.block(layouts[0], rows, n);
            let y = numbers.block(layouts[1], rows, n);
            let w: Vec<f64> = (0..rows).map(|_| numbers.next()).collect();
            available::<E>().for_each(|k| check_cross_entropy(&k, &z, &y, &w, [layouts[2], layouts[3]]));
        }
    }
}
