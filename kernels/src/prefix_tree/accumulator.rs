//! What a walk sums up.

use crate::prefix_tree::plan::Plan;

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
    /// Zeros for `symbols` (as [`Plan::tracked`]) and T = `len`.
    pub fn new(symbols: usize, len: usize) -> Self {
        Accumulator {
            symbols,
            len,
            loss: Compensated::default(),
            weight: Compensated::default(),
            sums: vec![Compensated::default(); len * len * symbols],
        }
    }

    pub(crate) fn fits(&self, plan: &Plan) -> bool {
        (self.symbols, self.len) == (plan.tracked(), plan.word_len())
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, j: usize, c: usize, i: usize, x: f64) {
        self.sums[(j * self.symbols + c) * self.len + i].add(x);
    }

    /// Symbols told apart.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// T.
    pub(crate) fn len(&self) -> usize {
        self.len
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

    /// `C[j][c][i]` = Σ over words with c_j = c of δ_i = v_i (W_{c_i}/(f_{c_i} + ε) − Σ_s f_s
    /// W_s/(f_s + ε)), i >= j.
    pub fn sum(&self, j: usize, c: usize, i: usize) -> f64 {
        self.sums[(j * self.symbols + c) * self.len + i].value()
    }
}
