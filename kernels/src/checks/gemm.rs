//! Matrix products against the twin, an interval of twice the precision, and themselves along the
//! plainest path.

use crate::checks::testkit::{Block, Rng, same};
use crate::elem::{Elem, Real};
use crate::gemm::batch::Batch;
use crate::gemm::batch::BatchProblem;
use crate::gemm::blocking::Blocking;
use crate::gemm::plan::Plan;
use crate::gemm::planned::GemmShape;
use crate::gemm::problem::GemmProblem;
use crate::kernels::Kernels;
#[cfg(feature = "parallel")]
use crate::parallel::ParallelScratch;
use crate::reference;
use crate::scratch::Scratch;
use crate::simd::Isa;
use crate::view::{Mat, MatMut, Write};

/// Where the entries of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Column-major instead of row-major.
    pub transposed: bool,
    /// Elements between neighbours in the fast direction, at least 1.
    pub step: usize,
    /// Extra elements between one slow index and the next.
    pub pad: usize,
}

impl Layout {
    /// Contiguous, row-major.
    pub const DENSE: Layout = Layout { transposed: false, step: 1, pad: 0 };

    pub(super) fn from_byte(b: u8) -> Self {
        let b = usize::from(b);
        Layout { transposed: b & 1 == 1, step: 1 + (b >> 1) % 3, pad: (b >> 4) % 5 }
    }

    pub(super) fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        let slow = (if self.transposed { rows } else { cols }).max(1) * self.step + self.pad;
        if self.transposed { (self.step, slow) } else { (slow, self.step) }
    }
}

/// What the entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Integers in −8..=8: every product and sum is exact, so all instruction sets must agree with
    /// the twin to the bit.
    Integers,
    /// Reals in [−1, 1]: within the error bound.
    Reals,
    /// Reals times powers of two from 2^−20 to 2^20: large and small terms side by side in every
    /// sum, within the error bound.
    Scaled,
    /// Reals, some of them NaN or infinite: the same entries must be NaN or infinite as in the
    /// twin.
    Special,
}

/// A matrix product and how to compute it.
#[derive(Debug, Clone)]
pub struct GemmCase {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Layouts of A, B and C.
    pub layouts: [Layout; 3],
    /// Add to C instead of setting it.
    pub add: bool,
    /// alpha = this / 4.
    pub alpha_quarters: i8,
    /// The entries.
    pub values: Values,
    /// Of the entries.
    pub seed: u64,
    /// `Some`: blocks mc, kc, nc and staging rows and columns, each at least 1. `None`: as the
    /// library chooses.
    pub blocks: Option<[usize; 5]>,
    /// With `blocks`: pack A, pack B.
    pub pack: [bool; 2],
}

/// The next entry.
fn entry<E: Elem>(rng: &mut Rng, values: Values) -> E {
    let r = rng.bits();
    let real = (r >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    E::from_f64(match values {
        Values::Integers => (r % 17) as f64 - 8.0,
        Values::Reals => real,
        Values::Scaled => real * f64::from(rng.bits() as u32 % 41).exp2() / f64::from(1u32 << 20),
        Values::Special => match r % 97 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3..30 => 0.0,
            _ => real,
        },
    })
}

/// A matrix in memory of its own, with margins that hold a canary.
struct Held<E> {
    data: Vec<E>,
    rows: usize,
    cols: usize,
    strides: (usize, usize),
}

const MARGIN: usize = 5;
const CANARY: f64 = 1234.5;

impl<E: Elem> Held<E> {
    fn new(rows: usize, cols: usize, layout: Layout, mut entry: impl FnMut() -> E) -> Self {
        let (rs, cs) = layout.strides(rows, cols);
        let len = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 };
        let mut held =
            Held { data: vec![E::from_f64(CANARY); len + 2 * MARGIN], rows, cols, strides: (rs, cs) };
        for i in 0..rows {
            for j in 0..cols {
                held.data[MARGIN + i * rs + j * cs] = entry();
            }
        }
        held
    }

    fn view(&self) -> Mat<'_, E> {
        Mat::with_strides(&self.data[MARGIN..], self.rows, self.cols, self.strides.0, self.strides.1).unwrap()
    }

    fn view_mut(&mut self) -> MatMut<'_, E> {
        let (rs, cs) = self.strides;
        MatMut::with_strides(&mut self.data[MARGIN..], self.rows, self.cols, rs, cs).unwrap()
    }

    fn entries(&self) -> Vec<E> {
        let v = self.view();
        (0..self.rows * self.cols).map(|e| v.at(e / self.cols, e % self.cols)).collect()
    }

    /// Everything that is not an entry still holds the canary.
    fn margins_intact(&self) -> bool {
        let mut margin = vec![true; self.data.len()];
        for i in 0..self.rows {
            for j in 0..self.cols {
                margin[MARGIN + i * self.strides.0 + j * self.strides.1] = false;
            }
        }
        self.data.iter().zip(margin).all(|(x, m)| !m || *x == E::from_f64(CANARY))
    }
}

/// j u / (1 − j u): the relative error of j roundings.
pub fn gamma(j: usize, u: f64) -> f64 {
    let ju = j as f64 * u;
    ju / (1.0 - ju)
}

/// Σ a b with compensation (Ogita, Rump and Oishi 2005, Dot2: as if computed in twice the
/// precision), and Σ |a||b|.
pub fn dot2(pairs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let (mut sum, mut carry, mut abs) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in pairs {
        let p = a * b;
        let t = sum + p;
        let z = t - sum;
        carry += ((sum - (t - z)) + (p - z)) + a.mul_add(b, -p);
        sum = t;
        abs += p.abs();
    }
    (sum + carry, abs)
}

impl GemmCase {
    /// Any bytes as a case; missing ones count as zero. `None` when there are too few to be of
    /// interest.
    pub fn decode(data: &[u8]) -> Option<Self> {
        if data.len() < 8 {
            return None;
        }
        let mut bytes = data.iter().copied();
        let mut byte = || usize::from(bytes.next().unwrap_or(0));
        let (m, k, n) = (byte() % 48, byte() % 80, byte() % 112);
        let layouts = [(); 3].map(|()| Layout::from_byte(byte() as u8));
        let flags = byte();
        let values = [Values::Integers, Values::Reals, Values::Special, Values::Scaled][(flags >> 4) % 4];
        let alpha_quarters = byte() as u8 as i8;
        let seed = byte() as u64 * 257 + byte() as u64;
        let blocks = (flags & 2 == 2)
            .then(|| [1 + byte() % 20, 1 + byte() % 20, 1 + byte() % 50, 1 + byte() % 9, 1 + byte() % 40]);
        let pack = [flags & 4 == 4, flags & 8 == 8];
        Some(GemmCase { m, k, n, layouts, add: flags & 1 == 1, alpha_quarters, values, seed, blocks, pack })
    }

    /// Checks the case for one element type on every instruction set of this CPU.
    ///
    /// # Panics
    /// Where a result is wrong.
    pub fn check<E: Elem>(&self) {
        let (m, k, n) = (self.m, self.k, self.n);
        let mut rng = Rng(self.seed);
        let a = Held::new(m, k, self.layouts[0], || entry::<E>(&mut rng, self.values));
        let b = Held::new(k, n, self.layouts[1], || entry::<E>(&mut rng, self.values));
        let old: Vec<E> = (0..m * n).map(|_| entry(&mut rng, self.values)).collect();
        let write = if self.add { Write::Add } else { Write::Set };
        let alpha = E::from_f64(f64::from(self.alpha_quarters) / 4.0);
        let fill = |layout| {
            let mut old = old.iter();
            Held::new(m, n, layout, || {
                let x = *old.next().unwrap();
                if self.add { x } else { E::NAN }
            })
        };
        let mut twin = fill(Layout::DENSE);
        reference::gemm(write, alpha, a.view(), b.view(), &mut twin.view_mut());
        let twin = twin.entries();
        let real = matches!(self.values, Values::Reals | Values::Scaled);
        let close = real.then(|| self.interval(&a, &b, &old, alpha));

        for isa in Isa::available() {
            let kernels = Kernels::<E>::new(isa).unwrap();
            let plan = self.plan(&kernels);
            let mut c = fill(self.layouts[2]);
            let mut scratch = Scratch::new(kernels.planned_scratch(&plan, m, k, n));
            let problem = GemmProblem { plan, write, alpha, a: a.view(), b: b.view() };
            kernels.gemm_planned(problem, c.view_mut(), &mut scratch).unwrap();
            assert!(c.margins_intact(), "{} {}: wrote outside of C: {self:?}", E::NAME, isa.name());
            let found = c.entries();
            for e in 0..m * n {
                let (x, t) = (found[e].to_f64(), twin[e].to_f64());
                let ok = match &close {
                    Some(close) => (x - close[e].0).abs() <= close[e].1,
                    // alpha has two binary places: with integers everything stays exact.
                    None if self.values == Values::Integers || !t.is_finite() => {
                        x == t || x.is_nan() && t.is_nan()
                    }
                    None => x.is_finite(),
                };
                assert!(
                    ok,
                    "{} {} entry {e}: {x}, twin {t}, {:?}: {self:?}",
                    E::NAME,
                    isa.name(),
                    close.map(|c| c[e])
                );
            }
            self.same_bits_when_dense(&kernels, problem, [&a, &b], fill(Layout::DENSE), &found);
            let rows = Layout { pad: self.layouts[2].pad, ..Layout::DENSE };
            self.same_bits_when_packed(&kernels, problem, fill(rows), &found);
            self.same_bits_in_a_batch(&kernels, plan, write, alpha, &mut rng);
            self.same_bits_when_planned(&kernels, problem, [&a, &b], fill(self.layouts[2]));
            #[cfg(feature = "parallel")]
            self.same_bits_in_parallel(&kernels, problem, fill(self.layouts[2]), &found);
        }
    }

    fn plan<E: Elem>(&self, kernels: &Kernels<E>) -> Plan {
        match self.blocks {
            None => Plan::new::<E>(kernels.isa()),
            Some([mc, kc, nc, rows, cols]) => {
                Plan { blocking: Blocking { mc, kc, nc }, pack: Some(self.pack), staging: (rows, cols) }
            }
        }
    }

    /// The documented promise: strides, m, n, packing, mc and nc leave the bits alone. Same kc,
    /// everything else plain.
    fn same_bits_when_dense<E: Elem>(
        &self,
        kernels: &Kernels<E>,
        x: GemmProblem<'_, E>,
        [a, b]: [&Held<E>; 2],
        mut c: Held<E>,
        found: &[E],
    ) {
        let (m, k, n) = (self.m, self.k, self.n);
        let dense = |h: &Held<E>| {
            let mut entries = h.entries().into_iter();
            Held::new(h.rows, h.cols, Layout::DENSE, || entries.next().unwrap())
        };
        let (a, b) = (dense(a), dense(b));
        let blocking = Blocking { mc: m.max(1), nc: n.max(1), ..x.plan.blocking };
        let plain = Plan { blocking, pack: Some([false; 2]), ..x.plan };
        let mut scratch = Scratch::new(kernels.planned_scratch(&plain, m, k, n));
        let plain = GemmProblem { plan: plain, a: a.view(), b: b.view(), ..x };
        kernels.gemm_planned(plain, c.view_mut(), &mut scratch).unwrap();
        for (e, (x, y)) in found.iter().zip(c.entries()).enumerate() {
            assert!(
                *x == y || x.is_nan() && y.is_nan(),
                "{} {} entry {e}: {x}, dense {y}: {self:?}",
                E::NAME,
                kernels.isa().name()
            );
        }
    }

    /// B packed before, into panels that another matrix has used.
    fn same_bits_when_packed<E: Elem>(
        &self,
        kernels: &Kernels<E>,
        x: GemmProblem<'_, E>,
        mut c: Held<E>,
        found: &[E],
    ) {
        let GemmProblem { plan, write, alpha, a, b } = x;
        let nan = [E::NAN];
        let other = Mat::with_strides(&nan, self.k, self.n, 0, 0).unwrap();
        let mut packed = kernels.pack_b_planned(plan, other).unwrap();
        kernels.repack_b(b, &mut packed).unwrap();
        let mut scratch = Scratch::new(kernels.planned_scratch(&plan, self.m, self.k, self.n));
        kernels.gemm_packed(write, alpha, a, &packed, c.view_mut(), &mut scratch).unwrap();
        assert!(c.margins_intact(), "{} {}: packed, outside of C: {self:?}", E::NAME, kernels.isa().name());
        for (e, (x, y)) in found.iter().zip(c.entries()).enumerate() {
            let ok = same(x.to_f64(), y.to_f64());
            assert!(ok, "{} {} entry {e}: {x}, packed {y}: {self:?}", E::NAME, kernels.isa().name());
        }
    }

    /// Planned beforehand, alone and twice in one call, with the blocks that the library chooses.
    fn same_bits_when_planned<E: Elem>(
        &self,
        kernels: &Kernels<E>,
        x: GemmProblem<'_, E>,
        [a, b]: [&Held<E>; 2],
        mut c: Held<E>,
    ) {
        let GemmProblem { write, alpha, .. } = x;
        let sizes = [self.m, self.k, self.n];
        let [sa, sb, sc] = [a.strides, b.strides, c.strides].map(|(rs, cs)| [rs, cs]);
        let shape = GemmShape { sizes, a: sa, b: sb, c: sc };
        let plan = kernels.plan_gemm(write, alpha, shape).unwrap();
        let mut scratch = Scratch::new(plan.scratch_len());
        // Each with its margins: both are one product, and two are one behind the other.
        let (mut once, mut twice) = (c.data.clone(), [&c.data[..], &c.data[..]].concat());
        plan.run(&a.data[MARGIN..], &b.data[MARGIN..], &mut once[MARGIN..], &mut scratch).unwrap();
        let [aa, bb] = [a, b].map(|x| [&x.data[..], &x.data[..]].concat());
        let next = [a.data.len(), b.data.len(), c.data.len()];
        let out = &mut twice[MARGIN..];
        plan.run_batch(2, next, &aa[MARGIN..], &bb[MARGIN..], out, &mut scratch).unwrap();
        let mut scratch = Scratch::new(kernels.gemm_scratch(self.m, self.k, self.n));
        kernels.gemm(write, alpha, a.view(), b.view(), c.view_mut(), &mut scratch).unwrap();
        for (i, x) in once.iter().chain(&twice).enumerate() {
            let y = c.data[i % c.data.len()];
            assert!(
                same(x.to_f64(), y.to_f64()),
                "{} {} element {i}: planned {x}, not {y}: {self:?}",
                E::NAME,
                kernels.isa().name()
            );
        }
    }

    /// Three products in one call, each against a call of its own; A or B shared as the seed has
    /// it.
    fn same_bits_in_a_batch<E: Elem>(
        &self,
        kernels: &Kernels<E>,
        plan: Plan,
        write: Write,
        alpha: E,
        rng: &mut Rng,
    ) {
        let mut operand = |rows, cols, layout: Layout, shared: bool| {
            let shape = if layout.transposed { [3, cols, rows] } else { [3, rows, cols] };
            let plain = Block::<E>::new(shape, layout.pad, layout.step == 3);
            let mut held = Block::with_strides(shape, if shared { 0 } else { plain.bs }, plain.rs, 1);
            held.fill(|_| entry(rng, self.values));
            held
        };
        let [la, lb, lc] = self.layouts;
        let a = operand(self.m, self.k, la, self.seed & 1 == 1);
        let b = operand(self.k, self.n, lb, self.seed & 2 == 2);
        let mut c = operand(self.m, self.n, Layout { transposed: false, ..lc }, false);
        if !self.add {
            c.fill(|_| E::NAN);
        }
        let mut single = c.clone();
        let batch = |t: bool, held| if t { Batch::T(held) } else { Batch::N(held) };
        let mut scratch = Scratch::new(kernels.planned_scratch(&plan, self.m, self.k, self.n));
        let (av, bv) = (batch(la.transposed, a.mats()), batch(lb.transposed, b.mats()));
        let problem = BatchProblem { plan, write, alpha, a: av, b: bv };
        kernels.gemm_batch_planned(problem, c.mats_mut(), &mut scratch).unwrap();
        c.assert_canaries();
        for q in 0..3 {
            let (a, b) = (a.mats().mat(q), b.mats().mat(q));
            let (a, b) = (if la.transposed { a.t() } else { a }, if lb.transposed { b.t() } else { b });
            let mut all = single.mats_mut();
            let problem = GemmProblem { plan, write, alpha, a, b };
            kernels.gemm_planned(problem, all.mat(q), &mut scratch).unwrap();
        }
        for (e, (x, y)) in single.dense().into_iter().zip(c.dense()).enumerate() {
            assert!(same(x, y), "{} {} entry {e}: {x}, batch {y}: {self:?}", E::NAME, kernels.isa().name());
        }
    }

    /// By several tasks: the bits of one call, or of the parts of k added in order.
    #[cfg(feature = "parallel")]
    fn same_bits_in_parallel<E: Elem>(
        &self,
        kernels: &Kernels<E>,
        x: GemmProblem<'_, E>,
        mut c: Held<E>,
        found: &[E],
    ) {
        use crate::gemm::parallel::{SPREAD, Spread, k_cuts, shared_len};
        let (GemmProblem { plan, write, .. }, [m, k, n]) = (x, x.sizes());
        let bit = |i: u32| (self.seed >> i) as usize;
        let how = match self.blocks {
            None => Spread { task: 1, ..SPREAD },
            Some(_) => Spread {
                task: 1 + bit(1) % 2000,
                small: [0, 1000][bit(4) % 2],
                blocks: 1 + bit(5) % 3,
                large: [0, 1 << 20][bit(6) % 2],
                rows: 1 + bit(7) % 5,
                shared: 1 + bit(2) % 5000,
                solo: [0, 1 << 10][bit(3) % 2],
            },
        };
        let mut expected = found.to_vec();
        let cuts = k_cuts(&how, &plan, m, k, n);
        if cuts.len() > 2 {
            // The first part starts from the old C, which `c` holds.
            let mut sum = c.entries();
            for (p, cut) in cuts.windows(2).enumerate() {
                let (p0, depth) = (cut[0], cut[1] - cut[0]);
                let mut part = vec![E::NAN; m * n];
                let write = if p == 0 { write } else { Write::Set };
                if p == 0 {
                    part.copy_from_slice(&sum);
                }
                let view = MatMut::new(&mut part, m, n).unwrap();
                let mut scratch = Scratch::new(kernels.planned_scratch(&plan, m, depth, n));
                let problem = GemmProblem { write, ..x.ks(p0, p0 + depth) };
                kernels.gemm_planned(problem, view, &mut scratch).unwrap();
                let add = |(s, x): (&mut E, E)| *s = if p == 0 { x } else { *s + x };
                sum.iter_mut().zip(part).for_each(add);
            }
            expected = sum;
        }
        let each = kernels.planned_scratch(&plan, m, k, n);
        let mut scratch: Vec<_> = (0..1 + bit(0) % 7).map(|_| Scratch::new(each)).collect();
        let mut shared = Scratch::new(shared_len(&how, &plan, m, k, n));
        shared.as_mut_slice().fill(E::NAN);
        let memory = ParallelScratch { tasks: &mut scratch, shared: &mut shared };
        kernels.gemm_parallel_planned(how, x, c.view_mut(), memory).unwrap();
        assert!(c.margins_intact(), "{} {}: parallel, outside of C: {self:?}", E::NAME, kernels.isa().name());
        for (e, (x, y)) in expected.iter().zip(c.entries()).enumerate() {
            let ok = same(x.to_f64(), y.to_f64());
            assert!(ok, "{} {} entry {e}: {x}, parallel {y}: {self:?}", E::NAME, kernels.isa().name());
        }
    }

    /// Per entry the value in twice the precision and how far a result may be from it: γ(k + 3)
    /// (|alpha| Σ|a||b| + |c|), and γ₆₄(4) of the same for the roundings of the oracle itself.
    fn interval<E: Elem>(&self, a: &Held<E>, b: &Held<E>, old: &[E], alpha: E) -> Vec<(f64, f64)> {
        let (a, b, alpha) = (a.view(), b.view(), alpha.to_f64());
        (0..self.m * self.n)
            .map(|e| {
                let (i, j) = (e / self.n, e % self.n);
                let (dot, abs) = dot2((0..self.k).map(|p| (a.at(i, p).to_f64(), b.at(p, j).to_f64())));
                let c = if self.add { old[e].to_f64() } else { 0.0 };
                let bound = gamma(self.k + 3, E::UNIT_ROUNDOFF) + gamma(4, f64::UNIT_ROUNDOFF);
                (c + alpha * dot, bound * (alpha.abs() * abs + c.abs()))
            })
            .collect()
    }
}
