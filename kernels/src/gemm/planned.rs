//! Products of one shape with every decision made beforehand: a call goes from one strip to the
//! next.

use crate::elem::Elem;
use crate::error::KernelError;
use crate::gemm::loops::PlanOp;
use crate::gemm::plan::{Plan, transposes};
use crate::gemm::problem::GemmProblem;
use crate::gemm::tile::{Block, Step};
use crate::kernels::Kernels;
use crate::scratch::Scratch;
use crate::view::{Mat, MatMut, Write, check_injective, layout_reach};

/// Sizes and strides of a product: A (m, k), B (k, n), C (m, n). Strides are elements from row to
/// row, then from column to column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmShape {
    /// m, k and n.
    pub sizes: [usize; 3],
    /// Strides of A.
    pub a: [usize; 2],
    /// Strides of B.
    pub b: [usize; 2],
    /// Strides of C, no two of whose entries may be one element.
    pub c: [usize; 2],
}

impl GemmShape {
    /// Row-major operands without gaps.
    pub fn dense(m: usize, k: usize, n: usize) -> Self {
        GemmShape { sizes: [m, k, n], a: [k, 1], b: [n, 1], c: [n, 1] }
    }
    /// The same with A stored as its transpose, (k, m) row-major.
    pub fn a_transposed(self) -> Self {
        GemmShape { a: [1, self.sizes[0]], ..self }
    }
    /// The same with B stored as its transpose, (n, k) row-major.
    pub fn b_transposed(self) -> Self {
        GemmShape { b: [1, self.sizes[1]], ..self }
    }
}

/// A product of one shape, made by [`Kernels::plan_gemm`].
///
/// # Examples
///
/// ```
/// use popgrad_kernels::{GemmShape, Kernels, Scratch, Write};
/// let kernels = Kernels::<f32>::from_env()?;
/// let plan = kernels.plan_gemm(Write::Set, 1.0, GemmShape::dense(2, 2, 1))?;
/// let mut scratch = Scratch::new(plan.scratch_len());
/// let mut c = [0.0; 2];
/// plan.run(&[1.0, 2.0, 3.0, 4.0], &[1.0, 1.0], &mut c, &mut scratch)?;
/// assert_eq!(c, [3.0, 7.0]);
/// # Ok::<(), popgrad_kernels::KernelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct GemmPlan<E> {
    kernels: Kernels<E>,
    write: Write,
    alpha: E,
    shape: GemmShape,
    /// Elements of A, B and C that a call touches, gaps included.
    reach: [usize; 3],
    scratch: usize,
    /// C is computed as its transpose: A and B change places.
    transposed: bool,
    /// Empty where something has to be packed: then a call is one of [`Kernels::gemm`].
    steps: Box<[Step<E>]>,
}

impl<E: Elem> Kernels<E> {
    /// Decides how to compute `C = alpha A B` or `C += alpha A B` of one shape: see [`GemmPlan`].
    /// It allocates; the calls do not.
    ///
    /// # Errors
    /// Sizes or strides beyond the address space; entries of C that share an element.
    pub fn plan_gemm(&self, write: Write, alpha: E, shape: GemmShape) -> Result<GemmPlan<E>, KernelError> {
        let [m, k, n] = shape.sizes;
        let reach = [
            layout_reach([m, k], shape.a, false)?,
            layout_reach([k, n], shape.b, false)?,
            layout_reach([m, n], shape.c, true)?,
        ];
        let mut plan = GemmPlan {
            kernels: *self,
            write,
            alpha,
            shape,
            reach,
            scratch: 0,
            transposed: false,
            steps: Box::default(),
        };
        if m == 0 || n == 0 {
            return Ok(plan);
        }
        let rules = Plan::new::<E>(self.isa());
        // As `Kernels::gemm` does it.
        plan.transposed = transposes([m, n], shape.a[0], shape.c);
        let (a, b, c, m, n) = match plan.transposed {
            false => (shape.a, shape.b, shape.c, m, n),
            true => ([shape.b[1], shape.b[0]], [shape.a[1], shape.a[0]], [shape.c[1], shape.c[0]], n, m),
        };
        let in_place = c[1] == 1 || n == 1;
        if in_place && rules.small([m, k, n]) && rules.packs::<E>([m, k, n], a, b) == [false; 2] {
            let nothing = std::ptr::null::<E>();
            let block = Block {
                m,
                k,
                n,
                alpha,
                a: nothing,
                rs_a: a[0],
                cs_a: a[1],
                packed_a: false,
                b: nothing,
                rs_b: b[0],
                packed_b: false,
                c: nothing.cast_mut(),
                rs_c: c[0],
                write,
            };
            plan.steps = E::run_plan(self.isa(), PlanOp(&block)).into();
        } else {
            plan.scratch = self.gemm_scratch(m, k, n);
        }
        Ok(plan)
    }
}

impl<E: Elem> GemmPlan<E> {
    /// Elements of scratch that a call needs; none where nothing is packed.
    pub fn scratch_len(&self) -> usize {
        self.scratch
    }

    /// What was planned.
    pub fn shape(&self) -> GemmShape {
        self.shape
    }

    /// The product of operands that begin with their first entries: the bits, and the error bound,
    /// of [`Kernels::gemm`]. Allocates nothing.
    ///
    /// # Errors
    /// An operand or scratch that is too short.
    #[inline]
    pub fn run(&self, a: &[E], b: &[E], c: &mut [E], scratch: &mut Scratch<E>) -> Result<(), KernelError> {
        let [in_a, in_b, in_c] = self.reach;
        long_enough("a length", in_a, a.len())?;
        long_enough("b length", in_b, b.len())?;
        long_enough("c length", in_c, c.len())?;
        if self.steps.is_empty() {
            return self.general(a, b, c, scratch);
        }
        // SAFETY: the operands have the elements that the plan's strides reach, just compared, and
        // those of C are each one entry; C is borrowed alone.
        unsafe { self.call(a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
        Ok(())
    }

    /// `count` products, the operands of each `next` elements behind those before (A, B, C; 0 for
    /// an A or B that all share): each has the bits of [`GemmPlan::run`]. Allocates nothing.
    ///
    /// # Errors
    /// An operand or scratch that is too short; products whose C overlap.
    pub fn run_batch(
        &self,
        count: usize,
        next: [usize; 3],
        a: &[E],
        b: &[E],
        c: &mut [E],
        scratch: &mut Scratch<E>,
    ) -> Result<(), KernelError> {
        if count == 0 {
            return Ok(());
        }
        let ends = |i: usize| {
            // Operands without an element have no end.
            let next = if self.reach[i] == 0 { 0 } else { next[i] };
            let before = (count - 1).checked_mul(next).ok_or(KernelError::Overflow)?;
            before.checked_add(self.reach[i]).ok_or(KernelError::Overflow)
        };
        long_enough("a length", ends(0)?, a.len())?;
        long_enough("b length", ends(1)?, b.len())?;
        long_enough("c length", ends(2)?, c.len())?;
        let ([m, _, n], [rs, cs]) = (self.shape.sizes, self.shape.c);
        check_injective([count, m, n], [next[2], rs, cs])?;
        if self.steps.is_empty() {
            for q in 0..count {
                let [a, b] = [&a[q * next[0]..], &b[q * next[1]..]];
                self.general(a, b, &mut c[q * next[2]..], scratch)?;
            }
            return Ok(());
        }
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        for q in 0..count {
            // SAFETY: product q lies inside the operands, whose lengths are compared above, and no
            // two C share an element; C is borrowed alone.
            unsafe { self.call(a.add(q * next[0]), b.add(q * next[1]), c.add(q * next[2])) };
        }
        Ok(())
    }

    /// # Safety
    /// The operands have the elements that the plan reaches, those of C writable and apart from A
    /// and B.
    #[inline]
    unsafe fn call(&self, a: *const E, b: *const E, c: *mut E) {
        let (a, b) = if self.transposed { (b, a) } else { (a, b) };
        let Some((first, others)) = self.steps.split_first() else { return };
        // SAFETY: the contract above; the steps are those of a block with the plan's strides, cut
        // for an instruction set that this CPU has.
        unsafe {
            first.call_at_start(a, b, c);
            for step in others {
                step.call(a, b, c);
            }
        }
    }

    /// By the loops that pack.
    #[cold]
    fn general(&self, a: &[E], b: &[E], c: &mut [E], scratch: &mut Scratch<E>) -> Result<(), KernelError> {
        let ([m, k, n], GemmShape { a: sa, b: sb, c: sc, .. }) = (self.shape.sizes, self.shape);
        if m == 0 || n == 0 {
            return Ok(());
        }
        let a = Mat::with_strides(a, m, k, sa[0], sa[1])?;
        let b = Mat::with_strides(b, k, n, sb[0], sb[1])?;
        let c = MatMut::with_strides(c, m, n, sc[0], sc[1])?;
        let plan = Plan::new::<E>(self.kernels.isa());
        let problem = GemmProblem { plan, write: self.write, alpha: self.alpha, a, b };
        self.kernels.gemm_planned(problem, c, scratch)
    }
}

#[inline]
fn long_enough(what: &'static str, needed: usize, have: usize) -> Result<(), KernelError> {
    if needed <= have {
        return Ok(());
    }
    Err(KernelError::Shape { op: "planned gemm", what, expected: needed, found: have })
}
