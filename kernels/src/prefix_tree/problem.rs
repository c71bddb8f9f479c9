//! One sum over words: what weighs them and what is asked of them.

use crate::elem::real::Real;
use crate::error::{KernelError, expect};
use crate::prefix_tree::plan::Plan;
use crate::view::Mat;

/// How much each word weighs, by its transitions: position j with a parent q is a transition c_q →
/// c_j, one without is a root.
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
    /// Looked up by classes: `values` (prefix classes, suffix classes, W) holds the weights of the
    /// targets of one word, in labels where the query is symbol 0, symbols 0 and k having changed
    /// places. W = S; of canonical words one more than the tracked symbols, the last being the
    /// weight of each symbol that is not used, and every word's weight is that of its orbit.
    Table {
        /// Every factor included.
        values: &'a [E],
    },
}

/// One query symbol's share of the sum.
///
/// Words c_0 .. c_{T−2} of S symbols, then the query k at position T − 1; M (T, T) lower
/// triangular, rows summing to 1; a (S) a table. z_i = Σ_{j<=i} M_ij a_{c_j}, v = softmax(z), f_s =
/// Σ_i v_i 1[c_i = s]; L = −Σ_words Σ_s W_s ln(f_s + ε).
#[derive(Debug, Clone, Copy)]
pub struct Walk<'a, E> {
    /// The words; prefixes and suffixes are in labels where the query is symbol 0, symbols 0 and k
    /// having changed places.
    pub plan: &'a Plan,
    /// k; 0 for canonical words.
    pub query: usize,
    /// a (S); for canonical words all but a_0 are equal.
    pub table: &'a [E],
    /// M; only its lower triangle is read.
    pub mix: Mat<'a, E>,
    /// ε >= 0.
    pub eps: E,
    /// W.
    pub weights: Weights<'a, E>,
}

impl<E> Walk<'_, E> {
    /// Largest range of a: e^{±range/2} times T stays a normal number.
    pub const MOST_RANGE: f64 = if size_of::<E>() == 4 { 120.0 } else { 1200.0 };
}

impl<E: Real> Walk<'_, E> {
    /// The middle of the range of a.
    pub(crate) fn shift(&self) -> f64 {
        let (lo, hi) = self.range();
        0.5 * (lo + hi)
    }

    pub(crate) fn range(&self) -> (f64, f64) {
        self.table
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), a| (lo.min(a.to_f64()), hi.max(a.to_f64())))
    }

    /// The symbol behind a label of prefixes and suffixes, and the other way round.
    #[inline(always)]
    pub(crate) fn symbol(&self, label: usize) -> usize {
        if label == 0 {
            self.query
        } else if label == self.query {
            0
        } else {
            label
        }
    }

    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let op = "prefix_tree";
        let (s, t) = (self.plan.symbols(), self.plan.word_len());
        let domain = |what, allowed| Err(KernelError::Domain { op, what, allowed });
        expect(op, "table length", s, self.table.len())?;
        expect(op, "mix rows", t, self.mix.rows())?;
        expect(op, "mix columns", t, self.mix.cols())?;
        if self.query >= s || self.plan.canonical().is_some() && self.query != 0 {
            return domain("query", "a symbol; 0 for canonical words");
        }
        if self.plan.canonical().is_some() && self.table[2..].iter().any(|a| *a != self.table[1]) {
            return domain("table", "equal but for the query's entry, for canonical words");
        }
        if !(self.eps >= E::ZERO && self.eps.is_finite()) {
            return domain("eps", "finite, >= 0");
        }
        let (lo, hi) = self.range();
        if !(self.table.iter().all(|a| a.is_finite()) && hi - lo <= Self::MOST_RANGE) {
            return domain("table", "finite, range at most 120 (f32) or 1200 (f64)");
        }
        match self.weights {
            Weights::Dirichlet { alpha, shared_roots } => {
                if !(alpha > E::ZERO && alpha.is_finite()) {
                    return domain("alpha", "finite, > 0");
                }
                if shared_roots && !self.plan.root_counts() {
                    return domain("weights", "roots that the plan counts");
                }
            }
            Weights::Atoms { weight, pi, roots } => {
                let q = weight.len();
                expect(op, "pi length", q * s * s, pi.len())?;
                expect(op, "roots length", q * s, roots.len())?;
                if !self.plan.root_counts() {
                    return domain("weights", "roots that the plan counts");
                }
            }
            Weights::Table { values } => {
                let rows = self.plan.prefix_classes() * self.plan.suffix_classes();
                expect(op, "values length", rows * self.plan.row(), values.len())?;
            }
        }
        Ok(())
    }
}
