//! Random numbers addressed by counter, and distributions made of them, [`SAMPLE_LANES`] problems
//! at a time.
//!
//! Arrays hold the problems side by side: entry e of lane l lies at `SAMPLE_LANES e + l`, written
//! (.., SAMPLE_LANES). Every kernel here is a fixed sequence of correctly rounded operations per
//! lane, so that the bits are those of its scalar twin, on every instruction set.

pub(crate) mod exact;
pub(crate) mod forest;
pub(crate) mod gamma;
pub(crate) mod philox;
pub(crate) mod problem;
pub(crate) mod simplex;
pub(crate) mod stationary;

pub use problem::{Addresses, Envelope, MAX_ATTEMPTS, RowOf, SAMPLE_LANES};

use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::sampling::forest::InvertForest;
use crate::sampling::gamma::LogGamma;
use crate::sampling::philox::PhiloxWords;
use crate::sampling::simplex::{LanesToRows, SimplexRows};
use crate::sampling::stationary::{OffDiagonalBelow, Stationary};
use crate::simd::dispatch_words;

/// The floats or words that SAMPLE_LANES lanes of n entries take.
fn side(n: usize) -> Result<usize, KernelError> {
    n.checked_mul(SAMPLE_LANES).ok_or(KernelError::Overflow)
}

impl Kernels<f64> {
    /// Both 64-bit words of the Philox blocks of variates 0, 1, .. past each lane's first, attempt
    /// 0: out (n, 2, SAMPLE_LANES).
    ///
    /// # Errors
    /// An output that is not whole blocks.
    pub fn philox_words(&self, at: &Addresses, out: &mut [u64]) -> Result<(), KernelError> {
        expect("philox_words", "out length", out.len().next_multiple_of(2 * SAMPLE_LANES), out.len())?;
        dispatch_words(self.isa(), PhiloxWords { at, out });
        Ok(())
    }

    /// ln X for X ~ Gamma(α, 1) of variates 0, 1, .. past each lane's first: out (n, SAMPLE_LANES).
    /// Attempt k = 0, 1, .. of a variate takes two uniforms: the first gives y by inversion of the
    /// envelope, the second accepts it with probability e^{αy − e^y} over the envelope. `pending`
    /// is workspace as long as `out`.
    ///
    /// # Errors
    /// Lengths that do not fit; an envelope out of range, or one under which a variate is rejected
    /// [`MAX_ATTEMPTS`] times (`out` is written then).
    pub fn log_gamma(
        &self,
        envelope: &Envelope,
        at: &Addresses,
        out: &mut [f64],
        pending: &mut [u32],
    ) -> Result<(), KernelError> {
        let op = "log_gamma";
        envelope.check()?;
        expect(op, "out length", out.len().next_multiple_of(SAMPLE_LANES), out.len())?;
        if u32::try_from(out.len()).is_err() {
            return Err(KernelError::Overflow);
        }
        if pending.len() < out.len() {
            return Err(KernelError::ScratchTooSmall { needed: out.len(), have: pending.len() });
        }
        if dispatch_words(self.isa(), LogGamma { envelope, at, out, pending }) {
            return Ok(());
        }
        Err(KernelError::Domain { op, what: "the envelope", allowed: "one that accepts its proposals" })
    }

    /// Rows of logarithms up to a constant, as probabilities and as prefix sums. logs (rows, n,
    /// SAMPLE_LANES): each row's maximum is taken out; p (rows, n, SAMPLE_LANES): e^logs over its
    /// row's total; table (SAMPLE_LANES, stride), one lane's rows one after the other: the prefix
    /// sums of e^logs, so that the last one of a row is its total. sums (n, SAMPLE_LANES) is
    /// working storage. Columns of the table up to SAMPLE_LANES past the last row receive arbitrary
    /// values.
    ///
    /// # Errors
    /// Lengths that do not fit; stride below rows n + SAMPLE_LANES.
    pub fn simplex_rows(
        &self,
        n: usize,
        logs: &mut [f64],
        p: &mut [f64],
        sums: &mut [f64],
        table: &mut [f64],
        stride: usize,
    ) -> Result<(), KernelError> {
        let op = "simplex_rows";
        expect(op, "p length", logs.len(), p.len())?;
        let row = side(n)?;
        if row == 0 {
            return expect(op, "logs length", 0, logs.len());
        }
        expect(op, "logs length", logs.len().next_multiple_of(row), logs.len())?;
        expect(op, "sums length", row, sums.len())?;
        check_table(op, logs.len() / SAMPLE_LANES, table, stride)?;
        dispatch_words(self.isa(), SimplexRows { n, logs, p, sums, table, stride });
        Ok(())
    }

    /// Bit l: lane l of a (n, n, SAMPLE_LANES) has an entry off the diagonal below `floor`.
    ///
    /// # Errors
    /// A length that does not fit.
    pub fn off_diagonal_below(&self, n: usize, a: &[f64], floor: f64) -> Result<u32, KernelError> {
        let len = side(n.checked_mul(n).ok_or(KernelError::Overflow)?)?;
        expect("off_diagonal_below", "a length", len, a.len())?;
        Ok(dispatch_words(self.isa(), OffDiagonalBelow { n, a, floor }))
    }

    /// The stationary law mu (n, SAMPLE_LANES) of each lane's row-stochastic a (n, n,
    /// SAMPLE_LANES), which is overwritten and whose diagonal is not read, by the elimination of
    /// Grassmann, Taksar and Heyman. Lanes with entries so small that they underflow get arbitrary
    /// values.
    ///
    /// # Errors
    /// Lengths that do not fit; n = 0.
    pub fn stationary(&self, n: usize, a: &mut [f64], mu: &mut [f64]) -> Result<(), KernelError> {
        let op = "stationary";
        if n == 0 {
            return Err(KernelError::Domain { op, what: "n", allowed: ">= 1" });
        }
        expect(op, "a length", side(n.checked_mul(n).ok_or(KernelError::Overflow)?)?, a.len())?;
        expect(op, "mu length", side(n)?, mu.len())?;
        dispatch_words(self.isa(), Stationary { n, a, mu });
        Ok(())
    }

    /// Transposes lanes into columns `column ..` of a table (SAMPLE_LANES, stride) by rows: from
    /// (n, SAMPLE_LANES). Up to SAMPLE_LANES columns more receive arbitrary values.
    ///
    /// # Errors
    /// Lengths that do not fit; stride below column + n + SAMPLE_LANES.
    pub fn lanes_to_rows(
        &self,
        from: &[f64],
        table: &mut [f64],
        stride: usize,
        column: usize,
    ) -> Result<(), KernelError> {
        let op = "lanes_to_rows";
        expect(op, "from length", from.len().next_multiple_of(SAMPLE_LANES), from.len())?;
        let n = from.len() / SAMPLE_LANES;
        check_table(op, column.checked_add(n).ok_or(KernelError::Overflow)?, table, stride)?;
        dispatch_words(self.isa(), LanesToRows { n, from, to: &mut table[column..], stride });
        Ok(())
    }

    /// Symbols of each lane, position after position, by inversion of the uniform of (0,1) in the
    /// upper 52 bits of its word: the number of prefix sums of the position's row that do not
    /// exceed u times the last one. rows (len); words (len, SAMPLE_LANES); table (SAMPLE_LANES,
    /// stride): per lane rows of n prefix sums; symbols (lanes, len), lanes <= SAMPLE_LANES.
    ///
    /// # Errors
    /// Lengths that do not fit; a row of a position that is not earlier, of a symbol that is no
    /// symbol (given ones), or beyond the table: rows n + SAMPLE_LANES <= stride.
    pub fn invert_forest(
        &self,
        n: usize,
        rows: &[RowOf],
        words: &[u64],
        table: &[f64],
        stride: usize,
        symbols: &mut [u32],
    ) -> Result<(), KernelError> {
        let op = "invert_forest";
        let len = rows.len();
        let domain = |what, allowed| Err(KernelError::Domain { op, what, allowed });
        if len == 0 {
            return expect(op, "symbols length", 0, symbols.len());
        }
        expect(op, "symbols length", symbols.len().next_multiple_of(len), symbols.len())?;
        if symbols.len() / len > SAMPLE_LANES {
            return domain("lanes", "at most SAMPLE_LANES");
        }
        expect(op, "words length", side(len)?, words.len())?;
        if n == 0 || u32::try_from(n).is_err() {
            return domain("n", "1 <= n < 2^32");
        }
        check_table(op, n.checked_mul(n).ok_or(KernelError::Overflow)?, table, stride)?;
        for (i, row) in rows.iter().enumerate() {
            match *row {
                RowOf::Symbol(p) if p as usize >= i => return domain("a row", "of an earlier position"),
                RowOf::Fixed(r) if r as usize >= (stride - SAMPLE_LANES) / n => {
                    return domain("a row", "(row + 1) n + SAMPLE_LANES <= stride");
                }
                RowOf::Given if symbols.chunks_exact(len).any(|x| x[i] as usize >= n) => {
                    return domain("a given symbol", "below n");
                }
                _ => {}
            }
        }
        dispatch_words(self.isa(), InvertForest { n, rows, words, table, stride, symbols });
        Ok(())
    }
}

/// Every lane's row holds `columns` entries and SAMPLE_LANES more.
fn check_table(op: &'static str, columns: usize, table: &[f64], stride: usize) -> Result<(), KernelError> {
    if stride < columns.checked_add(SAMPLE_LANES).ok_or(KernelError::Overflow)? {
        return Err(KernelError::Shape {
            op,
            what: "table stride",
            expected: columns + SAMPLE_LANES,
            found: stride,
        });
    }
    expect(op, "table length", side(stride)?, table.len())
}

#[cfg(test)]
mod tests;
