//! Loss and gradient of a soft average over words, summed over every word of an alphabet.

use crate::arch::generic::prefix_tree::{MAX_LEN, WalkOp, scratch_len};
use crate::elem::Elem;
use crate::{KernelError, Kernels, Mat, Scratch, expect};

/// How much each word weighs, by its transitions: position j with a parent q is a transition c_q → c_j, one without is a root.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a, E> {
    /// Rows of the transition matrix i.i.d. Dirichlet(α, .., α), integrated in closed form.
    Dirichlet {
        /// α > 0.
        alpha: E,
        /// Roots follow one Dirichlet(α) law drawn once per word; otherwise they are uniform.
        shared_roots: bool,
    },
    /// A finite mixture: transition matrix and root law q with probability weight_q.
    Atoms {
        /// (Q).
        weight: &'a [E],
        /// (Q, S, S), row = from.
        pi: &'a [E],
        /// (Q, S).
        roots: &'a [E],
    },
    /// Looked up: row `Σ stride[c_q, c_j] + Σ root_stride[c_j]` of `values` (rows, S) holds W_s.
    Table {
        /// (rows, S), every factor included.
        values: &'a [E],
        /// (S, S).
        stride: &'a [u32],
        /// (S).
        root_stride: &'a [u32],
    },
}

/// One query symbol's share of the sum.
///
/// Words c_0 .. c_{T−2} of S symbols, then the query k at position T − 1; M (T, T) lower triangular, rows summing to 1; a
/// (S) a table. z_i = Σ_{j<=i} M_ij a_{c_j}, v = softmax(z), f_s = Σ_i v_i 1[c_i = s]; L = −Σ_words Σ_s W_s ln(f_s + ε).
#[derive(Debug, Clone, Copy)]
pub struct Walk<'a, E> {
    /// S, 2 to 255.
    pub symbols: usize,
    /// k.
    pub query: usize,
    /// a (S).
    pub table: &'a [E],
    /// M; only its lower triangle is read.
    pub mix: Mat<'a, E>,
    /// Parents of the positions 0 .. T−2.
    pub parents: &'a [Option<usize>],
    /// ε >= 0.
    pub eps: E,
    /// W.
    pub weights: Weights<'a, E>,
    /// Positions that make up a prefix, below T − 1: the unit of work.
    pub prefix_len: usize,
}

impl<E: Elem> Walk<'_, E> {
    /// The middle of the range of a.
    pub(crate) fn shift(&self) -> f64 {
        let (lo, hi) = self.range();
        0.5 * (lo + hi)
    }

    fn range(&self) -> (f64, f64) {
        self.table
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), a| (lo.min(a.to_f64()), hi.max(a.to_f64())))
    }

    /// Prefixes, S^prefix_len; saturates where the walk is out of range anyway.
    pub fn prefixes(&self) -> u64 {
        (self.symbols as u64).saturating_pow(self.prefix_len.min(MAX_LEN) as u32)
    }

    fn check(&self) -> Result<(), KernelError> {
        let op = "prefix_tree";
        let t = self.parents.len() + 1;
        let domain = |what, allowed| Err(KernelError::Domain { op, what, allowed });
        if !(2..=255).contains(&self.symbols) {
            return domain("symbols", "2 to 255");
        }
        let words = (self.symbols as u64).checked_pow(t.min(MAX_LEN + 1) as u32 - 1);
        if !(2..=MAX_LEN).contains(&t) || words.is_none_or(|n| n >> 63 != 0) {
            return domain("words", "1 to 2^63 - 1");
        }
        expect(op, "table length", self.symbols, self.table.len())?;
        expect(op, "mix rows", t, self.mix.rows())?;
        expect(op, "mix columns", t, self.mix.cols())?;
        if self.query >= self.symbols {
            return domain("query", "a symbol");
        }
        if self.prefix_len >= t - 1 {
            return domain("prefix_len", "below the number of context positions");
        }
        if self.parents.iter().enumerate().any(|(j, p)| p.is_some_and(|p| p >= j)) {
            return domain("parents", "earlier positions");
        }
        if !(self.eps >= E::ZERO && self.eps.is_finite()) {
            return domain("eps", "finite, >= 0");
        }
        let (lo, hi) = self.range();
        // e^{±range/2} times T stays a normal number.
        let most = if size_of::<E>() == 4 { 120.0 } else { 1200.0 };
        if !(self.table.iter().all(|a| a.is_finite()) && hi - lo <= most) {
            return domain("table", "finite, range at most 120 (f32) or 1200 (f64)");
        }
        let s = self.symbols;
        match self.weights {
            Weights::Dirichlet { alpha, .. } => {
                if !(alpha > E::ZERO && alpha.is_finite()) {
                    return domain("alpha", "finite, > 0");
                }
            }
            Weights::Atoms { weight, pi, roots } => {
                let q = weight.len();
                expect(op, "pi length", q * s * s, pi.len())?;
                expect(op, "roots length", q * s, roots.len())?;
            }
            Weights::Table { values, stride, root_stride } => {
                expect(op, "stride length", s * s, stride.len())?;
                expect(op, "root_stride length", s, root_stride.len())?;
                let largest = |x: &[u32]| x.iter().fold(0, |m, x| m.max(*x)) as u64;
                let roots = self.parents.iter().filter(|p| p.is_none()).count() as u64;
                let last = (t as u64 - 1 - roots) * largest(stride) + roots * largest(root_stride);
                if last > u32::MAX as u64
                    || (last as usize + 1).checked_mul(s).is_none_or(|n| n > values.len())
                {
                    return domain("values", "a row for every sum of strides");
                }
            }
        }
        Ok(())
    }
}

/// A compensated sum in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Compensated {
    hi: f64,
    lo: f64,
}

impl Compensated {
    /// Adds `x`, keeping the rounding error.
    #[inline(always)]
    pub fn add(&mut self, x: f64) {
        let s = self.hi + x;
        let t = s - self.hi;
        self.lo += (self.hi - (s - t)) + (x - t);
        self.hi = s;
    }

    /// The sum.
    pub fn value(self) -> f64 {
        if self.lo.is_finite() { self.hi + self.lo } else { self.hi }
    }
}

/// What a walk sums up, in f64 and compensated.
#[derive(Debug, Clone, PartialEq)]
pub struct Accumulator {
    symbols: usize,
    len: usize,
    /// Σ_s W_s ln(f_s + ε): minus the loss.
    pub(crate) loss: Compensated,
    pub(crate) weight: Compensated,
    sums: Vec<Compensated>,
}

impl Accumulator {
    /// Zeros for S `symbols` and T = `len`.
    pub fn new(symbols: usize, len: usize) -> Self {
        Accumulator {
            symbols,
            len,
            loss: Compensated::default(),
            weight: Compensated::default(),
            sums: vec![Compensated::default(); len * len * symbols],
        }
    }

    pub(crate) fn fits<E>(&self, w: &Walk<'_, E>) -> bool {
        (self.symbols, self.len) == (w.symbols, w.parents.len() + 1)
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, j: usize, c: usize, i: usize, x: f64) {
        self.sums[(j * self.symbols + c) * self.len + i].add(x);
    }

    /// Back to zeros.
    pub fn clear(&mut self) {
        (self.loss, self.weight) = Default::default();
        self.sums.fill(Compensated::default());
    }

    /// Adds `other`.
    ///
    /// # Panics
    /// When it is of another size.
    pub fn merge(&mut self, other: &Accumulator) {
        assert_eq!((self.symbols, self.len), (other.symbols, other.len));
        let both = |a: &mut Compensated, b: Compensated| {
            a.add(b.hi);
            // An infinite sum has no rounding error to speak of.
            if b.lo.is_finite() {
                a.add(b.lo);
            }
        };
        both(&mut self.loss, other.loss);
        both(&mut self.weight, other.weight);
        for (a, b) in self.sums.iter_mut().zip(&other.sums) {
            both(a, *b);
        }
    }

    /// L.
    pub fn loss(&self) -> f64 {
        -self.loss.value()
    }

    /// Σ W over words and s.
    pub fn weight(&self) -> f64 {
        self.weight.value()
    }

    /// `C[j][c][i]` = Σ over words with c_j = c of δ_i = v_i (W_{c_i}/(f_{c_i} + ε) − Σ_s f_s W_s/(f_s + ε)), i >= j.
    pub fn sum(&self, j: usize, c: usize, i: usize) -> f64 {
        self.sums[(j * self.symbols + c) * self.len + i].value()
    }
}

impl<E: Elem> Kernels<E> {
    /// Scratch elements that [`Kernels::prefix_tree`] needs.
    ///
    /// # Errors
    /// As there.
    pub fn prefix_tree_scratch(&self, walk: &Walk<'_, E>) -> Result<usize, KernelError> {
        walk.check()?;
        Ok(scratch_len(walk))
    }

    /// Adds the words under prefixes `first .. last` (numbers base S, first symbol most significant) to `acc`.
    ///
    /// # Errors
    /// A walk out of range, scratch too small, an accumulator of another size.
    pub fn prefix_tree(
        &self,
        walk: &Walk<'_, E>,
        prefixes: std::ops::Range<u64>,
        acc: &mut Accumulator,
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        walk.check()?;
        let op = "prefix_tree";
        if prefixes.end > walk.prefixes() {
            return Err(KernelError::Domain { op, what: "prefixes", allowed: "up to S^prefix_len" });
        }
        expect(op, "accumulator symbols", walk.symbols, acc.symbols)?;
        expect(op, "accumulator length", walk.parents.len() + 1, acc.len)?;
        let scratch = scratch.get(scratch_len(walk))?;
        E::dispatch(self.isa(), WalkOp { walk, first: prefixes.start, last: prefixes.end, acc, scratch });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
