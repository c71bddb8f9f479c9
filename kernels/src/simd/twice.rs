//! Two vectors as one: twice the lanes, for loops that wait for their own results.

use crate::elem::real::Real;
use crate::simd::{Isa, Op, Routine, Simd};

/// Token: that of the vectors it is made of.
#[derive(Clone, Copy)]
pub(crate) struct Twice<S>(pub(crate) S);

/// Methods that both halves do by themselves: `name(arguments)`.
macro_rules! by_halves {
    ($($name:ident($($x:ident),+),)+) => {$(
        #[inline(always)]
        fn $name(self, $($x: Self::V),+) -> Self::V {
            [self.0.$name($($x[0]),+), self.0.$name($($x[1]),+)]
        }
    )+};
}

impl<E: Real, S: Simd<E>> Simd<E> for Twice<S> {
    type V = [S::V; 2];
    const LANES: usize = 2 * S::LANES;
    const ISA: Isa = S::ISA;
    const FUSED: bool = S::FUSED;
    const SUMS: usize = 2;

    #[inline(always)]
    fn splat(self, x: E) -> Self::V {
        [self.0.splat(x); 2]
    }
    #[inline(always)]
    fn prefetch(self, p: *const E) {
        self.0.prefetch(p);
        self.0.prefetch(p.wrapping_add(S::LANES));
    }
    #[inline(always)]
    unsafe fn load(self, p: *const E) -> Self::V {
        // SAFETY: twice as many elements are readable.
        unsafe { [self.0.load(p), self.0.load(p.add(S::LANES))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut E, v: Self::V) {
        // SAFETY: twice as many elements are writable.
        unsafe {
            self.0.store(p, v[0]);
            self.0.store(p.add(S::LANES), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const E, n: usize) -> Self::V {
        let low = n.min(S::LANES);
        // SAFETY: n elements are readable.
        unsafe { [self.0.load_partial(p, low), self.0.load_partial(p.wrapping_add(low), n - low)] }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut E, n: usize, v: Self::V) {
        let low = n.min(S::LANES);
        // SAFETY: n elements are writable.
        unsafe {
            self.0.store_partial(p, low, v[0]);
            self.0.store_partial(p.wrapping_add(low), n - low, v[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, p: *mut E, n: usize, v: Self::V) {
        // SAFETY: the same contract.
        unsafe { self.store_partial(p, n, v) }
    }
    by_halves! {
        add(a, b), sub(a, b), mul(a, b), div(a, b), sqrt(a), fma(a, b, c), max(a, b), min(a, b),
        select_lt(a, b, x, y), round(a), ldexp(x, n), ldexp_normal(x, n),
    }
    #[inline(always)]
    fn frexp(self, x: Self::V) -> (Self::V, Self::V) {
        let ((m0, e0), (m1, e1)) = (self.0.frexp(x[0]), self.0.frexp(x[1]));
        ([m0, m1], [e0, e1])
    }
    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> E {
        self.0.reduce_add(self.0.add(v[0], v[1]))
    }
    #[inline(always)]
    fn sum(self, v: Self::V, i: usize) -> E {
        self.0.reduce_add(v[i])
    }
    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> E {
        self.0.reduce_max(self.0.max(v[0], v[1]))
    }
    #[inline(always)]
    fn outline<O: Op<E>>(self, op: O) -> O::Out {
        op.run(self)
    }
    fn routine<R: Routine<E>>(self) -> unsafe fn(&R::With, *const E, *const E, *mut E) {
        self.0.routine::<R>()
    }
    const EDGE: usize = S::EDGE;
    #[inline(always)]
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        from: *const E,
        stride: usize,
        to: *mut E,
        to_stride: usize,
    ) {
        // SAFETY: the same contract.
        unsafe { self.0.transpose(rows, cols, from, stride, to, to_stride) }
    }
}
