//! Look-ups over one-hot rows against their naive twins within derived bounds, on every instruction
//! set.

use crate::checks::elementwise::check_softmax_row;
use crate::checks::testkit::{Block, Rng, available, gamma, softmax_floor, tiny};
use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::one_hot::problem::{OneHot, PatternTerms};
use crate::reference;
use crate::scratch::Scratch;

/// Sizes and values of a problem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Sequences, tokens of each, symbols.
    pub(crate) shape: [usize; 3],
    /// Terms of dP.
    pub(crate) terms: usize,
    /// Gap between rows of column matrices.
    pub(crate) pad: usize,
    /// Largest |score| table entry.
    pub(crate) scale: f64,
    /// Small integers throughout, which every order of summation adds up exactly.
    pub(crate) integers: bool,
    pub(crate) seed: u64,
}

/// Any bytes as a case.
pub(crate) fn decode(data: &[u8]) -> Case {
    let byte = |i: usize| usize::from(data.get(i).copied().unwrap_or(0));
    Case {
        shape: [byte(0) % 37, 1 + byte(1) % 35, 1 + byte(2) % 40],
        terms: byte(3) % 5,
        pad: byte(4) % 3,
        scale: [0.0, 0.3, 4.0, 60.0][byte(5) % 4],
        integers: byte(6) % 2 == 1,
        seed: data.iter().skip(7).fold(0u64, |x, b| x.wrapping_mul(257).wrapping_add(u64::from(*b) + 1)),
    }
}

/// One sequence's triangle out of patterns.
fn triangle<E: Elem>(x: &OneHot<'_>, patterns: &[E], t: usize, b: usize) -> Vec<Vec<f64>> {
    let (group, lane) = (b / OneHot::GROUP, b % OneHot::GROUP);
    let at = |e: usize| patterns[(group * t * (t + 1) / 2 + e) * OneHot::GROUP + lane].to_f64();
    assert_eq!(patterns.len(), x.patterns_len());
    (0..t).map(|i| (0..=i).map(|j| at(i * (i + 1) / 2 + j)).collect()).collect()
}

/// Column b.
fn column(m: &[f64], cols: usize, b: usize) -> Vec<f64> {
    m.chunks_exact(cols.max(1)).map(|row| row[b]).collect()
}

struct Problem<E> {
    case: Case,
    tokens: Vec<u32>,
    rng: Rng,
    cols: usize,
    elem: std::marker::PhantomData<E>,
}

impl<E: Elem> Problem<E> {
    fn value(&mut self, scale: f64) -> E {
        let x = self.rng.signed();
        E::from_f64(if self.case.integers { (3.0 * x).round() } else { scale * x })
    }
    fn block(&mut self, rows: usize) -> Block<E> {
        let mut m = Block::new([1, rows, self.cols], self.case.pad, false);
        m.fill(|_| self.value(2.0));
        m
    }
    fn out(&self, rows: usize) -> Block<E> {
        Block::new([1, rows, self.cols], self.case.pad, false)
    }
    fn word(&self, b: usize) -> &[u32] {
        &self.tokens[b * self.case.shape[1]..][..self.case.shape[1]]
    }

    fn close(&self, k: &Kernels<E>, what: &str, got: f64, exact: f64, bound: f64) {
        let bound = if self.case.integers { 0.0 } else { bound };
        assert!(
            (got - exact).abs() <= bound,
            "{:?} {what}: {got} for {exact}, bound {bound:e}, {:?}",
            k.isa(),
            self.case
        );
    }

    fn check_patterns(&mut self, k: &Kernels<E>, x: &OneHot<'_>, scratch: &mut Scratch<E>) {
        let [n, t, s] = self.case.shape;
        let (d, scale) = (s + t, self.case.scale);
        let mut table = Block::<E>::new([1, d, d], self.case.pad, false);
        table.fill(|_| self.value(scale));
        let mut patterns = vec![E::NAN; x.patterns_len()];
        k.one_hot_patterns(table.mat(), x, &mut patterns, scratch).unwrap();
        assert!(patterns.iter().all(|p| p.is_finite()), "{:?}: columns past the batch too", k.isa());
        let dense = table.dense();
        for b in 0..n {
            let (scores, got) =
                (reference::one_hot_scores(&dense, self.word(b), s), triangle(x, &patterns, t, b));
            for (row, got) in scores.iter().zip(&got) {
                // A score errs by γ(2) of its terms, the largest one's error counts too; the rest
                // as for `softmax_rows`: its subtraction u |z − max|, exp 2 u, by convexity H on
                // the sum, n + 2 roundings. Twice, for the twin.
                let z: Vec<f64> = row.iter().map(|r| r.0).collect();
                let p = reference::softmax(&z).0;
                let max = z.iter().fold(f64::NEG_INFINITY, |m, z| m.max(*z));
                let slip = 2.0 * gamma::<E>(2) * row.iter().fold(0.0, |m: f64, r| m.max(r.1));
                let u = E::UNIT_ROUNDOFF;
                let eta: Vec<f64> = z.iter().map(|z| u * (z - max).abs() + 2.0 * u + slip).collect();
                let h = p.iter().zip(&eta).map(|(p, e)| p * e.exp_m1()).sum::<f64>().ln_1p();
                for j in 0..z.len() {
                    let relative = p[j] * (eta[j] + h + gamma::<E>(z.len() + 2)).exp_m1();
                    let bound = 2.0 * (relative + softmax_floor::<E>());
                    let ok = (got[j] - p[j]).abs() <= bound;
                    assert!(
                        ok,
                        "{:?} P {j}: {} for {}, bound {bound:e}, {:?}",
                        k.isa(),
                        got[j],
                        p[j],
                        self.case
                    );
                }
            }
        }
        let mut last = self.out(t);
        k.patterns_last(x, &patterns, last.mat_mut()).unwrap();
        last.assert_canaries();
        let last = last.dense();
        for b in 0..n {
            assert_eq!(column(&last, self.cols, b), triangle(x, &patterns, t, b)[t - 1]);
        }
    }

    fn check_products(&mut self, k: &Kernels<E>, x: &OneHot<'_>) {
        let [n, t, s] = self.case.shape;
        let patterns: Vec<E> = (0..x.patterns_len()).map(|_| self.value(1.0)).collect();
        let (v, wide, y0) = (self.block(t), self.block(s + t), self.block(t));
        let (mut y, mut yt, mut mul, mut mul_t) = (y0.clone(), self.out(t), self.out(t), self.out(s + t));
        k.patterns_mul_add(x, &patterns, v.mat(), y.mat_mut()).unwrap();
        k.patterns_mul_t(x, &patterns, v.mat(), yt.mat_mut()).unwrap();
        k.one_hot_mul(x, wide.mat(), mul.mat_mut()).unwrap();
        k.one_hot_mul_t(x, v.mat(), mul_t.mat_mut()).unwrap();
        [&y, &yt, &mul, &mul_t].into_iter().for_each(Block::assert_canaries);
        let mut p = v.clone();
        k.softmax_columns(p.mat_mut()).unwrap();
        let mut dp = y0.clone();
        k.softmax_columns_backward(v.mat(), dp.mat_mut()).unwrap();
        [&p, &dp].into_iter().for_each(Block::assert_canaries);
        let dense = [&v, &wide, &y0, &y, &yt, &mul, &mul_t, &p, &dp].map(|m| m.dense());
        for b in 0..n {
            let [v, wide, y0, y, yt, mul, mul_t, p, dp] = dense.each_ref().map(|m| column(m, self.cols, b));
            let pattern = triangle(x, &patterns, t, b);
            for (i, (sum, abs)) in reference::pattern_mul(&pattern, &v).into_iter().enumerate() {
                let bound = 2.0 * gamma::<E>(i + 4) * (abs + y0[i].abs()) + tiny::<E>();
                self.close(k, "P v", y[i], y0[i] + sum, bound);
            }
            for (i, (sum, abs)) in reference::pattern_mul_t(&pattern, &v).into_iter().enumerate() {
                self.close(k, "Pt v", yt[i], sum, 2.0 * gamma::<E>(t + 1) * abs + tiny::<E>());
            }
            let narrow = |x: &[f64]| -> Vec<E> { x.iter().map(|x| E::from_f64(*x)).collect() };
            let back = |x: Vec<E>| -> Vec<f64> { x.iter().map(|x| x.to_f64()).collect() };
            assert_eq!(back(reference::one_hot_mul(self.word(b), s, &narrow(&wide))), mul);
            assert_eq!(back(reference::one_hot_mul_t(self.word(b), s, &narrow(&v))), mul_t);
            check_softmax_row(k, &v, &reference::softmax(&v).0, &p);
            for (i, (exact, abs)) in reference::softmax_backward(&v, &y0).into_iter().enumerate() {
                self.close(k, "dp", dp[i], exact, 2.0 * gamma::<E>(t + 4) * abs + 8.0 * tiny::<E>());
            }
        }
    }

    fn check_backward(&mut self, k: &Kernels<E>, x: &OneHot<'_>, scratch: &mut Scratch<E>) {
        let ([n, t, s], terms) = (self.case.shape, self.case.terms);
        let d = s + t;
        let patterns: Vec<E> = (0..x.patterns_len()).map(|_| self.value(1.0)).collect();
        let (left, right, last) = (self.block(terms * t), self.block(terms * t), self.block(t));
        let mut dtable = Block::<E>::new([1, d, d], self.case.pad, false);
        let from = PatternTerms { left: left.mat(), right: right.mat(), last: last.mat() };
        k.one_hot_patterns_backward(x, &patterns, from, dtable.mat_mut(), scratch).unwrap();
        dtable.assert_canaries();
        let (left, right, last) = (left.dense(), right.dense(), last.dense());
        let (mut exact, mut abs) = (vec![0.0; d * d], vec![0.0; d * d]);
        for b in 0..n {
            let [left, right, last] = [&left, &right, &last].map(|m| column(m, self.cols, b));
            let (mut ds, mut sizes) = (Vec::new(), Vec::new());
            for (i, p) in triangle(x, &patterns, t, b).iter().enumerate() {
                let dp = |j: usize, f: fn(f64) -> f64| {
                    let terms = (0..terms).map(|r| f(left[r * t + i] * right[r * t + j]));
                    terms.sum::<f64>() + if i + 1 == t { f(last[j]) } else { 0.0 }
                };
                let dp = |f: fn(f64) -> f64| (0..=i).map(|j| dp(j, f)).collect::<Vec<_>>();
                let positive: Vec<f64> = p.iter().map(|p| p.abs()).collect();
                ds.push(reference::softmax_backward(p, &dp(|x| x)).into_iter().map(|d| d.0).collect());
                sizes.push(
                    reference::softmax_backward(&positive, &dp(f64::abs)).into_iter().map(|d| d.1).collect(),
                );
            }
            reference::one_hot_scores_backward(&ds, self.word(b), s, &mut exact);
            reference::one_hot_scores_backward(&sizes, self.word(b), s, &mut abs);
        }
        // dP by R + 1 roundings, its dot with P by T + 1, the difference and product by 2; then
        // sums of T, B, S or T terms, one after the other. Each product may underflow.
        let roundings = terms + t + 4 + 2 * t + n + s;
        let under = (n * t * t * (terms + t + 4)) as f64 * tiny::<E>() * 64.0;
        for (at, got) in dtable.dense().into_iter().enumerate() {
            let bound = 2.0 * gamma::<E>(roundings) * abs[at] + under;
            self.close(k, &format!("dA {} {}", at / d, at % d), got, exact[at], bound);
        }
    }
}

/// All kernels on one case.
///
/// # Panics
/// Where a result is wrong.
pub(crate) fn check<E: Elem>(case: Case) {
    let [n, t, s] = case.shape;
    for k in available::<E>() {
        let mut rng = Rng(case.seed);
        let tokens: Vec<u32> = (0..n * t).map(|_| (rng.bits() % s as u64) as u32).collect();
        let x = OneHot::new(&tokens, t, s).unwrap();
        let mut scratch = Scratch::new(k.one_hot_scratch(t, s).unwrap());
        scratch.as_mut_slice().fill(E::NAN);
        let elem = std::marker::PhantomData;
        let mut problem = Problem::<E> { case, tokens: tokens.clone(), rng, cols: x.padded(), elem };
        problem.check_patterns(&k, &x, &mut scratch);
        problem.check_products(&k, &x);
        problem.check_backward(&k, &x, &mut scratch);
    }
}
