//! One matrix product over the threads of a pool.
//!
//! ```text
//! C small, k long     parts of k, their number a constant of the shape; added in order
//! large, rows of C    B packed by all, then rows of C, block by block, where packing B pays
//! else                a grid of blocks of C
//! ```
//!
//! An entry of C is the same chain wherever C is cut, so only the first form has bits of its own,
//! and these are the shape's. A task is worth the fork from some microseconds on; products below
//! that stay where they are.

use crate::elem::Elem;
use crate::error::{KernelError, expect};
use crate::gemm::blocking::Blocking;
use crate::gemm::loops::even_columns;
use crate::gemm::plan::Plan;
use crate::gemm::problem::{GemmProblem, PanelProblem};
use crate::kernels::Kernels;
use crate::parallel::{ParallelScratch, spread};
use crate::scratch::Scratch;
use crate::simd::tiles::{MAX_LANES, gemm_tile};
use crate::view::{Mat, MatMut, Write};

/// How a product is spread; the tests choose other sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Multiply-adds that a task has at least.
    pub(crate) task: usize,
    /// Elements of C up to which a long k is cut,
    pub(crate) small: usize,
    /// into parts of so many blocks of kc at least.
    pub(crate) blocks: usize,
    /// Multiply-adds from which on B is packed once for all.
    pub(crate) large: usize,
    /// and tasks have so many rows of A at least.
    pub(crate) rows: usize,
    /// Elements of B that are packed at a time, at least.
    pub(crate) shared: usize,
    /// Elements below which copying and adding stay on one thread.
    pub(crate) solo: usize,
}

pub(crate) const SPREAD: Spread = Spread {
    task: 1 << 18,
    small: 1 << 17,
    blocks: 4,
    large: 1 << 28,
    rows: 64,
    shared: 1 << 20,
    solo: 1 << 16,
};

/// Terms of a sum below which k is never cut.
const SHORT: usize = 1024;

/// Parts of k at most: as many tasks have work.
const K_PARTS: usize = 16;
/// Columns of a block of B that one task packs, at most, unless A is packed too: panels of all
/// widths fill it.
const COLUMNS: usize = 192;

/// Parts of k: a constant of the shape.
#[inline]
fn k_parts(spread: &Spread, plan: &Plan, m: usize, k: usize, n: usize) -> usize {
    let least = plan.blocking.kc.saturating_mul(spread.blocks);
    // Small products come by here: no division for them.
    if k < least.saturating_mul(2) || m.saturating_mul(n) > spread.small {
        return 1;
    }
    (k / least.max(1)).clamp(1, K_PARTS)
}

/// Where k is cut, for the checks: 0, .., k.
#[cfg(any(test, feature = "checks"))]
pub(crate) fn k_cuts(how: &Spread, plan: &Plan, m: usize, k: usize, n: usize) -> Vec<usize> {
    let parts = k_parts(how, plan, m, k, n);
    (0..=parts).map(|p| border(k, plan.blocking.kc, p, parts)).collect()
}

/// First index of part `i` of `parts` of `len`, at a multiple of `unit`.
fn border(len: usize, unit: usize, i: usize, parts: usize) -> usize {
    if i == parts { len } else { (len.div_ceil(unit) * i / parts * unit).min(len) }
}

impl<E: Elem> Kernels<E> {
    /// Elements of `scratch.shared` in [`Kernels::gemm_parallel`], whatever the strides. A smaller
    /// product may need more: ask for each shape.
    pub fn gemm_shared_scratch(&self, m: usize, k: usize, n: usize) -> usize {
        shared_len(&SPREAD, &Plan::new::<E>(self.isa()), m, k, n)
    }

    /// [`Kernels::gemm`] over the threads of the current pool, at most one task per buffer in
    /// `scratch.tasks`, each of which has [`Kernels::gemm_scratch`] elements; `scratch.shared` has
    /// [`Kernels::gemm_shared_scratch`]. Few flops stay on the calling thread.
    ///
    /// The bits depend neither on the threads nor on the number of tasks. They are those of
    /// [`Kernels::gemm`], unless C has at most 131072 entries and k at least 8 blocks of kc: then k
    /// is cut into up to 16 parts, whose products are added in order. The error bound is the same.
    /// Inside a pool it allocates nothing.
    ///
    /// # Errors
    /// As [`Kernels::gemm`]; no scratch at all is too little. A product that stays on the calling
    /// thread looks at the first scratch alone.
    pub fn gemm_parallel(
        &self,
        write: Write,
        alpha: E,
        a: Mat<'_, E>,
        b: Mat<'_, E>,
        c: MatMut<'_, E>,
        scratch: ParallelScratch<'_, E>,
    ) -> Result<(), KernelError> {
        if let [first, ..] = &mut *scratch.tasks
            && a.rows().saturating_mul(a.cols()).saturating_mul(b.cols()) < SPREAD.task
            && a.cols() < SHORT
        {
            return self.gemm(write, alpha, a, b, c, first);
        }
        let plan = Plan::new::<E>(self.isa());
        self.gemm_parallel_planned(SPREAD, GemmProblem { plan, write, alpha, a, b }, c, scratch)
    }

    /// [`Kernels::gemm_parallel`] with sizes as told.
    pub(crate) fn gemm_parallel_planned(
        &self,
        how: Spread,
        problem: GemmProblem<'_, E>,
        c: MatMut<'_, E>,
        scratch: ParallelScratch<'_, E>,
    ) -> Result<(), KernelError> {
        let (plan, [m, k, n]) = (problem.plan, problem.sizes());
        let ParallelScratch { tasks: scratch, shared } = scratch;
        let work = m.saturating_mul(k).saturating_mul(n);
        if let [first, ..] = scratch
            && work < 2 * how.task
            && k_parts(&how, &plan, m, k, n) == 1
        {
            return self.gemm_planned(problem, c, first);
        }
        expect("gemm_parallel", "b rows", k, problem.b.rows())?;
        expect("gemm_parallel", "c rows", m, c.rows())?;
        expect("gemm_parallel", "c columns", n, c.cols())?;
        let needed = self.planned_scratch(&plan, m, k, n);
        let have = scratch.iter().map(Scratch::len).min().unwrap_or(0);
        if scratch.is_empty() || have < needed {
            return Err(KernelError::ScratchTooSmall { needed: needed.max(1), have });
        }
        let shared = shared.get(shared_len(&how, &plan, m, k, n))?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        // As in the product alone: where C has contiguous rows, its transpose is the product to
        // look at.
        let transpose = c.col_stride() != 1 && c.row_stride() == 1 && n > 1;
        let (job, c) = if transpose { (problem.t(), c.t()) } else { (problem, c) };
        let tasks = scratch.len().min(work / how.task.max(1)).max(1);
        let scratch = &mut scratch[..tasks];
        let parts = k_parts(&how, &plan, m, k, n);
        if parts > 1 {
            return self.long(&how, job, parts, c, scratch, shared);
        }
        let rows = c.col_stride() == 1 || c.cols() == 1;
        if tasks > 1 && work >= how.large && rows && job.packs()[1] && job.a.rows() >= how.rows * tasks {
            self.blocks_of_b(&how, job, c, scratch, shared);
            return Ok(());
        }
        self.grid(job, grid_shape(&job, tasks), c, scratch)
    }

    /// Parts of k, each a product of its own; the first goes into C, then the others in order.
    fn long(
        &self,
        how: &Spread,
        job: GemmProblem<'_, E>,
        parts: usize,
        mut c: MatMut<'_, E>,
        scratch: &mut [Scratch<E>],
        shared: &mut [E],
    ) -> Result<(), KernelError> {
        let [m, k, n] = job.sizes();
        let kc = job.plan.blocking.kc;
        let mut jobs = [const { None }; K_PARTS];
        let mut first = Some(c.rb());
        let mut rest = &mut shared[..];
        for (p, slot) in jobs.iter_mut().enumerate().take(parts) {
            let (p0, p1) = (border(k, kc, p, parts), border(k, kc, p + 1, parts));
            let (c, write) = match first.take() {
                Some(c) => (c, job.write),
                None => {
                    let (own, after) = std::mem::take(&mut rest).split_at_mut(m * n);
                    rest = after;
                    (MatMut::new(own, m, n)?, Write::Set)
                }
            };
            *slot = Some((GemmProblem { write, ..job.ks(p0, p1) }, c));
        }
        spread(&mut jobs[..parts], scratch, &|(x, c): (GemmProblem<'_, E>, MatMut<'_, E>), scratch| {
            let done = self.gemm_planned(x, c, scratch);
            assert!(done.is_ok(), "shapes and scratch were checked for all of k");
        });
        add_parts(c, &shared[..(parts - 1) * m * n], m * n, scratch.len(), how.solo);
        Ok(())
    }

    /// Blocks of C, `rows` times `cols` of them, each a product of its own.
    fn grid(
        &self,
        job: GemmProblem<'_, E>,
        [rows, cols]: [usize; 2],
        c: MatMut<'_, E>,
        scratch: &mut [Scratch<E>],
    ) -> Result<(), KernelError> {
        let [m, _, n] = job.sizes();
        if m == 0 || n == 0 {
            return Ok(());
        }
        if rows * cols == 1 {
            return self.gemm_planned(job, c, &mut scratch[0]);
        }
        let ([one, other], cut) = if rows > 1 {
            let left = rows / 2;
            let at = border(m, row_unit(self, m, rows), left, rows);
            let (c1, c2) = c.split_rows(at);
            let halves = [(job.rows(0, at), [left, cols], c1), (job.rows(at, m), [rows - left, cols], c2)];
            (halves, left * cols)
        } else {
            let left = cols / 2;
            let at = border(n, column_unit(n, cols), left, cols);
            let (c1, c2) = c.t().split_rows(at);
            let halves = [(job.cols(0, at), [1, left], c1.t()), (job.cols(at, n), [1, cols - left], c2.t())];
            (halves, left)
        };
        let (s1, s2) = scratch.split_at_mut(cut);
        let run = |(job, shape, c), s| self.grid(job, shape, c, s);
        let (one, other) = rayon::join(|| run(one, s1), || run(other, s2));
        one.and(other)
    }

    /// Block after block of B: all tasks pack it, then multiply rows of A by it.
    fn blocks_of_b(
        &self,
        how: &Spread,
        job: GemmProblem<'_, E>,
        mut c: MatMut<'_, E>,
        scratch: &mut [Scratch<E>],
        shared: &mut [E],
    ) {
        let [m, k, n] = job.sizes();
        let [pack_a, _] = job.packs();
        let Blocking { mc, kc, nc } = job.plan.blocking;
        // Where A is packed, each block of columns packs it again.
        let nc = if pack_a { job.plan.blocking.columns(true) } else { nc.min(COLUMNS) };
        let [depth, width] = shared_block(how, kc, nc, k, n);
        for j0 in (0..n).step_by(width) {
            let cols = width.min(n - j0);
            let blocking = Blocking { mc, kc, nc: even_columns(cols, nc) };
            let plan = Plan { blocking, pack: Some([pack_a, true]), ..job.plan };
            for p0 in (0..k).step_by(depth) {
                let p1 = k.min(p0 + depth);
                let write = if p0 == 0 { job.write } else { Write::Add };
                let part = GemmProblem { plan, write, ..job.cols(j0, j0 + cols).ks(p0, p1) };
                let panels = &mut shared[..(p1 - p0) * cols.next_multiple_of(MAX_LANES)];
                self.pack_blocks(how, &plan, part.b, panels, scratch.len());
                self.rows_by_panels(part, panels, c.rb().sub(0, m, j0, cols), scratch);
            }
        }
    }

    /// B into panels, block of columns after block, the blocks shared out among tasks.
    fn pack_blocks(&self, how: &Spread, plan: &Plan, b: Mat<'_, E>, panels: &mut [E], tasks: usize) {
        let (k, n, nc) = (b.rows(), b.cols(), plan.blocking.nc);
        let blocks = n.div_ceil(nc);
        if tasks == 1 || blocks == 1 || k * n < how.solo {
            for (block, panels) in panels.chunks_mut((k * nc.next_multiple_of(MAX_LANES)).max(1)).enumerate()
            {
                let j0 = block * nc;
                self.pack_into(plan, b.sub(0, k, j0, nc.min(n - j0)), panels);
            }
            return;
        }
        let (left, at) = (tasks / 2, border(n, nc, tasks / 2, tasks));
        let (p1, p2) = panels.split_at_mut(k * at);
        let (b1, b2) = (b.sub(0, k, 0, at), b.sub(0, k, at, n - at));
        rayon::join(
            || self.pack_blocks(how, plan, b1, p1, left),
            || self.pack_blocks(how, plan, b2, p2, tasks - left),
        );
    }

    /// Rows of C, cut between tasks.
    fn rows_by_panels(
        &self,
        job: GemmProblem<'_, E>,
        panels: &[E],
        c: MatMut<'_, E>,
        scratch: &mut [Scratch<E>],
    ) {
        let (m, tasks) = (job.a.rows(), scratch.len());
        if tasks == 1 {
            let memory = scratch[0].as_mut_slice();
            let GemmProblem { plan, write, alpha, a, .. } = job;
            return self.multiply_panels(PanelProblem { plan, write, alpha, a, panels }, c, memory);
        }
        let left = tasks / 2;
        let at = border(m, row_unit(self, m, tasks), left, tasks);
        let (c1, c2) = c.split_rows(at);
        let (s1, s2) = scratch.split_at_mut(left);
        rayon::join(
            || self.rows_by_panels(job.rows(0, at), panels, c1, s1),
            || self.rows_by_panels(job.rows(at, m), panels, c2, s2),
        );
    }
}

/// Adds the parts, each of `len` elements row by row, to C in order; rows are shared out among
/// tasks.
fn add_parts<E: Elem>(c: MatMut<'_, E>, parts: &[E], len: usize, tasks: usize, solo: usize) {
    fn rows<E: Elem>(mut c: MatMut<'_, E>, first: usize, parts: &[E], len: usize, tasks: usize, solo: usize) {
        let (m, n) = (c.rows(), c.cols());
        if tasks > 1 && m > 1 && m * n * (parts.len() / len) >= solo {
            let (left, at) = (tasks / 2, border(m, 1, tasks / 2, tasks));
            let (c1, c2) = c.split_rows(at);
            rayon::join(
                || rows(c1, first, parts, len, left, solo),
                || rows(c2, first + at, parts, len, tasks - left, solo),
            );
            return;
        }
        for i in 0..m {
            let at = (first + i) * n;
            for part in parts.chunks_exact(len) {
                let part = &part[at..at + n];
                if c.col_stride() == 1 || n == 1 {
                    c.row_mut(i).iter_mut().zip(part).for_each(|(c, x)| *c += *x);
                } else {
                    part.iter().enumerate().for_each(|(j, x)| c.set(i, j, c.at(i, j) + *x));
                }
            }
        }
    }
    rows(c, 0, parts, len, tasks, solo);
}

/// Rows at whose multiples C is cut: whole tiles where there are many.
fn row_unit<E: Elem>(k: &Kernels<E>, m: usize, parts: usize) -> usize {
    let tile = gemm_tile(k.isa());
    let tall = tile.mr[tile.nv - 1];
    if m >= 4 * tall * parts { tall } else { 1 }
}

/// Columns likewise.
fn column_unit(n: usize, parts: usize) -> usize {
    if n >= MAX_LANES * parts { MAX_LANES } else { 1 }
}

/// Multiply-adds that packing an element costs.
const PACKING: usize = 8;

/// Rows and columns of blocks: what keeps the largest block and what it packs smallest.
fn grid_shape<E: Elem>(job: &GemmProblem<'_, E>, tasks: usize) -> [usize; 2] {
    let ([m, k, n], [pack_a, pack_b]) = (job.sizes(), job.packs());
    let cost = |rows: usize| {
        let cols = tasks / rows;
        let (r, c) = (m.div_ceil(rows), n.div_ceil(cols).next_multiple_of(column_unit(n, cols)));
        let packs = PACKING * (usize::from(pack_a) * r + usize::from(pack_b) * c);
        k.saturating_mul(r.saturating_mul(c).saturating_add(packs))
    };
    let rows = (1..=tasks.min(m)).min_by_key(|r| cost(*r)).unwrap_or(1);
    [rows, (tasks / rows).min(n).max(1)]
}

/// Rows and columns of B that are packed at a time.
fn shared_block(how: &Spread, kc: usize, nc: usize, k: usize, n: usize) -> [usize; 2] {
    let width = n.min((how.shared / kc).max(1).next_multiple_of(nc));
    let depth = (how.shared / width.next_multiple_of(MAX_LANES) / kc).max(1) * kc;
    [depth.min(k), width]
}

/// Elements of shared memory: the parts of k that are added to the first, or panels of the problem
/// or its transpose.
pub(crate) fn shared_len(how: &Spread, plan: &Plan, m: usize, k: usize, n: usize) -> usize {
    if m == 0 || n == 0 {
        return 0;
    }
    let parts = k_parts(how, plan, m, k, n);
    if parts > 1 {
        return (parts - 1) * m * n;
    }
    let kc = plan.blocking.kc;
    let most = how.shared.saturating_add(kc * (plan.blocking.columns(true) + 2 * MAX_LANES));
    let padded = |n: usize| n.checked_next_multiple_of(MAX_LANES).unwrap_or(usize::MAX);
    let panels = |n: usize| k.saturating_mul(padded(n)).min(most);
    panels(m).max(panels(n))
}

#[cfg(test)]
mod tests;
