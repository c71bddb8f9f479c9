//! Why a kernel refused its operands.

use std::fmt;

/// A refused call: operands that do not fit together, views that do not fit their memory, an
/// instruction set that this CPU lacks. Nothing has been written when a kernel returns one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// Two operands disagree about a dimension.
    Shape {
        /// The kernel.
        op: &'static str,
        /// The operand and dimension, e.g. `b rows`.
        what: &'static str,
        /// What the other operands require.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A view reaches past the end of its slice.
    OutOfBounds {
        /// Elements that the shape and strides reach.
        needed: usize,
        /// Elements that the slice has.
        have: usize,
    },
    /// The product of shape and strides overflows `usize`.
    Overflow,
    /// A mutable view in which two indices name the same element (a zero or too small stride).
    SelfOverlap {
        /// Rows, columns (and matrices) of the view.
        shape: [usize; 3],
        /// Strides in the same order.
        strides: [usize; 3],
    },
    /// The scratch buffer is smaller than the kernel's `*_scratch` function asked for.
    ScratchTooSmall {
        /// Elements needed.
        needed: usize,
        /// Elements there.
        have: usize,
    },
    /// This CPU (or build target) lacks the instruction set.
    IsaUnavailable {
        /// Its name.
        isa: &'static str,
    },
    /// An operand's value is out of range.
    Domain {
        /// The kernel.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// Its allowed values.
        allowed: &'static str,
    },
    /// `POPGRAD_ISA` holds something else than the name of an instruction set.
    UnknownIsa {
        /// What it holds.
        name: String,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::Shape { op, what, expected, found } => {
                write!(f, "{op}: {what} is {found}, the other operands require {expected}")
            }
            KernelError::OutOfBounds { needed, have } => {
                write!(f, "view reaches {needed} elements, its slice has {have}")
            }
            KernelError::Overflow => f.write_str("shape times stride overflows the address space"),
            KernelError::SelfOverlap { shape, strides } => write!(
                f,
                "mutable view overlaps itself: shape {shape:?} with strides {strides:?}; each stride must exceed \
                 the extent of the faster dimensions"
            ),
            KernelError::ScratchTooSmall { needed, have } => {
                write!(f, "scratch has {have} elements, {needed} are needed")
            }
            KernelError::IsaUnavailable { isa } => write!(f, "this CPU lacks the instruction set `{isa}`"),
            KernelError::Domain { op, what, allowed } => {
                write!(f, "{op}: {what} out of range; allowed: {allowed}")
            }
            KernelError::UnknownIsa { name } => {
                write!(f, "POPGRAD_ISA: `{name}` is no instruction set; allowed: portable, avx2, avx512")
            }
        }
    }
}

impl std::error::Error for KernelError {}

/// `Ok` when a dimension is what the other operands require.
#[inline]
pub(crate) fn expect(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), KernelError> {
    if expected == found { Ok(()) } else { Err(KernelError::Shape { op, what, expected, found }) }
}
