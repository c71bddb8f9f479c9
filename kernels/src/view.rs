//! Matrix views, checked once when they are made.
//!
//! A view is a pointer, a shape and strides (in elements). The constructors prove that every index
//! stays inside the slice and, for mutable views, that no two indices name the same element; the
//! kernels rely on nothing else.

use crate::elem::real::Real;
use crate::error::KernelError;
use std::marker::PhantomData;

/// Elements that a matrix with these strides reaches, whatever slice it will lie in; `unique`: no
/// two indices may name the same one.
pub(crate) fn layout_reach(
    [rows, cols]: [usize; 2],
    [rs, cs]: [usize; 2],
    unique: bool,
) -> Result<usize, KernelError> {
    check_bounds([1, rows, cols], [0, rs, cs], usize::MAX)?;
    if unique {
        check_injective([1, rows, cols], [0, rs, cs])?;
    }
    extent([1, rows, cols], [0, rs, cs])
}

/// Numbers below this have products whose sum of three is below `isize::MAX / 8`: nothing can
/// overflow.
const SMALL: usize = 1 << (usize::BITS / 2 - 3);

/// What a kernel does to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Overwrites; old contents are never read, so NaN in uninitialised memory cannot leak.
    Set,
    /// Adds to what is there.
    Add,
}

/// Elements that (shape, strides) reach: one past the largest offset, 0 for an empty shape.
fn extent(shape: [usize; 3], strides: [usize; 3]) -> Result<usize, KernelError> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let mut last = 0usize;
    for (n, s) in shape.into_iter().zip(strides) {
        let span = (n - 1).checked_mul(s).ok_or(KernelError::Overflow)?;
        last = last.checked_add(span).ok_or(KernelError::Overflow)?;
    }
    last.checked_add(1).filter(|n| *n <= isize::MAX as usize / 8).ok_or(KernelError::Overflow)
}

/// One matrix inside its slice: the common small case in a few instructions.
#[inline(always)]
fn check_matrix(rows: usize, cols: usize, rs: usize, cs: usize, have: usize) -> Result<(), KernelError> {
    let fits = (rows | cols | rs | cs) < SMALL
        && rows > 0
        && cols > 0
        && (rows - 1).wrapping_mul(rs).wrapping_add((cols - 1).wrapping_mul(cs)) < have;
    if fits { Ok(()) } else { check_bounds([1, rows, cols], [0, rs, cs], have) }
}

#[cold]
fn check_bounds(shape: [usize; 3], strides: [usize; 3], have: usize) -> Result<(), KernelError> {
    // The products of dimensions must fit as well: kernels multiply them when they size scratch.
    let elems = shape.iter().try_fold(1usize, |a, n| a.checked_mul(*n)).ok_or(KernelError::Overflow)?;
    if elems > isize::MAX as usize / 8 {
        return Err(KernelError::Overflow);
    }
    let needed = extent(shape, strides)?;
    if needed > have { Err(KernelError::OutOfBounds { needed, have }) } else { Ok(()) }
}

/// Distinct indices name distinct elements if, from the fastest dimension up, each stride exceeds
/// the extent of all faster ones. Sufficient, and every layout in use has it.
pub(crate) fn check_injective(shape: [usize; 3], strides: [usize; 3]) -> Result<(), KernelError> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut dims = [0, 1, 2].map(|i| (strides[i], shape[i]));
    dims.sort_unstable();
    let mut reach = 0usize;
    for (s, n) in dims {
        if n == 1 {
            continue;
        }
        if s <= reach {
            return Err(KernelError::SelfOverlap { shape, strides });
        }
        // No overflow: `check_bounds` has passed for the same numbers.
        reach += (n - 1) * s;
    }
    Ok(())
}

/// A read-only matrix: entry (i, j) at offset `i * row_stride + j * col_stride`. Strides may be
/// zero (broadcast).
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, E> {
    ptr: *const E,
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
    life: PhantomData<&'a [E]>,
}

/// A mutable matrix; no two indices name the same element.
#[derive(Debug)]
pub struct MatMut<'a, E> {
    ptr: *mut E,
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
    life: PhantomData<&'a mut [E]>,
}

/// A batch of `count` read-only row-major matrices of one shape: entry (b, i, j) at
/// `b * batch_stride + i * row_stride + j`.
#[derive(Debug, Clone, Copy)]
pub struct Mats<'a, E> {
    ptr: *const E,
    count: usize,
    rows: usize,
    cols: usize,
    bs: usize,
    rs: usize,
    life: PhantomData<&'a [E]>,
}

/// A batch of mutable row-major matrices; no two indices name the same element.
#[derive(Debug)]
pub struct MatsMut<'a, E> {
    ptr: *mut E,
    count: usize,
    rows: usize,
    cols: usize,
    bs: usize,
    rs: usize,
    life: PhantomData<&'a mut [E]>,
}

// SAFETY: a view is a shared borrow of elements, which are Sync.
unsafe impl<E: Real> Send for Mat<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Real> Sync for Mat<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Real> Send for Mats<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Real> Sync for Mats<'_, E> {}
// SAFETY: a mutable view is an exclusive borrow of elements, which are Send; it is not Clone.
unsafe impl<E: Real> Send for MatMut<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Real> Send for MatsMut<'_, E> {}

impl<'a, E: Real> Mat<'a, E> {
    /// Row-major, contiguous.
    ///
    /// # Errors
    /// When `data` is shorter than `rows * cols`, or the size overflows.
    #[inline]
    pub fn new(data: &'a [E], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// Any strides, in elements.
    ///
    /// # Errors
    /// When the view reaches past `data`, or the size overflows.
    #[inline]
    pub fn with_strides(
        data: &'a [E],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, KernelError> {
        check_matrix(rows, cols, row_stride, col_stride, data.len())?;
        Ok(Mat { ptr: data.as_ptr(), rows, cols, rs: row_stride, cs: col_stride, life: PhantomData })
    }

    /// Rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one row to the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.rs
    }
    /// Elements from one column to the next.
    #[inline]
    pub fn col_stride(&self) -> usize {
        self.cs
    }
    /// The transpose, by swapping strides.
    #[inline]
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
    /// Entry (i, j).
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn at(&self, i: usize, j: usize) -> E {
        assert!(i < self.rows && j < self.cols, "({i}, {j}) outside {} x {}", self.rows, self.cols);
        // SAFETY: in range, so inside the slice that the constructor checked.
        unsafe { *self.ptr.add(i * self.rs + j * self.cs) }
    }
    /// Rows `r0..r0+nr`, columns `c0..c0+nc`.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn sub(self, r0: usize, nr: usize, c0: usize, nc: usize) -> Self {
        assert!(r0 <= self.rows && nr <= self.rows - r0 && c0 <= self.cols && nc <= self.cols - c0);
        // An empty piece may start past the end: it keeps the base pointer.
        let off = if nr == 0 || nc == 0 { 0 } else { r0 * self.rs + c0 * self.cs };
        // SAFETY: the offset is that of an entry, inside the slice.
        Mat { ptr: unsafe { self.ptr.add(off) }, rows: nr, cols: nc, ..self }
    }
    #[inline]
    pub(crate) fn ptr(&self) -> *const E {
        self.ptr
    }
}

impl<'a, E: Real> MatMut<'a, E> {
    /// Row-major, contiguous.
    ///
    /// # Errors
    /// When `data` is shorter than `rows * cols`, or the size overflows.
    #[inline]
    pub fn new(data: &'a mut [E], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// Any strides, in elements, that name each element at most once.
    ///
    /// # Errors
    /// When the view reaches past `data`, overlaps itself, or the size overflows.
    #[inline]
    pub fn with_strides(
        data: &'a mut [E],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, KernelError> {
        check_matrix(rows, cols, row_stride, col_stride, data.len())?;
        // Rows or columns one after the other, the common layouts, share nothing; the full rule for
        // the others.
        if !(col_stride == 1 && row_stride >= cols || row_stride == 1 && col_stride >= rows) {
            check_injective([1, rows, cols], [0, row_stride, col_stride])?;
        }
        Ok(MatMut { ptr: data.as_mut_ptr(), rows, cols, rs: row_stride, cs: col_stride, life: PhantomData })
    }

    /// Rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one row to the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.rs
    }
    /// Elements from one column to the next.
    #[inline]
    pub fn col_stride(&self) -> usize {
        self.cs
    }
    /// A shorter borrow of the same view.
    #[inline]
    pub fn rb(&mut self) -> MatMut<'_, E> {
        MatMut {
            ptr: self.ptr,
            rows: self.rows,
            cols: self.cols,
            rs: self.rs,
            cs: self.cs,
            life: PhantomData,
        }
    }
    /// Read-only view of the same entries.
    #[inline]
    pub fn as_ref(&self) -> Mat<'_, E> {
        Mat { ptr: self.ptr, rows: self.rows, cols: self.cols, rs: self.rs, cs: self.cs, life: PhantomData }
    }
    /// The transpose, by swapping strides.
    #[inline]
    pub fn t(self) -> Self {
        MatMut { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
    /// Rows `r0..r0+nr`, columns `c0..c0+nc`.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn sub(self, r0: usize, nr: usize, c0: usize, nc: usize) -> Self {
        assert!(r0 <= self.rows && nr <= self.rows - r0 && c0 <= self.cols && nc <= self.cols - c0);
        let off = if nr == 0 || nc == 0 { 0 } else { r0 * self.rs + c0 * self.cs };
        // SAFETY: the offset is that of an entry, inside the slice.
        MatMut { ptr: unsafe { self.ptr.add(off) }, rows: nr, cols: nc, ..self }
    }
    /// Rows before `r` and rows from `r` on: two views that share no element. Columns: the same of
    /// [`MatMut::t`].
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn split_rows(self, r: usize) -> (Self, Self) {
        assert!(r <= self.rows);
        let lower = MatMut { life: PhantomData, ..self };
        let (cols, rest) = (self.cols, self.rows - r);
        // The rows are disjoint, the view being injective.
        (self.sub(0, r, 0, cols), lower.sub(r, rest, 0, cols))
    }
    /// Sets entry (i, j).
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn set(&mut self, i: usize, j: usize, x: E) {
        assert!(i < self.rows && j < self.cols, "({i}, {j}) outside {} x {}", self.rows, self.cols);
        // SAFETY: in range, so inside the slice that the constructor checked.
        unsafe { *self.ptr.add(i * self.rs + j * self.cs) = x }
    }
    /// Entry (i, j).
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn at(&self, i: usize, j: usize) -> E {
        self.as_ref().at(i, j)
    }
    /// Row i, where columns are contiguous.
    ///
    /// # Panics
    /// Out of range; columns that are not contiguous.
    #[cfg(feature = "parallel")]
    #[inline]
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [E] {
        assert!(i < self.rows && (self.cs == 1 || self.cols <= 1));
        if self.cols == 0 {
            return &mut [];
        }
        // SAFETY: `cols` entries side by side, inside the slice, borrowed as long as the view is.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.rs), self.cols) }
    }
    #[inline]
    pub(crate) fn ptr(&mut self) -> *mut E {
        self.ptr
    }
}

impl<'a, E: Real> Mats<'a, E> {
    /// `count` matrices of `rows` x `cols`, one behind the other, row-major.
    ///
    /// # Errors
    /// When `data` is shorter than `count * rows * cols`, or the size overflows.
    #[inline]
    pub fn contiguous(data: &'a [E], [count, rows, cols]: [usize; 3]) -> Result<Self, KernelError> {
        Self::new(data, [count, rows, cols], rows.saturating_mul(cols), cols)
    }

    /// `count` matrices of `rows` x `cols`; columns are contiguous.
    ///
    /// # Errors
    /// When the view reaches past `data`, or the size overflows.
    #[inline]
    pub fn new(
        data: &'a [E],
        [count, rows, cols]: [usize; 3],
        batch_stride: usize,
        row_stride: usize,
    ) -> Result<Self, KernelError> {
        check_bounds([count, rows, cols], [batch_stride, row_stride, 1], data.len())?;
        Ok(Mats {
            ptr: data.as_ptr(),
            count,
            rows,
            cols,
            bs: batch_stride,
            rs: row_stride,
            life: PhantomData,
        })
    }

    /// Matrices in the batch.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }
    /// Rows of each.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns of each.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one matrix to the next.
    #[inline]
    pub fn batch_stride(&self) -> usize {
        self.bs
    }
    /// Elements from one row to the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.rs
    }
    #[inline]
    pub(crate) fn ptr(&self) -> *const E {
        self.ptr
    }
    /// Matrix `b`.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn mat(&self, b: usize) -> Mat<'a, E> {
        assert!(b < self.count);
        let off = if self.rows == 0 || self.cols == 0 { 0 } else { b * self.bs };
        // SAFETY: the offset of the matrix's first entry, inside the slice.
        let ptr = unsafe { self.ptr.add(off) };
        Mat { ptr, rows: self.rows, cols: self.cols, rs: self.rs, cs: 1, life: PhantomData }
    }
    /// Rows `r0..r0+nr` and columns `c0..c0+nc` of every matrix.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn sub(self, r0: usize, nr: usize, c0: usize, nc: usize) -> Self {
        assert!(r0 <= self.rows && nr <= self.rows - r0 && c0 <= self.cols && nc <= self.cols - c0);
        let off = if nr == 0 || nc == 0 || self.count == 0 { 0 } else { r0 * self.rs + c0 };
        // SAFETY: the offset is that of an entry, inside the slice.
        Mats { ptr: unsafe { self.ptr.add(off) }, rows: nr, cols: nc, ..self }
    }
    /// Matrices `b0..b0+n`.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn matrices(self, b0: usize, n: usize) -> Self {
        assert!(b0 <= self.count && n <= self.count - b0);
        let off = if n == 0 || self.rows == 0 || self.cols == 0 { 0 } else { b0 * self.bs };
        // SAFETY: the offset of the first entry of a matrix, inside the slice.
        Mats { ptr: unsafe { self.ptr.add(off) }, count: n, ..self }
    }
    /// All rows of all matrices as one matrix of `count * rows` rows; `None` where the strides do
    /// not line up.
    #[inline]
    pub fn flatten(&self) -> Option<Mat<'a, E>> {
        let (rows, rs) = if self.rows == 1 {
            (self.count, self.bs)
        } else if self.count <= 1 || self.bs == self.rows * self.rs {
            (self.count * self.rows, self.rs)
        } else {
            return None;
        };
        Some(Mat { ptr: self.ptr, rows, cols: self.cols, rs, cs: 1, life: PhantomData })
    }
}

impl<'a, E: Real> MatsMut<'a, E> {
    /// `count` matrices of `rows` x `cols`, one behind the other, row-major.
    ///
    /// # Errors
    /// As [`Mats::contiguous`].
    #[inline]
    pub fn contiguous(data: &'a mut [E], [count, rows, cols]: [usize; 3]) -> Result<Self, KernelError> {
        Self::new(data, [count, rows, cols], rows.saturating_mul(cols), cols)
    }

    /// `count` matrices of `rows` x `cols`; columns are contiguous, no two indices name the same
    /// element.
    ///
    /// # Errors
    /// When the view reaches past `data`, overlaps itself, or the size overflows.
    #[inline]
    pub fn new(
        data: &'a mut [E],
        [count, rows, cols]: [usize; 3],
        batch_stride: usize,
        row_stride: usize,
    ) -> Result<Self, KernelError> {
        let (shape, strides) = ([count, rows, cols], [batch_stride, row_stride, 1]);
        check_bounds(shape, strides, data.len())?;
        check_injective(shape, strides)?;
        Ok(MatsMut {
            ptr: data.as_mut_ptr(),
            count,
            rows,
            cols,
            bs: batch_stride,
            rs: row_stride,
            life: PhantomData,
        })
    }

    /// Matrices in the batch.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }
    /// Rows of each.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns of each.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one matrix to the next.
    #[inline]
    pub fn batch_stride(&self) -> usize {
        self.bs
    }
    /// Elements from one row to the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.rs
    }
    /// A shorter borrow of the same view.
    #[inline]
    pub fn rb(&mut self) -> MatsMut<'_, E> {
        MatsMut { life: PhantomData, ..*self }
    }
    /// Read-only view of the same entries.
    #[inline]
    pub fn as_ref(&self) -> Mats<'_, E> {
        Mats {
            ptr: self.ptr,
            count: self.count,
            rows: self.rows,
            cols: self.cols,
            bs: self.bs,
            rs: self.rs,
            life: PhantomData,
        }
    }
    #[inline]
    pub(crate) fn ptr(&mut self) -> *mut E {
        self.ptr
    }
    /// Matrix `b`.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn mat(&mut self, b: usize) -> MatMut<'_, E> {
        assert!(b < self.count);
        let off = if self.rows == 0 || self.cols == 0 { 0 } else { b * self.bs };
        // SAFETY: the offset of the matrix's first entry, inside the slice; the borrow of self
        // keeps it exclusive.
        let ptr = unsafe { self.ptr.add(off) };
        MatMut { ptr, rows: self.rows, cols: self.cols, rs: self.rs, cs: 1, life: PhantomData }
    }
    /// Rows `r0..r0+nr` and columns `c0..c0+nc` of every matrix.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn sub(self, r0: usize, nr: usize, c0: usize, nc: usize) -> Self {
        assert!(r0 <= self.rows && nr <= self.rows - r0 && c0 <= self.cols && nc <= self.cols - c0);
        let off = if nr == 0 || nc == 0 || self.count == 0 { 0 } else { r0 * self.rs + c0 };
        // SAFETY: the offset is that of an entry, inside the slice.
        MatsMut { ptr: unsafe { self.ptr.add(off) }, rows: nr, cols: nc, ..self }
    }
    /// Matrices before `b` and matrices from `b` on: two views that share no element.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn split_matrices(self, b: usize) -> (Self, Self) {
        assert!(b <= self.count);
        let rest = self.count - b;
        let off = if rest == 0 || self.rows == 0 || self.cols == 0 { 0 } else { b * self.bs };
        // SAFETY: the offset of the first entry of a matrix, inside the slice.
        let right = MatsMut { ptr: unsafe { self.ptr.add(off) }, count: rest, life: PhantomData, ..self };
        // The matrices are disjoint, the view being injective.
        (MatsMut { count: b, ..self }, right)
    }
    /// Rows before `r` and rows from `r` on, of every matrix: two views that share no element.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn split_rows(self, r: usize) -> (Self, Self) {
        assert!(r <= self.rows);
        let lower = MatsMut { life: PhantomData, ..self };
        let (cols, rest) = (self.cols, self.rows - r);
        // The rows are disjoint, the view being injective.
        (self.sub(0, r, 0, cols), lower.sub(r, rest, 0, cols))
    }
    /// Columns before `c` and columns from `c` on, of every matrix: two views that share no
    /// element.
    ///
    /// # Panics
    /// Out of range.
    #[inline]
    pub fn split_cols(self, c: usize) -> (Self, Self) {
        assert!(c <= self.cols);
        let right = MatsMut { life: PhantomData, ..self };
        let (rows, rest) = (self.rows, self.cols - c);
        // The two column ranges are disjoint and the view is injective, so the halves share no
        // element.
        (self.sub(0, rows, 0, c), right.sub(0, rows, c, rest))
    }
    /// All rows of all matrices as one matrix of `count * rows` rows; `None` where the strides do
    /// not line up.
    #[inline]
    pub fn flatten(self) -> Option<MatMut<'a, E>> {
        let f = self.as_ref().flatten()?;
        Some(MatMut { ptr: self.ptr, rows: f.rows, cols: f.cols, rs: f.rs, cs: 1, life: PhantomData })
    }
}

#[cfg(test)]
mod tests;
