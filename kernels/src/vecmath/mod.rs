//! Vector mathematics: exp, log, softmax, ordered sums; losses, layer norm, updates and table rows
//! in files of their own.

pub(crate) mod exp;
pub(crate) mod gather;
pub(crate) mod log;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod problem;
pub(crate) mod rows;
pub(crate) mod softmax;
pub(crate) mod sum;
pub(crate) mod update;

pub use loss::problem::IGNORED;
pub use update::problem::{AdamW, Sgd};

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::kernels::Kernels;
use crate::vecmath::problem::{Dot, Exp, Ln, SoftmaxRows, Sum};
use crate::view::MatMut;

impl<E: Elem> Kernels<E> {
    /// exp of each element of `x`: within 1 ulp (f32) or 1.05 ulp (f64), subnormal results
    /// included; exp 0 = 1, overflow gives +∞, NaN stays.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn exp(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("exp", "out length", x.len(), out.len())?;
        E::run_exp(self.isa(), Exp { x, out });
        Ok(())
    }

    /// Natural logarithm of each element of `x`: within 1 ulp, subnormal arguments included; ln 1 =
    /// 0, ln 0 = −∞, NaN below 0.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn ln(&self, x: &[E], out: &mut [E]) -> Result<(), KernelError> {
        expect("ln", "out length", x.len(), out.len())?;
        E::run_ln(self.isa(), Ln { x, out });
        Ok(())
    }

    /// Sum of the elements in f64, compensated: |result − Σ x| <= u |Σ x| + (n u)² Σ |x|, u = 2⁻⁵³.
    /// The order is fixed by the length alone: the same bits on every instruction set.
    pub fn sum(&self, x: &[E]) -> f64 {
        E::run_sum(self.isa(), Sum { x })
    }

    /// Σ x_i y_i in f64, compensated: |result − Σ x y| <= 2 u |Σ x y| + (n u)² Σ |x y|, u = 2⁻⁵³,
    /// barring underflow. The same bits on every instruction set; in f64 slow where there is no
    /// fma.
    ///
    /// # Errors
    /// Lengths differ.
    pub fn dot(&self, x: &[E], y: &[E]) -> Result<f64, KernelError> {
        expect("dot", "y length", x.len(), y.len())?;
        Ok(E::run_dot(self.isa(), Dot { x, y }))
    }

    /// Σ x_i², as [`Kernels::dot`].
    pub fn norm2(&self, x: &[E]) -> f64 {
        E::run_dot(self.isa(), Dot { x, y: x })
    }

    /// Softmax of every row, in place. A row with NaN or +∞, or of −∞ alone, becomes NaN. Entries
    /// below e^−80 (f32) or e^−700 (f64) of the row's largest are 0, never subnormal: those are
    /// slow wherever they are used.
    ///
    /// Relative error of an entry p_j: 2 u (max x − min over entries that matter of x) from the
    /// subtraction, plus (n / lanes + 12) u; see the test for the derivation.
    ///
    /// # Errors
    /// None today; rows of any strides are accepted.
    pub fn softmax_rows(&self, x: MatMut<'_, E>) -> Result<(), KernelError> {
        E::run_softmax_rows(self.isa(), SoftmaxRows { x });
        Ok(())
    }
}

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;
